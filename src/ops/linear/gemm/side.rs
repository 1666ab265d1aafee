//! Operands of products as they come: sums that are rounded on their way, or operands already.

use std::ops::Range;

use super::super::micro::Out;
use super::super::pack::{Mat, Pack};
use crate::runtime::Cpu;
use crate::runtime::simd::aligned::{LINE, Room};
use crate::runtime::simd::product::{SumOf, Sums};
use crate::runtime::simd::{Elem, Kernel, Operand, Product, ProductKernel, Simd, slice};

/// Whether products of E are of narrower operands on this device.
pub(super) fn rounds<E: Elem>(cpu: &Cpu) -> bool {
    cpu.is_narrow() && E::Narrow::GROUP > 1
}

/// Values that only products read: rounded already where the device is narrowed.
#[derive(Clone, Debug)]
pub enum Kept<E: Elem> {
    /// As they were computed.
    Sums(Vec<E>),
    /// Rounded.
    Operands(Vec<E::Narrow>),
}

impl<E: Elem> Kept<E> {
    /// As a matrix with rows `ld` apart.
    pub fn plain(&self, ld: usize) -> Factor<'_, E> {
        match self {
            Self::Sums(x) => Factor::Sums(Mat::plain(x, ld)),
            Self::Operands(x) => Factor::Operands(Mat::plain(x, ld)),
        }
    }
    /// As the transpose of one.
    pub fn transposed(&self, ld: usize) -> Factor<'_, E> {
        match self {
            Self::Sums(x) => Factor::Sums(Mat::transposed(x, ld)),
            Self::Operands(x) => Factor::Operands(Mat::transposed(x, ld)),
        }
    }
}

/// A matrix to multiply.
#[derive(Clone, Copy)]
pub enum Factor<'a, E: Elem> {
    /// Rounded on the way where the device is narrowed.
    Sums(Mat<'a, E>),
    /// Rounded already: for a narrowed device alone.
    Operands(Mat<'a, E::Narrow>),
}

impl<'a, E: Elem> From<Mat<'a, E>> for Factor<'a, E> {
    fn from(x: Mat<'a, E>) -> Self {
        Self::Sums(x)
    }
}

impl<'a, E: Elem> Factor<'a, E> {
    /// For a device that does not round.
    pub(super) fn wide(self) -> Side<'a, E> {
        match self {
            Self::Sums(x) => Side::Sums(x),
            Self::Operands(_) => panic!("gemm: operands of a narrowed device on another"),
        }
    }
    /// For one that does.
    pub(super) fn narrow(self) -> Side<'a, E::Narrow> {
        match self {
            Self::Sums(x) => Side::Sums(x),
            Self::Operands(x) => Side::Operands(x),
        }
    }
}

/// A [`Factor`] of a product of operands X.
#[derive(Clone, Copy)]
pub(super) enum Side<'a, X: Operand> {
    Sums(Mat<'a, X::Sum>),
    Operands(Mat<'a, X>),
}

/// The same matrix inside another slice, or read another way.
macro_rules! with {
    ($side:expr, $m:ident => $e:expr) => {
        match $side {
            Side::Sums($m) => Side::Sums($e),
            Side::Operands($m) => Side::Operands($e),
        }
    };
}

impl<'a, X: Operand> Side<'a, X> {
    pub fn transposed(self) -> bool {
        match self {
            Self::Sums(m) => m.transposed,
            Self::Operands(m) => m.transposed,
        }
    }
    pub fn check(self, rows: usize, cols: usize) {
        match self {
            Self::Sums(m) => m.check(rows, cols),
            Self::Operands(m) => m.check(rows, cols),
        }
    }
    /// One of `count` equal parts of the slice.
    pub fn part(self, i: usize, count: usize) -> Self {
        with!(self, m => {
            let size = m.data.len() / count;
            Mat { data: &m.data[i * size..(i + 1) * size], ..m }
        })
    }
    /// The transpose.
    pub fn across(self) -> Self {
        with!(self, m => Mat { transposed: !m.transposed, ..m })
    }
    /// The columns from `j` on.
    pub fn columns_from(self, j: usize) -> Self {
        with!(self, m => m.columns_from(j))
    }
    /// Stored rows of `k` elements along K as groups, and their distance in groups, if they lie so.
    pub fn lanes(self, k: usize) -> Option<(&'a [X::Sum], usize)> {
        let whole = |ld: usize| ld.is_multiple_of(X::GROUP) && k.is_multiple_of(X::GROUP);
        match self {
            Self::Sums(m) => (X::GROUP == 1).then_some((m.data, m.ld)),
            Self::Operands(m) if whole(m.ld) => {
                let data = &m.data[..m.data.len() / X::GROUP * X::GROUP];
                Some((bytemuck::try_cast_slice(data).ok()?, m.ld / X::GROUP))
            }
            Self::Operands(_) => None,
        }
    }
    /// The first `n <= LANES` elements from `at` on; the rest are zero.
    #[inline(always)]
    fn get<P: Product<X = X>>(&self, p: P, at: usize, n: usize) -> Sums<P> {
        let s = p.simd();
        // SAFETY: as many elements follow.
        unsafe {
            match self {
                _ if n == 0 => s.splat(SumOf::<P>::ZERO),
                Self::Sums(m) => {
                    let from = m.data[at..at + n].as_ptr();
                    if n == P::S::LANES { s.load(from) } else { s.load_n(from, n) }
                }
                Self::Operands(m) => p.get(m.data[at..at + n].as_ptr(), n),
            }
        }
    }
    fn ld(&self) -> usize {
        match self {
            Self::Sums(m) => m.ld,
            Self::Operands(m) => m.ld,
        }
    }
    /// Groups `groups` along K, which has `k` elements, of the stored rows `rows`, one row after the other; what is missing
    /// of the last group is zero.
    ///
    /// SAFETY: there is room for them.
    #[inline(always)]
    pub unsafe fn rows<P: Product<X = X>>(
        &self,
        p: P,
        to: Out<X::Sum>,
        rows: Range<usize>,
        k: usize,
        groups: Range<usize>,
    ) {
        let (l, len) = (P::S::LANES, groups.len());
        let (first, end) = (groups.start * X::GROUP, k.min(groups.end * X::GROUP));
        for (i, row) in rows.enumerate() {
            // SAFETY: the caller's: `len` groups a row.
            unsafe {
                let to = to.0.add(i * len).cast::<X>();
                for j in (first..end).step_by(l) {
                    let n = l.min(end - j);
                    p.put(to.add(j - first), n, self.get(p, row * self.ld() + j, n));
                }
                for j in end - first..len * X::GROUP {
                    to.add(j).write(X::default());
                }
            }
        }
    }
}

/// Rows and columns of a block of a matrix of `k` rows, copied into panels of `kc` groups and `width` columns (a multiple of
/// the tier's lanes) as in [`Pack`], K by groups: group `first + g` of column j goes to row `g` of panel `j / width`.
pub(super) struct Fill<'a, X: Operand> {
    /// The first panel. All of the panels that hold `cols` may be written in their `rows`.
    pub out: Out<X::Sum>,
    pub width: usize,
    pub kc: usize,
    pub from: Side<'a, X>,
    pub k: usize,
    pub first: usize,
    /// All of `0..kc` where K runs along the stored rows.
    pub rows: Range<usize>,
    /// Begins at a panel's first column; ends at one, or at the matrix's last.
    pub cols: Range<usize>,
}

/// Stored rows that are asked for before their turn.
const AHEAD: usize = 8;

impl<X: Operand> ProductKernel<X> for Fill<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        let Self { out, width, kc, from, k, first, rows, cols } = self;
        let (s, l) = (p.simd(), P::S::LANES);
        if from.transposed() || X::GROUP == 1 {
            if let Some((data, ld)) = from.lanes(k) {
                let b = Mat { data, ld, transposed: from.transposed() };
                return Pack { out, width, kc, b, k0: first, rows, cols }.run(s);
            }
            for j in cols.clone().step_by(width) {
                let n = width.min(cols.end - j);
                let mut room = Room::new(n * kc);
                let scratch = Out(room.out());
                // SAFETY: the room has n rows of kc groups, and the panel is the caller's.
                unsafe {
                    from.rows(p, scratch, j..j + n, k, first..first + kc);
                    let data = std::slice::from_raw_parts(scratch.0.cast_const(), n * kc);
                    let (out, b) = (Out(out.0.add(j * kc)), Mat::transposed(data, kc));
                    Pack { out, width, kc, b, k0: 0, rows: 0..kc, cols: 0..n }.run(s);
                }
            }
            return;
        }
        let ld = from.ld();
        for g in rows {
            let at = (first + g) * X::GROUP;
            if let Side::Sums(m) = from {
                for row in AHEAD..AHEAD + X::GROUP {
                    for j in cols.clone().step_by(LINE / size_of::<X::Sum>()) {
                        s.prefetch(m.data.as_ptr().wrapping_add((at + row) * ld + j));
                    }
                }
            }
            for j0 in cols.clone().step_by(width) {
                for j in (j0..j0 + width).step_by(l) {
                    let n = l.min(cols.end.saturating_sub(j));
                    let [low, high] = [0, 1].map(|i| if at + i < k { n } else { 0 });
                    let (low, high) = (from.get(p, at * ld + j, low), from.get(p, (at + 1) * ld + j, high));
                    // SAFETY: `out`'s.
                    unsafe { p.join(out.0.add(j0 * kc + g * width + j - j0), low, high) };
                }
            }
        }
    }
}

/// Rows of one partial column sum: fixed, so that the order of summation is too.
const ROWS: usize = 64;

/// `sum += Σ_rows x`, x `(_, sum.len())`: in blocks of rows, then over the blocks in their order.
pub(in crate::ops) fn add_column_sums<X: Operand>(cpu: &Cpu, x: &[X], sum: &mut [X::Sum]) {
    let (n, rows) = (sum.len(), x.len() / sum.len().max(1));
    let parts = cpu.make_chunks(rows.div_ceil(ROWS) * n, n.max(1), |i, sum| {
        let at = i * ROWS * n;
        cpu.product(ColumnSums { sum, x: &x[at..(at + ROWS * n).min(x.len())] })
    });
    cpu.product(ColumnSums { sum, x: &parts });
}

/// `sum += Σ_rows x`, rows in order.
struct ColumnSums<'a, X: Operand> {
    sum: &'a mut [X::Sum],
    x: &'a [X],
}
impl<X: Operand> ProductKernel<X> for ColumnSums<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        let (s, n) = (p.simd(), self.sum.len());
        for row in self.x.chunks_exact(n.max(1)) {
            for i in (0..n).step_by(P::S::LANES) {
                // SAFETY: as many elements follow i.
                let x = unsafe { p.get(row.as_ptr().add(i), P::S::LANES.min(n - i)) };
                slice::store(s, self.sum, i, s.add(slice::load(s, self.sum, i), x));
            }
        }
    }
}
