//! The decoder's attention: N tokens look at the image's P prototypes, per head `A = relu(s_h·q̂·k̂ᵀ)`, `out = A·v`,
//! with q̂ and k̂ of unit length; forward and backward.

use crate::error::Result;
use crate::ops::inp_coefficients::train as coefficients;
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// Rows of q handled by one task.
const ROWS: usize = 16;

/// What the backward needs of the forward.
#[derive(Clone, Debug)]
pub struct Saved<E: Elem> {
    /// Attention after the ReLU, `(B, N, H·P)`.
    pub a: Tensor<E>,
    lengths: coefficients::Saved<E>,
}

/// q `(B, N, C)`, kv `(B, P, 2C)`, rows ordered k, v, then head, then D, scale `(H, 1, 1)` → out `(B, N, C)`.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    q: &Tensor<E>,
    kv: &Tensor<E>,
    scale: &Tensor<E>,
    heads: usize,
) -> Result<(Tensor<E>, Saved<E>)> {
    let (a, lengths) = coefficients::forward(cpu, q, kv, scale, heads, false)?;
    let c = q.cols();
    let out = cpu.make_chunks(q.len(), ROWS * c, |i, out| {
        cpu.dispatch(Forward { out, a: &a, kv, first: i * ROWS, heads });
    });
    Ok((Tensor::new(q.shape(), out), Saved { a, lengths }))
}

struct Forward<'a, E: Elem> {
    out: &'a mut [E],
    a: &'a Tensor<E>,
    kv: &'a Tensor<E>,
    first: usize,
    heads: usize,
}
impl<E: Elem> Kernel<E> for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { out, a, kv, first, heads } = self;
        let (n, p, c) = (a.shape()[1], kv.shape()[1], kv.cols() / 2);
        for (out, row) in out.chunks_exact_mut(c).zip(first..) {
            for (i, &a) in a.row(row).iter().enumerate() {
                let (h, d) = (i / p, c / heads);
                if a != E::ZERO {
                    slice::axpy(s, &mut out[h * d..][..d], a, &kv.row(row / n * p + i % p)[c + h * d..][..d]);
                }
            }
        }
    }
}

/// dout `(B, N, C)` and the forward's inputs → dq `(B, N, C)`, dkv `(B, P, 2C)`; `dscale += …`.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Elem>(
    cpu: &Cpu,
    dout: &Tensor<E>,
    q: &Tensor<E>,
    kv: &Tensor<E>,
    scale: &Tensor<E>,
    saved: &Saved<E>,
    dscale: &mut Tensor<E>,
    heads: usize,
) -> Result<(Tensor<E>, Tensor<E>)> {
    dout.expect("inp_attention", "dout", q.shape())?;
    let (a, c, ld) = (&saved.a, q.cols(), saved.a.cols());
    let da = cpu.make_chunks(a.len(), ROWS * ld, |i, da| {
        cpu.dispatch(Scores { da, dout, kv, first: i * ROWS, n: a.shape()[1], heads });
    });
    let dkv = cpu.make_chunks(kv.len(), 2 * c, |row, dkv| {
        cpu.dispatch(Values { dv: &mut dkv[c..], dout, a, p: kv.shape()[1], row, heads });
    });
    let (da, mut dkv) = (Tensor::new(a.shape(), da), Tensor::new(kv.shape(), dkv));
    let dq = coefficients::backward(cpu, &da, a, q, kv, scale, &saved.lengths, dscale, &mut dkv)?;
    Ok((dq, dkv))
}

/// The gradient arriving at the coefficients, `dout·v`.
struct Scores<'a, E: Elem> {
    da: &'a mut [E],
    dout: &'a Tensor<E>,
    kv: &'a Tensor<E>,
    first: usize,
    n: usize,
    heads: usize,
}
impl<E: Elem> Kernel<E> for Scores<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { da, dout, kv, first, n, heads } = self;
        let (p, c) = (kv.shape()[1], dout.cols());
        let d = c / heads;
        for (da, row) in da.chunks_exact_mut(heads * p).zip(first..) {
            for (i, da) in da.iter_mut().enumerate() {
                let v = &kv.row(row / n * p + i % p)[c + i / p * d..][..d];
                *da = slice::dot(s, &dout.row(row)[i / p * d..][..d], v);
            }
        }
    }
}

/// dv of one prototype of one image: a sum over the image's tokens, in their order.
struct Values<'a, E: Elem> {
    dv: &'a mut [E],
    dout: &'a Tensor<E>,
    a: &'a Tensor<E>,
    p: usize,
    row: usize,
    heads: usize,
}
impl<E: Elem> Kernel<E> for Values<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { dv, dout, a, p, row, heads } = self;
        let (n, d) = (a.shape()[1], dv.len() / heads);
        for i in row / p * n..(row / p + 1) * n {
            for h in 0..heads {
                let a = a.row(i)[h * p + row % p];
                if a != E::ZERO {
                    slice::axpy(s, &mut dv[h * d..][..d], a, &dout.row(i)[h * d..][..d]);
                }
            }
        }
    }
}
