//! Official, timm and Hugging Face names of DINOv2 to the published INP-Former ones, which this program uses throughout:
//! `encoder.` and DINOv2's official key. Bytes are moved, never converted.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::runtime::weights::{RawTensor, WeightFile};

/// Whose names a file's tensors had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// A published INP-Former state dict, or a model file of ours.
    InpFormer,
    /// DINOv2's own state dict, its blocks in chunks (`blocks.0.3.…`) or not.
    Official,
    /// timm; its register models have the class token's position added to the token.
    Timm,
    /// Hugging Face's hub files: `attention.attention.query` and so on.
    HuggingFace,
    /// What transformers 5 calls the same weights in memory: `attention.q_proj` and so on.
    HuggingFaceRuntime,
}

type Tensors = BTreeMap<String, RawTensor>;

/// What wrappers put before every key, alone or one inside another.
const PREFIXES: [&str; 8] = [
    "module.",
    "model.",
    "_orig_mod.",
    "teacher.",
    "student.",
    "backbone.",
    "dinov2_with_registers.",
    "dinov2.",
];

/// The same tensors under the published names, and the naming found.
///
/// A prefix that every key carries is dropped; Hugging Face's query, key and value become one `qkv`; a timm register
/// model's `pos_embed` gets a zero row for the class token. Keys of no known meaning keep their name, for the loader to
/// report. Errors: names that no naming explains, a SwiGLU encoder (giant), and parts that do not fit together.
pub fn normalise(file: WeightFile) -> Result<(WeightFile, Naming)> {
    let WeightFile { path, tensors, metadata } = file;
    let bad = |what| Error::file(&path, what);
    let tensors = strip_prefixes(tensors);
    let naming = detect(&tensors).ok_or_else(|| bad(unrecognised(&tensors)))?;
    if let Some(key) = swiglu(&tensors) {
        return Err(bad(format!(
            "this is a DINOv2 giant (its feed-forward layers are SwiGLU, see {key:?}), which is not supported; \
             use small, base or large"
        )));
    }
    let tensors = if naming == Naming::InpFormer { tensors } else { rename(tensors, naming).map_err(bad)? };
    Ok((WeightFile { path, tensors, metadata }, naming))
}

fn strip_prefixes(mut tensors: Tensors) -> Tensors {
    while let Some(prefix) =
        PREFIXES.iter().find(|p| !tensors.is_empty() && tensors.keys().all(|k| k.starts_with(**p)))
    {
        tensors = tensors.into_iter().map(|(k, t)| (k[prefix.len()..].to_string(), t)).collect();
    }
    tensors
}

fn detect(tensors: &Tensors) -> Option<Naming> {
    let any = |test: &dyn Fn(&str) -> bool| tensors.keys().any(|k| test(k));
    let begins = |prefix: &str| any(&|k| k.starts_with(prefix));
    // Hugging Face's blocks are called `encoder.layer.…`, so this comes before the published `encoder.…`.
    if begins("embeddings.") || begins("encoder.layer.") {
        let runtime = any(&|k| k.contains(".attention.q_proj."));
        return Some(if runtime { Naming::HuggingFaceRuntime } else { Naming::HuggingFace });
    }
    if ["encoder.", "bottleneck.", "aggregation.", "prototype_token"].iter().any(|p| begins(p)) {
        return Some(Naming::InpFormer);
    }
    if !begins("blocks.") && !begins("patch_embed.") {
        return None;
    }
    // Without registers the two namings are the same but for the mask token, which timm drops.
    let official = ["register_tokens", "mask_token"].iter().any(|k| tensors.contains_key(*k));
    Some(if official { Naming::Official } else { Naming::Timm })
}

fn unrecognised(tensors: &Tensors) -> String {
    let mut found = tensors.keys().take(4).map(|k| format!("{k:?}")).collect::<Vec<_>>().join(", ");
    if found.is_empty() {
        found = "none".into();
    }
    format!(
        "no known weights are in this file: it should hold the tensors of an INP-Former (\"encoder.cls_token\", \
         \"bottleneck.0.fc1.weight\") or of a DINOv2 in its official or timm's (\"blocks.0.attn.qkv.weight\") or \
         Hugging Face's (\"encoder.layer.0.norm1.weight\") naming, but of its {} the first are {found}",
        tensors.len()
    )
}

/// The first key that shows a SwiGLU feed-forward: by name, or in timm's packed form by `fc1` being twice as wide.
fn swiglu(tensors: &Tensors) -> Option<&str> {
    let packed = |key: &str, fc1: &RawTensor| {
        let fc2 = key.strip_suffix("mlp.fc1.weight").and_then(|k| tensors.get(&format!("{k}mlp.fc2.weight")));
        fc2.is_some_and(|fc2| fc1.shape.len() == 2 && fc2.shape.get(1).is_some_and(|h| fc1.shape[0] == 2 * h))
    };
    let named = |key: &str| [".mlp.w12.", ".mlp.weights_in.", ".mlp.fc1_g."].iter().any(|n| key.contains(n));
    tensors.iter().find(|(key, t)| named(key) || packed(key, t)).map(|(key, _)| key.as_str())
}

/// The official key of `key`, and which third of it the tensor is where Hugging Face splits `qkv`.
fn official(key: &str) -> Option<(String, Option<usize>)> {
    let whole = match key {
        "cls_token" | "embeddings.cls_token" => "cls_token",
        "mask_token" | "embeddings.mask_token" => "mask_token",
        "register_tokens" | "reg_token" | "embeddings.register_tokens" => "register_tokens",
        "pos_embed" | "embeddings.position_embeddings" => "pos_embed",
        "patch_embed.proj.weight" | "embeddings.patch_embeddings.projection.weight" => {
            "patch_embed.proj.weight"
        }
        "patch_embed.proj.bias" | "embeddings.patch_embeddings.projection.bias" => "patch_embed.proj.bias",
        "norm.weight" | "layernorm.weight" => "norm.weight",
        "norm.bias" | "layernorm.bias" => "norm.bias",
        _ => "",
    };
    if !whole.is_empty() {
        return Some((whole.into(), None));
    }
    let numbered = |s: &'static str, key: &str| {
        let (i, rest) = key.strip_prefix(s)?.split_once('.')?;
        (!i.is_empty() && i.bytes().all(|b| b.is_ascii_digit())).then(|| (i.to_string(), rest.to_string()))
    };
    let (mut i, mut rest) = numbered("blocks.", key).or_else(|| numbered("encoder.layer.", key))?;
    // In chunks the second number is the block's: a chunk's list is padded with empty entries in front.
    if let Some((block, inner)) = numbered("", &rest) {
        (i, rest) = (block, inner);
    }
    let (stem, leaf) = rest.rsplit_once('.')?;
    let (stem, part) = match (stem, leaf) {
        ("norm1" | "norm2" | "mlp.fc1" | "mlp.fc2" | "attn.qkv" | "attn.proj", "weight" | "bias") => {
            (stem, None)
        }
        ("attention.output.dense" | "attention.o_proj", "weight" | "bias") => ("attn.proj", None),
        ("attention.attention.query" | "attention.q_proj", "weight" | "bias") => ("attn.qkv", Some(0)),
        ("attention.attention.key" | "attention.k_proj", "weight" | "bias") => ("attn.qkv", Some(1)),
        ("attention.attention.value" | "attention.v_proj", "weight" | "bias") => ("attn.qkv", Some(2)),
        ("ls1", "gamma") | ("layer_scale1", "lambda1") => ("ls1", None),
        ("ls2", "gamma") | ("layer_scale2", "lambda1") => ("ls2", None),
        _ => return None,
    };
    let leaf = if leaf == "lambda1" { "gamma" } else { leaf };
    Some((format!("blocks.{i}.{stem}.{leaf}"), part))
}

fn rename(tensors: Tensors, naming: Naming) -> std::result::Result<Tensors, String> {
    let mut out = Tensors::new();
    let mut thirds: BTreeMap<String, [Option<RawTensor>; 3]> = BTreeMap::new();
    let insert = |out: &mut Tensors, key: String, t| match out.insert(key.clone(), t) {
        None => Ok(()),
        Some(_) => Err(format!("two of the tensors mean {key:?}; remove one")),
    };
    for (key, t) in tensors {
        match official(&key) {
            None => insert(&mut out, key, t)?,
            Some((name, None)) => insert(&mut out, format!("encoder.{name}"), t)?,
            Some((name, Some(part))) => {
                let name = format!("encoder.{name}");
                if thirds.entry(name.clone()).or_default()[part].replace(t).is_some() {
                    return Err(format!("two of the tensors mean the same third of {name:?}; remove one"));
                }
            }
        }
    }
    for (key, parts) in thirds {
        let [Some(q), Some(k), Some(v)] = parts else {
            return Err(format!("of query, key and value, which make up {key:?}, not all three are there"));
        };
        let qkv = stack([q, k, v]).ok_or_else(|| {
            format!("query, key and value, which make up {key:?}, differ in shape or element type")
        })?;
        insert(&mut out, key, qkv)?;
    }
    let folded = naming == Naming::Timm && out.contains_key("encoder.register_tokens");
    if let Some(pos) = out.get_mut("encoder.pos_embed").filter(|_| folded) {
        add_class_row(pos)?;
    }
    Ok(out)
}

/// The parts one after the other along the slowest axis.
fn stack([mut all, k, v]: [RawTensor; 3]) -> Option<RawTensor> {
    let like = |t: &RawTensor| (t.dtype, &t.shape) == (all.dtype, &all.shape);
    if !(like(&k) && like(&v)) {
        return None;
    }
    *all.shape.first_mut()? *= 3;
    all.bytes.reserve_exact(k.bytes.len() + v.bytes.len());
    all.bytes.extend_from_slice(&k.bytes);
    all.bytes.extend_from_slice(&v.bytes);
    Some(all)
}

/// `(1, n·n, C)` → `(1, 1 + n·n, C)`: timm has already added the class token's position to the token, so its row is zero.
fn add_class_row(pos: &mut RawTensor) -> std::result::Result<(), String> {
    let [1, n, c] = pos.shape[..] else {
        return Err(format!("\"pos_embed\" should have the shape (1, N, C), but has {:?}", pos.shape));
    };
    if n.isqrt().pow(2) != n {
        return Err(format!(
            "\"pos_embed\" has {n} rows; beside \"reg_token\" they should be the patches of a square grid alone"
        ));
    }
    pos.shape[1] += 1;
    pos.bytes.splice(..0, std::iter::repeat_n(0, c * pos.dtype.size()));
    Ok(())
}
