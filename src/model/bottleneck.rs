//! The MLP that everything trained uses: `fc2(gelu(fc1(x)))`. As the bottleneck it stands alone: no residual, no norm; a
//! block ends with `x + mlp(LN(x))`.

use crate::error::Result;
use crate::model::TRAINED_EPS;
use crate::model::params::{Mlp, Norm};
use crate::ops::{fuse, gelu, layernorm, linear};
use crate::runtime::{Cpu, Elem, Tensor};

/// What the backward needs: the input and fc1's output before GELU.
pub struct Saved<E: Elem> {
    x: Tensor<E>,
    pre: Tensor<E>,
}

/// x `(…, C)` → `(…, C)`.
pub fn forward<E: Elem>(cpu: &Cpu, p: &Mlp<E>, x: Tensor<E>) -> Result<(Tensor<E>, Saved<E>)> {
    let pre = linear::forward(cpu, &x, &p.fc1.w, Some(&p.fc1.b))?;
    let y = linear::forward(cpu, &gelu::forward(cpu, &pre)?, &p.fc2.w, Some(&p.fc2.b))?;
    Ok((y, Saved { x, pre }))
}

/// dy `(…, C)` → dx `(…, C)` (only if `need_dx`); parameter gradients are added to `d`. GELU's output is computed
/// again rather than kept: it is the largest activation of the model.
pub fn backward<E: Elem>(
    cpu: &Cpu,
    p: &Mlp<E>,
    s: Saved<E>,
    dy: &Tensor<E>,
    d: &mut Mlp<E>,
    need_dx: bool,
) -> Result<Option<Tensor<E>>> {
    let h = gelu::forward(cpu, &s.pre)?;
    let dh = linear::backward(cpu, dy, &h, &p.fc2.w, &mut d.fc2.w, Some(&mut d.fc2.b), true)?;
    let dpre = gelu::backward(cpu, dh.expect("asked for"), &s.pre)?;
    linear::backward(cpu, &dpre, &s.x, &p.fc1.w, &mut d.fc1.w, Some(&mut d.fc1.b), need_dx)
}

/// What the backward of a block's end needs.
pub struct Residual<E: Elem> {
    x: Tensor<E>,
    stats: layernorm::Stats<E>,
    mlp: Saved<E>,
}

/// x `(…, C)` → `x + mlp(LN(x))`.
pub fn residual<E: Elem>(
    cpu: &Cpu,
    norm: &Norm<E>,
    p: &Mlp<E>,
    x: Tensor<E>,
) -> Result<(Tensor<E>, Residual<E>)> {
    let (normed, stats) = layernorm::forward(cpu, &x, &norm.gain, &norm.bias, TRAINED_EPS)?;
    let (mut y, mlp) = forward(cpu, p, normed)?;
    fuse::add(cpu, &mut y, &x)?;
    Ok((y, Residual { x, stats, mlp }))
}

/// dy `(…, C)` → dx `(…, C)`; parameter gradients are added to `dnorm` and `d`.
pub fn residual_backward<E: Elem>(
    cpu: &Cpu,
    norm: &Norm<E>,
    p: &Mlp<E>,
    s: Residual<E>,
    dy: &Tensor<E>,
    dnorm: &mut Norm<E>,
    d: &mut Mlp<E>,
) -> Result<Tensor<E>> {
    let dnormed = backward(cpu, p, s.mlp, dy, d, true)?.expect("asked for");
    let (gain, bias) = (&mut dnorm.gain, &mut dnorm.bias);
    let mut dx = layernorm::backward(cpu, &dnormed, &s.x, &norm.gain, &s.stats, gain, bias)?;
    fuse::add(cpu, &mut dx, dy)?;
    Ok(dx)
}
