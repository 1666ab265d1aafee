//! Self-attention of the frozen encoder (forward only): softmax(q·kᵀ·D^-0.5)·v per head, rows of the score matrix
//! made and consumed in the nearest cache, a register tile's at a time, never N×N.

pub mod cuda;

use crate::error::{Error, Result};
use crate::ops::linear::micro::{self, Out, Rows};
use crate::ops::linear::pack::{Mat, Pack};
use crate::runtime::simd::aligned::Aligned;
use crate::runtime::simd::product::{SumOf, Sums};
use crate::runtime::simd::slice;
use crate::runtime::simd::{Elem, Operand, Product, ProductKernel, Simd};
use crate::runtime::{Cpu, Tensor};
use micro::Start;

/// Register tiles of query rows that one task takes, one after the other.
const TILES: usize = 4;

/// qkv `(B, T, 3C)`, rows ordered q, k, v, then head, then D → `(B, T, C)`.
///
/// A picture's result has the same bits alone, in any batch and on any thread count. NaN in a row of q spoils that row
/// of its head, NaN in k the whole head, NaN in v its column of the head.
pub fn forward<E: Elem>(cpu: &Cpu, qkv: &Tensor<E>, heads: usize) -> Result<Tensor<E>> {
    qkv.expect("attention", "qkv", &[usize::MAX; 3])?;
    let (b, t, c) = (qkv.shape()[0], qkv.shape()[1], qkv.cols() / 3);
    if heads == 0 || qkv.cols() != 3 * c || c % heads != 0 {
        return Err(Error::Shape {
            op: "attention",
            tensor: "qkv",
            wanted: format!("(B, T, 3·{heads}·D)"),
            got: format!("{:?}", qkv.shape()),
        });
    }
    let mut y = Tensor::zeros(&[b, t, c]);
    if y.is_empty() {
        return Ok(y);
    }
    let softmax = Softmax::Natural(E::from_f64(((c / heads) as f64).powf(-0.5)));
    let mut scratch = Scratch::new(cpu, t, c, heads);
    for (b, y) in y.data.chunks_exact_mut(t * c).enumerate() {
        picture(cpu, qkv.slab(b), [t, c, heads], softmax, 0, &mut scratch, y);
    }
    Ok(y)
}

/// What becomes of the scores x of a row.
#[derive(Clone, Copy)]
pub enum Softmax<E> {
    /// `softmax(scale·x)`.
    Natural(E),
    /// The same with `2^x`, for queries that hold the scale and log2(e).
    Base2,
}

/// Packed keys, then packed values, of each head of one picture, in groups; the scores of each thread's register tile.
#[derive(Clone)]
pub struct Scratch<X: Operand> {
    packed: Aligned<X::Sum>,
    scores: Vec<Aligned<X::Sum>>,
}

impl<X: Operand> Scratch<X> {
    /// For pictures of `t` tokens and `c` channels.
    pub fn new(cpu: &Cpu, t: usize, c: usize, heads: usize) -> Self {
        let (mr, nr) = cpu.product::<X, _>(micro::Shape);
        let (_, head) = sizes::<X>(nr, t, c / heads);
        let scores = vec![Aligned::zeros(mr * t.next_multiple_of(nr)); cpu.threads()];
        Self { packed: Aligned::zeros(heads * head), scores }
    }
}

/// Groups of a head's packed keys, and of both.
fn sizes<X: Operand>(nr: usize, t: usize, d: usize) -> (usize, usize) {
    let keys = t.next_multiple_of(nr) * (d / X::GROUP);
    (keys, keys + d.next_multiple_of(nr) * t.div_ceil(X::GROUP))
}

/// One picture's qkv `(T, 3C)` → rows `first..` of y `(T, C)`: softmax(q·kᵀ)·v. Each head's D channels are whole groups, and
/// qkv begins where a sum could.
pub fn picture<X: Operand>(
    cpu: &Cpu,
    qkv: &[X],
    [t, c, heads]: [usize; 3],
    softmax: Softmax<X::Sum>,
    first: usize,
    scratch: &mut Scratch<X>,
    y: &mut [X],
) {
    assert!(qkv.len() == t * 3 * c && y.len() == t * c && first <= t, "attention: picture");
    let (d, (mr, nr)) = (c / heads, cpu.product::<X, _>(micro::Shape));
    assert!(d.is_multiple_of(X::GROUP), "attention: a part of a group");
    let blocks = (t - first).div_ceil(TILES * mr);
    let (keys, head) = sizes::<X>(nr, t, d);
    let packed = &mut scratch.packed[..heads * head];
    let groups: &[X::Sum] = bytemuck::cast_slice(qkv);
    let (lanes, row) = (d / X::GROUP, 3 * c / X::GROUP);
    cpu.for_chunks(packed, head, |h, out| {
        let (k, values) = out.split_at_mut(keys);
        let (out, b) = (Out(k.as_mut_ptr()), Mat::transposed(&groups[c / X::GROUP + h * lanes..], row));
        cpu.dispatch(Pack { out, width: nr, kc: lanes, b, k0: 0, rows: 0..lanes, cols: 0..t });
        cpu.product(Values { out: values, v: &qkv[2 * c + h * d..], ld: 3 * c, t, d });
    });
    let out = Out(y.as_mut_ptr());
    cpu.run_with(&mut scratch.scores, heads * blocks, |scores, i| {
        let (h, row) = (i / blocks, first + i % blocks * TILES * mr);
        let (keys, values) = packed[h * head..(h + 1) * head].split_at(keys);
        let q = &qkv[row * 3 * c + h * d..];
        let rows = (TILES * mr).min(t - row);
        let (at, shape) = (row * c + h * d, [rows, t, d]);
        cpu.product(Block { out, at, c, q, keys, values, scores, softmax, shape })
    });
}

/// One head's values `(T, D)`, rows `ld` apart, into panels `[T/GROUP][NR]`; what is missing of the last group is zero.
struct Values<'a, X: Operand> {
    out: &'a mut [X::Sum],
    v: &'a [X],
    ld: usize,
    t: usize,
    d: usize,
}
impl<X: Operand> ProductKernel<X> for Values<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        let Self { out, v, ld, t, d } = self;
        let (lanes, nr) = (P::S::LANES, P::S::NV * P::S::LANES);
        let groups = t.div_ceil(X::GROUP);
        for i in 0..groups * X::GROUP {
            for j in (0..d).step_by(lanes) {
                let to = &mut out[(j / nr * groups + i / X::GROUP) * nr + j % nr..][..lanes];
                // SAFETY: row i has d columns; a vector of groups was sliced.
                unsafe {
                    let x = match i < t {
                        true => p.get(v[i * ld + j..i * ld + d].as_ptr(), lanes.min(d - j)),
                        false => p.simd().splat(X::Sum::ZERO),
                    };
                    p.place(to.as_mut_ptr(), i % X::GROUP, x);
                }
            }
        }
    }
}

/// A block of query rows of one head; `shape` is (rows, T, D).
struct Block<'a, X: Operand> {
    out: Out<X>,
    at: usize,
    c: usize,
    q: &'a [X],
    keys: &'a [X::Sum],
    values: &'a [X::Sum],
    scores: &'a mut [X::Sum],
    softmax: Softmax<X::Sum>,
    shape: [usize; 3],
}

/// Elements of the largest register tile.
const TILE: usize = 6 * 64;

impl<X: Operand> ProductKernel<X> for Block<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        let ([rows, t, d], s, l, nr) = (self.shape, p.simd(), P::S::LANES, P::S::NV * P::S::LANES);
        let (lanes, groups, zero) = (d / X::GROUP, t.div_ceil(X::GROUP), X::Sum::ZERO);
        // Whole vectors: the panels are zero past the last key.
        let width = t.next_multiple_of(l);
        let mut tile = [zero; TILE];
        for row in (0..rows).step_by(P::S::MR) {
            let rows = P::S::MR.min(rows - row);
            let q = self.q[row * 3 * self.c..].as_ptr().cast();
            let q = Rows { p: q, row: 3 * self.c / X::GROUP, col: 1, block: 0 };
            let scores = self.scores[..rows * width].as_mut_ptr();
            for j in (0..width).step_by(nr) {
                let b = self.keys[j * lanes..].as_ptr();
                let shape = [rows, nr.min(width - j), lanes];
                // SAFETY: `rows` rows of q follow its first, the panels hold (D, T) and whole vectors.
                unsafe { micro::one(p, shape, q, b, scores.add(j), width, Start::Zero, b) };
            }
            // MR is at most 8.
            let mut sums = [zero; 8];
            for (row, sum) in self.scores.chunks_exact_mut(width).take(rows).zip(&mut sums) {
                // They count as nothing.
                row[t..].fill(X::Sum::from_f64(f64::NEG_INFINITY));
                *sum = match self.softmax {
                    Softmax::Natural(scale) => natural(p, row, scale),
                    Softmax::Base2 => base2(p, row),
                };
            }
            let weights = Rows { p: self.scores.as_ptr(), row: width, col: 1, block: 0 };
            for j in (0..d).step_by(nr) {
                let (b, cols) = (self.values[j * groups..].as_ptr(), nr.min(d - j));
                let x = tile.as_mut_ptr();
                // SAFETY: the panels hold (T, D), the tile MR rows of NR; this task alone touches its rows and its head's
                // columns of y.
                unsafe {
                    micro::one(p, [rows, cols, groups], weights, b, x, nr, Start::Zero, b);
                    for (r, &sum) in sums[..rows].iter().enumerate() {
                        let (y, by) =
                            (self.out.0.add(self.at + (row + r) * self.c + j), s.splat(X::Sum::ONE / sum));
                        for i in (0..cols).step_by(l) {
                            p.put(y.add(i), l.min(cols - i), s.mul(s.load(x.add(r * nr + i)), by));
                        }
                    }
                }
            }
        }
    }
}

/// The weights `e^(scale·row - m)`, m the largest of `scale·row`, take the place of the scores; gives back their sum, by
/// which they are still to be divided. The row is whole vectors.
#[inline(always)]
fn natural<P: Product>(p: P, row: &mut [SumOf<P>], scale: SumOf<P>) -> SumOf<P> {
    let s = p.simd();
    let (by, shift) = (s.splat(scale), s.splat(-(slice::max(s, row) * scale)));
    replace(p, row, |x| s.exp(s.fma(x, by, shift)))
}

/// As [`natural`] with `2^(row - m)`.
#[inline(always)]
fn base2<P: Product>(p: P, row: &mut [SumOf<P>]) -> SumOf<P> {
    let s = p.simd();
    let top = s.splat(slice::max(s, row));
    replace(p, row, |x| p.exp2(s.sub(x, top)))
}

/// Operands `f(x)` take the place of the sums x, from the row's begin on; gives back their sum before rounding.
#[inline(always)]
fn replace<P: Product>(p: P, row: &mut [SumOf<P>], f: impl Fn(Sums<P>) -> Sums<P>) -> SumOf<P> {
    let (s, l) = (p.simd(), P::S::LANES);
    let mut sum = s.splat(SumOf::<P>::ZERO);
    let from = row.as_mut_ptr();
    for i in (0..row.len()).step_by(l) {
        // SAFETY: the row is whole vectors; operands are no longer than sums, so none is written over that is still to come.
        unsafe {
            let x = f(s.load(from.add(i)));
            p.put(from.cast::<P::X>().add(i), l, x);
            sum = s.add(sum, x);
        }
    }
    s.sum(sum)
}
