//! The engine's small passes: each is one parallel sweep over rows.

use super::fold::EPS;
use crate::ops::linear::packed::factors;
use crate::ops::linear::packed::{Input, Narrow};
use crate::runtime::Cpu;
use crate::runtime::simd::{Kernel, Simd, slice};

/// `y += scale·x`.
pub fn add(cpu: &Cpu, y: &mut [f32], x: &[f32], scale: f32) {
    const CHUNK: usize = 32 * 1024;
    cpu.for_chunks(y, CHUNK, |i, y| cpu.dispatch(Axpy { x: &x[i * CHUNK..][..y.len()], y, scale }));
}

struct Axpy<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    scale: f32,
}
impl Kernel<f32> for Axpy<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        slice::axpy(s, self.y, self.scale, self.x);
    }
}

/// Softmax down each of the `n` columns of x; `scratch` holds two rows.
pub fn column_softmax(cpu: &Cpu, x: &mut [f32], n: usize, scratch: &mut [f32]) {
    cpu.dispatch(ColumnSoftmax { x, n, scratch });
}

struct ColumnSoftmax<'a> {
    x: &'a mut [f32],
    n: usize,
    scratch: &'a mut [f32],
}
impl Kernel<f32> for ColumnSoftmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        let (top, sum) = self.scratch.split_at_mut(self.n);
        top.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        for row in self.x.chunks_exact(self.n) {
            slice::zip(s, top, row, |t, x| s.max(x, t));
        }
        for row in self.x.chunks_exact_mut(self.n) {
            slice::zip(s, row, top, |x, t| s.exp(s.sub(x, t)));
            slice::add(s, sum, row);
        }
        let one = s.splat(1.0);
        slice::map(s, sum, |x| s.div(one, x));
        for row in self.x.chunks_exact_mut(self.n) {
            slice::zip(s, row, sum, |x, r| s.mul(x, r));
        }
    }
}

/// Coefficients `(N, H·P + 1)`: `relu(q·k̂·s)/max(‖q‖, 1e-12)` of each head and prototype, as rounded, then 1; and the
/// rounded ones as operands, rows `ld` apart.
pub fn coefficients<X: Narrow>(
    cpu: &Cpu,
    q: &[f32],
    keys: &[f32],
    [h, p]: [usize; 2],
    coef: &mut [f32],
    operands: &mut [X],
) {
    let ld = h * p + 1;
    let n = coef.len() / ld;
    let (c, wide) = (q.len() / n, operands.len() / n);
    factors::heads(cpu, [h, p, c / h], Input { data: q, ld: c }, keys, coef, ld);
    const ROWS: usize = 16;
    cpu.for_chunks2((coef, ROWS * ld), (operands, ROWS * wide), |i, rows, operands| {
        cpu.dispatch(Relu { rows, operands, q: &q[i * ROWS * c..], c, h, p });
    });
}

struct Relu<'a, X> {
    rows: &'a mut [f32],
    operands: &'a mut [X],
    q: &'a [f32],
    c: usize,
    h: usize,
    p: usize,
}
impl<X: Narrow> Kernel<f32> for Relu<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        let (ld, d) = (self.h * self.p + 1, self.c / self.h);
        let rows = self.rows.chunks_exact_mut(ld);
        let wide = self.operands.len() / rows.len().max(1);
        for ((row, q), out) in rows.zip(self.q.chunks_exact(self.c)).zip(self.operands.chunks_exact_mut(wide))
        {
            for (k, q) in row.chunks_exact_mut(self.p).zip(q.chunks_exact(d)) {
                let by = 1.0 / slice::dot(s, q, q).sqrt().max(1e-12);
                // Written so that NaN is not taken for "not positive".
                k.iter_mut().for_each(|x| *x = if *x <= 0.0 { 0.0 } else { *x * by });
            }
            for (x, out) in row[..ld - 1].iter_mut().zip(out) {
                *out = X::round(*x);
                *x = out.widen();
            }
            row[ld - 1] = 1.0;
        }
    }
}

/// 1/deviation of each row of the block's middle: `var = Σ (coef·G)∘coef`, not below 0.
pub fn row_scales(cpu: &Cpu, coef: &[f32], product: &[f32], ld: usize, rstd: &mut [f32]) {
    const ROWS: usize = 64;
    cpu.for_chunks(rstd, ROWS, |i, out| {
        let at = i * ROWS * ld..(i * ROWS + out.len()) * ld;
        cpu.dispatch(RowScales { out, a: &coef[at.clone()], b: &product[at], ld });
    });
}

struct RowScales<'a> {
    out: &'a mut [f32],
    a: &'a [f32],
    b: &'a [f32],
    ld: usize,
}
impl Kernel<f32> for RowScales<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        for ((r, a), b) in
            self.out.iter_mut().zip(self.a.chunks_exact(self.ld)).zip(self.b.chunks_exact(self.ld))
        {
            let var = slice::dot(s, a, b);
            *r = 1.0 / (if var < 0.0 { 0.0 } else { var } + EPS.1).sqrt();
        }
    }
}

/// `M·Mᵀ/C` of rows `(R, C)`, `(R, R)`.
pub fn gram(cpu: &Cpu, rows: &[f32], c: usize, out: &mut [f32]) {
    let r = rows.len() / c;
    cpu.for_chunks(out, r, |i, out| cpu.dispatch(Dots { out, a: &rows[i * c..][..c], b: rows }));
}

/// `out[j] = a·b[j] / C`.
struct Dots<'a> {
    out: &'a mut [f32],
    a: &'a [f32],
    b: &'a [f32],
}
impl Kernel<f32> for Dots<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        let c = self.a.len();
        for (o, b) in self.out.iter_mut().zip(self.b.chunks_exact(c)) {
            *o = slice::dot(s, self.a, b) / c as f32;
        }
    }
}

/// `1 - cos(a[n], d[n])`.
pub fn cosine(cpu: &Cpu, a: &[f32], d: &[f32], c: usize, map: &mut [f32]) {
    const ROWS: usize = 32;
    cpu.for_chunks(map, ROWS, |i, out| {
        let at = i * ROWS * c..(i * ROWS + out.len()) * c;
        cpu.dispatch(Distance { out, a: &a[at.clone()], d: &d[at], c, each: true });
    });
}

/// Distance of each row of f to the nearest prototype.
pub fn distances(cpu: &Cpu, f: &[f32], inp: &[f32], c: usize, map: &mut [f32]) {
    const ROWS: usize = 32;
    cpu.for_chunks(map, ROWS, |i, out| {
        let a = &f[i * ROWS * c..][..out.len() * c];
        cpu.dispatch(Distance { out, a, d: inp, c, each: false });
    });
}

/// Not a closure: called at several places it would stay out of line, without the tier's instructions.
#[inline(always)]
fn norm<S: Simd<E = f32>>(s: S, x: &[f32]) -> f32 {
    slice::dot(s, x, x).sqrt().max(1e-8)
}

/// `1 - cos` of each row of a with its own row of d (`each`), or the smallest over all rows of d.
struct Distance<'a> {
    out: &'a mut [f32],
    a: &'a [f32],
    d: &'a [f32],
    c: usize,
    each: bool,
}
impl Kernel<f32> for Distance<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        let mut of = self.d.chunks_exact(self.c);
        for (o, a) in self.out.iter_mut().zip(self.a.chunks_exact(self.c)) {
            let na = norm(s, a);
            if self.each {
                let d = of.next().expect("as many rows");
                *o = 1.0 - slice::dot(s, a, d) / (na * norm(s, d));
                continue;
            }
            let mut best = f32::INFINITY;
            for d in self.d.chunks_exact(self.c) {
                let x = 1.0 - slice::dot(s, a, d) / (na * norm(s, d));
                // NaN stays once it came.
                best = if x < best || x.is_nan() { x } else { best };
            }
            *o = best;
        }
    }
}
