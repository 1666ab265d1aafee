//! Products of [`simd::paired`](crate::runtime::simd::paired) tiles: how both operands are packed for them, and what is
//! taken away afterwards.
//!
//! Sums of `(x₁ + y₂)(x₂ + y₁)` are as exact as those of `x₁y₁ + x₂y₂` only where x and y are of one magnitude. So each row
//! of A and each column of B is multiplied, in every block of K, by the power of two that brings its root mean square to
//! between 1 and 2, and the sums are multiplied back. The error is then that of the plain order relative to `‖x‖·‖y‖`, and
//! nothing depends on any other row.
//!
//! B, and an A that is stored transposed, are packed into panels; an A that is not keeps its rows ([`AsRows`]). A block of K
//! is whole steps, then `-½·Σ x₁x₂` of each row or column, then what its sums are to be multiplied with. Half is taken
//! away before and half afterwards: on the way the sums are smaller then, and their roundings too.

use super::micro::{self, Out, Rows, Start};
use super::pack::{Mat, Pack};
use crate::runtime::Cpu;
use crate::runtime::simd::aligned::LINE;
use crate::runtime::simd::paired::{self as simd, ROWS, STEP, VECTORS};
use crate::runtime::simd::{Elem, Kernel, Operand, Product, Simd, slice};

/// Blocks of K in a panel, or in a row of A.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    k: usize,
    each: usize,
}

/// Columns of a panel of A, and rows of it between two looks at B's panel.
pub const WIDTH: usize = 2 * ROWS;
/// Rows that one task takes of an A that is not transposed: they stay in the second-level cache.
pub const DOWN: usize = 6 * WIDTH;
/// Rows of a block that are not of the operand.
const MORE: usize = 2;

impl Blocks {
    /// Blocks of at most `longest` rows, or a step more.
    pub fn new(k: usize, longest: usize) -> Self {
        let count = k.div_ceil(longest).max(1);
        Self { k, each: k.div_ceil(count).next_multiple_of(STEP).max(STEP) }
    }
    /// How many.
    pub fn count(&self) -> usize {
        self.k.div_ceil(self.each).max(1)
    }
    /// Rows of a panel.
    pub fn rows(&self) -> usize {
        let last = self.k - (self.count() - 1) * self.each;
        (self.count() - 1) * (self.each + MORE) + last.next_multiple_of(STEP) + MORE
    }
    /// Where block `i` begins in a panel and in K, and its rows of K.
    pub fn block(&self, i: usize) -> [usize; 3] {
        let first = i * self.each;
        [i * (self.each + MORE), first, self.each.min(self.k - first)]
    }
}

/// Columns of a matrix of `blocks.k` rows, packed into panels `[blocks.rows()][width]`, one after the other.
pub struct Panels<'a, E> {
    /// The panel of the first column; all of the panels that hold `cols` columns may be written.
    pub out: Out<E>,
    pub width: usize,
    pub from: Mat<'a, E>,
    pub cols: usize,
    pub blocks: Blocks,
    /// The block to pack.
    pub block: usize,
}

impl<E: Elem> Kernel<E> for Panels<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { out, width, from, cols, blocks, block } = self;
        let (stride, [at, k0, k]) = (blocks.rows(), blocks.block(block));
        // SAFETY: the block lies inside the first panel.
        let out = unsafe { out.at(at * width) };
        if from.transposed {
            Pack { out, width, kc: stride, b: from, k0, rows: 0..k, cols: 0..cols }.run(s);
        }
        let end = cols.next_multiple_of(width);
        let mut j = 0;
        while j < end {
            let n = cols.saturating_sub(j);
            // SAFETY: vectors of each row of the block, which the caller lets be written; the matrix has k rows of cols.
            unsafe {
                let panel = |v: usize| out.0.wrapping_add((j + v) / width * width * stride + (j + v) % width);
                if from.transposed {
                    columns::<S, 1>(s, panel(0), width, S::LANES, [panel(0)], width, k);
                    j += S::LANES;
                    continue;
                }
                let first = from.data[k0 * from.ld + j.min(cols)..].as_ptr();
                if n >= GO * S::LANES {
                    let to = std::array::from_fn::<_, GO, _>(|v| panel(v * S::LANES));
                    columns(s, first, from.ld, GO * S::LANES, to, width, k);
                    j += GO * S::LANES;
                } else {
                    columns::<S, 1>(s, first, from.ld, n.min(S::LANES), [panel(0)], width, k);
                    j += S::LANES;
                }
            }
        }
    }
}

/// Vectors of columns that go together.
const GO: usize = 4;
/// Columns of a matrix that one task packs.
const CHUNK: usize = 64;

/// The columns of `count` parts of a matrix, each `from(part)`, packed into panels on the team.
///
/// SAFETY: there is room for them.
pub unsafe fn pack<'a, E: Elem>(
    cpu: &Cpu,
    count: usize,
    from: impl Fn(usize) -> Mat<'a, E> + Sync + Send,
    cols: usize,
    width: usize,
    blocks: Blocks,
    out: Out<E>,
) {
    let (size, each) = (cols.next_multiple_of(width) * blocks.rows(), cols.div_ceil(CHUNK));
    cpu.run(count * blocks.count() * each, |t| {
        let (part, block, j) = (t / (blocks.count() * each), t / each % blocks.count(), t % each * CHUNK);
        let from = from(part).columns_from(j);
        from.check(blocks.k, CHUNK.min(cols - j));
        // SAFETY: within the room, and the panels of each chunk of columns are its own.
        let out = unsafe { out.at(part * size + j * blocks.rows()) };
        cpu.dispatch(Panels { out, width, from, cols: CHUNK.min(cols - j), blocks, block });
    });
}

/// Stored rows that are asked for before their turn.
const AHEAD: usize = 8;

/// Scales vectors of columns, of which the first `n` columns are there, of `k` rows, `ld` apart, into a block of panels;
/// from and to may be the same, if all are there.
///
/// SAFETY: they can be read, and the block's vectors of columns be written.
#[inline(always)]
unsafe fn columns<S: Simd, const V: usize>(
    s: S,
    from: *const S::E,
    ld: usize,
    n: usize,
    panels: [*mut S::E; V],
    width: usize,
    k: usize,
) {
    let (l, zero, steps) = (S::LANES, s.splat(S::E::ZERO), k.div_ceil(STEP));
    let all = n == V * l;
    // SAFETY: the caller's.
    unsafe {
        let mut squares = [[zero; V]; 2];
        for row in 0..k {
            let at = from.wrapping_add(row * ld);
            for (v, sum) in squares[row % 2].iter_mut().enumerate() {
                let at = at.wrapping_add(v * l);
                s.prefetch(at.wrapping_add(AHEAD * ld));
                let x = if all { s.load(at) } else { s.load_n(at, n) };
                *sum = s.fma(x, x, *sum);
            }
        }
        let mut by = [zero; V];
        for v in 0..V {
            let scale = panels[v].add(steps * STEP * width);
            let back = scale.add(width);
            s.store(scale, s.add(squares[0][v], squares[1][v]));
            for j in 0..l {
                let [by, then] = match v * l + j < n {
                    true => balance((*scale.add(j)).to_f64(), from.add(v * l + j), ld, k),
                    false => [1.0, 0.0],
                };
                scale.add(j).write(S::E::from_f64(by));
                back.add(j).write(S::E::from_f64(then));
            }
            by[v] = s.load(scale);
        }
        let mut taken = [zero; V];
        for step in 0..steps {
            for v in 0..V {
                let mut x = [zero; STEP];
                for (i, x) in x.iter_mut().enumerate() {
                    let row = step * STEP + i;
                    let at = from.wrapping_add(row * ld + v * l);
                    if row < k {
                        *x = s.mul(by[v], if all { s.load(at) } else { s.load_n(at, n) });
                    }
                    s.store(panels[v].add(row * width), *x);
                }
                taken[v] = s.fma(x[0], x[1], taken[v]);
            }
        }
        for v in 0..V {
            s.store(panels[v].add(steps * STEP * width), s.mul(taken[v], s.splat(S::E::from_f64(-0.5))));
        }
    }
}

/// Distance of rows of A that were packed as rows: each lies at other places of the cache's pages than the one before.
pub fn row_len<E>(blocks: Blocks) -> usize {
    let line = LINE / size_of::<E>();
    (blocks.rows().div_ceil(line) | 1) * line
}

/// Elements of so many rows, in whole tiles.
pub fn rows_len<E>(m: usize, blocks: Blocks) -> usize {
    m.next_multiple_of(ROWS) * row_len::<E>(blocks)
}

/// `m` rows of a plain matrix, packed as rows: each the blocks of K one after the other.
pub struct AsRows<'a, E> {
    /// There is room for [`rows_len`].
    pub out: Out<E>,
    pub from: Mat<'a, E>,
    pub m: usize,
    pub blocks: Blocks,
}

impl<E: Elem> Kernel<E> for AsRows<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { out, from, m, blocks } = self;
        assert!(!from.transposed, "paired: rows of a transposed matrix");
        for i in 0..m {
            for block in 0..blocks.count() {
                let [at, k0, k] = blocks.block(block);
                // SAFETY: the row's own part of the room.
                unsafe {
                    row(s, &from.data[i * from.ld + k0..][..k], out.0.add(i * row_len::<E>(blocks) + at))
                };
            }
        }
    }
}

/// Scales a row into a block.
///
/// SAFETY: a block of as many steps may be written.
#[inline(always)]
unsafe fn row<S: Simd>(s: S, from: &[S::E], to: *mut S::E) {
    let (l, k, zero) = (S::LANES, from.len(), s.splat(S::E::ZERO));
    let mut first = [S::E::ZERO; 16 + STEP];
    first.iter_mut().step_by(STEP).for_each(|x| *x = S::E::ONE);
    let (mut squares, mut taken, mut firsts) = ([zero; STEP], [zero; STEP], [zero; STEP]);
    let len = k.next_multiple_of(STEP);
    // SAFETY: the caller's, and of the row that there are k.
    unsafe {
        // The first of each step, in the vectors that begin at 0, 1 or 2 of one.
        for (i, x) in firsts.iter_mut().enumerate() {
            *x = s.load(first.as_ptr().add(i * l % STEP));
        }
        let at = from.as_ptr();
        // Vectors that another element follows.
        let vectors = k.saturating_sub(1) / l;
        for v in (0..vectors / STEP * STEP).step_by(STEP) {
            for i in 0..STEP {
                let (x, next) = (s.load(at.add((v + i) * l)), s.load(at.add((v + i) * l + 1)));
                squares[i] = s.fma(x, x, squares[i]);
                taken[i] = s.fma(s.mul(x, firsts[i]), next, taken[i]);
            }
        }
        for v in vectors / STEP * STEP..k.div_ceil(l) {
            let (x, next) = (slice::load(s, from, v * l), slice::load(s, from, v * l + 1));
            squares[v % STEP] = s.fma(x, x, squares[v % STEP]);
            taken[v % STEP] = s.fma(s.mul(x, firsts[v % STEP]), next, taken[v % STEP]);
        }
        let squares = s.sum(s.add(s.add(squares[0], squares[1]), squares[2])).to_f64();
        let [by, back] = balance(squares, at, 1, k).map(S::E::from_f64);
        let (whole, scale) = (k / l * l, s.splat(by));
        for i in (0..whole).step_by(l) {
            s.store(to.add(i), s.mul(s.load(at.add(i)), scale));
        }
        let to = std::slice::from_raw_parts_mut(to, len + MORE);
        for i in whole..k {
            to[i] = from[i] * by;
        }
        to[k..len].fill(S::E::ZERO);
        let taken = match in_range(squares) {
            true => s.sum(s.add(s.add(taken[0], taken[1]), taken[2])) * by * by,
            false => to[..len].chunks_exact(STEP).fold(S::E::ZERO, |sum, x| sum + x[0] * x[1]),
        };
        (to[len], to[len + 1]) = (taken * S::E::from_f64(-0.5), back);
    }
}

/// Whether squares and products like these are within the range of f32.
fn in_range(squares: f64) -> bool {
    (1e-30..1e30).contains(&squares)
}

/// Power of two for a column of this sum of squares, and what undoes it; a column of zeros gives zeros.
///
/// SAFETY: `column` has `k` elements, `ld` apart.
#[inline(always)]
unsafe fn balance<E: Elem>(mut squares: f64, column: *const E, ld: usize, k: usize) -> [f64; 2] {
    if !in_range(squares) {
        // SAFETY: the caller's.
        squares = (0..k).map(|i| unsafe { (*column.add(i * ld)).to_f64() }).map(|x| x * x).sum();
    }
    if squares == 0.0 {
        return [1.0, 0.0];
    }
    if !squares.is_finite() {
        return [1.0; 2];
    }
    let mean = squares / k as f64;
    let exponent = ((mean.to_bits() >> 52) as i32 - 1023).div_euclid(2).clamp(-126, 126);
    [-exponent, exponent].map(|e| f64::from_bits(((1023 + e) as u64) << 52))
}

/// Rows of A that a tile multiplies.
pub enum A<E> {
    Rows(Rows<E>),
    /// Packed for products in pairs.
    Paired(simd::Rows<E>),
}

impl<E: Elem> A<E> {
    /// SAFETY: as [`micro::one`]'s or [`tile`]'s.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn times<P: Product<S: Simd<E = E>, X: Operand<Sum = E>>>(
        self,
        p: P,
        shape: [usize; 3],
        b: *const E,
        c: *mut E,
        ldc: usize,
        start: Start<E>,
        ahead: *const E,
    ) {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::Rows(a) => micro::one(p, shape, a, b, c, ldc, start, ahead),
                Self::Paired(a) => tile(p.simd(), shape, a, b, c, ldc, start, ahead),
            }
        }
    }
}

/// C of any number of rows and `cols <= NR` columns, of a block of `k` rows of K. Meanwhile as many lines from `ahead` on
/// come nearer as there are steps; they need not exist.
///
/// SAFETY: a and b point to a block that was packed, a of whole tiles of rows; C may be written at `i·ldc + j`, and read if
/// `start` is `Add`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn tile<S: Simd>(
    s: S,
    [rows, cols, k]: [usize; 3],
    a: simd::Rows<S::E>,
    b: *const S::E,
    c: *mut S::E,
    ldc: usize,
    start: Start<S::E>,
    mut ahead: *const S::E,
) {
    let (l, nr, steps) = (S::LANES, S::NV * S::LANES, k.div_ceil(STEP));
    let mut sums = std::mem::MaybeUninit::<Sums<S::E>>::uninit();
    let x = sums.as_mut_ptr().cast::<S::E>();
    // SAFETY: the caller's; a tile of sums is at most 8 rows of 32.
    unsafe {
        let of_b = b.add(steps * STEP * nr);
        for i in (0..rows).step_by(ROWS) {
            let a = simd::Rows { p: a.p.add(i * a.row), ..a };
            for j in (0..cols).step_by(VECTORS * l) {
                let of_a = a.p.add(steps * STEP * a.col);
                // Rows that are not there are as the last one, and not stored.
                for r in 0..ROWS {
                    let taken = s.splat(*of_a.add(r.min(rows - i - 1) * a.row));
                    for v in (0..VECTORS * l).step_by(l) {
                        s.store(x.add(r * VECTORS * l + v), s.add(taken, s.load(of_b.add(j + v))));
                    }
                }
                s.paired(a, b.add(j), steps, x, ahead);
                ahead = ahead.wrapping_add(steps * LINE / size_of::<S::E>());
                for r in 0..ROWS.min(rows - i) {
                    let of_a = of_a.add(r * a.row);
                    let (taken, back) = (s.splat(*of_a), s.splat(*of_a.add(a.col)));
                    for o in (j..cols.min(j + VECTORS * l)).step_by(l) {
                        let v = s.load(x.add(r * VECTORS * l + o - j));
                        let v = s.add(v, s.add(taken, s.load(of_b.add(o))));
                        let v = s.mul(s.mul(v, back), s.load(of_b.add(nr + o)));
                        start.finish(s, c.add((i + r) * ldc + o), o, l.min(cols - o), v);
                    }
                }
            }
        }
    }
}

/// A register tile of sums.
#[repr(align(64))]
struct Sums<E>(#[allow(dead_code)] [E; ROWS * VECTORS * 16]);
