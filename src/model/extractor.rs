//! INP extractor: the learned prototypes attend to the patches of one image and become its intrinsic normal
//! prototypes (paper, "Intrinsic Normal Prototype Extractor").

use crate::error::Result;
use crate::model::params::Extractor;
use crate::model::{TRAINED_EPS, bottleneck};
use crate::ops::{fuse, inp_extract, layernorm, linear};
use crate::runtime::{Cpu, Elem, Tensor};

/// What the backward needs of the forward.
pub struct Saved<E: Elem> {
    norm_p: Tensor<E>,
    stats_p: layernorm::Stats<E>,
    norm_f: Tensor<E>,
    stats_f: layernorm::Stats<E>,
    q: Tensor<E>,
    kv: Tensor<E>,
    probs: Tensor<E>,
    out: Tensor<E>,
    mlp: bottleneck::Residual<E>,
}

/// P0 `(P, C)`, f `(B, N, C)` → I `(B, P, C)`: `I = P0 + proj(softmax(q·kᵀ)·v)`, `I += mlp(LN2(I))`.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    p: &Extractor<E>,
    prototypes: &Tensor<E>,
    f: &Tensor<E>,
    heads: usize,
) -> Result<(Tensor<E>, Saved<E>)> {
    let (norm_p, stats_p) = layernorm::forward(cpu, prototypes, &p.norm1.gain, &p.norm1.bias, TRAINED_EPS)?;
    let (norm_f, stats_f) = layernorm::forward(cpu, f, &p.norm1.gain, &p.norm1.bias, TRAINED_EPS)?;
    let q = linear::forward(cpu, &norm_p, &p.q.w, Some(&p.q.b))?;
    let kv = linear::forward(cpu, &norm_f, &p.kv.w, Some(&p.kv.b))?;
    let (out, probs) = inp_extract::forward(cpu, &q, &kv, heads)?;
    let mut mid = linear::forward(cpu, &out, &p.proj.w, Some(&p.proj.b))?;
    fuse::add(cpu, &mut mid, prototypes)?; // the same P0 for every image
    let (inp, mlp) = bottleneck::residual(cpu, &p.norm2, &p.mlp, mid)?;
    Ok((inp, Saved { norm_p, stats_p, norm_f, stats_f, q, kv, probs, out, mlp }))
}

/// dI `(B, P, C)`; parameter gradients are added to `d` and `dprototypes`. f is frozen and gets no gradient.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Elem>(
    cpu: &Cpu,
    p: &Extractor<E>,
    prototypes: &Tensor<E>,
    f: &Tensor<E>,
    heads: usize,
    s: Saved<E>,
    dinp: &Tensor<E>,
    d: &mut Extractor<E>,
    dprototypes: &mut Tensor<E>,
) -> Result<()> {
    let dmid = bottleneck::residual_backward(cpu, &p.norm2, &p.mlp, s.mlp, dinp, &mut d.norm2, &mut d.mlp)?;
    for image in dmid.data.chunks(prototypes.len()) {
        dprototypes.data.iter_mut().zip(image).for_each(|(d, x)| *d += *x);
    }
    let dout = linear::backward(cpu, &dmid, &s.out, &p.proj.w, &mut d.proj.w, Some(&mut d.proj.b), true)?;
    let (dq, dkv) = inp_extract::backward(cpu, &dout.expect("asked for"), &s.q, &s.kv, &s.probs, heads)?;
    let dnorm_f = linear::backward(cpu, &dkv, &s.norm_f, &p.kv.w, &mut d.kv.w, Some(&mut d.kv.b), true)?;
    let dnorm_p = linear::backward(cpu, &dq, &s.norm_p, &p.q.w, &mut d.q.w, Some(&mut d.q.b), true)?;
    let (g1, n1) = (&p.norm1.gain, &mut d.norm1);
    let dnorm_f = dnorm_f.expect("asked for");
    layernorm::backward(cpu, &dnorm_f, f, g1, &s.stats_f, &mut n1.gain, &mut n1.bias)?;
    let dnorm_p = dnorm_p.expect("asked for");
    let dp0 = layernorm::backward(cpu, &dnorm_p, prototypes, g1, &s.stats_p, &mut n1.gain, &mut n1.bias)?;
    fuse::add(cpu, dprototypes, &dp0)
}
