//! The fatbinary container of `nvcc -fatbin`: which PTX of it a device runs.
//!
//! All little-endian. Header: magic u32, version u16, header bytes u16, bytes after it u64. Then entries, each a header and
//! a payload: kind u16 (1 PTX, 2 ELF), version u16, header bytes u32, payload bytes u64, bytes of it that are compressed
//! data u32, …; at 28 the architecture u32 (80, 103), at 40 flags u64, at 56 the bytes when decompressed u64. Source: output
//! of nvcc 13.0 in all its `--compress-mode`s.

use crate::error::Code;
use std::io::Read;

const MAGIC: u32 = 0xba55_ed50;
/// The kinds of entry that matter here.
const PTX: u16 = 1;
const ELF: u16 = 2;
/// No text is longer when decompressed.
const LIMIT: u64 = 256 << 20;
const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;
/// `sm_90a`: runs on no other device.
const EXACT: u64 = 0x10_0000;
/// `sm_100f`: runs on later devices of the family.
const FAMILY: u64 = 0x20_0000;

/// An image that gives no PTX.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    /// The driver's code for it.
    pub code: Code,
    /// One sentence.
    pub what: String,
}
fn error<T>(code: Code, what: impl Into<String>) -> Result<T, Error> {
    Err(Error { code, what: what.into() })
}

fn field<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}
fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    field(data, at).map(u16::from_le_bytes)
}
fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    field(data, at).map(u32::from_le_bytes)
}
fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    field(data, at).map(u64::from_le_bytes)
}

struct Entry<'a> {
    kind: u16,
    /// 80, 103.
    architecture: u32,
    flags: u64,
    compressed: usize,
    bytes: u64,
    payload: &'a [u8],
}

/// The entry at the start of `data`, and what follows it.
fn entry(data: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let header = u32_at(data, 4)? as usize;
    let after = data.get(header.max(64)..)?;
    let (payload, rest) = after.split_at_checked(usize::try_from(u64_at(data, 8)?).ok()?)?;
    let entry = Entry {
        kind: u16_at(data, 0)?,
        architecture: u32_at(data, 28)?,
        flags: u64_at(data, 40)?,
        compressed: u32_at(data, 16)? as usize,
        bytes: u64_at(data, 56)?,
        payload,
    };
    Some((entry, rest))
}

impl Entry<'_> {
    fn variant(&self) -> (u32, u64) {
        (self.architecture, self.flags & (EXACT | FAMILY))
    }
    fn runs(&self, (major, minor): (u32, u32)) -> bool {
        let (own, device) = ((self.architecture / 10, self.architecture % 10), (major, minor));
        let same = self.kind == ELF || self.flags & FAMILY != 0;
        match self.flags & EXACT != 0 {
            true => own == device,
            false => own <= device && (!same || own.0 == major),
        }
    }
    /// The higher the better: `sm_90a` before `sm_90`.
    fn rank(&self) -> (u32, bool, bool) {
        (self.architecture, self.flags & EXACT != 0, self.flags & FAMILY != 0)
    }
    fn name(&self) -> String {
        let suffix = match self.flags & (EXACT | FAMILY) {
            0 => "",
            EXACT => "a",
            _ => "f",
        };
        let kind = match self.kind {
            PTX => "PTX".into(),
            ELF => "machine code".into(),
            k => format!("an entry of kind {k}"),
        };
        format!("{kind} for sm_{}{suffix}", self.architecture)
    }
    fn text(&self) -> Result<String, Error> {
        let name = format!("the {} in the fatbinary", self.name());
        let bytes = if self.flags & (LZ4 | ZSTD) == 0 {
            self.payload.to_vec()
        } else if self.bytes > LIMIT {
            return error(Code::InvalidImage, format!("{name} is {} bytes: more than {LIMIT}", self.bytes));
        } else {
            let packed = self.payload.get(..self.compressed);
            let unpack = if self.flags & ZSTD != 0 { zstd } else { lz4 };
            match packed.and_then(|p| unpack(p, self.bytes as usize)) {
                Some(bytes) => bytes,
                None => return error(Code::InvalidImage, format!("{name} cannot be decompressed")),
            }
        };
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

/// A zstd frame of so many bytes.
fn zstd(packed: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let decoder = ruzstd::decoding::StreamingDecoder::new(packed).ok()?;
    let mut out = Vec::new();
    decoder.take(bytes as u64 + 1).read_to_end(&mut out).ok()?;
    (out.len() == bytes).then_some(out)
}

/// An LZ4 block of so many bytes.
fn lz4(mut packed: &[u8], bytes: usize) -> Option<Vec<u8>> {
    fn split<'a>(packed: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
        let (head, rest) = packed.split_at_checked(n)?;
        *packed = rest;
        Some(head)
    }
    fn length(packed: &mut &[u8], nibble: u8) -> Option<usize> {
        let mut n = nibble as usize;
        while n % 255 == 15 {
            let more = split(packed, 1)?[0];
            n += more as usize;
            if more != 255 {
                break;
            }
        }
        Some(n)
    }
    let mut out = Vec::new();
    while let Some(token) = split(&mut packed, 1) {
        let literals = length(&mut packed, token[0] >> 4)?;
        out.extend_from_slice(split(&mut packed, literals)?);
        if packed.is_empty() {
            break;
        }
        let offset = u16_at(split(&mut packed, 2)?, 0)? as usize;
        let copied = length(&mut packed, token[0] & 15)? + 4;
        let from = out.len().checked_sub(offset).filter(|_| offset > 0)?;
        if out.len() + copied > bytes {
            return None;
        }
        (from..from + copied).for_each(|i| out.push(out[i]));
    }
    (out.len() == bytes).then_some(out)
}

/// The PTX that a device of this compute capability runs of an image: PTX text, or a fatbinary. Of a fatbinary it is the
/// PTX beside the machine code that the loader would take, or else that of the highest architecture the device has.
///
/// # Errors
/// Machine code alone, nothing for this device, or a damaged container.
pub fn ptx(image: &[u8], capability: (u32, u32)) -> Result<String, Error> {
    if image.starts_with(b"\x7fELF") {
        let what = "the image is machine code (a cubin): the emulator runs PTX, so compile with \
                    -gencode arch=compute_XX,code=[compute_XX,sm_XX]";
        return error(Code::NoBinaryForGpu, what);
    }
    if u32_at(image, 0) != Some(MAGIC) {
        let end = image.iter().position(|&b| b == 0).unwrap_or(image.len());
        return match std::str::from_utf8(&image[..end]) {
            Ok(text) if end > 0 => Ok(text.into()),
            _ => error(Code::InvalidImage, "the image is neither PTX text nor a fatbinary"),
        };
    }
    let damaged = || Error { code: Code::InvalidImage, what: "the fatbinary is cut short or damaged".into() };
    let (start, bytes) = u16_at(image, 6).zip(u64_at(image, 8)).ok_or_else(damaged)?;
    let entries = image.get(start as usize..).zip(usize::try_from(bytes).ok());
    let mut rest = entries.and_then(|(e, n)| e.get(..n)).ok_or_else(damaged)?;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (e, after) = entry(rest).ok_or_else(damaged)?;
        all.push(e);
        rest = after;
    }
    let best = |kind, variant: Option<(u32, u64)>| {
        // The first among equals: `max_by_key` would give the last.
        let mine = all.iter().rev().filter(|e| e.kind == kind && e.runs(capability));
        mine.filter(|e| variant.is_none_or(|v| v == e.variant())).max_by_key(|e| e.rank())
    };
    let beside = best(ELF, None).and_then(|code| best(PTX, Some(code.variant())));
    if let Some(e) = beside.or_else(|| best(PTX, None)) {
        return e.text();
    }
    let held: Vec<_> = all.iter().map(Entry::name).collect();
    let (major, minor) = capability;
    let held = if held.is_empty() { "nothing".into() } else { held.join(", ") };
    error(
        Code::NoBinaryForGpu,
        format!(
            "the fatbinary has no PTX that sm_{major}{minor} runs: it holds {held} (the emulator does not run machine code)"
        ),
    )
}
