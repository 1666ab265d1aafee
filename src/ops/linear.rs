//! `y = x·Wᵀ + b`: every linear layer, forward and backward.

pub mod gemm;
pub(crate) mod micro;
pub(crate) mod pack;
pub mod packed;

use crate::error::Result;
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};
use gemm::{Mat, Start, gemm};

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
    let mut y = Tensor::zeros(&shape);
    let start = b.map_or(Start::Zero, |b| Start::Bias(&b.data));
    let (x, w, m) = (Mat::plain(&x.data, k), Mat::transposed(&w.data, k), x.rows());
    gemm(cpu, [m, n, k], x, w, &mut y.data, n, start);
    Ok(y)
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
        cpu.for_chunks(&mut db.data, COLUMNS, |i, sum| {
            cpu.dispatch(ColumnSums { sum, x: &dy.data, first: i * COLUMNS, ld: n })
        });
    }
    let d = &dy.data;
    gemm(cpu, [n, k, m], Mat::transposed(d, n), Mat::plain(&x.data, k), &mut dw.data, k, Start::Add);
    if !need_dx {
        return Ok(None);
    }
    let mut dx = x.zeros_like();
    gemm(cpu, [m, k, n], Mat::plain(d, n), Mat::plain(&w.data, k), &mut dx.data, k, Start::Zero);
    Ok(Some(dx))
}

/// Columns whose sums one task makes.
const COLUMNS: usize = 256;

/// `sum[j] += Σ_rows x[row·ld + first + j]`, rows in order.
struct ColumnSums<'a, E> {
    sum: &'a mut [E],
    x: &'a [E],
    first: usize,
    ld: usize,
}
impl<E: Elem> Kernel<E> for ColumnSums<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        for row in self.x.chunks_exact(self.ld) {
            slice::add(s, self.sum, &row[self.first..self.first + self.sum.len()]);
        }
    }
}
