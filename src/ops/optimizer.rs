//! StableAdamW: AdamW with AMSGrad and update clipping per tensor; and the global gradient-norm clip before it.

use crate::error::{Error, Result};
use crate::runtime::simd::slice::{load, store};
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// Elements handled by one task; sums are made per chunk, then over the chunks in their order.
const CHUNK: usize = 16 * 1024;

/// What the optimiser remembers of one parameter tensor, all of its shape.
#[derive(Clone, Debug)]
pub struct State<E: Elem = f32> {
    /// Running mean of the gradient.
    pub m: Tensor<E>,
    /// Running mean of its square.
    pub v: Tensor<E>,
    /// Largest `v` so far.
    pub vmax: Tensor<E>,
}

impl<E: Elem> State<E> {
    /// The state before the first step of `p`.
    pub fn new(p: &Tensor<E>) -> Self {
        Self { m: p.zeros_like(), v: p.zeros_like(), vmax: p.zeros_like() }
    }
}

/// Constants of the update; the default is the published setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean square.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Share of the rate by which parameters shrink first.
    pub weight_decay: f64,
    /// What gradients are multiplied by on their way in: [`clip_scale`], or 1.
    pub scale: f64,
}

impl Default for Hyper {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-10, weight_decay: 1e-4, scale: 1.0 }
    }
}

/// One update of `p` by its gradient `g`, times the scale, in step `t = 1, 2, …`:
///
/// `p *= 1 - lr·wd`; `m = β1·m + (1-β1)·g`; `v = β2·v + (1-β2)·g²`; `v̂ = max(v̂, v)`;
/// `den = sqrt(v̂)/sqrt(1-β2^t) + eps`; `r = max(1, rms(g/den))`; `p -= lr/(1-β1^t)/r · m/den`.
pub fn step<E: Elem>(
    cpu: &Cpu,
    p: &mut Tensor<E>,
    g: &Tensor<E>,
    state: &mut State<E>,
    lr: f64,
    t: u64,
    hyper: &Hyper,
) -> Result<()> {
    g.expect("optimizer", "g", p.shape())?;
    let State { m, v, vmax } = state;
    for s in [&*m, v, vmax] {
        s.expect("optimizer", "state", p.shape())?;
    }
    if t == 0 {
        return Err(Error::usage("optimizer: steps are counted from 1, not from 0"));
    }
    let e = E::from_f64;
    let scale = Moving {
        scale: e(hyper.scale),
        beta1: [hyper.beta1, 1.0 - hyper.beta1].map(e),
        beta2: [hyper.beta2, 1.0 - hyper.beta2].map(e),
        per_root: e(1.0 / (1.0 - hyper.beta2.powf(t as f64)).sqrt()),
        eps: e(hyper.eps),
    };
    let mut parts = vec![E::ZERO; g.len().div_ceil(CHUNK)];
    let mut tasks: Vec<_> = (m.data.chunks_mut(CHUNK))
        .zip(v.data.chunks_mut(CHUNK))
        .zip(vmax.data.chunks_mut(CHUNK))
        .zip(g.data.chunks(CHUNK))
        .zip(&mut parts)
        .collect();
    cpu.for_chunks(&mut tasks, 1, |_, task| {
        let ((((m, v), vmax), g), sum) = &mut task[0];
        **sum = cpu.dispatch(Moments { m, v, vmax, g, by: scale });
    });
    let sum: f64 = parts.iter().map(|x| x.to_f64()).sum();
    let r = (sum / g.len() as f64).sqrt().max(1.0);
    let rate = e(-lr / (1.0 - hyper.beta1.powf(t as f64)) / r);
    let decay = e(1.0 - lr * hyper.weight_decay);
    cpu.for_chunks(&mut p.data, CHUNK, |i, p| {
        let at = i * CHUNK..i * CHUNK + p.len();
        cpu.dispatch(Update { p, m: &m.data[at.clone()], vmax: &vmax.data[at], decay, rate, by: scale });
    });
    Ok(())
}

/// Constants of one step.
#[derive(Clone, Copy)]
struct Moving<E> {
    scale: E,
    beta1: [E; 2],
    beta2: [E; 2],
    /// `1/sqrt(1-β2^t)`.
    per_root: E,
    eps: E,
}

impl<E: Elem> Moving<E> {
    /// `sqrt(v̂)/sqrt(1-β2^t) + eps`.
    #[inline(always)]
    fn den<S: Simd<E = E>>(&self, s: S, vmax: S::V) -> S::V {
        s.fma(s.sqrt(vmax), s.splat(self.per_root), s.splat(self.eps))
    }
}

/// Updates the moments; `Σ (g/den)²`.
struct Moments<'a, E> {
    m: &'a mut [E],
    v: &'a mut [E],
    vmax: &'a mut [E],
    g: &'a [E],
    by: Moving<E>,
}
impl<E: Elem> Kernel<E> for Moments<'_, E> {
    type Output = E;
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) -> E {
        let Self { m, v, vmax, g, by } = self;
        let [b1, c1, b2, c2] = [by.beta1[0], by.beta1[1], by.beta2[0], by.beta2[1]].map(|x| s.splat(x));
        let scale = s.splat(by.scale);
        let mut sum = s.splat(E::ZERO);
        for i in (0..g.len()).step_by(S::LANES) {
            // Past the end all is zero, but the denominator, which is eps.
            let g = s.mul(load(s, g, i), scale);
            store(s, m, i, s.fma(c1, g, s.mul(load(s, m, i), b1)));
            let new = s.fma(c2, s.mul(g, g), s.mul(load(s, v, i), b2));
            let top = s.max(load(s, vmax, i), new);
            store(s, v, i, new);
            store(s, vmax, i, top);
            let ratio = s.div(g, by.den(s, top));
            sum = s.fma(ratio, ratio, sum);
        }
        s.sum(sum)
    }
}

struct Update<'a, E> {
    p: &'a mut [E],
    m: &'a [E],
    vmax: &'a [E],
    decay: E,
    rate: E,
    by: Moving<E>,
}
impl<E: Elem> Kernel<E> for Update<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { p, m, vmax, decay, rate, by } = self;
        let (decay, rate) = (s.splat(decay), s.splat(rate));
        slice::zip2(s, p, m, vmax, |p, m, v| s.fma(rate, s.div(m, by.den(s, v)), s.mul(p, decay)));
    }
}

/// Euclidean norm of all gradients together.
pub fn global_norm<E: Elem>(cpu: &Cpu, grads: &[&Tensor<E>]) -> f64 {
    let mut parts: Vec<_> = grads.iter().flat_map(|g| g.data.chunks(CHUNK)).map(|x| (x, E::ZERO)).collect();
    cpu.for_chunks(&mut parts, 1, |_, part| part[0].1 = cpu.dispatch(SumSquares(part[0].0)));
    parts.iter().map(|(_, sum)| sum.to_f64()).sum::<f64>().sqrt()
}

struct SumSquares<'a, E>(&'a [E]);
impl<E: Elem> Kernel<E> for SumSquares<'_, E> {
    type Output = E;
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) -> E {
        slice::dot(s, self.0, self.0)
    }
}

/// `max_norm/(norm + 1e-6)` where that is below 1, else 1: what gradients of this norm are multiplied by. A norm that is not
/// finite leaves them as they are: the caller must look at it.
pub fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    let coef = max_norm / (norm + 1e-6);
    if norm.is_finite() && coef < 1.0 { coef } else { 1.0 }
}

/// Multiplies all gradients by their [`clip_scale`]; the norm before.
pub fn clip<E: Elem>(cpu: &Cpu, grads: &mut [&mut Tensor<E>], max_norm: f64) -> f64 {
    let norm = global_norm(cpu, &grads.iter().map(|g| &**g).collect::<Vec<_>>());
    let coef = clip_scale(norm, max_norm);
    if coef < 1.0 {
        let mut parts: Vec<_> = grads.iter_mut().flat_map(|g| g.data.chunks_mut(CHUNK)).collect();
        cpu.for_chunks(&mut parts, 1, |_, g| cpu.dispatch(Scale { x: g[0], by: E::from_f64(coef) }));
    }
    norm
}

struct Scale<'a, E> {
    x: &'a mut [E],
    by: E,
}
impl<E: Elem> Kernel<E> for Scale<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        slice::scale(s, self.x, self.by)
    }
}
