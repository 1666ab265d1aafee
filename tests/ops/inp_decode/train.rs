//! Training's decoder block in low-rank form against the plain one, and finite differences.

use inp_former::ops::inp_decode::train::{Saved, backward, forward};
use inp_former::ops::inp_factors::train::{Factors, Gradients};
use inp_former::ops::{gelu, layernorm, linear};
use inp_former::runtime::{Cpu, Elem, Tensor};

use crate::support::{check_gradient, close, cpu, each_tier, random64, weighted_sum};

const EPS: f64 = 1e-8;

/// a, m, centred, u, gram, c1, W2, c2: independent of each other where only the gradient is of interest.
fn inputs(b: usize, n: usize, r: usize, c: usize) -> [Tensor<f64>; 7] {
    let mut a = random64("a", &[b, n, r]);
    a.data.iter_mut().for_each(|x| *x = x.max(0.0));
    a.data.chunks_exact_mut(r).for_each(|row| row[r - 1] = 1.0);
    let half = random64("half", &[b, r, c]);
    let mut gram = Tensor::zeros(&[b, r, r]);
    for (i, j, k) in (0..b).flat_map(|i| (0..r * r).map(move |jk| (i, jk / r, jk % r))) {
        let dot = half.row(i * r + j).iter().zip(half.row(i * r + k)).map(|(x, y)| x * y).sum::<f64>();
        gram.data[(i * r + j) * r + k] = dot / c as f64;
    }
    [
        a,
        random64("m", &[b, r, c]),
        random64("u", &[b * r + 1, 4 * c]),
        gram,
        random64("c1", &[4 * c]),
        random64("w2", &[c, 4 * c]),
        random64("c2", &[c]),
    ]
}

fn factors<E: Elem>(m: &Tensor<E>, u: &Tensor<E>, gram: &Tensor<E>) -> Factors<E> {
    Factors { m: m.clone(), centred: m.clone(), scaled: m.clone(), u: u.clone(), gram: gram.clone() }
}

fn run<E: Elem>(cpu: &Cpu, [a, m, u, gram, c1, w2, c2]: &[Tensor<E>; 7]) -> (Tensor<E>, Saved<E>) {
    forward(cpu, a, &factors(m, u, gram), c1, w2, c2, EPS).unwrap()
}

/// The block with its middle made: LayerNorm (gain 1, bias of no mean), both layers, the residual.
#[test]
fn forward_equals_the_plain_block() {
    for [b, n, heads, p, d] in [[1, 1, 1, 1, 2], [2, 7, 2, 3, 5], [3, 31, 2, 6, 16], [1, 33, 3, 6, 64]] {
        let (c, r) = (heads * d, heads * p + 1);
        let named = |name: &str, shape: &[usize]| random64(name, shape);
        let (kv, proj, bp) = (named("kv", &[b, p, 2 * c]), named("proj", &[c, c]), named("bp", &[c]));
        let (gain, bias, w1) = (named("gain", &[c]), named("bias", &[c]), named("w1", &[4 * c, c]));
        let [a, _, _, _, c1, w2, c2] = inputs(b, n, r, c);
        let factors = |cpu: &Cpu| {
            use inp_former::ops::inp_factors::train::forward;
            let [kv, proj, bp, gain, bias, w1] =
                [&kv, &proj, &bp, &gain, &bias, &w1].map(|t| t.cast::<f32>());
            forward(cpu, &kv, [&proj, &bp], [&gain, &bias], &w1, heads).unwrap()
        };
        let cpu1 = cpu();
        let f = inp_former::ops::inp_factors::train::forward(
            &cpu1,
            &kv,
            [&proj, &bp],
            [&gain, &bias],
            &w1,
            heads,
        )
        .unwrap();
        let mut middle = Tensor::zeros(&[b, n, c]);
        for (row, out) in middle.data.chunks_exact_mut(c).enumerate() {
            for (i, a) in a.row(row).iter().enumerate() {
                out.iter_mut().zip(f.m.row(row / n * r + i)).for_each(|(y, x)| *y += a * x);
            }
        }
        let (norm, _) = layernorm::forward(&cpu1, &middle, &gain, &bias, EPS).unwrap();
        let pre = linear::forward(&cpu1, &norm, &w1, Some(&c1)).unwrap();
        let mut want = linear::forward(&cpu1, &gelu::forward(&cpu1, &pre).unwrap(), &w2, Some(&c2)).unwrap();
        want.data.iter_mut().zip(&middle.data).for_each(|(y, x)| *y += x);
        let (y, _) = forward(&cpu1, &a, &f, &c1, &w2, &c2, EPS).unwrap();
        close("block in f64", &y.data, &want.data, 1e-12);
        let [a32, c132, w232, c232] = [&a, &c1, &w2, &c2].map(|t| t.cast::<f32>());
        for got in each_tier("block", |cpu| {
            forward(cpu, &a32, &factors(cpu), &c132, &w232, &c232, EPS).unwrap().0.data
        }) {
            close("block", &got, &want.data, 3e-6);
        }
    }
}

#[test]
fn backward_matches_finite_differences() {
    let (b, n, r, c) = (2, 5, 4, 6);
    let x = inputs(b, n, r, c);
    let dy = random64("dy", &[b, n, c]);
    let loss = |x: &_| weighted_sum(&run(&cpu(), x).0, &dy);
    let (_, saved) = run(&cpu(), &x);
    let mut d = x.each_ref().map(Tensor::zeros_like);
    let [_, _, _, _, dc1, dw2, dc2] = &mut d;
    let f = factors(&x[1], &x[2], &x[3]);
    let (da, Gradients { m, u, gram }) =
        backward(&cpu(), &dy, &x[0], &f, &x[5], saved, dc1, dw2, dc2).unwrap();
    [d[0], d[1], d[2], d[3]] = [da, m, u, gram];
    for (i, name) in ["a", "m", "u", "gram", "c1", "w2", "c2"].into_iter().enumerate() {
        check_gradient(name, &x[i], &d[i], |t| {
            let mut moved = x.clone();
            moved[i] = t.clone();
            // The gradient of a counts the Gram matrix as symmetric, which it stays.
            loss(&moved)
        });
    }
}

#[test]
fn a_variance_below_zero_counts_as_none() {
    let mut x = inputs(1, 3, 4, 6);
    x[3].data.iter_mut().for_each(|g| *g = -*g);
    let (y, saved) = run(&cpu(), &x);
    assert!(y.data.iter().all(|y| y.is_finite()));
    let [mut dc1, mut dw2, mut dc2] = [&x[4], &x[5], &x[6]].map(Tensor::zeros_like);
    let f = factors(&x[1], &x[2], &x[3]);
    let (_, d) = backward(&cpu(), &y, &x[0], &f, &x[5], saved, &mut dc1, &mut dw2, &mut dc2).unwrap();
    assert!(d.gram.data.iter().all(|g| *g == 0.0), "a clamped variance has no gradient");
}
