//! Packing: columns of an operand copied into panels `[K][W]`, so that the register tile reads them in one stream.

use crate::runtime::simd::{Elem, Kernel, Simd};

/// A matrix inside a slice, `ld` elements from one stored row to the next.
#[derive(Clone, Copy)]
pub struct Mat<'a, E> {
    pub data: &'a [E],
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

/// Rows of a panel that a transposing copy has in hand at once, so that they stay in the first-level cache.
const STRIP: usize = 16;

impl<E: Elem> Kernel<E> for Pack<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, _: S) {
        let Self { out, width, b, k0, j0, cols } = self;
        if !b.transposed {
            for (k, row) in out.chunks_exact_mut(width).enumerate() {
                row[..cols].copy_from_slice(&b.data[(k0 + k) * b.ld + j0..][..cols]);
                row[cols..].fill(E::ZERO);
            }
            return;
        }
        for (strip, out) in out.chunks_mut(STRIP * width).enumerate() {
            let k0 = k0 + strip * STRIP;
            for j in 0..cols {
                let from = &b.data[(j0 + j) * b.ld + k0..][..out.len() / width];
                for (k, x) in from.iter().enumerate() {
                    out[k * width + j] = *x;
                }
            }
            for row in out.chunks_exact_mut(width) {
                row[cols..].fill(E::ZERO);
            }
        }
    }
}
