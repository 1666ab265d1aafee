//! Training's low-rank factors against what they stand for, and finite differences.

use inp_former::ops::inp_factors::train::{Factors, Gradients, backward, forward};
use inp_former::runtime::{Cpu, Elem, Tensor};

use crate::support::{check_gradient, close, cpu, each_tier, random64, weighted_sum};

/// kv, projection, its bias, gain, bias and W1.
fn inputs([b, p, heads, d]: [usize; 4]) -> [Tensor<f64>; 6] {
    let c = heads * d;
    let named = |name: &str, shape: &[usize]| random64(name, shape);
    [
        named("kv", &[b, p, 2 * c]),
        named("proj", &[c, c]),
        named("bp", &[c]),
        named("gain", &[c]),
        named("bias", &[c]),
        named("w1", &[4 * c, c]),
    ]
}

fn run<E: Elem>(cpu: &Cpu, [kv, proj, bp, gain, bias, w1]: &[Tensor<E>; 6], heads: usize) -> Factors<E> {
    forward(cpu, kv, [proj, bp], [gain, bias], w1, heads).unwrap()
}

/// Every factor one after the other.
fn all<E: Elem>(f: Factors<E>) -> Vec<E> {
    [f.m.data, f.centred.data, f.scaled.data, f.u.data, f.gram.data].concat()
}

fn naive(x: &[Tensor<f64>; 6], [b, p, heads, d]: [usize; 4]) -> Vec<f64> {
    let [kv, proj, bp, gain, bias, w1] = x;
    let (c, r) = (heads * d, heads * p + 1);
    let [mut m, mut centred, mut scaled, mut gram] = [(); 4].map(|()| Vec::new());
    for (i, hp) in (0..b).flat_map(|i| (0..r).map(move |hp| (i, hp))) {
        let row: Vec<f64> = (0..c)
            .map(|o| match hp {
                hp if hp == r - 1 => bp.data[o],
                hp => (0..d)
                    .map(|x| kv.row(i * p + hp % p)[c + hp / p * d + x] * proj.row(o)[hp / p * d + x])
                    .sum(),
            })
            .collect();
        let mean = row.iter().sum::<f64>() / c as f64;
        centred.extend(row.iter().map(|x| x - mean));
        scaled.extend(row.iter().zip(&gain.data).map(|(x, g)| (x - mean) * g));
        m.extend(row);
    }
    scaled.extend(&bias.data);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let u: Vec<f64> = scaled.chunks(c).flat_map(|x| w1.data.chunks(c).map(move |w| dot(x, w))).collect();
    for image in centred.chunks(r * c) {
        gram.extend(image.chunks(c).flat_map(|x| image.chunks(c).map(move |y| dot(x, y) / c as f64)));
    }
    [m, centred, scaled, u, gram].concat()
}

#[test]
fn forward_matches_f64() {
    for shape in [[1, 1, 1, 1], [2, 3, 2, 5], [3, 6, 2, 16], [1, 6, 3, 64]] {
        let x = inputs(shape);
        let want = naive(&x, shape);
        close("factors in f64", &all(run(&cpu(), &x, shape[2])), &want, 1e-12);
        let x32 = x.each_ref().map(Tensor::cast::<f32>);
        for got in each_tier("factors", |cpu| all(run(cpu, &x32, shape[2]))) {
            close("factors", &got, &want, 2e-6);
        }
    }
}

#[test]
fn backward_matches_finite_differences() {
    let shape @ [b, p, heads, d] = [2, 2, 2, 3];
    let (c, r) = (heads * d, heads * p + 1);
    let mut x = inputs(shape);
    let weight = Gradients {
        m: random64("dm", &[b, r, c]),
        u: random64("du", &[b * r + 1, 4 * c]),
        // As it comes: symmetric.
        gram: {
            let mut g = random64("dgram", &[b, r, r]);
            for (i, j, k) in (0..b).flat_map(|i| (0..r * r).map(move |jk| (i, jk / r, jk % r))) {
                g.data[(i * r + j) * r + k] = g.data[(i * r + k) * r + j];
            }
            g
        },
    };
    let loss = |x: &[Tensor<f64>; 6]| {
        let f = run(&cpu(), x, heads);
        weighted_sum(&f.m, &weight.m) + weighted_sum(&f.u, &weight.u) + weighted_sum(&f.gram, &weight.gram)
    };
    let f = run(&cpu(), &x, heads);
    let mut d = x.each_ref().map(Tensor::zeros_like);
    let grads = Gradients { m: weight.m.clone(), u: weight.u.clone(), gram: weight.gram.clone() };
    let [dkv, dproj, dbp, dgain, dbias, dw1] = &mut d;
    let (kv, proj, gain, w1) = (&x[0], &x[1], &x[3], &x[5]);
    backward(&cpu(), grads, &f, kv, proj, gain, w1, dkv, [dproj, dbp], [dgain, dbias], dw1, heads).unwrap();
    for (i, name) in ["kv", "proj", "bp", "gain", "bias", "w1"].into_iter().enumerate() {
        let at = x[i].clone();
        check_gradient(name, &at, &d[i], |t| {
            let mut moved = x.clone();
            moved[i] = t.clone();
            loss(&moved)
        });
        x[i] = at;
    }
}

#[test]
fn misfits_are_refused() {
    let mut x = inputs([2, 3, 2, 5]);
    x[5] = random64("w1", &[40, 9]);
    let [kv, proj, bp, gain, bias, w1] = &x;
    assert!(forward(&cpu(), kv, [proj, bp], [gain, bias], w1, 2).is_err());
}
