//! `gather_loss`: nearest prototypes against naive f64, finite differences and goldens.

use inp_former::ops::gather_loss;
use inp_former::runtime::Tensor;

use crate::support::{check_gradient, close, cpu, cpus, each_tier, image, random, random64, tiny};

fn naive(f: &Tensor, inp: &Tensor) -> Vec<f64> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| x as f64 * y as f64).sum::<f64>();
    let (n, p) = (f.shape()[1], inp.shape()[1]);
    let norm = |x: &[f32]| dot(x, x).sqrt().max(1e-8);
    (0..f.rows())
        .map(|i| {
            let f = f.row(i);
            let to = |j| 1.0 - dot(f, inp.row(j)) / (norm(f) * norm(inp.row(j)));
            (i / n * p..(i / n + 1) * p).map(to).fold(f64::INFINITY, f64::min)
        })
        .collect()
}

#[test]
fn forward_and_backward_match_f64() {
    for [b, n, p, c] in [[1, 1, 1, 2], [2, 7, 3, 5], [3, 37, 6, 101], [2, 101, 6, 64]] {
        let (f, inp) = (random("f", &[b, n, c]), random("inp", &[b, p, c]));
        let want = naive(&f, &inp);
        let mean = want.iter().sum::<f64>() / want.len() as f64;
        let (f64_, inp64) = (f.cast::<f64>(), inp.cast::<f64>());
        let saved64 = gather_loss::forward(&cpu(), &f64_, &inp64).unwrap();
        close("dist in f64", &saved64.dist.data, &want, 1e-12);
        let d64 = gather_loss::backward(&cpu(), &f64_, &inp64, &saved64, 0.2).unwrap();
        let run = |cpu: &_| {
            let saved = gather_loss::forward(cpu, &f, &inp).unwrap();
            assert_eq!(saved.index, saved64.index);
            let dinp = gather_loss::backward(cpu, &f, &inp, &saved, 0.2).unwrap();
            [vec![saved.loss], saved.dist.data, dinp.data].concat()
        };
        for got in each_tier("gather_loss", run) {
            close("loss", &got[..1], &[mean], 2e-6);
            close("dist", &got[1..=b * n], &want, 2e-6);
            close("dinp", &got[1 + b * n..], &d64.data, 1e-5);
        }
        let all = gather_loss::forward(&cpu(), &f, &inp).unwrap();
        for i in 0..b {
            let one = gather_loss::forward(&cpu(), &image(&f, i), &image(&inp, i)).unwrap();
            assert_eq!(one.dist, image(&all.dist, i));
            assert_eq!(one.index, all.index[i * n..(i + 1) * n]);
        }
    }
}

#[test]
fn backward_matches_finite_differences() {
    let (f, inp) = (random64("f", &[2, 7, 5]), random64("inp", &[2, 3, 5]));
    let saved = gather_loss::forward(&cpu(), &f, &inp).unwrap();
    let dinp = gather_loss::backward(&cpu(), &f, &inp, &saved, 0.2).unwrap();
    check_gradient("dinp", &inp, &dinp, |inp| 0.2 * gather_loss::forward(&cpu(), &f, inp).unwrap().loss);
}

#[test]
fn the_first_of_equals_and_zero_tokens() {
    let (f, one) = (random("f", &[1, 5, 4]), random("one", &[1, 1, 4]));
    let inp = Tensor::new(&[1, 3, 4], one.data.repeat(3));
    for cpu in cpus() {
        assert_eq!(gather_loss::forward(&cpu, &f, &inp).unwrap().index, [0; 5]);
        let zero = gather_loss::forward(&cpu, &f.zeros_like(), &inp).unwrap();
        assert_eq!((zero.loss, zero.dist.data), (1.0, vec![1.0; 5]));
    }
    assert!(gather_loss::forward(&cpu(), &f, &Tensor::zeros(&[2, 3, 4])).is_err());
    assert!(gather_loss::forward(&cpu(), &f, &Tensor::zeros(&[1, 0, 4])).is_err());
}

#[test]
fn goldens() {
    let Some(t) = tiny() else { return };
    for cpu in cpus() {
        let saved = gather_loss::forward(&cpu, &t["fused"], &t["inp"]).unwrap();
        close("inp_distance", &saved.dist.data, &t["inp_distance"].data, 1e-6);
        close("g_loss", &[saved.loss], &t["g_loss"].data, 1e-6);
        let index: Vec<f32> = saved.index.iter().map(|&i| i as f32).collect();
        assert_eq!(index, t["inp_cluster_index"].data);
    }
}
