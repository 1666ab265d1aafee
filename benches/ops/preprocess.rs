//! `preprocess`.

use std::time::Duration;

use inp_former::ops::preprocess::{Cropper, ImageView, normalise_into, resize};
use inp_former::runtime::Cpu;

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
}
