//! The extractor with its constant query folded into the key weights; the plain one is `model::extractor`.

use crate::error::Result;
use crate::model::params::Extractor;
use crate::model::{TRAINED_EPS, bottleneck};
use crate::ops::inp_extract::train as extract;
use crate::ops::{fuse, layernorm, linear};
use crate::runtime::{Cpu, Elem, Tensor};

/// What the backward needs of the forward.
pub struct Saved<E: Elem> {
    norm_p: Tensor<E>,
    stats_p: layernorm::Stats<E>,
    /// Normalised features, without gain and bias `(B, N, C)`.
    x: Tensor<E>,
    q: Tensor<E>,
    attn: extract::Saved<E>,
    out: Tensor<E>,
    mlp: bottleneck::Residual<E>,
}

/// P0 `(P, C)`, f `(B, N, C)` → I `(B, P, C)`.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    p: &Extractor<E>,
    prototypes: &Tensor<E>,
    f: &Tensor<E>,
    heads: usize,
) -> Result<(Tensor<E>, Saved<E>)> {
    let n1 = [&p.norm1.gain, &p.norm1.bias];
    let (norm_p, stats_p) = layernorm::forward(cpu, prototypes, n1[0], n1[1], TRAINED_EPS)?;
    let c = prototypes.cols();
    let ones = Tensor::new(&[c], vec![E::ONE; c]);
    let (x, _) = layernorm::forward(cpu, f, &ones, &Tensor::zeros(&[c]), TRAINED_EPS)?;
    let q = linear::forward(cpu, &norm_p, &p.q.w, Some(&p.q.b))?;
    let (out, attn) = extract::forward(&cpu.exact(), &q, &x, n1, [&p.kv.w, &p.kv.b], heads)?;
    let mut mid = linear::forward(cpu, &out, &p.proj.w, Some(&p.proj.b))?;
    fuse::add(cpu, &mut mid, prototypes)?; // the same P0 for every image
    let (inp, mlp) = bottleneck::residual(cpu, &p.norm2, &p.mlp, mid)?;
    Ok((inp, Saved { norm_p, stats_p, x, q, attn, out, mlp }))
}

/// dI `(B, P, C)`; parameter gradients are added to `d` and `dprototypes`. f is frozen and gets no gradient.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Elem>(
    cpu: &Cpu,
    p: &Extractor<E>,
    prototypes: &Tensor<E>,
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
    let (g1, n1) = (&p.norm1.gain, &mut d.norm1);
    let dq = extract::backward(
        &cpu.exact(),
        &dout.expect("asked for"),
        &s.q,
        &s.x,
        g1,
        &p.kv.w,
        s.attn,
        [&mut n1.gain, &mut n1.bias],
        [&mut d.kv.w, &mut d.kv.b],
        heads,
    )?;
    let dnorm_p = linear::backward(cpu, &dq, &s.norm_p, &p.q.w, &mut d.q.w, Some(&mut d.q.b), true)?;
    let dnorm_p = dnorm_p.expect("asked for");
    let dp0 = layernorm::backward(cpu, &dnorm_p, prototypes, g1, &s.stats_p, &mut n1.gain, &mut n1.bias)?;
    fuse::add(cpu, dprototypes, &dp0)
}
