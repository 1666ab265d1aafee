//! Linear layers whose weights were packed once: what the engine runs. The same register tile and blocks of K as in
//! [`super::gemm`], operands maybe narrower than sums, and an epilogue while the tile of the result is still in the
//! nearest cache.

pub mod factors;

use std::marker::PhantomData;

use super::gemm;
use super::micro::{self, Out, Rows, Start};
use super::pack::{Mat, Pack};
use super::paired::{self, A, AsRows, Blocks, DOWN, WIDTH};
use crate::runtime::Cpu;
use crate::runtime::simd::aligned::{Aligned, LINE};
use crate::runtime::simd::paired::{self as simd, ROWS};
use crate::runtime::simd::product::Sums;
use crate::runtime::simd::{Operand, Product, ProductKernel, Simd, slice};

/// Operands whose sums are f32, and which results can be rounded to.
pub trait Narrow: Operand<Sum = f32> + Cell<Self> {}
impl<X: Operand<Sum = f32> + Cell<X>> Narrow for X {}

/// Weights of one linear layer, in panels `[K/GROUP][NR]` of the device's tier.
#[derive(Clone, Debug)]
pub struct Packed<X = f32> {
    panels: Aligned<f32>,
    /// Outputs N.
    pub n: usize,
    /// Inputs K, whole groups.
    pub k: usize,
    /// Added to every row `(N)`.
    pub bias: Vec<f32>,
    pairs: Option<Blocks>,
    operand: PhantomData<X>,
}

impl<X: Narrow> Packed<X> {
    /// Rounds and packs `w` `(n, k)` row-major, as linear weights are stored.
    pub fn new(cpu: &Cpu, w: &[f32], n: usize, k: usize, bias: Vec<f32>) -> Self {
        assert!(bias.is_empty() || bias.len() == n, "packed: bias");
        assert!(w.len() >= n * k && k.is_multiple_of(X::GROUP), "packed: weights");
        let (nr, lanes) = (tile::<X>(cpu).1, k / X::GROUP);
        let mut panels = Aligned::zeros(n.div_ceil(nr) * nr * lanes);
        cpu.for_chunks(&mut panels, (nr * lanes).max(1), |p, panel| {
            let cols = nr.min(n - p * nr);
            let mut rows = Aligned::<X>::zeros(cols * k);
            cpu.product(Round { from: &w[p * nr * k..][..cols * k], to: &mut rows });
            let (out, b) = (Out(panel.as_mut_ptr()), Mat::transposed(bytemuck::cast_slice(&rows), lanes));
            let rows = 0..lanes;
            cpu.dispatch(Pack { out, width: nr, kc: lanes, b, k0: 0, rows, cols: 0..cols });
        });
        Self { panels, n, k, bias, pairs: None, operand: PhantomData }
    }
    /// As [`Packed::new`], for products in pairs where `cpu` has them for operands X: [`pair`] then makes A.
    pub fn paired(cpu: &Cpu, w: &[f32], n: usize, k: usize, bias: Vec<f32>) -> Self {
        if !gemm::pairs::<X>(cpu, n, k) {
            return Self::new(cpu, w, n, k, bias);
        }
        assert!((bias.is_empty() || bias.len() == n) && w.len() >= n * k, "packed: weights or bias");
        let (nr, blocks) = (tile::<X>(cpu).1, Blocks::new(k, KC));
        let mut panels = Aligned::zeros(n.next_multiple_of(nr) * blocks.rows());
        let out = Out(panels.as_mut_ptr());
        // SAFETY: there are as many panels.
        unsafe { paired::pack(cpu, 1, |_| Mat::transposed(w, k), n, nr, blocks, out) };
        Self { panels, n, k, bias, pairs: Some(blocks), operand: PhantomData }
    }
    /// The panels as an operand.
    pub fn view(&self) -> Panels<'_, X> {
        let stride = self.pairs.map_or(self.k, |b| b.rows());
        Panels { bias: &self.bias, stride, pairs: self.pairs, ..Panels::new(&self.panels, self.n, self.k) }
    }
    /// Rows `k0..k0 + k` of B alone, both whole groups.
    pub fn slice_k(&self, nr: usize, k0: usize, k: usize) -> Panels<'_, X> {
        let whole = k0 + k <= self.k && k0.is_multiple_of(X::GROUP);
        assert!(whole && self.pairs.is_none(), "packed: rows of B");
        let data = &self.panels[(k0 / X::GROUP * nr).min(self.panels.len())..];
        Panels { data, k, bias: &[], ..self.view() }
    }
}

/// Rounds `x` to operands, in chunks on the team.
pub fn round<X: Narrow>(cpu: &Cpu, from: &[f32], to: &mut [X]) {
    const CHUNK: usize = 32 * 1024;
    assert_eq!(from.len(), to.len(), "packed: round");
    cpu.for_chunks(to, CHUNK, |i, to| cpu.product(Round { from: &from[i * CHUNK..][..to.len()], to }));
}

/// Rounds as many values.
struct Round<'a, X> {
    from: &'a [f32],
    to: &'a mut [X],
}
impl<X: Narrow> ProductKernel<X> for Round<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        emit(p, self.to, self.from, |_, x| x);
    }
}

/// Packs `b` `(k, n)` into `panels` of f32, which hold `n.div_ceil(NR)·NR·k` elements.
pub fn pack_into(cpu: &Cpu, panels: &mut [f32], b: Mat<f32>, n: usize, k: usize) {
    let (_, width) = tile::<f32>(cpu);
    b.check(k, n);
    assert!(panels.len() >= n.next_multiple_of(width) * k, "packed: panels too short");
    let out = Out(panels.as_mut_ptr());
    cpu.run(n.div_ceil(width), |p| {
        let cols = p * width..n.min((p + 1) * width);
        cpu.dispatch(Pack { out, width, kc: k, b, k0: 0, rows: 0..k, cols })
    });
}

/// B `(k, n)` in panels.
#[derive(Clone, Copy)]
pub struct Panels<'a, X = f32> {
    /// The groups of the first panel and of all that follow.
    pub data: &'a [f32],
    /// Columns N.
    pub n: usize,
    /// Rows K, whole groups.
    pub k: usize,
    /// Rows from one panel's first to the next's, whole groups.
    pub stride: usize,
    /// Added to every row `(n)`; empty for none.
    pub bias: &'a [f32],
    pairs: Option<Blocks>,
    operand: PhantomData<X>,
}

impl<'a, X> Panels<'a, X> {
    /// B `(k, n)` whose panels follow one another; no bias.
    pub fn new(data: &'a [f32], n: usize, k: usize) -> Self {
        Self { data, n, k, stride: k, bias: &[], pairs: None, operand: PhantomData }
    }
    /// With a bias `(n)`.
    pub fn with_bias(self, bias: &'a [f32]) -> Self {
        Self { bias, ..self }
    }
}

/// A `(m, k)`, rows `ld` apart, a multiple of the operands' group.
#[derive(Clone, Copy)]
pub struct Input<'a, X = f32> {
    /// All the elements, and maybe more.
    pub data: &'a [X],
    /// Elements from one row to the next.
    pub ld: usize,
}

impl<X: Narrow> Input<'_, X> {
    /// The rows from `i` on, the columns from `k` on.
    fn rows(&self, i: usize, k: usize) -> Rows<f32> {
        let row = self.ld / X::GROUP;
        Rows { p: self.data[i * self.ld + k..].as_ptr().cast(), row, col: 1, block: row }
    }
}

/// A `(m, K)` for a product with `w`: as it is, or with its rows packed for products in pairs, which are written to `to`.
pub fn pair<'a, X: Narrow>(
    cpu: &Cpu,
    m: usize,
    a: Input<'a, X>,
    w: &Packed<X>,
    to: &'a mut [f32],
) -> Input<'a, X> {
    let Some(blocks) = w.pairs else { return a };
    let ld = paired::row_len::<f32>(blocks);
    let to = &mut to[..paired_len(m, w.k)];
    let from: &[f32] = bytemuck::cast_slice(a.data);
    cpu.for_chunks(to, ROWS * ld, |i, to| {
        let (m, from) = (ROWS.min(m - i * ROWS), Mat::plain(&from[i * ROWS * a.ld..], a.ld));
        from.check(m, w.k);
        cpu.dispatch(AsRows { out: Out(to.as_mut_ptr()), from, m, blocks });
    });
    Input { data: bytemuck::cast_slice(to), ld }
}

/// Elements that [`pair`] writes of `m` rows of `k`.
pub fn paired_len(m: usize, k: usize) -> usize {
    paired::rows_len::<f32>(m, Blocks::new(k, KC))
}

/// What a result is stored as: sums, or operands of the next product.
pub trait Cell<X: Operand>: Copy + Send + Sync + 'static {
    /// Whether it holds sums as they are, so that they can be built up in it.
    const SUMS: bool;
    /// Writes the first `n <= LANES` lanes.
    ///
    /// # Safety
    /// SAFETY is the caller's: `to` has room for them.
    unsafe fn put<P: Product<X = X>>(p: P, to: *mut Self, n: usize, v: Sums<P>);
}
impl<X: Operand<Sum = f32>> Cell<X> for f32 {
    const SUMS: bool = true;
    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn put<P: Product<X = X>>(p: P, to: *mut f32, n: usize, v: Sums<P>) {
        let s = p.simd();
        // SAFETY: the caller's.
        unsafe { if n == P::S::LANES { s.store(to, v) } else { s.store_n(to, n, v) } }
    }
}
impl Cell<half::bf16> for half::bf16 {
    const SUMS: bool = false;
    // SAFETY: as the trait says.
    #[inline(always)]
    unsafe fn put<P: Product<X = half::bf16>>(p: P, to: *mut half::bf16, n: usize, v: Sums<P>) {
        // SAFETY: the caller's.
        unsafe { p.put(to, n, v) }
    }
}

/// `to = f(index, from)`, vector by vector.
#[inline(always)]
pub(crate) fn emit<P: Product<X: Narrow>, Y: Cell<P::X>>(
    p: P,
    to: &mut [Y],
    from: &[f32],
    f: impl Fn(usize, Sums<P>) -> Sums<P>,
) {
    assert_eq!(to.len(), from.len(), "packed: emit");
    for i in (0..to.len()).step_by(P::S::LANES) {
        let v = f(i, slice::load(p.simd(), from, i));
        // SAFETY: as many elements follow i.
        unsafe { Y::put(p, to.as_mut_ptr().add(i), P::S::LANES.min(to.len() - i), v) };
    }
}

/// What is done with a tile of `A·B + bias`.
#[derive(Clone, Copy)]
pub enum Epilogue<'a> {
    /// `c = …`
    Store,
    /// `c = gelu(…)`
    Gelu,
    /// `c = gelu(scale[row]·… + shift)`, shift `(n)`: a layer norm folded into the product.
    ScaledGelu {
        /// One a row.
        scale: &'a [f32],
        /// One a column.
        shift: &'a [f32],
    },
    /// `c += …`, for a C of sums.
    Residual,
}

/// Rows and columns (in register tiles) of one task: its rows of A stay in the second-level cache.
const TASK: (usize, usize) = (16, 3);
/// Longest block of K, in groups: a task's rows of A and a panel of B stay in the second-level cache.
const KC: usize = 768;

/// C `(m, n)`, rows `ldc` apart, from A·B, optionally plus a second product `tail` added in the same pass. `sum`, if
/// given, `(m, n)` with rows `n` apart, gets C added (which must be of sums).
///
/// A row's bits do not depend on the other rows nor on the threads.
#[allow(clippy::too_many_arguments)]
pub fn forward<X: Narrow, Y: Cell<X>>(
    cpu: &Cpu,
    m: usize,
    a: Input<X>,
    b: Panels<X>,
    tail: Option<(Input<X>, Panels<X>)>,
    c: &mut [Y],
    ldc: usize,
    epilogue: Epilogue,
    sum: Option<&mut [f32]>,
) {
    let (mr, nr) = tile::<X>(cpu);
    let fits = |a: &Input<X>, b: &Panels<X>| {
        assert!(
            [a.ld, b.k, b.stride].iter().all(|x| x.is_multiple_of(X::GROUP)),
            "packed: a part of a group"
        );
        let len = match b.pairs {
            Some(blocks) if a.ld == paired::row_len::<f32>(blocks) => paired::rows_len::<f32>(m, blocks),
            Some(_) => usize::MAX,
            None => (m.max(1) - 1) * a.ld + b.k,
        };
        assert!(m == 0 || len <= a.data.len(), "packed: A too short, or not paired as B is");
        let panels = b.n.div_ceil(nr);
        let rows = (panels.max(1) - 1) * b.stride + b.pairs.map_or(b.k, |blocks| blocks.rows());
        assert!(panels == 0 || rows / X::GROUP * nr <= b.data.len(), "packed: B too short");
    };
    fits(&a, &b);
    if let Some((a, t)) = &tail {
        fits(a, t);
        assert_eq!(t.n, b.n, "packed: tail");
    }
    assert!(m == 0 || b.n == 0 || (m - 1) * ldc + b.n <= c.len() && b.n <= ldc, "packed: C too short");
    if let Some(s) = &sum {
        assert!(s.len() >= m * b.n, "packed: sum too short");
    }
    assert!(Y::SUMS || sum.is_none() && !matches!(epilogue, Epilogue::Residual), "packed: rounded sums");
    if let Epilogue::ScaledGelu { scale, shift } = epilogue {
        assert!(scale.len() >= m && shift.len() == b.n, "packed: scale or shift");
    }
    let (rows, cols) = (if b.pairs.is_some() { DOWN } else { TASK.0 * mr }, TASK.1 * nr);
    let across = b.n.div_ceil(cols);
    let out = Out(c.as_mut_ptr());
    let sum = sum.map(|s| Out(s.as_mut_ptr()));
    cpu.run(m.div_ceil(rows) * across, |t| {
        let (i, j) = (t / across * rows, t % across * cols);
        let shape = [rows.min(m - i), cols.min(b.n - j)];
        cpu.product(Task { at: [i, j], shape, nr, a, b, tail, out, ldc, epilogue, sum });
    });
}

struct Task<'a, X, Y> {
    at: [usize; 2],
    shape: [usize; 2],
    nr: usize,
    a: Input<'a, X>,
    b: Panels<'a, X>,
    tail: Option<(Input<'a, X>, Panels<'a, X>)>,
    out: Out<Y>,
    ldc: usize,
    epilogue: Epilogue<'a>,
    sum: Option<Out<f32>>,
}
impl<X: Narrow, Y: Cell<X>> ProductKernel<X> for Task<'_, X, Y> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        let ([i0, j0], [m, n], nr) = (self.at, self.shape, self.nr);
        let Panels { data: b, bias, .. } = self.b;
        let stride = self.b.stride / X::GROUP;
        let residual = matches!(self.epilogue, Epilogue::Residual);
        // Whether the sums' last way is through the tile, not into C.
        let bends = !Y::SUMS || matches!(self.epilogue, Epilogue::Gelu | Epilogue::ScaledGelu { .. });
        let mut tile = Tile([0.0; TILE]);
        let (blocks, mr) = (self.blocks(), if self.b.pairs.is_some() { WIDTH } else { P::S::MR });
        for block in 0..blocks {
            let ([at, k0, kc], first, last) = (self.block(block), block == 0, block + 1 == blocks);
            for j in (j0..j0 + n).step_by(nr) {
                let cols = nr.min(j0 + n - j);
                let start = match bias {
                    _ if bends && last && !first => Start::Zero,
                    _ if !first || residual => Start::Add,
                    [] => Start::Zero,
                    bias => Start::Bias(&bias[j..j + cols]),
                };
                // The panel that comes after this one, maybe in another task; each register tile fetches a part of it.
                let next = if j + nr < j0 + n {
                    (j / nr + 1) * stride + at
                } else if last {
                    (j0 + n) / nr * stride
                } else {
                    j0 / nr * stride + self.block(block + 1)[0]
                };
                let next = b.as_ptr().wrapping_add(next * nr);
                let at_b = b[(j / nr * stride + at) * nr..].as_ptr();
                for i in (i0..i0 + m).step_by(mr) {
                    let shape = [mr.min(i0 + m - i), cols, kc];
                    let each = match self.b.pairs {
                        None => kc / 4 * (LINE / size_of::<f32>()),
                        Some(_) => kc * nr / (DOWN / WIDTH),
                    };
                    let part = (i - i0) / mr * each;
                    let ahead = if part < kc * nr { next.wrapping_add(part) } else { at_b };
                    let a = match self.b.pairs {
                        None => A::Rows(self.a.rows(i, k0 * X::GROUP)),
                        Some(_) => {
                            let p = self.a.data[i * self.a.ld + at..].as_ptr().cast();
                            A::Paired(simd::Rows { p, row: self.a.ld, col: 1 })
                        }
                    };
                    // SAFETY: `forward` checked A, B and C; this task alone has its rows and columns of C, which is of
                    // f32 where the sums do not go to the tile, and the tile.
                    unsafe {
                        let c = self.out.0.add(i * self.ldc + j).cast::<f32>();
                        let (c, ld) = if bends && last { (tile.0.as_mut_ptr(), nr) } else { (c, self.ldc) };
                        a.times(p, shape, at_b, c, ld, start, ahead);
                        if last {
                            self.finish(p, [i, j], shape, c, ld, bends && !first);
                        }
                    }
                }
            }
        }
    }
}

/// Elements of the largest tile.
const TILE: usize = WIDTH * 64;
/// The sums of a tile on their way through a function. In C they would lie rows apart, where a load may wait for
/// the store of another row at the same place of its page.
#[repr(align(64))]
struct Tile([f32; TILE]);

impl<X: Narrow, Y: Cell<X>> Task<'_, X, Y> {
    /// Length of a block of K in groups: depends on K and the kind of result alone, as every element's order of summation
    /// must.
    fn each(&self) -> usize {
        let k = self.b.k / X::GROUP;
        if Y::SUMS { k.div_ceil(k.div_ceil(KC).max(1)).max(1) } else { k.max(1) }
    }
    fn blocks(&self) -> usize {
        self.b.pairs.map_or((self.b.k / X::GROUP).max(1).div_ceil(self.each()), |blocks| blocks.count())
    }
    /// Where block `i` begins in a panel and in K, and its groups of K.
    fn block(&self, i: usize) -> [usize; 3] {
        let first = i * self.each();
        match self.b.pairs {
            None => [first, first, self.each().min(self.b.k / X::GROUP - first)],
            Some(blocks) => blocks.block(i),
        }
    }
    /// The second product and the epilogue of the register tile whose sums lie at `x`, rows `ld` apart: in C, or beside it
    /// (`add`: and C holds what they are added to).
    ///
    /// SAFETY: no other thread has x nor this part of C.
    #[inline(always)]
    unsafe fn finish<P: Product<X = X>>(
        &self,
        p: P,
        [i0, j]: [usize; 2],
        [rows, cols, _]: [usize; 3],
        x: *mut f32,
        ld: usize,
        add: bool,
    ) {
        let s = p.simd();
        if let Some((a, b)) = self.tail {
            let k = b.k / X::GROUP;
            let panel = b.data[j / self.nr * b.stride / X::GROUP * self.nr..].as_ptr();
            // SAFETY: `forward` checked the operands.
            unsafe { micro::block(p, [rows, cols, k], a.rows(i0, 0), panel, x, ld, Start::Add) };
        }
        if Y::SUMS && matches!(self.epilogue, Epilogue::Store) && self.sum.is_none() {
            return;
        }
        for i in i0..i0 + rows {
            // SAFETY: the caller's; `sum` has the rows and columns of C. Where x is C, which is of f32 then, only one of
            // the two is used.
            unsafe {
                let c = std::slice::from_raw_parts_mut(self.out.0.add(i * self.ldc + j), cols);
                let sums = c.as_mut_ptr().cast::<f32>();
                let x = x.add((i - i0) * ld);
                if add {
                    slice::add(
                        s,
                        std::slice::from_raw_parts_mut(x, cols),
                        std::slice::from_raw_parts(sums, cols),
                    );
                }
                match self.epilogue {
                    Epilogue::Store if Y::SUMS => {}
                    Epilogue::Store => emit(p, c, std::slice::from_raw_parts(x, cols), |_, x| x),
                    Epilogue::Residual if self.b.bias.is_empty() => {}
                    Epilogue::Residual => {
                        let c = std::slice::from_raw_parts_mut(sums, cols);
                        slice::add(s, c, &self.b.bias[j..j + cols])
                    }
                    Epilogue::Gelu => emit(p, c, std::slice::from_raw_parts(x, cols), |_, x| p.gelu(x)),
                    Epilogue::ScaledGelu { scale, shift } => {
                        let (by, shift) = (s.splat(scale[i]), &shift[j..j + cols]);
                        emit(p, c, std::slice::from_raw_parts(x, cols), |o, x| {
                            p.gelu(s.fma(x, by, slice::load(s, shift, o)))
                        });
                    }
                }
                if let Some(sum) = self.sum {
                    let sum = std::slice::from_raw_parts_mut(sum.0.add(i * self.b.n + j), cols);
                    slice::add(s, sum, std::slice::from_raw_parts(sums, cols));
                }
            }
        }
    }
}

/// Rows and columns of the register tile of `cpu`'s tier for operands X.
pub fn tile<X: Operand>(cpu: &Cpu) -> (usize, usize) {
    cpu.product::<X, _>(micro::Shape)
}
