//! Packed layers of bf16 operands against naive f64 loops on the rounded values, native where the chip can and emulated on
//! the other tiers.

use half::bf16;
use inp_former::ops::linear::packed::factors::heads_to_panels;
use inp_former::ops::linear::packed::{self, Cell, Epilogue, Input, Packed, Panels};
use inp_former::runtime::simd::aligned::Aligned;
use inp_former::runtime::{Cpu, Tensor, Tier};

use super::{product, tolerance};
use crate::support::*;

/// (M, N, K, K of the tail): pairs of one, primes, one below and above each register tile (6x64, 4x8) and task, more than
/// one block of K (1536), and ViT-S.
const SHAPES: [[usize; 4]; 9] = [
    [1, 1, 2, 2],
    [5, 7, 6, 0],
    [7, 65, 4, 2],
    [6, 63, 34, 36],
    [95, 191, 8, 4],
    [97, 193, 102, 12],
    [3, 64, 1538, 2],
    [13, 96, 3074, 72],
    [13, 384, 1536, 36],
];

/// Half the distance of bf16 numbers: the largest relative error of rounding.
const HALF: f64 = 1.0 / 256.0;

fn rounded(x: &Tensor) -> Tensor {
    Tensor::new(x.shape(), x.data.iter().map(|x| bf16::from_f32(*x).to_f32()).collect())
}

fn operands(x: &[f32]) -> Vec<bf16> {
    x.iter().map(|x| bf16::from_f32(*x)).collect()
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))
}

/// Rounded operands of one shape.
struct Case {
    shape: [usize; 4],
    a: Tensor,
    w: Tensor,
    tail: (Tensor, Tensor),
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
}

impl Case {
    fn new(shape @ [m, n, k, kt]: [usize; 4]) -> Self {
        let value = |name: &str, of: &[usize]| rounded(&random(name, of));
        Self {
            shape,
            a: value("bf16.a", &[m, k]),
            w: value("bf16.w", &[n, k]),
            tail: (value("bf16.tail", &[m, kt]), value("bf16.v", &[n, kt])),
            bias: random("bf16.bias", &[n]),
            scale: uniform("bf16.scale", &[m], 0.75, 0.5),
            shift: random("bf16.shift", &[n]),
        }
    }
    fn epilogues(&self) -> [(&'static str, Epilogue<'_>); 4] {
        [
            ("store", Epilogue::Store),
            ("gelu", Epilogue::Gelu),
            ("scaled gelu", Epilogue::ScaledGelu { scale: &self.scale.data, shift: &self.shift.data }),
            ("residual", Epilogue::Residual),
        ]
    }
    fn want(&self, epilogue: Epilogue) -> Vec<f64> {
        let [m, n, k, kt] = self.shape;
        let of = |a: &Tensor, w: &Tensor, k: usize| {
            product([m, n, k], |i, j| a.data[i * k + j] as f64, |j, o| w.data[o * k + j] as f64).data
        };
        let (main, more) = (of(&self.a, &self.w, k), of(&self.tail.0, &self.tail.1, kt));
        let each = |e: usize| {
            let x = main[e] + more[e] + self.bias.data[e % n] as f64;
            match epilogue {
                Epilogue::Store => x,
                Epilogue::Gelu => gelu(x),
                Epilogue::ScaledGelu { scale, shift } => gelu(scale[e / n] as f64 * x + shift[e % n] as f64),
                Epilogue::Residual => 0.5 + x,
            }
        };
        (0..m * n).map(each).collect()
    }
    /// C of rows `rows` alone.
    fn run<Y: Cell<bf16>>(
        &self,
        cpu: &Cpu,
        rows: std::ops::Range<usize>,
        epilogue: Epilogue,
        c: Y,
    ) -> Vec<Y> {
        let [_, n, k, kt] = self.shape;
        let weights = Packed::<bf16>::new(cpu, &self.w.data, n, k, self.bias.data.clone());
        let more = Packed::<bf16>::new(cpu, &self.tail.1.data, n, kt, Vec::new());
        // Rows of A lie a pair further apart than they are long.
        let ld = k + 2;
        let a: Vec<bf16> =
            (rows.clone()).flat_map(|r| operands(self.a.row(r)).into_iter().chain([bf16::NAN; 2])).collect();
        let t = operands(&self.tail.0.data[rows.start * kt..rows.end * kt]);
        let epilogue = match epilogue {
            Epilogue::ScaledGelu { scale, shift } => {
                Epilogue::ScaledGelu { scale: &scale[rows.clone()], shift }
            }
            other => other,
        };
        let mut c = vec![c; rows.len() * n];
        let (a, tail) = (Input { data: &a, ld }, (Input { data: &t[..], ld: kt }, more.view()));
        packed::forward(cpu, rows.len(), a, weights.view(), Some(tail), &mut c, n, epilogue, None);
        c
    }
}

#[test]
fn every_epilogue_equals_naive_f64() {
    for shape in SHAPES {
        let case = Case::new(shape);
        // Both elements of a pair are added one after the other, and products below the smallest normal are lost.
        let tol = 2.0 * tolerance(shape[2] + shape[3]);
        for (name, epilogue) in case.epilogues() {
            let want = case.want(epilogue);
            // The tier's GELU is a fourth of a rounding to bf16 off.
            let tol = if name.contains("gelu") { tol + 5e-4 } else { tol };
            let top = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            let what = format!("{shape:?} {name}");
            let start = if name == "residual" { 0.5 } else { f32::NAN };
            for c in each_tier(&what, |cpu| case.run(cpu, 0..shape[0], epilogue, start)) {
                close(&what, &c, &want, tol);
            }
            if name == "residual" {
                continue;
            }
            for c in each_tier(&what, |cpu| {
                case.run(cpu, 0..shape[0], epilogue, bf16::NAN).iter().map(|x| x.to_f32()).collect()
            }) {
                for (c, want) in c.iter().zip(&want) {
                    let e = (*c as f64 - want).abs();
                    assert!(e <= HALF * want.abs() + tol * top, "rounded {what}: {c} is not {want}");
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    let case = Case::new([131, 201, 78, 20]);
    for cpu in cpus() {
        for (name, epilogue) in &case.epilogues()[..3] {
            let all = case.run(&cpu, 0..131, *epilogue, bf16::NAN);
            let sums = case.run(&cpu, 0..131, *epilogue, f32::NAN);
            for rows in [0..1, 5..6, 7..9, 96..131, 130..131] {
                let at = rows.start * 201..rows.end * 201;
                let same = case.run(&cpu, rows.clone(), *epilogue, bf16::NAN) == all[at.clone()]
                    && case.run(&cpu, rows.clone(), *epilogue, f32::NAN) == sums[at];
                assert!(same, "rows {rows:?}, {name} on {}", cpu.tier().name());
            }
        }
    }
}

/// Sums of small integers are exact, so the instruction and its emulation must agree in every bit.
#[test]
fn the_instruction_is_what_is_emulated() {
    let (m, n, k) = (9, 70, 34);
    let int = |name: &str, shape: &[usize]| {
        let x = random(name, shape);
        Tensor::new(shape, x.data.iter().map(|x| (x * 20.0).round()).collect())
    };
    let (a, w) = (int("bf16.ints", &[m, k]), int("bf16.more", &[n, k]));
    let run = |cpu: &Cpu| {
        let weights = Packed::<bf16>::new(cpu, &w.data, n, k, Vec::new());
        let (a, mut c) = (operands(&a.data), vec![f32::NAN; m * n]);
        let a = Input { data: &a[..], ld: k };
        packed::forward(cpu, m, a, weights.view(), None, &mut c, n, Epilogue::Store, None);
        c
    };
    let want = run(&Cpu::with_tier(Some(1), Tier::Scalar).unwrap());
    assert!(want.iter().any(|x| *x != 0.0));
    if !Cpu::new(Some(1)).unwrap().has_bf16() {
        println!("SKIPPED: this processor has no instructions for bf16");
    }
    cpus().iter().for_each(|cpu| assert_eq!(run(cpu), want, "{}", cpu.tier().name()));
}

#[test]
fn nan_spoils_its_row_and_no_other() {
    let [m, n, k] = [101, 70, 20];
    for cpu in cpus() {
        for row in [0, 50, 100] {
            let mut case = Case::new([m, n, k, 4]);
            case.a.data[row * k + 3] = f32::NAN;
            for (name, epilogue) in &case.epilogues()[..3] {
                let c = case.run(&cpu, 0..m, *epilogue, bf16::ZERO);
                let fits = (0..m * n).all(|e| c[e].is_nan() == (e / n == row));
                assert!(fits, "row {row}, {name} on {}", cpu.tier().name());
            }
        }
    }
}

/// (N, H, P, D): prototypes of one head in pairs, and across heads.
const HEADS: [[usize; 4]; 5] = [[1, 1, 1, 2], [7, 3, 5, 10], [65, 2, 6, 34], [33, 2, 50, 8], [70, 6, 6, 64]];

#[test]
fn heads_to_panels_equal_naive_f64() {
    for [n, h, p, d] in HEADS {
        let (v, w) = (rounded(&random("bf16.v", &[p, h * d])), rounded(&random("bf16.pw", &[n, h * d])));
        let at = |r: usize, o: usize| {
            let part = r / p * d..(r / p + 1) * d;
            let pairs = v.row(r % p)[part.clone()].iter().zip(&w.row(o)[part]);
            pairs.map(|(a, b)| *a as f64 * *b as f64).sum::<f64>()
        };
        let (rows, even) = (h * p, (h * p).next_multiple_of(2));
        let want: Vec<f64> = (0..rows * n).map(|e| at(e / n, e % n)).collect();
        // The panels are what a product takes: the unit matrix gives them back row by row.
        let unit: Vec<bf16> =
            (0..rows * even).map(|e| bf16::from_f32((e / even == e % even) as u8 as f32)).collect();
        for got in each_tier("heads to panels", |cpu| {
            let weights = Packed::<bf16>::new(cpu, &w.data, n, h * d, Vec::new());
            let mut panels = Aligned::zeros(n.next_multiple_of(packed::tile::<bf16>(cpu).1) * even / 2);
            let v = operands(&v.data);
            heads_to_panels(cpu, [h, p, d], Input { data: &v[..], ld: h * d }, &weights, &mut panels);
            let mut c = vec![f32::NAN; rows * n];
            let unit = Input { data: &unit[..], ld: even };
            packed::forward(
                cpu,
                rows,
                unit,
                Panels::new(&panels, n, even),
                None,
                &mut c,
                n,
                Epilogue::Store,
                None,
            );
            c
        }) {
            close(&format!("{n}x{h}x{p}x{d}"), &got, &want, HALF + tolerance(d));
        }
    }
}
