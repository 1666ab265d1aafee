//! The register tile of every matrix product: `MR` rows by `NV` vectors of C held in registers while K runs.
//!
//! K goes by groups of operands that share a lane. An element of C is one chain of multiply-adds over K, whatever the tile it falls in, so its bits do not depend
//! on M, on N or on how the tiles were dealt out.

use crate::runtime::simd::aligned::LINE;
use crate::runtime::simd::product::{SumOf, Sums};
use crate::runtime::simd::{Elem, Operand, Product, ProductKernel, Simd};

/// `(MR, NR)` of the register tile.
pub struct Shape;
impl<X: Operand> ProductKernel<X> for Shape {
    type Output = (usize, usize);
    #[inline(always)]
    fn run<P: Product<X = X>>(self, _: P) -> (usize, usize) {
        (P::S::MR, P::S::NV * P::S::LANES)
    }
}

/// What the sum over K is added to.
#[derive(Clone, Copy)]
pub enum Start<'a, E> {
    /// Nothing: C is assigned.
    Zero,
    /// A bias `(N)`: C is assigned.
    Bias(&'a [E]),
    /// C itself.
    Add,
}

impl<E: Elem> Start<'_, E> {
    /// Writes the first `n <= LANES` of `v`, the sums of column j and those after it, to c.
    ///
    /// SAFETY: c is theirs, and can be read if this is `Add`; of a bias there are as many.
    #[inline(always)]
    pub(super) unsafe fn finish<S: Simd<E = E>>(self, s: S, c: *mut E, j: usize, n: usize, v: S::V) {
        // SAFETY: the caller's.
        unsafe {
            let base = match self {
                Start::Zero => None,
                Start::Bias(bias) => Some(bias.as_ptr().add(j)),
                Start::Add => Some(c.cast_const()),
            };
            if n == S::LANES {
                s.store(c, base.map_or(v, |from| s.add(v, s.load(from))));
            } else {
                s.store_n(c, n, base.map_or(v, |from| s.add(v, s.load_n(from, n))));
            }
        }
    }
}

/// Where C begins, for tasks that each write their own elements of it.
#[derive(Clone, Copy)]
pub struct Out<E>(pub *mut E);
// SAFETY: a pointer to elements that may go to other threads; whoever writes through it answers for the place.
unsafe impl<E: Send> Send for Out<E> {}
unsafe impl<E: Send> Sync for Out<E> {}

impl<E> Out<E> {
    /// `i` elements further.
    ///
    /// SAFETY: they are there.
    pub unsafe fn at(self, i: usize) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { self.0.add(i) })
    }
}

/// Rows of A, in groups along K: group (i, k) is at `p + i·row + k·col`; the block of `MR` rows from row i begins at
/// `p + i·block`.
#[derive(Clone, Copy)]
pub struct Rows<E> {
    pub p: *const E,
    pub row: usize,
    pub col: usize,
    pub block: usize,
}

/// C `(m, n)` from `m` rows of A and `n` columns of packed panels (`[k][NR]` each, see `pack`); k counts groups.
///
/// SAFETY: A holds `(m, k)`, `b` holds `n.div_ceil(NR)` panels, and C may be written at `i·ldc + j` for `i < m, j < n`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn block<P: Product>(
    p: P,
    [m, n, k]: [usize; 3],
    a: Rows<SumOf<P>>,
    b: *const SumOf<P>,
    c: *mut SumOf<P>,
    ldc: usize,
    start: Start<SumOf<P>>,
) {
    let nr = P::S::NV * P::S::LANES;
    for j in (0..n).step_by(nr) {
        let cols = nr.min(n - j);
        let start = match start {
            Start::Bias(bias) => Start::Bias(&bias[j..j + cols]),
            other => other,
        };
        for i in (0..m).step_by(P::S::MR) {
            let rows = P::S::MR.min(m - i);
            // SAFETY: the caller's, for the rows from i and the columns from j.
            unsafe {
                let a = Rows { p: a.p.add(i * a.block), ..a };
                let (b, c) = (b.add(j * k), c.add(i * ldc + j));
                one(p, [rows, cols, k], a, b, c, ldc, start, b);
            }
        }
    }
}

/// The part of C that one register tile covers: at most `MR` rows and `NR` columns, from one panel. Meanwhile the
/// `k / 4` lines from `ahead` on come nearer; they need not exist.
///
/// SAFETY: as [`block`]'s, with `rows >= 1`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn one<P: Product>(
    p: P,
    shape @ [_, cols, _]: [usize; 3],
    a: Rows<SumOf<P>>,
    b: *const SumOf<P>,
    c: *mut SumOf<P>,
    ldc: usize,
    start: Start<SumOf<P>>,
    ahead: *const SumOf<P>,
) {
    // SAFETY: the caller's.
    unsafe {
        match (P::S::MR, cols.div_ceil(P::S::LANES)) {
            (6, 1) => tile::<P, 6, 1>(p, shape, a, b, c, ldc, start, ahead),
            (6, 2) => tile::<P, 6, 2>(p, shape, a, b, c, ldc, start, ahead),
            (6, 3) if P::S::NV > 2 => tile::<P, 6, 3>(p, shape, a, b, c, ldc, start, ahead),
            (6, 4) if P::S::NV > 3 => tile::<P, 6, 4>(p, shape, a, b, c, ldc, start, ahead),
            (4, 1) => tile::<P, 4, 1>(p, shape, a, b, c, ldc, start, ahead),
            (4, 2) => tile::<P, 4, 2>(p, shape, a, b, c, ldc, start, ahead),
            shape => unreachable!("no register tile of {shape:?}"),
        }
    }
}

/// Elements of C that a row of B adds to. SAFETY: as [`tile`]'s, for that row.
#[inline(always)]
unsafe fn step<P: Product, const MR: usize, const NV: usize>(
    p: P,
    pa: *const SumOf<P>,
    at: &[usize; MR],
    pb: *const SumOf<P>,
    acc: &mut [[Sums<P>; NV]; MR],
) {
    // SAFETY: the caller's; a panel has NR >= NV·LANES columns in each of its rows.
    unsafe {
        let mut v = [p.load(pb); NV];
        for (j, v) in v.iter_mut().enumerate().skip(1) {
            *v = p.load(pb.add(j * P::S::LANES));
        }
        for i in 0..MR {
            let x = p.splat(pa.add(at[i]));
            for j in 0..NV {
                acc[i][j] = p.madd(x, v[j], acc[i][j]);
            }
        }
    }
}

/// One register tile; rows past `rows` repeat the last one and are not stored. SAFETY: as [`one`]'s.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<P: Product, const MR: usize, const NV: usize>(
    p: P,
    [rows, cols, k]: [usize; 3],
    a: Rows<SumOf<P>>,
    b: *const SumOf<P>,
    c: *mut SumOf<P>,
    ldc: usize,
    start: Start<SumOf<P>>,
    mut ahead: *const SumOf<P>,
) {
    let (s, l, nr) = (p.simd(), P::S::LANES, P::S::NV * P::S::LANES);
    let mut at = [0; MR];
    for (i, at) in at.iter_mut().enumerate() {
        *at = i.min(rows - 1) * a.row;
    }
    let mut acc = [[s.splat(SumOf::<P>::ZERO); NV]; MR];
    let (mut pa, mut pb) = (a.p, b);
    // SAFETY: the caller's.
    unsafe {
        for _ in 0..k / 4 {
            s.prefetch(ahead.cast());
            ahead = ahead.wrapping_add(LINE / size_of::<SumOf<P>>());
            for _ in 0..4 {
                step(p, pa, &at, pb, &mut acc);
                (pa, pb) = (pa.add(a.col), pb.add(nr));
            }
        }
        for _ in 0..k % 4 {
            step(p, pa, &at, pb, &mut acc);
            (pa, pb) = (pa.add(a.col), pb.add(nr));
        }
        for (i, acc) in acc.into_iter().enumerate() {
            if i >= rows {
                continue;
            }
            for (j, v) in acc.into_iter().enumerate() {
                let (c, w) = (c.add(i * ldc + j * l), l.min(cols - j * l));
                start.finish(s, c, j * l, w, v);
            }
        }
    }
}
