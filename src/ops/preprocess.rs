//! Pixels to the network's input, bit for bit as torchvision does it on PIL pictures: bilinear resize with antialiasing
//! in 8 bits, centre crop, `/255`, normalisation.
//!
//! Source: Pillow's two-pass resampling: triangle filter widened by the scale, coefficients of 22 bits, each pass
//! rounded to 8 bits. Checked against Pillow 13, which filters along the rows first unless the height shrinks by more
//! than twice as many pixels as the width; older versions always do the rows first, and differ by a step in some values
//! of tall pictures.

pub mod cuda;

use std::ops::Range;

use crate::error::{Error, Result};
use crate::runtime::simd::{Kernel, Simd};
use crate::runtime::{Cpu, Tensor};

/// Mean of the training pictures, R G B.
pub const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of the training pictures, R G B.
pub const STD: [f32; 3] = [0.229, 0.224, 0.225];
/// Largest side that a picture is resized to.
pub const MAX_SIDE: usize = 16_384;

/// How a frame's bytes are to be read; 8 bits a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// Grey.
    Mono8,
    /// Red, green, blue.
    Rgb8,
    /// Blue, green, red.
    Bgr8,
    /// Alpha is ignored.
    Rgba8,
}

impl PixelFormat {
    /// Bytes a pixel.
    pub fn bytes(self) -> usize {
        match self {
            Self::Mono8 => 1,
            Self::Rgb8 | Self::Bgr8 => 3,
            Self::Rgba8 => 4,
        }
    }
}

/// Borrowed pixels of one frame, rows `stride` bytes apart.
#[derive(Clone, Copy, Debug)]
pub struct ImageView<'a> {
    pixels: &'a [u8],
    width: usize,
    height: usize,
    stride: usize,
    format: PixelFormat,
}

impl<'a> ImageView<'a> {
    /// Refused unless there are pixels and `pixels` holds all of them.
    pub fn new(
        pixels: &'a [u8],
        width: usize,
        height: usize,
        stride: usize,
        format: PixelFormat,
    ) -> Result<Self> {
        let row = width.checked_mul(format.bytes());
        let needed = row.and_then(|row| stride.checked_mul(height.checked_sub(1)?)?.checked_add(row));
        if width == 0 || row.is_none_or(|row| stride < row) || needed.is_none_or(|n| pixels.len() < n) {
            return Err(Error::Shape {
                op: "preprocess",
                tensor: "pixels",
                wanted: format!(
                    "at least 1 × 1 {format:?} pixels in rows of stride bytes, all in the buffer"
                ),
                got: format!("{width} × {height}, stride {stride}, in {} bytes", pixels.len()),
            });
        }
        Ok(Self { pixels, width, height, stride, format })
    }
    /// A frame of RGB8 without padding.
    pub fn rgb(pixels: &'a [u8], width: usize, height: usize) -> Result<Self> {
        Self::new(pixels, width, height, width.saturating_mul(3), PixelFormat::Rgb8)
    }
    /// Pixels across.
    pub fn width(&self) -> usize {
        self.width
    }
    /// Pixels down.
    pub fn height(&self) -> usize {
        self.height
    }
    /// How its bytes are to be read.
    pub fn format(&self) -> PixelFormat {
        self.format
    }
    /// Its rows without padding, `height · width · format.bytes()` bytes.
    ///
    /// # Panics
    /// Unless `to` has that length.
    pub fn copy_to(&self, to: &mut [u8]) {
        let row = self.width * self.format.bytes();
        assert_eq!(to.len(), row * self.height, "the buffer has another length than the frame");
        let rows = self.pixels.chunks(self.stride);
        to.chunks_exact_mut(row).zip(rows).for_each(|(to, from)| to.copy_from_slice(&from[..row]));
    }
}

/// Offset of the centre crop, `round((resize - crop)/2)`, half to even as Python rounds.
pub fn crop_offset(resize: usize, crop: usize) -> Result<usize> {
    if crop == 0 || resize < crop || resize > MAX_SIDE {
        return Err(Error::usage(format!(
            "a crop of {crop} does not fit a resize of {resize}: give 1 ≤ crop ≤ resize ≤ {MAX_SIDE}"
        )));
    }
    let half = (resize - crop) / 2;
    Ok(half + (resize - crop) % 2 * (half % 2))
}

/// Filter coefficients of some outputs along one axis.
#[derive(Clone, Default)]
struct Taps {
    /// First input and number of inputs of each output.
    spans: Vec<(usize, usize)>,
    /// `width` coefficients an output, in 22 bits after the point.
    k: Vec<i32>,
    width: usize,
}

const BITS: u32 = 22;

impl Taps {
    /// For the outputs `range` of `n_out`.
    fn set(&mut self, n_in: usize, n_out: usize, range: Range<usize>) {
        let scale = n_in as f64 / n_out as f64;
        let support = scale.max(1.0);
        self.width = support.ceil() as usize * 2 + 1;
        self.spans.clear();
        self.k.clear();
        self.k.resize(range.len() * self.width, 0);
        let narrow = 1.0 / support;
        for (i, k) in range.zip(self.k.chunks_exact_mut(self.width)) {
            let centre = (i as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let count = ((centre + support + 0.5) as usize).min(n_in) - first;
            let weight = |x: usize| (1.0 - (((x + first) as f64 - centre + 0.5) * narrow).abs()).max(0.0);
            let total: f64 = (0..count).map(weight).sum();
            for (x, k) in k.iter_mut().enumerate().take(count) {
                *k = (0.5 + weight(x) / total * f64::from(1u32 << BITS)) as i32;
            }
            self.spans.push((first, count));
        }
    }
    fn of(&self, i: usize) -> (usize, &[i32]) {
        let (first, count) = self.spans[i];
        (first, &self.k[i * self.width..][..count])
    }
    /// The inputs that the outputs use.
    fn inputs(&self) -> Range<usize> {
        let last = self.spans.last().map_or(0, |&(first, count)| first + count);
        self.spans.first().map_or(0, |s| s.0)..last
    }
}

fn round(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// How to resize one frame size to (part of) another.
#[derive(Clone, Default)]
struct Plan {
    x: Taps,
    y: Taps,
    rows_first: bool,
}

impl Plan {
    /// For the outputs `part` along each axis of a resize to `out`; sizes are width, height.
    fn set(&mut self, from: (usize, usize), out: (usize, usize), part: (Range<usize>, Range<usize>)) {
        self.x.set(from.0, out.0, part.0);
        self.y.set(from.1, out.1, part.1);
        self.rows_first = from.1 <= out.1 || from.1 - out.1 + 2 * out.0 <= 2 * from.0;
    }
    /// `STEP` bytes an input pixel, rows `stride` apart, to `out`, `C` bytes a pixel; `between` is scratch.
    fn run<const STEP: usize, const C: usize>(
        &self,
        cpu: &Cpu,
        out: &mut [u8],
        src: &[u8],
        stride: usize,
        between: &mut Vec<u8>,
    ) {
        let (x, y, cols) = (&self.x, &self.y, self.x.spans.len() * C);
        let (left, top) = (x.inputs().start, y.inputs().start);
        let across = |out: &mut [u8], row: &[u8]| cpu.dispatch(Across::<STEP, C> { out, row, left, taps: x });
        let down = |out: &mut [u8], rows: &[u8], stride: usize, r: usize| {
            let (first, k) = y.of(r);
            cpu.dispatch(Down { out, rows: &rows[(first - top) * stride..], stride, k })
        };
        let src = &src[top * stride + left * STEP..];
        if self.rows_first {
            between.resize(y.inputs().len() * cols, 0);
            cpu.for_chunks(between, cols, |r, out| across(out, &src[r * stride..]));
            cpu.for_chunks(out, cols, |r, out| down(out, between, cols, r));
        } else {
            let width = x.inputs().len() * STEP;
            between.resize(y.spans.len() * width, 0);
            cpu.for_chunks(between, width, |r, out| down(out, src, stride, r));
            cpu.for_chunks(out, cols, |r, out| across(out, &between[r * width..]));
        }
    }
}

/// One row resampled: `STEP` bytes an input pixel, of which the first `C` are kept; `row` begins at pixel `left`.
struct Across<'a, const STEP: usize, const C: usize> {
    out: &'a mut [u8],
    row: &'a [u8],
    left: usize,
    taps: &'a Taps,
}
impl<const STEP: usize, const C: usize> Kernel<f32> for Across<'_, STEP, C> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, _: S) {
        for (i, out) in self.out.chunks_exact_mut(C).enumerate() {
            let (first, k) = self.taps.of(i);
            let mut sum = [1 << (BITS - 1); C];
            for (p, &k) in self.row[(first - self.left) * STEP..].chunks_exact(STEP).zip(k) {
                (0..C).for_each(|c| sum[c] += i32::from(p[c]) * k);
            }
            (0..C).for_each(|c| out[c] = round(sum[c]));
        }
    }
}

/// One row from the rows around it, which are `stride` apart.
struct Down<'a> {
    out: &'a mut [u8],
    rows: &'a [u8],
    stride: usize,
    k: &'a [i32],
}
impl Kernel<f32> for Down<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, _: S) {
        const BLOCK: usize = 64;
        for (b, out) in self.out.chunks_mut(BLOCK).enumerate() {
            let mut sum = [1i32 << (BITS - 1); BLOCK];
            for (i, &k) in self.k.iter().enumerate() {
                let row = &self.rows[i * self.stride + b * BLOCK..][..out.len()];
                sum.iter_mut().zip(row).for_each(|(s, &v)| *s += i32::from(v) * k);
            }
            out.iter_mut().zip(sum).for_each(|(o, s)| *o = round(s));
        }
    }
}

/// src `(height, width, channels)` → `(out_h, out_w, channels)`, as Pillow's BILINEAR. No side may be 0 (or it panics),
/// channels are 1, 2, 3 or 4 and not weighted by any alpha.
pub fn resize(
    cpu: &Cpu,
    src: &[u8],
    width: usize,
    height: usize,
    channels: usize,
    out_w: usize,
    out_h: usize,
) -> Vec<u8> {
    assert_eq!(src.len(), width * height * channels, "resize: src is {width} × {height} × {channels}");
    assert!(width * height * out_w * out_h > 0, "resize: {width} × {height} to {out_w} × {out_h}");
    let mut plan = Plan::default();
    plan.set((width, height), (out_w, out_h), (0..out_w, 0..out_h));
    let mut out = vec![0; out_w * out_h * channels];
    let run = match channels {
        1 => Plan::run::<1, 1>,
        2 => Plan::run::<2, 2>,
        3 => Plan::run::<3, 3>,
        4 => Plan::run::<4, 4>,
        _ => panic!("resize: {channels} channels"),
    };
    run(&plan, cpu, &mut out, src, width * channels, &mut Vec::new());
    out
}

/// As [`resize`], taking the nearest pixel as Pillow's NEAREST does; any number of channels.
pub fn resize_nearest(
    src: &[u8],
    width: usize,
    height: usize,
    channels: usize,
    out_w: usize,
    out_h: usize,
) -> Vec<u8> {
    assert_eq!(
        src.len(),
        width * height * channels,
        "resize_nearest: src is {width} × {height} × {channels}"
    );
    // Pillow adds up the step from one output to the next, rounding errors included.
    let sources = |n_in: usize, n_out: usize| -> Vec<usize> {
        let step = n_in as f64 / n_out as f64;
        let all = std::iter::successors(Some(step * 0.5), |at| Some(at + step));
        all.take(n_out).map(|at| (at as usize).min(n_in - 1)).collect()
    };
    let (xs, ys) = (sources(width, out_w), sources(height, out_h));
    let mut out = Vec::with_capacity(out_w * out_h * channels);
    for y in ys {
        for x in &xs {
            out.extend_from_slice(&src[(y * width + x) * channels..][..channels]);
        }
    }
    out
}

/// Resizes frames to `resize`² and takes the centre `crop`² of them, computing only that. Keeps the coefficients of the
/// last frame size and its scratch: a stream of equal frames allocates nothing.
#[derive(Clone)]
pub struct Cropper {
    resize: usize,
    crop: usize,
    offset: usize,
    frame: (usize, usize),
    plan: Plan,
    between: Vec<u8>,
}

impl Cropper {
    /// Errors as [`crop_offset`].
    pub fn new(resize: usize, crop: usize) -> Result<Self> {
        let offset = crop_offset(resize, crop)?;
        Ok(Self { resize, crop, offset, frame: (0, 0), plan: Plan::default(), between: Vec::new() })
    }
    /// Any frame → `out` `(crop, crop, 3)`, RGB; grey is repeated.
    pub fn run(&mut self, cpu: &Cpu, frame: &ImageView, out: &mut [u8]) -> Result<()> {
        let area = self.crop * self.crop;
        if out.len() != 3 * area {
            return Err(Error::Shape {
                op: "preprocess",
                tensor: "out",
                wanted: format!("{} bytes", 3 * area),
                got: format!("{} bytes", out.len()),
            });
        }
        let size = (frame.width, frame.height);
        if self.frame != size {
            let part = self.offset..self.offset + self.crop;
            self.plan.set(size, (self.resize, self.resize), (part.clone(), part));
            self.frame = size;
        }
        let (plan, src, stride, between) = (&self.plan, frame.pixels, frame.stride, &mut self.between);
        match frame.format {
            PixelFormat::Mono8 => {
                plan.run::<1, 1>(cpu, &mut out[..area], src, stride, between);
                (0..area).rev().for_each(|i| {
                    let v = out[i];
                    out[3 * i..3 * i + 3].fill(v);
                });
            }
            PixelFormat::Rgb8 | PixelFormat::Bgr8 => plan.run::<3, 3>(cpu, out, src, stride, between),
            PixelFormat::Rgba8 => plan.run::<4, 3>(cpu, out, src, stride, between),
        }
        if frame.format == PixelFormat::Bgr8 {
            out.chunks_exact_mut(3).for_each(|p| p.swap(0, 2));
        }
        Ok(())
    }
}

/// One frame → `(crop, crop, 3)`, RGB: the centre of the frame resized to `resize`². Errors as [`crop_offset`].
pub fn crop_u8(cpu: &Cpu, frame: &ImageView, resize: usize, crop: usize) -> Result<Vec<u8>> {
    let mut cropper = Cropper::new(resize, crop)?;
    let mut out = vec![0; 3 * crop * crop];
    cropper.run(cpu, frame, &mut out)?;
    Ok(out)
}

/// crop `(h, w, 3)` in 8 bits → `(3, h, w)`: `(v/255 - mean)/std` in f32, operation by operation as torch does it.
pub fn normalise(crop: &[u8], h: usize, w: usize) -> Tensor<f32> {
    let mut out = Tensor::zeros(&[3, h, w]);
    normalise_into(crop, &mut out.data);
    out
}

/// As [`normalise`], into a buffer of as many elements as `crop` has (else it panics).
pub fn normalise_into(crop: &[u8], out: &mut [f32]) {
    assert_eq!(crop.len(), out.len(), "normalise: lengths differ");
    for (c, plane) in out.chunks_exact_mut((crop.len() / 3).max(1)).enumerate() {
        let value: [f32; 256] = std::array::from_fn(|v| (v as f32 / 255.0 - MEAN[c]) / STD[c]);
        plane.iter_mut().zip(crop[c..].iter().step_by(3)).for_each(|(to, &v)| *to = value[v as usize]);
    }
}
