//! `anomaly_map`: from two groups on 28 x 28 patches to the pixel map, and the score.

use std::hint::black_box;

use criterion::Criterion;
use inp_former::ops::anomaly_map;
use inp_former::runtime::{Cpu, Tensor};

pub fn all(c: &mut Criterion) {
    let cpu = Cpu::new(None).unwrap();
    let wave: Vec<f32> = (0..784).map(|i| (i as f32).sin()).collect();
    let maps = vec![Tensor::new(&[1, 784], wave); 2];
    let mut g = c.benchmark_group("anomaly_map");
    g.sample_size(10);
    g.bench_function("post/28_392_256", |b| {
        b.iter(|| anomaly_map::post(&cpu, black_box(&maps), 28, 392).unwrap())
    });
    let map = anomaly_map::post(&cpu, &maps, 28, 392).unwrap().gauss;
    g.bench_function("score/256x256", |b| b.iter(|| anomaly_map::score(black_box(&map.data), 0.01).unwrap()));
    g.finish();
}
