//! PyTorch checkpoints: the zip that `torch.save` writes (`NAME/data.pkl`, `NAME/data/KEY`), as a weight file.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::mem::take;
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Node, Pickle, Tensor, load};
use super::{RawTensor, WeightFile, byte_len};
use crate::error::{Error, Result};

/// The first 8 bytes, as a safetensors header length, of what `torch.save` wrote before 1.6 (its magic number, pickled).
pub(super) const LEGACY: u64 = u64::from_le_bytes([0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46]);
/// The sentence for it.
pub(super) const LEGACY_SENTENCE: &str = "this is a PyTorch checkpoint in the format from before 1.6, which is not \
    read; save it anew in Python: torch.save(torch.load(PATH, map_location=\"cpu\", weights_only=True), NEW_PATH)";

/// Longest `data.pkl`: a state dict's is a few hundred kilobytes.
const PICKLE_MAX: u64 = 8 << 20;
/// Keys under which training scripts keep the state dict, outermost first.
const WRAPPERS: [&str; 3] = ["state_dict", "model", "teacher"];

/// Reads a checkpoint of `size` bytes: the tensors of its (unwrapped) state dict, views made contiguous.
pub(super) fn parse(path: &Path, from: impl Read + Seek, size: u64) -> Result<WeightFile> {
    let read = || {
        let mut archive = Archive::open(from, size)?;
        let pickle = load(&archive.entry("data.pkl", PICKLE_MAX)?)?;
        let tensors = tensors(&mut archive, views(&pickle)?)?;
        Ok(WeightFile { path: path.to_path_buf(), tensors, metadata: BTreeMap::new() })
    };
    read().map_err(|what: String| Error::file(path, format!("the PyTorch checkpoint cannot be read: {what}")))
}

struct Archive<R> {
    zip: ZipArchive<R>,
    /// What stands before `data.pkl` and the rest.
    prefix: String,
    /// Bytes of the whole file: no entry can be longer.
    size: u64,
}

impl<R: Read + Seek> Archive<R> {
    fn open(from: R, size: u64) -> std::result::Result<Self, String> {
        let zip =
            ZipArchive::new(from).map_err(|e| format!("the zip archive is damaged or cut short ({e})"))?;
        let pkl = zip.file_names().find(|n| *n == "data.pkl" || n.ends_with("/data.pkl"));
        let pkl = pkl.ok_or("the zip archive has no data.pkl, so torch.save did not write it")?;
        let prefix = pkl[..pkl.len() - "data.pkl".len()].to_string();
        let mut archive = Self { zip, prefix, size };
        // Files from before 2.1 lack the entry and are little-endian, but for the rarest of machines.
        let order = format!("{}byteorder", archive.prefix);
        if archive.zip.index_for_name(&order).is_some() && archive.entry("byteorder", 16)? != b"little" {
            return Err("it was saved on a big-endian machine; save it anew on another".into());
        }
        Ok(archive)
    }
    /// All bytes of an entry, its checksum verified. Errors also when it has more than `most`.
    fn entry(&mut self, name: &str, most: u64) -> std::result::Result<Vec<u8>, String> {
        let full = format!("{}{name}", self.prefix);
        let entry =
            self.zip.by_name(&full).map_err(|e| format!("the entry {full:?} is not to be had ({e})"))?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(format!(
                "the entry {full:?} is compressed, which torch.save never does; save it anew"
            ));
        }
        let n = entry.size();
        if n > most.min(self.size) {
            return Err(format!(
                "the entry {full:?} claims {n} bytes, more than the {} possible",
                most.min(self.size)
            ));
        }
        // One byte more is asked for, since the checksum is compared at the end of the entry only.
        let mut bytes = Vec::with_capacity(n as usize);
        entry
            .take(n + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| format!("the entry {full:?} is damaged ({e})"))?;
        if bytes.len() as u64 != n {
            return Err(format!("the entry {full:?} claims {n} bytes, but has {}", bytes.len()));
        }
        Ok(bytes)
    }
}

/// The state dict's tensors by name. Other values beside them (an epoch, options) are no weights and are left out.
fn views(p: &Pickle) -> std::result::Result<BTreeMap<&str, Tensor<'_>>, String> {
    let mut state = p.dict(p.top).ok_or("it holds no state dict (a dict of tensors)")?;
    // A dict can hold itself, so the way in is bounded.
    for _ in 0..4 {
        let inner =
            |wrapper| state.iter().find(|(k, _)| p.str(*k) == Some(wrapper)).and_then(|(_, v)| p.dict(*v));
        match WRAPPERS.iter().find_map(|w| inner(*w)) {
            Some(inner) => state = inner,
            None => break,
        }
    }
    let mut views = BTreeMap::new();
    for (k, v) in state {
        if let (Some(name), Some(Node::Tensor(_))) = (p.str(*k), p.node(*v)) {
            let odd = || format!("the tensor {name:?} has no sizes as torch.save writes them");
            views.insert(name, p.tensor(*v).ok_or_else(odd)?);
        }
    }
    if views.is_empty() {
        let keys: Vec<_> = state.iter().filter_map(|(k, _)| p.str(*k)).take(4).collect();
        return Err(format!(
            "it holds no tensors where a state dict would have them, by themselves or under one of {WRAPPERS:?}; \
             the first keys there are {keys:?}"
        ));
    }
    Ok(views)
}

fn tensors<R: Read + Seek>(
    archive: &mut Archive<R>,
    views: BTreeMap<&str, Tensor>,
) -> std::result::Result<BTreeMap<String, RawTensor>, String> {
    let mut users: BTreeMap<&str, Vec<(&str, Tensor)>> = BTreeMap::new();
    let mut total = 0u64;
    for (name, view) in views {
        total = total.saturating_add(check(&view).map_err(|e| format!("the tensor {name:?} {e}"))?);
        users.entry(view.key).or_default().push((name, view));
    }
    // Tied weights share a storage and become copies; a few kilobytes that make terabytes are no state dict.
    if total > archive.size.saturating_mul(8) {
        return Err(format!(
            "its tensors would take {total} bytes, over eight times the file's {}",
            archive.size
        ));
    }
    let mut out = BTreeMap::new();
    for (key, users) in users {
        let entry = format!("data/{key}");
        let mut bytes = archive.entry(&entry, u64::MAX)?;
        for (name, Tensor { dtype, numel, .. }) in &users {
            if byte_len(&[*numel], *dtype) != Some(bytes.len()) {
                return Err(format!(
                    "the tensor {name:?} needs {numel} elements of {} in {entry:?}, which has {} bytes",
                    dtype.name(),
                    bytes.len()
                ));
            }
        }
        let alone = users.len() == 1;
        for (name, view) in users {
            let bytes = if alone && whole(&view) { take(&mut bytes) } else { gather(&bytes, &view) };
            out.insert(name.to_string(), RawTensor { dtype: view.dtype, shape: view.shape, bytes });
        }
    }
    Ok(out)
}

fn numel(view: &Tensor) -> usize {
    view.shape.iter().product()
}

/// Bytes of the tensor, once every element of it is known to lie in its storage; else how it does not, as a predicate.
fn check(view: &Tensor) -> std::result::Result<u64, String> {
    let Tensor { dtype, numel, offset, shape, strides, .. } = view;
    let bytes = byte_len(shape, *dtype).filter(|_| shape.len() == strides.len());
    let bytes = bytes
        .ok_or_else(|| format!("has the shape {shape:?} and the strides {strides:?}, which cannot be"))?;
    if bytes == 0 {
        return Ok(0);
    }
    let end =
        shape.iter().zip(strides).try_fold(*offset, |at, (n, s)| at.checked_add((n - 1).checked_mul(*s)?));
    if end.is_none_or(|end| end >= *numel) {
        return Err(format!("reaches beyond its storage of {numel} elements"));
    }
    let elements = bytes / dtype.size();
    if elements > *numel {
        return Err(format!("repeats its storage's {numel} elements to {elements}; save it contiguous"));
    }
    Ok(bytes as u64)
}

/// Whether the elements lie one after the other in row-major order.
fn contiguous(view: &Tensor) -> bool {
    let mut stride = 1;
    view.shape.iter().zip(&view.strides).rev().all(|(n, s)| {
        let fits = *n == 1 || *s == stride;
        stride *= n;
        fits
    })
}

fn whole(view: &Tensor) -> bool {
    numel(view) > 0 && numel(view) == view.numel && view.offset == 0 && contiguous(view)
}

/// The view's elements in row-major order. [`check`] has passed.
fn gather(storage: &[u8], view: &Tensor) -> Vec<u8> {
    let (item, count) = (view.dtype.size(), numel(view));
    if count == 0 {
        return Vec::new();
    }
    if contiguous(view) {
        return storage[view.offset * item..][..count * item].to_vec();
    }
    let mut out = Vec::with_capacity(count * item);
    let mut index = vec![0; view.shape.len()];
    let mut at = view.offset;
    for _ in 0..count {
        out.extend_from_slice(&storage[at * item..][..item]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            at += view.strides[axis];
            if index[axis] < view.shape[axis] {
                break;
            }
            // Carry: this axis starts again, the next slower one goes on.
            at -= index[axis] * view.strides[axis];
            index[axis] = 0;
        }
    }
    out
}
