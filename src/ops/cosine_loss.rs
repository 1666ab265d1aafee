//! Cosine distance of decoder features from encoder features: the map that is scored, the training loss, and its
//! gradient with soft mining.

use crate::error::Result;
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// Smallest length that a vector is divided by.
const EPS: f64 = 1e-8;
/// Positions handled by one task.
const ROWS: usize = 32;

/// The loss and what its backward needs.
#[derive(Clone, Debug)]
pub struct Saved<E: Elem> {
    /// `Σ_b (1 - cos(flat a_b, flat d_b)) / B`, each image flattened over all its N·C values.
    pub loss: E,
    /// `1 - cos` of each position over C, `(B, N)`.
    pub dist: Tensor<E>,
    /// `a·d`, `‖a‖`, `‖d‖` of each flattened image.
    flat: Vec<[f64; 3]>,
}

/// a, d `(B, N, C)` → loss and distances.
pub fn forward<E: Elem>(cpu: &Cpu, a: &Tensor<E>, d: &Tensor<E>) -> Result<Saved<E>> {
    let sums = products(cpu, a, d)?;
    let (b, n) = (a.shape()[0], a.shape()[1]);
    let flat: Vec<[f64; 3]> = (sums.chunks(n.max(1)))
        .map(|rows| {
            let s: [f64; 3] = std::array::from_fn(|i| rows.iter().map(|r| r[i].to_f64()).sum());
            [s[0], s[1].sqrt(), s[2].sqrt()]
        })
        .collect();
    let loss = flat.iter().map(|[ad, na, nd]| 1.0 - ad / (na.max(EPS) * nd.max(EPS))).sum::<f64>() / b as f64;
    Ok(Saved { loss: E::from_f64(loss), dist: distances(a, &sums), flat })
}

/// a, d `(B, N, C)` → `1 - cos` of each position over C, `(B, N)`.
pub fn distance<E: Elem>(cpu: &Cpu, a: &Tensor<E>, d: &Tensor<E>) -> Result<Tensor<E>> {
    Ok(distances(a, &products(cpu, a, d)?))
}

fn distances<E: Elem>(a: &Tensor<E>, sums: &[[E; 3]]) -> Tensor<E> {
    let eps = E::from_f64(EPS);
    let dist = |&[ad, aa, dd]: &[E; 3]| E::ONE - ad / (aa.sqrt().max(eps) * dd.sqrt().max(eps));
    Tensor::new(&a.shape()[..2], sums.iter().map(dist).collect())
}

/// `a·d`, `a·a`, `d·d` of each position.
fn products<E: Elem>(cpu: &Cpu, a: &Tensor<E>, d: &Tensor<E>) -> Result<Vec<[E; 3]>> {
    a.expect("cosine_loss", "a", &[usize::MAX; 3])?;
    d.expect("cosine_loss", "d", a.shape())?;
    let mut sums = vec![[E::ZERO; 3]; a.rows()];
    cpu.for_chunks(&mut sums, ROWS, |i, sums| cpu.dispatch(Products { sums, a, d, first: i * ROWS }));
    Ok(sums)
}

struct Products<'a, E: Elem> {
    sums: &'a mut [[E; 3]],
    a: &'a Tensor<E>,
    d: &'a Tensor<E>,
    first: usize,
}
impl<E: Elem> Kernel<E> for Products<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        for (i, sums) in self.sums.iter_mut().enumerate() {
            let (a, d) = (self.a.row(self.first + i), self.d.row(self.first + i));
            *sums = [slice::dot(s, a, d), slice::dot(s, a, a), slice::dot(s, d, d)];
        }
    }
}

/// Soft-mining factor of each position, `(dist / mean(dist))³`, the mean over batch and positions: `(B, N)`. All ones
/// where `a` equals `d` everywhere.
pub fn factor<E: Elem>(saved: &Saved<E>) -> Tensor<E> {
    let dist = &saved.dist.data;
    let mean = E::from_f64(dist.iter().map(|x| x.to_f64()).sum::<f64>() / dist.len() as f64);
    let cube = |&x: &E| {
        let r = if mean == E::ZERO { E::ONE } else { x / mean };
        r * r * r
    };
    Tensor::new(saved.dist.shape(), dist.iter().map(cube).collect())
}

/// dd `(B, N, C)`: `scale · dloss/dd`, each position multiplied by its [`factor`] (which the loss value does not have:
/// this is not the derivative of the forward). `a` gets no gradient.
pub fn backward<E: Elem>(
    cpu: &Cpu,
    a: &Tensor<E>,
    d: &Tensor<E>,
    saved: &Saved<E>,
    scale: E,
) -> Result<Tensor<E>> {
    a.expect("cosine_loss", "a", &[usize::MAX; 3])?;
    d.expect("cosine_loss", "d", a.shape())?;
    saved.dist.expect("cosine_loss", "saved.dist", &a.shape()[..2])?;
    let (b, n, c) = (a.shape()[0], a.shape()[1], a.cols());
    let factor = factor(saved);
    let weights: Vec<(E, E)> = (saved.flat.iter())
        .map(|&[ad, na, nd]| {
            let s = scale.to_f64() / b as f64 / (na.max(EPS) * nd.max(EPS));
            (E::from_f64(-s), E::from_f64(if nd > EPS { s * ad / (nd * nd) } else { 0.0 }))
        })
        .collect();
    let dd = cpu.make_chunks(d.len(), c, |i, dd| {
        let ((wa, wd), f) = (weights[i / n], factor.data[i]);
        cpu.dispatch(Backward { dd, a: a.row(i), d: d.row(i), wa: wa * f, wd: wd * f });
    });
    Ok(Tensor::new(d.shape(), dd))
}

struct Backward<'a, E> {
    dd: &'a mut [E],
    a: &'a [E],
    d: &'a [E],
    wa: E,
    wd: E,
}
impl<E: Elem> Kernel<E> for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        slice::axpy(s, self.dd, self.wa, self.a);
        slice::axpy(s, self.dd, self.wd, self.d);
    }
}
