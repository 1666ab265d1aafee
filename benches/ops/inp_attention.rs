//! `inp_attention`: the base model's decoder attention over 28 x 28 tokens, one image forward, a batch of 16 both ways.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use inp_former::ops::inp_attention;
use inp_former::runtime::{Cpu, Tensor};

pub fn all(c: &mut Criterion) {
    let cpu = Cpu::new(None).unwrap();
    let full = |shape: &[usize]| Tensor::new(shape, vec![0.1f32; shape.iter().product()]);
    let scale = full(&[12, 1, 1]);
    let mut g = c.benchmark_group("inp_attention");
    g.sample_size(10);
    for batch in [1, 16] {
        let (q, kv) = (full(&[batch, 784, 768]), full(&[batch, 6, 1536]));
        g.throughput(Throughput::Elements(batch as u64 * 4 * 6 * 784 * 768));
        g.bench_function(format!("forward/{batch}x784x768"), |b| {
            b.iter(|| inp_attention::forward(&cpu, black_box(&q), &kv, &scale, 12).unwrap())
        });
    }
    let (q, kv, dout) = (full(&[16, 784, 768]), full(&[16, 6, 1536]), full(&[16, 784, 768]));
    let (_, saved) = inp_attention::forward(&cpu, &q, &kv, &scale, 12).unwrap();
    let mut ds = scale.zeros_like();
    g.throughput(Throughput::Elements(16 * 8 * 6 * 784 * 768));
    g.bench_function("backward/16x784x768", |b| {
        b.iter(|| {
            inp_attention::backward(&cpu, black_box(&dout), &q, &kv, &scale, &saved, &mut ds, 12).unwrap()
        })
    });
    g.finish();
}
