//! Self-attention of the frozen encoder (forward only): softmax(q·kᵀ·D^-0.5)·v per head, rows of the score matrix
//! made and consumed in the nearest cache, a register tile's at a time, never N×N.

pub mod cuda;

use crate::error::{Error, Result};
use crate::ops::linear::micro::{self, Out, Rows};
use crate::ops::linear::pack::{Mat, Pack};
use crate::runtime::simd::aligned::Aligned;
use crate::runtime::simd::slice::{self, load, store};
use crate::runtime::simd::{Elem, Kernel, Simd};
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

/// Packed keys, then packed values, of each head of one picture; the scores of each thread's register tile.
#[derive(Clone)]
pub struct Scratch<E: Elem> {
    packed: Aligned<E>,
    scores: Vec<Aligned<E>>,
}

impl<E: Elem> Scratch<E> {
    /// For pictures of `t` tokens and `c` channels.
    pub fn new(cpu: &Cpu, t: usize, c: usize, heads: usize) -> Self {
        let (mr, nr) = cpu.dispatch::<E, _>(micro::Shape);
        let (_, head) = sizes(nr, t, c / heads);
        let scores = vec![Aligned::zeros(mr * t.next_multiple_of(nr)); cpu.threads()];
        Self { packed: Aligned::zeros(heads * head), scores }
    }
}

/// Elements of a head's packed keys, and of both.
fn sizes(nr: usize, t: usize, d: usize) -> (usize, usize) {
    let keys = t.next_multiple_of(nr) * d;
    (keys, keys + d.next_multiple_of(nr) * t)
}

/// One picture's qkv `(T, 3C)` → rows `first..` of y `(T, C)`: softmax(q·kᵀ)·v.
pub fn picture<E: Elem>(
    cpu: &Cpu,
    qkv: &[E],
    [t, c, heads]: [usize; 3],
    softmax: Softmax<E>,
    first: usize,
    scratch: &mut Scratch<E>,
    y: &mut [E],
) {
    assert!(qkv.len() == t * 3 * c && y.len() == t * c && first <= t, "attention: picture");
    let (d, (mr, nr)) = (c / heads, cpu.dispatch::<E, _>(micro::Shape));
    let blocks = (t - first).div_ceil(TILES * mr);
    let (keys, head) = sizes(nr, t, d);
    let packed = &mut scratch.packed[..heads * head];
    cpu.for_chunks(packed, head, |h, out| {
        let (k, v) = out.split_at_mut(keys);
        let mat = |part| &qkv[part * c + h * d..];
        let (keys, values) = (Mat::transposed(mat(1), 3 * c), Mat::plain(mat(2), 3 * c));
        let out = (Out(k.as_mut_ptr()), Out(v.as_mut_ptr()));
        cpu.dispatch(Pack { out: out.0, width: nr, kc: d, b: keys, k0: 0, rows: 0..d, cols: 0..t });
        cpu.dispatch(Pack { out: out.1, width: nr, kc: t, b: values, k0: 0, rows: 0..t, cols: 0..d });
    });
    let out = Out(y.as_mut_ptr());
    cpu.run_with(&mut scratch.scores, heads * blocks, |scores, i| {
        let (h, row) = (i / blocks, first + i % blocks * TILES * mr);
        let (keys, values) = packed[h * head..(h + 1) * head].split_at(keys);
        let q = &qkv[row * 3 * c + h * d..];
        let rows = (TILES * mr).min(t - row);
        let (at, shape) = (row * c + h * d, [rows, t, d]);
        cpu.dispatch(Block { out, at, c, q, keys, values, scores, softmax, shape })
    });
}

/// A block of query rows of one head; `shape` is (rows, T, D).
struct Block<'a, E> {
    out: Out<E>,
    at: usize,
    c: usize,
    q: &'a [E],
    keys: &'a [E],
    values: &'a [E],
    scores: &'a mut [E],
    softmax: Softmax<E>,
    shape: [usize; 3],
}
impl<E: Elem> Kernel<E> for Block<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let ([rows, t, d], nr) = (self.shape, S::NV * S::LANES);
        // Whole vectors: the panels are zero past the last key.
        let width = t.next_multiple_of(S::LANES);
        for row in (0..rows).step_by(S::MR) {
            let rows = S::MR.min(rows - row);
            let q = self.q[row * 3 * self.c..].as_ptr();
            let q = Rows { p: q, row: 3 * self.c, col: 1, block: 0 };
            let scores = self.scores[..rows * width].as_mut_ptr();
            for j in (0..width).step_by(nr) {
                let b = self.keys[j * d..].as_ptr();
                // SAFETY: `rows` rows of q follow its first, the panels hold (D, T) and whole vectors.
                unsafe {
                    micro::one(s, [rows, nr.min(width - j), d], q, b, scores.add(j), width, Start::Zero, b)
                };
            }
            // MR is at most 8.
            let mut sums = [E::ZERO; 8];
            for (row, sum) in self.scores.chunks_exact_mut(width).take(rows).zip(&mut sums) {
                // They count as nothing.
                row[t..].fill(E::from_f64(f64::NEG_INFINITY));
                *sum = match self.softmax {
                    Softmax::Natural(scale) => natural(s, row, scale),
                    Softmax::Base2 => base2(s, row),
                };
            }
            let p = Rows { p: self.scores.as_ptr(), row: width, col: 1, block: 0 };
            for j in (0..d).step_by(nr) {
                let (b, cols) = (self.values[j * t..].as_ptr(), nr.min(d - j));
                // SAFETY: the panels hold (T, D); this task alone touches its rows and its head's columns of y.
                unsafe {
                    let y = self.out.0.add(self.at + row * self.c + j);
                    micro::one(s, [rows, cols, t], p, b, y, self.c, Start::Zero, b);
                    for (r, &sum) in sums[..rows].iter().enumerate() {
                        let row = std::slice::from_raw_parts_mut(y.add(r * self.c), cols);
                        slice::scale(s, row, E::ONE / sum);
                    }
                }
            }
        }
    }
}

/// `row = e^(scale·row - m)`, m the largest of `scale·row`; gives back the row's sum, by which it is still to be divided.
/// The row is whole vectors.
#[inline(always)]
fn natural<S: Simd>(s: S, row: &mut [S::E], scale: S::E) -> S::E {
    let (by, shift) = (s.splat(scale), s.splat(-(slice::max(s, row) * scale)));
    let mut sum = s.splat(S::E::ZERO);
    for x in row.chunks_exact_mut(S::LANES) {
        let p = s.exp(s.fma(load(s, x, 0), by, shift));
        store(s, x, 0, p);
        sum = s.add(sum, p);
    }
    s.sum(sum)
}

/// As [`natural`] with `2^(row - m)`.
#[inline(always)]
fn base2<S: Simd>(s: S, row: &mut [S::E]) -> S::E {
    let top = s.splat(slice::max(s, row));
    let mut sum = s.splat(S::E::ZERO);
    for x in row.chunks_exact_mut(S::LANES) {
        let p = s.exp2(s.sub(load(s, x, 0), top));
        store(s, x, 0, p);
        sum = s.add(sum, p);
    }
    s.sum(sum)
}
