//! One function a file format: bytes to samples as the file holds them, palette indices included. Errors are sentences
//! to which the caller adds the file's name.

use std::io::Cursor;

use image::codecs::{bmp::BmpDecoder, jpeg::JpegDecoder, webp::WebPDecoder};
use image::{ColorType, ImageDecoder, ImageFormat};

use super::Limits;

/// Samples as stored: `data` is `(height, width, channels)`, the channels grey, grey and alpha, RGB or RGBA; with a
/// palette, one channel of indices.
pub struct Raw {
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    pub data: Vec<u8>,
    /// Colours of the indices, one for each of the 256 possible.
    pub palette: Option<Vec<[u8; 3]>>,
    /// PIL's modes 1 and P, which it never interpolates.
    pub nearest: bool,
}

type Decoded<T = Raw> = Result<T, String>;

const NO_PIXELS: &str = "the picture has no pixels: its width or height is 0";

pub fn decode(bytes: &[u8], limits: &Limits) -> Decoded {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    match image::guess_format(bytes) {
        Ok(ImageFormat::Png) => png(bytes, limits),
        Ok(ImageFormat::Jpeg) => jpeg(bytes, limits),
        Ok(ImageFormat::Bmp) => bmp(bytes, limits),
        Ok(ImageFormat::Tiff) => tiff(bytes, limits),
        Ok(ImageFormat::WebP) => webp(bytes, limits),
        _ => Err("this is not a picture that can be read (PNG, JPEG, BMP, TIFF or WebP)".into()),
    }
}

/// Holds the header's dimensions against the limits, before anything is decoded.
fn check(width: u32, height: u32, channels: u64, limits: &Limits) -> Decoded<()> {
    let pixels = width as u64 * height as u64;
    if pixels == 0 {
        return Err(NO_PIXELS.into());
    }
    let size = format!("the picture has {width} × {height} pixels");
    if pixels > limits.max_pixels {
        return Err(format!(
            "{size}, more than the limit of {} in all; raise it to read it",
            limits.max_pixels
        ));
    }
    if pixels.saturating_mul(channels) > limits.max_bytes {
        return Err(format!(
            "{size}, more than the limit of {} bytes decoded; raise it to read it",
            limits.max_bytes
        ));
    }
    Ok(())
}

fn deep(bits: u32) -> String {
    format!("the picture has {bits} bits a sample, which is not supported yet; convert it to 8 bits")
}

fn damaged(format: &str, why: impl std::fmt::Display) -> String {
    format!("the {format} file is damaged, cut off or of an unsupported kind ({why})")
}

/// Colours for every index: those that the file lacks are black, as in PIL.
fn palette(colours: impl Iterator<Item = [u8; 3]>) -> Option<Vec<[u8; 3]>> {
    let mut all = vec![[0; 3]; 256];
    all.iter_mut().zip(colours).for_each(|(to, colour)| *to = colour);
    Some(all)
}

/// Samples of `bits` < 8 packed in rows of whole bytes, first sample in the highest bits, to one byte each.
fn unpack(packed: &[u8], width: usize, bits: usize) -> Vec<u8> {
    let sample =
        |row: &[u8], x: usize| (row[x * bits / 8] >> (8 - bits - x * bits % 8)) & ((1u16 << bits) - 1) as u8;
    packed
        .chunks_exact((width * bits).div_ceil(8))
        .flat_map(|row| (0..width).map(move |x| sample(row, x)))
        .collect()
}

fn png(bytes: &[u8], limits: &Limits) -> Decoded {
    let bad = |e: png::DecodingError| damaged("PNG", e);
    let max = png::Limits { bytes: usize::try_from(limits.max_bytes).unwrap_or(usize::MAX) };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), max);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(bad)?;
    let (color, depth) = (header.color_type, header.bit_depth as usize);
    check(header.width, header.height, header.color_type.samples() as u64, limits)?;
    if depth == 16 {
        return Err(deep(16));
    }
    let indexed = color == png::ColorType::Indexed;
    if !indexed {
        decoder.set_transformations(png::Transformations::EXPAND);
    }
    let mut reader = decoder.read_info().map_err(bad)?;
    if reader.info().animation_control().is_some_and(|a| a.num_frames > 1) {
        return Err("the PNG file is animated; save one frame of it".into());
    }
    let mut data = vec![0; reader.output_buffer_size().ok_or_else(|| damaged("PNG", "it is too large"))?];
    reader.next_frame(&mut data).map_err(bad)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let colours = reader.info().palette.as_deref().unwrap_or_default();
    Ok(Raw {
        width,
        height,
        channels: reader.output_color_type().0.samples(),
        palette: if indexed { palette(colours.chunks_exact(3).map(|c| [c[0], c[1], c[2]])) } else { None },
        data: if indexed && depth < 8 { unpack(&data, width, depth) } else { data },
        nearest: indexed || depth == 1,
    })
}

/// The rest of a decoder of the `image` crate, once its header is read.
fn finish(format: &str, decoder: impl ImageDecoder, limits: &Limits) -> Decoded {
    let ((width, height), color) = (decoder.dimensions(), decoder.color_type());
    let channels = color.channel_count();
    check(width, height, channels as u64, limits)?;
    if !matches!(color, ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8) {
        return Err(deep(color.bits_per_pixel() as u32 / channels as u32));
    }
    let mut data = vec![0; width as usize * height as usize * channels as usize];
    decoder.read_image(&mut data).map_err(|e| damaged(format, e))?;
    let (width, height, channels) = (width as usize, height as usize, channels as usize);
    Ok(Raw { width, height, channels, data, palette: None, nearest: false })
}

fn jpeg(bytes: &[u8], limits: &Limits) -> Decoded {
    match jpeg_frame(bytes) {
        None => return Err(damaged("JPEG", "it ends before its end marker")),
        Some((bits, _)) if bits != 8 => return Err(deep(bits as u32)),
        Some((_, 4)) => return Err("the JPEG file is CMYK, which is not supported; convert it to RGB".into()),
        Some(_) => {}
    }
    finish("JPEG", JpegDecoder::new(Cursor::new(bytes)).map_err(|e| damaged("JPEG", e))?, limits)
}

/// Bits a sample and number of components from the frame header, once the end marker is seen: the decoder itself fills
/// what is missing of a cut-off file with grey. `None` if a marker or the end is missing.
fn jpeg_frame(b: &[u8]) -> Option<(u8, u8)> {
    let (mut i, mut frame) = (2, None);
    loop {
        // Between segments, and in entropy-coded data, anything up to FF and a byte that is not stuffing.
        i += b.get(i..)?.iter().position(|&x| x == 0xFF)?;
        i += b[i..].iter().position(|&x| x != 0xFF)?;
        match b[i] {
            0xD9 => return frame,
            0x00 | 0x01 | 0xD0..=0xD8 => i += 1,
            marker => {
                if matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC) {
                    frame = Some((*b.get(i + 3)?, *b.get(i + 8)?));
                }
                i += 1 + u16::from_be_bytes([*b.get(i + 1)?, *b.get(i + 2)?]) as usize;
            }
        }
    }
}

fn bmp(bytes: &[u8], limits: &Limits) -> Decoded {
    // The oldest header has narrower dimensions, and the bits a pixel sooner.
    let old = bytes.get(14) == Some(&12);
    if !old && [18, 22].iter().any(|&at| bytes.get(at..at + 4) == Some(&[0; 4])) {
        return Err(NO_PIXELS.into());
    }
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(|e| damaged("BMP", e))?;
    let raw = finish("BMP", decoder, limits)?;
    // The decoder has expanded any palette; PIL takes one of greys for mode L.
    let coloured = || raw.data.chunks_exact(raw.channels).any(|p| p.iter().any(|v| *v != p[0]));
    let nearest = match bytes.get(if old { 24 } else { 28 }) {
        Some(1) => true,
        Some(2..=8) => coloured(),
        _ => false,
    };
    Ok(Raw { nearest, ..raw })
}

fn webp(bytes: &[u8], limits: &Limits) -> Decoded {
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| damaged("WebP", e))?;
    if decoder.has_animation() {
        return Err("the WebP file is animated; save one frame of it".into());
    }
    finish("WebP", decoder, limits)
}

fn tiff(bytes: &[u8], limits: &Limits) -> Decoded {
    use tiff::{ColorType as C, decoder::*, tags::Tag};
    let bad = |e: tiff::TiffError| damaged("TIFF", e);
    // The decoder knows no palettes: it gets to see indices as grey values.
    let mut bytes = std::borrow::Cow::Borrowed(bytes);
    let palette_at = photometric(&bytes).and_then(|(at, kind)| (kind == 3).then_some(at));
    if let Some(at) = palette_at {
        let grey = if bytes[0] == b'I' { [1, 0] } else { [0, 1] };
        bytes.to_mut()[at..at + 2].copy_from_slice(&grey);
    }
    let indices = palette_at.is_some();
    let mut decoder = Decoder::new(Cursor::new(&bytes[..])).map_err(bad)?;
    let (width, height) = decoder.dimensions().map_err(bad)?;
    let color = decoder.colortype().map_err(bad)?;
    let channels = color.num_samples();
    check(width, height, channels as u64, limits)?;
    let bits = color.bit_depth();
    match color {
        _ if bits > 8 => return Err(deep(bits as u32)),
        C::CMYK(_) | C::CMYKA(_) => {
            return Err("the TIFF file is CMYK, which is not supported; convert it to RGB".into());
        }
        C::Gray(1 | 2 | 4 | 8) | C::GrayA(8) | C::RGB(8) | C::RGBA(8) => {}
        C::Multiband { bit_depth: 8, num_samples: 2 } => {}
        other => return Err(damaged("TIFF", format!("its samples are {other:?}"))),
    }
    let max = usize::try_from(limits.max_bytes).unwrap_or(usize::MAX);
    let mut inner = tiff::decoder::Limits::default();
    (inner.decoding_buffer_size, inner.intermediate_buffer_size) = (max, max);
    decoder = decoder.with_limits(inner);
    let map = if indices { decoder.get_tag_u16_vec(Tag::ColorMap).map_err(bad)? } else { Vec::new() };
    let mut samples = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut samples).map_err(bad)?;
    let DecodingResult::U8(data) = samples else { return Err(damaged("TIFF", "its samples are signed")) };
    let (width, height, bits) = (width as usize, height as usize, bits as usize);
    let mut data = if bits < 8 { unpack(&data, width, bits) } else { data };
    if layout.planes > 1 {
        let plane = width * height;
        data = (0..plane * channels as usize)
            .map(|i| data.get(i % channels as usize * plane + i / channels as usize).copied().unwrap_or(0))
            .collect();
    }
    if data.len() != width * height * channels as usize {
        return Err(damaged("TIFF", "it holds fewer samples than its header says"));
    }
    if !indices && bits < 8 {
        let step = 255 / ((1 << bits) - 1) as u8;
        data.iter_mut().for_each(|v| *v *= step);
    }
    // Red, then green, then blue, 16 bits each, of which PIL takes the upper eight.
    let n = map.len() / 3;
    let colours = (0..n).map(|i| [map[i], map[n + i], map[2 * n + i]].map(|v| (v >> 8) as u8));
    Ok(Raw {
        width,
        height,
        channels: channels as usize,
        data,
        palette: if indices { palette(colours) } else { None },
        nearest: indices || bits == 1,
    })
}

/// Where a classic TIFF file's first directory keeps its photometric interpretation, and its value.
fn photometric(b: &[u8]) -> Option<(usize, u16)> {
    let little = b.first()? == &b'I';
    let word = |at: usize| {
        let w = [*b.get(at)?, *b.get(at.checked_add(1)?)?];
        Some(if little { u16::from_le_bytes(w) } else { u16::from_be_bytes(w) })
    };
    let (hi, lo) = if little { (6, 4) } else { (4, 6) };
    let directory = (word(hi)? as usize) << 16 | word(lo)? as usize;
    let entries = word(directory)? as usize;
    let entry = (0..entries).map(|i| directory + 2 + 12 * i).find(|&at| word(at) == Some(262))?;
    Some((entry + 8, word(entry + 8)?))
}
