//! All seven metrics on 100 maps of 256x256, checked once against what the construction implies.

use criterion::{Criterion, Throughput};
use inp_former::eval::metrics::{Mode, image_metrics, pixel_metrics};
use inp_former::runtime::Cpu;

const N: usize = 100;
const SIDE: usize = 256;

/// Smooth noise with a brighter disc in two thirds of the images (about 2 % of all pixels).
fn case() -> (Vec<f32>, Vec<u8>) {
    let mut state = 1u64;
    let mut noise = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let (mut maps, mut masks) = (Vec::new(), Vec::new());
    for i in 0..N {
        let (cx, cy, r) = (40 + i * 2 % 170, 60 + i * 3 % 150, if i % 3 == 0 { 0 } else { 26 });
        for p in 0..SIDE * SIDE {
            let (dx, dy) = ((p % SIDE).abs_diff(cx), (p / SIDE).abs_diff(cy));
            let inside = dx * dx + dy * dy < r * r;
            let wave = ((p % SIDE) as f32 / 31.0).sin() * ((p / SIDE) as f32 / 23.0).cos();
            maps.push(0.05 + 0.03 * wave + 0.04 * noise() + if inside { 0.06 * noise() } else { 0.0 });
            masks.push(inside as u8);
        }
    }
    (maps, masks)
}

pub fn all(c: &mut Criterion) {
    let (maps, masks) = case();
    let images = || maps.chunks_exact(SIDE * SIDE).zip(masks.chunks_exact(SIDE * SIDE));
    let scores: Vec<f32> = images().map(|(map, _)| map.iter().fold(0.0, |m, x| x.max(m))).collect();
    let labels: Vec<bool> = images().map(|(_, mask)| mask.contains(&1)).collect();
    let mut group = c.benchmark_group("metrics");
    group.sample_size(10).throughput(Throughput::Elements(maps.len() as u64));
    for threads in [1, 2] {
        let cpu = Cpu::new(Some(threads)).unwrap();
        for mode in [Mode::Exact, Mode::Official] {
            let run = || {
                let pixel = pixel_metrics(&cpu, &maps, &masks, N, SIDE, mode).unwrap();
                (image_metrics(&scores, &labels).unwrap(), pixel)
            };
            assert!(run().1.auroc.is_some_and(|a| a > 0.7 && a < 1.0));
            group.bench_function(format!("100x256x256/{mode:?}/threads={threads}"), |b| b.iter(run));
        }
    }
    group.finish();
}
