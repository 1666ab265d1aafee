//! Coefficients for training: any element type, forward and backward. Per head `a = relu(s_h·q̂·k̂ᵀ)`, with q̂ and k̂ of
//! unit length.
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

/// What the backward needs of the forward, besides the coefficients.
#[derive(Clone, Debug)]
pub struct Saved<E: Elem> {
    /// `1/max(‖q‖, eps)`, `(B, N, H)`.
    q_inv: Vec<E>,
    /// Unit keys, `(B, P, C)`.
    k_hat: Tensor<E>,
    /// `1/max(‖k‖, eps)`, `(B, P, H)`.
    k_inv: Tensor<E>,
}

/// B, N, P, D and the width of a row of coefficients.
#[derive(Clone, Copy)]
struct Dims {
    b: usize,
    n: usize,
    p: usize,
    d: usize,
    ld: usize,
}

impl Dims {
    /// Of checked q, kv and scale.
    fn check<E: Elem>(
        q: &Tensor<E>,
        kv: &Tensor<E>,
        scale: &Tensor<E>,
        heads: usize,
        bias: bool,
    ) -> Result<Self> {
        q.expect("inp_coefficients", "q", &[usize::MAX; 3])?;
        kv.expect("inp_coefficients", "kv", &[q.shape()[0], usize::MAX, 2 * q.cols()])?;
        let d = head_dim("inp_coefficients", q, kv, heads)?;
        scale.expect("inp_coefficients", "scale", &[heads, 1, 1])?;
        let p = kv.shape()[1];
        Ok(Self { b: q.shape()[0], n: q.shape()[1], p, d, ld: heads * p + usize::from(bias) })
    }
}

/// q `(B, N, C)`, kv `(B, P, 2C)` (its first half: keys by heads), scale `(H, 1, 1)` → `(B, N, H·P)`, by head, then
/// prototype; with `bias` one more column of ones, for whatever does not depend on the prototypes.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    q: &Tensor<E>,
    kv: &Tensor<E>,
    scale: &Tensor<E>,
    heads: usize,
    bias: bool,
) -> Result<(Tensor<E>, Saved<E>)> {
    let dims @ Dims { b, n, p, d, ld } = Dims::check(q, kv, scale, heads, bias)?;
    let c = heads * d;
    let (k_hat, k_inv) = cpu.make_chunks2([b * p * c, c], [b * p * heads, heads], |i, hat, inv| {
        hat.copy_from_slice(&kv.row(i)[..c]);
        cpu.dispatch(Lengths { inv, x: hat });
        hat.chunks_exact_mut(d).zip(inv).for_each(|(x, inv)| x.iter_mut().for_each(|x| *x = *x * *inv));
    });
    let k_hat = Tensor::new(&[b, p, c], k_hat);
    let (a, q_inv) = cpu.make_chunks2([b * n * ld, ROWS * ld], [b * n * heads, ROWS * heads], |i, a, inv| {
        let x = &q.data[i * ROWS * c..][..inv.len() * d];
        cpu.dispatch(Lengths { inv, x });
        let (k_hat, scale) = (&k_hat, &scale.data[..]);
        cpu.dispatch(Forward { a, q_inv: inv, q, k_hat, scale, first: i * ROWS, dims });
    });
    let k_inv = Tensor::new(&[b, p, heads], k_inv);
    Ok((Tensor::new(&[b, n, ld], a), Saved { q_inv, k_hat, k_inv }))
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
    a: &'a mut [E],
    q_inv: &'a [E],
    q: &'a Tensor<E>,
    k_hat: &'a Tensor<E>,
    scale: &'a [E],
    first: usize,
    dims: Dims,
}
impl<E: Elem> Kernel<E> for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { a, q_inv, q, k_hat, scale, first, dims: Dims { n, p, d, ld, .. } } = self;
        let heads = scale.len();
        for (i, a) in a.chunks_exact_mut(ld).enumerate() {
            let q = q.row(first + i);
            let image = (first + i) / n * p;
            for (h, scale) in scale.iter().enumerate() {
                let (q, inv) = (&q[h * d..][..d], q_inv[i * heads + h]);
                for (j, a) in a[h * p..][..p].iter_mut().enumerate() {
                    let score = slice::dot(s, q, &k_hat.row(image + j)[h * d..][..d]) * inv * *scale;
                    // Written so that NaN passes through, to be found in the map.
                    *a = if score < E::ZERO { E::ZERO } else { score };
                }
            }
            a[heads * p..].fill(E::ONE);
        }
    }
}

/// Coefficients `a` and their gradient `da`, of one shape (a column for the bias is passed over), and the forward's
/// inputs → dq `(B, N, C)`; the key half of dkv `(B, P, 2C)` is assigned, `dscale += …`.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Elem>(
    cpu: &Cpu,
    da: &Tensor<E>,
    a: &Tensor<E>,
    q: &Tensor<E>,
    kv: &Tensor<E>,
    scale: &Tensor<E>,
    saved: &Saved<E>,
    dscale: &mut Tensor<E>,
    dkv: &mut Tensor<E>,
) -> Result<Tensor<E>> {
    let heads = scale.len();
    let bias = a.cols() != heads * kv.shape()[1];
    let dims @ Dims { b, n, p, d, ld } = Dims::check(q, kv, scale, heads, bias)?;
    let c = heads * d;
    a.expect("inp_coefficients", "a", &[b, n, ld])?;
    da.expect("inp_coefficients", "da", &[b, n, ld])?;
    dscale.expect("inp_coefficients", "dscale", &[heads, 1, 1])?;
    dkv.expect("inp_coefficients", "dkv", kv.shape())?;
    let scale = &scale.data[..];
    let dq = cpu.make_chunks(q.len(), ROWS * c, |i, dq| {
        cpu.dispatch(Queries { dq, da, a, q, scale, saved, first: i * ROWS, dims });
    });
    let mut parts = vec![E::ZERO; b * p * heads];
    let mut tasks: Vec<_> = dkv.data.chunks_mut(2 * c).zip(parts.chunks_mut(heads)).collect();
    cpu.for_chunks(&mut tasks, 1, |row, task| {
        let (dkv, dscale) = &mut task[0];
        cpu.dispatch(Prototype { dk: &mut dkv[..c], dscale, da, a, q, scale, saved, row, dims });
    });
    for part in parts.chunks_exact(heads) {
        dscale.data.iter_mut().zip(part).for_each(|(y, &x)| *y += x);
    }
    Ok(Tensor::new(q.shape(), dq))
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

/// dq of some rows.
struct Queries<'a, E: Elem> {
    dq: &'a mut [E],
    da: &'a Tensor<E>,
    a: &'a Tensor<E>,
    q: &'a Tensor<E>,
    scale: &'a [E],
    saved: &'a Saved<E>,
    first: usize,
    dims: Dims,
}
impl<E: Elem> Kernel<E> for Queries<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { dq, da, a, q, scale, saved, first, dims: Dims { n, p, d, .. } } = self;
        let heads = scale.len();
        for (i, dq) in dq.chunks_exact_mut(d).enumerate() {
            let (row, h) = (first + i / heads, i % heads);
            let (a, da) = (&a.row(row)[h * p..][..p], &da.row(row)[h * p..][..p]);
            for (j, (a, da)) in a.iter().zip(da).enumerate() {
                if *a > E::ZERO {
                    slice::axpy(s, dq, *da * scale[h], &saved.k_hat.row(row / n * p + j)[h * d..][..d]);
                }
            }
            let inv = saved.q_inv[row * heads + h];
            unnormalize(s, dq, &q.row(row)[h * d..][..d], inv, inv);
        }
    }
}

/// dk and the part of dscale of one prototype of one image: sums over the image's tokens, in their order.
struct Prototype<'a, E: Elem> {
    dk: &'a mut [E],
    dscale: &'a mut [E],
    da: &'a Tensor<E>,
    a: &'a Tensor<E>,
    q: &'a Tensor<E>,
    scale: &'a [E],
    saved: &'a Saved<E>,
    row: usize,
    dims: Dims,
}
impl<E: Elem> Kernel<E> for Prototype<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { dk, dscale, da, a, q, scale, saved, row, dims: Dims { n, p, d, .. } } = self;
        dk.fill(E::ZERO);
        for i in row / p * n..(row / p + 1) * n {
            let (a, da, q) = (a.row(i), da.row(i), q.row(i));
            for (h, &scale) in scale.iter().enumerate() {
                let at = h * p + row % p;
                if a[at] > E::ZERO {
                    let w = da[at] * scale * saved.q_inv[i * dscale.len() + h];
                    slice::axpy(s, &mut dk[h * d..][..d], w, &q[h * d..][..d]);
                    dscale[h] += da[at] * a[at] / scale;
                }
            }
        }
        for (h, dk) in dk.chunks_exact_mut(d).enumerate() {
            let inv = saved.k_inv.row(row)[h];
            unnormalize(s, dk, &saved.k_hat.row(row)[h * d..][..d], E::ONE, inv);
        }
    }
}
