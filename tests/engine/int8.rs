//! int8 as calibrated, against f32: how far maps and scores stray, that nothing else changes their bits, and who is refused.

use inp_former::engine::int8::{self, CORRELATION_BOUND, MAP_BOUND, MAPS_ERR, SCORE_BOUND};
use inp_former::engine::{Options, Precision, Scorer, Verdict};
use inp_former::model::Model;
use inp_former::runtime::{Cpu, Tensor};

use super::{outlier_models, with_outliers};
use crate::models::model;
use crate::support::{correlation, cpus, rel_err, s_value};

/// Crops of blocks under noise.
fn crops(m: &Model, seed: &str, n: usize) -> Vec<Vec<u8>> {
    let x = m.config.crop;
    let of = |i: usize| {
        let (coarse, fine) = (format!("{seed}{i}.coarse"), format!("{seed}{i}.fine"));
        let at = |e: usize| {
            let (ch, column, row) = (e % 3, e / 3 % x, e / 3 / x);
            let block = s_value(&coarse, (row / 28 * x + column / 28) * 3 + ch).rem_euclid(160);
            (block + s_value(&fine, e).rem_euclid(96)) as u8
        };
        (0..3 * x * x).map(at).collect()
    };
    (0..n).map(of).collect()
}

fn calibrated(mut m: Model, cpu: &Cpu) -> Model {
    let mut steps = 0;
    let found = int8::calibrate(cpu, &m, &crops(&m, "calibration", 8), &mut || steps += 1).unwrap();
    let left_out = found.layers.iter().any(|l| l.not_int8 == Some(MAPS_ERR));
    assert_eq!(steps == int8::steps(&m, 8), !left_out, "{steps} steps");
    assert!(found.is_accurate(), "{:#}", found.to_json());
    assert!(
        found.layers.len() == m.config.large_layers().len() && found.smoothing.len() * 3 > found.layers.len()
    );
    m.config.other.insert("int8".into(), found.to_json());
    m.int8 = found.smoothing;
    m
}

fn scorer(m: &Model, cpu: &Cpu, precision: Precision) -> Scorer {
    Scorer::new(m.clone(), cpu.clone(), &Options { precision, ..Options::default() }).unwrap()
}

#[track_caller]
fn near_f32(name: &str, m: Model) {
    let cpu = Cpu::new(None).unwrap();
    let m = calibrated(m, &cpu);
    let (mut exact, mut int8) = (scorer(&m, &cpu, Precision::F32), scorer(&m, &cpu, Precision::Int8));
    assert_eq!(int8.precision(), "int8");
    for crop in crops(&m, "others", 2) {
        let run = |s: &mut Scorer| {
            let mut v = [Verdict::default()];
            s.score_crops_into(&crop, &mut v).unwrap();
            (v[0].score, s.native_maps().unwrap().to_vec())
        };
        let ((want, maps), (got, strayed)) = (run(&mut exact), run(&mut int8));
        assert!((want - got).abs() as f64 <= SCORE_BOUND, "{name}: {got} for {want}");
        for (a, b) in maps.iter().zip(&strayed) {
            let (e, r) = (rel_err(b, a), correlation(a, b));
            println!("{name}: map error {e:.2e}, correlation {r:.5}, score {got} for {want}");
            assert!(e <= MAP_BOUND && r >= CORRELATION_BOUND, "{name}: {e:.2e}, {r:.4}");
            assert!(e > 0.0, "{name} is not in int8");
        }
    }
}

#[test]
fn maps_and_scores_stay_close_to_f32() {
    for name in ["mini", "small252"] {
        near_f32(name, model(name));
    }
}

#[test]
fn realistic_outliers_are_borne() {
    for name in outlier_models() {
        for times in [50.0, 300.0] {
            near_f32(&format!("{name}, outliers x{times}"), with_outliers(name, times));
        }
    }
}

#[test]
fn bits_do_not_depend_on_batch_threads_or_run() {
    let m = calibrated(model("mini"), &Cpu::new(Some(1)).unwrap());
    let crops = crops(&m, "bits", 4).concat();
    let size = crops.len() / 4;
    for pair in cpus().chunks(2) {
        let run = |cpu: &Cpu, crops: &[u8]| {
            let mut v = vec![Verdict::default(); crops.len() / size];
            scorer(&m, cpu, Precision::Int8).score_crops_into(crops, &mut v).unwrap();
            v
        };
        let (one, two) = (run(&pair[0], &crops), run(&pair[1], &crops));
        assert_eq!(one, two, "1 and 2 threads differ on {}", pair[0].tier().name());
        for i in [0, 3] {
            assert_eq!(run(&pair[1], &crops[i * size..(i + 1) * size])[0], one[i], "position {i}");
        }
    }
}

#[test]
fn a_calibration_is_kept_in_the_file_and_checked() {
    let cpu = Cpu::new(Some(1)).unwrap();
    let m = calibrated(model("tiny"), &cpu);
    let file = m.to_file();
    let again = Model::load(file.clone()).unwrap();
    assert!(again.int8 == m.int8 && again.config.other == m.config.other && again.to_file() == file);
    // A model trained anew must be calibrated anew.
    let trained = m.with_trained(m.config.clone(), m.trained.clone().unwrap());
    assert!(trained.int8.is_empty() && !trained.config.other.contains_key("int8"));
    let mut wrong = file.clone();
    let by = Tensor::new(&[3], vec![1.0, 0.0, 2.0]);
    let raw = inp_former::runtime::weights::RawTensor::from_f32(&by);
    wrong.tensors.insert("int8.decoder.0.q.by".into(), raw.clone());
    wrong.tensors.insert("int8.decoder.99.q.by".into(), raw);
    let said = Model::load(wrong).unwrap_err().to_string();
    assert!(said.contains("int8.decoder.0.q.by: not 64 positive numbers"), "{said}");
    assert!(said.contains("unknown: int8.decoder.99.q.by"), "{said}");
}

#[test]
fn what_is_not_calibrated_or_not_accurate_is_refused() {
    let cpu = Cpu::new(Some(1)).unwrap();
    let open = |m: &Model, allow_inaccurate| {
        let options = Options { precision: Precision::Int8, allow_inaccurate, ..Options::default() };
        Scorer::new(m.clone(), cpu.clone(), &options).map(drop).map_err(|e| e.to_string())
    };
    let mut m = model("tiny");
    assert!(
        open(&m, true)
            .unwrap_err()
            .contains("this model was not calibrated for it; run `inp-former quantise")
    );
    m = calibrated(m, &cpu);
    open(&m, false).unwrap();
    m.config.other["int8"]["accurate"] = false.into();
    assert!(open(&m, false).unwrap_err().contains("strays too far from f32"));
    open(&m, true).unwrap();
    let said = int8::calibrate(&cpu, &m, &[vec![0; 5]], &mut || ()).unwrap_err().to_string();
    assert!(said.contains("crops of 37632 bytes"), "{said}");
}
