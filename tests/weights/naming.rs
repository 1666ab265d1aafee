//! All namings of one encoder become the same tensors.

use std::collections::BTreeMap;

use inp_former::model::naming::{Naming, normalise};
use inp_former::runtime::Tensor;
use inp_former::runtime::weights::{Dtype, RawTensor, WeightFile};

use crate::support::{close, golden, golden_weight};

type Tensors = BTreeMap<String, RawTensor>;

const C: usize = 4;

fn file(tensors: Tensors) -> WeightFile {
    let metadata = BTreeMap::from([("kept".to_string(), "yes".to_string())]);
    WeightFile { path: "some.safetensors".into(), tensors, metadata }
}

fn normalised(tensors: Tensors) -> (Tensors, Naming) {
    let (f, naming) = normalise(file(tensors)).unwrap();
    assert_eq!(f.metadata["kept"], "yes");
    (f.tensors, naming)
}

fn refused(tensors: Tensors) -> String {
    let said = normalise(file(tensors)).unwrap_err().to_string();
    assert!(said.starts_with("some.safetensors: ") && !said.contains('\n'), "{said:?}");
    said
}

/// An encoder of 12 blocks (two digits sort before one) under its official names.
fn official(registers: bool) -> Tensors {
    let mut t = Tensors::new();
    let mut put =
        |k: String, shape: &[usize]| t.insert(k.clone(), RawTensor::from_f32(&golden_weight(&k, shape)));
    put("cls_token".into(), &[1, 1, C]);
    put("mask_token".into(), &[1, C]);
    put("pos_embed".into(), &[1, 10, C]);
    if registers {
        put("register_tokens".into(), &[1, 4, C]);
    }
    put("patch_embed.proj.weight".into(), &[C, 3, 2, 2]);
    put("patch_embed.proj.bias".into(), &[C]);
    for i in 0..12 {
        for (stem, rows, cols) in
            [("attn.qkv", 3 * C, C), ("attn.proj", C, C), ("mlp.fc1", 2 * C, C), ("mlp.fc2", C, 2 * C)]
        {
            put(format!("blocks.{i}.{stem}.weight"), &[rows, cols]);
            put(format!("blocks.{i}.{stem}.bias"), &[rows]);
        }
        for norm in ["norm1", "norm2"] {
            put(format!("blocks.{i}.{norm}.weight"), &[C]);
            put(format!("blocks.{i}.{norm}.bias"), &[C]);
        }
        put(format!("blocks.{i}.ls1.gamma"), &[C]);
        put(format!("blocks.{i}.ls2.gamma"), &[C]);
    }
    put("norm.weight".into(), &[C]);
    put("norm.bias".into(), &[C]);
    t
}

fn prefixed(prefix: &str, t: &Tensors) -> Tensors {
    t.iter().map(|(k, v)| (format!("{prefix}{k}"), v.clone())).collect()
}

/// The official tensors under Hugging Face's names, `hub` or runtime.
pub fn hugging_face(t: &Tensors, hub: bool) -> Tensors {
    let mut out = Tensors::new();
    let thirds = if hub {
        ["attention.attention.query", "attention.attention.key", "attention.attention.value"]
    } else {
        ["attention.q_proj", "attention.k_proj", "attention.v_proj"]
    };
    for (key, v) in t {
        let k = key
            .replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
            .replace("pos_embed", "embeddings.position_embeddings")
            .replace("blocks.", "encoder.layer.")
            .replace("attn.proj", if hub { "attention.output.dense" } else { "attention.o_proj" })
            .replace("ls1.gamma", "layer_scale1.lambda1")
            .replace("ls2.gamma", "layer_scale2.lambda1");
        if let Some((before, leaf)) = k.split_once("attn.qkv") {
            let mut shape = v.shape.clone();
            shape[0] /= 3;
            for (name, bytes) in thirds.iter().zip(v.bytes.chunks(v.bytes.len() / 3)) {
                let t = RawTensor { dtype: v.dtype, shape: shape.clone(), bytes: bytes.to_vec() };
                out.insert(format!("{before}{name}{leaf}"), t);
            }
        } else if k.ends_with("_token") || k.ends_with("_tokens") {
            out.insert(format!("embeddings.{k}"), v.clone());
        } else if k.starts_with("norm.") {
            out.insert(format!("layer{k}"), v.clone());
        } else {
            out.insert(k, v.clone());
        }
    }
    out
}

/// The official tensors as timm stores them: no mask token; with registers, the class token's position folded into it.
pub fn timm(t: &Tensors) -> Tensors {
    let mut out = t.clone();
    out.remove("mask_token");
    if let Some(registers) = out.remove("register_tokens") {
        out.insert("reg_token".into(), registers);
        let (mut cls, pos) = (t["cls_token"].to_f32().unwrap(), t["pos_embed"].to_f32().unwrap());
        cls.data.iter_mut().zip(&pos.data).for_each(|(c, p)| *c += p);
        out.insert("cls_token".into(), RawTensor::from_f32(&cls));
        let [_, rows, c] = *pos.shape() else { panic!("pos_embed is (1, 1 + N, C)") };
        let patches = Tensor::new(&[1, rows - 1, c], pos.data[c..].to_vec());
        out.insert("pos_embed".into(), RawTensor::from_f32(&patches));
    }
    out
}

/// Bit-identical but for the mask token and timm's folding, where class token plus its position must agree to 1e-6.
fn same_encoder(got: &Tensors, want: &Tensors) {
    let keys = |t: &Tensors| t.keys().filter(|k| *k != "encoder.mask_token").cloned().collect::<Vec<_>>();
    assert_eq!(keys(got), keys(want));
    let (cls, pos) = ("encoder.cls_token", "encoder.pos_embed");
    for k in keys(got) {
        if got[cls] == want[cls] || (k != cls && k != pos) {
            assert_eq!(got[&k], want[&k], "{k}");
        }
    }
    if got[cls] != want[cls] {
        let [gp, wp, gc, wc] = [&got[pos], &want[pos], &got[cls], &want[cls]].map(|t| t.to_f32().unwrap());
        assert_eq!(gp.shape(), wp.shape());
        let c = gp.cols();
        assert_eq!(gp.data[c..], wp.data[c..]);
        let sum = |a: &Tensor<f32>, b: &Tensor<f32>| {
            a.data.iter().zip(&b.data[..c]).map(|(x, y)| x + y).collect::<Vec<_>>()
        };
        close("class token and its position", &sum(&gc, &gp), &sum(&wc, &wp), 1e-6);
    }
}

#[test]
fn every_naming_gives_the_published_names() {
    for registers in [true, false] {
        let official = official(registers);
        let want = prefixed("encoder.", &official);
        assert_eq!(normalised(official.clone()), (want.clone(), Naming::Official));
        assert_eq!(normalised(want.clone()), (want.clone(), Naming::InpFormer));
        assert_eq!(normalised(hugging_face(&official, true)), (want.clone(), Naming::HuggingFace));
        assert_eq!(normalised(hugging_face(&official, false)), (want.clone(), Naming::HuggingFaceRuntime));
        let (got, naming) = normalised(timm(&official));
        assert_eq!(naming, Naming::Timm);
        same_encoder(&got, &want);
        // Blocks in chunks of four, the block's own number kept.
        let chunked = official.iter().map(|(k, v)| {
            let k = match k.strip_prefix("blocks.").and_then(|k| k.split_once('.')) {
                Some((i, rest)) => format!("blocks.{}.{i}.{rest}", i.parse::<usize>().unwrap() / 4),
                None => k.clone(),
            };
            (k, v.clone())
        });
        assert_eq!(normalised(chunked.collect()), (want.clone(), Naming::Official));
        for prefix in ["module.", "model.", "backbone.", "teacher.backbone.", "module.model."] {
            assert_eq!(normalised(prefixed(prefix, &official)), (want.clone(), Naming::Official));
            assert_eq!(normalised(prefixed(prefix, &want)), (want.clone(), Naming::InpFormer));
        }
        for prefix in ["dinov2.", "dinov2_with_registers."] {
            let hf = prefixed(prefix, &hugging_face(&official, true));
            assert_eq!(normalised(hf), (want.clone(), Naming::HuggingFace));
        }
    }
}

#[test]
fn unknown_keys_keep_their_names() {
    let extra = RawTensor { dtype: Dtype::I64, shape: vec![1], bytes: vec![1; 8] };
    for key in
        ["head.weight", "blocks.0.attn.q_norm.weight", "blocks.x.norm1.weight", "blocks.-1.norm1.weight"]
    {
        let mut t = official(true);
        t.insert(key.into(), extra.clone());
        let (mut got, naming) = normalised(t);
        assert_eq!((got.remove(key), naming), (Some(extra.clone()), Naming::Official));
        assert_eq!(got, prefixed("encoder.", &official(true)));
    }
}

#[test]
fn what_does_not_fit_is_a_sentence() {
    let said = |t: Tensors, want: &str| {
        let got = refused(t);
        assert!(got.contains(want), "wanted {want:?} in {got:?}");
    };
    let one = |shape: &[usize]| RawTensor::from_f32(&Tensor::zeros(shape));
    said(Tensors::new(), "of its 0 the first are none");
    let other = Tensors::from(["conv1.weight", "fc.bias"].map(|k| (k.into(), one(&[1]))));
    said(
        other,
        "(\"encoder.layer.0.norm1.weight\") naming, but of its 2 the first are \"conv1.weight\", \"fc.bias\"",
    );

    for (key, shape) in
        [("mlp.w12.weight", [16, 4]), ("mlp.weights_in.weight", [16, 4]), ("mlp.fc1.weight", [16, 4])]
    {
        for (blocks, prefix) in [("blocks.", ""), ("encoder.layer.", ""), ("blocks.", "encoder.")] {
            let mut t = prefixed(prefix, &official(true));
            t.insert(format!("{prefix}{blocks}0.{key}"), one(&shape));
            t.insert(format!("{prefix}{blocks}0.mlp.fc2.weight"), one(&[4, 8]));
            said(t, "which is not supported; use small, base or large");
        }
    }

    let hf = hugging_face(&official(true), true);
    let key = "encoder.layer.3.attention.attention.key.bias";
    let mut t = hf.clone();
    t.remove(key);
    said(t, "make up \"encoder.blocks.3.attn.qkv.bias\", not all three are there");
    let mut t = hf.clone();
    t.insert(key.into(), one(&[5]));
    said(t, "make up \"encoder.blocks.3.attn.qkv.bias\", differ in shape or element type");
    let mut t = hf.clone();
    t.get_mut(key).unwrap().dtype = Dtype::I32;
    said(t, "differ in shape or element type");
    let mut t = hf.clone();
    t.insert("encoder.layer.3.attention.k_proj.bias".into(), one(&[C]));
    said(t, "the same third of \"encoder.blocks.3.attn.qkv.bias\"");
    let mut t = hf;
    t.insert("blocks.3.norm1.bias".into(), one(&[C]));
    said(t, "two of the tensors mean \"encoder.blocks.3.norm1.bias\"");

    let mut t = timm(&official(true));
    t.insert("pos_embed".into(), one(&[1, 10, C]));
    said(t.clone(), "\"pos_embed\" has 10 rows; beside \"reg_token\"");
    t.insert("pos_embed".into(), one(&[9, C]));
    said(t, "\"pos_embed\" should have the shape (1, N, C), but has [9, 4]");
}

/// Keys as the original programs list them: after normalising, all lists are the official one.
#[test]
fn golden_key_lists_agree() {
    let list = |name: &str| -> Option<Tensors> {
        let text = std::fs::read_to_string(golden(&format!("layouts/keys_tiny_{name}.txt"))?).unwrap();
        let tensors = text.lines().map(|line| {
            let [key, shape, dtype] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
            assert_eq!(dtype, "float32");
            (
                key.to_string(),
                RawTensor::from_f32(&Tensor::zeros(&serde_json::from_str::<Vec<_>>(shape).unwrap())),
            )
        });
        Some(tensors.collect())
    };
    let want = prefixed("encoder.", &list("official").unwrap());
    for (name, naming) in [
        ("official", Naming::Official),
        ("timm", Naming::Timm),
        ("hf_hub", Naming::HuggingFace),
        ("hf_transformers5_runtime", Naming::HuggingFaceRuntime),
    ] {
        let (got, found) = normalised(list(name).unwrap());
        assert_eq!(found, naming);
        same_encoder(&got, &want);
        assert_eq!(got.contains_key("encoder.mask_token"), naming != Naming::Timm);
    }
}

/// The tiny encoder as saved by the three programs: bit-identical tensors, timm's folding aside.
#[test]
fn golden_files_agree() {
    let read = |name: &str| {
        Some(normalise(WeightFile::read(golden(&format!("layouts/{name}.safetensors"))?).unwrap()).unwrap())
    };
    let (Some((want, o)), Some((timm, t)), Some((hf, h))) =
        (read("tiny_official_encoder"), read("tiny_timm"), read("tiny_hf"))
    else {
        return;
    };
    assert_eq!((o, t, h), (Naming::Official, Naming::Timm, Naming::HuggingFace));
    assert_eq!(hf.tensors, want.tensors);
    same_encoder(&timm.tensors, &want.tensors);
    // The generator made them, so names and orders are checked against something that has neither from us.
    for (key, t) in &want.tensors {
        assert_eq!(t.to_f32().unwrap(), golden_weight(key, &t.shape), "{key}");
    }
}
