//! The 22 views that few-shot training makes of one picture, after normalisation, as the published code makes them:
//! PyTorch's `affine_grid` and `grid_sample` (bilinear, reflection padding) and kornia's rotation.

use std::f64::consts::PI;

use crate::runtime::Tensor;

/// Number of views of a picture.
pub const VIEWS: usize = 22;

/// x `(3, h, w)`, normalised → the views, each `(3, h, w)`: itself; rotations by -π/4, -3π/16, -π/8, -π/16, π/16, π/8,
/// 3π/16, π/4; translations by ±0.2, then ±0.1, of half the picture; mirrored; grey; rotations by 90°, 180°, 270°.
/// Panics on another shape (a bug, never a user's input).
pub fn views(x: &Tensor<f32>) -> Vec<Tensor<f32>> {
    assert!(x.shape().len() == 3 && x.shape()[0] == 3, "views: shape {:?}", x.shape());
    let mut out = vec![x.clone()];
    for sixteenths in [-4, -3, -2, -1, 1, 2, 3, 4] {
        let (sin, cos) = (f64::from(sixteenths) * PI / 16.0).sin_cos();
        out.push(affine(x, [[cos, -sin, 0.0], [sin, cos, 0.0]]));
    }
    for d in [0.2, 0.1] {
        for (a, b) in [(d, d), (-d, d), (-d, -d), (d, -d)] {
            out.push(affine(x, [[1.0, 0.0, a], [0.0, 1.0, b]]));
        }
    }
    out.push(mirror(x));
    out.push(grey(x));
    // kornia turns about the centre of the pixel grid, by an angle in f32: almost whole pixels on a square.
    for quarters in [1.0, 2.0, 3.0f32] {
        let (sin, cos) = (quarters * 90.0 * std::f32::consts::PI / 180.0).sin_cos();
        let (sin, cos) = (f64::from(sin), f64::from(cos));
        out.push(sample(x, 0.0, |y, x, h, w| {
            let (cy, cx) = ((h - 1.0) / 2.0, (w - 1.0) / 2.0);
            let (dy, dx) = (y - cy, x - cx);
            (cy + sin * dx + cos * dy, cx + cos * dx - sin * dy)
        }));
    }
    out
}

/// `grid_sample(x, affine_grid(m))`, align_corners false: `m` maps output to input, both in (-1, 1) across the picture.
fn affine(x: &Tensor<f32>, m: [[f64; 3]; 2]) -> Tensor<f32> {
    sample(x, 0.5, |y, x, h, w| {
        let (v, u) = ((2.0 * y + 1.0) / h - 1.0, (2.0 * x + 1.0) / w - 1.0);
        let [su, sv] = m.map(|r| r[0] * u + r[1] * v + r[2]);
        (((sv + 1.0) * h - 1.0) / 2.0, ((su + 1.0) * w - 1.0) / 2.0)
    })
}

/// Bilinear samples at the pixel coordinates `source(y, x, h, w)`, which are reflected at `edge` outside the outermost
/// pixel centres.
fn sample(x: &Tensor<f32>, edge: f64, source: impl Fn(f64, f64, f64, f64) -> (f64, f64)) -> Tensor<f32> {
    let (h, w) = (x.shape()[1], x.shape()[2]);
    let mut out = x.zeros_like();
    for i in 0..h * w {
        let (sy, sx) = source((i / w) as f64, (i % w) as f64, h as f64, w as f64);
        let (y0, y1, fy) = neighbours(sy, h, edge);
        let (x0, x1, fx) = neighbours(sx, w, edge);
        for c in 0..3 {
            let p = x.slab(c);
            let top = p[y0 * w + x0] * (1.0 - fx) + p[y0 * w + x1] * fx;
            let bottom = p[y1 * w + x0] * (1.0 - fx) + p[y1 * w + x1] * fx;
            out.data[c * h * w + i] = top * (1.0 - fy) + bottom * fy;
        }
    }
    out
}

/// The two pixels about a coordinate, and how far it is from the first to the second.
fn neighbours(at: f64, n: usize, edge: f64) -> (usize, usize, f32) {
    let (low, last) = (-edge, (n - 1) as f64);
    let span = last + 2.0 * edge;
    // A mirror at either edge repeats after twice the span.
    let turned = if span > 0.0 { (at - low).rem_euclid(2.0 * span) } else { 0.0 };
    let at = (low + turned.min(2.0 * span - turned)).clamp(0.0, last);
    let first = at.floor();
    (first as usize, (first as usize + 1).min(n - 1), (at - first) as f32)
}

fn mirror(x: &Tensor<f32>) -> Tensor<f32> {
    let mut out = x.clone();
    out.data.chunks_exact_mut(x.cols().max(1)).for_each(<[f32]>::reverse);
    out
}

fn grey(x: &Tensor<f32>) -> Tensor<f32> {
    let mix = x.slab(0).iter().zip(x.slab(1)).zip(x.slab(2));
    let grey: Vec<f32> = mix.map(|((r, g), b)| 0.299 * r + 0.587 * g + 0.114 * b).collect();
    Tensor::new(x.shape(), grey.repeat(3))
}
