//! `y = x·Wᵀ + b`: every linear layer, forward and backward.

use crate::error::Result;
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// x `(…, K)`, w `(N, K)`, b `(N)` → `(…, N)`.
pub fn forward<E: Elem>(cpu: &Cpu, x: &Tensor<E>, w: &Tensor<E>, b: Option<&Tensor<E>>) -> Result<Tensor<E>> {
    let k = x.cols();
    w.expect("linear", "w", &[usize::MAX, k])?;
    let n = w.shape()[0];
    if let Some(b) = b {
        b.expect("linear", "b", &[n])?;
    }
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("x has at least one axis") = n;
    let mut y = Tensor::zeros(&shape);
    cpu.for_chunks(&mut y.data, n, |r, row| {
        cpu.dispatch(Rows { y: row, x: x.row(r), w: &w.data, b: b.map(|b| &b.data[..]) })
    });
    Ok(y)
}

struct Rows<'a, E> {
    y: &'a mut [E],
    x: &'a [E],
    w: &'a [E],
    b: Option<&'a [E]>,
}
impl<E: Elem> Kernel<E> for Rows<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let k = self.x.len();
        for (n, y) in self.y.iter_mut().enumerate() {
            *y = slice::dot(s, self.x, &self.w[n * k..(n + 1) * k]) + self.b.map_or(E::ZERO, |b| b[n]);
        }
    }
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
    let (k, n) = (x.cols(), dy.cols());
    w.expect("linear", "w", &[n, k])?;
    dw.expect("linear", "dw", &[n, k])?;
    if let Some(db) = db {
        db.expect("linear", "db", &[n])?;
        for r in 0..dy.rows() {
            cpu.dispatch(Axpy { y: &mut db.data, alpha: E::ONE, x: dy.row(r) });
        }
    }
    cpu.for_chunks(&mut dw.data, k, |i, row| {
        for r in 0..dy.rows() {
            cpu.dispatch(Axpy { y: row, alpha: dy.data[r * n + i], x: x.row(r) });
        }
    });
    if !need_dx {
        return Ok(None);
    }
    let mut dx = x.zeros_like();
    cpu.for_chunks(&mut dx.data, k, |r, row| {
        for i in 0..n {
            cpu.dispatch(Axpy { y: row, alpha: dy.data[r * n + i], x: w.row(i) });
        }
    });
    Ok(Some(dx))
}

struct Axpy<'a, E> {
    y: &'a mut [E],
    alpha: E,
    x: &'a [E],
}
impl<E: Elem> Kernel<E> for Axpy<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        slice::axpy(s, self.y, self.alpha, self.x)
    }
}
