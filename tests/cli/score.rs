//! `score`: records and their formats, where names come from, thresholds, inputs that fail.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use image::{ImageBuffer, Luma};
use inp_former::data::image::{Limits, decode};
use inp_former::engine::{Options, Scorer, Verdict};
use inp_former::ops::preprocess::ImageView;
use inp_former::runtime::weights::WeightFile;
use serde_json::Value;

use super::{Place, keys};

const GOOD: &str = "score --model model.safetensors data/nut/test/good";

fn paths(records: &[Value]) -> Vec<&str> {
    records.iter().map(|r| r["path"].as_str().unwrap()).collect()
}

#[test]
fn jsonl_records_hold_the_score_that_programs_get() {
    let place = Place::with_model();
    let ran = place.run("score --model model.safetensors data/nut/test --threads 1").ok();
    let records = ran.records();
    assert_eq!(
        paths(&records),
        ["cut/0.png", "cut/1.png", "good/0.png", "good/1.png"].map(|f| format!("data/nut/test/{f}"))
    );
    let options = Options { threads: Some(2), ..Options::default() };
    let mut scorer = Scorer::open(place.path("model.safetensors"), &options).unwrap();
    for (record, line) in records.iter().zip(ran.out.lines()) {
        assert_eq!(keys(record), ["path", "score", "anomalous", "threshold", "width", "height", "ms"]);
        assert!(record["anomalous"].is_null() && record["threshold"].is_null());
        assert_eq!((&record["width"], &record["height"]), (&64.into(), &64.into()));
        assert!(record["ms"].as_f64().unwrap() > 0.0);
        let picture = decode(&place.path(record["path"].as_str().unwrap()), &Limits::default()).unwrap();
        let frame = ImageView::rgb(&picture.rgb, picture.width, picture.height).unwrap();
        let mut verdict = Verdict::default();
        scorer.score_into(&frame, &mut verdict).unwrap();
        // The text is the shortest decimal that reads back as the same f32.
        let text = line.split_once("\"score\":").unwrap().1.split_once(',').unwrap().0;
        assert_eq!(text, format!("{:?}", verdict.score), "{line}");
    }
    let score = |i: usize| records[i]["score"].as_f64().unwrap();
    assert!(score(0).min(score(1)) > score(2).max(score(3)), "defects do not stand out:\n{}", ran.out);
}

#[test]
fn csv_and_table_say_the_same() {
    let place = Place::with_model();
    let records = place.run(&format!("{GOOD} nowhere.png")).ended(1, "nowhere.png").records();
    let csv = place.run(&format!("{GOOD} nowhere.png --format csv")).ended(1, "nowhere.png").out;
    let mut csv = csv::Reader::from_reader(csv.as_bytes());
    let header = "path,score,anomalous,threshold,width,height,ms,error";
    assert_eq!(csv.headers().unwrap(), header.split(',').collect::<Vec<_>>());
    let rows: Vec<_> = csv.records().map(|r| r.unwrap()).collect();
    for (row, record) in rows.iter().zip(&records).take(2) {
        assert_eq!((&row[0], &row[1]), (record["path"].as_str().unwrap(), &*record["score"].to_string()));
        assert_eq!((&row[2], &row[3], &row[4], &row[5], &row[7]), ("", "", "64", "64", ""));
    }
    assert_eq!((rows.len(), &rows[2][0], &rows[2][1]), (3, "nowhere.png", ""));
    assert_eq!(&rows[2][7], records[2]["error"].as_str().unwrap());
    let table =
        place.run(&format!("{GOOD} nowhere.png --format table --threshold 0")).ended(1, "nowhere").out;
    for (record, verdict) in records.iter().zip(["ANOMALOUS", "ANOMALOUS", "failed"]) {
        let row = table.lines().find(|l| l.contains(record["path"].as_str().unwrap())).unwrap();
        let score = record["score"].as_f64().map_or("–".into(), |s| format!("{s:.4}"));
        assert!(row.contains(&score) && row.contains(verdict), "{table}");
    }
}

#[test]
fn files_folders_patterns_and_standard_input_give_one_result() {
    let place = Place::with_model();
    let scores = |records: &[Value]| records.iter().map(|r| r["score"].clone()).collect::<Vec<_>>();
    let folder = place.run(GOOD).ok().records();
    for args in ["data/nut/test/good/*.png", "data/nut/test/good/0.png data/nut/test/good/1.png"] {
        let same = place.run(&format!("score --model model.safetensors {args}")).ok().records();
        assert_eq!((paths(&same), scores(&same)), (paths(&folder), scores(&folder)), "{args}");
    }
    let names = "data/nut/test/good/0.png\r\n\ndata/nut/test/good/1.png";
    let same = place.feed("score --model model.safetensors -", names).ok().records();
    assert_eq!((paths(&same), scores(&same)), (paths(&folder), scores(&folder)));
    // Arguments in their order, also a picture twice.
    let twice = place.run("score --model model.safetensors data/nut/test/good/1.png data/nut/test/good").ok();
    assert_eq!(paths(&twice.records()), [1, 0, 1].map(|i| format!("data/nut/test/good/{i}.png")));
    place.feed("score --model model.safetensors -", "").ended(2, "no pictures were given");
}

#[test]
fn what_fails_is_named_and_the_rest_scored() {
    let place = Place::with_model();
    let good = place.bytes("data/nut/test/good/0.png");
    std::fs::create_dir(place.path("mixed")).unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(place.path("mixed").join(name), bytes).unwrap();
    put("a.png", &good);
    put("b_cut.png", &good[..good.len() / 2]);
    put("c_empty.jpg", b"");
    put("d_text.png", b"not a picture");
    let deep: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_pixel(64, 64, Luma([999u16]));
    deep.save(place.path("mixed/e_16.png")).unwrap();
    put("f.jpg", &good); // the content decides
    put("g.txt", b"passed over");
    let ran = place.run("score --model model.safetensors mixed gone.png").ended(1, "");
    let records = ran.records();
    let says = [
        ("mixed/a.png", ""),
        ("mixed/b_cut.png", "damaged, cut off"),
        ("mixed/c_empty.jpg", "the file is empty"),
        ("mixed/d_text.png", "not a picture"),
        ("mixed/e_16.png", "16 bits"),
        ("mixed/f.jpg", ""),
        ("gone.png", "cannot open the picture"),
    ];
    assert_eq!(paths(&records), says.map(|s| s.0));
    for (record, (path, says)) in records.iter().zip(says) {
        if says.is_empty() {
            assert!(record["score"].is_f64(), "{record}");
            continue;
        }
        assert_eq!(keys(record), ["path", "error"]);
        let error = record["error"].as_str().unwrap();
        assert!(error.starts_with(path) && error.contains(says), "{error}");
        assert!(ran.err.contains(&format!("error: {error}\n")), "{}", ran.err);
    }
    assert_eq!(records[0]["score"], records[5]["score"]);
    place.run("score --model model.safetensors mixed/d_text.png gone.png").ended(2, "none of the 2 pictures");
    place
        .run("score --model model.safetensors mixed --max-megapixels 0")
        .ended(2, "more than the limit of 0");
}

#[test]
fn thresholds_and_exit_codes() {
    let place = Place::with_model();
    let all = "score --model model.safetensors data/nut/test";
    let records = place.run(all).ok().records();
    let mut scores: Vec<f64> = records.iter().map(|r| r["score"].as_f64().unwrap()).collect();
    scores.sort_by(f64::total_cmp);
    // A picture whose score is the threshold itself is anomalous.
    let t = scores[2] as f32;
    for (args, code) in [("", 0), ("--fail-on-anomaly", 3), ("--fail-on-anomaly nowhere.png", 3)] {
        let ran = place.run(&format!("{all} --threshold {t} {args}")).ended(code, "");
        for r in &ran.records()[..4] {
            assert_eq!(r["anomalous"], r["score"].as_f64().unwrap() as f32 >= t, "{r}");
            assert_eq!(r["threshold"].to_string(), t.to_string());
        }
    }
    place.run(&format!("{all} --threshold 9 --fail-on-anomaly")).ok();
    place.run(&format!("{all} --threshold 9 --fail-on-anomaly nowhere.png")).ended(1, "nowhere.png");
    place.run(&format!("{all} --threshold -1 --fail-on-anomaly")).ended(3, "");
    let ran = place.run(&format!("{all} --fail-on-anomaly")).ended(2, "--fail-on-anomaly needs a threshold");
    assert!(ran.out.is_empty());
}

#[test]
fn zero_shot_is_another_score() {
    let place = Place::with_model();
    let decoder = place.run(GOOD).ok().records();
    let zero = place.run(&format!("{GOOD} --zero-shot")).ok().records();
    assert!(zero.iter().zip(&decoder).all(|(z, d)| z["score"].is_f64() && z["score"] != d["score"]));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let place = Place::with_model();
    let mut command = place.command("score --model model.safetensors -");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all("data/nut/test/good/0.png\n".repeat(300).as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"path\":"), "{line}");
    let ran = super::Ran::new(child.wait_with_output().unwrap()).ok();
    assert!(!ran.err.contains("error"), "{}", ran.err);
}

/// A map that is not finite is an error of that picture, never a score, and nothing is written for it.
#[test]
fn no_score_from_weights_that_are_not_numbers() {
    let place = Place::with_model();
    let mut file = WeightFile::read(place.path("model.safetensors")).unwrap();
    let weights = file.tensors.get_mut("decoder.1.mlp.fc1.bias").unwrap();
    weights.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    file.write(place.path("nan.safetensors")).unwrap();
    let ran = place.run(&format!("{} --maps maps --heatmaps maps", GOOD.replace("model.s", "nan.s")));
    let ran = ran.ended(2, "none of the 2 pictures could be scored");
    for r in ran.records() {
        assert_eq!(keys(&r), ["path", "error"]);
        assert!(r["error"].as_str().unwrap().contains("the anomaly map is not finite"), "{r}");
    }
    assert!(place.files("maps").is_empty());
    place.run("eval --model nan.safetensors --data data").ended(2, "no class could be evaluated");
    place.run("calibrate --model nan.safetensors --good data/nut/test/good").ended(2, "none of the good");
}
