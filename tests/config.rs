//! What a file says of itself: metadata where there is some, names and shapes where there is none; and files written
//! again.

use std::collections::BTreeSet;

use inp_former::Error;
use inp_former::model::{Config, Model};
use inp_former::runtime::Tensor;
use inp_former::runtime::weights::{RawTensor, WeightFile};
use inp_former::train::init;
use serde_json::{Value, json};

use crate::models;

/// A model of the smallest sizes that still has two of everything.
fn small() -> Config {
    Config {
        channels: 8,
        heads: 2,
        hidden: 16,
        depth: 4,
        registers: 4,
        pos_grid: 3,
        target_layers: vec![0, 2],
        groups: vec![vec![0], vec![1]],
        decoder_groups: vec![vec![0], vec![1]],
        prototypes: 3,
        decoder_blocks: 2,
        resize: 42,
        crop: 28,
        trained: true,
        other: Default::default(),
    }
}

/// The file of a configuration with other metadata, `None` for none at all.
fn file(cfg: &Config, metadata: Option<Value>) -> WeightFile {
    let mut file = models::file(cfg);
    file.metadata.clear();
    file.metadata.extend(metadata.map(|m| ("inp_former".into(), m.to_string())));
    file
}

fn refused(file: WeightFile) -> String {
    Model::load(file).unwrap_err().to_string()
}

/// A model as published: `depth` blocks, target layers and groups that nothing tells.
fn published(depth: usize, layers: Vec<usize>) -> Config {
    let groups = vec![(0..4).collect::<Vec<_>>(), (4..8).collect()];
    Config {
        channels: 128,
        heads: 4,
        hidden: 8,
        depth,
        target_layers: layers,
        decoder_groups: groups.clone(),
        groups,
        decoder_blocks: 8,
        resize: 448,
        crop: 392,
        ..small()
    }
}

#[test]
fn without_metadata_shapes_and_the_published_setting_tell_everything() {
    for (depth, layers) in [(12, (2..10).collect::<Vec<_>>()), (24, (4..19).step_by(2).collect())] {
        let cfg = published(depth, layers);
        // Heads from `learn_scale`, though 128 channels alone would mean 2.
        assert_eq!(Model::load(file(&cfg, None)).unwrap().config, cfg);
        let alone = Config { trained: false, ..cfg.clone() };
        let got = Model::load(file(&alone, None)).unwrap();
        assert!(got.trained.is_none());
        assert!(got.trained().unwrap_err().to_string().contains("`train` one on it first"));
        assert_eq!(got.config, Config { heads: 2, decoder_blocks: 0, prototypes: 0, ..alone });
    }
    // Another number of decoder blocks is halved in its own way.
    let cfg = Config { decoder_blocks: 3, ..published(12, (2..10).collect()) };
    let got = Model::load(file(&cfg, None)).unwrap().config;
    assert_eq!(got.decoder_groups, [vec![0, 1], vec![2]]);
}

#[test]
fn metadata_goes_before_shapes() {
    let about =
        json!({ "heads": 4, "target_layers": [1, 3], "groups": [[1], [0]], "resize": 56, "crop": 42 });
    let cfg = Config {
        heads: 4,
        target_layers: vec![1, 3],
        groups: vec![vec![1], vec![0]],
        decoder_groups: vec![vec![1], vec![0]],
        resize: 56,
        crop: 42,
        ..small()
    };
    let got = Model::load(file(&cfg, Some(about))).unwrap().config;
    assert_eq!((&got, got.side(), got.blocks(), got.prefix()), (&cfg, 3, 4, 5));
    let both = json!({ "target_layers": [0, 2], "groups": [[0, 1]], "decoder_groups": [[1, 0]] });
    let got = Model::load(file(&small(), Some(both))).unwrap().config;
    assert_eq!((got.groups, got.decoder_groups), (vec![vec![0, 1]], vec![vec![1, 0]]));
    // What is not said stays as published, so these layers need a crop that the picture can fill.
    assert_eq!((got.resize, got.crop), (448, 392));
}

#[test]
fn registers_and_position_grid_come_from_shapes() {
    for (registers, pos_grid) in [(0, 1), (4, 37), (1, 2)] {
        let cfg = Config { registers, pos_grid, ..small() };
        assert_eq!(Model::load(models::file(&cfg)).unwrap().config, cfg);
    }
    for rows in [0, 1, 9, 11] {
        let mut f = models::file(&small());
        let pos = RawTensor::from_f32(&Tensor::zeros(&[1, rows, 8]));
        f.tensors.insert("encoder.pos_embed".into(), pos);
        let said = refused(f);
        assert!(said.contains(&format!("has {rows} rows, not a class row and a square grid")), "{said}");
    }
}

#[test]
fn metadata_that_makes_no_sense_is_a_sentence() {
    let layers = |more: Value| {
        let mut about = json!({ "target_layers": [0, 2] });
        about.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        about
    };
    let cases = [
        (json!({}), "an encoder of 4 blocks has no published target layers"),
        (json!([1, 2]), "`inp_former` is not a JSON object"),
        (json!("heads"), "`inp_former` is not a JSON object"),
        (layers(json!({ "heads": "2" })), "metadata `heads` is not a count: \"2\""),
        (layers(json!({ "heads": -2 })), "metadata `heads` is not a count: -2"),
        (layers(json!({ "heads": 1e30 })), "metadata `heads` is not a count"),
        (layers(json!({ "heads": 0 })), "0 heads do not divide 8 channels"),
        (layers(json!({ "heads": 3 })), "3 heads do not divide 8 channels"),
        (layers(json!({ "resize": 448.5 })), "metadata `resize` is not a count: 448.5"),
        (layers(json!({ "crop": null })), "metadata `crop` is not a count: null"),
        (layers(json!({ "crop": 27 })), "crop 27 is not a multiple of 14"),
        (layers(json!({ "crop": 0 })), "crop 0 is not a multiple of 14"),
        (layers(json!({ "resize": 28, "crop": 42 })), "resize 28 is smaller than crop 42"),
        (layers(json!({ "resize": 16385 })), "resize 16385 is above 16384"),
        (json!({ "target_layers": 3 }), "metadata `target_layers` is not a list of counts: 3"),
        (json!({ "target_layers": [] }), "target layers [] must ascend and be below the depth 4"),
        (json!({ "target_layers": [2, 0] }), "target layers [2, 0] must ascend"),
        (json!({ "target_layers": [1, 1] }), "target layers [1, 1] must ascend"),
        (json!({ "target_layers": [1, 4] }), "be below the depth 4"),
        (layers(json!({ "groups": [0, 1] })), "metadata `groups` is not a list of lists"),
        (layers(json!({ "groups": [[0], [0, 1]] })), "`groups` [[0], [0, 1]] must use each of 0..2 once"),
        (layers(json!({ "groups": [[0]] })), "`groups` [[0]] must use each of 0..2 once"),
        (layers(json!({ "groups": [[0, 1], []] })), "none may be empty"),
        (
            layers(json!({ "decoder_groups": [[0], [2]] })),
            "`decoder_groups` [[0], [2]] must use each of 0..2",
        ),
        (layers(json!({ "decoder_groups": [[0, 1]] })), "2 groups but 1 decoder groups"),
    ];
    for (about, want) in cases {
        let got = refused(file(&small(), Some(about.clone())));
        assert!(got.starts_with("generated: ") && got.contains(want), "{about}: wanted {want:?} in {got:?}");
        assert!(!got.contains('\n'), "{got:?} is not one line");
    }
    let mut broken = file(&small(), None);
    broken.metadata.insert("inp_former".into(), "{\"heads\": ".into());
    assert!(refused(broken).contains("`inp_former` is not a JSON object"));
}

#[test]
fn a_file_without_an_encoder_is_a_sentence() {
    let mut none = models::file(&small());
    none.tensors.remove("encoder.patch_embed.proj.weight");
    assert!(
        refused(none).contains("`encoder.patch_embed.proj.weight` is missing; give a DINOv2 or INP-Former")
    );
    for shape in [[8, 3, 16, 16], [8, 1, 14, 14], [0, 3, 14, 14]] {
        let mut other = models::file(&small());
        let patch = RawTensor::from_f32(&Tensor::zeros(&shape));
        other.tensors.insert("encoder.patch_embed.proj.weight".into(), patch);
        assert!(refused(other).contains(&format!("`encoder.patch_embed.proj.weight` is {shape:?}")));
    }
}

/// One error for everything that does not fit.
#[test]
fn all_keys_that_do_not_fit_are_named_at_once() {
    let mut f = models::file(&small());
    let gone =
        ["encoder.cls_token", "encoder.blocks.2.ls2.gamma", "decoder.1.attn.q.bias", "prototype_token"];
    for key in gone {
        f.tensors.remove(key).unwrap();
    }
    f.tensors.retain(|k, _| !k.starts_with("encoder.blocks.1."));
    for (key, shape) in [("bottleneck.0.fc1.bias", [5]), ("encoder.blocks.0.attn.qkv.bias", [8])] {
        f.tensors.insert(key.into(), RawTensor::from_f32(&Tensor::zeros(&shape)));
    }
    f.tensors.get_mut("decoder.0.norm1.weight").unwrap().dtype = inp_former::runtime::weights::Dtype::I32;
    for key in ["optimizer.lr", "decoder.0.attn.extra", "encoder.blocks.900.norm1.weight"] {
        f.tensors.insert(key.into(), RawTensor::from_f32(&Tensor::zeros(&[1])));
    }
    let Err(Error::Weights { problems, .. }) = Model::load(f) else { panic!("it was loaded") };
    let all = problems.join("\n");
    for key in gone {
        assert!(all.contains(&format!("missing: {key}")), "{all}");
    }
    assert_eq!(problems.iter().filter(|p| p.starts_with("missing: encoder.blocks.1.")).count(), 14);
    for want in [
        "shape of bottleneck.0.fc1.bias: wanted [32], got [5]",
        "shape of encoder.blocks.0.attn.qkv.bias: wanted [24], got [8]",
        "decoder.0.norm1.weight: weights must be F32, F16 or BF16",
        "unknown: optimizer.lr",
        "unknown: decoder.0.attn.extra",
        "unknown: encoder.blocks.900.norm1.weight",
    ] {
        assert!(all.contains(want), "wanted {want:?} in {all}");
    }
    assert_eq!(problems.len(), 4 + 14 + 6);
}

/// What published files carry besides is no error.
#[test]
fn keys_that_nothing_reads_are_accepted_and_kept() {
    let mut f = models::file(&small());
    for key in ["encoder.mask_token", "encoder.norm.weight", "encoder.norm.bias", "encoder.head.weight"] {
        f.tensors.insert(key.into(), RawTensor::from_f32(&Tensor::zeros(&[3])));
    }
    // Past the last target layer nothing runs, whatever is or is not there.
    assert!(f.tensors.remove("encoder.blocks.3.norm1.weight").is_some());
    let again = Model::load(f.clone()).unwrap().to_file();
    assert_eq!(again.tensors, f.tensors);
}

#[test]
fn what_is_written_again_has_the_same_bytes() {
    let mut f = models::file(&small());
    let mut about: Value = serde_json::from_str(&f.metadata["inp_former"]).unwrap();
    let more = json!({ "z": [1, { "b": 0.1, "a": null }], "threshold": { "image": 0.123 }, "name": "ü" });
    about.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    f.metadata.insert("inp_former".into(), about.to_string());
    f.metadata.insert("format".into(), "pt".into());
    let folder = tempfile::tempdir().unwrap();
    let path = |n: u32| folder.path().join(format!("{n}.safetensors"));
    let model = Model::load(f).unwrap();
    assert_eq!((model.config.threshold(false), model.config.threshold(true)), (Some(0.123), None));
    model.to_file().write(path(0)).unwrap();
    for n in 0..2 {
        Model::load(WeightFile::read(path(n)).unwrap()).unwrap().to_file().write(path(n + 1)).unwrap();
    }
    let bytes = [0, 1, 2].map(|n| std::fs::read(path(n)).unwrap());
    assert!(bytes[0] == bytes[1] && bytes[1] == bytes[2]);
    let last = WeightFile::read(path(2)).unwrap();
    assert_eq!(last.metadata["format"], "pt");
    let got: Value = serde_json::from_str(&last.metadata["inp_former"]).unwrap();
    for (key, value) in more.as_object().unwrap() {
        assert_eq!(&got[key], value);
    }
}

/// Half-precision encoder tensors stay as they came; what is trained is f32.
#[test]
fn the_encoder_keeps_its_element_type() {
    let mut f = models::file(&small());
    for (_, t) in f.tensors.iter_mut() {
        let halves = t.to_f32().unwrap().data.into_iter().map(half::bf16::from_f32);
        t.bytes = halves.flat_map(|x| x.to_le_bytes()).collect();
        t.dtype = inp_former::runtime::weights::Dtype::Bf16;
    }
    let again = Model::load(f.clone()).unwrap().to_file();
    let (encoder, rest): (Vec<_>, Vec<_>) =
        again.tensors.iter().partition(|(k, _)| k.starts_with("encoder."));
    assert!(encoder.iter().all(|(k, t)| *t == &f.tensors[*k]));
    assert!(rest.iter().all(|(k, t)| t.to_f32().unwrap() == f.tensors[*k].to_f32().unwrap()));
    assert!(rest.iter().all(|(_, t)| t.dtype == inp_former::runtime::weights::Dtype::F32));
}

/// `--backbone MODEL`: its encoder and its metadata, but nothing that was measured on its trained part.
#[test]
fn a_model_as_backbone_gives_its_encoder() {
    let mut f = models::file(&small());
    let mut about: Value = serde_json::from_str(&f.metadata["inp_former"]).unwrap();
    let more = json!({ "name": "n", "threshold": { "image": 0.5 }, "map_range": [0.1, 0.2], "training": {} });
    about.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    f.metadata.insert("inp_former".into(), about.to_string());
    let old = Model::load(f.clone()).unwrap();
    f.tensors.retain(|k, _| k.starts_with("encoder."));
    let alone = Model::load(f).unwrap();
    assert_eq!(old.encoder_hash(), alone.encoder_hash());

    let files = [&old, &alone].map(|backbone| {
        let cfg = init::plan(&backbone.config, 5);
        assert_eq!((cfg.prototypes, cfg.decoder_blocks, cfg.trained), (5, 2, true));
        assert_eq!(cfg.other.keys().collect::<Vec<_>>(), ["name"]);
        let new = backbone.with_trained(cfg.clone(), init::init(&cfg, 1).unwrap()).to_file();
        let loaded = Model::load(new.clone()).unwrap();
        assert_eq!((&loaded.config, loaded.encoder_hash()), (&cfg, backbone.encoder_hash()));
        new
    });
    assert_eq!(files[0], files[1]);
    let keys: BTreeSet<&String> = files[0].tensors.keys().collect();
    assert_eq!(keys, models::file(&Config { prototypes: 5, ..small() }).tensors.keys().collect());
}
