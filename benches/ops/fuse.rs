//! `fuse`: mean of the base model's eight target layers, one image at 392 px.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use inp_former::ops::fuse;
use inp_former::runtime::{Cpu, Tensor};

pub fn all(c: &mut Criterion) {
    let cpu = Cpu::new(None).unwrap();
    let parts = vec![Tensor::new(&[1, 784, 768], vec![0.5f32; 784 * 768]); 8];
    let refs: Vec<_> = parts.iter().collect();
    let mut g = c.benchmark_group("fuse");
    g.sample_size(10).throughput(Throughput::Bytes(9 * 4 * 784 * 768));
    g.bench_function("mean/8x784x768", |b| b.iter(|| fuse::mean(&cpu, black_box(&refs)).unwrap()));
    g.finish();
}
