//! The extractor's attention for training, its key-value layer and that layer's LayerNorm included: any element type,
//! forward and backward.
//!
//! The query is the same for every picture. So it meets the key weights once, and a token's score is its product with
//! `(H·P, C)` constants; what is the same for all tokens (the key's bias, LayerNorm's through the keys) drops out of the
//! softmax. Tokens are pooled before they meet the value weights.

use super::head_dim;
use crate::error::Result;
use crate::ops::linear::gemm::{Mat, Start, gemm};
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// What the backward needs of the forward; rows `(h, p)` everywhere.
pub struct Saved<E: Elem> {
    /// `D^-0.5·q·Wk`, `(H·P, C)`.
    query_key: Tensor<E>,
    /// Softmax over the tokens, `(B, H·P, N)`.
    probs: Tensor<E>,
    /// `probs·x̂`, `(B, H·P, C)`.
    pool: Tensor<E>,
    /// `pool∘gain + bias`, head by head over the whole batch: `(H, B·P, C)`.
    pooled: Vec<E>,
}

/// q `(P, C)`, x̂ `(B, N, C)` normalised, LayerNorm's gain and bias `(C)`, key-value weights `(2C, C)` and bias `(2C)` →
/// `(B, P, C)`: `softmax(q·kᵀ·D^-0.5)·v` per head, with k and v of `x̂∘gain + bias`.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    q: &Tensor<E>,
    x: &Tensor<E>,
    [gain, bias]: [&Tensor<E>; 2],
    [w, b]: [&Tensor<E>; 2],
    heads: usize,
) -> Result<(Tensor<E>, Saved<E>)> {
    let d = check(q, x, [gain, bias], [w, b], heads)?;
    let (batch, n, c, p) = (x.shape()[0], x.shape()[1], q.cols(), q.shape()[0]);
    let hp = heads * p;
    let mut query_key = vec![E::ZERO; hp * c];
    for (h, out) in query_key.chunks_exact_mut(p * c).enumerate() {
        let (q, k) = (Mat::plain(&q.data[h * d..], c), Mat::plain(&w.data[h * d * c..], c));
        gemm(cpu, [p, c, d], q, k, out, c, Start::Zero);
    }
    let scale = E::from_f64((d as f64).powf(-0.5));
    query_key.iter_mut().for_each(|x| *x = *x * scale);
    let gained = times(&query_key, gain);
    let mut probs = vec![E::ZERO; batch * hp * n];
    let mut pool = vec![E::ZERO; batch * hp * c];
    for (i, (probs, pool)) in probs.chunks_exact_mut(hp * n).zip(pool.chunks_exact_mut(hp * c)).enumerate() {
        let (a, tokens) = (Mat::plain(&gained[..], c), x.slab(i));
        gemm(cpu, [hp, n, c], a, Mat::transposed(tokens, c), probs, n, Start::Zero);
        cpu.for_chunks(probs, n, |_, row| cpu.dispatch(Softmax(row)));
        gemm(cpu, [hp, c, n], Mat::plain(probs, n), Mat::plain(tokens, c), pool, c, Start::Zero);
    }
    let mut out = Tensor::zeros(&[batch, p, c]);
    let mut pooled = vec![E::ZERO; hp * batch * c];
    for (h, pooled) in pooled.chunks_exact_mut(batch * p * c).enumerate() {
        for (row, y) in pooled.chunks_exact_mut(c).enumerate() {
            let x = &pool[(row / p * hp + h * p + row % p) * c..][..c];
            let norm = gain.data.iter().zip(&bias.data);
            y.iter_mut().zip(x).zip(norm).for_each(|((y, x), (g, b))| *y = *x * *g + *b);
        }
        let v = c + h * d;
        let (a, w) = (Mat::plain(&*pooled, c), Mat::transposed(&w.data[v * c..], c));
        let to = &mut out.data[h * d..];
        gemm(cpu, [batch * p, d, c], a, w, to, c, Start::Bias(&b.data[v..v + d]));
    }
    let pool = Tensor::new(&[batch, hp, c], pool);
    let saved = Saved {
        query_key: Tensor::new(&[hp, c], query_key),
        probs: Tensor::new(&[batch, hp, n], probs),
        pool,
        pooled,
    };
    Ok((out, saved))
}

/// Width of a head of checked tensors.
fn check<E: Elem>(
    q: &Tensor<E>,
    x: &Tensor<E>,
    [gain, bias]: [&Tensor<E>; 2],
    [w, b]: [&Tensor<E>; 2],
    heads: usize,
) -> Result<usize> {
    let c = q.cols();
    q.expect("inp_extract", "q", &[usize::MAX, c])?;
    x.expect("inp_extract", "x", &[usize::MAX, usize::MAX, c])?;
    gain.expect("inp_extract", "gain", &[c])?;
    bias.expect("inp_extract", "bias", &[c])?;
    w.expect("inp_extract", "kv.w", &[2 * c, c])?;
    b.expect("inp_extract", "kv.b", &[2 * c])?;
    // The shape that keys and values would have, for the heads' width.
    head_dim("inp_extract", q, &Tensor::<E>::zeros(&[1, 1, 2 * c]), heads)
}

/// Rows of x times y.
fn times<E: Elem>(x: &[E], y: &Tensor<E>) -> Vec<E> {
    x.iter().zip(y.data.iter().cycle()).map(|(x, y)| *x * *y).collect()
}

struct Softmax<'a, E>(&'a mut [E]);
impl<E: Elem> Kernel<E> for Softmax<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let top = s.splat(slice::max(s, self.0));
        slice::map(s, self.0, |x| s.exp(s.sub(x, top)));
        let inv = E::ONE / slice::sum(s, self.0);
        slice::scale(s, self.0, inv);
    }
}

/// dout `(B, P, C)` and the forward's inputs → dq `(P, C)`; gradients of LayerNorm's gain and bias and of the key-value
/// layer are added to (the key's bias has none). x̂ is frozen and gets none.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Elem>(
    cpu: &Cpu,
    dout: &Tensor<E>,
    q: &Tensor<E>,
    x: &Tensor<E>,
    gain: &Tensor<E>,
    w: &Tensor<E>,
    saved: Saved<E>,
    [dgain, dbias]: [&mut Tensor<E>; 2],
    [dw, db]: [&mut Tensor<E>; 2],
    heads: usize,
) -> Result<Tensor<E>> {
    let d = check(q, x, [gain, dbias], [w, db], heads)?;
    let (batch, n, c, p) = (x.shape()[0], x.shape()[1], q.cols(), q.shape()[0]);
    dout.expect("inp_extract", "dout", &[batch, p, c])?;
    dgain.expect("inp_extract", "dgain", &[c])?;
    dw.expect("inp_extract", "dw", w.shape())?;
    let hp = heads * p;
    // Back through the values, and through gain and bias; rows (h, p) of each image.
    let mut dpool = vec![E::ZERO; batch * hp * c];
    for (h, pooled) in saved.pooled.chunks_exact(batch * p * c).enumerate() {
        let (v, dy) = (c + h * d, &dout.data[h * d..]);
        let mut dpooled = vec![E::ZERO; batch * p * c];
        let w = Mat::plain(&w.data[v * c..], c);
        gemm(cpu, [batch * p, c, d], Mat::plain(dy, c), w, &mut dpooled, c, Start::Zero);
        let dw = &mut dw.data[v * c..];
        gemm(cpu, [d, c, batch * p], Mat::transposed(dy, c), Mat::plain(pooled, c), dw, c, Start::Add);
        for (row, dpooled) in dpooled.chunks_exact(c).enumerate() {
            let dy = &dy[row * c..][..d];
            db.data[v..v + d].iter_mut().zip(dy).for_each(|(y, x)| *y += *x);
            let at = (row / p * hp + h * p + row % p) * c;
            let pool = &saved.pool.data[at..at + c];
            let to = dpool[at..at + c].iter_mut().zip(&gain.data);
            to.zip(dpooled).for_each(|((y, g), x)| *y = *g * *x);
            dbias.data.iter_mut().zip(dpooled).for_each(|(y, x)| *y += *x);
            dgain.data.iter_mut().zip(dpooled).zip(pool).for_each(|((y, x), pool)| *y += *x * *pool);
        }
    }
    // Through the pooling and the softmax.
    let mut dgained = vec![E::ZERO; hp * c];
    let mut ds = vec![E::ZERO; hp * n];
    for (i, dpool) in dpool.chunks_exact(hp * c).enumerate() {
        let (tokens, probs) = (x.slab(i), saved.probs.slab(i));
        gemm(cpu, [hp, n, c], Mat::plain(dpool, c), Mat::transposed(tokens, c), &mut ds, n, Start::Zero);
        cpu.for_chunks(&mut ds, n, |r, ds| {
            cpu.dispatch(SoftmaxBackward { ds, probs: &probs[r * n..][..n] });
        });
        gemm(cpu, [hp, c, n], Mat::plain(&ds, n), Mat::plain(tokens, c), &mut dgained, c, Start::Add);
    }
    for (d, query_key) in dgained.chunks_exact(c).zip(saved.query_key.data.chunks_exact(c)) {
        dgain.data.iter_mut().zip(d).zip(query_key).for_each(|((y, d), z)| *y += *d * *z);
    }
    let scale = E::from_f64((d as f64).powf(-0.5));
    let mut dquery_key = times(&dgained, gain);
    dquery_key.iter_mut().for_each(|x| *x = *x * scale);
    let mut dq = Tensor::zeros(q.shape());
    for (h, dz) in dquery_key.chunks_exact(p * c).enumerate() {
        let (k, at) = (h * d * c, h * d);
        let w = Mat::transposed(&w.data[k..], c);
        gemm(cpu, [p, d, c], Mat::plain(dz, c), w, &mut dq.data[at..], c, Start::Zero);
        let q = Mat::transposed(&q.data[at..], c);
        gemm(cpu, [d, c, p], q, Mat::plain(dz, c), &mut dw.data[k..], c, Start::Add);
    }
    Ok(dq)
}

struct SoftmaxBackward<'a, E> {
    ds: &'a mut [E],
    probs: &'a [E],
}
impl<E: Elem> Kernel<E> for SoftmaxBackward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let inner = s.splat(slice::dot(s, self.probs, self.ds));
        slice::zip(s, self.ds, self.probs, |ds, p| s.mul(p, s.sub(ds, inner)));
    }
}
