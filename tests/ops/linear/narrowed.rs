//! Products on a CPU that rounds their operands to bf16, against naive f64 on the rounded values.

use half::bf16;
use inp_former::ops::linear::gemm::{Mat, Start, gemm};
use inp_former::runtime::{Cpu, Tensor};

use super::{SHAPES, product, tolerance};
use crate::support::*;

fn rounded(x: &Tensor) -> Vec<f64> {
    x.data.iter().map(|x| bf16::from_f32(*x).to_f64()).collect()
}

/// Every way that operands may lie, rows further apart than they are long; what is not C stays NaN.
#[test]
fn products_of_rounded_operands_equal_naive_f64() {
    for [m, n, k] in SHAPES {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            let shape = |rows, cols, t: bool| if t { [cols, rows + 3] } else { [rows, cols + 3] };
            let (a, b) = (random("a", &shape(m, k, ta)), random("b", &shape(k, n, tb)));
            let (ra, rb) = (rounded(&a), rounded(&b));
            let at = |x: &[f64], ld: usize, t: bool, i: usize, j: usize| {
                x[if t { j * ld + i } else { i * ld + j }]
            };
            let want =
                product([m, n, k], |i, j| at(&ra, a.cols(), ta, i, j), |i, j| at(&rb, b.cols(), tb, i, j));
            let run = |cpu: &Cpu| {
                let mut c = vec![f32::NAN; m * (n + 2)];
                let of = |x, t: bool| Mat { transposed: t, ..Mat::plain(x, 0) };
                let (a, b) = (
                    Mat { ld: a.cols(), ..of(&a.data[..], ta) },
                    Mat { ld: b.cols(), ..of(&b.data[..], tb) },
                );
                gemm(&cpu.narrowed(), [m, n, k], a, b, &mut c, n + 2, Start::Zero);
                assert!(c.chunks(n + 2).all(|row| row[n..].iter().all(|x| x.is_nan())));
                c.chunks(n + 2).flat_map(|row| row[..n].to_vec()).collect()
            };
            for got in each_tier("narrowed", run) {
                close(&format!("{m} {n} {k} {ta} {tb}"), &got, &want.data, tolerance(k));
            }
        }
    }
}

#[test]
fn f64_and_an_exact_cpu_do_not_round() {
    let (a, b) = (random64("a", &[5, 7]), random64("b", &[7, 3]));
    let run = |cpu: &Cpu| {
        let mut c = vec![0.0; 15];
        gemm(cpu, [5, 3, 7], Mat::plain(&a.data, 7), Mat::plain(&b.data, 3), &mut c, 3, Start::Zero);
        c
    };
    assert_eq!(run(&cpu().narrowed()), run(&cpu()));
    assert!(cpu().narrowed().is_narrow() && !cpu().narrowed().exact().is_narrow());
}
