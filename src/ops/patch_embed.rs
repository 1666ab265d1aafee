//! From pixels to tokens (forward only): the patch convolution as a matrix product, the position embedding resampled
//! to the picture's grid, class and register tokens put in front.

pub mod cuda;

use crate::error::{Error, Result};
use crate::ops::linear;
use crate::runtime::simd::{Elem, Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// img `(B, 3, h, w)` normalised, weight `(C, 3, p, p)`, bias `(C)` → `(B, N, C)`, N = (h/p)·(w/p), patches row by row.
/// h and w must be multiples of the patch size p.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    img: &Tensor<E>,
    weight: &Tensor<E>,
    bias: &Tensor<E>,
) -> Result<Tensor<E>> {
    weight.expect("patch_embed", "weight", &[usize::MAX; 4])?;
    let (c, planes, p) = (weight.shape()[0], weight.shape()[1], weight.shape()[3]);
    weight.expect("patch_embed", "weight", &[c, planes, p, p])?;
    img.expect("patch_embed", "img", &[usize::MAX, planes, usize::MAX, usize::MAX])?;
    let (b, h, w) = (img.shape()[0], img.shape()[2], img.shape()[3]);
    if p == 0 || h < p || w < p || !h.is_multiple_of(p) || !w.is_multiple_of(p) {
        return Err(Error::Shape {
            op: "patch_embed",
            tensor: "img",
            wanted: format!("(B, {planes}, h, w) with h and w multiples of {p}"),
            got: format!("({b}, {planes}, {h}, {w})"),
        });
    }
    let (gh, gw, k) = (h / p, w / p, planes * p * p);
    let cols = cpu.make_chunks(b * gh * gw * k, gw * k, |strip, out| {
        let (img, top) = (img.slab(strip / gh), strip % gh * p);
        for (i, out) in out.chunks_exact_mut(p).enumerate() {
            let (patch, plane, y) = (i / (planes * p), i / p % planes, i % p);
            let at = (plane * h + top + y) * w + patch * p;
            out.copy_from_slice(&img[at..at + p]);
        }
    });
    let cols = Tensor::new(&[b, gh * gw, k], cols);
    linear::forward(cpu, &cols, &weight.clone().reshaped(&[c, k]), Some(bias))
}

/// Position embedding `(1, 1 + g·g, C)`, class first → `(1, 1 + h·w, C)` for `grid = (h, w)`.
///
/// Bicubic with a = -0.75, half-pixel centres, no antialias, borders clamped. The step between samples is
/// `g/(h + 0.1)`, not `g/h`: DINOv2 passes that factor to the interpolation, and its weights expect it.
pub fn pos_embed<E: Elem>(cpu: &Cpu, pos: &Tensor<E>, grid: (usize, usize)) -> Result<Tensor<E>> {
    pos.expect("pos_embed", "pos", &[1, usize::MAX, usize::MAX])?;
    let (tokens, c) = (pos.shape()[1], pos.cols());
    let g = tokens.saturating_sub(1).isqrt();
    if g == 0 || g * g + 1 != tokens || grid.0 == 0 || grid.1 == 0 {
        return Err(Error::Shape {
            op: "pos_embed",
            tensor: "pos",
            wanted: format!("(1, 1 + g·g, C), to be resampled to a grid of {} x {}", grid.0, grid.1),
            got: format!("(1, {tokens}, {c})"),
        });
    }
    if grid == (g, g) {
        return Ok(pos.clone());
    }
    let (rows, cols) = (cubic_taps::<E>(g, grid.0), cubic_taps::<E>(g, grid.1));
    let mut y = Tensor::zeros(&[1, 1 + grid.0 * grid.1, c]);
    let (class, patches) = y.data.split_at_mut(c);
    class.copy_from_slice(pos.row(0));
    cpu.for_chunks(patches, c, |i, out| {
        cpu.dispatch(Cubic { out, pos, g, row: &rows[i / grid.1], col: &cols[i % grid.1] });
    });
    Ok(y)
}

/// For each of `n` samples along an axis of `g`: four (index, weight) pairs.
fn cubic_taps<E: Elem>(g: usize, n: usize) -> Vec<[(usize, E); 4]> {
    let e = E::from_f64;
    let step = e(1.0 / ((n as f64 + 0.1) / g as f64));
    // The cubic convolution kernel with a = -0.75: |x| <= 1, and 1 < |x| < 2.
    let near = |x: E| (e(1.25) * x - e(2.25)) * x * x + E::ONE;
    let far = |x: E| ((e(-0.75) * x + e(3.75)) * x - e(6.0)) * x + e(3.0);
    (0..n)
        .map(|i| {
            let at = step * (e(i as f64) + e(0.5)) - e(0.5);
            let base = at.to_f64().floor().min(g as f64 - 1.0);
            let t = e((at - e(base)).to_f64().clamp(0.0, 1.0));
            let u = E::ONE - t;
            let weights = [far(t + E::ONE), near(t), near(u), far(u + E::ONE)];
            std::array::from_fn(|j| {
                let index = (base + j as f64 - 1.0).clamp(0.0, g as f64 - 1.0);
                (index as usize, weights[j])
            })
        })
        .collect()
}

struct Cubic<'a, E: Elem> {
    out: &'a mut [E],
    pos: &'a Tensor<E>,
    g: usize,
    row: &'a [(usize, E); 4],
    col: &'a [(usize, E); 4],
}
impl<E: Elem> Kernel<E> for Cubic<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        for &(y, wy) in self.row {
            for &(x, wx) in self.col {
                slice::axpy(s, self.out, wy * wx, self.pos.row(1 + y * self.g + x));
            }
        }
    }
}

/// patches `(B, N, C)`, pos `(1, 1 + N, C)`, cls `(1, 1, C)`, registers `(1, R, C)` → `(B, 1 + R + N, C)`: class and
/// patch tokens with their position, the registers between them without.
pub fn tokens<E: Elem>(
    cpu: &Cpu,
    patches: &Tensor<E>,
    pos: &Tensor<E>,
    cls: &Tensor<E>,
    registers: Option<&Tensor<E>>,
) -> Result<Tensor<E>> {
    patches.expect("tokens", "patches", &[usize::MAX; 3])?;
    let (b, n, c) = (patches.shape()[0], patches.shape()[1], patches.cols());
    pos.expect("tokens", "pos", &[1, 1 + n, c])?;
    cls.expect("tokens", "cls", &[1, 1, c])?;
    if let Some(r) = registers {
        r.expect("tokens", "registers", &[1, usize::MAX, c])?;
    }
    let r = registers.map_or(0, |r| r.shape()[1]);
    let t = 1 + r + n;
    let y = cpu.make_chunks(b * t * c, c, |i, y| {
        let (b, i) = (i / t, i % t);
        let (from, pos) = match (i, registers) {
            (0, _) => (cls.row(0), Some(pos.row(0))),
            (i, Some(reg)) if i <= r => (reg.row(i - 1), None),
            _ => (patches.row(b * n + i - 1 - r), Some(pos.row(i - r))),
        };
        y.copy_from_slice(from);
        if let Some(x) = pos {
            cpu.dispatch(Add { y, x });
        }
    });
    Ok(Tensor::new(&[b, t, c], y))
}

struct Add<'a, E> {
    y: &'a mut [E],
    x: &'a [E],
}
impl<E: Elem> Kernel<E> for Add<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        slice::add(s, self.y, self.x)
    }
}
