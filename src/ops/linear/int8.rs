//! Linear layers in int8: weights rounded once, with one scale an output; activations rounded row by row, as they come.
//!
//! A row of A is kept as bytes `q + 128` with a scale, `a ≈ scale·q`, `|q| <= 127`; weights as `w ≈ scale[n]·q`. Sums of
//! products of bytes are exact in i32, whatever the tier: only the epilogue rounds.

use super::micro::Out;
use super::packed::{Epilogue, Narrow};
use crate::runtime::Cpu;
use crate::runtime::simd::aligned::{Aligned, LINE};
use crate::runtime::simd::int8::{Dot, MAX_K, MR, NR, Tile};
use crate::runtime::simd::{Kernel, Product, ProductKernel, Simd, slice};

/// Weights of one linear layer in int8, in panels `[K/4][NR][4]`.
#[derive(Clone, Debug)]
pub struct Packed {
    panels: Aligned<i8>,
    /// Outputs N.
    pub n: usize,
    /// Inputs K.
    pub k: usize,
    /// What a unit of each output's weights stands for `(N)`.
    scale: Vec<f32>,
    /// What the activations' offset adds to each sum, `128·Σ_k q[n, k]`, up to the last panel's end.
    less: Vec<i32>,
    /// Added to every row `(N)`; empty for none.
    pub bias: Vec<f32>,
    dot: Dot,
}

impl Packed {
    /// Rounds `w` `(n, k)` row-major. A row that holds a number that is not finite makes its output NaN.
    pub fn new(cpu: &Cpu, w: &[f32], n: usize, k: usize, bias: Vec<f32>) -> Self {
        assert!(w.len() == n * k && (bias.is_empty() || bias.len() == n), "int8: weights or bias");
        assert!(k <= MAX_K, "int8: {k} inputs may overflow");
        let (k4, panels) = (k.div_ceil(4), n.div_ceil(NR));
        let mut data = Aligned::<i8>::zeros(panels * k4 * NR * 4);
        let mut outputs = vec![(0.0f32, 0i32); panels * NR];
        let mut parts: Vec<_> = data.chunks_mut((k4 * NR * 4).max(1)).zip(outputs.chunks_mut(NR)).collect();
        cpu.for_chunks(&mut parts, 1, |p, part| {
            let (panel, outputs) = &mut part[0];
            for (j, (row, out)) in w[p * NR * k..].chunks_exact(k.max(1)).zip(outputs.iter_mut()).enumerate()
            {
                let top = row
                    .iter()
                    .fold(0.0f32, |m, x| m.max(if x.is_finite() { x.abs() } else { f32::INFINITY }));
                let (scale, by) = unit(top);
                let mut sum = 0;
                for (i, x) in row.iter().enumerate() {
                    let q = (x * by).round_ties_even() as i8;
                    panel[(i / 4 * NR + j) * 4 + i % 4] = q;
                    sum += q as i32;
                }
                *out = (scale, 128 * sum);
            }
        });
        let (scale, less): (Vec<f32>, Vec<i32>) = outputs.into_iter().unzip();
        Self { panels: data, n, k, scale: scale[..n].to_vec(), less, bias, dot: Dot::of(cpu.tier()) }
    }
    /// The same weights multiplied by other instructions. Panics where the chip lacks them.
    pub fn with_dot(self, dot: Dot) -> Self {
        assert!(dot.is_supported(), "int8: this processor has no {}", dot.name());
        Self { dot, ..self }
    }
    /// The weights `(n, k)` as they are multiplied: what rounding made of them.
    pub fn dequantised(&self) -> Vec<f32> {
        let k4 = self.k.div_ceil(4);
        let at = |o: usize, i: usize| ((o / NR * k4 + i / 4) * NR + o % NR) * 4 + i % 4;
        let each = |e: usize| (e / self.k, e % self.k);
        let w = (0..self.n * self.k).map(each);
        w.map(|(o, i)| self.panels[at(o, i)] as f32 * self.scale[o]).collect()
    }
}

/// Below this a row counts as zero: its reciprocal must be finite.
const TINY: f32 = 1e-30;

/// What a unit stands for where the largest magnitude is `top`, and its reciprocal; NaN where `top` is not finite.
#[inline(always)]
fn unit(top: f32) -> (f32, f32) {
    if !top.is_finite() {
        return (f32::NAN, f32::NAN);
    }
    let top = top.max(TINY);
    (top / 127.0, 127.0 / top)
}

/// Activations in int8: rows of bytes and a scale for each; room for as many as were asked for.
#[derive(Clone, Debug)]
pub struct Rows {
    data: Aligned<u8>,
    scale: Vec<f32>,
    m: usize,
    k: usize,
}

impl Rows {
    /// Room for `rows` rows of at most `k` inputs.
    pub fn new(rows: usize, k: usize) -> Self {
        Self { data: Aligned::zeros(rows * ld(k)), scale: vec![0.0; rows], m: 0, k: 0 }
    }
    /// Rounds x `(m, k)` with `by` `(k)` multiplied to each row first. A row that holds a number that is not finite gets
    /// the scale NaN.
    pub fn quantise<X: Narrow>(&mut self, cpu: &Cpu, x: &[X], by: &[f32]) {
        self.fill(cpu, x, by.len(), |row, q, scale| cpu.product(Quantise { row, q, scale, by }))
    }
    /// As [`Rows::quantise`], of each row's `(x - mean)/sqrt(var + eps)`.
    pub fn normalise(&mut self, cpu: &Cpu, x: &[f32], eps: f32, by: &[f32]) {
        self.fill(cpu, x, by.len(), |row, q, scale| cpu.dispatch(Normalise { row, q, scale, by, eps }))
    }
    fn fill<X: Sync>(
        &mut self,
        cpu: &Cpu,
        x: &[X],
        k: usize,
        f: impl Fn(&[X], &mut [u8], &mut f32) + Sync + Send,
    ) {
        const ROWS: usize = 16;
        let (m, ld) = (x.len() / k.max(1), ld(k));
        assert!(m * k == x.len() && m * ld <= self.data.len() && m <= self.scale.len(), "int8: rows");
        (self.m, self.k) = (m, k);
        let (data, scale) = (&mut self.data[..m * ld], &mut self.scale[..m]);
        cpu.for_chunks2((data, ROWS * ld), (scale, ROWS), |i, data, scale| {
            let rows = x[i * ROWS * k..].chunks_exact(k);
            for ((row, q), scale) in rows.zip(data.chunks_exact_mut(ld)).zip(scale) {
                f(row, &mut q[..k], scale);
            }
        });
    }
    /// The rows as they are multiplied, `(m, k)`.
    pub fn dequantised(&self) -> Vec<f32> {
        let row = |i: usize| {
            let q = &self.data[i * ld(self.k)..][..self.k];
            q.iter().map(move |q| (*q as i32 - 128) as f32 * self.scale[i])
        };
        (0..self.m).flat_map(row).collect()
    }
}

/// Bytes from one row of `k` to the next: four are multiplied at a time.
fn ld(k: usize) -> usize {
    k.next_multiple_of(4)
}

/// One row.
struct Quantise<'a, X> {
    row: &'a [X],
    q: &'a mut [u8],
    scale: &'a mut f32,
    by: &'a [f32],
}
impl<X: Narrow> ProductKernel<X> for Quantise<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        let Self { row, q, scale, by } = self;
        *scale = round(p.simd(), q, Scaled { p, row, by });
    }
}

/// One row, normalised first.
struct Normalise<'a> {
    row: &'a [f32],
    q: &'a mut [u8],
    scale: &'a mut f32,
    by: &'a [f32],
    eps: f32,
}
impl Kernel<f32> for Normalise<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        let Self { row, q, scale, by, eps } = self;
        let n = row.len() as f32;
        let mean = slice::sum(s, row) / n;
        let rstd = 1.0 / (slice::sum_sq_dev(s, row, mean) / n + eps).sqrt();
        *scale = round(s, q, Normal { row, by, mean: s.splat(mean), rstd: s.splat(rstd) });
    }
}

/// The vectors of a row, where `i` is their first element and `n` how many they have. Not a closure: called twice, it would
/// not be inlined, and be compiled without the tier's instructions.
trait Vectors<S: Simd<E = f32>> {
    fn at(&self, s: S, i: usize, n: usize) -> S::V;
}

struct Scaled<'a, P, X> {
    p: P,
    row: &'a [X],
    by: &'a [f32],
}
impl<P: Product> Vectors<P::S> for Scaled<'_, P, P::X>
where
    P::S: Simd<E = f32>,
{
    #[inline(always)]
    fn at(&self, s: P::S, i: usize, n: usize) -> <P::S as Simd>::V {
        // SAFETY: the row has n elements after i.
        let x = unsafe { self.p.get(self.row[i..i + n].as_ptr(), n) };
        s.mul(x, slice::load(s, self.by, i))
    }
}

struct Normal<'a, S: Simd> {
    row: &'a [f32],
    by: &'a [f32],
    mean: S::V,
    rstd: S::V,
}
impl<S: Simd<E = f32>> Vectors<S> for Normal<'_, S> {
    #[inline(always)]
    fn at(&self, s: S, i: usize, _: usize) -> S::V {
        let x = s.mul(s.sub(slice::load(s, self.row, i), self.mean), self.rstd);
        s.mul(x, slice::load(s, self.by, i))
    }
}

/// Writes the bytes of a row; gives back what a unit stands for.
#[inline(always)]
fn round<S: Simd<E = f32>>(s: S, q: &mut [u8], x: impl Vectors<S>) -> f32 {
    let (zero, mut top, mut odd) = (s.splat(0.0), s.splat(0.0), s.splat(0.0));
    let (l, k) = (S::LANES, q.len());
    for i in (0..k).step_by(l) {
        let x = x.at(s, i, l.min(k - i));
        top = s.max(s.max(x, s.sub(zero, x)), top);
        // NaN once anything was not finite.
        odd = s.fma(x, zero, odd);
    }
    let (scale, by) = unit(s.hmax(top) + s.sum(odd));
    let by = s.splat(by);
    for i in (0..k).step_by(l) {
        let n = l.min(k - i);
        // SAFETY: n bytes of q follow i.
        unsafe { s.store_u8(q.as_mut_ptr().add(i), n, s.mul(x.at(s, i, n), by)) };
    }
    scale
}

/// Rows and panels of one task: its rows of A stay in the second-level cache.
const TASK: (usize, usize) = (16 * MR, 3 * NR);

/// C `(m, n)`, rows `ldc` apart, from A·Bᵀ + bias as `epilogue` says, rounded to Y. `sum`, if given, `(m, n)` with rows
/// `n` apart, gets it added before.
///
/// A row's bits do not depend on the other rows nor on the threads.
pub fn forward<Y: Narrow>(
    cpu: &Cpu,
    a: &Rows,
    b: &Packed,
    c: &mut [Y],
    ldc: usize,
    epilogue: Epilogue,
    sum: Option<&mut [f32]>,
) {
    let (m, n) = (a.m, b.n);
    assert_eq!(a.k, b.k, "int8: inputs");
    assert!(m == 0 || n == 0 || (m - 1) * ldc + n <= c.len() && n <= ldc, "int8: C too short");
    if let Some(s) = &sum {
        assert!(s.len() >= m * n, "int8: sum too short");
    }
    if let Epilogue::ScaledGelu { scale, shift } = epilogue {
        assert!(scale.len() >= m && shift.len() == n, "int8: scale or shift");
    }
    let across = n.div_ceil(TASK.1);
    let out = Out(c.as_mut_ptr());
    let sum = sum.map(|s| Out(s.as_mut_ptr()));
    cpu.run(m.div_ceil(TASK.0) * across, |t| {
        let at = [t / across * TASK.0, t % across * TASK.1];
        let end = [m.min(at[0] + TASK.0), n.min(at[1] + TASK.1)];
        cpu.product(Task { at, end, a, b, out, ldc, epilogue, sum });
    });
}

struct Task<'a, Y> {
    at: [usize; 2],
    end: [usize; 2],
    a: &'a Rows,
    b: &'a Packed,
    out: Out<Y>,
    ldc: usize,
    epilogue: Epilogue<'a>,
    sum: Option<Out<f32>>,
}

/// Sums on their way through the epilogue.
#[repr(align(64))]
struct Sums([f32; MR * NR]);

impl<Y: Narrow> ProductKernel<Y> for Task<'_, Y> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = Y>>(self, p: P) {
        let ([i0, j0], [i1, j1]) = (self.at, self.end);
        let (k4, ld) = (self.a.k.div_ceil(4), ld(self.a.k));
        let panel = k4 * NR * 4;
        let mut sums = Sums([0.0; MR * NR]);
        for j in (j0..j1).step_by(NR) {
            let b = self.b.panels[j / NR * panel..].as_ptr();
            for (part, i) in (i0..i1).step_by(MR).enumerate() {
                let shape = [MR.min(i1 - i), NR.min(j1 - j)];
                // Each tile of the task fetches a part of the panel that comes next.
                let ahead = b.wrapping_add(panel + part * (k4 / 4) * LINE);
                let (a, less) = (self.a.data[i * ld..].as_ptr(), self.b.less[j..].as_ptr());
                let tile = Tile { shape, k4, a, ld, b, less, out: sums.0.as_mut_ptr(), ahead };
                // SAFETY: `Rows` and `Packed` hold what they say, the chip has `dot`; `forward` checked C, and this task
                // alone has its rows and columns.
                unsafe {
                    self.b.dot.tile(tile);
                    self.finish(p, [i, j], shape, &sums.0);
                }
            }
        }
    }
}

impl<Y: Narrow> Task<'_, Y> {
    /// The epilogue of a tile. SAFETY: nobody else has this part of C and of the sum.
    #[inline(always)]
    unsafe fn finish<P: Product<X = Y>>(
        &self,
        p: P,
        [i0, j]: [usize; 2],
        [rows, cols]: [usize; 2],
        x: &[f32],
    ) {
        let (s, columns) = (p.simd(), j..j + cols);
        let (scale, bias) = (&self.b.scale[columns.clone()], self.b.bias.get(columns.clone()));
        for (i, x) in (i0..i0 + rows).zip(x.chunks_exact(NR)) {
            let row = s.splat(self.a.scale[i]);
            // SAFETY: the caller's.
            let c = unsafe { self.out.0.add(i * self.ldc + j) };
            for l in (0..cols).step_by(P::S::LANES) {
                let n = P::S::LANES.min(cols - l);
                let mut y = s.mul(s.mul(slice::load(s, x, l), row), slice::load(s, scale, l));
                if let Some(bias) = bias {
                    y = s.add(y, slice::load(s, bias, l));
                }
                let y = match self.epilogue {
                    Epilogue::Store => y,
                    // SAFETY: n elements of C follow l.
                    Epilogue::Residual => s.add(y, unsafe { p.get(c.add(l), n) }),
                    Epilogue::Gelu => s.gelu(y),
                    Epilogue::ScaledGelu { scale, shift } => {
                        let shift = slice::load(s, &shift[columns.clone()], l);
                        s.gelu(s.fma(y, s.splat(scale[i]), shift))
                    }
                };
                // SAFETY: as above, and of the sum, which is f32.
                unsafe {
                    p.put(c.add(l), n, y);
                    if let Some(sum) = self.sum {
                        let sum = std::slice::from_raw_parts_mut(sum.0.add(i * self.b.n + j + l), n);
                        slice::store(s, sum, 0, s.add(slice::load(s, sum, 0), y));
                    }
                }
            }
        }
    }
}
