//! `optimizer`: one step and one norm of a (3072, 768) weight, the base model's largest.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use inp_former::ops::optimizer::{self, Hyper, State};
use inp_former::runtime::{Cpu, Tensor};

pub fn all(c: &mut Criterion) {
    let cpu = Cpu::new(None).unwrap();
    let len = 3072 * 768;
    let grad = Tensor::new(&[3072, 768], vec![1e-3f32; len]);
    let (mut p, mut state) = (grad.clone(), State::new(&grad));
    let mut g = c.benchmark_group("optimizer");
    // Read: gradient, three states twice over, parameter; written: three states, parameter.
    g.sample_size(10).throughput(Throughput::Bytes(10 * 4 * len as u64));
    g.bench_function("step/3072x768", |b| {
        b.iter(|| {
            optimizer::step(&cpu, &mut p, black_box(&grad), &mut state, 1e-3, 10, &Hyper::default()).unwrap()
        })
    });
    g.throughput(Throughput::Bytes(4 * len as u64));
    g.bench_function("global_norm/3072x768", |b| {
        b.iter(|| optimizer::global_norm(&cpu, black_box(&[&grad])))
    });
    g.finish();
}
