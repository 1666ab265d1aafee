//! The engine in bf16 against the engine in f32.

use inp_former::engine::{Options, Precision, Scorer, Verdict};
use inp_former::model::Model;
use inp_former::runtime::{Cpu, DType, Tensor, Tier};

use super::{outlier_models, with_outliers};
use crate::models::model;
use crate::support::{correlation, cpus, golden_input, rel_err};

/// This chip's instructions for bf16, or where there are none the scalar tier, which emulates them.
fn cpu(threads: usize) -> Cpu {
    let best = Cpu::new(Some(threads)).unwrap();
    if best.has_bf16() {
        return best;
    }
    println!("SKIPPED: this processor has no instructions for bf16; they are emulated");
    Cpu::with_tier(Some(threads), Tier::Scalar).unwrap()
}

fn scorer(m: &Model, cpu: &Cpu, precision: Precision, zero_shot: bool) -> Scorer {
    Scorer::new(m.clone(), cpu.clone(), &Options { precision, zero_shot, ..Options::default() }).unwrap()
}

const BF16: Precision = Precision::Of(DType::Bf16);

/// Score and native maps, one after the other.
fn scored(m: &Model, input: &Tensor, precision: Precision, zero_shot: bool) -> (f32, Vec<f32>) {
    let (mut scorer, mut v) = (scorer(m, &cpu(2), precision, zero_shot), Verdict::default());
    scorer.score_tensor_into(&input.data, &mut v).unwrap();
    (v.score, scorer.native_maps().unwrap().concat())
}

#[track_caller]
fn near_f32(what: &str, m: &Model, input: &Tensor) {
    for zero_shot in [false, true] {
        let (score, map) = scored(m, input, BF16, zero_shot);
        let (want, exact) = scored(m, input, Precision::F32, zero_shot);
        let (e, r, d) = (rel_err(&map, &exact), correlation(&map, &exact), (score - want).abs());
        println!(
            "{what}, zero-shot {zero_shot}: maps within {e:.1e}, correlation {r:.6}, score within {d:.1e}"
        );
        assert!(e <= 8e-3 && e > 1e-7, "{what}, zero-shot {zero_shot}: maps differ by {e:.1e}");
        assert!(r >= 0.99, "{what}, zero-shot {zero_shot}: maps correlate by {r:.4}");
        assert!(d <= 1e-3, "{what}, zero-shot {zero_shot}: scores {score} and {want}");
    }
}

#[test]
fn maps_and_scores_are_near_those_of_f32() {
    for name in ["tiny", "mini", "small252"] {
        let m = model(name);
        near_f32(name, &m, &golden_input(name, 1, m.config.crop, m.config.crop));
    }
}

#[test]
fn realistic_outliers_are_borne() {
    for name in outlier_models() {
        for times in [50.0, 300.0] {
            let m = with_outliers(name, times);
            let input = golden_input(name, 1, m.config.crop, m.config.crop);
            near_f32(&format!("{name}, outliers x{times}"), &m, &input);
        }
    }
}

#[test]
fn bits_do_not_depend_on_batch_threads_or_run() {
    let m = model("tiny");
    let x = m.config.crop;
    let crops: Vec<u8> = (0..8 * x * x * 3).map(|i| (i * 7919 % 251) as u8).collect();
    let run = |cpu: &Cpu, crops: &[u8]| {
        let mut v = vec![Verdict::default(); crops.len() / (x * x * 3)];
        scorer(&m, cpu, BF16, false).score_crops_into(crops, &mut v).unwrap();
        v
    };
    let (one, two) = (run(&cpu(1), &crops), run(&cpu(2), &crops));
    assert!(one == two, "1 and 2 threads differ");
    for i in [0, 3, 7] {
        assert!(run(&cpu(2), &crops[i * x * x * 3..][..x * x * 3])[0] == one[i], "position {i}");
    }
}

#[test]
fn a_tier_without_instructions_says_so() {
    for cpu in cpus() {
        let made =
            Scorer::new(model("tiny"), cpu.clone(), &Options { precision: BF16, ..Options::default() });
        if cpu.has_bf16() || cpu.tier() == Tier::Scalar {
            assert_eq!(made.unwrap().precision(), "bf16");
        } else {
            let e = made.err().unwrap().to_string();
            assert!(e.contains("avx512_bf16") && e.contains("--precision f32"), "{e}");
        }
    }
}
