//! `attention`: one block of ViT-S and of ViT-B at 392 px, one picture; on a GPU every variant, also of 32 pictures.

use half::bf16;
use inp_former::ops::attention::{self, Softmax, cuda};
use inp_former::runtime::simd::aligned::Aligned;
use inp_former::runtime::{Cpu, DType, Tensor};

use crate::gpu;
use crate::peak::{Work, cpus, time};
use crate::support::{close, random};

pub fn all(c: &mut criterion::Criterion) {
    let (t, d) = (789, 64);
    for heads in [6, 12] {
        let qkv = random("qkv", &[1, t, 3 * heads * d]);
        let case = format!("{t}x{heads}x{d}");
        let mut want = None;
        for cpu in cpus() {
            let want =
                want.get_or_insert_with(|| attention::forward(&cpu, &qkv.cast::<f64>(), heads).unwrap());
            close(&case, &attention::forward(&cpu, &qkv, heads).unwrap().data, &want.data, 1e-5);
            // Two products of (T, T, D) a head.
            time(c, "attention", &case, &cpu, Work::Flop(4.0 * (t * t * d * heads) as f64), || {
                attention::forward(&cpu, &qkv, heads).unwrap()
            });
            if cpu.has_bf16() {
                bf16_picture(c, &cpu, [t, heads, d], &qkv, &want.data);
            }
        }
    }
    on_gpu(c);
}

/// One picture of bf16 operands, as the engine has it.
fn bf16_picture(
    c: &mut criterion::Criterion,
    cpu: &Cpu,
    [t, heads, d]: [usize; 3],
    qkv: &Tensor,
    want: &[f64],
) {
    let channels = heads * d;
    let (mut x, mut y) = (Aligned::zeros(qkv.len()), vec![bf16::NAN; t * channels]);
    let by = (d as f32).powf(-0.5) * std::f32::consts::LOG2_E;
    for (i, (x, v)) in x.iter_mut().zip(&qkv.data).enumerate() {
        *x = bf16::from_f32(if i % (3 * channels) < channels { by * v } else { *v });
    }
    let (case, shape) = (format!("bf16/{t}x{heads}x{d}"), [t, channels, heads]);
    let mut scratch = attention::Scratch::new(cpu, t, channels, heads);
    let mut picture = || attention::picture(cpu, &x, shape, Softmax::Base2, 0, &mut scratch, &mut y);
    picture();
    time(c, "attention", &case, cpu, Work::Bf16(4.0 * (t * t * channels) as f64), picture);
    close(&case, &y.iter().map(|y| y.to_f32()).collect::<Vec<f32>>(), want, 3e-2);
}

/// Every variant of the kernels.
fn on_gpu(c: &mut criterion::Criterion) {
    let d = 64;
    let Some(gpu) = gpu::gpu() else { return };
    let real = [[1, 789, 6], [1, 789, 12], [32, 789, 12]];
    let shapes: &[[usize; 3]] = if gpu.is_emulated() { &[[1, 197, 1]] } else { &real };
    for (&[batch, tokens, heads], dtype) in shapes.iter().flat_map(|s| DType::ALL.map(|d| (s, d))) {
        let s = cuda::Shape { batch, tokens, heads };
        let values = random("qkv", &[batch, tokens, 3 * heads * d]);
        let qkv = gpu.upload(&dtype.encode(&values.data)).unwrap();
        let out = gpu.uninit(qkv.len() / 3).unwrap();
        for v in cuda::variants(dtype) {
            let case = format!("{batch}x{tokens}x{heads}x{d}/{}/{}", dtype.name(), v.name);
            let work = Work::Flop(4.0 * (batch * tokens * tokens * d * heads) as f64);
            gpu::time(c, "attention", &case, gpu, work, |stream| {
                cuda::forward(stream, dtype, v.name, &out, &qkv, &s).unwrap();
            });
        }
    }
}
