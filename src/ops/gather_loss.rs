//! Coherence of the prototypes: each token's cosine distance to the nearest prototype of its own image. The distances
//! are the zero-shot anomaly map; their mean is a loss on the prototypes.

use crate::error::{Error, Result};
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// Smallest length that a vector is divided by.
const EPS: f64 = 1e-8;
/// Tokens handled by one task.
const ROWS: usize = 32;

/// The loss and what its backward needs.
#[derive(Clone, Debug)]
pub struct Saved<E: Elem> {
    /// Mean of `dist`.
    pub loss: E,
    /// `min_p (1 - cos(f, inp_p))` of each token, `(B, N)`.
    pub dist: Tensor<E>,
    /// The prototype that has it, the first of equals, `(B, N)`.
    pub index: Vec<u32>,
}

/// f `(B, N, C)`, inp `(B, P, C)` → loss, distances and nearest prototypes.
pub fn forward<E: Elem>(cpu: &Cpu, f: &Tensor<E>, inp: &Tensor<E>) -> Result<Saved<E>> {
    check(f, inp)?;
    let chunks = [f.rows(), ROWS];
    let (dist, index) = cpu.make_chunks2(chunks, chunks, |i, dist, index| {
        cpu.dispatch(Forward { dist, index, f, inp, first: i * ROWS });
    });
    let dist = Tensor::new(&f.shape()[..2], dist);
    let loss = dist.data.iter().map(|x| x.to_f64()).sum::<f64>() / dist.len() as f64;
    Ok(Saved { loss: E::from_f64(loss), dist, index })
}

fn check<E: Elem>(f: &Tensor<E>, inp: &Tensor<E>) -> Result<()> {
    f.expect("gather_loss", "f", &[usize::MAX; 3])?;
    inp.expect("gather_loss", "inp", &[f.shape()[0], usize::MAX, f.cols()])?;
    if inp.shape()[1] == 0 {
        return Err(Error::usage(
            "gather_loss: there is no prototype to compare with; a model needs at least one",
        ));
    }
    Ok(())
}

/// `1/max(‖x‖, eps)`.
#[inline(always)]
fn inv_norm<S: Simd>(s: S, x: &[S::E]) -> S::E {
    S::E::ONE / slice::dot(s, x, x).sqrt().max(S::E::from_f64(EPS))
}

struct Forward<'a, E: Elem> {
    dist: &'a mut [E],
    index: &'a mut [u32],
    f: &'a Tensor<E>,
    inp: &'a Tensor<E>,
    first: usize,
}
impl<E: Elem> Kernel<E> for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { dist, index, f, inp, first } = self;
        let (n, p) = (f.shape()[1], inp.shape()[1]);
        let images = first / n..=(first + dist.len() - 1) / n;
        let inv: Vec<E> = images.flat_map(|b| b * p..(b + 1) * p).map(|r| inv_norm(s, inp.row(r))).collect();
        for (i, (dist, index)) in dist.iter_mut().zip(index).enumerate() {
            let (f, b) = (f.row(first + i), (first + i) / n);
            let inv_f = inv_norm(s, f);
            let inv = &inv[(b - first / n) * p..][..p];
            for (j, &inv) in inv.iter().enumerate() {
                let x = E::ONE - slice::dot(s, f, inp.row(b * p + j)) * inv_f * inv;
                if j == 0 || x < *dist {
                    (*dist, *index) = (x, j as u32);
                }
            }
        }
    }
}

/// dinp `(B, P, C)`: `scale · dloss/dinp`. f gets no gradient.
pub fn backward<E: Elem>(
    cpu: &Cpu,
    f: &Tensor<E>,
    inp: &Tensor<E>,
    saved: &Saved<E>,
    scale: E,
) -> Result<Tensor<E>> {
    check(f, inp)?;
    saved.dist.expect("gather_loss", "saved.dist", &f.shape()[..2])?;
    let mut dinp = inp.zeros_like();
    let weight = scale / E::from_f64(f.rows() as f64);
    cpu.for_chunks(&mut dinp.data, inp.cols(), |row, dinp| {
        cpu.dispatch(Backward { dinp, f, inp, saved, row, weight });
    });
    Ok(dinp)
}

/// One prototype of one image: a sum over the tokens nearest to it, in their order.
struct Backward<'a, E: Elem> {
    dinp: &'a mut [E],
    f: &'a Tensor<E>,
    inp: &'a Tensor<E>,
    saved: &'a Saved<E>,
    row: usize,
    weight: E,
}
impl<E: Elem> Kernel<E> for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { dinp, f, inp, saved, row, weight } = self;
        let (n, p) = (f.shape()[1], inp.shape()[1]);
        let inv = inv_norm(s, inp.row(row));
        let mut along = E::ZERO;
        for i in row / p * n..(row / p + 1) * n {
            if saved.index[i] as usize == row % p {
                slice::axpy(s, dinp, -(weight * inv * inv_norm(s, f.row(i))), f.row(i));
                along += E::ONE - saved.dist.data[i];
            }
        }
        if inv < E::ONE / E::from_f64(EPS) {
            slice::axpy(s, dinp, weight * inv * inv * along, inp.row(row));
        }
    }
}
