//! The INP extractor's attention: the P learned prototypes look at the N tokens of each image,
//! `softmax(q·kᵀ·D^-0.5)·v` per head, forward and backward.

pub mod cuda;
pub mod train;

use crate::error::{Error, Result};
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// q `(P, C)` shared by the batch, kv `(B, N, 2C)`, rows ordered k, v, then head, then D → out `(B, P, C)` and the
/// softmax `(B, H, P, N)` that the backward needs.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    q: &Tensor<E>,
    kv: &Tensor<E>,
    heads: usize,
) -> Result<(Tensor<E>, Tensor<E>)> {
    let (b, n, p, d) = check(q, kv, heads)?;
    let rows = b * heads * p;
    let (by_head, probs) = cpu.make_chunks2([rows * d, p * d], [rows * n, p * n], |i, out, probs| {
        cpu.dispatch(Head { out, probs, q: &q.data, kv: kv.slab(i / heads), head: i % heads, heads, n, d });
    });
    let mut out = Tensor::zeros(&[b, p, heads * d]);
    for (i, out) in out.data.chunks_exact_mut(d).enumerate() {
        let (b, p_, h) = (i / (heads * p), i / heads % p, i % heads);
        out.copy_from_slice(&by_head[((b * heads + h) * p + p_) * d..][..d]);
    }
    Ok((out, Tensor::new(&[b, heads, p, n], probs)))
}

/// Checks q and kv; B, N, P, D.
fn check<E: Elem>(q: &Tensor<E>, kv: &Tensor<E>, heads: usize) -> Result<(usize, usize, usize, usize)> {
    q.expect("inp_extract", "q", &[usize::MAX; 2])?;
    let d = head_dim("inp_extract", q, kv, heads)?;
    Ok((kv.shape()[0], kv.shape()[1], q.shape()[0], d))
}

/// Checks that q `(…, C)` and kv `(B, _, 2C)` have elements and fit `heads` heads; the width of a head.
pub(super) fn head_dim<E: Elem>(
    op: &'static str,
    q: &Tensor<E>,
    kv: &Tensor<E>,
    heads: usize,
) -> Result<usize> {
    let c = q.cols();
    kv.expect(op, "kv", &[usize::MAX, usize::MAX, 2 * c])?;
    if q.is_empty() || kv.is_empty() || heads == 0 || !c.is_multiple_of(heads) {
        let wanted = format!("non-empty, as kv, its last axis a multiple of {heads} heads (at least one)");
        return Err(Error::Shape { op, tensor: "q", wanted, got: format!("{:?}", q.shape()) });
    }
    Ok(c / heads)
}

struct Head<'a, E> {
    out: &'a mut [E],
    probs: &'a mut [E],
    q: &'a [E],
    kv: &'a [E],
    head: usize,
    heads: usize,
    n: usize,
    d: usize,
}
impl<E: Elem> Kernel<E> for Head<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { out, probs, q, kv, head, heads, n, d } = self;
        let c = heads * d;
        let scale = E::from_f64((d as f64).powf(-0.5));
        for (j, row) in kv.chunks_exact(2 * c).enumerate() {
            for (p, q) in q.chunks_exact(c).enumerate() {
                probs[p * n + j] = slice::dot(s, &q[head * d..][..d], &row[head * d..][..d]) * scale;
            }
        }
        for probs in probs.chunks_exact_mut(n) {
            let top = s.splat(slice::max(s, probs));
            slice::map(s, probs, |x| s.exp(s.sub(x, top)));
            let inv = E::ONE / slice::sum(s, probs);
            slice::scale(s, probs, inv);
        }
        for (j, row) in kv.chunks_exact(2 * c).enumerate() {
            for (p, out) in out.chunks_exact_mut(d).enumerate() {
                slice::axpy(s, out, probs[p * n + j], &row[c + head * d..][..d]);
            }
        }
    }
}

/// dout `(B, P, C)`, the forward's q and kv and its softmax → dq `(P, C)`, summed over the batch in its order, and
/// dkv `(B, N, 2C)`.
pub fn backward<E: Elem>(
    cpu: &Cpu,
    dout: &Tensor<E>,
    q: &Tensor<E>,
    kv: &Tensor<E>,
    probs: &Tensor<E>,
    heads: usize,
) -> Result<(Tensor<E>, Tensor<E>)> {
    let (b, n, p, d) = check(q, kv, heads)?;
    let c = heads * d;
    dout.expect("inp_extract", "dout", &[b, p, c])?;
    probs.expect("inp_extract", "probs", &[b, heads, p, n])?;
    let (dkv, parts) = cpu.make_chunks2([kv.len(), n * 2 * c], [b * p * c, p * c], |i, dkv, dq| {
        let (dout, kv, probs) = (dout.slab(i), kv.slab(i), probs.slab(i));
        cpu.dispatch(Backward { dq, dkv, dout, q: &q.data, kv, probs, heads, n, d });
    });
    let mut dq = q.zeros_like();
    for part in parts.chunks_exact(p * c) {
        dq.data.iter_mut().zip(part).for_each(|(y, &x)| *y += x);
    }
    Ok((dq, Tensor::new(kv.shape(), dkv)))
}

struct Backward<'a, E> {
    dq: &'a mut [E],
    dkv: &'a mut [E],
    dout: &'a [E],
    q: &'a [E],
    kv: &'a [E],
    probs: &'a [E],
    heads: usize,
    n: usize,
    d: usize,
}
impl<E: Elem> Kernel<E> for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { dq, dkv, dout, q, kv, probs, heads, n, d } = self;
        let c = heads * d;
        let rows = q.len() / c;
        let scale = E::from_f64((d as f64).powf(-0.5));
        // One pass over the tokens for the softmax's gradient, one for the rest: a token's row is read whole, once.
        let mut ds = vec![E::ZERO; probs.len()];
        for (j, row) in kv.chunks_exact(2 * c).enumerate() {
            for i in 0..heads * rows {
                let (h, p) = (i / rows, i % rows);
                ds[i * n + j] = slice::dot(s, &dout[p * c + h * d..][..d], &row[c + h * d..][..d]);
            }
        }
        for (ds, probs) in ds.chunks_exact_mut(n).zip(probs.chunks_exact(n)) {
            let inner = s.splat(slice::dot(s, probs, ds));
            let scale = s.splat(scale);
            slice::zip(s, ds, probs, |ds, p| s.mul(s.mul(p, s.sub(ds, inner)), scale));
        }
        for (j, (row, drow)) in kv.chunks_exact(2 * c).zip(dkv.chunks_exact_mut(2 * c)).enumerate() {
            let (dk, dv) = drow.split_at_mut(c);
            for i in 0..heads * rows {
                let (h, p) = (i / rows, i % rows);
                let (at, ds) = (p * c + h * d, ds[i * n + j]);
                slice::axpy(s, &mut dq[at..at + d], ds, &row[h * d..][..d]);
                slice::axpy(s, &mut dk[h * d..][..d], ds, &q[at..at + d]);
                slice::axpy(s, &mut dv[h * d..][..d], probs[i * n + j], &dout[at..at + d]);
            }
        }
    }
}
