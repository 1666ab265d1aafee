//! The MLP that everything trained uses: `fc2(gelu(fc1(x)))`. As the bottleneck it stands alone: no residual, no norm; a
//! block ends with `x + mlp(LN(x))`.

use crate::error::Result;
use crate::model::TRAINED_EPS;
use crate::model::params::{Mlp, Norm};
use crate::ops::linear::gemm::{self, Mat, product};
use crate::ops::{fuse, gelu, layernorm};
use crate::runtime::{Cpu, Elem, Tensor};

/// What the backward needs: the input and what GELU made of fc1's output.
pub struct Saved<E: Elem> {
    x: Tensor<E>,
    hidden: gelu::Hidden<E>,
}

/// x `(…, C)` → `(…, C)`.
pub fn forward<E: Elem>(cpu: &Cpu, p: &Mlp<E>, x: Tensor<E>) -> Result<(Tensor<E>, Saved<E>)> {
    let (c, n) = (x.cols(), p.fc1.w.rows());
    p.fc1.w.expect("bottleneck", "fc1.w", &[n, c])?;
    p.fc1.b.expect("bottleneck", "fc1.b", &[n])?;
    let w = Mat::transposed(&p.fc1.w.data, c);
    let hidden = gelu::Hidden::new(cpu, 1, [x.rows(), n, c], Mat::plain(&x.data, c), w, &p.fc1.b.data);
    let y = hidden.forward(cpu, &p.fc2.w, &p.fc2.b)?;
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("x has at least one axis") = p.fc2.w.rows();
    Ok((Tensor::new(&shape, y), Saved { x, hidden }))
}

/// dy `(…, C)` → dx `(…, C)` (only if `need_dx`); parameter gradients are added to `d`.
pub fn backward<E: Elem>(
    cpu: &Cpu,
    p: &Mlp<E>,
    s: Saved<E>,
    dy: &Tensor<E>,
    d: &mut Mlp<E>,
    need_dx: bool,
) -> Result<Option<Tensor<E>>> {
    let (m, c, n) = (s.x.rows(), s.x.cols(), p.fc1.w.rows());
    let mut shape = s.x.shape().to_vec();
    *shape.last_mut().expect("x has at least one axis") = p.fc2.w.rows();
    dy.expect("bottleneck", "dy", &shape)?;
    let dpre = s.hidden.backward(cpu, &dy.data, &p.fc2.w, &mut d.fc2.w, &mut d.fc2.b)?;
    dpre.add_rows_to(cpu, &mut d.fc1.b.data);
    let x = Mat::plain(&s.x.data, c);
    gemm::add(cpu, [n, c, m], dpre.transposed(), x, &mut d.fc1.w);
    if !need_dx {
        return Ok(None);
    }
    let dx = product(cpu, [m, c, n], dpre.plain(), Mat::plain(&p.fc1.w.data, c), None);
    Ok(Some(Tensor::new(s.x.shape(), dx)))
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
