//! `linear` and its matrix product against naive f64 loops.

mod bf16;
mod cuda;
mod int8;
mod narrowed;
mod packed;
mod paired;

use inp_former::ops::linear::{
    self,
    gemm::{Mat, Start, gemm, gemms},
};
use inp_former::runtime::{Cpu, Tensor};

use crate::support::*;

/// One, primes, one below and above each register tile (6x64, 8x32, 6x16, 4x8) and K block (768), and the model's shapes.
const SHAPES: [[usize; 3]; 14] = [
    [1, 1, 1],
    [1, 3, 2],
    [7, 47, 5],
    [9, 49, 17],
    [5, 15, 31],
    [3, 7, 64],
    [13, 97, 101],
    [65, 385, 3],
    [8, 48, 767],
    [2, 9, 769],
    [6, 192, 192],
    [71, 130, 98],
    [53, 768, 192],
    [29, 96, 1537],
];

/// `a[i,k]·b[k,j]` summed in f64, with what accessors say.
fn product(
    [m, n, k]: [usize; 3],
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Tensor<f64> {
    let mut c = Tensor::zeros(&[m, n]);
    for i in 0..m {
        for kk in 0..k {
            let x = a(i, kk);
            for j in 0..n {
                c.data[i * n + j] += x * b(kk, j);
            }
        }
    }
    c
}

/// Error allowed in a sum of `k` products of values on (-1, 1), relative to the largest sum: twice the naive bound.
fn tolerance(k: usize) -> f64 {
    1e-6 + 2.0 * f32::EPSILON as f64 * (k as f64).sqrt()
}

#[test]
fn forward_and_backward_equal_naive_f64() {
    for [m, n, k] in SHAPES {
        let (x, w, b) = (random("linear.x", &[m, k]), random("linear.w", &[n, k]), random("linear.b", &[n]));
        let (dy, dw0, db0) =
            (random("linear.dy", &[m, n]), random("linear.dw", &[n, k]), random("linear.db", &[n]));
        let (x64, w64, d64) = (x.cast::<f64>(), w.cast::<f64>(), dy.cast::<f64>());
        let at = |t: &Tensor<f64>, i: usize, j: usize| t.data[i * t.cols() + j];
        let mut y = product([m, n, k], |i, k| at(&x64, i, k), |k, j| at(&w64, j, k));
        y.data.iter_mut().enumerate().for_each(|(i, y)| *y += b.data[i % n] as f64);
        let dx = product([m, k, n], |i, j| at(&d64, i, j), |j, k| at(&w64, j, k));
        let mut dw = product([n, k, m], |j, i| at(&d64, i, j), |i, k| at(&x64, i, k));
        dw.data.iter_mut().zip(&dw0.data).for_each(|(d, d0)| *d += *d0 as f64);
        let db: Vec<f64> =
            (0..n).map(|j| db0.data[j] as f64 + (0..m).map(|i| at(&d64, i, j)).sum::<f64>()).collect();
        for cpu in cpus() {
            let what = format!("{m}x{n}x{k} on {} {}", cpu.tier().name(), cpu.threads());
            close(
                &format!("y {what}"),
                &linear::forward(&cpu, &x, &w, Some(&b)).unwrap().data,
                &y.data,
                tolerance(k),
            );
            let (mut dw1, mut db1) = (dw0.clone(), db0.clone());
            let dx1 = linear::backward(&cpu, &dy, &x, &w, &mut dw1, Some(&mut db1), true).unwrap().unwrap();
            close(&format!("dx {what}"), &dx1.data, &dx.data, tolerance(n));
            close(&format!("dw {what}"), &dw1.data, &dw.data, tolerance(m));
            close(&format!("db {what}"), &db1.data, &db, tolerance(m));
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let cpu = Cpu::new(Some(2)).unwrap();
    let (x, w, b) = (random64("fd.x", &[3, 2, 5]), random64("fd.w", &[7, 5]), random64("fd.b", &[7]));
    let weight = random64("fd.weight", &[3, 2, 7]);
    let (mut dw, mut db) = (w.zeros_like(), b.zeros_like());
    let dx = linear::backward(&cpu, &weight, &x, &w, &mut dw, Some(&mut db), true).unwrap().unwrap();
    let loss = |x: &Tensor<f64>, w: &Tensor<f64>, b: &Tensor<f64>| {
        weighted_sum(&linear::forward(&cpu, x, w, Some(b)).unwrap(), &weight)
    };
    check_gradient("dx", &x, &dx, |x| loss(x, &w, &b));
    check_gradient("dw", &w, &dw, |w| loss(&x, w, &b));
    check_gradient("db", &b, &db, |b| loss(&x, &w, b));
    assert!(linear::backward(&cpu, &weight, &x, &w, &mut dw, None, false).unwrap().is_none());
}

/// Many products at once have the bits of one after the other.
#[test]
fn parts_have_the_bits_of_their_own() {
    let (count, [m, n, k]) = (3, [37, 70, 50]);
    let (a, b) = (random("parts.a", &[count, m, k]), random("parts.b", &[count, k, n]));
    let of = |data, rows: usize, cols: usize, t: bool| match t {
        true => Mat::transposed(data, rows),
        false => Mat::plain(data, cols),
    };
    for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
        for cpu in cpus().iter().flat_map(|cpu| [cpu.clone(), cpu.narrowed()]) {
            let mut all = random("parts.c", &[count, m, n]);
            let mut each = all.clone();
            let (fa, fb) = (of(&a.data, m, k, ta), of(&b.data, k, n, tb));
            gemms(&cpu, count, [m, n, k], fa, fb, &mut all.data, n, Start::Add);
            for (i, c) in each.data.chunks_exact_mut(m * n).enumerate() {
                let (fa, fb) = (of(a.slab(i), m, k, ta), of(b.slab(i), k, n, tb));
                gemm(&cpu, [m, n, k], fa, fb, c, n, Start::Add);
            }
            assert_eq!(bits(&all.data), bits(&each.data), "{ta} {tb} on {}", cpu.tier().name());
        }
    }
}

#[test]
fn strided_operands_stay_in_their_place() {
    let [m, n, k] = [11, 50, 9];
    let (a, b) = (random("strided.a", &[m, 13]), random("strided.b", &[k, 61]));
    let want = product([m, n, k], |i, k| a.data[i * 13 + 2 + k] as f64, |k, j| b.data[k * 61 + 4 + j] as f64);
    for cpu in cpus() {
        let mut c = vec![f32::NAN; m * 53 + 1];
        let (a, b) = (Mat::plain(&a.data[2..], 13), Mat::plain(&b.data[4..], 61));
        gemm(&cpu, [m, n, k], a, b, &mut c[1..], 53, Start::Zero);
        let got: Vec<f32> = (0..m * n).map(|e| c[1 + e / n * 53 + e % n]).collect();
        close("c", &got, &want.data, tolerance(k));
        assert!(
            c[0].is_nan() && (0..m).all(|i| c[1 + i * 53 + n..1 + i * 53 + 53].iter().all(|x| x.is_nan()))
        );
    }
}

/// Bits of a slice: `==` on floats would let -0 pass for 0.
fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_row_has_the_same_bits_alone_in_a_batch_and_on_any_threads() {
    let (m, n, k) = (37, 147, 1600);
    let (x, w, b) = (random("bits.x", &[m, k]), random("bits.w", &[n, k]), random("bits.b", &[n]));
    let dy = random("bits.dy", &[m, n]);
    let mut last = None;
    for cpu in cpus() {
        let y = linear::forward(&cpu, &x, &w, Some(&b)).unwrap();
        for r in [0, 1, 8, 36] {
            let alone =
                linear::forward(&cpu, &Tensor::new(&[1, k], x.row(r).to_vec()), &w, Some(&b)).unwrap();
            assert_eq!(bits(&alone.data), bits(y.row(r)), "row {r} on {}", cpu.tier().name());
        }
        let (mut dw, mut db) = (w.zeros_like(), b.zeros_like());
        let dx = linear::backward(&cpu, &dy, &x, &w, &mut dw, Some(&mut db), true).unwrap().unwrap();
        let all = [y, dx, dw, db].map(|t| bits(&t.data));
        if let Some((tier, before)) = last.replace((cpu.tier(), all.clone())) {
            assert!(tier != cpu.tier() || before == all, "threads change bits on {}", tier.name());
        }
    }
}

#[test]
fn nan_is_never_lost() {
    let (m, n, k) = (9, 50, 20);
    for cpu in cpus() {
        for i in [0, 5, 8] {
            let (mut x, w) = (random("nan.x", &[m, k]), random("nan.w", &[n, k]));
            x.data[i * k + 19] = f32::NAN;
            let y = linear::forward(&cpu, &x, &w, None).unwrap();
            assert!((0..m).all(|r| y.row(r).iter().all(|v| v.is_nan() == (r == i))));
            let (mut dw, mut db) = (w.zeros_like(), Tensor::zeros(&[n]));
            let dy = y;
            let dx = linear::backward(&cpu, &dy, &x, &w, &mut dw, Some(&mut db), true).unwrap().unwrap();
            assert!(dx.row(i).iter().chain(&dw.data).chain(&db.data).all(|v| v.is_nan()));
        }
    }
}

#[test]
fn empty_and_misshapen_inputs() {
    let cpu = Cpu::new(Some(1)).unwrap();
    let (x, w) = (Tensor::<f32>::zeros(&[0, 4]), Tensor::zeros(&[3, 4]));
    assert_eq!(linear::forward(&cpu, &x, &w, None).unwrap().shape(), [0, 3]);
    let e = linear::forward(&cpu, &Tensor::<f32>::zeros(&[2, 5]), &w, None).unwrap_err().to_string();
    assert!(e.contains("`w`") && e.contains("(_, 5)") && e.contains("(3, 4)"), "{e}");
    let none: Tensor<f32> = Tensor::zeros(&[2, 0]);
    let b = Tensor::new(&[3], vec![1.0, 2.0, 3.0]);
    let y = linear::forward(&cpu, &none, &Tensor::zeros(&[3, 0]), Some(&b)).unwrap();
    assert_eq!(y.data, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
}
