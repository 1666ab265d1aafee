//! Anomaly maps as pictures and arrays: colour map, overlay, contact sheet, PNG, `.npy`.
//!
//! The scale `(low, high)` always comes from the caller, who fixes it for a run (or by the calibrated threshold): a
//! colour then means the same in every picture.

mod font;
mod sheet;

use std::path::Path;
use std::sync::LazyLock;

pub use sheet::{Sheet, SheetRow, contact_sheet};

use crate::error::{Error, Result};
use crate::fs::write_unsynced;

/// An RGB picture, 8 bits a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `(height, width, 3)`.
    pub data: Vec<u8>,
}

impl Rgb {
    /// One colour everywhere.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self { width, height, data: colour.repeat(width * height) }
    }
    /// Fills a rectangle; what falls outside is cut off.
    pub fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, colour: [u8; 3]) {
        let right = (x + width).min(self.width);
        for row in y..(y + height).min(self.height) {
            for column in x..right {
                self.data[(row * self.width + column) * 3..][..3].copy_from_slice(&colour);
            }
        }
    }
    /// Copies `other` in with its top left corner at `(x, y)`; what falls outside is cut off.
    pub fn paste(&mut self, x: usize, y: usize, other: &Rgb) {
        let width = other.width.min(self.width.saturating_sub(x));
        for row in 0..other.height.min(self.height.saturating_sub(y)) {
            let from = row * other.width * 3;
            let to = ((y + row) * self.width + x) * 3;
            self.data[to..to + width * 3].copy_from_slice(&other.data[from..from + width * 3]);
        }
    }
    /// Takes pixels `(height, width, 3)`; an error if there are too few or too many.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self> {
        check("picture", data.len(), &[height, width, 3])?;
        Ok(Self { width, height, data })
    }
}

/// The picture `(height, width, 3)` with the map `(side, side)` laid over it, bilinearly resized (half-pixel centres).
///
/// The more anomalous, the more of the colour and the less of the picture: at the bottom of the scale the picture is
/// as it was. Errors: lengths that do not fit; a map value or a scale that is not finite.
pub fn overlay(
    rgb: &[u8],
    width: usize,
    height: usize,
    map: &[f32],
    side: usize,
    scale: (f32, f32),
) -> Result<Vec<u8>> {
    check("picture", rgb.len(), &[height, width, 3])?;
    check("map", map.len(), &[side, side])?;
    let level = Level::new(map, scale)?;
    let columns: Vec<_> = (0..width).map(|x| Tap::at(x, width, side)).collect();
    let mut out = Vec::with_capacity(rgb.len());
    for (y, line) in rgb.chunks_exact(width.max(1) * 3).enumerate() {
        let row = Tap::at(y, height, side);
        let (above, below) = (&map[row.i * side..][..side], &map[row.j * side..][..side]);
        for (c, pixel) in columns.iter().zip(line.chunks_exact(3)) {
            let t = level.of(row.mix(c.mix(above[c.i], above[c.j]), c.mix(below[c.i], below[c.j])));
            // Opacity rises fast from nothing and ends at 3/4.
            let opacity = 0.75 * t * (2.0 - t);
            let colour = colour(t);
            out.extend(
                (0..3)
                    .map(|k| (pixel[k] as f32 * (1.0 - opacity) + colour[k] as f32 * opacity).round() as u8),
            );
        }
    }
    Ok(out)
}

/// As [`overlay`], for a map of the centre alone: `cover` (0 to 1] is the share of each side that the map covers (the
/// crop over the resize). What lies outside stays as it was.
pub fn overlay_centre(
    rgb: &[u8],
    width: usize,
    height: usize,
    map: &[f32],
    side: usize,
    cover: f64,
    scale: (f32, f32),
) -> Result<Vec<u8>> {
    check("picture", rgb.len(), &[height, width, 3])?;
    let inner = |n: usize| ((n as f64 * cover).round() as usize).clamp(1, n.max(1));
    let (w, h) = (inner(width), inner(height));
    let (x, y) = ((width - w) / 2, (height - h) / 2);
    let rows = |i: usize| ((y + i) * width + x) * 3..((y + i) * width + x + w) * 3;
    let centre: Vec<u8> = (0..h).flat_map(|i| &rgb[rows(i)]).copied().collect();
    let drawn = overlay(&centre, w, h, map, side, scale)?;
    let mut out = rgb.to_vec();
    for (i, row) in drawn.chunks_exact(w * 3).enumerate() {
        out[rows(i)].copy_from_slice(row);
    }
    Ok(out)
}

/// Writes a PNG, whole or not at all. Errors: pixels that do not fit `width`·`height`; the disk's.
pub fn write_png(path: &Path, width: usize, height: usize, rgb: &[u8]) -> Result<()> {
    let bytes = png(width, height, rgb).map_err(|e| match e {
        Error::Usage(what) => Error::file(path, what),
        e => e,
    })?;
    write_unsynced(path, &bytes)
}

/// The bytes of a PNG of `(height, width, 3)`.
pub fn png(width: usize, height: usize, rgb: &[u8]) -> Result<Vec<u8>> {
    use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
    check("picture", rgb.len(), &[height, width, 3])?;
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(rgb, width as u32, height as u32, ExtendedColorType::Rgb8)
        .map_err(|e| Error::usage(format!("cannot make a PNG of {width}x{height} pixels: {e}")))?;
    Ok(bytes)
}

/// The bytes of a NumPy `.npy` file (version 1.0, little-endian float32, C order) of `shape`.
pub fn npy(map: &[f32], shape: &[usize]) -> Vec<u8> {
    let dims: String = shape.iter().map(|d| format!("{d},")).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims}), }}");
    // Magic, version and length are 10 bytes; the header ends in a newline at a multiple of 64.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((padded as u16).to_le_bytes());
    out.extend(format!("{header:<width$}\n", width = padded - 1).bytes());
    out.extend(map.iter().flat_map(|x| x.to_le_bytes()));
    out
}

/// Colour at `t` in 0 … 1: from near black over violet and red to light yellow, evenly in perceived lightness.
///
/// A straight line in lightness and an arc of hue in OKLCh (Ottosson 2020), with as much chroma as sRGB holds.
pub fn colour(t: f32) -> [u8; 3] {
    static TABLE: LazyLock<[[u8; 3]; 256]> = LazyLock::new(|| {
        std::array::from_fn(|i| {
            let t = i as f32 / 255.0;
            let hue = (285.0 + 180.0 * t).to_radians();
            let lightness = 0.15 + 0.8 * t;
            let (mut chroma, mut step) = (0.0, 0.11);
            while step > 1e-4 {
                let fits = srgb(lightness, chroma + step, hue).iter().all(|x| (0.0..=1.0).contains(x));
                (chroma, step) = (if fits { chroma + step } else { chroma }, step / 2.0);
            }
            srgb(lightness, chroma, hue).map(|x| {
                let x = x.clamp(0.0, 1.0);
                let x = if x <= 0.003_130_8 { 12.92 * x } else { 1.055 * libm::powf(x, 1.0 / 2.4) - 0.055 };
                (255.0 * x).round() as u8
            })
        })
    });
    TABLE[(t.clamp(0.0, 1.0) * 255.0).round() as usize]
}

/// OKLCh to linear sRGB, not clipped.
fn srgb(lightness: f32, chroma: f32, hue: f32) -> [f32; 3] {
    let (a, b) = (chroma * libm::cosf(hue), chroma * libm::sinf(hue));
    let cube = |x: f32| x * x * x;
    let l = cube(lightness + 0.396_337_78 * a + 0.215_803_76 * b);
    let m = cube(lightness - 0.105_561_346 * a - 0.063_854_17 * b);
    let s = cube(lightness - 0.089_484_18 * a - 1.291_485_5 * b);
    [
        4.076_741_7 * l - 3.307_711_6 * m + 0.230_969_94 * s,
        -1.268_438 * l + 2.609_757_4 * m - 0.341_319_38 * s,
        -0.004_196_086_3 * l - 0.703_418_6 * m + 1.707_614_7 * s,
    ]
}

/// The scale: map values to 0 … 1.
struct Level {
    low: f32,
    high: f32,
}

impl Level {
    fn new(map: &[f32], (low, high): (f32, f32)) -> Result<Self> {
        if !(low <= high && low.is_finite() && high.is_finite()) {
            return Err(Error::usage(format!("a heat map cannot be drawn on a scale from {low} to {high}")));
        }
        match map.iter().find(|x| !x.is_finite()) {
            Some(x) => Err(Error::NotFinite(format!("the anomaly map holds {x}: it cannot be drawn"))),
            None => Ok(Self { low, high }),
        }
    }
    /// A scale of one point puts everything above it at the top.
    fn of(&self, x: f32) -> f32 {
        if x <= self.low {
            0.0
        } else if x >= self.high {
            1.0
        } else {
            (x - self.low) / (self.high - self.low)
        }
    }
}

/// The two source samples of a bilinearly resized one.
struct Tap {
    i: usize,
    j: usize,
    weight: f32,
}

impl Tap {
    fn at(x: usize, len: usize, source: usize) -> Self {
        let at = ((x as f32 + 0.5) * source as f32 / len as f32 - 0.5).clamp(0.0, (source - 1) as f32);
        Self { i: at as usize, j: (at as usize + 1).min(source - 1), weight: at.fract() }
    }
    fn mix(&self, a: f32, b: f32) -> f32 {
        a + (b - a) * self.weight
    }
}

fn check(tensor: &'static str, len: usize, shape: &[usize]) -> Result<()> {
    if len > 0 && len == shape.iter().product::<usize>() {
        return Ok(());
    }
    let wanted = format!("{shape:?}, not empty").replace('[', "(").replace(']', ")");
    Err(Error::Shape { op: "heatmap", tensor, wanted, got: format!("{len} values") })
}
