//! The decoder's attention: N tokens look at the image's P prototypes, per head `A = relu(s_h·q̂·k̂ᵀ)`, `out = A·v`,
//! with q̂ and k̂ of unit length; forward and backward.
//!
//! Lengths below [`EPS`] count as [`EPS`] and then carry no gradient, as in torch's `normalize`.

use crate::error::Result;
use crate::ops::inp_extract::head_dim;
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// Smallest length that a query or key is divided by.
pub const EPS: f64 = 1e-12;
/// Rows of q handled by one task.
const ROWS: usize = 16;

/// What the backward needs of the forward.
#[derive(Clone, Debug)]
pub struct Saved<E: Elem> {
    /// Attention after the ReLU, `(B, N, H, P)`.
    pub a: Tensor<E>,
    /// `1/max(‖q‖, eps)`, `(B, N, H)`.
    q_inv: Vec<E>,
    /// Unit keys, `(B, P, C)`.
    k_hat: Tensor<E>,
    /// `1/max(‖k‖, eps)`, `(B, P, H)`.
    k_inv: Tensor<E>,
}

/// q `(B, N, C)`, kv `(B, P, 2C)`, rows ordered k, v, then head, then D, scale `(H, 1, 1)` → out `(B, N, C)`.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    q: &Tensor<E>,
    kv: &Tensor<E>,
    scale: &Tensor<E>,
    heads: usize,
) -> Result<(Tensor<E>, Saved<E>)> {
    let (b, n, p, d) = check(q, kv, scale, heads)?;
    let c = heads * d;
    let (k_hat, k_inv) = cpu.make_chunks2([b * p * c, c], [b * p * heads, heads], |i, hat, inv| {
        hat.copy_from_slice(&kv.row(i)[..c]);
        cpu.dispatch(Lengths { inv, x: hat });
        hat.chunks_exact_mut(d).zip(inv).for_each(|(x, inv)| x.iter_mut().for_each(|x| *x = *x * *inv));
    });
    let q_inv = cpu.make_chunks(b * n * heads, ROWS * heads, |i, inv| {
        let x = &q.data[i * ROWS * c..][..inv.len() * d];
        cpu.dispatch(Lengths { inv, x });
    });
    let k_hat = Tensor::new(&[b, p, c], k_hat);
    let rows = ROWS * heads;
    let (out, a) = cpu.make_chunks2([q.len(), rows * d], [b * n * heads * p, rows * p], |i, out, a| {
        let (k_hat, q_inv, scale) = (&k_hat, &q_inv[i * rows..][..a.len() / p], &scale.data[..]);
        cpu.dispatch(Forward { out, a, q_inv, q, kv, k_hat, scale, first: i * ROWS, n, p, d });
    });
    let (a, k_inv) = (Tensor::new(&[b, n, heads, p], a), Tensor::new(&[b, p, heads], k_inv));
    Ok((Tensor::new(q.shape(), out), Saved { a, q_inv, k_hat, k_inv }))
}

/// Checks q, kv and scale; B, N, P, D.
fn check<E: Elem>(
    q: &Tensor<E>,
    kv: &Tensor<E>,
    scale: &Tensor<E>,
    heads: usize,
) -> Result<(usize, usize, usize, usize)> {
    q.expect("inp_attention", "q", &[usize::MAX; 3])?;
    kv.expect("inp_attention", "kv", &[q.shape()[0], usize::MAX, 2 * q.cols()])?;
    let d = head_dim("inp_attention", q, kv, heads)?;
    scale.expect("inp_attention", "scale", &[heads, 1, 1])?;
    Ok((q.shape()[0], q.shape()[1], kv.shape()[1], d))
}

/// `x` holds `inv.len()` vectors: `1/max(‖x‖, eps)` of each.
struct Lengths<'a, E> {
    inv: &'a mut [E],
    x: &'a [E],
}
impl<E: Elem> Kernel<E> for Lengths<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let d = self.x.len() / self.inv.len();
        for (inv, x) in self.inv.iter_mut().zip(self.x.chunks_exact(d)) {
            *inv = E::ONE / slice::dot(s, x, x).sqrt().max(E::from_f64(EPS));
        }
    }
}

struct Forward<'a, E: Elem> {
    out: &'a mut [E],
    a: &'a mut [E],
    q_inv: &'a [E],
    q: &'a Tensor<E>,
    kv: &'a Tensor<E>,
    k_hat: &'a Tensor<E>,
    scale: &'a [E],
    first: usize,
    n: usize,
    p: usize,
    d: usize,
}
impl<E: Elem> Kernel<E> for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { out, a, q_inv, q, kv, k_hat, scale, first, n, p, d } = self;
        let c = q.cols();
        for (i, inv) in q_inv.iter().enumerate() {
            let (row, h) = (first + i / scale.len(), i % scale.len());
            let q = &q.row(row)[h * d..][..d];
            let out = &mut out[i * d..][..d];
            for (j, a) in a[i * p..][..p].iter_mut().enumerate() {
                let r = row / n * p + j;
                let score = slice::dot(s, q, &k_hat.row(r)[h * d..][..d]) * *inv * scale[h];
                // Written so that NaN passes through, to be found in the map.
                *a = if score < E::ZERO { E::ZERO } else { score };
                if *a != E::ZERO {
                    slice::axpy(s, out, *a, &kv.row(r)[c + h * d..][..d]);
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
    let (b, n, p, d) = check(q, kv, scale, heads)?;
    let c = heads * d;
    dout.expect("inp_attention", "dout", q.shape())?;
    dscale.expect("inp_attention", "dscale", &[heads, 1, 1])?;
    saved.a.expect("inp_attention", "saved.a", &[b, n, heads, p])?;
    let scale = &scale.data[..];
    let (dq, da) = cpu.make_chunks2([q.len(), ROWS * c], [saved.a.len(), ROWS * heads * p], |i, dq, da| {
        cpu.dispatch(Queries { dq, da, dout, q, kv, scale, saved, first: i * ROWS, n, p, d });
    });
    let (dkv, parts) = cpu.make_chunks2([kv.len(), 2 * c], [b * p * heads, heads], |i, dkv, dscale| {
        cpu.dispatch(Prototype { dkv, dscale, dout, q, scale, saved, da: &da, row: i, n, p, d });
    });
    for part in parts.chunks_exact(heads) {
        dscale.data.iter_mut().zip(part).for_each(|(y, &x)| *y += x);
    }
    Ok((Tensor::new(q.shape(), dq), Tensor::new(kv.shape(), dkv)))
}

/// `dx̂` in place → dx, for `x̂ = x·inv`: `inv·(dx̂ - x̂·(x̂·dx̂))`, or `inv·dx̂` where the length was clamped.
#[inline(always)]
fn unnormalize<S: Simd>(s: S, dx: &mut [S::E], x: &[S::E], x_scale: S::E, inv: S::E) {
    if inv < S::E::ONE / S::E::from_f64(EPS) {
        let along = slice::dot(s, x, dx) * x_scale;
        slice::axpy(s, dx, -(along * x_scale), x);
    }
    slice::scale(s, dx, inv);
}

/// dq, and the gradient arriving at the scores `da` (0 where the ReLU cut).
struct Queries<'a, E: Elem> {
    dq: &'a mut [E],
    da: &'a mut [E],
    dout: &'a Tensor<E>,
    q: &'a Tensor<E>,
    kv: &'a Tensor<E>,
    scale: &'a [E],
    saved: &'a Saved<E>,
    first: usize,
    n: usize,
    p: usize,
    d: usize,
}
impl<E: Elem> Kernel<E> for Queries<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { dq, da, dout, q, kv, scale, saved, first, n, p, d } = self;
        let (c, heads) = (q.cols(), scale.len());
        for (i, dq) in dq.chunks_exact_mut(d).enumerate() {
            let (row, h) = (first + i / heads, i % heads);
            let at = first * heads + i;
            for (j, da) in da[i * p..][..p].iter_mut().enumerate() {
                if saved.a.data[at * p + j] > E::ZERO {
                    let r = row / n * p + j;
                    *da = slice::dot(s, &dout.row(row)[h * d..][..d], &kv.row(r)[c + h * d..][..d]);
                    slice::axpy(s, dq, *da * scale[h], &saved.k_hat.row(r)[h * d..][..d]);
                }
            }
            let inv = saved.q_inv[at];
            unnormalize(s, dq, &q.row(row)[h * d..][..d], inv, inv);
        }
    }
}

/// dk, dv and the part of dscale of one prototype of one image: sums over the image's tokens, in their order.
struct Prototype<'a, E: Elem> {
    dkv: &'a mut [E],
    dscale: &'a mut [E],
    dout: &'a Tensor<E>,
    q: &'a Tensor<E>,
    scale: &'a [E],
    saved: &'a Saved<E>,
    da: &'a [E],
    row: usize,
    n: usize,
    p: usize,
    d: usize,
}
impl<E: Elem> Kernel<E> for Prototype<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { dkv, dscale, dout, q, scale, saved, da, row, n, p, d } = self;
        let (dk, dv) = dkv.split_at_mut(q.cols());
        for i in row / p * n..(row / p + 1) * n {
            for (h, &scale) in scale.iter().enumerate() {
                let at = i * dscale.len() + h;
                let (a, da) = (saved.a.data[at * p + row % p], da[at * p + row % p]);
                if a > E::ZERO {
                    let w = da * scale * saved.q_inv[at];
                    slice::axpy(s, &mut dk[h * d..][..d], w, &q.row(i)[h * d..][..d]);
                    slice::axpy(s, &mut dv[h * d..][..d], a, &dout.row(i)[h * d..][..d]);
                    dscale[h] += da * a / scale;
                }
            }
        }
        for (h, dk) in dk.chunks_exact_mut(d).enumerate() {
            let inv = saved.k_inv.row(row)[h];
            unnormalize(s, dk, &saved.k_hat.row(row)[h * d..][..d], E::ONE, inv);
        }
    }
}
