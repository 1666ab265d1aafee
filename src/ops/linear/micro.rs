//! The register tile of every matrix product: `MR` rows by `NV` vectors of C held in registers while K runs.
//!
//! An element of C is one chain of multiply-adds over K, whatever the tile it falls in, so its bits do not depend
//! on M, on N or on how the tiles were dealt out.

use crate::runtime::simd::aligned::LINE;
use crate::runtime::simd::{Elem, Kernel, Simd};

/// `(MR, NR)` of a tier's register tile.
pub struct Shape;
impl<E: Elem> Kernel<E> for Shape {
    type Output = (usize, usize);
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, _: S) -> (usize, usize) {
        (S::MR, S::NV * S::LANES)
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

/// Where C begins, for tasks that each write their own elements of it.
#[derive(Clone, Copy)]
pub struct Out<E>(pub *mut E);
// SAFETY: a pointer to elements that may go to other threads; whoever writes through it answers for the place.
unsafe impl<E: Send> Send for Out<E> {}
unsafe impl<E: Send> Sync for Out<E> {}

/// Rows of A: element (i, k) is at `p + i·row + k·col`; the block of `MR` rows from row i begins at `p + i·block`.
#[derive(Clone, Copy)]
pub struct Rows<E> {
    pub p: *const E,
    pub row: usize,
    pub col: usize,
    pub block: usize,
}

/// C `(m, n)` from `m` rows of A and `n` columns of packed panels (`[k][NR]` each, see `pack`).
///
/// SAFETY: A holds `(m, k)`, `b` holds `n.div_ceil(NR)` panels, and C may be written at `i·ldc + j` for `i < m, j < n`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn block<S: Simd>(
    s: S,
    [m, n, k]: [usize; 3],
    a: Rows<S::E>,
    b: *const S::E,
    c: *mut S::E,
    ldc: usize,
    start: Start<S::E>,
) {
    let nr = S::NV * S::LANES;
    for j in (0..n).step_by(nr) {
        let cols = nr.min(n - j);
        let start = match start {
            Start::Bias(bias) => Start::Bias(&bias[j..j + cols]),
            other => other,
        };
        for i in (0..m).step_by(S::MR) {
            let rows = S::MR.min(m - i);
            // SAFETY: the caller's, for the rows from i and the columns from j.
            unsafe {
                let a = Rows { p: a.p.add(i * a.block), ..a };
                let (b, c) = (b.add(j * k), c.add(i * ldc + j));
                one(s, [rows, cols, k], a, b, c, ldc, start, b);
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
pub unsafe fn one<S: Simd>(
    s: S,
    shape @ [_, cols, _]: [usize; 3],
    a: Rows<S::E>,
    b: *const S::E,
    c: *mut S::E,
    ldc: usize,
    start: Start<S::E>,
    ahead: *const S::E,
) {
    // SAFETY: the caller's.
    unsafe {
        match (S::MR, cols.div_ceil(S::LANES)) {
            (6, 1) => tile::<S, 6, 1>(s, shape, a, b, c, ldc, start, ahead),
            (6, 2) => tile::<S, 6, 2>(s, shape, a, b, c, ldc, start, ahead),
            (6, 3) if S::NV > 2 => tile::<S, 6, 3>(s, shape, a, b, c, ldc, start, ahead),
            (6, 4) if S::NV > 3 => tile::<S, 6, 4>(s, shape, a, b, c, ldc, start, ahead),
            (4, 1) => tile::<S, 4, 1>(s, shape, a, b, c, ldc, start, ahead),
            (4, 2) => tile::<S, 4, 2>(s, shape, a, b, c, ldc, start, ahead),
            shape => unreachable!("no register tile of {shape:?}"),
        }
    }
}

/// Elements of C that a row of B adds to. SAFETY: as [`tile`]'s, for that row.
#[inline(always)]
unsafe fn step<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    pa: *const S::E,
    at: &[usize; MR],
    pb: *const S::E,
    acc: &mut [[S::V; NV]; MR],
) {
    let mut v = [s.splat(S::E::ZERO); NV];
    // SAFETY: the caller's; a panel has NR >= NV·LANES columns in each of its rows.
    unsafe {
        for (j, v) in v.iter_mut().enumerate() {
            *v = s.load(pb.add(j * S::LANES));
        }
        for i in 0..MR {
            let x = s.splat(*pa.add(at[i]));
            for j in 0..NV {
                acc[i][j] = s.fma(x, v[j], acc[i][j]);
            }
        }
    }
}

/// One register tile; rows past `rows` repeat the last one and are not stored. SAFETY: as [`one`]'s.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    [rows, cols, k]: [usize; 3],
    a: Rows<S::E>,
    b: *const S::E,
    c: *mut S::E,
    ldc: usize,
    start: Start<S::E>,
    mut ahead: *const S::E,
) {
    let (l, nr) = (S::LANES, S::NV * S::LANES);
    let mut at = [0; MR];
    for (i, at) in at.iter_mut().enumerate() {
        *at = i.min(rows - 1) * a.row;
    }
    let mut acc = [[s.splat(S::E::ZERO); NV]; MR];
    let (mut pa, mut pb) = (a.p, b);
    // SAFETY: the caller's.
    unsafe {
        for _ in 0..k / 4 {
            s.prefetch(ahead);
            ahead = ahead.wrapping_add(LINE / size_of::<S::E>());
            for _ in 0..4 {
                step(s, pa, &at, pb, &mut acc);
                (pa, pb) = (pa.add(a.col), pb.add(nr));
            }
        }
        for _ in 0..k % 4 {
            step(s, pa, &at, pb, &mut acc);
            (pa, pb) = (pa.add(a.col), pb.add(nr));
        }
        for (i, acc) in acc.into_iter().enumerate() {
            if i >= rows {
                continue;
            }
            for (j, v) in acc.into_iter().enumerate() {
                let (c, w) = (c.add(i * ldc + j * l), l.min(cols - j * l));
                let base = match start {
                    Start::Zero => None,
                    Start::Bias(bias) => Some(bias.as_ptr().add(j * l)),
                    Start::Add => Some(c.cast_const()),
                };
                if w == l {
                    s.store(c, base.map_or(v, |p| s.add(v, s.load(p))));
                } else {
                    s.store_n(c, w, base.map_or(v, |p| s.add(v, s.load_n(p, w))));
                }
            }
        }
    }
}
