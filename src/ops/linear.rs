//! `y = x·Wᵀ + b`: every linear layer, forward and backward.

pub mod cuda;
pub mod gemm;
pub mod int8;
pub(crate) mod micro;
pub(crate) mod pack;
pub mod packed;

use crate::error::Result;
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};
use gemm::{Mat, Start, gemm, product};

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
    gemm(cpu, [n, k, m], Mat::transposed(d, n), Mat::plain(&x.data, k), &mut dw.data, k, Start::Add);
    if !need_dx {
        return Ok(None);
    }
    let dx = product(cpu, [m, k, n], Mat::plain(d, n), Mat::plain(&w.data, k), None);
    Ok(Some(Tensor::new(x.shape(), dx)))
}

/// Rows of one partial column sum: fixed, so that the order of summation is too.
const ROWS: usize = 64;

/// `sum += Σ_rows x`, x `(_, sum.len())`: in blocks of rows, then over the blocks in their order.
pub(super) fn add_column_sums<E: Elem>(cpu: &Cpu, x: &[E], sum: &mut [E]) {
    let (n, rows) = (sum.len(), x.len() / sum.len().max(1));
    let parts = cpu.make_chunks(rows.div_ceil(ROWS) * n, n.max(1), |i, sum| {
        let at = i * ROWS * n;
        cpu.dispatch(ColumnSums { sum, x: &x[at..(at + ROWS * n).min(x.len())] })
    });
    cpu.dispatch(ColumnSums { sum, x: &parts });
}

/// `sum += Σ_rows x`, rows in order.
struct ColumnSums<'a, E> {
    sum: &'a mut [E],
    x: &'a [E],
}
impl<E: Elem> Kernel<E> for ColumnSums<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        for row in self.x.chunks_exact(self.sum.len().max(1)) {
            slice::add(s, self.sum, row);
        }
    }
}
