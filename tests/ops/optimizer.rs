//! `optimizer`: StableAdamW and the norm clip against naive f64 and goldens.

use std::collections::BTreeMap;

use inp_former::ops::optimizer::{self, Hyper, State};
use inp_former::runtime::Tensor;

use crate::support::{close, cpu, cpus, each_tier, golden, golden_weight, random, read_f32, tiny};

const HYPER: Hyper = Hyper { beta1: 0.8, beta2: 0.95, eps: 1e-6, weight_decay: 0.1, scale: 1.0 };

/// The update as the paper of the optimiser writes it, element by element.
fn naive(p: &mut [f64], g: &[f32], state: &mut [[f64; 3]], lr: f64, t: i32, h: &Hyper) {
    let den = |s: &[f64; 3]| s[2].sqrt() / (1.0 - h.beta2.powi(t)).sqrt() + h.eps;
    let mut sum = 0.0;
    for (s, &g) in state.iter_mut().zip(g) {
        let g = g as f64;
        s[0] = h.beta1 * s[0] + (1.0 - h.beta1) * g;
        s[1] = h.beta2 * s[1] + (1.0 - h.beta2) * g * g;
        s[2] = s[2].max(s[1]);
        sum += (g / den(s)).powi(2);
    }
    let r = (sum / g.len() as f64).sqrt().max(1.0);
    for (p, s) in p.iter_mut().zip(state) {
        *p = *p * (1.0 - lr * h.weight_decay) - lr / (1.0 - h.beta1.powi(t)) / r * s[0] / den(s);
    }
}

#[test]
fn steps_match_f64() {
    for len in [1, 7, 1009, 40_000] {
        let start = random("p", &[len]);
        let grad = |t: u64| {
            let mut g = random(&format!("g{t}"), &[len]);
            // A loud first step, quiet ones, then a sudden one: `vmax` holds, then the update is clipped.
            g.data.iter_mut().for_each(|x| *x *= [1.0, 0.1, 0.1, 5.0][t as usize - 1]);
            g
        };
        let mut want: Vec<f64> = start.data.iter().map(|&x| x as f64).collect();
        let mut state = vec![[0.0; 3]; len];
        (1..=4).for_each(|t| naive(&mut want, &grad(t).data, &mut state, 0.01, t as i32, &HYPER));
        let run = |cpu: &_| {
            let (mut p, mut state) = (start.clone(), State::new(&start));
            for t in 1..=4 {
                optimizer::step(cpu, &mut p, &grad(t), &mut state, 0.01, t, &HYPER).unwrap();
            }
            p.data
        };
        each_tier("step", run).iter().for_each(|got| close("step", got, &want, 1e-6));
    }
}

#[test]
fn norm_and_clip_match_f64() {
    let shapes: [&[usize]; 4] = [&[1], &[7, 5], &[101, 331], &[3, 1, 1]];
    let grads: Vec<_> = shapes.iter().enumerate().map(|(i, s)| random(&format!("g{i}"), s)).collect();
    let norm = grads.iter().flat_map(|g| &g.data).map(|&x| (x as f64).powi(2)).sum::<f64>().sqrt();
    for max_norm in [0.1, 1e6] {
        let coef = (max_norm / (norm + 1e-6)).min(1.0);
        let want: Vec<f64> = grads.iter().flat_map(|g| &g.data).map(|&x| x as f64 * coef).collect();
        let run = |cpu: &_| {
            let mut g = grads.clone();
            let got = optimizer::clip(cpu, &mut g.iter_mut().collect::<Vec<_>>(), max_norm);
            close("norm", &[got], &[norm], 1e-6);
            g.into_iter().flat_map(|g| g.data).collect()
        };
        each_tier("clip", run).iter().for_each(|got| close("clip", got, &want, 1e-6));
    }
    let mut bad = Tensor::new(&[2], vec![f32::NAN, 1.0]);
    assert!(optimizer::clip(&cpu(), &mut [&mut bad], 0.1).is_nan());
    assert_eq!(bad.data[1], 1.0);
    assert_eq!(optimizer::global_norm::<f32>(&cpu(), &[]), 0.0);
}

#[test]
fn misfits_are_refused() {
    let (mut p, g) = (random("p", &[3]), random("g", &[3]));
    let h = Hyper::default();
    let mut state = State::new(&p);
    assert!(optimizer::step(&cpu(), &mut p, &random("g", &[4]), &mut state, 1e-3, 1, &h).is_err());
    assert!(optimizer::step(&cpu(), &mut p, &g, &mut state, 1e-3, 0, &h).is_err());
    let mut other = State::new(&random("p", &[2]));
    assert!(optimizer::step(&cpu(), &mut p, &g, &mut other, 1e-3, 1, &h).is_err());
}

/// The goldens' second step has the first one's gradient, because the first runs with lr 0 and changes nothing.
fn two_steps(clipped: &BTreeMap<String, Tensor>, after: &BTreeMap<String, Tensor>) -> usize {
    let grads = clipped.iter().filter_map(|(k, g)| Some((k.strip_prefix("clipped.")?, g)));
    let mut count = 0;
    for (name, g) in grads {
        for cpu in cpus() {
            let mut p = golden_weight(name, g.shape());
            let mut state = State::new(&p);
            for (t, lr) in [(1, 0.0), (2, 5e-4)] {
                optimizer::step(&cpu, &mut p, g, &mut state, lr, t, &Hyper::default()).unwrap();
            }
            close(name, &p.data, &after[&format!("step2.{name}")].data, 1e-6);
        }
        count += 1;
    }
    count
}

#[test]
fn goldens() {
    if let Some(t) = tiny() {
        assert_eq!(two_steps(&t, &t), 5);
    }
    let full = ["train_step1", "train_short_total8_warm3"].map(|f| golden(&format!("tiny/{f}.safetensors")));
    let [Some(first), Some(short)] = full.map(|p| p.map(|p| read_f32(&p))) else { return };
    assert!(two_steps(&first, &short) > 60);
    for cpu in cpus() {
        let (names, mut grads): (Vec<_>, Vec<_>) =
            first.iter().filter_map(|(k, g)| Some((k.strip_prefix("grad.")?, g.clone()))).unzip();
        let norm = optimizer::clip(&cpu, &mut grads.iter_mut().collect::<Vec<_>>(), 0.1);
        close("grad_norm", &[norm], &first["grad_norm"].data, 1e-6);
        for (name, g) in names.iter().zip(&grads) {
            close(name, &g.data, &first[&format!("clipped.{name}")].data, 1e-6);
        }
    }
}
