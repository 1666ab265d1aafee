//! `quantise`: the calibration for int8 is reported, stored, used, and asked for where it is not there.

use inp_former::data::synthetic::{Plan, generate};
use inp_former::runtime::weights::WeightFile;
use serde_json::Value;

use super::{Place, auto, keys};

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

/// On drawn pictures, with the embedded backbone, trained so little that the classes overlap.
#[test]
fn the_auroc_stays_that_of_f32() {
    let place = Place::new();
    let plan = Plan { size: 160, train_good: 8, test_good: 10, test_per_defect: 4, seed: 3 };
    generate(&place.path("drawn"), &plan, |_, _| ()).unwrap();
    let model = "--model m.safetensors";
    place
        .run("train --data drawn --resize 160 --crop 140 --iterations 12 --batch-size 8 --out m.safetensors")
        .ok();
    place.run(&format!("quantise {model} --good drawn/*/train/good/*.png --pictures 10")).ok();
    let aurocs = |precision: &str| {
        place.run(&format!("eval {model} --data drawn --precision {precision} --json e.json")).ok();
        let v: Value = serde_json::from_str(&place.text("e.json")).unwrap();
        assert_eq!(v["settings"]["precision"], precision);
        ["image", "pixel"].map(|of| v["mean"][of]["auroc"].as_f64().unwrap())
    };
    let exact = aurocs("f32");
    assert!(exact.iter().all(|a| (0.6..0.99).contains(a)), "{exact:?} shows nothing");
    let mut precisions = vec![("int8", 0.003)];
    match auto() {
        "bf16" => precisions.push(("bf16", 0.002)),
        _ => println!("SKIPPED: this processor has no instructions for bf16"),
    }
    for (precision, bound) in precisions {
        let got = aurocs(precision);
        println!("{precision}: image, pixel AUROC {got:?}, f32 {exact:?}");
        let shift = got.iter().zip(&exact).map(|(a, b)| (a - b).abs());
        assert!(shift.into_iter().all(|s| s <= bound), "{precision}: {got:?} for {exact:?}");
        assert!(got[1] != exact[1], "{precision} was not used");
    }
}

#[test]
fn what_cannot_be_done_is_said_and_leaves_the_model_as_it_was() {
    let place = Place::with_model();
    let model = place.bytes("model.safetensors");
    std::fs::create_dir_all(place.path("empty")).unwrap();
    std::fs::create_dir(place.path("bad")).unwrap();
    std::fs::write(place.path("bad/x.png"), "no picture").unwrap();
    let good = "data/bolt/train/good";
    for (args, said) in [
        ("--good empty", "error: empty: there is no picture in this folder"),
        ("--good nowhere", "error: nowhere: "),
        ("--good bad", "none of the good pictures could be read"),
        ("--good data --device emulated", "no CUDA kernels"),
        (&format!("--good {good} --data nowhere"), "nowhere"),
        (&format!("--good {good} --pictures 0"), "--pictures"),
    ] {
        assert!(place.run(&format!("quantise {MODEL} {args}")).ended(2, said).out.is_empty());
    }
    let path = place.path("model.safetensors");
    let writable = std::fs::metadata(&path).unwrap().permissions();
    let mut readonly = writable.clone();
    readonly.set_readonly(true);
    std::fs::set_permissions(&path, readonly).unwrap();
    for command in ["quantise", "calibrate"] {
        let ran = place.run(&format!("{command} {MODEL} --good {good}"));
        ran.ended(2, "error: model.safetensors: cannot write: this file is read-only");
    }
    std::fs::set_permissions(&path, writable).unwrap();
    assert!(place.bytes("model.safetensors") == model);
    assert_eq!(place.files("").iter().filter(|f| f.contains(".tmp")).count(), 0);
    // One that cannot be read is named, and the others do.
    std::fs::write(place.path("data/bolt/train/good/x.png"), "no picture").unwrap();
    let ran = place.run(&format!("quantise {MODEL} --good {good}"));
    let ran = ran.ended(1, "error: data/bolt/train/good/x.png: this is not a picture");
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap()["images"], 3);
}
