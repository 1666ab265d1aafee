//! `cosine_loss`: distances, loss and the soft-mined gradient against naive f64, finite differences and goldens.

use inp_former::ops::cosine_loss;
use inp_former::runtime::Tensor;

use crate::support::{check_gradient, close, cpu, cpus, each_tier, image, random, random64, tiny, tokens_of};

fn naive_distance(a: &[f32], d: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| x as f64 * y as f64).sum::<f64>();
    1.0 - dot(a, d) / (dot(a, a).sqrt().max(1e-8) * dot(d, d).sqrt().max(1e-8))
}

#[test]
fn forward_and_backward_match_f64() {
    for shape in [[1, 1, 2], [2, 7, 5], [3, 37, 101], [2, 101, 64]] {
        let (a, d) = (random("a", &shape), random("d", &shape));
        let dist: Vec<f64> = (0..a.rows()).map(|i| naive_distance(a.row(i), d.row(i))).collect();
        let loss = (0..shape[0]).map(|b| naive_distance(a.slab(b), d.slab(b))).sum::<f64>() / shape[0] as f64;
        let (a64, d64) = (a.cast::<f64>(), d.cast::<f64>());
        let saved64 = cosine_loss::forward(&cpu(), &a64, &d64).unwrap();
        close("loss in f64", &[saved64.loss], &[loss], 1e-12);
        let dd64 = cosine_loss::backward(&cpu(), &a64, &d64, &saved64, 0.5).unwrap();
        let run = |cpu: &_| {
            let saved = cosine_loss::forward(cpu, &a, &d).unwrap();
            assert_eq!(cosine_loss::distance(cpu, &a, &d).unwrap(), saved.dist);
            let dd = cosine_loss::backward(cpu, &a, &d, &saved, 0.5).unwrap();
            [vec![saved.loss], saved.dist.data, dd.data].concat()
        };
        for got in each_tier("cosine_loss", run) {
            close("loss", &got[..1], &[loss], 2e-6);
            close("dist", &got[1..=dist.len()], &dist, 2e-6);
            close("dd", &got[1 + dist.len()..], &dd64.data, 2e-5);
        }
        let all = cosine_loss::distance(&cpu(), &a, &d).unwrap();
        for i in 0..shape[0] {
            assert_eq!(cosine_loss::distance(&cpu(), &image(&a, i), &image(&d, i)).unwrap(), image(&all, i));
        }
    }
}

/// Without the mining factor the gradient is the loss's derivative.
#[test]
fn backward_without_mining_matches_finite_differences() {
    let (a, d) = (random64("a", &[2, 7, 5]), random64("d", &[2, 7, 5]));
    let saved = cosine_loss::forward(&cpu(), &a, &d).unwrap();
    let mut dd = cosine_loss::backward(&cpu(), &a, &d, &saved, 0.7).unwrap();
    let factor = cosine_loss::factor(&saved);
    let mean = saved.dist.data.iter().sum::<f64>() / 14.0;
    let cubes: Vec<f64> = saved.dist.data.iter().map(|x| (x / mean).powi(3)).collect();
    close("factor", &factor.data, &cubes, 1e-12);
    dd.data.iter_mut().enumerate().for_each(|(i, x)| *x /= factor.data[i / 5]);
    check_gradient("dd", &d, &dd, |d| 0.7 * cosine_loss::forward(&cpu(), &a, d).unwrap().loss);
}

#[test]
fn zero_and_equal_features() {
    let (zero, x) = (Tensor::<f32>::zeros(&[1, 2, 4]), random("x", &[1, 2, 4]));
    for cpu in cpus() {
        let saved = cosine_loss::forward(&cpu, &x, &zero).unwrap();
        assert_eq!((saved.loss, &saved.dist.data[..]), (1.0, &[1.0, 1.0][..]));
        for d in [&zero, &x] {
            let saved = cosine_loss::forward(&cpu, &x, d).unwrap();
            let dd = cosine_loss::backward(&cpu, &x, d, &saved, 1.0).unwrap();
            assert!(dd.data.iter().all(|x| x.is_finite()));
        }
    }
    assert!(cosine_loss::forward(&cpu(), &x, &Tensor::zeros(&[1, 2, 3])).is_err());
}

#[test]
fn goldens() {
    let Some(t) = tiny() else { return };
    for cpu in cpus() {
        let mut loss = 0.0;
        for g in 0..2 {
            let (a, d) = (tokens_of(&t[&format!("en{g}")]), tokens_of(&t[&format!("de{g}")]));
            let saved = cosine_loss::forward(&cpu, &a, &d).unwrap();
            close("amap_native", &saved.dist.data, &t[&format!("amap_native{g}")].data, 1e-6);
            close("factor", &cosine_loss::factor(&saved).data, &t[&format!("factor{g}")].data, 3e-6);
            let dd = cosine_loss::backward(&cpu, &a, &d, &saved, 0.5).unwrap();
            let want = tokens_of(&t[&format!("grad_de{g}_after_hook")]);
            close("grad_de_after_hook", &dd.data, &want.data, 5e-6);
            loss += saved.loss / 2.0;
        }
        close("loss_cos", &[loss], &t["loss_cos"].data, 1e-6);
    }
}
