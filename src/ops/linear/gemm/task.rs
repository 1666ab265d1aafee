//! What a task of a product is, and what becomes of its sums.

use super::super::micro::{Out, Start};
use super::super::paired::{A, Blocks, WIDTH};
use super::KC;
use super::side::Side;
use crate::runtime::simd::aligned::LINE;
use crate::runtime::simd::product::{SumOf, Sums};
use crate::runtime::simd::{Operand, Product, Simd};

/// Where C begins, the distance of its rows and that of its parts.
#[derive(Clone, Copy)]
pub(super) struct C<E> {
    pub out: Out<E>,
    pub ld: usize,
    pub step: usize,
}

/// What becomes of the sums.
#[derive(Clone, Copy)]
pub(super) enum End<'a, X: Operand> {
    /// They are stored.
    Store(C<X::Sum>),
    /// GELU of them and its slope, rows n apart.
    Gelu { y: Out<X>, slope: Out<X> },
    /// They are multiplied by `by`, rows n apart.
    Times { by: &'a [X], y: Out<X> },
}

/// `count` products of parts of A and B.
#[derive(Clone, Copy)]
pub(super) struct Job<'a, X: Operand> {
    pub count: usize,
    pub shape: [usize; 3],
    pub a: Side<'a, X>,
    pub b: Side<'a, X>,
    pub end: End<'a, X>,
    pub start: Start<'a, X::Sum>,
}

impl<X: Operand> Job<'_, X> {
    /// Groups along K.
    pub fn groups(&self) -> usize {
        self.shape[2].div_ceil(X::GROUP)
    }
    /// Length of a block of K, in groups, at least one: sums that go through a function come in one.
    pub fn block(&self) -> usize {
        let k = self.groups();
        if matches!(self.end, End::Store(_)) { k.div_ceil(k.div_ceil(KC).max(1)).max(1) } else { k.max(1) }
    }
    /// The same for paired products.
    pub fn blocks(&self) -> Blocks {
        Blocks::new(self.shape[2], if matches!(self.end, End::Store(_)) { KC } else { usize::MAX })
    }
}

/// Rows and columns of one part's product, of which one operand is packed.
pub(super) struct Task<'a, X: Operand> {
    pub job: Job<'a, X>,
    pub packed: Out<X::Sum>,
    pub part: usize,
    pub at: [usize; 2],
    pub size: [usize; 2],
}

/// Elements of the largest tile.
const TILE: usize = WIDTH * 64;
/// Sums of a tile on their way through a function.
#[repr(align(64))]
struct Tile<E>(#[allow(dead_code)] [E; TILE]);

impl<X: Operand> Task<'_, X> {
    /// One tile, of the block of K that begins at `k0`.
    ///
    /// SAFETY: as [`A::times`]'s; no other thread has this part of what is written.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn tile<P: Product<X = X>>(
        &self,
        p: P,
        [i, j]: [usize; 2],
        shape @ [rows, cols, _]: [usize; 3],
        k0: usize,
        a: A<SumOf<P>>,
        b: *const SumOf<P>,
        ahead: *const SumOf<P>,
    ) {
        let (s, l, nr) = (p.simd(), P::S::LANES, P::S::NV * P::S::LANES);
        let [m, n, _] = self.job.shape;
        let start = match self.job.start {
            _ if k0 > 0 => Start::Add,
            Start::Bias(bias) => Start::Bias(&bias[j..j + cols]),
            other => other,
        };
        // SAFETY: the caller's.
        unsafe {
            if let End::Store(C { out, ld, step }) = self.job.end {
                let c = out.0.add(self.part * step + i * ld + j);
                return a.times(p, shape, b, c, ld, start, ahead);
            }
            if let End::Times { by, .. } = self.job.end {
                // Asked for now, here after the products.
                let per = LINE / size_of::<X>();
                for r in 0..rows {
                    let at = (self.part * m + i + r) * n + j;
                    (0..cols).step_by(per).for_each(|o| s.prefetch(by.as_ptr().wrapping_add(at + o).cast()));
                }
            }
            let mut tile = std::mem::MaybeUninit::<Tile<SumOf<P>>>::uninit();
            let x = tile.as_mut_ptr().cast::<SumOf<P>>();
            a.times(p, shape, b, x, nr, start, ahead);
            for r in 0..rows {
                let at = (self.part * m + i + r) * n + j;
                for o in (0..cols).step_by(l) {
                    let (w, x, at) = (l.min(cols - o), x.add(r * nr + o), at + o);
                    // Nothing was written past the columns.
                    let x: Sums<P> = if w == l { s.load(x) } else { s.load_n(x, w) };
                    match self.job.end {
                        End::Store(_) => {}
                        End::Gelu { y, slope } => {
                            let [v, d] = p.gelu_slope(x);
                            p.put(y.0.add(at), w, v);
                            p.put(slope.0.add(at), w, d);
                        }
                        End::Times { by, y } => {
                            p.put(y.0.add(at), w, s.mul(x, p.get(by.as_ptr().add(at), w)))
                        }
                    }
                }
            }
        }
    }
}
