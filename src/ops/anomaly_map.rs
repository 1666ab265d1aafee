//! From cosine distances on the patch grid to the pixel map and the image score (forward only, f32).

pub mod cuda;

use crate::error::{Error, Result};
use crate::ops::fuse;
use crate::runtime::simd::{Kernel, Simd, slice};
use crate::runtime::{Cpu, Tensor};

/// Side of the pixel map.
pub const SIDE: usize = 256;
/// Side and standard deviation of the smoothing kernel.
const GAUSS: (usize, f64) = (5, 4.0);

/// The chain's steps.
#[derive(Clone, Debug)]
pub struct PostMaps {
    /// Mean of the groups at the crop's size, `(B, X, X)`.
    pub crop: Tensor,
    /// Resized to `(B, 256, 256)`.
    pub m256: Tensor,
    /// Smoothed: the pixel map, `(B, 256, 256)`.
    pub gauss: Tensor,
}

/// Distances of each group, `(B, side·side)` each → the maps. The resize is linear, so the mean of the groups is taken
/// first, on the patch grid.
pub fn post(cpu: &Cpu, maps: &[Tensor], side: usize, crop: usize) -> Result<PostMaps> {
    for m in maps {
        m.expect("anomaly_map", "map", &[usize::MAX, side * side])?;
    }
    let mean = fuse::mean(cpu, &maps.iter().collect::<Vec<_>>())?;
    let b = mean.shape()[0];
    let crop = upsample_aligned(cpu, &mean.reshaped(&[b, side, side]), crop)?;
    let m256 = resize(cpu, &crop, SIDE)?;
    let gauss = gauss(cpu, &m256)?;
    Ok(PostMaps { crop, m256, gauss })
}

/// x `(B, h, w)` → `(B, out, out)`: bilinear, the outermost samples on the outermost pixels' centres
/// (`align_corners = true`).
pub fn upsample_aligned(cpu: &Cpu, x: &Tensor, out: usize) -> Result<Tensor> {
    bilinear(cpu, x, out, |i, n| if out > 1 { (n - 1) as f32 / (out - 1) as f32 * i as f32 } else { 0.0 })
}

/// x `(B, h, w)` → `(B, out, out)`: bilinear between pixel centres, no antialias (`align_corners = false`).
pub fn resize(cpu: &Cpu, x: &Tensor, out: usize) -> Result<Tensor> {
    bilinear(cpu, x, out, |i, n| (n as f32 / out as f32 * (i as f32 + 0.5) - 0.5).max(0.0))
}

/// `source(i, n)`: where sample `i` lies on an axis of `n` pixels.
fn bilinear(cpu: &Cpu, x: &Tensor, out: usize, source: impl Fn(usize, usize) -> f32) -> Result<Tensor> {
    let (b, h, w) = check(x)?;
    if out == 0 {
        return Err(Error::usage("anomaly_map: a map cannot be resized to 0 x 0 pixels"));
    }
    let taps = |n: usize| -> Vec<(usize, usize, f32)> {
        (0..out)
            .map(|i| {
                let at = source(i, n);
                let low = (at as usize).min(n - 1);
                (low, (low + 1).min(n - 1), (at - low as f32).clamp(0.0, 1.0))
            })
            .collect()
    };
    let (rows, cols) = (taps(h), taps(w));
    let mut wide = vec![0.0; b * h * out];
    cpu.for_chunks(&mut wide, out, |r, y| {
        let x = x.row(r);
        for (y, &(low, high, t)) in y.iter_mut().zip(&cols) {
            *y = (1.0 - t) * x[low] + t * x[high];
        }
    });
    let mut y = Tensor::zeros(&[b, out, out]);
    cpu.for_chunks(&mut y.data, out, |r, y| {
        let (low, high, t) = rows[r % out];
        let row = |i: usize| &wide[(r / out * h + i) * out..][..out];
        cpu.dispatch(Blend { y, parts: &[(1.0 - t, row(low)), (t, row(high))] });
    });
    Ok(y)
}

/// x `(B, h, w)` → smoothed by a 5×5 Gaussian of sigma 4 that sums to 1; outside the map it is 0, so borders darken.
pub fn gauss(cpu: &Cpu, x: &Tensor) -> Result<Tensor> {
    let (_, h, w) = check(x)?;
    let half = GAUSS.0 / 2;
    let kernel: Vec<f32> = bell().into_iter().map(|x| x as f32).collect();
    let (mut rows, mut y) = (x.zeros_like(), x.zeros_like());
    cpu.for_chunks(&mut rows.data, w, |r, y| cpu.dispatch(Slide { y, x: x.row(r), kernel: &kernel }));
    cpu.for_chunks(&mut y.data, w, |r, y| {
        let near = (r % h).saturating_sub(half)..(r % h + half + 1).min(h);
        let parts: Vec<_> = near.map(|i| (kernel[i + half - r % h], rows.row(r - r % h + i))).collect();
        cpu.dispatch(Blend { y, parts: &parts });
    });
    Ok(y)
}

/// The whole chain along one axis as a matrix `(256, side)`: grid → `crop` pixels → 256 → blur. The map is `M·grid·Mᵀ`.
pub fn axis_matrix(side: usize, crop: usize) -> Vec<f64> {
    let axis = |n: usize, out: usize, source: &dyn Fn(usize) -> f64| -> Vec<Vec<(usize, f64)>> {
        let taps = |i: usize| {
            let at = source(i).max(0.0);
            let low = (at as usize).min(n - 1);
            let t = (at - low as f64).clamp(0.0, 1.0);
            vec![(low, 1.0 - t), ((low + 1).min(n - 1), t)]
        };
        (0..out).map(taps).collect()
    };
    let step = if crop > 1 { (side - 1) as f64 / (crop - 1) as f64 } else { 0.0 };
    let up = axis(side, crop, &|i| i as f64 * step);
    let down = axis(crop, SIDE, &|i| (i as f64 + 0.5) * crop as f64 / SIDE as f64 - 0.5);
    let kernel = bell();
    let half = kernel.len() / 2;
    let mut m = vec![0.0; SIDE * side];
    for (i, row) in m.chunks_exact_mut(side).enumerate() {
        for (k, g) in kernel.iter().enumerate() {
            // Outside the map it is 0.
            let Some(taps) = (i + k).checked_sub(half).and_then(|y| down.get(y)) else { continue };
            for (pixel, w) in taps {
                up[*pixel].iter().for_each(|(at, u)| row[*at] += g * w * u);
            }
        }
    }
    m
}

/// The smoothing kernel, which sums to 1.
fn bell() -> Vec<f64> {
    let bell = |i: usize| (-((i as f64 - (GAUSS.0 / 2) as f64) / GAUSS.1).powi(2) / 2.0).exp();
    let total: f64 = (0..GAUSS.0).map(bell).sum();
    (0..GAUSS.0).map(|i| bell(i) / total).collect()
}

/// Checks a stack of maps; B, h, w.
fn check(x: &Tensor) -> Result<(usize, usize, usize)> {
    x.expect("anomaly_map", "x", &[usize::MAX; 3])?;
    if x.is_empty() {
        return Err(Error::usage("anomaly_map: the map has no pixels"));
    }
    Ok((x.shape()[0], x.shape()[1], x.shape()[2]))
}

/// `y += Σ weight·row`.
struct Blend<'a> {
    y: &'a mut [f32],
    parts: &'a [(f32, &'a [f32])],
}
impl Kernel<f32> for Blend<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        for &(w, x) in self.parts {
            slice::axpy(s, self.y, w, x);
        }
    }
}

/// `y += x ∗ kernel` along a row.
struct Slide<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    kernel: &'a [f32],
}
impl Kernel<f32> for Slide<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        let (n, half) = (self.x.len(), self.kernel.len() / 2);
        for (i, &w) in self.kernel.iter().enumerate() {
            let (to, from) = (half.saturating_sub(i).min(n), i.saturating_sub(half).min(n));
            let len = n - to.max(from);
            slice::axpy(s, &mut self.y[to..to + len], w, &self.x[from..from + len]);
        }
    }
}

/// Image score of one map: mean of the `int(pixels·ratio)` largest values, the maximum where that is none.
/// `ratio` lies in 0..=1. A map that holds NaN or an infinity is an error, never a score.
pub fn score(map: &[f32], ratio: f64) -> Result<f32> {
    score_in(map, ratio, &mut Vec::new())
}

/// As [`score`], with a buffer that grows once and may hold anything.
pub fn score_in(map: &[f32], ratio: f64, scratch: &mut Vec<f32>) -> Result<f32> {
    if map.is_empty() || !(0.0..=1.0).contains(&ratio) {
        return Err(Error::usage(format!(
            "score: the share of largest pixels is {ratio} of {} pixels; it must be 0 to 1 of at least one",
            map.len()
        )));
    }
    if let Some(i) = map.iter().position(|x| !x.is_finite()) {
        return Err(Error::NotFinite(format!(
            "the anomaly map is not finite ({} at pixel {i}): check the picture and the model's weights",
            map[i]
        )));
    }
    let count = ((map.len() as f64 * ratio) as usize).max(1);
    scratch.clear();
    scratch.extend_from_slice(map);
    let v = &mut scratch[..];
    v.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
    // Sorted, so that the sum does not depend on where in the map the values lie.
    v[..count].sort_unstable_by(|a, b| b.total_cmp(a));
    Ok((v[..count].iter().map(|&x| x as f64).sum::<f64>() / count as f64) as f32)
}
