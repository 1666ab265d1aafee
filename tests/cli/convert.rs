//! `convert`: checkpoints of PyTorch and every naming of DINOv2 become our files, and train and score like them.

use std::collections::BTreeMap;

use inp_former::model::Config;
use inp_former::runtime::weights::{RawTensor, WeightFile};
use zip::CompressionMethod;

use super::Place;
use crate::models;
use crate::weights::naming::{hugging_face, timm};
use crate::weights::pth::{archive, tensor, text};

type Tensors = BTreeMap<String, RawTensor>;

/// A model of 12 blocks, whose target layers are the published ones, at the published sizes: no metadata needed.
fn published(trained: bool) -> WeightFile {
    let target_layers: Vec<usize> = (2..10).collect();
    let groups: Vec<Vec<usize>> = vec![(0..4).collect(), (4..8).collect()];
    let (decoder_groups, tiny) = (groups.clone(), models::config("tiny"));
    let cfg = Config {
        depth: 12,
        heads: 1,
        decoder_blocks: 8,
        target_layers,
        groups,
        decoder_groups,
        trained,
        ..tiny
    };
    WeightFile { metadata: BTreeMap::new(), ..models::file(&cfg) }
}

/// A checkpoint as `torch.save` writes a state dict, every tensor f32 in a storage of its own.
fn as_pth(tensors: &Tensors) -> Vec<u8> {
    let mut pickle = b"\x80\x02}(".to_vec();
    for (i, (name, t)) in tensors.iter().enumerate() {
        let shape: Vec<i32> = t.shape.iter().map(|d| *d as i32).collect();
        let strides: Vec<i32> = (1..=shape.len()).map(|d| shape[d..].iter().product()).collect();
        pickle.extend(text(name));
        pickle.extend(tensor(
            "torch.FloatStorage",
            &i.to_string(),
            shape.iter().product(),
            0,
            &shape,
            &strides,
        ));
    }
    pickle.extend(b"u.");
    let names: Vec<String> = (0..tensors.len()).map(|i| format!("data/{i}")).collect();
    let data = names.iter().map(String::as_str).zip(tensors.values().map(|t| t.bytes.as_slice()));
    let entries: Vec<(&str, &[u8])> = [("data.pkl", pickle.as_slice())].into_iter().chain(data).collect();
    archive(&entries, CompressionMethod::Stored)
}

#[test]
fn a_published_checkpoint_scores_as_it_is_and_converted() {
    let place = Place::new();
    let model = published(true);
    std::fs::write(place.path("model.pth"), as_pth(&model.tensors)).unwrap();
    let ran = place.run("convert model.pth model.safetensors").ok();
    for part in ["64 channels, 12 blocks, 1 heads, 4 registers", "a trained INP-Former of 6 prototypes"] {
        assert!(ran.err.contains(part), "{}", ran.err);
    }
    let converted = WeightFile::read(place.path("model.safetensors")).unwrap();
    assert!(converted.tensors == model.tensors);
    assert!(converted.metadata["inp_former"].contains("\"resize\":448,\"crop\":392"));
    let score = |model: &str| {
        let records = place.run(&format!("score --model {model} data/nut/test/good/0.png")).ok().records();
        records[0]["score"].as_f64().unwrap()
    };
    assert_eq!(score("model.pth"), score("model.safetensors"));
}

#[test]
fn every_naming_of_dinov2_is_the_same_backbone() {
    let place = Place::new();
    let file = published(false);
    let official: Tensors = file
        .tensors
        .iter()
        .map(|(k, t)| (k.strip_prefix("encoder.").unwrap().to_string(), t.clone()))
        .collect();
    let save = |name: &str, tensors: Tensors| {
        WeightFile { tensors, ..WeightFile::default() }.write(place.path(name)).unwrap();
    };
    save("official", official.clone());
    save("hub", hugging_face(&official, true));
    save("runtime", hugging_face(&official, false));
    save("timm", timm(&official));
    std::fs::write(place.path("pth"), as_pth(&official)).unwrap();
    let train = |name: &str| {
        place.train(&format!("--backbone {name} --iterations 2 --out m.safetensors")).ok();
        place.bytes("m.safetensors")
    };
    let first = train("official");
    for (name, naming) in [
        ("official", "Official"),
        ("hub", "HuggingFace"),
        ("runtime", "HuggingFaceRuntime"),
        ("timm", "Timm"),
        ("pth", "Official"),
    ] {
        place.run(&format!("convert {name} converted")).ended(0, &format!("{name}: {naming} naming"));
        let converted = WeightFile::read(place.path("converted")).unwrap().tensors;
        // timm folds the class token's position into the token: that sum is all that is left.
        let same = |(k, t): (&String, &RawTensor)| {
            k.contains("_token") || k.contains("pos_embed") || *t == file.tensors[k]
        };
        assert!(converted.iter().all(same), "{name}");
        assert!(name == "timm" || converted == file.tensors, "{name}");
        assert!(name == "timm" || train(name) == first, "{name}");
        train("converted");
    }
}

#[test]
fn what_has_no_published_layers_needs_them_in_the_metadata() {
    let place = Place::new();
    let encoder = Config { trained: false, ..models::config("tiny") };
    let file = models::file(&encoder);
    WeightFile { metadata: BTreeMap::new(), ..file.clone() }.write(place.path("bare")).unwrap();
    place.run("convert bare x").ended(2, "an encoder of 6 blocks has no published target layers");
    place.run("convert backbone.safetensors x").ok();
    assert!(WeightFile::read(place.path("x")).unwrap().tensors == file.tensors);
    // Onto itself.
    place.run("convert x x").ok();
    let mut lacking = file;
    lacking.tensors.remove("encoder.blocks.2.norm1.bias");
    lacking.write(place.path("lacking")).unwrap();
    place.run("convert lacking y").ended(2, "missing: encoder.blocks.2.norm1.bias [64]");
    place.run("convert lacking y --threads 0").ended(2, "");
    assert!(!place.path("y").exists());
}
