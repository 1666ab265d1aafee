//! Ground-truth masks: read as PIL reads them, and taken through the evaluation's transform to labels.

use std::path::Path;

use super::{Limits, formats, read};
use crate::error::{Error, Result};
use crate::ops::preprocess;
use crate::runtime::Cpu;

/// Side of the square that maps and labels are compared on.
pub const LABEL_SIDE: usize = 256;

/// A mask as its file holds it, alpha dropped: `data` is `(height, width, channels)`. Palette pictures in PNG and TIFF
/// are their indices, as PIL's tensors are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 or 3.
    pub channels: usize,
    /// `(height, width, channels)`.
    pub data: Vec<u8>,
    /// PIL's modes 1 and P, which are resized to the nearest pixel.
    pub nearest: bool,
    /// The file's largest value was 1; the values here are 0 and 255.
    pub scaled: bool,
}

impl Mask {
    /// Every value but 0 becomes 255, interpolated from then on: what VisA's own split makes of its masks, whose pixels
    /// hold the number of the defect's kind (1 to 9).
    pub fn mark_all_kinds(&mut self) {
        self.data.iter_mut().for_each(|v| *v = if *v == 0 { 0 } else { 255 });
        (self.nearest, self.scaled) = (false, false);
    }
}

/// Which mask pixels count as defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Binarize {
    /// More than half after resizing, as the published code does now.
    Half,
    /// Anything above zero after resizing, as for the paper's tables.
    Any,
}

/// Reads a mask file; refusals as for [`super::decode`].
pub fn decode_mask(path: &Path, limits: &Limits) -> Result<Mask> {
    let raw = formats::decode(&read(path, limits)?, limits).map_err(|what| Error::file(path, what))?;
    let channels = if raw.channels < 3 { 1 } else { 3 };
    let mut data = raw.data;
    if raw.channels != channels {
        data = data.chunks_exact(raw.channels).flat_map(|p| &p[..channels]).copied().collect();
    }
    let scaled = data.iter().max() == Some(&1);
    if scaled {
        data.iter_mut().for_each(|v| *v *= 255);
    }
    Ok(Mask { width: raw.width, height: raw.height, channels, data, nearest: raw.nearest, scaled })
}

/// Labels `(256, 256)` of 0 and 1: the picture's own resize to `resize`² and centre crop to `crop`² (bilinear on 8
/// bits, or nearest), then nearest to 256² with source index `floor(i·crop/256)`, binarised, the largest of the channels.
pub fn mask_to_labels(mask: &Mask, resize: usize, crop: usize, binarize: Binarize) -> Result<Vec<u8>> {
    let offset = preprocess::crop_offset(resize, crop)?;
    let c = mask.channels;
    let resized = if mask.nearest {
        preprocess::resize_nearest(&mask.data, mask.width, mask.height, c, resize, resize)
    } else {
        preprocess::resize(&Cpu::new(Some(1))?, &mask.data, mask.width, mask.height, c, resize, resize)
    };
    let least = match binarize {
        Binarize::Half => 128,
        Binarize::Any => 1,
    };
    let at = |i: usize| offset + i * crop / LABEL_SIDE;
    Ok((0..LABEL_SIDE * LABEL_SIDE)
        .map(|i| {
            let p = (at(i / LABEL_SIDE) * resize + at(i % LABEL_SIDE)) * c;
            resized[p..p + c].iter().any(|&v| v >= least) as u8
        })
        .collect())
}
