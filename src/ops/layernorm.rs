//! Layer normalisation over the last axis, two-pass statistics, forward and backward.

use crate::error::Result;
use crate::ops::linear::packed::{self, Narrow};
use crate::runtime::simd::slice::{load, store};
use crate::runtime::simd::{Elem, Kernel, Product, ProductKernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// Rows of one task, and of one partial sum of the parameter gradients: fixed, so that their order of summation is too.
const ROWS: usize = 32;

/// What the backward needs of the forward: mean and 1/deviation of each row, `(rows)` each.
#[derive(Clone, Debug)]
pub struct Stats<E: Elem> {
    /// Mean of each row.
    pub mean: Vec<E>,
    /// `1/sqrt(variance + eps)` of each row.
    pub rstd: Vec<E>,
}

/// x `(…, C)`, gain and bias `(C)` → `((x - mean)·rstd·gain + bias, statistics)`; `rstd = 1/sqrt(var + eps)`.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    x: &Tensor<E>,
    gain: &Tensor<E>,
    bias: &Tensor<E>,
    eps: f64,
) -> Result<(Tensor<E>, Stats<E>)> {
    let c = x.cols();
    gain.expect("layernorm", "gain", &[c])?;
    bias.expect("layernorm", "bias", &[c])?;
    let rows = if c == 0 { 0 } else { x.rows() };
    let (y, stats) = cpu.make_chunks2([x.len(), ROWS * c.max(1)], [rows, ROWS], |i, y, stats| {
        let x = &x.data[i * ROWS * c..][..y.len()];
        cpu.dispatch(Forward { y, stats, x, gain: &gain.data, bias: &bias.data, eps: E::from_f64(eps) })
    });
    let (mean, rstd) = stats.into_iter().unzip();
    Ok((Tensor::new(x.shape(), y), Stats { mean, rstd }))
}

struct Forward<'a, E> {
    y: &'a mut [E],
    stats: &'a mut [(E, E)],
    x: &'a [E],
    gain: &'a [E],
    bias: &'a [E],
    eps: E,
}
impl<E: Elem> Kernel<E> for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let c = self.gain.len();
        let n = E::from_f64(c as f64);
        for ((y, x), stats) in self.y.chunks_exact_mut(c).zip(self.x.chunks_exact(c)).zip(self.stats) {
            let mean = slice::sum(s, x) / n;
            let rstd = E::ONE / (slice::sum_sq_dev(s, x, mean) / n + self.eps).sqrt();
            let (m, r) = (s.splat(mean), s.splat(rstd));
            for i in (0..c).step_by(S::LANES) {
                let x_hat = s.mul(s.sub(load(s, x, i), m), r);
                store(s, y, i, s.fma(x_hat, load(s, self.gain, i), load(s, self.bias, i)));
            }
            *stats = (mean, rstd);
        }
    }
}

/// `out = (x - mean)·rstd` of each row of x `(…, C)`, rounded to operands of what comes next: what is left where gain and
/// bias were folded into the next weights.
pub fn normalise<X: Narrow>(cpu: &Cpu, x: &[f32], c: usize, eps: f32, out: &mut [X]) {
    assert_eq!(x.len(), out.len(), "layernorm: normalise");
    cpu.for_chunks(out, ROWS * c, |i, y| {
        cpu.product(Normalise { x: &x[i * ROWS * c..][..y.len()], y, c, eps })
    });
}

struct Normalise<'a, X> {
    y: &'a mut [X],
    x: &'a [f32],
    c: usize,
    eps: f32,
}
impl<X: Narrow> ProductKernel<X> for Normalise<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        let (n, s) = (self.c as f32, p.simd());
        for (y, x) in self.y.chunks_exact_mut(self.c).zip(self.x.chunks_exact(self.c)) {
            let mean = slice::sum(s, x) / n;
            let rstd = 1.0 / (slice::sum_sq_dev(s, x, mean) / n + self.eps).sqrt();
            let (m, r) = (s.splat(mean), s.splat(rstd));
            packed::emit(p, y, x, |_, x| s.mul(s.sub(x, m), r));
        }
    }
}

/// dy `(…, C)` → dx `(…, C)`; `dgain += Σ dy·x̂`, `dbias += Σ dy`.
pub fn backward<E: Elem>(
    cpu: &Cpu,
    dy: &Tensor<E>,
    x: &Tensor<E>,
    gain: &Tensor<E>,
    stats: &Stats<E>,
    dgain: &mut Tensor<E>,
    dbias: &mut Tensor<E>,
) -> Result<Tensor<E>> {
    let c = x.cols();
    dy.expect("layernorm", "dy", x.shape())?;
    gain.expect("layernorm", "gain", &[c])?;
    dgain.expect("layernorm", "dgain", &[c])?;
    dbias.expect("layernorm", "dbias", &[c])?;
    if x.is_empty() {
        return Ok(x.zeros_like());
    }
    // partial (blocks of rows, 2, C): what each adds to dgain and dbias.
    let partial = [x.rows().div_ceil(ROWS) * 2 * c, 2 * c];
    let (dx, partial) = cpu.make_chunks2([x.len(), ROWS * c], partial, |i, dx, partial| {
        let at = i * ROWS * c..i * ROWS * c + dx.len();
        let (mean, rstd) = (&stats.mean[i * ROWS..], &stats.rstd[i * ROWS..]);
        let (dy, x, gain) = (&dy.data[at.clone()], &x.data[at], &gain.data);
        cpu.dispatch(Backward { dx, partial, dy, x, gain, mean, rstd })
    });
    for partial in partial.chunks_exact(2 * c) {
        cpu.dispatch(Add(&mut dgain.data, &partial[..c]));
        cpu.dispatch(Add(&mut dbias.data, &partial[c..]));
    }
    Ok(Tensor::new(x.shape(), dx))
}

struct Backward<'a, E> {
    dx: &'a mut [E],
    partial: &'a mut [E],
    dy: &'a [E],
    x: &'a [E],
    gain: &'a [E],
    mean: &'a [E],
    rstd: &'a [E],
}
impl<E: Elem> Kernel<E> for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let (c, zero) = (self.gain.len(), s.splat(E::ZERO));
        let n = E::from_f64(c as f64);
        let (dgain, dbias) = self.partial.split_at_mut(c);
        for (r, dx) in self.dx.chunks_exact_mut(c).enumerate() {
            let (dy, x) = (&self.dy[r * c..(r + 1) * c], &self.x[r * c..(r + 1) * c]);
            let (mean, rstd) = (s.splat(self.mean[r]), s.splat(self.rstd[r]));
            // Σ g and Σ g·x̂ with g = dy·gain, the gradient of x̂; lanes past the end have dy = 0 (and a finite x̂).
            let (mut sum, mut dot) = (zero, zero);
            for i in (0..c).step_by(S::LANES) {
                let d = load(s, dy, i);
                let x_hat = s.mul(s.sub(load(s, x, i), mean), rstd);
                let g = s.mul(d, load(s, self.gain, i));
                sum = s.add(sum, g);
                dot = s.fma(g, x_hat, dot);
                store(s, dgain, i, s.fma(d, x_hat, load(s, dgain, i)));
                store(s, dbias, i, s.add(d, load(s, dbias, i)));
            }
            let (sum, dot) = (s.splat(s.sum(sum) / n), s.splat(s.sum(dot) / n));
            for i in (0..c).step_by(S::LANES) {
                let x_hat = s.mul(s.sub(load(s, x, i), mean), rstd);
                let g = s.sub(s.mul(load(s, dy, i), load(s, self.gain, i)), sum);
                store(s, dx, i, s.mul(rstd, s.sub(g, s.mul(x_hat, dot))));
            }
        }
    }
}

struct Add<'a, E>(&'a mut [E], &'a [E]);
impl<E: Elem> Kernel<E> for Add<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        slice::add(s, self.0, self.1)
    }
}
