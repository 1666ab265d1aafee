//! INP-guided decoder: each block rebuilds the patches from the image's prototypes alone (paper, "INP-Guided
//! Decoder"): no residual goes around the attention, so what the prototypes cannot express is lost.

use crate::error::Result;
use crate::model::params::DecoderBlock;
use crate::model::{TRAINED_EPS, bottleneck};
use crate::ops::{fuse, inp_attention, layernorm, linear};
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
    attn: inp_attention::Saved<E>,
    out: Tensor<E>,
    mlp: bottleneck::Residual<E>,
}

/// x `(B, N, C)`, I `(B, P, C)` → `(B, N, C)`: `x = proj(relu(s·q̂·k̂ᵀ)·v)`, `x += mlp(LN2(x))`.
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
    let (out, attn) = inp_attention::forward(cpu, &q, &kv, &p.scale, heads)?;
    let mid = linear::forward(cpu, &out, &p.proj.w, Some(&p.proj.b))?;
    let (y, mlp) = bottleneck::residual(cpu, &p.norm2, &p.mlp, mid)?;
    Ok((y, Saved { x, norm_x, stats_x, norm_i, stats_i, q, kv, attn, out, mlp }))
}

/// dy `(B, N, C)` → dx `(B, N, C)`; `dinp += …` `(B, P, C)`; parameter gradients are added to `d`.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Elem>(
    cpu: &Cpu,
    p: &DecoderBlock<E>,
    inp: &Tensor<E>,
    heads: usize,
    s: Saved<E>,
    dy: &Tensor<E>,
    dinp: &mut Tensor<E>,
    d: &mut DecoderBlock<E>,
) -> Result<Tensor<E>> {
    let dmid = bottleneck::residual_backward(cpu, &p.norm2, &p.mlp, s.mlp, dy, &mut d.norm2, &mut d.mlp)?;
    let dout = linear::backward(cpu, &dmid, &s.out, &p.proj.w, &mut d.proj.w, Some(&mut d.proj.b), true)?;
    let (dq, dkv) = inp_attention::backward(
        cpu,
        &dout.expect("asked for"),
        &s.q,
        &s.kv,
        &p.scale,
        &s.attn,
        &mut d.scale,
        heads,
    )?;
    let dnorm_i = linear::backward(cpu, &dkv, &s.norm_i, &p.kv.w, &mut d.kv.w, Some(&mut d.kv.b), true)?;
    let dnorm_x = linear::backward(cpu, &dq, &s.norm_x, &p.q.w, &mut d.q.w, Some(&mut d.q.b), true)?;
    let (g, n1) = (&p.norm1.gain, &mut d.norm1);
    let di = layernorm::backward(
        cpu,
        &dnorm_i.expect("asked for"),
        inp,
        g,
        &s.stats_i,
        &mut n1.gain,
        &mut n1.bias,
    )?;
    fuse::add(cpu, dinp, &di)?;
    layernorm::backward(cpu, &dnorm_x.expect("asked for"), &s.x, g, &s.stats_x, &mut n1.gain, &mut n1.bias)
}
