//! StableAdamW: AdamW with AMSGrad and update clipping per tensor; and the global gradient-norm clip before it.

use crate::error::{Error, Result};
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
}

impl Default for Hyper {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-10, weight_decay: 1e-4 }
    }
}

/// One update of `p` by its (clipped) gradient `g` in step `t = 1, 2, …`:
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
    let root = e((1.0 - hyper.beta2.powf(t as f64)).sqrt());
    let eps = e(hyper.eps);
    let mut parts = vec![E::ZERO; g.len().div_ceil(CHUNK)];
    let mut tasks: Vec<_> = (m.data.chunks_mut(CHUNK))
        .zip(v.data.chunks_mut(CHUNK))
        .zip(vmax.data.chunks_mut(CHUNK))
        .zip(g.data.chunks(CHUNK))
        .zip(&mut parts)
        .collect();
    cpu.for_chunks(&mut tasks, 1, |_, task| {
        let ((((m, v), vmax), g), sum) = &mut task[0];
        let (beta1, beta2) =
            ([hyper.beta1, 1.0 - hyper.beta1].map(e), [hyper.beta2, 1.0 - hyper.beta2].map(e));
        **sum = cpu.dispatch(Moments { m, v, vmax, g, beta1, beta2, root, eps });
    });
    let sum: f64 = parts.iter().map(|x| x.to_f64()).sum();
    let r = (sum / g.len() as f64).sqrt().max(1.0);
    let rate = e(-lr / (1.0 - hyper.beta1.powf(t as f64)) / r);
    let decay = e(1.0 - lr * hyper.weight_decay);
    cpu.for_chunks(&mut p.data, CHUNK, |i, p| {
        let at = i * CHUNK..i * CHUNK + p.len();
        cpu.dispatch(Update { p, m: &m.data[at.clone()], vmax: &vmax.data[at], decay, rate, root, eps });
    });
    Ok(())
}

/// Updates the moments; `Σ (g/den)²`.
struct Moments<'a, E> {
    m: &'a mut [E],
    v: &'a mut [E],
    vmax: &'a mut [E],
    g: &'a [E],
    beta1: [E; 2],
    beta2: [E; 2],
    root: E,
    eps: E,
}
impl<E: Elem> Kernel<E> for Moments<'_, E> {
    type Output = E;
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) -> E {
        let Self { m, v, vmax, g, beta1, beta2, root, eps } = self;
        let ([b1, c1], [b2, c2]) = (beta1.map(|x| s.splat(x)), beta2.map(|x| s.splat(x)));
        let (root, eps) = (s.splat(root), s.splat(eps));
        slice::zip(s, m, g, |m, g| s.fma(c1, g, s.mul(m, b1)));
        slice::zip(s, v, g, |v, g| s.fma(c2, s.mul(g, g), s.mul(v, b2)));
        slice::zip(s, vmax, v, |a, b| s.max(a, b));
        let mut ratio = vmax.to_vec();
        slice::zip(s, &mut ratio, g, |v, g| s.div(g, s.add(s.div(s.sqrt(v), root), eps)));
        slice::dot(s, &ratio, &ratio)
    }
}

struct Update<'a, E> {
    p: &'a mut [E],
    m: &'a [E],
    vmax: &'a [E],
    decay: E,
    rate: E,
    root: E,
    eps: E,
}
impl<E: Elem> Kernel<E> for Update<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { p, m, vmax, decay, rate, root, eps } = self;
        let (decay, rate) = (s.splat(decay), s.splat(rate));
        let (root, eps) = (s.splat(root), s.splat(eps));
        let mut change = vmax.to_vec();
        slice::zip(s, &mut change, m, |v, m| s.div(m, s.add(s.div(s.sqrt(v), root), eps)));
        slice::zip(s, p, &change, |p, x| s.fma(rate, x, s.mul(p, decay)));
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

/// Multiplies all gradients by `max_norm/(norm + 1e-6)` where that is below 1; the norm before. A norm that is not
/// finite leaves them as they are: the caller must look at it.
pub fn clip<E: Elem>(cpu: &Cpu, grads: &mut [&mut Tensor<E>], max_norm: f64) -> f64 {
    let norm = global_norm(cpu, &grads.iter().map(|g| &**g).collect::<Vec<_>>());
    let coef = max_norm / (norm + 1e-6);
    if norm.is_finite() && coef < 1.0 {
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
