//! The plain model against the published code's activations, and its gradients against finite differences.

use std::collections::BTreeMap;

use inp_former::model::params::Trained;
use inp_former::model::{Config, encoder, inp_former as net};
use inp_former::ops::anomaly_map;
use inp_former::runtime::{Cpu, Tensor};
use inp_former::train::step;

use crate::models::{self, model};
use crate::support::{close, cpus, golden, golden_input, golden_or_part, random64, read_f32};

/// Every activation of one forward, by its name in `trace`.
fn activations(name: &str, input: &Tensor) -> BTreeMap<String, Tensor> {
    let (cpu, m) = (Cpu::new(None).unwrap(), model(name));
    let mut got = BTreeMap::new();
    let mut tap = |k: &str, t: &Tensor| {
        got.insert(k.to_string(), t.clone());
    };
    let features = encoder::forward(&cpu, &m.encoder, &m.config, input, &mut tap).unwrap();
    let head = net::forward(&cpu, m.trained().unwrap(), &m.config, &features, false, &mut tap).unwrap();
    let native = net::native_maps(&cpu, &features, &head).unwrap();
    let x = input.shape()[2];
    let (side, b) = (x / 14, input.shape()[0]);
    for (g, t) in features.groups.iter().enumerate() {
        got.insert(format!("en{g}"), channels_first(t));
    }
    for (g, t) in head.de.iter().enumerate() {
        got.insert(format!("de{g}"), channels_first(t));
    }
    for (g, t) in native.iter().enumerate() {
        got.insert(format!("amap_native{g}"), t.clone());
    }
    let post = anomaly_map::post(&cpu, &native, side, x).unwrap();
    let scores = |ratio| {
        let v = (0..b).map(|i| anomaly_map::score(post.gauss.slab(i), ratio).unwrap()).collect();
        Tensor::new(&[b], v)
    };
    got.insert("score_top1pct".into(), scores(0.01));
    got.insert("score_max".into(), scores(0.0));
    got.insert("amap_crop".into(), post.crop);
    got.insert("amap_256".into(), post.m256);
    got.insert("amap_256_gauss".into(), post.gauss);
    got
}

/// (B, N, C) → (B, C, N).
fn channels_first(t: &Tensor) -> Tensor {
    let [b, n, c] = *t.shape() else { panic!() };
    let mut y = Tensor::zeros(&[b, c, n]);
    for i in 0..b * n * c {
        let (bi, ni, ci) = (i / (n * c), i / c % n, i % c);
        y.data[(bi * c + ci) * n + ni] = t.data[i];
    }
    y
}

fn against_golden(name: &str, file: &str, batch: usize, tol: f64, at_least: usize) {
    let Some(path) = golden_or_part(file, &format!("{name}/small_forward.safetensors")) else { return };
    let want = read_f32(&path);
    let x = models::config(name).crop;
    let got = activations(name, &golden_input(name, batch, x, x));
    let mut compared = 0;
    for (key, want) in &want {
        if let Some(got) = got.get(key) {
            close(key, &got.data, &want.data, tol);
            compared += 1;
        }
    }
    assert!(compared >= at_least, "{file}: only {compared} tensors compared");
}

#[test]
fn tiny_equals_the_published_activations() {
    against_golden("tiny", "tiny/forward.safetensors", 2, 5e-5, 20);
}

#[test]
fn tiny518_needs_no_interpolation() {
    against_golden("tiny518", "tiny/forward518.safetensors", 1, 5e-5, 10);
}

#[test]
fn mini_equals_the_published_activations() {
    against_golden("mini", "mini/forward.safetensors", 2, 5e-5, 24);
}

#[test]
fn small252_equals_the_published_outputs() {
    against_golden("small252", "small252/outputs.safetensors", 1, 2e-4, 12);
}

/// Loss, gradients and their norm of one batch.
fn gradients_against_golden(name: &str) {
    let full = format!("{name}/train_step1.safetensors");
    let Some(path) = golden_or_part(&full, &format!("{name}/small_gradients.safetensors")) else { return };
    let want = read_f32(&path);
    let (cpu, m) = (Cpu::new(None).unwrap(), model(name));
    let x = golden_input(name, 2, 112, 112);
    let features = encoder::forward(&cpu, &m.encoder, &m.config, &x, &mut |_, _| {}).unwrap();
    for path in [step::Path::Plain, step::Path::Folds] {
        let g = step::gradients(&cpu, m.trained().unwrap(), &m.config, &features, path).unwrap();
        same_gradients(&cpu, &m.config, g, &want);
    }
}

fn same_gradients(cpu: &Cpu, cfg: &Config, mut g: step::Gradients<f32>, want: &BTreeMap<String, Tensor>) {
    for (key, got) in [("loss", g.loss), ("loss_cos", g.loss_cos), ("g_loss", g.g_loss)] {
        close(key, &[got], &want[key].data, 1e-5);
    }
    let c = cfg.channels;
    for (name, t) in Trained::<f32>::names(cfg).iter().zip(g.grads.tensors()) {
        // The key half of the extractor's kv bias shifts every score alike: its gradient is zero but for rounding.
        let skip = if name == "aggregation.0.attn.kv.bias" { c } else { 0 };
        close(&format!("grad.{name}"), &t.data[skip..], &want[&format!("grad.{name}")].data[skip..], 1e-4);
    }
    let norm = inp_former::ops::optimizer::clip(cpu, &mut g.grads.tensors_mut(), 0.1);
    close("grad_norm", &[norm], &want["grad_norm"].data, 1e-5);
    for (name, t) in Trained::<f32>::names(cfg).iter().zip(g.grads.tensors()) {
        if let Some(want) = want.get(&format!("clipped.{name}")) {
            let skip = if name == "aggregation.0.attn.kv.bias" { c } else { 0 };
            close(&format!("clipped.{name}"), &t.data[skip..], &want.data[skip..], 1e-4);
        }
    }
}

#[test]
fn tiny_gradients_equal_the_published() {
    gradients_against_golden("tiny");
}

#[test]
fn mini_gradients_equal_the_published() {
    gradients_against_golden("mini");
}

/// The whole backward in f64 by finite differences. Soft mining is not a derivative: here the decoder's gradient is
/// that of a plain weighted sum of its outputs and of the prototypes.
#[test]
fn backward_of_the_whole_model_is_the_derivative() {
    let cfg = Config {
        channels: 12,
        heads: 3,
        prototypes: 3,
        decoder_blocks: 2,
        target_layers: vec![0, 1],
        groups: vec![vec![0], vec![1]],
        decoder_groups: vec![vec![0], vec![1]],
        ..models::config("tiny")
    };
    let cpu = Cpu::new(Some(1)).unwrap();
    let mut p = Trained::<f64>::build(&cfg, &mut |n, s| Ok(random64(n, s))).unwrap();
    let features = encoder::Features {
        groups: (0..2).map(|g| random64(&format!("features{g}"), &[2, 5, 12])).collect(),
    };
    let weights: Vec<Tensor<f64>> = (0..2).map(|g| random64(&format!("weight{g}"), &[2, 5, 12])).collect();
    let winp = random64("winp", &[2, 3, 12]);
    let loss = |p: &Trained<f64>| {
        let head = net::forward(&cpu, p, &cfg, &features, false, &mut |_, _| {}).unwrap();
        let dot =
            |a: &Tensor<f64>, b: &Tensor<f64>| a.data.iter().zip(&b.data).map(|(x, y)| x * y).sum::<f64>();
        dot(&head.de[0], &weights[0]) + dot(&head.de[1], &weights[1]) + dot(&head.inp, &winp)
    };
    let head = net::forward(&cpu, &p, &cfg, &features, false, &mut |_, _| {}).unwrap();
    let mut d = Trained::zeros(&cfg);
    net::backward(&cpu, &p, &cfg, head, &weights, winp.clone(), &mut d).unwrap();
    let h = 1e-5;
    for (t, name) in Trained::<f64>::names(&cfg).iter().enumerate() {
        let (mut numeric, mut analytic) = (Vec::new(), Vec::new());
        for i in 0..7 {
            let at = i * 7919 % d.tensors()[t].len();
            let was = p.tensors()[t].data[at];
            p.tensors_mut()[t].data[at] = was + h;
            let up = loss(&p);
            p.tensors_mut()[t].data[at] = was - h;
            let down = loss(&p);
            p.tensors_mut()[t].data[at] = was;
            numeric.push((up - down) / (2.0 * h));
            analytic.push(d.tensors()[t].data[at]);
        }
        let top = numeric.iter().fold(1e-3f64, |m: f64, x: &f64| m.max(x.abs()));
        let worst = numeric.iter().zip(&analytic).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst / top <= 1e-6, "{name}: {numeric:?} against {analytic:?}");
    }
}

#[test]
fn a_picture_has_the_same_bits_alone_in_any_batch_and_on_any_threads() {
    let m = model("tiny");
    let batch = golden_input("batch", 8, 112, 112);
    for pair in cpus().chunks(2) {
        let map = |cpu: &Cpu, x: &Tensor| net::maps(cpu, &m, x, false, &mut |_, _| {}).unwrap().gauss;
        let (one, two) = (map(&pair[0], &batch), map(&pair[1], &batch));
        assert_eq!(one.data, two.data, "1 and 2 threads differ on {}", pair[0].tier().name());
        for i in [0, 3, 7] {
            let alone = map(&pair[1], &Tensor::new(&[1, 3, 112, 112], batch.slab(i).to_vec()));
            assert_eq!(alone.data, one.slab(i), "position {i} on {}", pair[0].tier().name());
        }
    }
}

/// Mean, deviation and largest absolute value of every activation of the real model sizes at 392 px.
fn statistics_equal_the_published(name: &str) {
    let Some(meta) = golden("meta.json") else { return };
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(meta).unwrap()).unwrap();
    let got = activations(name, &golden_input(name, 1, 392, 392));
    let mut compared = 0;
    for (key, want) in meta[format!("{name}_stats")].as_object().unwrap() {
        let Some(t) = got.get(key).filter(|t| t.len() > 1) else { continue };
        let n = t.len() as f64;
        let mean = t.data.iter().map(|x| *x as f64).sum::<f64>() / n;
        let var = t.data.iter().map(|x| (*x as f64 - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let top = t.data.iter().fold(0.0f64, |m, x| m.max((*x as f64).abs()));
        let want: Vec<f64> = want.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        close(&format!("{name} {key}"), &[mean, var.sqrt(), top], &want, 5e-5);
        compared += 1;
    }
    assert!(compared >= 20, "only {compared} of the published statistics compared");
}

#[test]
fn small392_has_the_published_statistics() {
    statistics_equal_the_published("small392");
}

#[test]
fn base392_has_the_published_statistics() {
    statistics_equal_the_published("base392");
}
