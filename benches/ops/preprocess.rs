//! `preprocess`.

use std::time::Duration;

use inp_former::ops::preprocess::{Cropper, ImageView, crop_u8, cuda, normalise_into, resize};
use inp_former::runtime::Cpu;

use crate::gpu;
use crate::peak::Work;

pub fn all(c: &mut criterion::Criterion) {
    let pixels: Vec<u8> =
        (0..1024 * 1024 * 3u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let frame = ImageView::rgb(&pixels, 1024, 1024).expect("the buffer holds the frame");
    let mut group = c.benchmark_group("preprocess");
    group.sample_size(10).measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(200));
    group.throughput(criterion::Throughput::Bytes(pixels.len() as u64));
    for threads in [1, 2] {
        let cpu = Cpu::new(Some(threads)).expect("threads start");
        let whole = resize(&cpu, &pixels, 1024, 1024, 3, 448, 448);
        for (name, crop, o) in [("1024 to 448", 448, 0), ("1024 to 448, crop 392", 392, 28)] {
            let mut cropper = Cropper::new(448, crop).expect("the crop fits");
            let mut out = vec![0; crop * crop * 3];
            cropper.run(&cpu, &frame, &mut out).expect("the buffer fits");
            assert!(
                out[..3 * crop].iter().zip(&whole[(o * 448 + o) * 3..]).all(|(a, b)| a == b),
                "wrong answer"
            );
            group.bench_function(format!("{name}, {threads} threads"), |b| {
                b.iter(|| cropper.run(&cpu, &frame, &mut out).expect("the buffer fits"))
            });
        }
    }
    let (crop, mut out) = (vec![7; 392 * 392 * 3], vec![0.0; 392 * 392 * 3]);
    group.throughput(criterion::Throughput::Bytes(5 * crop.len() as u64));
    group.bench_function("normalise 392", |b| b.iter(|| normalise_into(&crop, &mut out)));
    group.finish();
    let Some(gpu) = gpu::gpu() else { return };
    let side = if gpu.is_emulated() { 64 } else { 1024 };
    let (resize, crop) = if gpu.is_emulated() { (32, 28) } else { (448, 392) };
    let frame = ImageView::rgb(&pixels[..3 * side * side], side, side).expect("the buffer holds the frame");
    let shape = cuda::Frame::of(&frame);
    let mut cropper = cuda::Cropper::new(gpu, resize, crop).unwrap();
    cropper.prepare(&shape, 1).unwrap();
    let frames = gpu.upload(&pixels[..shape.spacing()]).unwrap();
    let out = gpu.zeros::<u8>(3 * crop * crop).unwrap();
    cropper.run(&gpu.stream(), &out, &frames).unwrap();
    let want = crop_u8(&Cpu::new(Some(1)).expect("threads start"), &frame, resize, crop).unwrap();
    assert!(out.download(&gpu.stream()).unwrap() == want, "wrong answer");
    let work = Work::Bytes((3 * (side * side + crop * crop)) as f64);
    gpu::time(c, "preprocess", &format!("{side} to {resize}, crop {crop}"), gpu, work, |s| {
        cropper.run(s, &out, &frames).unwrap();
    });
}
