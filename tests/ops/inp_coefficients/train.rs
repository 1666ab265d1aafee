//! Training's coefficients against naive f64 and finite differences; `inp_attention`'s tests go through them as well.

use inp_former::ops::inp_coefficients::train::{backward, forward};
use inp_former::runtime::Tensor;

use crate::support::{check_gradient, close, cpu, each_tier, random, random64, weighted_sum};

fn scales(heads: usize) -> Tensor<f64> {
    Tensor::new(&[heads, 1, 1], (0..heads).map(|h| [1.25, -0.75, 0.5][h % 3]).collect())
}

/// (B, N, P, H, D): ones, primes, N below, at and above a task's rows.
const SHAPES: [[usize; 5]; 5] =
    [[1, 1, 1, 1, 1], [2, 7, 3, 2, 5], [3, 15, 6, 3, 16], [1, 16, 1, 2, 64], [1, 17, 6, 2, 64]];

#[test]
fn forward_matches_f64_and_bias_adds_ones() {
    for [b, n, p, heads, d] in SHAPES {
        let c = heads * d;
        let (q, kv) = (random("q", &[b, n, c]), random("kv.a", &[b, p, 2 * c]));
        let scale = scales(heads).cast::<f32>();
        let length = |x: &[f32]| x.iter().map(|x| (*x as f64).powi(2)).sum::<f64>().sqrt();
        let mut want = Vec::new();
        for (i, h, j) in (0..b * n).flat_map(|i| (0..heads * p + 1).map(move |r| (i, r / p, r % p))) {
            if h == heads {
                want.push(1.0);
                continue;
            }
            let (q, k) = (&q.row(i)[h * d..][..d], &kv.row(i / n * p + j)[h * d..][..d]);
            let dot: f64 = q.iter().zip(k).map(|(a, b)| *a as f64 * *b as f64).sum();
            want.push((scales(heads).data[h] * dot / length(q) / length(k)).max(0.0));
        }
        for got in each_tier("coefficients", |cpu| forward(cpu, &q, &kv, &scale, heads, true).unwrap().0.data)
        {
            close("coefficients", &got, &want, 3e-6);
        }
    }
}

#[test]
fn backward_matches_finite_differences_and_leaves_the_values_alone() {
    let (heads, q, kv) = (2, random64("q", &[2, 7, 10]), random64("kv", &[2, 3, 20]));
    let (scale, da) = (scales(heads), random64("da", &[2, 7, 7]));
    let loss =
        |q: &_, kv: &_, scale: &_| weighted_sum(&forward(&cpu(), q, kv, scale, heads, true).unwrap().0, &da);
    let (a, saved) = forward(&cpu(), &q, &kv, &scale, heads, true).unwrap();
    let mut ds = Tensor::new(scale.shape(), vec![10.0, 20.0]);
    let mut dkv = Tensor::new(kv.shape(), vec![f64::NAN; kv.len()]);
    let dq = backward(&cpu(), &da, &a, &q, &kv, &scale, &saved, &mut ds, &mut dkv).unwrap();
    ds.data.iter_mut().zip([10.0, 20.0]).for_each(|(x, before)| *x -= before);
    for row in dkv.data.chunks_exact_mut(20) {
        assert!(row[10..].iter().all(|x| x.is_nan()), "the value half is not its own");
        row[10..].fill(0.0);
    }
    check_gradient("dq", &q, &dq, |q| loss(q, &kv, &scale));
    check_gradient("dkv", &kv, &dkv, |kv| loss(&q, kv, &scale));
    check_gradient("dscale", &scale, &ds, |scale| loss(&q, &kv, scale));
}
