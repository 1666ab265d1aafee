//! Attention of bf16 operands against a naive f64 softmax of the rounded values, native where the chip can and emulated on
//! the other tiers.

use half::bf16;
use inp_former::ops::attention::{self, Softmax};
use inp_former::runtime::simd::aligned::Aligned;
use inp_former::runtime::{Cpu, Tensor};

use super::naive;
use crate::support::*;

/// (T, heads, D): one, primes, around 6x64 and 4x8 tiles and their groups of four, and ViT-S and -B.
const SHAPES: [[usize; 3]; 9] = [
    [1, 1, 2],
    [2, 3, 6],
    [7, 2, 18],
    [31, 2, 34],
    [47, 2, 66],
    [64, 1, 64],
    [97, 3, 64],
    [201, 6, 64],
    [53, 12, 64],
];

/// Queries, keys and values as operands, the queries scaled for base 2; and in f64 what they stand for.
fn qkv([t, heads, d]: [usize; 3], half: f64) -> (Aligned<bf16>, Tensor<f64>) {
    let c = heads * d;
    let values = uniform("attention.bf16", &[t, 3 * c], 0.0, half);
    let mut x = Aligned::zeros(t * 3 * c);
    let mut exact = Tensor::zeros(&[1, t, 3 * c]);
    let by = (d as f64).powf(-0.5) * std::f64::consts::LOG2_E;
    for (i, v) in values.data.iter().enumerate() {
        let scale = if i % (3 * c) < c { by } else { 1.0 };
        x[i] = bf16::from_f64(*v as f64 * scale);
        exact.data[i] = x[i].to_f64() / scale;
    }
    (x, exact)
}

fn run(cpu: &Cpu, qkv: &[bf16], [t, heads, d]: [usize; 3], first: usize) -> Vec<f32> {
    let c = heads * d;
    let mut y = vec![bf16::NAN; t * c];
    let mut scratch = attention::Scratch::new(cpu, t, c, heads);
    attention::picture(cpu, qkv, [t, c, heads], Softmax::Base2, first, &mut scratch, &mut y);
    y.into_iter().map(bf16::to_f32).collect()
}

#[test]
fn equals_naive_f64() {
    for shape in SHAPES {
        for half in [1.0, 3.0] {
            let (x, exact) = qkv(shape, half);
            let want = naive(&exact, shape[1]);
            for got in each_tier(&format!("{shape:?}"), |cpu| run(cpu, &x, shape, 0)) {
                // A weight and the result are each rounded once, by at most 1/256 (the weights' errors mostly cancel).
                close(&format!("{shape:?}, {half}"), &got, &want.data, 1.5 / 256.0);
            }
        }
    }
}

#[test]
fn scores_of_any_size_do_not_overflow() {
    let shape = [40, 1, 32];
    let (x, exact) = qkv(shape, 1e4);
    let want = naive(&exact, 1);
    for got in each_tier("large", |cpu| run(cpu, &x, shape, 0)) {
        close("large", &got, &want.data, 1.5 / 256.0);
    }
}

#[test]
fn the_rows_from_one_on_have_the_bits_that_all_have() {
    let shape @ [t, heads, d] = [77, 2, 32];
    let (x, _) = qkv(shape, 1.0);
    for cpu in cpus() {
        let want = run(&cpu, &x, shape, 0);
        for first in [1, 5, 33, 76, 77] {
            let y = run(&cpu, &x, shape, first);
            let (before, from) = y.split_at(first * heads * d);
            assert!(before.iter().all(|x| x.is_nan()), "rows before {first} of {t} were written");
            assert!(from == &want[first * heads * d..], "rows from {first} on {}", cpu.tier().name());
        }
    }
}

#[test]
fn nan_is_never_lost() {
    let shape @ [t, heads, d] = [50, 2, 20];
    let c = heads * d;
    for cpu in cpus() {
        for at in [0, 17, t - 1] {
            for part in 0..3 {
                let (mut x, _) = qkv(shape, 1.0);
                // The second element of head 1.
                x[at * 3 * c + part * c + d + 1] = bf16::NAN;
                let y = run(&cpu, &x, shape, 0);
                for (e, y) in y.iter().enumerate() {
                    let (row, j) = (e / c, e % c);
                    let spoilt = [row == at && j >= d, j >= d, j == d + 1][part];
                    assert!(y.is_nan() == spoilt, "part {part}, NaN at {at}: y[{row}, {j}] = {y}");
                }
            }
        }
    }
}
