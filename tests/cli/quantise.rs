//! `quantise`: the calibration for int8 is reported, stored, used, and asked for where it is not there.

use inp_former::runtime::weights::WeightFile;
use serde_json::Value;

use super::{Place, keys};

const MODEL: &str = "--model model.safetensors";
const SCORE: &str = "score --model model.safetensors data/nut/test/cut --precision int8";

#[test]
fn a_model_is_calibrated_and_scores_in_int8() {
    let place = Place::with_model();
    place.run(SCORE).ended(2, "run `inp-former quantise --model FILE --good DIR`");
    let before = WeightFile::read(place.path("model.safetensors")).unwrap();
    let ran = place.run(&format!("quantise {MODEL} --good data/bolt/train/good --data data")).ok();
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&found["images"], &found["accurate"]), (&3.into(), &true.into()), "{found:#}");
    assert!(found["map_error"].as_f64().unwrap() > 0.0 && found["auroc_shift"].as_f64().unwrap() <= 0.003);
    assert!(keys(&found["layers"]).contains(&"encoder.blocks.0.qkv"));
    let after = WeightFile::read(place.path("model.safetensors")).unwrap();
    assert!(before.tensors.iter().all(|(k, t)| after.tensors[k] == *t));
    let meta: Value = serde_json::from_str(&after.metadata["inp_former"]).unwrap();
    assert_eq!(meta["int8"], found);
    for (layer, l) in found["layers"].as_object().unwrap() {
        assert_eq!(l["int8"] == true, after.tensors.contains_key(&format!("int8.{layer}.by")), "{layer}");
    }
    let scores = |args: &str| {
        let records = place.run(args).ok().records();
        records.iter().map(|r| r["score"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let (int8, exact) = (scores(SCORE), scores(&SCORE.replace("int8", "f32")));
    assert!(
        int8 != exact && int8.iter().zip(&exact).all(|(a, b)| (a - b).abs() <= 4e-3),
        "{int8:?} {exact:?}"
    );
    // A calibration that says of itself that it strays is not used unasked.
    let mut file = after;
    let text = file.metadata["inp_former"].replace("\"accurate\":true", "\"accurate\":false");
    file.metadata.insert("inp_former".into(), text);
    file.write(place.path("model.safetensors")).unwrap();
    place.run(SCORE).ended(2, "strays too far from f32");
    assert_eq!(scores(&format!("{SCORE} --allow-inaccurate")), int8);
}

#[test]
fn pictures_that_cannot_be_read_are_named() {
    let place = Place::with_model();
    std::fs::write(place.path("data/bolt/train/good/x.png"), "no picture").unwrap();
    let ran = place.run(&format!("quantise {MODEL} --good data/bolt/train/good"));
    ran.ended(1, "error: data/bolt/train/good/x.png: this is not a picture");
    std::fs::create_dir(place.path("bad")).unwrap();
    std::fs::write(place.path("bad/x.png"), "no picture").unwrap();
    place.run(&format!("quantise {MODEL} --good bad")).ended(2, "none of the good pictures could be read");
    place.run(&format!("quantise {MODEL} --good data --device emulated")).ended(2, "no CUDA kernels");
    place.run(&format!("quantise {MODEL} --good data/bolt/train/good --data nowhere")).ended(2, "nowhere");
    place.run(&format!("quantise {MODEL} --good data/bolt/train/good --pictures 0")).ended(2, "--pictures");
}
