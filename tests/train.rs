//! Optimiser steps against the published runs, schedules, and the training loop.

use std::path::Path;

use inp_former::model::encoder::Features;
use inp_former::model::params::Trained;
use inp_former::model::{Config, Model};
use inp_former::runtime::{Cpu, Tensor};
use inp_former::train::Backbone;
use inp_former::train::schedule::Schedule;
use inp_former::train::step::{self, Optimizer};

use crate::models::model;
use crate::support::{close, golden_input, golden_or_part, read_f32};

/// As a training has them: from the engine.
fn features(cpu: &Cpu, m: &Model, tag: &str) -> Features {
    let mut encoder = Backbone::new(cpu, m.clone()).unwrap().encoder();
    let input = golden_input(tag, 2, 112, 112);
    let (c, n) = (m.config.channels, m.config.side().pow(2));
    let each = [0, 1].map(|i| encoder.features(input.slab(i)).unwrap());
    let group = |g| each.iter().flat_map(|f: &Vec<f32>| &f[g * n * c..(g + 1) * n * c]).copied().collect();
    Features { groups: (0..2).map(|g| Tensor::new(&[2, n, c], group(g))).collect() }
}

/// ‖ours − golden‖₂ / ‖golden − initial‖₂ of every parameter that the golden stores for step `k`.
fn drift(cfg: &Config, k: u64, ours: &Trained, start: &Trained, golden: &Path) -> Vec<(String, f64)> {
    let want = read_f32(golden);
    let names = Trained::<f32>::names(cfg);
    let mut all = Vec::new();
    for ((name, p), p0) in names.iter().zip(ours.tensors()).zip(start.tensors()) {
        let Some(want) = want.get(&format!("step{k}.{name}")) else { continue };
        // The first C entries have a zero gradient in exact arithmetic; Adam turns the rounding noise into steps.
        let skip = if name == "aggregation.0.attn.kv.bias" { cfg.channels } else { 0 };
        let norm = |a: &[f32], b: &[f32]| {
            let sq = a.iter().zip(b).skip(skip).map(|(a, b)| (*a as f64 - *b as f64).powi(2));
            sq.sum::<f64>().sqrt()
        };
        all.push((name.clone(), norm(&p.data, &want.data) / norm(&want.data, &p0.data)));
    }
    all
}

/// Ten steps on one batch along the published schedule.
fn follows(name: &str, file: &str, meta: &str, log: &str, schedule: Schedule) {
    let part = |what: &str| format!("{name}/small_{what}");
    let steps = golden_or_part(&format!("{name}/{file}.safetensors"), &part(&format!("{log}.safetensors")));
    let (Some(path), Some(meta)) = (steps, golden_or_part(meta, &part("meta.json"))) else { return };
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(meta).unwrap()).unwrap();
    let (cpu, m) = (Cpu::new(None).unwrap(), model(name));
    let features = features(&cpu, &m, name);
    let start = m.trained().unwrap();
    let (mut p, mut opt) = (start.clone(), Optimizer::new(&m.config));
    for k in 1..=10u64 {
        let entry = &meta[log]["log"][k as usize - 1];
        let lr = schedule.lr(k - 1);
        close(&format!("lr of step {k}"), &[lr], &[entry["lr"].as_f64().unwrap()], 1e-12);
        let mut g = step::gradients(&cpu, &p, &m.config, &features).unwrap();
        close(&format!("{log}: loss at step {k}"), &[g.loss], &[entry["loss"].as_f64().unwrap()], 1e-5);
        opt.step(&cpu, &mut p, &mut g.grads, lr).unwrap();
        let tol = match k {
            2 => 1e-2,
            10 => 3e-3,
            _ => continue,
        };
        let all = drift(&m.config, k, &p, start, &path);
        assert!(k == 2 || !all.is_empty(), "the golden holds no parameters of step {k}");
        for (name, e) in all {
            assert!(e <= tol, "{log}: {name} after step {k} is {e:.2e} of its way from the golden");
        }
    }
}

#[test]
fn tiny_follows_the_published_short_schedule() {
    let s = Schedule { base: 1e-3, total: 8, warmup: 3 };
    follows("tiny", "train_short_total8_warm3", "meta.json", "train_short", s);
}

#[test]
fn tiny_follows_the_published_schedule() {
    let s = Schedule { base: 1e-3, total: 1000, warmup: 100 };
    follows("tiny", "train_official_total1000_warm100", "meta.json", "train_official", s);
}

#[test]
fn mini_follows_the_published_short_schedule() {
    let s = Schedule { base: 1e-3, total: 8, warmup: 3 };
    follows("mini", "train_short_total8_warm3", "meta_mini.json", "train_short", s);
}

#[test]
fn schedule_starts_at_zero_and_ends_at_a_tenth() {
    let s = Schedule { base: 1e-3, total: 200, warmup: 100 };
    close("warm-up end", &[s.lr(99), s.lr(100)], &[1e-3, 1e-3], 1e-12);
    assert_eq!(s.lr(0), 0.0);
    close("after the end", &[s.lr(200), s.lr(5000)], &[1e-4, 1e-4], 1e-12);
    // A run within its warm-up never peaks, as the published one.
    assert!(Schedule { base: 1e-3, total: 50, warmup: 100 }.lr(49) < 5e-4);
}
