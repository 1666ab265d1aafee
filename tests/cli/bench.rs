//! `bench`: what it prints, whatever the machine's speed.

use serde_json::Value;

use super::{Place, auto, keys};

const KEYS: [&str; 17] = [
    "model",
    "path",
    "crop",
    "device",
    "simd",
    "threads",
    "precision",
    "launches",
    "batch",
    "iters",
    "ms",
    "ms_per_image",
    "images_per_s",
    "stages",
    "gflop_per_s",
    "file_ms",
    "version",
];
const MS: [&str; 9] = ["min", "mean", "median", "p50", "p90", "p99", "p999", "max", "stddev"];

fn number(v: &Value) -> f64 {
    v.as_f64().unwrap()
}

/// Checks one set of milliseconds.
#[track_caller]
fn ordered(ms: &Value) {
    let [min, mean, median, p50, p90, p99, p999, max, stddev] = MS.map(|k| number(&ms[k]));
    assert!(0.0 < min && min <= p50 && p50 <= p90 && p90 <= p99 && p99 <= p999 && p999 <= max, "{ms}");
    assert!(median == p50 && min <= mean && mean <= max && stddev >= 0.0 && stddev <= max - min, "{ms}");
}

/// Checks the record of a run on the CPU and gives it back.
#[track_caller]
fn record(place: &Place, args: &str) -> Value {
    let ran = place.run(&format!("bench {args}")).ok();
    let v: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(keys(&v), KEYS);
    assert_eq!(keys(&v["ms"]), MS);
    ordered(&v["ms"]);
    let precision = if args.contains("--path model") { "f32" } else { auto() };
    assert_eq!((v["device"].as_str(), v["precision"].as_str()), (Some("cpu"), Some(precision)));
    assert_eq!(v["version"], env!("CARGO_PKG_VERSION"));
    let batch = number(&v["batch"]);
    assert!((number(&v["ms_per_image"]) * batch / number(&v["ms"]["median"]) - 1.0).abs() <= 1e-9);
    assert!((number(&v["images_per_s"]) * number(&v["ms"]["mean"]) / 1e3 / batch - 1.0).abs() <= 1e-9);
    let stages = v["stages"].as_object().unwrap();
    assert!(stages.len() > 1 && stages.values().all(|ms| number(ms) > 0.0), "{v}");
    let sum: f64 = stages.values().map(number).sum();
    assert!((sum / number(&v["ms"]["mean"]) - 1.0).abs() <= 1e-9, "stages leave something out: {v}");
    let rates = v["gflop_per_s"].as_object().unwrap();
    assert!(rates.iter().all(|(name, rate)| stages.contains_key(name) && number(rate) > 0.0), "{v}");
    v
}

#[test]
fn a_record_of_a_model_and_of_its_plain_path() {
    let place = Place::with_model();
    let v = record(&place, "--model model.safetensors --iters 5 --warmup 1 --threads 1 --json out/b.json");
    assert_eq!(serde_json::from_str::<Value>(&place.text("out/b.json")).unwrap(), v);
    assert_eq!((&v["model"], &v["path"]), (&"model.safetensors".into(), &"engine".into()));
    assert_eq!(["crop", "threads", "batch", "iters"].map(|k| v[k].as_u64().unwrap()), [56, 1, 1, 5]);
    assert!(v["file_ms"].is_null());
    let stages = keys(&v["stages"]);
    assert_eq!((stages.first(), stages.last()), (Some(&"crop"), Some(&"rest")));

    let v =
        record(&place, "--model model.safetensors --path model --iters 2 --warmup 0 --batch 3 --threads 2");
    assert_eq!(["threads", "batch", "iters"].map(|k| v[k].as_u64().unwrap()), [2, 3, 2]);
    assert_eq!(v["path"], "model");
    let want = ["crop", "patches", "encoder", "extractor", "bottleneck", "decoder", "map", "score", "rest"];
    assert_eq!(keys(&v["stages"]), want);
}

#[test]
fn from_a_file_decoding_counts() {
    let place = Place::with_model();
    let v = record(&place, "--model model.safetensors --iters 3 --batch 2 --file data/nut/test/cut/0.png");
    ordered(&v["file_ms"]);
    assert!(number(&v["file_ms"]["decoding_adds"]) > 0.0);
}

#[test]
fn the_embedded_backbone_and_random_weights_need_no_file() {
    let place = Place::new();
    for (args, model, crop) in [("", "demo", 224), ("--arch small", "small", 392)] {
        let v = record(&place, &format!("{args} --iters 1 --warmup 0"));
        assert_eq!((&v["model"], &v["crop"]), (&model.into(), &crop.into()));
    }
    let quiet = place.run("bench --iters 1 --warmup 0 --quiet").ok();
    assert!(quiet.err.is_empty(), "{}", quiet.err);
}

#[test]
fn serving_answers_every_line_with_milliseconds() {
    let place = Place::with_model();
    let ran = place.feed("bench --model model.safetensors --serve --batch 2", "go\n\ngo\n").ok();
    let ms: Vec<f64> = ran.out.lines().map(|l| l.parse().unwrap()).collect();
    assert!(ms.len() == 3 && ms.iter().all(|x| *x > 0.0), "{}", ran.out);
    assert!(place.feed("bench --model model.safetensors --serve", "").ok().out.is_empty());
}

#[test]
fn training_steps_find_the_same_first_loss_by_either_path_and_then_a_smaller_one() {
    let place = Place::with_model();
    for (args, stage) in [("fresh", true), ("cached", false)] {
        let ran =
            place.run(&format!("bench --model model.safetensors --train {args} --batch 2 --iters 2")).ok();
        let v: Value = serde_json::from_str(&ran.out).unwrap();
        ordered(&v["ms"]);
        assert_eq!((v["train"].as_str(), v["path"].as_str()), (Some(args), Some("folds")));
        assert_eq!((v["batch"].as_u64(), v["iters"].as_u64()), (Some(2), Some(2)));
        // Without the encoder only the clock's own time is left.
        assert_eq!(number(&v["stages"]["encoder"]) > 0.1, stage, "{v}");
    }
    let serve = |path: &str| -> Vec<f64> {
        let args = format!("bench --model model.safetensors --train cached --serve --path {path}");
        let ran = place.feed(&args, "go\ngo\ngo\n").ok();
        let fields = ran.out.lines().map(|l| l.split(' ').map(|x| x.parse().unwrap()).collect::<Vec<f64>>());
        fields
            .map(|f| {
                assert!(f.len() == 2 && f[0] > 0.0);
                f[1]
            })
            .collect()
    };
    let (folds, plain) = (serve("engine"), serve("model"));
    assert!(folds.len() == 3 && folds[2] < folds[0], "{folds:?}");
    folds.iter().zip(&plain).for_each(|(a, b)| assert!((a / b - 1.0).abs() <= 1e-3, "{folds:?} {plain:?}"));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let place = Place::with_model();
    for (args, said) in [
        ("--device cuda:99", "error: there is no"),
        ("--device cuda:x", "--device cuda:x: choose auto, cpu, cuda, cuda:N or emulated"),
        (
            "--path model --device emulated",
            "--device emulated: this command has no CUDA kernels; use --device cpu",
        ),
        ("--device emulated --precision f32", "the CUDA kernels compute in bf16, f16 or tf32, not f32"),
        ("--precision fp8", "--precision fp8: this version has no kernels for it"),
        ("--precision int8 --model model.safetensors", "this model was not calibrated for it"),
        ("--precision int8 --device emulated", "there are no int8 CUDA kernels"),
        ("--arch huge", "'huge'"),
        ("--arch base --model model.safetensors", "cannot be used with"),
        ("--batch 0", "'0'"),
        ("--iters 0", "'0'"),
        ("--serve --iters 3", "cannot be used with"),
        ("--model nowhere", "nowhere: cannot read the weights"),
        ("--model backbone.safetensors", "this is an encoder without a trained INP-Former"),
        ("--model model.safetensors --file nowhere.png", "nowhere.png"),
        ("--model model.safetensors --json model.safetensors/b.json", "model.safetensors"),
        ("--path gpu", "'gpu'"),
        ("--model model.safetensors --input x", "--train"),
        ("--model model.safetensors --train cached --input model.safetensors", "there is no tensor `input`"),
    ] {
        let ran = place.run(&format!("bench {args} --quiet")).ended(2, said);
        assert!(ran.out.is_empty(), "{args}: {}", ran.out);
    }
}
