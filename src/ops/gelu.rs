//! Exact GELU, `x·Φ(x)` with the Gauss error function: element-wise, and between two linear layers forward and backward.

use crate::error::Result;
use crate::ops::linear::add_column_sums;
use crate::ops::linear::gemm::{self, Factor, Kept, Mat, activated, product, times};
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// Elements handled by one task.
const CHUNK: usize = 4 * 1024;

/// x of any shape → `0.5·x·(1 + erf(x/√2))`.
pub fn forward<E: Elem>(cpu: &Cpu, x: &Tensor<E>) -> Result<Tensor<E>> {
    let y = cpu.make_chunks(x.len(), CHUNK, |i, y| {
        let x = &x.data[i * CHUNK..][..y.len()];
        cpu.dispatch(Forward { y, x })
    });
    Ok(Tensor::new(x.shape(), y))
}

struct Forward<'a, E> {
    y: &'a mut [E],
    x: &'a [E],
}
impl<E: Elem> Kernel<E> for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let (half, r) = (s.splat(E::from_f64(0.5)), s.splat(E::from_f64(std::f64::consts::FRAC_1_SQRT_2)));
        slice::zip(s, self.y, self.x, |_, x| {
            let h = s.mul(x, half);
            s.fma(h, s.erf(s.mul(x, r)), h)
        });
    }
}

/// What lies between an MLP's layers, `(M, 4C)`: GELU of the first one's output and its slope there. Both are made while the
/// product is in the nearest cache, and only products read them.
pub struct Hidden<E: Elem> {
    y: Kept<E>,
    slope: Kept<E>,
    shape: [usize; 2],
}

impl<E: Elem> Hidden<E> {
    /// `gelu(A·B + bias)` for each of `count` equal parts A `(m, k)` and B `(k, n)`, as [`activated`] takes them; M = count·m.
    pub fn new<'a>(
        cpu: &Cpu,
        count: usize,
        shape @ [m, n, _]: [usize; 3],
        a: impl Into<Factor<'a, E>>,
        b: impl Into<Factor<'a, E>>,
        bias: &[E],
    ) -> Self {
        let [y, slope] = activated(cpu, count, shape, a, b, bias);
        Self { y, slope, shape: [count * m, n] }
    }

    /// Through the second layer, w `(C, 4C)`, b `(C)`: `(M, C)`.
    pub fn forward(&self, cpu: &Cpu, w: &Tensor<E>, b: &Tensor<E>) -> Result<Vec<E>> {
        let [m, n] = self.shape;
        w.expect("gelu", "w", &[usize::MAX, n])?;
        b.expect("gelu", "b", &[w.rows()])?;
        let w_t = Mat::transposed(&w.data, n);
        Ok(product(cpu, [m, w.rows(), n], self.y.plain(n), w_t, Some(&b.data)))
    }

    /// The output's gradient dy `(M, C)` → that of GELU's input; `dw += …`, `db += …`.
    pub fn backward(
        self,
        cpu: &Cpu,
        dy: &[E],
        w: &Tensor<E>,
        dw: &mut Tensor<E>,
        db: &mut Tensor<E>,
    ) -> Result<Gradient<E>> {
        let ([m, n], c) = (self.shape, w.rows());
        w.expect("gelu", "w", &[c, n])?;
        dw.expect("gelu", "dw", &[c, n])?;
        db.expect("gelu", "db", &[c])?;
        add_column_sums(cpu, dy, &mut db.data);
        gemm::add(cpu, [c, n, m], Mat::transposed(dy, c), self.y.plain(n), dw);
        drop(self.y);
        let dx = times(cpu, [m, n, c], Mat::plain(dy, c), Mat::plain(&w.data, n), &self.slope);
        Ok(Gradient { dx, n })
    }
}

/// Gradient of GELU's input `(M, N)`: only products and sums read it.
pub struct Gradient<E: Elem> {
    dx: Kept<E>,
    n: usize,
}

impl<E: Elem> Gradient<E> {
    /// As a matrix.
    pub fn plain(&self) -> Factor<'_, E> {
        self.dx.plain(self.n)
    }
    /// As the transpose of one.
    pub fn transposed(&self) -> Factor<'_, E> {
        self.dx.transposed(self.n)
    }
    /// `sum += Σ_rows`, sum `(N)`.
    pub fn add_rows_to(&self, cpu: &Cpu, sum: &mut [E]) {
        assert_eq!(sum.len(), self.n, "gelu: sum");
        match &self.dx {
            Kept::Sums(x) => add_column_sums(cpu, x, sum),
            Kept::Operands(x) => add_column_sums(cpu, x, sum),
        }
    }
}
