//! Whole passes: against the published code's own maps, and of the large models against the CPU's.

use inp_former::engine::{Scorer, Verdict};
use inp_former::model::Model;
use inp_former::runtime::{DType, Types};

use super::{like, options, tensors_like_the_cpus};
use crate::models::model;
use crate::support::*;

fn against_golden(name: &str, file: &str, batch: usize, dtypes: Vec<DType>) {
    let Some(path) = golden(file) else { return };
    let (want, m, device) = (read_f32(&path), model(name), gpu());
    let x = m.config.crop;
    let pictures = golden_input(name, batch, x, x);
    for dtype in dtypes {
        let mut checked = Checked::new("engine", dtype.name(), format!("{name}, published maps"));
        checked.ran("as chosen");
        let mut s = Scorer::new(m.clone(), device.clone(), &options(dtype, false)).unwrap();
        for i in 0..batch {
            let what = |map: &str| format!("{file} {} picture {i} {map}", dtype.name());
            let mut v = Verdict::default();
            s.score_tensor_into(pictures.slab(i), &mut v).unwrap();
            for (g, map) in s.native_maps().unwrap().iter().enumerate() {
                let key = format!("amap_native{g}");
                like(&mut checked, &what(&key), map, want[&key].slab(i), dtype);
            }
            like(&mut checked, &what("map"), &v.map, want["amap_256_gauss"].slab(i), dtype);
            let score = want["score_top1pct"].data[i];
            checked.within(&what("score"), f64::from((v.score - score).abs()), 1e-3);
        }
    }
    clean(&device);
}

#[test]
fn mini_gives_the_published_maps() {
    against_golden("mini", "mini/forward.safetensors", 2, DType::ALL.into());
}

#[test]
fn small_at_252_pixels_gives_the_published_maps() {
    against_golden("small252", "small252/outputs.safetensors", 1, dtypes(0));
}

#[test]
fn weights_that_f16_does_not_hold_stay_in_bf16() {
    let operands = |dtype, w: &[f32]| Types::finest(dtype, &[&[0.1, 0.3], w]).operands;
    assert_eq!(operands(DType::Bf16, &[0.7, 1e-3]), DType::F16);
    assert_eq!(operands(DType::Tf32, &[0.7, 1e-3]), DType::Tf32);
    for beyond in [[0.7, 7e4], [3e-8, 1.7e-7], [0.7, f32::NAN]] {
        assert_eq!(operands(DType::Bf16, &beyond), DType::Bf16, "{beyond:?}");
    }
    // Values so much larger or smaller, and taken back behind them: the same function, in numbers that f16 lacks.
    let (plain, device) = (model("mini"), gpu());
    let (x, c) = (plain.config.crop, plain.config.channels);
    let picture = golden_input("mini", 1, x, x);
    let maps = |m: &Model| {
        let mut s = Scorer::new(m.clone(), device.clone(), &options(DType::Bf16, false)).unwrap();
        s.score_tensor_into(&picture.data, &mut Verdict::default()).unwrap();
        s.native_maps().unwrap().concat()
    };
    let want = maps(&plain);
    for by in [(2f32).powi(20), (2f32).powi(-30)] {
        let mut m = plain.clone();
        let t = m.trained.as_mut().unwrap();
        let extractor = (&mut t.extractor.kv, &mut t.extractor.proj);
        for (kv, proj) in t.decoder.iter_mut().map(|b| (&mut b.kv, &mut b.proj)).chain([extractor]) {
            kv.w.data[c * c..].iter_mut().for_each(|x| *x *= by);
            kv.b.data[c..].iter_mut().for_each(|x| *x *= by);
            proj.w.data.iter_mut().for_each(|x| *x /= by);
        }
        let mut checked = Checked::new("engine", "bf16", format!("mini, values times {by:e}"));
        like(&mut checked, &format!("values times {by:e}"), &maps(&m), &want, DType::Bf16);
    }
    clean(&device);
}

/// The emulator takes minutes for these.
#[test]
fn base_at_392_pixels_and_large_are_like_the_cpus() {
    if !full() {
        return println!("SKIPPED: ViT-B at 392 pixels and ViT-L, which tools/check.sh --full runs");
    }
    tensors_like_the_cpus("base392", &[DType::Bf16, DType::F16], &[false]);
    tensors_like_the_cpus("base98", &[DType::Tf32], &[false]);
    // What the checkers remember of its weights in tf32 takes more memory than most machines have.
    tensors_like_the_cpus("large112", &[DType::Bf16, DType::F16], &[false]);
}
