//! Blocked matrix product on the CPU: both operands plain or transposed, rows any distance apart.
//!
//! K is cut into blocks whose length depends on K alone; inside a block every element of C is one chain of multiply-adds,
//! and blocks are added in order. So row r of a product has the same bits alone, in any batch and on any thread count.
//!
//! On a [`Cpu::narrowed`] both operands are rounded to narrower ones first, several of which then share a lane along K; C
//! and the sums stay as they are.

use super::micro::{self, Out, Rows};
use super::pack::Pack;
pub use super::{micro::Start, pack::Mat};
use crate::runtime::Cpu;
use crate::runtime::simd::slice::load;
use crate::runtime::simd::{Elem, Operand, Product, ProductKernel, Simd};

/// Longest K block: a panel of it and the rows that meet it stay in the second-level cache.
const KC: usize = 768;
/// Rows that one task packs of an operand stored as it is read.
const STRIP: usize = 16;
/// Register tiles across a panel of a transposed A: rows long enough to be copied at the speed of memory.
const TILES: usize = 8;

/// Rows that one task rounds.
const ROUND: usize = 16;
/// What rounded rows are padded to, so that whole vectors of any tier fit.
const PAD: usize = 16;

/// C `(m, n)`, rows `ldc` apart, becomes A `(m, k)` · B `(k, n)` + `start`.
///
/// Cost: 2mnk FLOP; B is packed on every call (and A if transposed), so small m is bound by reading B.
/// Panics if an operand does not lie inside its slice: ops check shapes at their border.
pub fn gemm<E: Elem>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: Mat<E>,
    b: Mat<E>,
    c: &mut [E],
    ldc: usize,
    start: Start<E>,
) {
    Mat::plain(c, ldc).check(m, n);
    // SAFETY: C was checked.
    unsafe { into(cpu, [m, n, k], a, b, Out(c.as_mut_ptr()), ldc, start) }
}

/// A `(m, k)` · B `(k, n)`, plus a bias `(n)` in every row, as a new matrix; otherwise as [`gemm`].
pub fn product<E: Elem>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: Mat<E>,
    b: Mat<E>,
    bias: Option<&[E]>,
) -> Vec<E> {
    let mut c = Vec::with_capacity(m * n);
    let start = bias.map_or(Start::Zero, Start::Bias);
    // SAFETY: there is room for C, and all of it is assigned, for `start` is not `Add`.
    unsafe {
        into(cpu, [m, n, k], a, b, Out(c.as_mut_ptr()), n, start);
        c.set_len(m * n);
    }
    c
}

/// SAFETY: C may be written at `i·ldc + j` for `i < m, j < n`, and read there if `start` is `Add`.
unsafe fn into<E: Elem>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: Mat<E>,
    b: Mat<E>,
    c: Out<E>,
    ldc: usize,
    start: Start<E>,
) {
    a.check(m, k);
    b.check(k, n);
    if let Start::Bias(bias) = start {
        assert_eq!(bias.len(), n, "gemm: bias");
    }
    let groups = k.div_ceil(E::Narrow::GROUP);
    // SAFETY: C is the caller's; the operands were checked, and `rounded` makes whole ones.
    unsafe {
        if cpu.is_narrow() && E::Narrow::GROUP > 1 {
            let (da, lda) = rounded::<E::Narrow>(cpu, a, !a.transposed, m, k);
            let (db, ldb) = rounded::<E::Narrow>(cpu, b, b.transposed, n, k);
            let (a, b) = (Mat { data: &da[..], ld: lda, ..a }, Mat { data: &db[..], ld: ldb, ..b });
            lanes::<E::Narrow>(cpu, [m, n, groups], a, b, c, ldc, start)
        } else {
            lanes::<E>(cpu, [m, n, k], a, b, c, ldc, start)
        }
    }
}

/// An operand with `k` elements along K and `others` across, in groups: stored as it was, and the distance of its rows.
/// `along`: K runs along the stored rows, so that a group is neighbours in a row; else it is one element of each of
/// neighbouring rows.
fn rounded<X: Operand>(
    cpu: &Cpu,
    from: Mat<X::Sum>,
    along: bool,
    others: usize,
    k: usize,
) -> (Vec<X::Sum>, usize) {
    let groups = k.div_ceil(X::GROUP);
    let (rows, ld) = if along { (others, groups) } else { (groups, others.next_multiple_of(PAD)) };
    let chunk = ROUND * ld.max(1);
    let data = cpu.make_chunks(rows * ld, chunk, |i, to| {
        cpu.product::<X, _>(Round { to, ld, from, first: i * ROUND, along, others, k })
    });
    (data, ld)
}

/// Rows `first..` of a rounded operand. They come as zeros, which is what groups are filled up with.
struct Round<'a, X: Operand> {
    to: &'a mut [X::Sum],
    ld: usize,
    from: Mat<'a, X::Sum>,
    first: usize,
    along: bool,
    others: usize,
    k: usize,
}
impl<X: Operand> ProductKernel<X> for Round<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        let Self { to, ld, from, first, along, others, k } = self;
        let l = P::S::LANES;
        for (to, row) in to.chunks_exact_mut(ld.max(1)).zip(first..) {
            if along {
                let x = &from.data[row * from.ld..][..k];
                for j in (0..k).step_by(l) {
                    // SAFETY: the row has k elements rounded up to whole groups.
                    unsafe { p.put(to.as_mut_ptr().cast::<X>().add(j), l.min(k - j), load(p.simd(), x, j)) };
                }
                continue;
            }
            for slot in (0..X::GROUP).take_while(|slot| row * X::GROUP + slot < k) {
                let x = &from.data[(row * X::GROUP + slot) * from.ld..][..others];
                for j in (0..others).step_by(l) {
                    // SAFETY: rows are padded to a multiple of every tier's lanes.
                    unsafe { p.place(to.as_mut_ptr().add(j), slot, load(p.simd(), x, j)) };
                }
            }
        }
    }
}

/// The product of operands that lie in lanes, `k` of them along K.
///
/// SAFETY: as [`into`]'s; A and B hold `(m, k)` and `(k, n)`.
unsafe fn lanes<X: Operand>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: Mat<X::Sum>,
    b: Mat<X::Sum>,
    c: Out<X::Sum>,
    ldc: usize,
    mut start: Start<X::Sum>,
) {
    if m == 0 || n == 0 {
        return;
    }
    let (mr, nr) = cpu.product::<X, _>(micro::Shape);
    let kc = k.div_ceil(k.div_ceil(KC).max(1));
    let (rows, cols) = task(cpu.threads(), m, n, mr, nr);
    let across = n.div_ceil(cols);
    // One pass even for k = 0, where C becomes `start`.
    for k0 in (0..k.max(1)).step_by(kc.max(1)) {
        let kc = kc.min(k - k0);
        let pb = panels(cpu, b, k0, kc, n, nr);
        let pa = if a.transposed {
            panels(cpu, Mat::plain(a.data, a.ld), k0, kc, m, TILES * mr)
        } else {
            Vec::new()
        };
        cpu.run(m.div_ceil(rows) * across, |t| {
            let (i, j) = (t / across * rows, t % across * cols);
            let (m, n) = (rows.min(m - i), cols.min(n - j));
            let a = if a.transposed {
                let in_panel = i % (TILES * mr);
                let p = pa[(i - in_panel) * kc + in_panel..].as_ptr();
                Rows { p, row: 1, col: TILES * mr, block: 1 }
            } else {
                Rows { p: a.data[i * a.ld + k0..].as_ptr(), row: a.ld, col: 1, block: a.ld }
            };
            let start = match start {
                Start::Bias(bias) => Start::Bias(&bias[j..j + n]),
                other => other,
            };
            let at = i * ldc + j;
            cpu.product::<X, _>(Task { shape: [m, n, kc], a, b: &pb[j * kc..], c, at, ldc, start });
        });
        start = Start::Add;
    }
}

/// Packs columns `0..n` of rows `k0..k0 + kc` into panels of `width`.
fn panels<E: Elem>(cpu: &Cpu, b: Mat<E>, k0: usize, kc: usize, n: usize, width: usize) -> Vec<E> {
    let len = n.next_multiple_of(width) * kc;
    let mut v = Vec::with_capacity(len);
    let out = Out(v.as_mut_ptr());
    let pack = |rows, cols| cpu.dispatch(Pack { out, width, kc, b, k0, rows, cols });
    if b.transposed {
        cpu.run(n.div_ceil(width), |p| pack(0..kc, p * width..n.min((p + 1) * width)))
    } else {
        cpu.run(kc.div_ceil(STRIP), |i| pack(i * STRIP..kc.min((i + 1) * STRIP), 0..n))
    }
    // SAFETY: the tasks wrote every row of every panel.
    unsafe { v.set_len(len) };
    v
}

/// Rows and columns of one task: large enough that A's rows are used on many panels, small enough to feed every thread.
fn task(threads: usize, m: usize, n: usize, mr: usize, nr: usize) -> (usize, usize) {
    let (mut rows, mut cols) = (TILES * mr, 8 * nr);
    while threads > 1 && m.div_ceil(rows) * n.div_ceil(cols) < 4 * threads && (rows > mr || cols > nr) {
        if cols > nr { cols /= 2 } else { rows /= 2 }
    }
    (rows, cols)
}

struct Task<'a, E> {
    shape: [usize; 3],
    a: Rows<E>,
    b: &'a [E],
    c: Out<E>,
    at: usize,
    ldc: usize,
    start: Start<'a, E>,
}
impl<X: Operand> ProductKernel<X> for Task<'_, X::Sum> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        // SAFETY: `into` checked A and B, its caller C, and this task's rows and columns lie inside them.
        unsafe {
            let c = self.c.0.add(self.at);
            micro::block(p, self.shape, self.a, self.b.as_ptr(), c, self.ldc, self.start)
        }
    }
}
