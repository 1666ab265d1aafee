//! One training step on kept features: the embedded backbone's width, and with `INP_BENCH=full` the base model's.

use inp_former::model::encoder::Features;
use inp_former::model::params::Trained;
use inp_former::model::{Config, Model, embedded};
use inp_former::runtime::{Cpu, Elem, Tensor};
use inp_former::train::init;
use inp_former::train::step::{self, Optimizer};

use crate::peak::{Work, cpus, time};
use crate::support::{close, random};

pub fn all(c: &mut criterion::Criterion) {
    let small = init::plan(&Model::load(embedded().unwrap()).unwrap().config, 6);
    let base = Config { channels: 768, heads: 12, hidden: 3072, ..small.clone() };
    case(c, &small, 16, 256);
    if std::env::var("INP_BENCH").is_ok_and(|v| v == "full") {
        case(c, &base, 2, 784);
    }
}

/// `b` pictures of `n` patches a step.
fn case(c: &mut criterion::Criterion, cfg: &Config, b: usize, n: usize) {
    let mut p = init::init(cfg, 1).unwrap();
    check(cfg, &p);
    let mut opt = Optimizer::new(cfg);
    let features = features::<f32>(cfg, b, n);
    // The matrix products over the patches: forward, and twice that backward without the bottleneck's input gradient.
    let products = 3 * (10 * cfg.decoder_blocks + 10) - 4;
    let flop = 2.0 * (b * n * cfg.channels.pow(2) * products) as f64;
    let case = format!("{b}x{n}x{}", cfg.channels);
    for cpu in cpus() {
        // The rate of the folds counts the plain form's operations, so that the two compare.
        for path in [step::Path::Plain, step::Path::Folds] {
            time(c, "train", &format!("{case} {}", path.name()), &cpu, Work::Flop(flop), || {
                let g = step::gradients(&cpu, &p, cfg, &features, path).unwrap();
                opt.step(&cpu, &mut p, &g.grads, 1e-4).unwrap()
            });
        }
    }
}

fn features<E: Elem>(cfg: &Config, b: usize, n: usize) -> Features<E> {
    let group = |g| random(&format!("features{g}"), &[b, n, cfg.channels]).cast();
    Features { groups: (0..cfg.groups.len()).map(group).collect() }
}

/// The gradients of a few patches against f64.
fn check(cfg: &Config, p: &Trained) {
    let mut tensors = p.tensors().into_iter().map(Tensor::cast);
    let p64 = Trained::<f64>::build(cfg, &mut |_, _| Ok(tensors.next().unwrap())).unwrap();
    let cpu = Cpu::new(None).unwrap();
    let want = step::gradients(&cpu, &p64, cfg, &features(cfg, 2, 9), step::Path::Plain).unwrap();
    for path in [step::Path::Plain, step::Path::Folds] {
        let got = step::gradients(&cpu, p, cfg, &features(cfg, 2, 9), path).unwrap();
        close("loss", &[got.loss], &[want.loss], 1e-5);
        close("gradient", &got.grads.bottleneck.fc1.w.data, &want.grads.bottleneck.fc1.w.data, 1e-3);
    }
}
