//! `cosine_loss`: one group of the base model, the scored distance of one image and a training batch both ways.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use inp_former::ops::cosine_loss;
use inp_former::runtime::{Cpu, Tensor};

pub fn all(c: &mut Criterion) {
    let cpu = Cpu::new(None).unwrap();
    let full = |batch: usize, x: f32| Tensor::new(&[batch, 784, 768], vec![x; batch * 784 * 768]);
    let bytes = |arrays: u64, batch: u64| Throughput::Bytes(arrays * 4 * batch * 784 * 768);
    let mut g = c.benchmark_group("cosine_loss");
    g.sample_size(10);
    let (a, d) = (full(1, 0.5), full(1, 0.25));
    g.throughput(bytes(2, 1));
    g.bench_function("distance/1x784x768", |b| {
        b.iter(|| cosine_loss::distance(&cpu, black_box(&a), &d).unwrap())
    });
    let (a, d) = (full(16, 0.5), full(16, 0.25));
    g.throughput(bytes(2, 16));
    g.bench_function("forward/16x784x768", |b| {
        b.iter(|| cosine_loss::forward(&cpu, black_box(&a), &d).unwrap())
    });
    let saved = cosine_loss::forward(&cpu, &a, &d).unwrap();
    g.throughput(bytes(3, 16));
    g.bench_function("backward/16x784x768", |b| {
        b.iter(|| cosine_loss::backward(&cpu, black_box(&a), &d, &saved, 0.5).unwrap())
    });
    g.finish();
}
