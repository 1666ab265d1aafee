//! A decoder block from its coefficients on, for training: any element type, forward and backward.
//!
//! With the middle `x = a·m` never made, `y = x + W2·gelu(W1·LN(x) + c1) + c2`: its variance is `a·gram·aᵀ`, and the
//! first product has rank r: `W1·LN(x) = rstd·(a·u) + u[last]`.

use crate::error::Result;
use crate::ops::gelu;
use crate::ops::inp_factors::train::{Factors, Gradients};
use crate::ops::linear::gemm::{Mat, Start, gemms, products};
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// Rows handled by one task.
const ROWS: usize = 32;

/// What the backward needs of the forward.
pub struct Saved<E: Elem> {
    /// Between the MLP's layers, `(B·N, 4C)`.
    hidden: gelu::Hidden<E>,
    /// `rstd·a` and a column of ones, `(B, N, r + 1)`.
    scaled: Vec<E>,
    /// `a·gram`, `(B, N, r)`.
    a_gram: Vec<E>,
    /// `1/sqrt(variance + eps)` of each row.
    rstd: Vec<E>,
}

/// a `(B, N, r)`, its last column ones, the image's factors, c1 `(4C)`, W2 `(C, 4C)`, c2 `(C)` → y `(B, N, C)`.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    a: &Tensor<E>,
    f: &Factors<E>,
    c1: &Tensor<E>,
    w2: &Tensor<E>,
    c2: &Tensor<E>,
    eps: f64,
) -> Result<(Tensor<E>, Saved<E>)> {
    let (b, n, r, c, hidden) = check(a, f, w2)?;
    c1.expect("inp_decode", "c1", &[hidden])?;
    // Variances are differences of large sums: no rounding here.
    let exact = cpu.exact();
    let (rows, gram) = (Mat::plain(&a.data, r), Mat::plain(&f.gram.data, r));
    let a_gram = products(&exact, b, [n, r, r], rows, gram, None);
    let (wide, sizes) = (r + 1, [b * n, ROWS]);
    let (scaled, rstd) = cpu.make_chunks2(sizes.map(|n| n * wide), sizes, |i, scaled, rstd| {
        let at = i * ROWS * r..(i * ROWS + rstd.len()) * r;
        let (a, a_gram) = (&a.data[at.clone()], &a_gram[at]);
        cpu.dispatch(Scale { scaled, rstd, a, a_gram, eps: E::from_f64(eps) });
    });
    let (u, last) = f.u.data.split_at(b * r * hidden);
    let shift: Vec<E> = c1.data.iter().zip(last).map(|(x, y)| *x + *y).collect();
    let (x, u) = (Mat::plain(&scaled[..], wide), Mat::plain(u, hidden));
    let between = gelu::Hidden::new(cpu, b, [n, hidden, r], x, u, &shift);
    let mut y = between.forward(cpu, w2, c2)?;
    gemms(cpu, b, [n, c, r], rows, Mat::plain(&f.m.data, c), &mut y, c, Start::Add);
    Ok((Tensor::new(&[b, n, c], y), Saved { hidden: between, scaled, a_gram, rstd }))
}

/// B, N, r, C and 4C of checked tensors.
fn check<E: Elem>(
    a: &Tensor<E>,
    f: &Factors<E>,
    w2: &Tensor<E>,
) -> Result<(usize, usize, usize, usize, usize)> {
    let (b, r, c) = (f.m.shape()[0], f.m.shape()[1], f.m.cols());
    a.expect("inp_decode", "a", &[b, usize::MAX, r])?;
    w2.expect("inp_decode", "w2", &[c, f.u.cols()])?;
    Ok((b, a.shape()[1], r, c, w2.cols()))
}

/// Rows of a, divided by the deviation of the middle that they stand for, each before a one.
struct Scale<'a, E> {
    scaled: &'a mut [E],
    rstd: &'a mut [E],
    a: &'a [E],
    a_gram: &'a [E],
    eps: E,
}
impl<E: Elem> Kernel<E> for Scale<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let r = self.a.len() / self.rstd.len();
        let rows = self.a.chunks_exact(r).zip(self.a_gram.chunks_exact(r));
        for ((scaled, rstd), (a, a_gram)) in self.scaled.chunks_exact_mut(r + 1).zip(self.rstd).zip(rows) {
            let (one, scaled) = scaled.split_last_mut().expect("r and one more");
            *one = E::ONE;
            let var = slice::dot(s, a, a_gram);
            // NaN stays NaN.
            let var = if var < E::ZERO { E::ZERO } else { var };
            *rstd = E::ONE / (var + self.eps).sqrt();
            let by = s.splat(*rstd);
            slice::zip(s, scaled, a, |_, x| s.mul(x, by));
        }
    }
}

/// dy `(B, N, C)` → da `(B, N, r)` and the gradients of the factors; `dc1`, `dw2` and `dc2` are added to.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Elem>(
    cpu: &Cpu,
    dy: &Tensor<E>,
    a: &Tensor<E>,
    f: &Factors<E>,
    w2: &Tensor<E>,
    saved: Saved<E>,
    dc1: &mut Tensor<E>,
    dw2: &mut Tensor<E>,
    dc2: &mut Tensor<E>,
) -> Result<(Tensor<E>, Gradients<E>)> {
    let (b, n, r, c, hidden) = check(a, f, w2)?;
    dc1.expect("inp_decode", "dc1", &[hidden])?;
    let Saved { hidden: between, scaled, a_gram, rstd } = saved;
    dy.expect("inp_decode", "dy", &[b, n, c])?;
    let dpre = between.backward(cpu, &dy.data, w2, dw2, dc2)?;
    // The last row of u is added to every row before GELU, as c1 is: its gradient is what the column of ones gathers.
    let wide = r + 1;
    let by_image = products(cpu, b, [wide, hidden, n], Mat::transposed(&scaled, wide), dpre.plain(), None);
    let row = |i: usize| &by_image[i * hidden..][..hidden];
    let du = cpu.make_chunks(f.u.len(), hidden, |i, du| match i < b * r {
        true => du.copy_from_slice(row(i / r * wide + i % r)),
        false => (0..b).for_each(|i| du.iter_mut().zip(row(i * wide + r)).for_each(|(y, x)| *y += *x)),
    });
    dc1.data.iter_mut().zip(&du[b * r * hidden..]).for_each(|(y, x)| *y += *x);
    let u = Mat::transposed(&f.u.data[..b * r * hidden], hidden);
    let dscaled = products(cpu, b, [n, r, hidden], dpre.plain(), u, None);
    drop(dpre);
    // da = rstd·dscaled + 2·dvar·(a·gram) + dy·mᵀ; `weighted` becomes dvar·a.
    let mut da = Tensor::new(a.shape(), dscaled);
    let mut weighted = a.clone();
    let mut rows: Vec<_> = (da.data.chunks_mut(ROWS * r)).zip(weighted.data.chunks_mut(ROWS * r)).collect();
    cpu.for_chunks(&mut rows, 1, |i, part| {
        let (da, weighted) = &mut part[0];
        let (rstd, a_gram) = (&rstd[i * ROWS..], &a_gram[i * ROWS * r..][..da.len()]);
        cpu.dispatch(Variance { da, weighted, rstd, a_gram, r });
    });
    let exact = cpu.exact();
    let (a, dy) = (&a.data[..], &dy.data[..]);
    let w = Mat::plain(&weighted.data, r);
    let dgram = products(&exact, b, [r, r, n], Mat::transposed(a, r), w, None);
    let dm = products(cpu, b, [r, c, n], Mat::transposed(a, r), Mat::plain(dy, c), None);
    let m = Mat::transposed(&f.m.data, c);
    gemms(cpu, b, [n, r, c], Mat::plain(dy, c), m, &mut da.data, r, Start::Add);
    let like = |x: &Tensor<E>, d| Tensor::new(x.shape(), d);
    Ok((da, Gradients { m: like(&f.m, dm), u: like(&f.u, du), gram: like(&f.gram, dgram) }))
}

/// da, which comes as the gradient of `rstd·a`, and `dvar·a` in place of a.
struct Variance<'a, E> {
    da: &'a mut [E],
    weighted: &'a mut [E],
    rstd: &'a [E],
    a_gram: &'a [E],
    r: usize,
}
impl<E: Elem> Kernel<E> for Variance<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { da, weighted, rstd, a_gram, r } = self;
        let rows = da.chunks_exact_mut(r).zip(weighted.chunks_exact_mut(r));
        for (((da, a), rstd), a_gram) in rows.zip(rstd).zip(a_gram.chunks_exact(r)) {
            let drstd = slice::dot(s, da, a);
            let clamped = slice::dot(s, a, a_gram) < E::ZERO;
            let half = E::from_f64(-0.5);
            let dvar = if clamped { E::ZERO } else { half * *rstd * *rstd * *rstd * drstd };
            let (by, twice) = (s.splat(*rstd), s.splat(dvar + dvar));
            slice::zip(s, da, a_gram, |d, g| s.fma(twice, g, s.mul(by, d)));
            slice::scale(s, a, dvar);
        }
    }
}
