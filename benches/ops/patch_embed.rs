//! `patch_embed`: the base model's first layer at 392 px and its position embedding from 37 x 37.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use inp_former::ops::patch_embed;
use inp_former::runtime::{Cpu, Tensor};

pub fn all(c: &mut Criterion) {
    let cpu = Cpu::new(None).unwrap();
    let full = |shape: &[usize]| Tensor::new(shape, vec![0.5f32; shape.iter().product()]);
    let (img, w, bias) = (full(&[1, 3, 392, 392]), full(&[768, 3, 14, 14]), full(&[768]));
    let mut g = c.benchmark_group("patch_embed");
    g.sample_size(10).throughput(Throughput::Elements(2 * 784 * 588 * 768));
    g.bench_function("forward/392px_768", |b| {
        b.iter(|| patch_embed::forward(&cpu, black_box(&img), &w, &bias).unwrap())
    });
    let pos = full(&[1, 1370, 768]);
    g.throughput(Throughput::Elements(2 * 16 * 784 * 768));
    g.bench_function("pos_embed/28x28_768", |b| {
        b.iter(|| patch_embed::pos_embed(&cpu, black_box(&pos), (28, 28)).unwrap())
    });
    g.finish();
}
