//! `inp_attention`: ReLU-cosine attention of the decoder against naive f64, finite differences and goldens.

use inp_former::ops::{inp_attention, layernorm, linear};
use inp_former::runtime::Tensor;

use crate::support::{
    check_gradient, close, cpu, cpus, each_tier, golden_weight, image, random, random64, tiny, weighted_sum,
};

/// (B, N, P, H, D): ones, primes, and N above a vector and a task.
const SHAPES: [[usize; 5]; 4] = [[1, 1, 1, 1, 1], [2, 7, 3, 2, 5], [3, 37, 6, 3, 16], [1, 101, 6, 2, 64]];

fn naive(q: &Tensor<f64>, kv: &Tensor<f64>, scale: &[f64]) -> Tensor<f64> {
    let (n, p, c) = (q.shape()[1], kv.shape()[1], q.cols());
    let d = c / scale.len();
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    let mut y = q.zeros_like();
    for (i, h) in (0..q.rows()).flat_map(|i| (0..scale.len()).map(move |h| (i, h))) {
        let q = &q.row(i)[h * d..][..d];
        for j in 0..p {
            let kv = kv.row(i / n * p + j);
            let (k, v) = (&kv[h * d..][..d], &kv[c + h * d..][..d]);
            let cos = q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() / norm(q) / norm(k);
            let a = (scale[h] * cos).max(0.0);
            (0..d).for_each(|x| y.data[i * c + h * d + x] += a * v[x]);
        }
    }
    y
}

/// Positive and negative, as training may make them.
fn scales(heads: usize) -> Tensor {
    Tensor::new(&[heads, 1, 1], (0..heads).map(|h| [1.25, -0.75, 0.5][h % 3]).collect())
}

#[test]
fn forward_and_backward_match_f64() {
    for [b, n, p, heads, d] in SHAPES {
        let c = heads * d;
        let (q, kv, scale) = (random("q", &[b, n, c]), random("kv.a", &[b, p, 2 * c]), scales(heads));
        let dout = random("dout", &[b, n, c]);
        let (q64, kv64, scale64) = (q.cast::<f64>(), kv.cast::<f64>(), scale.cast::<f64>());
        let want = naive(&q64, &kv64, &scale64.data);
        let (y64, saved64) = inp_attention::forward(&cpu(), &q64, &kv64, &scale64, heads).unwrap();
        close("out in f64", &y64.data, &want.data, 1e-12);
        let mut ds64 = scale64.zeros_like();
        let (dq64, dkv64) =
            inp_attention::backward(&cpu(), &dout.cast(), &q64, &kv64, &scale64, &saved64, &mut ds64, heads)
                .unwrap();
        let run = |cpu: &_| {
            let (y, saved) = inp_attention::forward(cpu, &q, &kv, &scale, heads).unwrap();
            let mut ds = scale.zeros_like();
            let (dq, dkv) =
                inp_attention::backward(cpu, &dout, &q, &kv, &scale, &saved, &mut ds, heads).unwrap();
            [y.data, dkv.data, ds.data, dq.data].concat()
        };
        for got in each_tier("inp_attention", run) {
            let (y, g) = got.split_at(y64.len());
            let (dkv, g) = g.split_at(dkv64.len());
            let (ds, dq) = g.split_at(heads);
            close("out", y, &want.data, 3e-6);
            close("dkv", dkv, &dkv64.data, 1e-5);
            close("dscale", ds, &ds64.data, 1e-5);
            // In one dimension the cosine is constant and dq is rounding only: an absolute bound.
            assert!(d > 1 || dq.iter().all(|x| x.abs() <= 1e-5), "dq of one dimension");
            (d > 1).then(|| close("dq", dq, &dq64.data, 1e-5));
        }
        let (y, saved) = inp_attention::forward(&cpu(), &q, &kv, &scale, heads).unwrap();
        for i in 0..b {
            let (one, s) =
                inp_attention::forward(&cpu(), &image(&q, i), &image(&kv, i), &scale, heads).unwrap();
            assert_eq!((one, s.a), (image(&y, i), image(&saved.a, i)));
        }
    }
}

#[test]
fn backward_matches_finite_differences() {
    let (heads, q, kv) = (2, random64("q", &[2, 7, 10]), random64("kv", &[2, 3, 20]));
    let (scale, dout) = (scales(heads).cast::<f64>(), random64("dout", &[2, 7, 10]));
    let loss = |q: &_, kv: &_, scale: &_| {
        weighted_sum(&inp_attention::forward(&cpu(), q, kv, scale, heads).unwrap().0, &dout)
    };
    let (_, saved) = inp_attention::forward(&cpu(), &q, &kv, &scale, heads).unwrap();
    let mut ds = Tensor::new(scale.shape(), vec![10.0, 20.0]);
    let (dq, dkv) = inp_attention::backward(&cpu(), &dout, &q, &kv, &scale, &saved, &mut ds, heads).unwrap();
    ds.data.iter_mut().zip([10.0, 20.0]).for_each(|(x, before)| *x -= before);
    check_gradient("dq", &q, &dq, |q| loss(q, &kv, &scale));
    check_gradient("dkv", &kv, &dkv, |kv| loss(&q, kv, &scale));
    check_gradient("dscale", &scale, &ds, |scale| loss(&q, &kv, scale));
}

/// The output is homogeneous in q: of degree 0 above the clamp (so `q·dq = 0`), of degree 1 below (so `q·dq = y·dout`).
#[test]
fn lengths_below_the_clamp_carry_no_gradient() {
    let (kv, scale) = (random64("kv", &[1, 3, 20]), scales(2).cast::<f64>());
    let dout = random64("dout", &[1, 1, 10]);
    for (size, degree) in [(1.0, 0.0), (1e-14, 1.0)] {
        let mut q = random64("q", &[1, 1, 10]);
        q.data.iter_mut().for_each(|x| *x *= size);
        let (y, saved) = inp_attention::forward(&cpu(), &q, &kv, &scale, 2).unwrap();
        let mut ds = scale.zeros_like();
        let (dq, _) = inp_attention::backward(&cpu(), &dout, &q, &kv, &scale, &saved, &mut ds, 2).unwrap();
        let (got, want) = (weighted_sum(&q, &dq), degree * weighted_sum(&y, &dout));
        assert!((got - want).abs() <= 1e-12 * weighted_sum(&y, &dout).abs(), "{got} against {want}");
    }
}

#[test]
fn nan_is_passed_on_and_misfits_are_refused() {
    let (mut q, kv) = (random("q", &[1, 2, 4]), random("kv", &[1, 3, 8]));
    q.data[1] = f32::NAN;
    let scale = scales(1);
    for cpu in cpus() {
        let (y, _) = inp_attention::forward(&cpu, &q, &kv, &scale, 1).unwrap();
        assert!(y.row(0).iter().all(|x| x.is_nan()) && y.row(1).iter().all(|x| x.is_finite()));
    }
    assert!(inp_attention::forward(&cpu(), &q, &kv, &scale, 2).is_err());
    assert!(inp_attention::forward(&cpu(), &q, &Tensor::zeros(&[1, 0, 8]), &scale, 1).is_err());
    assert!(inp_attention::forward(&cpu(), &q, &random("kv", &[2, 3, 8]), &scale, 1).is_err());
}

#[test]
fn goldens() {
    let Some(t) = tiny() else { return };
    let w = |name: &str, shape: &[usize]| golden_weight(&format!("decoder.0.{name}"), shape);
    let (gain, bias) = (w("norm1.weight", &[64]), w("norm1.bias", &[64]));
    for cpu in cpus() {
        let dense = |x: &_, name: &str, n| {
            let (weight, b) = (w(&format!("{name}.weight"), &[n, 64]), w(&format!("{name}.bias"), &[n]));
            linear::forward(&cpu, x, &weight, Some(&b)).unwrap()
        };
        let norm = |x: &_| layernorm::forward(&cpu, x, &gain, &bias, 1e-8).unwrap().0;
        let (q, kv) = (dense(&norm(&t["bottleneck"]), "attn.q", 64), dense(&norm(&t["inp"]), "attn.kv", 128));
        let scale = w("attn.learn_scale", &[2, 1, 1]);
        let (y, saved) = inp_attention::forward(&cpu, &q, &kv, &scale, 2).unwrap();
        // The golden is (B, H, N, P).
        let (a, golden) = (&saved.a, &t["dec0.attn"]);
        let want: Vec<f32> = (0..a.len())
            .map(|i| golden.data[((i / 768 * 2 + i / 6 % 2) * 64 + i / 12 % 64) * 6 + i % 6])
            .collect();
        close("dec0.attn", &a.data, &want, 3e-6);
        close("dec0.attn_out", &dense(&y, "attn.proj", 64).data, &t["dec0.attn_out"].data, 3e-6);
    }
}
