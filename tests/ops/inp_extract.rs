//! `inp_extract`: softmax attention of the prototypes against naive f64, finite differences and goldens.

mod cuda;
mod train;

use inp_former::ops::{inp_extract, layernorm, linear};
use inp_former::runtime::Tensor;

use crate::support::{
    check_gradient, close, cpu, cpus, each_tier, golden_weight, image, random, random64, tiny, weighted_sum,
};

/// (B, N, P, H, D): ones, primes, and N above a vector and a task.
const SHAPES: [[usize; 5]; 4] = [[1, 1, 1, 1, 1], [2, 7, 3, 2, 5], [3, 37, 6, 3, 16], [1, 101, 6, 2, 64]];

fn naive(q: &Tensor<f64>, kv: &Tensor<f64>, heads: usize) -> Tensor<f64> {
    let (b, n, p, c) = (kv.shape()[0], kv.shape()[1], q.shape()[0], q.cols());
    let d = c / heads;
    let mut y = Tensor::zeros(&[b, p, c]);
    for (b, p_, h) in (0..b).flat_map(|b| (0..p).flat_map(move |p| (0..heads).map(move |h| (b, p, h)))) {
        let score = |j: usize| -> f64 {
            let k = kv.row(b * n + j);
            (0..d).map(|i| q.row(p_)[h * d + i] * k[h * d + i]).sum::<f64>() / (d as f64).sqrt()
        };
        let e: Vec<f64> = (0..n).map(|j| score(j).exp()).collect();
        let total: f64 = e.iter().sum();
        for i in 0..d {
            y.data[(b * p + p_) * c + h * d + i] =
                (0..n).map(|j| e[j] / total * kv.row(b * n + j)[c + h * d + i]).sum();
        }
    }
    y
}

#[test]
fn forward_and_backward_match_f64() {
    for [b, n, p, heads, d] in SHAPES {
        let c = heads * d;
        let (q, kv) = (random("q", &[p, c]), random("kv", &[b, n, 2 * c]));
        let dout = random("dout", &[b, p, c]);
        let (q64, kv64) = (q.cast::<f64>(), kv.cast::<f64>());
        let want = naive(&q64, &kv64, heads);
        let (y64, probs64) = inp_extract::forward(&cpu(), &q64, &kv64, heads).unwrap();
        close("out in f64", &y64.data, &want.data, 1e-12);
        let (dq64, dkv64) =
            inp_extract::backward(&cpu(), &dout.cast(), &q64, &kv64, &probs64, heads).unwrap();
        let run = |cpu: &_| {
            let (y, probs) = inp_extract::forward(cpu, &q, &kv, heads).unwrap();
            let (dq, dkv) = inp_extract::backward(cpu, &dout, &q, &kv, &probs, heads).unwrap();
            [y.data, dq.data, dkv.data].concat()
        };
        for got in each_tier("inp_extract", run) {
            let (y, g) = got.split_at(y64.len());
            let (dq, dkv) = g.split_at(dq64.len());
            close("out", y, &want.data, 3e-6);
            // With one token the softmax is constant and dq is rounding only: an absolute bound.
            assert!(n > 1 || dq.iter().all(|x| x.abs() <= 1e-6), "dq of one token");
            (n > 1).then(|| close("dq", dq, &dq64.data, 1e-5));
            close("dkv", dkv, &dkv64.data, 1e-5);
        }
        let (y, probs) = inp_extract::forward(&cpu(), &q, &kv, heads).unwrap();
        for i in 0..b {
            let (one, one_probs) = inp_extract::forward(&cpu(), &q, &image(&kv, i), heads).unwrap();
            assert_eq!((one, one_probs), (image(&y, i), image(&probs, i)));
        }
    }
}

#[test]
fn backward_matches_finite_differences() {
    let (heads, q, kv) = (2, random64("q", &[3, 10]), random64("kv", &[2, 7, 20]));
    let dout = random64("dout", &[2, 3, 10]);
    let loss = |q: &_, kv: &_| weighted_sum(&inp_extract::forward(&cpu(), q, kv, heads).unwrap().0, &dout);
    let (_, probs) = inp_extract::forward(&cpu(), &q, &kv, heads).unwrap();
    let (dq, dkv) = inp_extract::backward(&cpu(), &dout, &q, &kv, &probs, heads).unwrap();
    check_gradient("dq", &q, &dq, |q| loss(q, &kv));
    check_gradient("dkv", &kv, &dkv, |kv| loss(&q, kv));
}

#[test]
fn large_scores_do_not_overflow_and_misfits_are_refused() {
    let (q, kv) = (Tensor::new(&[1, 4], vec![200.0f32; 4]), random("kv", &[1, 9, 8]));
    let (y, probs) = inp_extract::forward(&cpu(), &q, &kv, 1).unwrap();
    assert!(y.data.iter().all(|x| x.abs() <= 1.0));
    assert!((probs.data.iter().sum::<f32>() - 1.0).abs() <= 1e-6);
    assert!(inp_extract::forward(&cpu(), &q, &kv, 3).is_err());
    assert!(inp_extract::forward(&cpu(), &Tensor::zeros(&[0, 4]), &kv, 1).is_err());
    assert!(inp_extract::forward(&cpu(), &q, &random("kv", &[1, 9, 7]), 1).is_err());
}

#[test]
fn goldens() {
    let Some(t) = tiny() else { return };
    let w = |name: &str, shape: &[usize]| golden_weight(&format!("aggregation.0.{name}"), shape);
    let (gain, bias) = (w("norm1.weight", &[64]), w("norm1.bias", &[64]));
    for cpu in cpus() {
        let dense = |x: &_, name: &str, n| {
            let (weight, b) = (w(&format!("{name}.weight"), &[n, 64]), w(&format!("{name}.bias"), &[n]));
            linear::forward(&cpu, x, &weight, Some(&b)).unwrap()
        };
        let norm = |x: &_| layernorm::forward(&cpu, x, &gain, &bias, 1e-8).unwrap().0;
        let q = dense(&norm(&golden_weight("prototype_token", &[6, 64])), "attn.q", 64);
        let kv = dense(&norm(&t["fused"]), "attn.kv", 128);
        let y = dense(&inp_extract::forward(&cpu, &q, &kv, 2).unwrap().0, "attn.proj", 64);
        close("agg.attn_out", &y.data, &t["agg.attn_out"].data, 3e-6);
    }
}
