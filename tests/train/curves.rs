//! Losses of 200 steps by the folds, by the plain form, and in bf16.
//!
//! Training is chaotic at the published rate: what rounding alone changes grows until single losses part by many per cent.
//! So the folds are shown to be exact in f64, where that takes longer; and what users run is compared by means over windows
//! and seeds.

use inp_former::model::Config;
use inp_former::model::encoder::Features;
use inp_former::model::params::Trained;
use inp_former::ops::optimizer::{self, Hyper, State};
use inp_former::runtime::{Cpu, Elem, Tensor, Tier};
use inp_former::train::init;
use inp_former::train::schedule::Schedule;
use inp_former::train::step::{MAX_NORM, Path, gradients};

use super::shape;
use crate::support::cpu;

const STEPS: usize = 200;
/// Steps of a window.
const WINDOW: usize = 50;
/// Curves that a mean is of: of 16, rounding alone can part it by a hundredth.
const SEEDS: u64 = 48;

/// Uniform on (-1, 1); the name is the seed.
fn random(name: &str, shape: &[usize]) -> Tensor<f32> {
    let fnv = |key: u64, b: u8| (key ^ u64::from(b)).wrapping_mul(0x100_0000_01B3);
    let mut rng = init::Rng(name.bytes().fold(0xCBF2_9CE4_8422_2325, fnv));
    Tensor::new(shape, (0..shape.iter().product()).map(|_| (2.0 * rng.uniform() - 1.0) as f32).collect())
}

/// Four batches that take turns: tokens that have something in common, by position and by picture, and noise.
fn batches<E: Elem>(cfg: &Config, seed: u64) -> Vec<Features<E>> {
    let (b, n, c) = (4, 16, cfg.channels);
    let group = |i: usize, g: usize| {
        let noise = random(&format!("noise{seed}.{i}.{g}"), &[b * n, c]);
        let (place, picture) =
            (random(&format!("place{g}"), &[n, c]), random(&format!("picture{i}.{g}"), &[b, c]));
        let at =
            |j: usize| place.data[j % (n * c)] + picture.data[j / (n * c) * c + j % c] + 0.3 * noise.data[j];
        Tensor::new(&[b, n, c], (0..b * n * c).map(|j| E::from_f64(at(j).into())).collect())
    };
    (0..4).map(|i| Features { groups: (0..2).map(|g| group(i, g)).collect() }).collect()
}

/// The loss of every step.
fn curve<E: Elem>(cpu: &Cpu, path: Path, seed: u64) -> Vec<f64> {
    let cfg = shape(32, 2, 4, 4);
    let first = init::init(&cfg, seed).unwrap();
    let mut tensors = first.tensors().into_iter().map(Tensor::cast);
    let mut p = Trained::<E>::build(&cfg, &mut |_, _| Ok(tensors.next().unwrap())).unwrap();
    let mut states: Vec<State<E>> = p.tensors().into_iter().map(State::new).collect();
    let schedule = Schedule { base: 1e-3, total: STEPS as u64, warmup: 100 };
    let batches = batches::<E>(&cfg, seed);
    let mut step = |i: usize| {
        let g = gradients(cpu, &p, &cfg, &batches[i % batches.len()], path).unwrap();
        let scale = optimizer::clip_scale(optimizer::global_norm(cpu, &g.grads.tensors()), MAX_NORM);
        let (lr, hyper) = (schedule.lr(i as u64), Hyper { scale, ..Hyper::default() });
        for ((p, g), s) in p.tensors_mut().into_iter().zip(g.grads.tensors()).zip(&mut states) {
            optimizer::step(cpu, p, g, s, lr, i as u64 + 1, &hyper).unwrap();
        }
        g.loss
    };
    let losses: Vec<f64> = (0..STEPS).map(&mut step).collect();
    let (head, tail) = (losses[0], losses[STEPS - 1]);
    assert!(tail <= 0.8 * head, "nothing was learned: {head} at first, {tail} at last");
    losses
}

/// Largest relative difference.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    let far = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs();
    a.iter().zip(b).map(far).fold(0.0, |top, x| if x <= top { top } else { x })
}

/// Means over windows of steps and over curves.
fn windows(curves: &[Vec<f64>]) -> Vec<f64> {
    let sum = |i: usize| curves.iter().flat_map(|c| &c[i..i + WINDOW]).sum::<f64>();
    (0..STEPS).step_by(WINDOW).map(|i| sum(i) / (curves.len() * WINDOW) as f64).collect()
}

#[test]
fn folds_follow_the_plain_form_in_f64() {
    let cpu = Cpu::new(Some(2)).unwrap();
    let [folds, plain] = [Path::Folds, Path::Plain].map(|path| curve::<f64>(&cpu, path, 1));
    let (early, all) = (apart(&folds[..120], &plain[..120]), apart(&folds, &plain));
    println!("f64, folds and plain: single losses of 120 steps {early:.1e} apart, of {STEPS} {all:.1e}");
    assert!(early <= 1e-4, "the first losses are {early} apart");
    let apart = apart(&windows(&[folds]), &windows(&[plain]));
    assert!(apart <= 0.01, "windows are {apart} apart");
}

#[test]
fn folds_and_bf16_follow_f32_on_average() {
    let all = |cpu: &Cpu, path| (1..=SEEDS).map(|seed| curve::<f32>(cpu, path, seed)).collect::<Vec<_>>();
    let (wide, plain) = (cpu(), all(&cpu(), Path::Plain));
    let mut rows = vec![
        ("folds in f32", all(&wide, Path::Folds), 0.01),
        ("folds in bf16", all(&wide.narrowed(), Path::Folds), 0.03),
    ];
    // What rounding alone does.
    if wide.tier() >= Tier::Avx512 {
        rows.push(("plain on AVX2", all(&Cpu::with_tier(Some(1), Tier::Avx2).unwrap(), Path::Plain), 0.01));
    }
    for (what, curves, bar) in rows {
        let single = curves.iter().zip(&plain).map(|(a, b)| apart(a, b)).fold(0.0, f64::max);
        let apart = apart(&windows(&curves), &windows(&plain));
        println!(
            "{what} and plain in f32: single losses {single:.1e} apart, means over {WINDOW} steps {apart:.1e}"
        );
        assert!(apart <= bar, "{what}: {apart}");
    }
}
