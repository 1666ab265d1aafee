//! `attention` against a naive f64 softmax, over shapes around every tile.

mod bf16;
mod cuda;

use inp_former::ops::attention::{self, Softmax};
use inp_former::runtime::{Cpu, Tensor};

use crate::support::*;

/// softmax(q·kᵀ·D^-0.5)·v in f64, a head and a row at a time.
fn naive(qkv: &Tensor<f64>, heads: usize) -> Tensor<f64> {
    let (b, t, c) = (qkv.shape()[0], qkv.shape()[1], qkv.cols() / 3);
    let d = c / heads;
    let mut y = Tensor::zeros(&[b, t, c]);
    for b in 0..b {
        let at = |row: usize, part: usize, h: usize| &qkv.slab(b)[row * 3 * c + part * c + h * d..][..d];
        for h in 0..heads {
            for i in 0..t {
                let dot = |j| at(i, 0, h).iter().zip(at(j, 1, h)).map(|(x, y)| x * y).sum::<f64>();
                let p: Vec<f64> = (0..t).map(|j| dot(j) / (d as f64).sqrt()).collect();
                let top = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let p: Vec<f64> = p.iter().map(|x| (x - top).exp()).collect();
                let sum: f64 = p.iter().sum();
                for (j, p) in p.iter().enumerate() {
                    for (e, v) in at(j, 2, h).iter().enumerate() {
                        y.data[(b * t + i) * c + h * d + e] += p / sum * v;
                    }
                }
            }
        }
    }
    y
}

/// (B, T, heads, D): one, primes, odd D, around 8x48, 6x16 and 4x8 tiles and their groups of four, and ViT-S and -B.
const SHAPES: [[usize; 4]; 11] = [
    [1, 1, 1, 1],
    [2, 2, 3, 5],
    [1, 7, 2, 17],
    [3, 9, 1, 32],
    [1, 31, 2, 33],
    [1, 33, 1, 48],
    [1, 47, 2, 49],
    [2, 49, 1, 64],
    [1, 97, 3, 64],
    [1, 201, 6, 64],
    [1, 53, 12, 64],
];

#[test]
fn equals_naive_f64() {
    for [b, t, heads, d] in SHAPES {
        // Wide scores, so that the softmax is far from flat.
        let qkv = uniform("attention.qkv", &[b, t, 3 * heads * d], 0.0, 3.0);
        let want = naive(&qkv.cast(), heads);
        for cpu in cpus() {
            let what = format!("{b}x{t}x{heads}x{d} on {} {}", cpu.tier().name(), cpu.threads());
            close(&what, &attention::forward(&cpu, &qkv, heads).unwrap().data, &want.data, 3e-6);
        }
    }
    let qkv = random64("attention.f64", &[2, 11, 30]);
    let y = attention::forward(&Cpu::new(Some(2)).unwrap(), &qkv, 2).unwrap();
    close("f64", &y.data, &naive(&qkv, 2).data, 1e-14);
}

#[test]
fn scores_of_any_size_do_not_overflow() {
    let mut qkv = random("attention.large", &[1, 40, 96]);
    qkv.data.iter_mut().for_each(|x| *x *= 1e4);
    let want = naive(&qkv.cast(), 1);
    for cpu in cpus() {
        close("large", &attention::forward(&cpu, &qkv, 1).unwrap().data, &want.data, 1e-3);
    }
}

#[test]
fn a_picture_has_the_same_bits_alone_in_a_batch_and_on_any_threads() {
    let (t, heads, c) = (77, 2, 64);
    let qkv = random("attention.bits", &[3, t, 3 * c]);
    let mut last: Option<(_, Vec<u32>)> = None;
    for cpu in cpus() {
        let y = attention::forward(&cpu, &qkv, heads).unwrap();
        for b in 0..3 {
            let alone = Tensor::new(&[1, t, 3 * c], qkv.slab(b).to_vec());
            let alone = attention::forward(&cpu, &alone, heads).unwrap();
            assert!(alone.data.iter().zip(y.slab(b)).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
        let bits: Vec<u32> = y.data.iter().map(|x| x.to_bits()).collect();
        if let Some((tier, before)) = last.replace((cpu.tier(), bits.clone())) {
            assert!(tier != cpu.tier() || before == bits, "threads change bits on {}", tier.name());
        }
    }
}

#[test]
fn the_rows_from_one_on_have_the_bits_that_all_have() {
    let (t, heads, c) = (77, 2, 64);
    let qkv = random("attention.first", &[1, t, 3 * c]);
    let softmax = Softmax::Natural((32f32).powf(-0.5));
    for cpu in cpus() {
        let want = attention::forward(&cpu, &qkv, heads).unwrap();
        // The buffer serves one picture after another.
        let mut scratch = attention::Scratch::new(&cpu, t, c, heads);
        for first in [0, 1, 5, 33, 76, 77] {
            let mut y = vec![f32::NAN; t * c];
            attention::picture(&cpu, &qkv.data, [t, c, heads], softmax, first, &mut scratch, &mut y);
            let (before, from) = y.split_at(first * c);
            assert!(before.iter().all(|x| x.is_nan()), "rows before {first} were written");
            let same = from.iter().zip(&want.data[first * c..]).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "rows from {first} on {} {}", cpu.tier().name(), cpu.threads());
        }
    }
}

#[test]
fn the_scale_and_log2_e_may_be_in_the_query_already() {
    for (t, d) in [(1, 3), (31, 8), (53, 20), (128, 64), (201, 64)] {
        let (heads, c) = (3, 3 * d);
        let qkv = uniform("attention.scaled", &[1, t, 3 * c], 0.0, 3.0);
        let want = naive(&qkv.cast(), heads);
        let mut scaled = qkv.clone();
        let by = (d as f64).powf(-0.5) * std::f64::consts::LOG2_E;
        for row in scaled.data.chunks_exact_mut(3 * c) {
            row[..c].iter_mut().for_each(|x| *x = (*x as f64 * by) as f32);
        }
        let what = format!("{t}x{heads}x{d}");
        for got in each_tier(&what, |cpu| {
            let mut y = vec![f32::NAN; t * c];
            let mut scratch = attention::Scratch::new(cpu, t, c, heads);
            attention::picture(cpu, &scaled.data, [t, c, heads], Softmax::Base2, 0, &mut scratch, &mut y);
            y
        }) {
            close(&what, &got, &want.data, 3e-6);
        }
    }
}

#[test]
fn nan_is_never_lost() {
    let (t, heads, d) = (50, 2, 20);
    let c = heads * d;
    for cpu in cpus() {
        for at in [0, 17, t - 1] {
            // (part of qkv, whether an element of y must be NaN); the element spoilt is the second of head 1.
            type Spoilt = fn(usize, usize, usize) -> bool;
            let cases: [(usize, Spoilt); 3] =
                [(0, |row, j, at| row == at && j >= 20), (1, |_, j, _| j >= 20), (2, |_, j, _| j == 21)];
            for (part, spoilt) in cases {
                let mut qkv = random("attention.nan", &[1, t, 3 * c]);
                qkv.data[at * 3 * c + part * c + d + 1] = f32::NAN;
                let y = attention::forward(&cpu, &qkv, heads).unwrap();
                let fits = (0..t * c).all(|e| y.data[e].is_nan() == spoilt(e / c, e % c, at));
                assert!(fits, "part {part}, row {at} on {}", cpu.tier().name());
            }
        }
    }
}

#[test]
fn empty_and_misshapen_inputs() {
    let cpu = Cpu::new(Some(2)).unwrap();
    for shape in [[0, 4, 12], [2, 0, 12], [2, 4, 0]] {
        let y = attention::forward(&cpu, &Tensor::<f32>::zeros(&shape), 2).unwrap();
        assert_eq!(y.shape(), [shape[0], shape[1], shape[2] / 3]);
    }
    for (cols, heads) in [(12, 3), (13, 2), (12, 0)] {
        let e = attention::forward(&cpu, &Tensor::<f32>::zeros(&[1, 4, cols]), heads).unwrap_err();
        assert!(e.to_string().contains("`qkv`"), "{e}");
    }
}
