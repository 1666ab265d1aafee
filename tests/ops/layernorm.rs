//! `layernorm` against naive f64 loops.

use half::bf16;
use inp_former::ops::layernorm;
use inp_former::runtime::{Cpu, Tensor};

use crate::support::*;

const EPS: f64 = 1e-6;

/// (rows, C): one, primes, around vectors (4, 8, 16), around the block of 32 rows, and the model's.
const SHAPES: [[usize; 2]; 11] =
    [[1, 1], [1, 2], [3, 7], [2, 15], [31, 16], [32, 17], [33, 63], [65, 65], [5, 192], [37, 384], [9, 768]];

/// `(y, dx, dgain, dbias)` in f64.
fn naive(x: &Tensor<f64>, gain: &Tensor<f64>, bias: &Tensor<f64>, dy: &Tensor<f64>) -> [Tensor<f64>; 4] {
    let c = x.cols();
    let n = c as f64;
    let mut out = [x.zeros_like(), x.zeros_like(), gain.zeros_like(), gain.zeros_like()];
    for r in 0..x.rows() {
        let (x, dy) = (x.row(r), dy.row(r));
        let mean = x.iter().sum::<f64>() / n;
        let rstd = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + EPS).sqrt().recip();
        let x_hat: Vec<f64> = x.iter().map(|x| (x - mean) * rstd).collect();
        let g: Vec<f64> = dy.iter().zip(&gain.data).map(|(d, g)| d * g).collect();
        let sum = g.iter().sum::<f64>() / n;
        let dot = g.iter().zip(&x_hat).map(|(g, x)| g * x).sum::<f64>() / n;
        for i in 0..c {
            out[0].data[r * c + i] = x_hat[i] * gain.data[i] + bias.data[i];
            out[1].data[r * c + i] = rstd * (g[i] - sum - x_hat[i] * dot);
            out[2].data[i] += dy[i] * x_hat[i];
            out[3].data[i] += dy[i];
        }
    }
    out
}

#[test]
fn forward_and_backward_equal_naive_f64() {
    for [rows, c] in SHAPES {
        // A mean three times the spread: one-pass statistics would show.
        let x = uniform("ln.x", &[rows, c], 3.0, 1.0);
        let dy = random("ln.dy", &[rows, c]);
        let (gain, bias) = (uniform("ln.gain", &[c], 1.0, 0.25), random("ln.bias", &[c]));
        let [y, dx, dgain, dbias] = naive(&x.cast(), &gain.cast(), &bias.cast(), &dy.cast());
        let mut last: Option<(_, Vec<Vec<u32>>)> = None;
        for cpu in cpus() {
            let what = format!("{rows}x{c} on {} {}", cpu.tier().name(), cpu.threads());
            let (y1, stats) = layernorm::forward(&cpu, &x, &gain, &bias, EPS).unwrap();
            let (mut dg, mut db) = (gain.clone(), bias.clone());
            let dx1 = layernorm::backward(&cpu, &dy, &x, &gain, &stats, &mut dg, &mut db).unwrap();
            // Two columns may lie close together, and their difference then has few digits left.
            let tol = if c <= 2 { 1e-3 } else { 5e-6 };
            close(&format!("y {what}"), &y1.data, &y.data, tol);
            if c > 2 {
                close(&format!("dx {what}"), &dx1.data, &dx.data, tol);
            }
            let plus = |a: &Tensor<f64>, b: &Tensor<f32>| -> Vec<f64> {
                a.data.iter().zip(&b.data).map(|(a, b)| a + *b as f64).collect()
            };
            close(&format!("dgain {what}"), &dg.data, &plus(&dgain, &gain), tol);
            close(&format!("dbias {what}"), &db.data, &plus(&dbias, &bias), 1e-6);
            let bits = [y1, dx1, dg, db].map(|t| t.data.iter().map(|x| x.to_bits()).collect()).to_vec();
            if let Some((tier, before)) = last.replace((cpu.tier(), bits.clone())) {
                assert!(tier != cpu.tier() || before == bits, "threads change bits: {what}");
            }
        }
    }
}

#[test]
fn normalise_is_forward_without_gain_and_bias() {
    for [rows, c] in SHAPES.into_iter().chain([[0, 5]]) {
        let x = uniform("ln.x", &[rows, c], 3.0, 1.0);
        let (one, none) = (Tensor::new(&[c], vec![1.0; c]), Tensor::zeros(&[c]));
        let want = naive(&x.cast(), &one, &none, &x.cast());
        let tol = if c <= 2 { 1e-3 } else { 5e-6 };
        for got in each_tier("normalise", |cpu| {
            let mut y = vec![f32::NAN; rows * c];
            layernorm::normalise(cpu, &x.data, c, EPS as f32, &mut y);
            for r in [0, rows / 2, rows.saturating_sub(1)].into_iter().filter(|r| *r < rows) {
                let mut alone = vec![f32::NAN; c];
                layernorm::normalise(cpu, x.row(r), c, EPS as f32, &mut alone);
                assert_eq!(alone, y[r * c..(r + 1) * c], "row {r}");
            }
            y
        }) {
            close(&format!("{rows}x{c}"), &got, &want[0].data, tol);
        }
    }
    let x = uniform("ln.x", &[35, 66], 3.0, 1.0);
    for cpu in cpus() {
        let (mut y, mut rounded) = (vec![f32::NAN; x.len()], vec![bf16::NAN; x.len()]);
        layernorm::normalise(&cpu, &x.data, 66, EPS as f32, &mut y);
        layernorm::normalise(&cpu, &x.data, 66, EPS as f32, &mut rounded);
        assert!(y.iter().zip(&rounded).all(|(y, r)| bf16::from_f32(*y) == *r), "rounded to bf16");
    }
    for cpu in cpus() {
        let (mut x, mut y) = (random("ln.nan", &[35, 21]), vec![0.0; 35 * 21]);
        x.data[34 * 21 + 20] = f32::NAN;
        layernorm::normalise(&cpu, &x.data, 21, EPS as f32, &mut y);
        assert!((0..35 * 21).all(|e| y[e].is_nan() == (e / 21 == 34)));
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_a_batch() {
    let (rows, c) = (70, 45);
    let (x, dy) = (random("ln.bits.x", &[rows, c]), random("ln.bits.dy", &[rows, c]));
    let (gain, bias) = (random("ln.gain", &[c]), random("ln.bias", &[c]));
    for cpu in cpus() {
        let run = |x: &Tensor, dy: &Tensor| {
            let (y, stats) = layernorm::forward(&cpu, x, &gain, &bias, EPS).unwrap();
            let (mut dg, mut db) = (gain.zeros_like(), bias.zeros_like());
            (y, layernorm::backward(&cpu, dy, x, &gain, &stats, &mut dg, &mut db).unwrap())
        };
        let all = run(&x, &dy);
        for r in [0, 31, 32, 69] {
            let row = |t: &Tensor| Tensor::new(&[1, c], t.row(r).to_vec());
            let alone = run(&row(&x), &row(&dy));
            assert_eq!((alone.0.data, alone.1.data), (all.0.row(r).to_vec(), all.1.row(r).to_vec()));
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let cpu = Cpu::new(Some(2)).unwrap();
    let (x, w) = (random64("ln.fd.x", &[2, 3, 7]), random64("ln.fd.w", &[2, 3, 7]));
    let (gain, bias) = (random64("ln.fd.gain", &[7]), random64("ln.fd.bias", &[7]));
    let (_, stats) = layernorm::forward(&cpu, &x, &gain, &bias, EPS).unwrap();
    let (mut dgain, mut dbias) = (gain.zeros_like(), bias.zeros_like());
    let dx = layernorm::backward(&cpu, &w, &x, &gain, &stats, &mut dgain, &mut dbias).unwrap();
    let loss = |x: &Tensor<f64>, gain: &Tensor<f64>, bias: &Tensor<f64>| {
        weighted_sum(&layernorm::forward(&cpu, x, gain, bias, EPS).unwrap().0, &w)
    };
    check_gradient("dx", &x, &dx, |x| loss(x, &gain, &bias));
    check_gradient("dgain", &gain, &dgain, |gain| loss(&x, gain, &bias));
    check_gradient("dbias", &bias, &dbias, |bias| loss(&x, &gain, bias));
}

#[test]
fn nan_is_never_lost_and_empty_is_empty() {
    let (rows, c) = (35, 21);
    for cpu in cpus() {
        for at in [0, 20, 34 * 21 + 20] {
            let (mut x, gain) = (random("ln.nan", &[rows, c]), random("ln.gain", &[c]));
            x.data[at] = f32::NAN;
            let (y, stats) = layernorm::forward(&cpu, &x, &gain, &gain, EPS).unwrap();
            let (mut dg, mut db) = (gain.zeros_like(), gain.zeros_like());
            let dx = layernorm::backward(&cpu, &y, &x, &gain, &stats, &mut dg, &mut db).unwrap();
            for r in 0..rows {
                assert!(y.row(r).iter().chain(dx.row(r)).all(|v| v.is_nan() == (r == at / c)));
            }
            assert!(dg.data.iter().chain(&db.data).all(|v| v.is_nan()));
        }
        for shape in [[0, 5], [3, 0]] {
            let (x, g) = (Tensor::<f32>::zeros(&shape), Tensor::zeros(&shape[1..]));
            let (y, stats) = layernorm::forward(&cpu, &x, &g, &g, EPS).unwrap();
            let (mut dg, mut db) = (g.clone(), g.clone());
            layernorm::backward(&cpu, &y, &x, &g, &stats, &mut dg, &mut db).unwrap();
            assert_eq!(y.shape(), shape);
        }
    }
}
