//! Packing: columns of an operand copied into panels `[K][W]`, so that the register tile reads them in one stream.

use std::ops::Range;

use super::micro::Out;
use crate::runtime::simd::aligned::LINE;
use crate::runtime::simd::slice::load;
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
    /// The columns from `j` on.
    pub fn columns_from(self, j: usize) -> Self {
        let at = if self.transposed { j * self.ld } else { j };
        Self { data: &self.data[at.min(self.data.len())..], ..self }
    }
    /// Panics unless a matrix of this shape lies inside the slice (a bug of the caller, never a user's input).
    pub fn check(&self, rows: usize, cols: usize) {
        let (r, c) = if self.transposed { (cols, rows) } else { (rows, cols) };
        assert!(c <= self.ld, "gemm: {c} columns stored {} apart", self.ld);
        assert!(r == 0 || c == 0 || (r - 1) * self.ld + c <= self.data.len(), "gemm: operand too short");
    }
}

/// Rows and columns of a block of a matrix, copied into panels of `kc` rows and `width` columns (a multiple of the tier's
/// lanes): `b(k0 + k, j)` goes to row `k` of panel `j / width`, column `j % width`. Past the last column are zeros.
pub struct Pack<'a, E> {
    /// The first panel. All of the panels that hold `cols` may be written in their `rows`.
    pub out: Out<E>,
    pub width: usize,
    pub kc: usize,
    pub b: Mat<'a, E>,
    pub k0: usize,
    pub rows: Range<usize>,
    /// Begins at a panel's first column; ends at one, or at the matrix's last.
    pub cols: Range<usize>,
}

/// Rows of a panel that a transposing copy has in hand at once: they stay in the first-level cache, and what it reads of
/// a column is whole cache lines.
const STRIP: usize = 64;
/// Rows of the source that are asked for before their turn: rows far apart are no stream to the processor.
const AHEAD: usize = 8;

impl<E: Elem> Kernel<E> for Pack<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { out: Out(out), width, kc, b, k0, rows, cols } = self;
        if !b.transposed {
            // Row by row through all panels: memory is read in one stream.
            for k in rows {
                let row = &b.data[(k0 + k) * b.ld..][cols.clone()];
                for j in (0..row.len()).step_by(LINE / size_of::<E>()) {
                    s.prefetch(row.as_ptr().wrapping_add(AHEAD * b.ld + j));
                }
                for (from, j0) in row.chunks(width).zip(cols.clone().step_by(width)) {
                    for j in (0..width).step_by(S::LANES) {
                        let v = if j < from.len() { load(s, from, j) } else { s.splat(E::ZERO) };
                        // SAFETY: `out`'s; j + LANES <= width.
                        unsafe { s.store(out.add(j0 * kc + k * width + j), v) };
                    }
                }
            }
            return;
        }
        for j0 in cols.clone().step_by(width) {
            let n = width.min(cols.end - j0);
            for k1 in rows.clone().step_by(STRIP) {
                let k2 = rows.end.min(k1 + STRIP);
                let (k8, j8) = (k2 - (k2 - k1) % 8, n / 8 * 8);
                for j in (0..j8).step_by(8) {
                    let from = &b.data[(j0 + j) * b.ld + k0..][..7 * b.ld + k2];
                    for k in (k1..k2).step_by(LINE / size_of::<E>()) {
                        for j in AHEAD..AHEAD + 8 {
                            s.prefetch(from.as_ptr().wrapping_add(j * b.ld + k));
                        }
                    }
                    for k in (k1..k8).step_by(8) {
                        // SAFETY: k + 8 <= k2, so that `from` holds the block; `out`'s, for j + 8 <= width.
                        unsafe {
                            let to = out.add(j0 * kc + k * width + j);
                            s.transpose8(from.as_ptr().add(k), b.ld, to, width)
                        };
                    }
                }
                for k in k1..k2 {
                    for j in if k < k8 { j8 } else { 0 }..width {
                        let x = if j < n { b.data[(j0 + j) * b.ld + k0 + k] } else { E::ZERO };
                        // SAFETY: `out`'s.
                        unsafe { out.add(j0 * kc + k * width + j).write(x) };
                    }
                }
            }
        }
    }
}
