//! The safetensors header: parsed without believing it, and laid out for writing.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Seek};
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, json};

use super::{Dtype, RawTensor, WeightFile, byte_len, pth, read_exactly};
use crate::error::{Error, IoContext, Result};

/// Longest header, as the format sets it.
const HEADER_MAX: u64 = 100_000_000;
const METADATA: &str = "__metadata__";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

#[derive(Default)]
struct Header {
    tensors: BTreeMap<String, Entry>,
    metadata: Option<Strings>,
}

struct Strings(BTreeMap<String, String>);

fn insert_once<V, E: serde::de::Error>(
    map: &mut BTreeMap<String, V>,
    key: String,
    value: V,
) -> std::result::Result<(), E> {
    // JSON parsers keep one of two equal keys silently, and not all the same one.
    if map.contains_key(&key) {
        return Err(E::custom(format!("the name {key:?} is there twice")));
    }
    map.insert(key, value);
    Ok(())
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(key) = map.next_key::<String>()? {
                    if key != METADATA {
                        insert_once(&mut header.tensors, key, map.next_value()?)?;
                    } else if header.metadata.replace(map.next_value()?).is_some() {
                        return Err(A::Error::custom(format!("the name {METADATA:?} is there twice")));
                    }
                }
                Ok(header)
            }
        }
        d.deserialize_map(V)
    }
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Strings;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Strings, A::Error> {
                let mut strings = BTreeMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    insert_once(&mut strings, key, value)?;
                }
                Ok(Strings(strings))
            }
        }
        d.deserialize_map(V)
    }
}

/// Reads a file of `size` bytes front to back. Nothing is allocated that the file's own size does not cover.
pub(super) fn parse(path: &Path, mut from: impl Read + Seek, size: u64) -> Result<WeightFile> {
    let bad = |what: String| Error::file(path, what);
    let room = size.checked_sub(8).ok_or_else(|| {
        bad(format!(
            "this is not a safetensors file: it has {size} bytes, and the header's length alone takes 8"
        ))
    })?;
    let mut length = [0; 8];
    from.read_exact(&mut length).at(path, "read the header")?;
    if length.starts_with(b"PK\x03\x04") {
        from.rewind().at(path, "read the archive")?;
        return pth::parse(path, from, size);
    }
    let length = u64::from_le_bytes(length);
    if length == pth::LEGACY {
        return Err(bad(pth::LEGACY_SENTENCE.into()));
    }
    if length > HEADER_MAX {
        return Err(bad(format!(
            "this is not a safetensors file: the header would have {length} bytes, and {HEADER_MAX} is the limit"
        )));
    }
    if length > room {
        return Err(bad(format!(
            "the header should have {length} bytes, but the file has only {room} after the length; it is truncated"
        )));
    }
    let json = read_exactly(&mut from, length as usize).at(path, "read the header")?;
    let json = String::from_utf8(json).map_err(|e| bad(format!("the header is not valid UTF-8: {e}")))?;
    if !json.starts_with('{') {
        return Err(bad("this is not a safetensors file: its header does not begin with `{`".into()));
    }
    let header: Header = serde_json::from_str(&json)
        .map_err(|e| bad(format!("the header is not a safetensors header: {e}")))?;
    drop(json);
    let spans = spans(header.tensors, room - length).map_err(bad)?;

    let mut tensors = BTreeMap::new();
    for s in spans {
        let bytes = read_exactly(&mut from, s.bytes).at(path, &format!("read the tensor {:?}", s.name))?;
        tensors.insert(s.name, RawTensor { dtype: s.dtype, shape: s.shape, bytes });
    }
    let metadata = header.metadata.map_or_else(BTreeMap::new, |m| m.0);
    Ok(WeightFile { path: path.to_path_buf(), tensors, metadata })
}

struct Span {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    begin: u64,
    bytes: usize,
}

/// The tensors in the order of their data, which they must cover exactly.
fn spans(entries: BTreeMap<String, Entry>, data: u64) -> std::result::Result<Vec<Span>, String> {
    let mut spans = Vec::with_capacity(entries.len());
    for (name, Entry { dtype: dtype_name, shape, data_offsets: (begin, end) }) in entries {
        let dtype = Dtype::ALL.into_iter().find(|d| d.name() == dtype_name).ok_or_else(|| {
            let known = Dtype::ALL.map(Dtype::name).join(", ");
            format!("the tensor {name:?} has the unknown dtype {dtype_name:?}; known are {known}")
        })?;
        let bytes = byte_len(&shape, dtype).ok_or_else(|| {
            format!("the tensor {name:?} claims the shape {shape:?}, more than can be addressed")
        })?;
        let span = end.checked_sub(begin).ok_or_else(|| {
            format!("the tensor {name:?} ends at byte {end} of the data, before its begin at {begin}")
        })?;
        if span != bytes as u64 {
            return Err(format!(
                "the tensor {name:?} of shape {shape:?} and dtype {dtype_name} needs {bytes} bytes, \
                 but its offsets span {span}"
            ));
        }
        if end > data {
            return Err(format!(
                "the tensor {name:?} ends at byte {end} of the data, but the file holds only {data}; \
                 it is truncated"
            ));
        }
        spans.push(Span { name, dtype, shape, begin, bytes });
    }
    // Empty tensors come before the one that begins where they lie.
    spans.sort_by_key(|s| (s.begin, s.bytes));
    let (mut at, mut before) = (0, "");
    for s in &spans {
        if s.begin < at {
            return Err(format!(
                "the tensors {before:?} and {:?} overlap at byte {} of the data",
                s.name, s.begin
            ));
        }
        if s.begin > at {
            return Err(format!("the bytes {at} to {} of the data belong to no tensor", s.begin));
        }
        at += s.bytes as u64;
        before = &s.name;
    }
    if at != data {
        return Err(format!("{} bytes after the last tensor's data belong to no tensor", data - at));
    }
    Ok(spans)
}

/// Length and header (padded with spaces to 8 bytes), and the tensors in the order of their data.
pub(super) fn layout(file: &WeightFile) -> std::result::Result<(Vec<u8>, Vec<&RawTensor>), String> {
    let mut order: Vec<_> = file.tensors.iter().collect();
    order.sort_by_key(|(name, t)| (Reverse(t.dtype.size()), *name));
    let mut offsets = BTreeMap::new();
    let mut at = 0;
    for (name, t) in &order {
        if name.as_str() == METADATA {
            return Err(format!("a tensor cannot be called {METADATA:?}; rename it"));
        }
        t.check().map_err(|e| format!("the tensor {name:?}: {e}"))?;
        offsets.insert(*name, [at, at + t.bytes.len()]);
        at += t.bytes.len();
    }
    let mut header = Map::new();
    if !file.metadata.is_empty() {
        header.insert(METADATA.into(), json!(file.metadata));
    }
    for (name, t) in &file.tensors {
        let entry = json!({ "dtype": t.dtype.name(), "shape": t.shape, "data_offsets": offsets[name] });
        header.insert(name.clone(), entry);
    }
    let mut json = serde_json::Value::Object(header).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    if json.len() as u64 > HEADER_MAX {
        return Err(format!("the header would have {} bytes, and {HEADER_MAX} is the limit", json.len()));
    }
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    Ok((bytes, order.into_iter().map(|(_, t)| t).collect()))
}
