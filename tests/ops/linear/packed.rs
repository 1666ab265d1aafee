//! Weights packed once: every product and epilogue of the engine against naive f64 loops.

use inp_former::ops::linear::gemm::Mat;
use inp_former::ops::linear::packed::factors::{forward_transposed, heads, heads_to_panels};
use inp_former::ops::linear::packed::{self, Epilogue, Input, Packed, Panels};
use inp_former::runtime::{Cpu, Tensor};

use super::{bits, product, tolerance};
use crate::support::*;

/// (M, N, K, K of the tail): one, primes, one below and above each register tile (6x64, 8x32, 6x16, 4x8) and each task (12 by 4
/// tiles), and ViT-S.
const SHAPES: [[usize; 4]; 11] = [
    [1, 1, 1, 2],
    [1, 3, 2, 0],
    [7, 47, 5, 1],
    [9, 49, 17, 13],
    [4, 8, 64, 36],
    [47, 31, 3, 37],
    [49, 33, 0, 5],
    [95, 191, 7, 3],
    [97, 193, 101, 11],
    [13, 384, 1536, 36],
    [25, 129, 1601, 5],
];

/// Elements by which rows lie further apart than they are long.
const GAP: usize = 3;

/// `x (m, n)` with NaN behind each row.
fn spread(x: &Tensor, gap: usize) -> Vec<f32> {
    let row = |r| x.row(r).iter().copied().chain(std::iter::repeat_n(f32::NAN, gap));
    (0..x.shape()[0]).flat_map(row).collect()
}

/// Takes the gaps out again; they must be as they were.
#[track_caller]
fn gather(c: &[f32], n: usize) -> Vec<f32> {
    assert!(c.chunks_exact(n + GAP).all(|row| row[n..].iter().all(|x| x.is_nan())), "written past a row");
    c.chunks_exact(n + GAP).flat_map(|row| row[..n].to_vec()).collect()
}

/// Rows of `k` values from row `first` on.
fn from(spread: &[f32], first: usize, k: usize) -> Input<'_> {
    Input { data: &spread[first * (k + GAP)..], ld: k + GAP }
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))
}

/// Operands of one shape.
struct Case {
    shape: [usize; 4],
    a: Tensor,
    w: Tensor,
    bias: Tensor,
    tail: (Tensor, Tensor),
    c: Tensor,
    sum: Tensor,
    scale: Tensor,
    shift: Tensor,
}

impl Case {
    fn new(shape @ [m, n, k, kt]: [usize; 4]) -> Self {
        Self {
            shape,
            a: random("packed.a", &[m, k]),
            w: random("packed.w", &[n, k]),
            bias: random("packed.bias", &[n]),
            tail: (random("packed.tail", &[m, kt]), random("packed.v", &[n, kt])),
            c: random("packed.c", &[m, n]),
            sum: random("packed.sum", &[m, n]),
            scale: uniform("packed.scale", &[m], 0.75, 0.5),
            shift: random("packed.shift", &[n]),
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
    /// C in f64.
    fn want(&self, epilogue: Epilogue, bias: bool, tail: bool) -> Vec<f64> {
        let [m, n, k, kt] = self.shape;
        let of = |[a, w]: [&Tensor; 2], k: usize| {
            product([m, n, k], |i, j| a.data[i * k + j] as f64, |j, o| w.data[o * k + j] as f64).data
        };
        let (main, more) = (of([&self.a, &self.w], k), of([&self.tail.0, &self.tail.1], kt));
        let each = |e: usize| {
            let x = main[e]
                + if bias { self.bias.data[e % n] as f64 } else { 0.0 }
                + if tail { more[e] } else { 0.0 };
            match epilogue {
                Epilogue::Store => x,
                Epilogue::Gelu => gelu(x),
                Epilogue::ScaledGelu { scale, shift } => gelu(scale[e / n] as f64 * x + shift[e % n] as f64),
                Epilogue::Residual => self.c.data[e] as f64 + x,
            }
        };
        (0..m * n).map(each).collect()
    }
    /// C and the sum of the rows `rows`, rows of A, of the tail and of C lying apart.
    fn run(
        &self,
        cpu: &Cpu,
        rows: std::ops::Range<usize>,
        epilogue: Epilogue,
        bias: bool,
        tail: bool,
    ) -> [Vec<f32>; 2] {
        let [_, n, k, kt] = self.shape;
        let bias = if bias { self.bias.data.clone() } else { Vec::new() };
        let weights = Packed::paired(cpu, &self.w.data, n, k, bias);
        let more = Packed::new(cpu, &self.tail.1.data, n, kt, Vec::new());
        let (a, t, mut c) = (spread(&self.a, GAP), spread(&self.tail.0, GAP), spread(&self.c, GAP));
        let epilogue = match epilogue {
            Epilogue::ScaledGelu { scale, shift } => {
                Epilogue::ScaledGelu { scale: &scale[rows.clone()], shift }
            }
            other => other,
        };
        let mut sum = self.sum.data[rows.start * n..rows.end * n].to_vec();
        let tail = tail.then(|| (from(&t, rows.start, kt), more.view()));
        let out = &mut c[rows.start * (n + GAP)..rows.end * (n + GAP)];
        let mut room = vec![f32::NAN; packed::paired_len(rows.len(), k)];
        let a = packed::pair(cpu, rows.len(), from(&a, rows.start, k), &weights, &mut room);
        let b = weights.view();
        packed::forward(cpu, rows.len(), a, b, tail, out, n + GAP, epilogue, Some(&mut sum));
        [gather(out, n), sum]
    }
}

#[test]
fn every_epilogue_equals_naive_f64() {
    for shape in SHAPES {
        let case = Case::new(shape);
        let tol = 2.0 * tolerance(shape[2] + shape[3]);
        for (name, epilogue) in case.epilogues() {
            for (bias, tail) in [(false, false), (true, false), (false, true), (true, true)] {
                let want = case.want(epilogue, bias, tail);
                let total: Vec<f64> = want.iter().zip(&case.sum.data).map(|(c, s)| c + *s as f64).collect();
                let what = format!("{shape:?} {name}, bias {bias}, tail {tail}");
                let [c, sum] = [0, 1].map(|i| {
                    each_tier(&what, |cpu| case.run(cpu, 0..shape[0], epilogue, bias, tail)[i].clone())
                });
                c.iter().for_each(|c| close(&what, c, &want, tol));
                sum.iter().for_each(|s| close(&format!("sum {what}"), s, &total, tol));
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    let case = Case::new([131, 201, 77, 19]);
    for cpu in cpus() {
        for (name, epilogue) in case.epilogues() {
            let all = case.run(&cpu, 0..131, epilogue, true, true).map(|x| bits(&x));
            for rows in [0..1, 5..6, 7..9, 96..131, 130..131] {
                let part = case.run(&cpu, rows.clone(), epilogue, true, true).map(|x| bits(&x));
                let at = rows.start * 201..rows.end * 201;
                let same = (0..2).all(|i| part[i] == all[i][at.clone()]);
                assert!(same, "rows {rows:?}, {name} on {}", cpu.tier().name());
            }
        }
    }
}

#[test]
fn nan_spoils_its_row_and_no_other() {
    let [m, n, k] = [101, 70, 40];
    for cpu in cpus() {
        for (row, in_tail) in [(0, false), (50, true), (100, false)] {
            let mut case = Case::new([m, n, k, 4]);
            let (x, cols) = if in_tail { (&mut case.tail.0, 4) } else { (&mut case.a, k) };
            x.data[row * cols + 2] = f32::NAN;
            for (name, epilogue) in case.epilogues() {
                for y in case.run(&cpu, 0..m, epilogue, true, true) {
                    let fits = (0..m * n).all(|e| y[e].is_nan() == (e / n == row));
                    assert!(fits, "row {row}, {name} on {}", cpu.tier().name());
                }
            }
        }
    }
}

#[test]
fn some_rows_of_the_weights_alone() {
    let [m, n, k] = [10, 100, 40];
    let (a, w) = (random("slice.a", &[m, 7]), random("slice.w", &[n, k]));
    for k0 in [0, 9, 33] {
        let want = product([m, n, 7], |i, k| a.data[i * 7 + k] as f64, |j, o| w.data[o * k + k0 + j] as f64);
        for got in each_tier("slice_k", |cpu| {
            let weights = Packed::new(cpu, &w.data, n, k, random("slice.b", &[n]).data);
            let b = weights.slice_k(packed::tile::<f32>(cpu).1, k0, 7);
            let mut c = vec![f32::NAN; m * n];
            packed::forward(
                cpu,
                m,
                Input { data: &a.data, ld: 7 },
                b,
                None,
                &mut c,
                n,
                Epilogue::Store,
                None,
            );
            c
        }) {
            close(&format!("rows from {k0}"), &got, &want.data, tolerance(7));
        }
    }
}

#[test]
fn transposed_equals_naive_f64() {
    for [m, n, k, _] in SHAPES {
        let (a, b) = (random("aT", &[k, m]), random("b", &[k, n]));
        let want = product([m, n, k], |i, k| a.data[k * m + i] as f64, |k, j| b.data[k * n + j] as f64);
        for got in each_tier("transposed", |cpu| {
            let mut panels = vec![f32::NAN; n.next_multiple_of(packed::tile::<f32>(cpu).1) * k];
            packed::pack_into(cpu, &mut panels, Mat::plain(&b.data, n), n, k);
            let mut c = vec![f32::NAN; m * (n + GAP)];
            let a = spread(&a, GAP);
            forward_transposed(cpu, m, &a, m + GAP, Panels::new(&panels, n, k), &mut c, n + GAP);
            gather(&c, n)
        }) {
            close(&format!("{m}x{n}x{k}"), &got, &want.data, tolerance(k));
        }
    }
}

/// (rows, H, P, D): one, odd, more prototypes than a panel is wide, and ViT-S.
const HEADS: [[usize; 4]; 5] = [[1, 1, 1, 1], [7, 3, 5, 9], [65, 2, 6, 33], [33, 2, 50, 8], [70, 6, 6, 64]];

#[test]
fn heads_equal_naive_f64() {
    for [n, h, p, d] in HEADS {
        let (q, keys) = (random("heads.q", &[n, h * d]), random("heads.k", &[h * p, d]));
        let at = |i: usize, j: usize| {
            let (q, k) = (&q.row(i)[j / p * d..][..d], keys.row(j));
            q.iter().zip(k).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>()
        };
        let want: Vec<f64> = (0..n * h * p).map(|e| at(e / (h * p), e % (h * p))).collect();
        for got in each_tier("heads", |cpu| {
            let each = p.next_multiple_of(packed::tile::<f32>(cpu).1) * d;
            let mut panels = vec![f32::NAN; h * each];
            for (head, out) in panels.chunks_exact_mut(each).enumerate() {
                packed::pack_into(cpu, out, Mat::transposed(&keys.data[head * p * d..], d), p, d);
            }
            let (q, mut out) = (spread(&q, GAP), vec![f32::NAN; n * (h * p + GAP)]);
            heads(cpu, [h, p, d], Input { data: &q, ld: h * d + GAP }, &panels, &mut out, h * p + GAP);
            gather(&out, h * p)
        }) {
            close(&format!("{n}x{h}x{p}x{d}"), &got, &want, tolerance(d));
        }
    }
}

#[test]
fn heads_to_panels_equal_naive_f64() {
    for [n, h, p, d] in HEADS {
        let (v, w) = (random("panels.v", &[p, h * d]), random("panels.w", &[n, h * d]));
        let at = |r: usize, o: usize| {
            let part = r / p * d..(r / p + 1) * d;
            v.row(r % p)[part.clone()]
                .iter()
                .zip(&w.row(o)[part])
                .map(|(a, b)| *a as f64 * *b as f64)
                .sum::<f64>()
        };
        let want: Vec<f64> = (0..h * p * n).map(|e| at(e / n, e % n)).collect();
        // The panels are what a product takes: the unit matrix gives them back row by row.
        let unit = Tensor::new(
            &[h * p; 2],
            (0..(h * p).pow(2)).map(|e| (e % (h * p + 1) == 0) as u8 as f32).collect(),
        );
        for got in each_tier("heads to panels", |cpu| {
            let weights = Packed::new(cpu, &w.data, n, h * d, Vec::new());
            let mut panels = vec![f32::NAN; n.next_multiple_of(packed::tile::<f32>(cpu).1) * h * p];
            let v = spread(&v, GAP);
            heads_to_panels(cpu, [h, p, d], Input { data: &v, ld: h * d + GAP }, &weights, &mut panels);
            assert!(panels.iter().all(|x| x.is_finite()), "some of a panel is not written");
            let b = Panels::new(&panels, n, h * p);
            let mut c = vec![f32::NAN; h * p * n];
            let unit = Input { data: &unit.data, ld: h * p };
            packed::forward(cpu, h * p, unit, b, None, &mut c, n, Epilogue::Store, None);
            c
        }) {
            close(&format!("{n}x{h}x{p}x{d}"), &got, &want, tolerance(d));
        }
    }
}

#[test]
fn nothing_times_anything() {
    for cpu in cpus() {
        for [m, n, k] in [[0, 5, 3], [4, 0, 3], [0, 0, 0]] {
            let w = Packed::new(&cpu, &vec![1.0; n * k], n, k, Vec::new());
            let a = vec![1.0; m * k];
            let mut c = [7.0f32];
            let a = Input { data: &a, ld: k };
            packed::forward(&cpu, m, a, w.view(), None, &mut c, n, Epilogue::Store, None);
            assert_eq!(c, [7.0]);
        }
    }
}
