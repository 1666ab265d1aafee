//! `y = x·Wᵀ + b`: every linear layer, forward and backward.

pub mod cuda;
pub mod gemm;
pub mod int8;
pub(crate) mod micro;
pub(crate) mod pack;
pub mod packed;
pub(crate) mod paired;

use crate::error::Result;
use crate::runtime::simd::Elem;
use crate::runtime::{Cpu, Tensor};
pub(super) use gemm::side::add_column_sums;
use gemm::{Mat, product};

/// x `(…, K)`, w `(N, K)`, b `(N)` → `(…, N)`.
///
/// A row of the result depends on its own row of x only, bit for bit, whatever the other rows and the thread count.
pub fn forward<E: Elem>(cpu: &Cpu, x: &Tensor<E>, w: &Tensor<E>, b: Option<&Tensor<E>>) -> Result<Tensor<E>> {
    let k = x.cols();
    w.expect("linear", "w", &[usize::MAX, k])?;
    let n = w.shape()[0];
    if let Some(b) = b {
        b.expect("linear", "b", &[n])?;
    }
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("x has at least one axis") = n;
    let (m, x, w) = (x.rows(), Mat::plain(&x.data, k), Mat::transposed(&w.data, k));
    Ok(Tensor::new(&shape, product(cpu, [m, n, k], x, w, b.map(|b| &b.data[..]))))
}

/// dy `(…, N)` → dx `(…, K)` (only if `need_dx`); `dw += dyᵀ·x`, `db += Σ_rows dy`.
pub fn backward<E: Elem>(
    cpu: &Cpu,
    dy: &Tensor<E>,
    x: &Tensor<E>,
    w: &Tensor<E>,
    dw: &mut Tensor<E>,
    db: Option<&mut Tensor<E>>,
    need_dx: bool,
) -> Result<Option<Tensor<E>>> {
    let (m, k, n) = (x.rows(), x.cols(), dy.cols());
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("x has at least one axis") = n;
    dy.expect("linear", "dy", &shape)?;
    w.expect("linear", "w", &[n, k])?;
    dw.expect("linear", "dw", &[n, k])?;
    if let Some(db) = db {
        db.expect("linear", "db", &[n])?;
        add_column_sums(cpu, &dy.data, &mut db.data);
    }
    let d = &dy.data;
    gemm::add(cpu, [n, k, m], Mat::transposed(d, n), Mat::plain(&x.data, k), dw);
    if !need_dx {
        return Ok(None);
    }
    let dx = product(cpu, [m, k, n], Mat::plain(d, n), Mat::plain(&w.data, k), None);
    Ok(Some(Tensor::new(x.shape(), dx)))
}
