//! The folded engine against the plain model.

mod bf16;
mod cuda;
mod int8;

use inp_former::data::image::{Limits, decode};
use inp_former::engine::score::Scored;
use inp_former::engine::{Options, Precision, Scorer, Verdict};
use inp_former::model::{Model, encoder, inp_former as net};
use inp_former::ops::preprocess::{ImageView, crop_u8, normalise};
use inp_former::runtime::{Cpu, Tensor};
use inp_former::{Error, Result};

use crate::models::{self, model};
use crate::support::{close, cpus, full, golden, golden_input};

fn scorer(m: &Model, cpu: &Cpu, zero_shot: bool) -> Scorer {
    let options = Options { zero_shot, precision: Precision::F32, ..Options::default() };
    Scorer::new(m.clone(), cpu.clone(), &options).unwrap()
}

fn plain(m: &Model, cpu: &Cpu, input: &Tensor, zero_shot: bool) -> Tensor {
    net::maps(cpu, m, input, zero_shot, &mut |_, _| {}).unwrap().gauss
}

#[test]
fn maps_equal_the_plain_models() {
    for name in ["tiny", "tiny518", "mini", "small252"] {
        let m = model(name);
        let x = m.config.crop;
        let input = golden_input(name, 1, x, x);
        for cpu in cpus() {
            for zero_shot in [false, true] {
                let want = plain(&m, &cpu, &input, zero_shot);
                let mut v = Verdict::default();
                scorer(&m, &cpu, zero_shot).score_tensor_into(&input.data, &mut v).unwrap();
                let what = format!("{name} {} {} zero-shot {zero_shot}", cpu.tier().name(), cpu.threads());
                close(&what, &v.map, &want.data, 1e-4);
            }
        }
    }
}

/// Every map of an 8-bit frame: each group's on the patch grid, the prototypes' distances, the pixel map.
fn frame_equals_the_plain_model(what: &str, frame: &ImageView) {
    let cpu = Cpu::new(None).unwrap();
    for name in ["tiny", "mini", "small252"] {
        let m = model(name);
        let (resize, x) = (m.config.resize, m.config.crop);
        let input = normalise(&crop_u8(&cpu, frame, resize, x).unwrap(), x, x).reshaped(&[1, 3, x, x]);
        let features = encoder::forward(&cpu, &m.encoder, &m.config, &input, &mut |_, _| {}).unwrap();
        for zero_shot in [false, true] {
            let what = format!("{what} {name} zero-shot {zero_shot}");
            let mut scorer = scorer(&m, &cpu, zero_shot);
            let mut v = Verdict::default();
            scorer.score_into(frame, &mut v).unwrap();
            close(&what, &v.map, &plain(&m, &cpu, &input, zero_shot).data, 1e-4);
            let trained = m.trained().unwrap();
            let head = net::forward(&cpu, trained, &m.config, &features, zero_shot, &mut |_, _| {}).unwrap();
            let native = net::native_maps(&cpu, &features, &head).unwrap();
            assert_eq!(native.len(), scorer.native_maps().unwrap().len());
            for (g, (got, want)) in scorer.native_maps().unwrap().iter().zip(&native).enumerate() {
                close(&format!("{what} group {g}"), got, &want.data, 1e-4);
            }
            close(&format!("{what} prototypes"), scorer.prototypes().unwrap(), &head.inp.data, 1e-4);
        }
    }
}

#[test]
fn a_frame_equals_the_plain_model_on_its_crop() {
    for (width, height, file) in [(300, 220, "a_300x220.png"), (517, 640, "b_517x640.jpg")] {
        let Some(path) = golden(&format!("preprocess/{file}")) else { continue };
        let picture = decode(&path, &Limits::default()).unwrap();
        let frame = ImageView::rgb(&picture.rgb, width, height).unwrap();
        frame_equals_the_plain_model(file, &frame);
    }
}

/// The same JPEG as Pillow decodes it.
#[test]
fn a_frame_of_pillows_equals_the_plain_model() {
    let Some(path) = golden("preprocess/b_decoded.safetensors") else { return };
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (_, pixels) = file.tensors().into_iter().find(|(_, t)| t.shape() == [640, 517, 3]).unwrap();
    frame_equals_the_plain_model("b_decoded", &ImageView::rgb(pixels.data(), 517, 640).unwrap());
}

/// Clones have buffers of their own and the weights together; they run on other threads with the same results.
#[test]
fn clones_share_the_weights() {
    let m = model("mini");
    let mut first = scorer(&m, &Cpu::new(Some(2)).unwrap(), false);
    let input = golden_input("mini", 1, 112, 112);
    let score = |s: &mut Scorer| {
        let mut v = Verdict::default();
        s.score_tensor_into(&input.data, &mut v).unwrap();
        v
    };
    let want = score(&mut first);
    assert_eq!(first.sharing(), 1);
    let mut others = vec![first.clone(), first.clone()];
    assert_eq!((first.sharing(), others[1].sharing()), (3, 3));
    std::thread::scope(|scope| {
        let runs: Vec<_> = others.iter_mut().map(|s| scope.spawn(|| score(s))).collect();
        assert_eq!(score(&mut first), want);
        runs.into_iter().for_each(|r| assert_eq!(r.join().unwrap(), want));
    });
    drop(others);
    assert_eq!(first.sharing(), 1);
}

/// DINOv2's massive activations: rows whose mean is ten deviations, a few channels of the stream `times` the others.
fn with_outliers(name: &str, times: f32) -> Model {
    let mut file = models::file(&models::config(name));
    let mut change = |name: &str, f: &dyn Fn(usize, f32) -> f32| {
        let t = file.tensors.get_mut(name).unwrap();
        let mut x = t.to_f32().unwrap();
        x.data.iter_mut().enumerate().for_each(|(i, v)| *v = f(i, *v));
        *t = inp_former::runtime::weights::RawTensor::from_f32(&x);
    };
    change("encoder.patch_embed.proj.bias", &|_, x| x + 10.0);
    for l in 1..3 {
        change(&format!("encoder.blocks.{l}.ls2.gamma"), &|i, x| if i % 50 == 7 { times * x } else { x });
    }
    Model::load(file).unwrap()
}

/// Sizes whose outliers are tried: S and B whole in a full run, else S on few patches.
fn outlier_models() -> &'static [&'static str] {
    if full() { &["mini", "small392", "base392"] } else { &["mini", "small112"] }
}

/// Against f64 the folds may not be worse than the plain path by more than twice.
#[test]
fn folds_bear_realistic_outliers() {
    let m = with_outliers("mini", 300.0);
    let cpu = Cpu::new(Some(1)).unwrap();
    let input = golden_input("mini", 1, 112, 112);
    let exact = models::maps64(&m, &input);
    let worst = |map: &[f32]| map.iter().zip(&exact).map(|(a, b)| (*a as f64 - b).abs()).fold(0.0, f64::max);
    let mut v = Verdict::default();
    scorer(&m, &cpu, false).score_tensor_into(&input.data, &mut v).unwrap();
    let (ours, theirs) = (worst(&v.map), worst(&plain(&m, &cpu, &input, false).data));
    assert!(ours <= 2.0 * theirs + 1e-6, "folded {ours:.2e}, plain {theirs:.2e}");
}

/// Nine pictures, two that could not be loaded among them, through [`Scorer::batches`] against each alone.
fn in_batches_of(scorer: &mut Scorer, sizes: &[usize]) {
    let size = 3 * scorer.config().crop.pow(2);
    let crops: Vec<u8> = (0..9 * size).map(|i| (i * 7919 % 251) as u8).collect();
    let crops: Vec<&[u8]> = crops.chunks_exact(size).collect();
    let missing = |i: usize| i == 4 || i == 8;
    let alone: Vec<Verdict> = (0..9)
        .map(|i| {
            let mut v = Verdict::default();
            scorer.score_crops_into(crops[i], std::slice::from_mut(&mut v)).unwrap();
            v
        })
        .collect();
    for &at_once in sizes {
        let mut seen = 0;
        let mut batches = scorer.batches(at_once, |i, scored: Result<Scored<usize>>| {
            assert_eq!(i, seen);
            seen += 1;
            match scored {
                Ok(s) => {
                    assert!(s.with == i && s.ms > 0.0);
                    assert!(s.verdict == alone[i], "picture {i} of {at_once} at once");
                }
                Err(e) => assert!(missing(i) && e.to_string() == format!("no picture {i}")),
            }
            Ok(())
        });
        for (i, crop) in crops.iter().enumerate() {
            let loaded = match missing(i) {
                true => Err(Error::usage(format!("no picture {i}"))),
                false => Ok((i, crop.to_vec())),
            };
            batches.push(loaded).unwrap();
        }
        batches.finish().unwrap();
        assert_eq!(seen, 9, "{at_once} at once");
    }
    // What is left under way when a caller gives up does not come out of the next call.
    let mut given_up = scorer.batches(2, |_, _: Result<Scored<()>>| Err(Error::usage("enough")));
    let pushed = (0..8).find_map(|i| given_up.push(Ok(((), crops[i].to_vec()))).err());
    assert_eq!(pushed.unwrap().to_string(), "enough");
    let mut v = Verdict::default();
    scorer.score_crops_into(crops[3], std::slice::from_mut(&mut v)).unwrap();
    assert!(v == alone[3]);
    let mut batches = scorer.batches(2, |_, _: Result<Scored<()>>| Ok(()));
    let e = batches.push(Ok(((), vec![0; 7]))).unwrap_err().to_string();
    assert!(e.contains("7 bytes are not a crop"), "{e}");
}

#[test]
fn batches_hand_on_each_picture_with_its_own_bits() {
    in_batches_of(&mut scorer(&model("tiny"), &Cpu::new(Some(2)).unwrap(), false), &[1, 3]);
}

#[test]
fn bits_do_not_depend_on_batch_threads_or_run() {
    let m = model("tiny");
    let x = m.config.crop;
    let crops: Vec<u8> = (0..8 * x * x * 3).map(|i| (i * 7919 % 251) as u8).collect();
    for pair in cpus().chunks(2) {
        let run = |cpu: &Cpu, crops: &[u8]| {
            let mut v = vec![Verdict::default(); crops.len() / (x * x * 3)];
            scorer(&m, cpu, false).score_crops_into(crops, &mut v).unwrap();
            v
        };
        let (one, two) = (run(&pair[0], &crops), run(&pair[1], &crops));
        assert_eq!(one, two, "1 and 2 threads differ on {}", pair[0].tier().name());
        for i in [0, 3, 7] {
            let alone = run(&pair[1], &crops[i * x * x * 3..(i + 1) * x * x * 3]);
            assert_eq!(alone[0], one[i], "position {i} on {}", pair[0].tier().name());
        }
    }
}
