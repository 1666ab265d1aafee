//! Packing: columns of an operand copied into panels `[K][W]`, so that the register tile reads them in one stream.

use crate::runtime::simd::{Elem, Kernel, Simd};

/// A matrix inside a slice, `ld` elements from one stored row to the next.
#[derive(Clone, Copy)]
pub struct Mat<'a, E> {
    /// All the elements, and maybe more.
    pub data: &'a [E],
    /// Elements from one stored row to the next.
    pub ld: usize,
    /// Whether the slice holds the transpose: element (i, j) is then at `j·ld + i`, else at `i·ld + j`.
    pub transposed: bool,
}

impl<'a, E> Mat<'a, E> {
    /// Stored as it is read: element (i, j) at `i·ld + j`.
    pub fn plain(data: &'a [E], ld: usize) -> Self {
        Self { data, ld, transposed: false }
    }
    /// Stored transposed: element (i, j) at `j·ld + i`.
    pub fn transposed(data: &'a [E], ld: usize) -> Self {
        Self { data, ld, transposed: true }
    }
    /// Panics unless a matrix of this shape lies inside the slice (a bug of the caller, never a user's input).
    pub fn check(&self, rows: usize, cols: usize) {
        let (r, c) = if self.transposed { (cols, rows) } else { (rows, cols) };
        assert!(c <= self.ld, "gemm: {c} columns stored {} apart", self.ld);
        assert!(r == 0 || c == 0 || (r - 1) * self.ld + c <= self.data.len(), "gemm: operand too short");
    }
}

/// One panel: `out[k·width + j] = b(k0 + k, j0 + j)` for `k < out.len()/width`, zero from column `cols` on.
pub struct Pack<'a, E> {
    pub out: &'a mut [E],
    pub width: usize,
    pub b: Mat<'a, E>,
    pub k0: usize,
    pub j0: usize,
    pub cols: usize,
}

/// Rows of a panel that a transposing copy has in hand at once: they stay in the first-level cache, and what it reads of
/// a column is whole cache lines.
const STRIP: usize = 64;

impl<E: Elem> Kernel<E> for Pack<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { out, width, b, k0, j0, cols } = self;
        if !b.transposed {
            for (k, row) in out.chunks_exact_mut(width).enumerate() {
                row[..cols].copy_from_slice(&b.data[(k0 + k) * b.ld + j0..][..cols]);
                row[cols..].fill(E::ZERO);
            }
            return;
        }
        for (strip, out) in out.chunks_mut(STRIP * width).enumerate() {
            let (k0, kc) = (k0 + strip * STRIP, out.len() / width);
            let (k8, j8) = (kc / 8 * 8, cols / 8 * 8);
            for j in (0..j8).step_by(8) {
                let from = &b.data[(j0 + j) * b.ld + k0..][..7 * b.ld + kc];
                for k in (0..k8).step_by(8) {
                    // SAFETY: j + 8 <= cols <= width and k + 8 <= kc, so that `from` and `out` hold the whole block.
                    unsafe {
                        s.transpose8(from.as_ptr().add(k), b.ld, out.as_mut_ptr().add(k * width + j), width)
                    };
                }
            }
            for (k, row) in out.chunks_exact_mut(width).enumerate() {
                let done = if k < k8 { j8 } else { 0 };
                for (j, x) in row[..cols].iter_mut().enumerate().skip(done) {
                    *x = b.data[(j0 + j) * b.ld + k0 + k];
                }
                row[cols..].fill(E::ZERO);
            }
        }
    }
}
