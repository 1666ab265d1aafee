//! The MLP that everything trained uses: `fc2(gelu(fc1(x)))`. As the bottleneck it stands alone: no residual, no norm.

use crate::error::Result;
use crate::model::params::Mlp;
use crate::ops::{gelu, linear};
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
