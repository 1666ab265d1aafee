//! Self-attention of the frozen encoder (forward only): softmax(q·kᵀ·D^-0.5)·v per head, rows of the score matrix
//! made and consumed a few at a time, never N×N.

use crate::error::{Error, Result};
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// qkv `(B, T, 3C)`, rows ordered q, k, v, then head, then D → `(B, T, C)`.
pub fn forward<E: Elem>(cpu: &Cpu, qkv: &Tensor<E>, heads: usize) -> Result<Tensor<E>> {
    qkv.expect("attention", "qkv", &[usize::MAX; 3])?;
    let (b, t, c) = (qkv.shape()[0], qkv.shape()[1], qkv.cols() / 3);
    if heads == 0 || qkv.cols() != 3 * c || c % heads != 0 {
        return Err(Error::Shape {
            op: "attention",
            tensor: "qkv",
            wanted: format!("(B, T, 3·{heads}·D)"),
            got: format!("{:?}", qkv.shape()),
        });
    }
    let mut y = Tensor::zeros(&[b, t, c]);
    cpu.for_chunks(&mut y.data, c, |r, out| {
        cpu.dispatch(Row { out, qkv: qkv.slab(r / t), row: r % t, t, heads })
    });
    Ok(y)
}

struct Row<'a, E> {
    out: &'a mut [E],
    qkv: &'a [E],
    row: usize,
    t: usize,
    heads: usize,
}
impl<E: Elem> Kernel<E> for Row<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let c = self.out.len();
        let d = c / self.heads;
        let scale = E::from_f64((d as f64).powf(-0.5));
        let mut p = vec![E::ZERO; self.t];
        for h in 0..self.heads {
            let at = |row: usize, part: usize| &self.qkv[row * 3 * c + part * c + h * d..][..d];
            for (j, p) in p.iter_mut().enumerate() {
                *p = slice::dot(s, at(self.row, 0), at(j, 1)) * scale;
            }
            let top = s.splat(slice::max(s, &p));
            slice::map(s, &mut p, |x| s.exp(s.sub(x, top)));
            let inv = E::ONE / slice::sum(s, &p);
            let out = &mut self.out[h * d..(h + 1) * d];
            out.fill(E::ZERO);
            for (j, &p) in p.iter().enumerate() {
                slice::axpy(s, out, p * inv, at(j, 2));
            }
        }
    }
}
