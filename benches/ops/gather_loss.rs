//! `gather_loss`: six prototypes of the base model, one image forward, a training batch both ways.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use inp_former::ops::gather_loss;
use inp_former::runtime::{Cpu, Tensor};

pub fn all(c: &mut Criterion) {
    let cpu = Cpu::new(None).unwrap();
    let full = |shape: &[usize]| Tensor::new(shape, vec![0.1f32; shape.iter().product()]);
    let mut g = c.benchmark_group("gather_loss");
    g.sample_size(10);
    for batch in [1, 16] {
        let (f, inp) = (full(&[batch, 784, 768]), full(&[batch, 6, 768]));
        g.throughput(Throughput::Bytes(4 * batch as u64 * 784 * 768));
        g.bench_function(format!("forward/{batch}x784x768"), |b| {
            b.iter(|| gather_loss::forward(&cpu, black_box(&f), &inp).unwrap())
        });
    }
    let (f, inp) = (full(&[16, 784, 768]), full(&[16, 6, 768]));
    let saved = gather_loss::forward(&cpu, &f, &inp).unwrap();
    g.bench_function("backward/16x784x768", |b| {
        b.iter(|| gather_loss::backward(&cpu, black_box(&f), &inp, &saved, 0.2).unwrap())
    });
    g.finish();
}
