//! Weight files: a strict reader and writer of safetensors.
//!
//! Layout (source: the format's own description, huggingface.co/docs/safetensors): a little-endian `u64` with the
//! header's length, the header (JSON: name → dtype, shape, offsets into the data; `__metadata__` → strings), the data.
//! A PyTorch checkpoint (`.pth`) is read too, never written. A file is believed only where it is consistent: the tensors
//! must cover the data exactly, without overlap or hole.

mod header;
mod pickle;
mod pth;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Cursor, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};

use crate::error::{Error, IoContext, Result};
use crate::fs::write_with;
use crate::runtime::Tensor;

/// Element type of a stored tensor, under its name in the format.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dtype {
    Bool,
    U8,
    I8,
    U16,
    I16,
    F16,
    Bf16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
}

impl Dtype {
    /// Every element type that is read and written.
    pub const ALL: [Self; 13] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::F16,
        Self::Bf16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::U64,
        Self::I64,
        Self::F64,
    ];
    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::U16 => "U16",
            Self::I16 => "I16",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::U32 => "U32",
            Self::I32 => "I32",
            Self::F32 => "F32",
            Self::U64 => "U64",
            Self::I64 => "I64",
            Self::F64 => "F64",
        }
    }
    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

/// A tensor as it lies in a file: little-endian, row-major, slowest axis first.
#[derive(Clone, Debug, PartialEq)]
pub struct RawTensor {
    /// Type of an element.
    pub dtype: Dtype,
    /// Sizes of the axes, slowest first; empty for a scalar.
    pub shape: Vec<usize>,
    /// As many as shape and type say.
    pub bytes: Vec<u8>,
}

impl RawTensor {
    /// The elements as f32 (exact). Errors: any dtype but f32, f16, bf16; a byte count that is not the shape's.
    pub fn to_f32(&self) -> Result<Tensor<f32>> {
        self.check().map_err(Error::usage)?;
        let pairs = self.bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        let data = match self.dtype {
            Dtype::F32 => {
                self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Dtype::F16 => pairs.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::Bf16 => pairs.map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            other => {
                return Err(Error::usage(format!(
                    "weights must be F32, F16 or BF16, but this tensor is {}; save it as one of these",
                    other.name()
                )));
            }
        };
        Ok(Tensor::new(&self.shape, data))
    }
    /// The elements as F32.
    pub fn from_f32(t: &Tensor<f32>) -> Self {
        let mut bytes = vec![0; t.len() * 4];
        for (b, x) in bytes.chunks_exact_mut(4).zip(&t.data) {
            b.copy_from_slice(&x.to_le_bytes());
        }
        Self { dtype: Dtype::F32, shape: t.shape().to_vec(), bytes }
    }
    /// The elements as BF16, rounded.
    pub fn from_f32_rounded(t: &Tensor<f32>) -> Self {
        let bytes = crate::runtime::DType::Bf16.encode(&t.data);
        Self { dtype: Dtype::Bf16, shape: t.shape().to_vec(), bytes }
    }
    /// Whether shape, dtype and byte count agree (the fields are public), else a sentence.
    fn check(&self) -> std::result::Result<(), String> {
        match byte_len(&self.shape, self.dtype) {
            Some(n) if n == self.bytes.len() => Ok(()),
            _ => Err(format!(
                "a tensor of shape {:?} and dtype {} cannot have {} bytes",
                self.shape,
                self.dtype.name(),
                self.bytes.len()
            )),
        }
    }
}

/// Bytes of a tensor; `None` when that overflows, also on the way to a zero axis.
pub(super) fn byte_len(shape: &[usize], dtype: Dtype) -> Option<usize> {
    shape.iter().try_fold(dtype.size(), |n, d| n.checked_mul(*d))
}

/// All of a weight file in memory: nothing stays open or mapped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightFile {
    /// Where it came from; the label of errors.
    pub path: PathBuf,
    /// By name.
    pub tensors: BTreeMap<String, RawTensor>,
    /// The strings of `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

impl WeightFile {
    /// Reads a safetensors file or, told by its first bytes, a PyTorch checkpoint (its state dict, also under
    /// `state_dict`, `model` or `teacher`). Each tensor is read once: peak memory is about the file's size.
    ///
    /// Errors: one [`Error::File`] sentence for whatever in the file is not as it claims.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let about = std::fs::metadata(path).at(path, "read the weights")?;
        if !about.is_file() {
            return Err(Error::file(path, "this is not a regular file; give the path of a weight file"));
        }
        let file = File::open(path).at(path, "read the weights")?;
        header::parse(path, BufReader::new(file), about.len())
    }
    /// As [`WeightFile::read`], from memory.
    pub fn from_bytes(label: impl AsRef<Path>, bytes: &[u8]) -> Result<Self> {
        header::parse(label.as_ref(), Cursor::new(bytes), bytes.len() as u64)
    }
    /// Writes a safetensors file atomically (see [`write_with`]): `path` holds the old content or the new, never a part.
    ///
    /// The same content gives the same bytes: names sorted in the header, data by falling element size (so that every
    /// tensor is aligned) and then name. Errors leave no temporary file behind.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let (header, order) = header::layout(self).map_err(|what| Error::file(path, what))?;
        write_with(path, |file| {
            file.write_all(&header)?;
            order.iter().try_for_each(|t| file.write_all(&t.bytes))
        })
    }
    /// BLAKE3 over names, dtypes, shapes and bytes of the tensors named, in sorted order: a cache key that follows the
    /// content and nothing else. A name that the file lacks counts as absent, which is unlike being empty.
    pub fn content_hash<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for key in keys.into_iter().collect::<BTreeSet<_>>() {
            part(key.as_bytes());
            let Some(t) = self.tensors.get(key) else {
                part(b"absent");
                continue;
            };
            part(t.dtype.name().as_bytes());
            part(&t.shape.iter().flat_map(|d| (*d as u64).to_le_bytes()).collect::<Vec<_>>());
            part(&t.bytes);
        }
        *hash.finalize().as_bytes()
    }
}

/// Reads exactly `n` bytes that the file is known to claim, without zeroing them first.
pub(super) fn read_exactly(from: &mut impl Read, n: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(n);
    from.take(n as u64).read_to_end(&mut bytes)?;
    if bytes.len() == n { Ok(bytes) } else { Err(ErrorKind::UnexpectedEof.into()) }
}
