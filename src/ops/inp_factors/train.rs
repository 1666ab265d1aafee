//! Low-rank factors for training: any element type, forward and backward.
//!
//! A decoder block's middle is `A·M`: coefficients `(N, r)`, r = H·P + 1, times the projected values over the projection's
//! bias. So LayerNorm, its gain and the first MLP weights are applied to the r rows of M instead of the N of the middle.

use crate::error::Result;
use crate::ops::linear::gemm::{self, Mat, Start, gemm, product, products};
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// Of each image, `r = H·P + 1` rows: one for each head and prototype, then one for the projection's bias.
#[derive(Clone, Debug)]
pub struct Factors<E: Elem> {
    /// Projected values over the projection's bias, `(B, r, C)`.
    pub m: Tensor<E>,
    /// `m` with the mean of every row taken away, `(B, r, C)`.
    pub centred: Tensor<E>,
    /// `centred ∘ gain`, and LayerNorm's bias as a last row, `(B·r + 1, C)`.
    pub scaled: Tensor<E>,
    /// `scaled·W1ᵀ`, `(B·r + 1, 4C)`.
    pub u: Tensor<E>,
    /// `centred·centredᵀ/C`, `(B, r, r)`: the variance of `a·m` is `a·gram·aᵀ`.
    pub gram: Tensor<E>,
}

/// Gradients of [`Factors`]: `m` as the block's output uses it, `u` and `gram`.
pub struct Gradients<E: Elem> {
    /// `(B, r, C)`.
    pub m: Tensor<E>,
    /// `(B·r + 1, 4C)`.
    pub u: Tensor<E>,
    /// `(B, r, r)`.
    pub gram: Tensor<E>,
}

/// kv `(B, P, 2C)` (its second half: values by heads), projection `(C, C)` and its bias `(C)`, LayerNorm's gain and bias
/// `(C)`, first MLP weights `(4C, C)`.
///
/// Cost: 2·(B·r + 1)·C·4C FLOP, and a few per cent more.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    kv: &Tensor<E>,
    [proj, proj_bias]: [&Tensor<E>; 2],
    [gain, bias]: [&Tensor<E>; 2],
    w1: &Tensor<E>,
    heads: usize,
) -> Result<Factors<E>> {
    let c = gain.len();
    check(kv, [proj, proj_bias], [gain, bias], w1)?;
    let (b, p, d) = (kv.shape()[0], kv.shape()[1], c / heads);
    let (hidden, r) = (w1.rows(), heads * p + 1);
    // Head by head over the whole batch, `(H, B·P, C)`.
    let mut by_head = vec![E::ZERO; heads * b * p * c];
    for (h, out) in by_head.chunks_exact_mut(b * p * c).enumerate() {
        let (v, w) = (Mat::plain(&kv.data[c + h * d..], 2 * c), Mat::transposed(&proj.data[h * d..], c));
        gemm(cpu, [b * p, c, d], v, w, out, c, Start::Zero);
    }
    let source = |i: usize| match i % r {
        hp if hp == r - 1 => &proj_bias.data[..],
        hp => &by_head[((hp / p * b + i / r) * p + hp % p) * c..][..c],
    };
    let m = cpu.make_chunks(b * r * c, c, |i, m| m.copy_from_slice(source(i)));
    let (centred, mut scaled) = cpu.make_chunks2([b * r * c, c], [b * r * c, c], |i, centred, scaled| {
        cpu.dispatch(Centre { centred, scaled, m: &m[i * c..][..c], gain: &gain.data })
    });
    scaled.extend_from_slice(&bias.data);
    let (x, w) = (Mat::plain(&scaled, c), Mat::transposed(&w1.data, c));
    let u = product(cpu, [b * r + 1, hidden, c], x, w, None);
    // Variances are differences of large sums: no rounding here.
    let exact = cpu.exact();
    let (x, x_t) = (Mat::plain(&centred[..], c), Mat::transposed(&centred[..], c));
    let mut gram = products(&exact, b, [r, r, c], x, x_t, None);
    let share = E::ONE / E::from_f64(c as f64);
    gram.iter_mut().for_each(|x| *x = *x * share);
    let tensor = |data| Tensor::new(&[b, r, c], data);
    Ok(Factors {
        m: tensor(m),
        centred: tensor(centred),
        scaled: Tensor::new(&[b * r + 1, c], scaled),
        u: Tensor::new(&[b * r + 1, hidden], u),
        gram: Tensor::new(&[b, r, r], gram),
    })
}

fn check<E: Elem>(
    kv: &Tensor<E>,
    [proj, proj_bias]: [&Tensor<E>; 2],
    [gain, bias]: [&Tensor<E>; 2],
    w1: &Tensor<E>,
) -> Result<()> {
    let c = gain.len();
    kv.expect("inp_factors", "kv", &[usize::MAX, usize::MAX, 2 * c])?;
    proj.expect("inp_factors", "proj", &[c, c])?;
    proj_bias.expect("inp_factors", "proj_bias", &[c])?;
    gain.expect("inp_factors", "gain", &[c])?;
    bias.expect("inp_factors", "bias", &[c])?;
    w1.expect("inp_factors", "w1", &[usize::MAX, c])
}

/// One row of M without its mean, and that times the gain.
struct Centre<'a, E> {
    centred: &'a mut [E],
    scaled: &'a mut [E],
    m: &'a [E],
    gain: &'a [E],
}
impl<E: Elem> Kernel<E> for Centre<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let mean = s.splat(slice::sum(s, self.m) / E::from_f64(self.m.len() as f64));
        slice::zip(s, self.centred, self.m, |_, x| s.sub(x, mean));
        slice::zip2(s, self.scaled, self.centred, self.gain, |_, x, g| s.mul(x, g));
    }
}

/// Gradients of the factors → the value half of dkv `(B, P, 2C)`, assigned; gradients of the projection, of LayerNorm and
/// of W1 are added to.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Elem>(
    cpu: &Cpu,
    d: Gradients<E>,
    f: &Factors<E>,
    kv: &Tensor<E>,
    proj: &Tensor<E>,
    gain: &Tensor<E>,
    w1: &Tensor<E>,
    dkv: &mut Tensor<E>,
    [dproj, dproj_bias]: [&mut Tensor<E>; 2],
    [dgain, dbias]: [&mut Tensor<E>; 2],
    dw1: &mut Tensor<E>,
    heads: usize,
) -> Result<()> {
    let (c, hidden) = (gain.len(), w1.rows());
    check(kv, [proj, dproj_bias], [dgain, dbias], w1)?;
    dproj.expect("inp_factors", "dproj", &[c, c])?;
    dw1.expect("inp_factors", "dw1", w1.shape())?;
    dkv.expect("inp_factors", "dkv", kv.shape())?;
    let (b, p, width) = (kv.shape()[0], kv.shape()[1], c / heads);
    let r = heads * p + 1;
    d.u.expect("inp_factors", "d.u", &[b * r + 1, hidden])?;
    d.m.expect("inp_factors", "d.m", &[b, r, c])?;
    d.gram.expect("inp_factors", "d.gram", &[b, r, r])?;
    let (rows, du) = (b * r + 1, &d.u.data);
    let x = Mat::plain(&f.scaled.data, c);
    gemm::add(cpu, [hidden, c, rows], Mat::transposed(du, hidden), x, dw1);
    let w = Mat::plain(&w1.data, c);
    let mut dscaled = product(cpu, [rows, c, hidden], Mat::plain(du, hidden), w, None);
    for (y, x) in dbias.data.iter_mut().zip(&dscaled[b * r * c..]) {
        *y += *x;
    }
    dscaled.truncate(b * r * c);
    // The Gram matrix's share of dcentred: 2/C·dG·centred, dG being symmetric.
    let exact = cpu.exact();
    let (dgram, x) = (Mat::plain(&d.gram.data, r), Mat::plain(&f.centred.data, c));
    let dcentred = products(&exact, b, [r, c, r], dgram, x, None);
    let mut parts = Vec::with_capacity(b * r * c);
    let mut dm = d.m.data;
    parts.resize(b * r * c, E::ZERO);
    let mut tasks: Vec<_> = (dm.chunks_exact_mut(c)).zip(parts.chunks_exact_mut(c)).collect();
    cpu.for_chunks(&mut tasks, 1, |i, task| {
        let (dm, dgain) = &mut task[0];
        let row = i * c..(i + 1) * c;
        let (dscaled, gram) = (&dscaled[row.clone()], &dcentred[row.clone()]);
        cpu.dispatch(Uncentre { dm, dgain, dscaled, gram, centred: &f.centred.data[row], gain: &gain.data });
    });
    for (i, (part, dm)) in parts.chunks_exact(c).zip(dm.chunks_exact(c)).enumerate() {
        dgain.data.iter_mut().zip(part).for_each(|(y, x)| *y += *x);
        if i % r == r - 1 {
            dproj_bias.data.iter_mut().zip(dm).for_each(|(y, x)| *y += *x);
        }
    }
    // Head by head over the whole batch, as in the forward.
    let mut by_head = dcentred;
    for (h, out) in by_head[..heads * b * p * c].chunks_exact_mut(b * p * c).enumerate() {
        for (i, out) in out.chunks_exact_mut(c).enumerate() {
            out.copy_from_slice(&dm[(i / p * r + h * p + i % p) * c..][..c]);
        }
        let (v, w) = (Mat::plain(&kv.data[c + h * width..], 2 * c), Mat::plain(&proj.data[h * width..], c));
        let out = &*out;
        gemm(
            cpu,
            [b * p, width, c],
            Mat::plain(out, c),
            w,
            &mut dkv.data[c + h * width..],
            2 * c,
            Start::Zero,
        );
        let dproj = &mut dproj.data[h * width..];
        gemm(cpu, [c, width, b * p], Mat::transposed(out, c), v, dproj, c, Start::Add);
    }
    Ok(())
}

/// One row: `dm += dcentred − mean(dcentred)` with `dcentred = dscaled∘gain + 2/C·gram`; `dgain = dscaled∘centred`.
struct Uncentre<'a, E> {
    dm: &'a mut [E],
    dgain: &'a mut [E],
    dscaled: &'a [E],
    gram: &'a [E],
    centred: &'a [E],
    gain: &'a [E],
}
impl<E: Elem> Kernel<E> for Uncentre<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { dm, dgain, dscaled, gram, centred, gain } = self;
        let c = E::from_f64(centred.len() as f64);
        let twice = s.splat(E::from_f64(2.0) / c);
        // dgain holds dcentred until its own turn.
        slice::zip2(s, dgain, dscaled, gain, |_, x, g| s.mul(x, g));
        slice::zip(s, dgain, gram, |y, x| s.fma(twice, x, y));
        let mean = s.splat(slice::sum(s, dgain) / c);
        slice::zip(s, dm, dgain, |y, x| s.add(y, s.sub(x, mean)));
        slice::zip2(s, dgain, dscaled, centred, |_, x, y| s.mul(x, y));
    }
}
