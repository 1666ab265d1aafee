//! Picture files to RGB8, as PIL decodes them and converts them to "RGB": alpha dropped (never composited), palettes
//! expanded, grey repeated, EXIF orientation ignored. The content decides the format, not the file's name.

mod formats;
mod mask;

use std::io::Read;
use std::path::Path;

pub use self::mask::{Binarize, LABEL_SIDE, Mask, decode_mask, mask_to_labels};
use crate::error::{Error, IoContext, Result};
use crate::ops::preprocess::{self, ImageView};
use crate::runtime::Cpu;

/// Extensions that a folder listing takes for pictures, in any case.
pub const IMAGE_EXTENSIONS: [&str; 7] = ["png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp"];

/// Whether the file's extension is that of a picture; the file is not opened.
pub fn is_image(path: &Path) -> bool {
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| IMAGE_EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(e)))
}

/// A decoded picture: `rgb` is `(height, width, 3)` in 8 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `(height, width, 3)`.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// The centre `crop`² of the picture resized to `resize`², `(crop, crop, 3)`. On this thread alone, for pictures are
    /// loaded side by side. Errors: sizes that do not fit each other.
    pub fn crop(&self, resize: usize, crop: usize) -> Result<Vec<u8>> {
        let frame = ImageView::rgb(&self.rgb, self.width, self.height)?;
        preprocess::crop_u8(&Cpu::new(Some(1))?, &frame, resize, crop)
    }
}

/// The largest picture that is decoded; a larger one is refused from its header.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Width times height.
    pub max_pixels: u64,
    /// Bytes of the file, and of the decoded samples.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: 100_000_000, max_bytes: 1 << 30 }
    }
}

/// Reads a picture file (PNG, JPEG, BMP, TIFF, WebP). Refused with a sentence: missing, empty, damaged or cut-off
/// files, other formats, pictures over `limits`, 16-bit and floating-point samples, CMYK, animations.
pub fn decode(path: &Path, limits: &Limits) -> Result<Picture> {
    decode_bytes(path, &read(path, limits)?, limits)
}

/// As [`decode`], from memory; `label` stands for the file in errors.
pub fn decode_bytes(label: &Path, bytes: &[u8], limits: &Limits) -> Result<Picture> {
    let raw = formats::decode(bytes, limits).map_err(|what| Error::file(label, what))?;
    let (width, height) = (raw.width, raw.height);
    let rgb = match (&raw.palette, raw.channels) {
        (Some(palette), _) => raw.data.iter().flat_map(|&i| palette[i as usize]).collect(),
        (None, 3) => raw.data,
        (None, 4) => raw.data.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        (None, c) => raw.data.chunks_exact(c).flat_map(|p| [p[0]; 3]).collect(),
    };
    Ok(Picture { width, height, rgb })
}

/// The bytes of a file that is not larger than the limits allow, for [`decode_bytes`].
pub fn read(path: &Path, limits: &Limits) -> Result<Vec<u8>> {
    if path.is_dir() {
        return Err(Error::file(path, "this is a folder, not a picture"));
    }
    let file = std::fs::File::open(path).at(path, "open the picture")?;
    let mut bytes = Vec::new();
    file.take(limits.max_bytes.saturating_add(1)).read_to_end(&mut bytes).at(path, "read the picture")?;
    if bytes.len() as u64 > limits.max_bytes {
        let what =
            format!("the file is larger than the limit of {} bytes; raise it to read it", limits.max_bytes);
        return Err(Error::file(path, what));
    }
    Ok(bytes)
}
