//! Exact GELU, `x·Φ(x)` with the Gauss error function, forward and backward, element-wise.

use crate::error::Result;
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// Elements handled by one task.
const CHUNK: usize = 4 * 1024;

/// x of any shape → `0.5·x·(1 + erf(x/√2))`.
pub fn forward<E: Elem>(cpu: &Cpu, x: &Tensor<E>) -> Result<Tensor<E>> {
    let y = cpu.make_chunks(x.len(), CHUNK, |i, y| {
        let x = &x.data[i * CHUNK..][..y.len()];
        cpu.dispatch(Forward { y, x })
    });
    Ok(Tensor::new(x.shape(), y))
}

struct Forward<'a, E> {
    y: &'a mut [E],
    x: &'a [E],
}
impl<E: Elem> Kernel<E> for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let (half, r) = (s.splat(E::from_f64(0.5)), s.splat(E::from_f64(std::f64::consts::FRAC_1_SQRT_2)));
        slice::zip(s, self.y, self.x, |_, x| {
            let h = s.mul(x, half);
            s.fma(h, s.erf(s.mul(x, r)), h)
        });
    }
}

/// dy and x of one shape → `dy·(Φ(x) + x·φ(x))`.
pub fn backward<E: Elem>(cpu: &Cpu, dy: &Tensor<E>, x: &Tensor<E>) -> Result<Tensor<E>> {
    dy.expect("gelu", "dy", x.shape())?;
    let dx = cpu.make_chunks(x.len(), CHUNK, |i, dx| {
        let at = i * CHUNK..i * CHUNK + dx.len();
        cpu.dispatch(Backward { dx, dy: &dy.data[at.clone()], x: &x.data[at] })
    });
    Ok(Tensor::new(x.shape(), dx))
}

struct Backward<'a, E> {
    dx: &'a mut [E],
    dy: &'a [E],
    x: &'a [E],
}
impl<E: Elem> Kernel<E> for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let c = |x: f64| s.splat(E::from_f64(x));
        let (half, r) = (c(0.5), c(std::f64::consts::FRAC_1_SQRT_2));
        let (minus_half, norm) =
            (c(-0.5), c(0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2));
        slice::zip2(s, self.dx, self.dy, self.x, |_, d, x| {
            let cdf = s.fma(half, s.erf(s.mul(x, r)), half);
            let pdf = s.mul(norm, s.exp(s.mul(minus_half, s.mul(x, x))));
            s.mul(d, s.fma(x, pdf, cdf))
        });
    }
}
