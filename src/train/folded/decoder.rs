//! A decoder block in low-rank form; the plain one is `model::decoder`.

use crate::error::Result;
use crate::model::TRAINED_EPS;
use crate::model::params::DecoderBlock;
use crate::ops::inp_coefficients::train as coefficients;
use crate::ops::inp_decode::train as decode;
use crate::ops::inp_factors::train as factors;
use crate::ops::{fuse, layernorm, linear};
use crate::runtime::{Cpu, Elem, Tensor};

/// What the backward needs of the forward.
pub struct Saved<E: Elem> {
    /// The input, which is the output of the block before.
    pub(super) x: Tensor<E>,
    norm_x: Tensor<E>,
    stats_x: layernorm::Stats<E>,
    norm_i: Tensor<E>,
    stats_i: layernorm::Stats<E>,
    q: Tensor<E>,
    kv: Tensor<E>,
    a: Tensor<E>,
    lengths: coefficients::Saved<E>,
    factors: factors::Factors<E>,
    mlp: decode::Saved<E>,
}

/// x `(B, N, C)`, I `(B, P, C)` → `(B, N, C)`.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    p: &DecoderBlock<E>,
    x: Tensor<E>,
    inp: &Tensor<E>,
    heads: usize,
) -> Result<(Tensor<E>, Saved<E>)> {
    let (norm_x, stats_x) = layernorm::forward(cpu, &x, &p.norm1.gain, &p.norm1.bias, TRAINED_EPS)?;
    let (norm_i, stats_i) = layernorm::forward(cpu, inp, &p.norm1.gain, &p.norm1.bias, TRAINED_EPS)?;
    let q = linear::forward(cpu, &norm_x, &p.q.w, Some(&p.q.b))?;
    let kv = linear::forward(cpu, &norm_i, &p.kv.w, Some(&p.kv.b))?;
    let (a, lengths) = coefficients::forward(cpu, &q, &kv, &p.scale, heads, true)?;
    let (proj, norm2, fc1, fc2) = (&p.proj, &p.norm2, &p.mlp.fc1, &p.mlp.fc2);
    let factors = factors::forward(cpu, &kv, [&proj.w, &proj.b], [&norm2.gain, &norm2.bias], &fc1.w, heads)?;
    let (y, mlp) = decode::forward(cpu, &a, &factors, &fc1.b, &fc2.w, &fc2.b, TRAINED_EPS)?;
    Ok((y, Saved { x, norm_x, stats_x, norm_i, stats_i, q, kv, a, lengths, factors, mlp }))
}

/// dy `(B, N, C)` → dx `(B, N, C)`; `dinp += …` `(B, P, C)`; parameter gradients are added to `d`.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Elem>(
    cpu: &Cpu,
    p: &DecoderBlock<E>,
    inp: &Tensor<E>,
    s: Saved<E>,
    dy: &Tensor<E>,
    dinp: &mut Tensor<E>,
    d: &mut DecoderBlock<E>,
    heads: usize,
) -> Result<Tensor<E>> {
    let (fc1, fc2) = (&mut d.mlp.fc1, &mut d.mlp.fc2);
    let (w2, f) = (&p.mlp.fc2.w, &s.factors);
    let (da, df) = decode::backward(cpu, dy, &s.a, f, w2, s.mlp, &mut fc1.b, &mut fc2.w, &mut fc2.b)?;
    let mut dkv = s.kv.zeros_like();
    let (proj, norm2) = (&mut d.proj, &mut d.norm2);
    factors::backward(
        cpu,
        df,
        f,
        &s.kv,
        &p.proj.w,
        &p.norm2.gain,
        &p.mlp.fc1.w,
        &mut dkv,
        [&mut proj.w, &mut proj.b],
        [&mut norm2.gain, &mut norm2.bias],
        &mut fc1.w,
        heads,
    )?;
    let dq =
        coefficients::backward(cpu, &da, &s.a, &s.q, &s.kv, &p.scale, &s.lengths, &mut d.scale, &mut dkv)?;
    let dnorm_i = linear::backward(cpu, &dkv, &s.norm_i, &p.kv.w, &mut d.kv.w, Some(&mut d.kv.b), true)?;
    let dnorm_x = linear::backward(cpu, &dq, &s.norm_x, &p.q.w, &mut d.q.w, Some(&mut d.q.b), true)?;
    let (dnorm_i, dnorm_x) = (dnorm_i.expect("asked for"), dnorm_x.expect("asked for"));
    let (g, n1) = (&p.norm1.gain, &mut d.norm1);
    let di = layernorm::backward(cpu, &dnorm_i, inp, g, &s.stats_i, &mut n1.gain, &mut n1.bias)?;
    fuse::add(cpu, dinp, &di)?;
    layernorm::backward(cpu, &dnorm_x, &s.x, g, &s.stats_x, &mut n1.gain, &mut n1.bias)
}
