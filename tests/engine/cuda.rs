//! The CUDA engine against the CPU's: maps, prototypes and scores in every precision, the same bits in any batch.

mod whole;

use inp_former::data::image::{Limits, decode};
use inp_former::engine::{Options, Precision, Scorer, Verdict};
use inp_former::model::Model;
use inp_former::ops::preprocess::{ImageView, PixelFormat};
use inp_former::runtime::cuda::{Gpu, image::IMAGES};
use inp_former::runtime::{Cpu, DType, Device};

use crate::models::model;
use crate::support::{Checked, again, clean, correlation, golden, golden_input, gpu, gpu_with_kernels};

/// Largest difference from f32 of a map on the patch grid, relative to the largest value.
fn bound(dtype: DType) -> f32 {
    if dtype == DType::Bf16 { 8e-3 } else { 1e-3 }
}

fn options(dtype: DType, zero_shot: bool) -> Options {
    Options { precision: Precision::Of(dtype), zero_shot, ..Options::default() }
}

fn on_cpu(m: &Model, zero_shot: bool) -> Scorer {
    let cpu = Cpu::new(None).unwrap();
    let options = Options { precision: Precision::F32, zero_shot, ..Options::default() };
    Scorer::new(m.clone(), cpu, &options).unwrap()
}

#[track_caller]
fn like(checked: &mut Checked, what: &str, got: &[f32], want: &[f32], dtype: DType) {
    assert_eq!(got.len(), want.len(), "{what}");
    let top = want.iter().fold(0.0, |m, x| f32::max(m, x.abs()));
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, |m, x| if x <= m { m } else { x });
    let r = correlation(got, want);
    println!("{what}: {:.1e} of the largest value, correlation {r:.6}", worst / top);
    checked.within(what, worst.into(), (bound(dtype) * top).into());
    assert!(r >= 0.995, "{what}: correlation {r}");
}

fn compare(
    what: &str,
    got: &(Scorer, Verdict),
    want: &(Scorer, Verdict),
    checked: &mut Checked,
    dtype: DType,
) {
    for (g, (a, b)) in got.0.native_maps().unwrap().iter().zip(want.0.native_maps().unwrap()).enumerate() {
        like(checked, &format!("{what} group {g}"), a, b, dtype);
    }
    assert_eq!(got.0.native_maps().unwrap().len(), want.0.native_maps().unwrap().len());
    like(checked, &format!("{what} map"), &got.1.map, &want.1.map, dtype);
    checked.within(&format!("{what} score"), f64::from((got.1.score - want.1.score).abs()), 1e-3);
}

fn tensors_like_the_cpus(name: &str, dtypes: &[DType], kinds: &[bool]) {
    let gpu = gpu();
    let m = model(name);
    let x = m.config.crop;
    let input = golden_input(name, 1, x, x);
    for &zero_shot in kinds {
        let score = |mut s: Scorer| {
            let mut v = Verdict::default();
            s.score_tensor_into(&input.data, &mut v).unwrap();
            (s, v)
        };
        let want = score(on_cpu(&m, zero_shot));
        for &dtype in dtypes {
            let kind = if zero_shot { "zero-shot" } else { "trained" };
            let mut checked = Checked::new("engine", dtype.name(), format!("{name}, {kind}, the CPU's maps"));
            checked.ran("as chosen");
            let device = Device::Cuda(gpu.clone());
            let got = score(Scorer::new(m.clone(), device, &options(dtype, zero_shot)).unwrap());
            compare(&format!("{name} {} {kind}", dtype.name()), &got, &want, &mut checked, dtype);
        }
    }
    clean(&gpu);
}

#[test]
fn mini_is_like_the_cpus() {
    tensors_like_the_cpus("mini", &DType::ALL, &[false, true]);
}

#[test]
fn small_at_252_pixels_is_like_the_cpus() {
    tensors_like_the_cpus("small252", &DType::ALL, &[false]);
}

/// From a raw frame: preprocessing, patches, five a block, extractor, factors, bottleneck, three a block, maps.
#[test]
fn a_frame_takes_at_most_88_launches() {
    let mut s = Scorer::new(model("small252"), gpu(), &options(DType::Bf16, false)).unwrap();
    let pixels = vec![99; 640 * 480 * 3];
    let frame = ImageView::rgb(&pixels, 640, 480).unwrap();
    let n = s.launches(&frame, 1).unwrap().unwrap();
    println!("{n} launches");
    assert!(n <= 88, "{n} launches");
}

#[test]
fn base_at_98_pixels_is_like_the_cpus() {
    tensors_like_the_cpus("base98", &[DType::Bf16, DType::F16], &[false]);
}

#[test]
fn two_gpus_score_side_by_side() {
    let test = "engine::cuda::two_gpus_score_side_by_side";
    if IMAGES.is_empty() || !again(test, &[("INP_EMULATED_GPU", "a100,h100")]) {
        return;
    }
    let gpus = [Gpu::emulated().unwrap(), Gpu::open(1).unwrap()];
    let m = model("mini");
    let input = golden_input("mini", 1, 112, 112);
    let score = |mut s: Scorer| {
        let mut v = Verdict::default();
        s.score_tensor_into(&input.data, &mut v).unwrap();
        (s, v)
    };
    let want = score(on_cpu(&m, false));
    let free = || gpus.each_ref().map(|g| g.memory().unwrap().0);
    let before = free();
    let on = |gpu: &Gpu| score(Scorer::new(m.clone(), gpu.clone(), &options(DType::Bf16, false)).unwrap());
    let both: Vec<_> = std::thread::scope(|scope| {
        let runs = gpus.each_ref().map(|gpu| scope.spawn(|| on(gpu)));
        runs.into_iter().map(|r| r.join().unwrap()).collect()
    });
    for (gpu, got) in gpus.iter().zip(&both) {
        let mut checked = Checked::new("engine", "bf16", "mini, two GPUs at once, the CPU's maps");
        checked.ran("as chosen");
        compare(&format!("sm_{}", gpu.arch()), got, &want, &mut checked, DType::Bf16);
    }
    drop(both);
    assert_eq!(free(), before);
    let _held = on(&gpus[1]);
    let after = free();
    assert!(after[0] == before[0] && after[1] < before[1], "{before:?} {after:?}");
}

#[test]
fn batches_hand_on_each_picture_with_its_own_bits() {
    let Some(gpu) = gpu_with_kernels() else { return };
    let mut scorer = Scorer::new(model("mini"), gpu, &options(DType::Bf16, false)).unwrap();
    super::in_batches_of(&mut scorer, &[2, 5]);
}

#[test]
fn small_at_392_pixels_is_like_the_cpus() {
    tensors_like_the_cpus("small392", &[DType::Bf16, DType::F16], &[false]);
}

/// A camera's frame: resized and cropped on the device.
#[test]
fn frames_of_every_format_are_like_the_cpus() {
    let gpu = gpu();
    let m = model("mini");
    let dtype = DType::Bf16;
    let checked = &mut Checked::new("engine", dtype.name(), "frames of every format");
    let mut ours = Scorer::new(m.clone(), Device::Cuda(gpu), &options(dtype, false)).unwrap();
    let mut theirs = on_cpu(&m, false);
    let formats = [PixelFormat::Rgb8, PixelFormat::Bgr8, PixelFormat::Mono8, PixelFormat::Rgba8];
    for (format, (width, height)) in formats.into_iter().zip([(300, 220), (131, 517), (128, 128), (640, 127)])
    {
        let stride = width * format.bytes() + 5;
        let pixels: Vec<u8> = (0..height * stride).map(|i| (i * 7919 % 251) as u8).collect();
        let frame = ImageView::new(&pixels, width, height, stride, format).unwrap();
        let (mut a, mut b) = (Verdict::default(), Verdict::default());
        ours.score_into(&frame, &mut a).unwrap();
        theirs.score_into(&frame, &mut b).unwrap();
        like(checked, &format!("{format:?}"), &a.map, &b.map, dtype);
    }
    let Some(path) = golden("preprocess/a_300x220.png") else { return };
    let picture = decode(&path, &Limits::default()).unwrap();
    let frame = ImageView::rgb(&picture.rgb, 300, 220).unwrap();
    let (mut a, mut b) = (Verdict::default(), Verdict::default());
    ours.score_into(&frame, &mut a).unwrap();
    theirs.score_into(&frame, &mut b).unwrap();
    like(checked, "a_300x220.png", &a.map, &b.map, dtype);
}

#[test]
fn bits_do_not_depend_on_batch_position_or_run() {
    let gpu = gpu();
    let m = model("mini");
    let size = 3 * m.config.crop.pow(2);
    let crops: Vec<u8> = (0..33 * size).map(|i| (i * 7919 % 251) as u8).collect();
    for dtype in DType::ALL {
        let scorer = Scorer::new(m.clone(), Device::Cuda(gpu.clone()), &options(dtype, false)).unwrap();
        let run = |s: &mut Scorer, crops: &[u8]| {
            let mut v = vec![Verdict::default(); crops.len() / size];
            s.score_crops_into(crops, &mut v).unwrap();
            v
        };
        let want = run(&mut scorer.clone(), &crops);
        for b in [1, 2, 3, 7, 8] {
            let mut s = scorer.clone();
            for first in (0..33 - b).step_by(if b == 1 { 11 } else { b + 4 }) {
                let got = run(&mut s, &crops[first * size..(first + b) * size]);
                assert_eq!(got, want[first..first + b], "{b} from {first} in {}", dtype.name());
            }
        }
        assert_eq!(run(&mut scorer.clone(), &crops), want, "another run in {}", dtype.name());
    }
}
