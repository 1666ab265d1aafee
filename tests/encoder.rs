//! The encoder alone: the same features whatever naming its weights came in.

use std::collections::BTreeMap;

use inp_former::model::{Config, Model, encoder};
use inp_former::runtime::weights::{RawTensor, WeightFile};
use inp_former::runtime::{Cpu, Tensor};
use serde_json::json;

use crate::models;
use crate::support::{close, golden, golden_input, golden_weight, read_f32};

/// A backbone file of the tiny size: 2 heads of 32 channels and 6 blocks cannot be told from shapes alone.
fn load(mut file: WeightFile) -> Model {
    let about = json!({ "heads": 2, "target_layers": [1, 2, 3, 4] });
    file.metadata.insert("inp_former".into(), about.to_string());
    Model::load(file).unwrap()
}

/// Activations of one forward, by their name in `trace`, and the features of the groups.
fn activations(m: &Model, input: &Tensor) -> (BTreeMap<String, Tensor>, Vec<Tensor>) {
    let mut got = BTreeMap::new();
    let mut tap = |name: &str, t: &Tensor| drop(got.insert(name.to_string(), t.clone()));
    let f = encoder::forward(&Cpu::new(None).unwrap(), &m.encoder, &m.config, input, &mut tap).unwrap();
    (got, f.groups)
}

/// timm and Hugging Face resample the position embedding otherwise than the published INP-Former does, so their own
/// features are no target; the official ones are, for the weights of all three.
#[test]
fn golden_features_do_not_depend_on_the_naming() {
    for size in [112, 252, 518] {
        let Some(path) = golden(&format!("layouts/tiny_feats_{size}.safetensors")) else { return };
        let want = read_f32(&path);
        let input = golden_input(&format!("layout{size}"), 1, size, size);
        if let Some(stored) = want.get("input") {
            assert_eq!(stored, &input);
        }
        for name in ["tiny_official_encoder", "tiny_timm", "tiny_hf"] {
            let Some(path) = golden(&format!("layouts/{name}.safetensors")) else { return };
            let m = load(WeightFile::read(path).unwrap());
            assert!(
                m.trained.is_none() && (m.config.depth, m.config.registers, m.config.pos_grid) == (6, 4, 37)
            );
            let (got, _) = activations(&m, &input);
            for key in ["tokens", "block4"] {
                let want = &want[&format!("official.{key}")];
                let got = &got[&format!("enc.{key}")];
                assert_eq!(got.shape(), want.shape());
                close(&format!("{name} at {size} px: {key}"), &got.data, &want.data, 5e-5);
            }
        }
    }
}

/// DINOv2 as first published has no registers: only the class token stands before the patches.
#[test]
fn an_encoder_without_registers() {
    let names = |registers| {
        let cfg = Config { registers, trained: false, ..models::config("tiny") };
        let tensors = models::file(&cfg).tensors;
        let official = |k: String| k.strip_prefix("encoder.").unwrap().to_string();
        tensors.into_iter().map(|(k, t)| (official(k), t)).collect::<BTreeMap<String, RawTensor>>()
    };
    let input = golden_input("tiny", 1, 56, 56);
    let (mut seen, c) = (Vec::new(), 64);
    for registers in [0, 4] {
        let m = load(WeightFile { tensors: names(registers), ..WeightFile::default() });
        assert_eq!((m.config.registers, m.config.prefix()), (registers, 1 + registers));
        let (got, groups) = activations(&m, &input);
        let tokens = &got["enc.tokens"];
        assert_eq!(
            (tokens.shape(), got["enc.block4"].shape()),
            (&[1, 17 + registers, c][..], tokens.shape())
        );
        let (cls, pos) = (golden_weight("encoder.cls_token", &[1, 1, c]), &got["pos_embed_interp"]);
        let want: Vec<f32> = cls.data.iter().zip(pos.row(0)).map(|(a, b)| a + b).collect();
        assert_eq!(tokens.row(0), want);
        assert_eq!(tokens.data[(1 + registers) * c..].len(), 16 * c);
        seen.push((tokens.data[(1 + registers) * c..].to_vec(), groups));
    }
    // The patches enter alike; registers change what the blocks make of them.
    assert_eq!(seen[0].0, seen[1].0);
    assert_ne!(seen[0].1, seen[1].1);
    for group in &seen[0].1 {
        assert_eq!(group.shape(), [1, 16, c]);
        assert!(group.data.iter().all(|x| x.is_finite()));
    }
}
