//! `calibrate`: the threshold follows from the scores, is stored in the model, and used where it holds.

use inp_former::runtime::weights::WeightFile;
use serde_json::Value;

use super::{Place, auto, picture, save};

const MODEL: &str = "--model model.safetensors";

fn scores(place: &Place, args: &str) -> Vec<f32> {
    let records = place.run(&format!("score {MODEL} good {args}")).ok().records();
    let mut scores: Vec<f32> = records.iter().map(|r| r["score"].as_f64().unwrap() as f32).collect();
    scores.sort_by(f32::total_cmp);
    scores
}

fn place() -> Place {
    let place = Place::with_model();
    (0..8).for_each(|i| save(&place.path(&format!("good/{i}.png")), &picture(50 + i, false)));
    place
}

#[test]
fn threshold_leaves_the_share_asked_for() {
    let place = place();
    let (scores, before) = (scores(&place, ""), WeightFile::read(place.path("model.safetensors")).unwrap());
    for (rate, last_passing, said) in
        [("0", 7, ""), ("0.01", 7, "warning: 8 pictures are too few"), ("0.25", 5, "")]
    {
        let ran =
            place.run(&format!("calibrate {MODEL} --good good --false-alarm-rate {rate}")).ended(0, said);
        let threshold = scores[last_passing].next_up();
        assert_eq!(ran.out, format!("{threshold}\n"));
        let after = WeightFile::read(place.path("model.safetensors")).unwrap();
        assert!(after.tensors == before.tensors);
        let meta: Value = serde_json::from_str(&after.metadata["inp_former"]).unwrap();
        let (t, rate) = (&meta["threshold"], rate.parse::<f64>().unwrap());
        assert_eq!(
            (t["image"].as_f64().unwrap() as f32, t["false_alarm_rate"].as_f64()),
            (threshold, Some(rate))
        );
        assert_eq!(
            (&t["images"], &t["precision"], &t["zero_shot"]),
            (&8.into(), &auto().into(), &false.into())
        );
        assert!(t["simd"].is_string());
        // The same pictures, scored: as many false alarms as allowed, no more.
        let code = if last_passing == 7 { 0 } else { 3 };
        let records = place.run(&format!("score {MODEL} good --fail-on-anomaly")).ended(code, "").records();
        assert!(records.iter().all(|r| r["threshold"].as_f64().unwrap() as f32 == threshold));
        assert_eq!(records.iter().filter(|r| r["anomalous"] == true).count(), 7 - last_passing);
    }
    // What is asked for wins over what is stored.
    let records = place.run(&format!("score {MODEL} good --threshold 0")).ok().records();
    assert!(records.iter().all(|r| r["anomalous"] == true && r["threshold"] == 0.0));
}

#[test]
fn threshold_of_zero_shot_is_not_that_of_the_decoder() {
    let place = place();
    place.run(&format!("calibrate {MODEL} --good good --zero-shot --false-alarm-rate 0")).ok();
    let ran = place.run(&format!("score {MODEL} good --zero-shot --fail-on-anomaly")).ok();
    assert!(ran.records().iter().all(|r| r["anomalous"] == false));
    let ran = place.run(&format!("score {MODEL} good"));
    let ran = ran.ended(0, "warning: the model's threshold was calibrated with --zero-shot and is not used");
    assert!(ran.records().iter().all(|r| r["threshold"].is_null() && r["anomalous"].is_null()));
    place
        .run(&format!("score {MODEL} good --fail-on-anomaly"))
        .ended(2, "--fail-on-anomaly needs a threshold");
}

#[test]
fn threshold_of_another_precision_is_said() {
    let place = place();
    let mut file = WeightFile::read(place.path("model.safetensors")).unwrap();
    let mut meta: Value = serde_json::from_str(&file.metadata["inp_former"]).unwrap();
    meta["threshold"] = serde_json::json!({"image": 0.5, "precision": "int8"});
    file.metadata.insert("inp_former".into(), meta.to_string());
    file.write(place.path("model.safetensors")).unwrap();
    let ran = place.run(&format!("score {MODEL} good"));
    let said = "warning: the model's threshold was calibrated in int8, and this run computes in";
    let ran = ran.ended(0, &format!("{said} {}", auto()));
    assert!(ran.records().iter().all(|r| r["threshold"] == 0.5));
}

#[test]
fn a_damaged_picture_is_named_and_left_out() {
    let place = place();
    std::fs::write(place.path("good/x.png"), "no picture").unwrap();
    let ran = place
        .run(&format!("calibrate {MODEL} --good good"))
        .ended(1, "error: good/x.png: this is not a picture");
    std::fs::remove_file(place.path("good/x.png")).unwrap();
    assert_eq!(ran.out, place.run(&format!("calibrate {MODEL} --good good")).ok().out);
}

#[test]
fn info_says_what_there_is() {
    let place = place();
    let ran = place.run("info --json --threads 1 --quiet").ok();
    assert!(ran.err.is_empty(), "{}", ran.err);
    let v: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&v["version"], &v["device"]), (&env!("CARGO_PKG_VERSION").into(), &"cpu".into()));
    let all: &[&str] = if auto() == "bf16" { &["f32", "bf16", "int8"] } else { &["f32", "int8"] };
    assert_eq!((&v["threads"], &v["precisions"]), (&1.into(), &serde_json::json!(all)));
    assert_eq!(v["precision"], auto());
    assert!(v["simd_supported"].as_array().unwrap().contains(&v["simd"]));
    let text = place.run("info --kernels").ok().out;
    assert!(text.contains(v["simd"].as_str().unwrap()) && text.contains("kernels "), "{text}");
}
