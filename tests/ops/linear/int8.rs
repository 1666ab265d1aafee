//! int8 products against f64 on the rounded operands, and the same bits whatever computes them.

use half::bf16;
use inp_former::ops::linear::int8::{self, Packed, Rows};
use inp_former::ops::linear::packed::Epilogue;
use inp_former::runtime::simd::int8::Dot;
use inp_former::runtime::{Cpu, Tensor, Tier};

use super::{bits, product};
use crate::support::*;

/// (M, N, K): one, primes, one below and above the register tile (8x48) and each task (16 by 3 tiles), and ViT-S.
const SHAPES: [[usize; 3]; 10] = [
    [1, 1, 1],
    [1, 3, 2],
    [7, 47, 5],
    [9, 49, 17],
    [8, 48, 64],
    [47, 31, 3],
    [3, 33, 4],
    [127, 143, 7],
    [129, 145, 101],
    [13, 384, 1536],
];

/// Elements between rows of C.
const GAP: usize = 3;

/// Each way to multiply that the chip has; those that it lacks are printed as skipped.
fn dots() -> Vec<Dot> {
    let (here, missing): (Vec<_>, Vec<_>) = Dot::ALL.into_iter().partition(|d| d.is_supported());
    missing.iter().for_each(|d| println!("SKIPPED: {} is not on this processor", d.name()));
    here
}

struct Case {
    shape: [usize; 3],
    x: Tensor,
    by: Tensor,
    w: Tensor,
    bias: Tensor,
    c: Tensor,
    sum: Tensor,
    scale: Tensor,
    shift: Tensor,
}

impl Case {
    fn new(shape @ [m, n, k]: [usize; 3]) -> Self {
        Self {
            shape,
            x: random("int8.x", &[m, k]),
            by: uniform("int8.by", &[k], 1.0, 0.75),
            w: random("int8.w", &[n, k]),
            bias: random("int8.bias", &[n]),
            c: random("int8.c", &[m, n]),
            sum: random("int8.sum", &[m, n]),
            scale: uniform("int8.scale", &[m], 0.75, 0.5),
            shift: random("int8.shift", &[n]),
        }
    }
    fn epilogues(&self) -> [(&'static str, Epilogue<'_>); 4] {
        [
            ("store", Epilogue::Store),
            ("residual", Epilogue::Residual),
            ("gelu", Epilogue::Gelu),
            ("scaled gelu", Epilogue::ScaledGelu { scale: &self.scale.data, shift: &self.shift.data }),
        ]
    }
    fn packed(&self, cpu: &Cpu, bias: bool) -> Packed {
        let [_, n, k] = self.shape;
        Packed::new(cpu, &self.w.data, n, k, if bias { self.bias.data.clone() } else { Vec::new() })
    }
    /// Rows `rows` of C and of the sum.
    fn run(&self, cpu: &Cpu, w: &Packed, rows: std::ops::Range<usize>, epilogue: Epilogue) -> [Vec<f32>; 2] {
        let [_, n, k] = self.shape;
        let mut x = Rows::new(rows.len(), k);
        x.quantise(cpu, &self.x.data[rows.start * k..rows.end * k], &self.by.data);
        let epilogue = match epilogue {
            Epilogue::ScaledGelu { scale, shift } => {
                Epilogue::ScaledGelu { scale: &scale[rows.clone()], shift }
            }
            other => other,
        };
        let each = |r: usize| self.c.row(r).iter().copied().chain([f32::NAN; GAP]);
        let mut c: Vec<f32> = rows.clone().flat_map(each).collect();
        let mut sum = self.sum.data[rows.start * n..rows.end * n].to_vec();
        int8::forward(cpu, &x, w, &mut c[..], n + GAP, epilogue, Some(&mut sum));
        assert!(c.chunks_exact(n + GAP).all(|row| row[n..].iter().all(|x| x.is_nan())), "written past a row");
        [c.chunks_exact(n + GAP).flat_map(|row| row[..n].to_vec()).collect(), sum]
    }
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))
}

#[test]
fn every_epilogue_equals_f64_on_the_rounded_operands() {
    for shape @ [m, n, k] in SHAPES {
        let case = Case::new(shape);
        let cpu = Cpu::new(Some(1)).unwrap();
        let mut rows = Rows::new(m, k);
        rows.quantise(&cpu, &case.x.data, &case.by.data);
        let (x, w) = (rows.dequantised(), case.packed(&cpu, false).dequantised());
        let main = product([m, n, k], |i, j| x[i * k + j] as f64, |j, o| w[o * k + j] as f64).data;
        for bias in [false, true] {
            let of = |e: usize| main[e] + if bias { case.bias.data[e % n] as f64 } else { 0.0 };
            for (name, epilogue) in case.epilogues() {
                let want: Vec<f64> = (0..m * n)
                    .map(|e| match epilogue {
                        Epilogue::Store => of(e),
                        Epilogue::Residual => case.c.data[e] as f64 + of(e),
                        Epilogue::Gelu => gelu(of(e)),
                        Epilogue::ScaledGelu { scale, shift } => {
                            gelu(scale[e / n] as f64 * of(e) + shift[e % n] as f64)
                        }
                    })
                    .collect();
                let total: Vec<f64> = want.iter().zip(&case.sum.data).map(|(c, s)| c + *s as f64).collect();
                // Sums are exact: the first result of the tiers whose epilogue rounds alike is everyone's.
                let mut first: [Option<Vec<u32>>; 2] = [None, None];
                for dot in dots() {
                    for cpu in cpus() {
                        let what =
                            format!("{shape:?} {name} bias {bias} {} {}", dot.name(), cpu.tier().name());
                        let [c, sum] = case.run(&cpu, &case.packed(&cpu, bias).with_dot(dot), 0..m, epilogue);
                        close(&what, &c, &want, 1e-6);
                        close(&format!("sum {what}"), &sum, &total, 1e-6);
                        let bends = matches!(epilogue, Epilogue::Gelu | Epilogue::ScaledGelu { .. });
                        let class = (bends && cpu.tier() == Tier::Scalar) as usize;
                        let bits = bits(&[c, sum].concat());
                        assert!(first[class].get_or_insert_with(|| bits.clone()) == &bits, "{what}: bits");
                    }
                }
            }
        }
    }
}

/// The largest bytes of each sign, where adding pairs in 16 bits would overflow.
#[test]
fn the_largest_bytes_do_not_saturate() {
    let [m, n, k] = [9, 49, 1024];
    let sign = |e: usize| if e.is_multiple_of(2) { 1.0 } else { -1.0 };
    for (x_sign, w_sign) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut case = Case::new([m, n, k]);
        case.by.data.fill(1.0);
        case.x.data.iter_mut().enumerate().for_each(|(e, x)| *x = sign(e % k * x_sign));
        case.w.data.iter_mut().enumerate().for_each(|(e, w)| *w = sign((e / k + e % k) * w_sign));
        let want =
            product([m, n, k], |i, j| case.x.data[i * k + j] as f64, |j, o| case.w.data[o * k + j] as f64);
        for dot in dots() {
            for cpu in cpus() {
                let w = case.packed(&cpu, false).with_dot(dot);
                let [c, _] = case.run(&cpu, &w, 0..m, Epilogue::Store);
                close(&format!("{} {x_sign} {w_sign}", dot.name()), &c, &want.data, 1e-6);
            }
        }
    }
}

#[test]
fn rows_are_rounded_to_half_a_unit() {
    for [m, _, k] in SHAPES {
        let (mut x, by) = (random("int8.rows", &[m, k]), uniform("int8.by", &[k], 1.0, 0.75));
        for (r, row) in x.data.chunks_exact_mut(k.max(1)).enumerate() {
            let by = [1.0, 0.0, 1e-3, 3e4, 1e-36][r % 5];
            row.iter_mut().for_each(|x| *x *= by);
        }
        let got = each_tier("rows", |cpu| {
            let mut rows = Rows::new(m, k);
            rows.quantise(cpu, &x.data, &by.data);
            rows.dequantised()
        });
        assert!(got.windows(2).all(|g| bits(&g[0]) == bits(&g[1])), "tiers differ");
        for (r, (got, x)) in got[0].chunks_exact(k.max(1)).zip(x.data.chunks_exact(k.max(1))).enumerate() {
            let want: Vec<f64> = x.iter().zip(&by.data).map(|(x, b)| *x as f64 * *b as f64).collect();
            let unit = want.iter().fold(1e-30, |m: f64, x| m.max(x.abs())) / 127.0;
            for (g, w) in got.iter().zip(&want) {
                assert!((*g as f64 - w).abs() <= 0.50001 * unit, "row {r}: {g} for {w}, a unit is {unit}");
            }
        }
    }
}

#[test]
fn normalised_rows_equal_f64_to_half_a_unit() {
    for [m, _, k] in SHAPES.into_iter().filter(|s| s[2] > 0) {
        let (mut x, by) = (random("int8.norm", &[m, k]), uniform("int8.by", &[k], 1.0, 0.75));
        x.data.iter_mut().for_each(|x| *x += 5.0);
        let eps = 1e-6;
        for got in each_tier("normalised rows", |cpu| {
            let mut rows = Rows::new(m, k);
            rows.normalise(cpu, &x.data, eps, &by.data);
            rows.dequantised()
        }) {
            for (got, x) in got.chunks_exact(k).zip(x.data.chunks_exact(k)) {
                let mean = x.iter().map(|x| *x as f64).sum::<f64>() / k as f64;
                let var = x.iter().map(|x| (*x as f64 - mean).powi(2)).sum::<f64>() / k as f64;
                let at = |(x, b): (&f32, &f32)| (*x as f64 - mean) / (var + eps as f64).sqrt() * *b as f64;
                let want: Vec<f64> = x.iter().zip(&by.data).map(at).collect();
                let unit = want.iter().fold(1e-30, |m: f64, x| m.max(x.abs())) / 127.0;
                for (g, w) in got.iter().zip(&want) {
                    assert!((*g as f64 - w).abs() <= 0.5001 * unit + 1e-4, "{g} for {w}, a unit is {unit}");
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    let case = Case::new([131, 201, 77]);
    for cpu in cpus() {
        let w = case.packed(&cpu, true);
        for (name, epilogue) in case.epilogues() {
            let all = case.run(&cpu, &w, 0..131, epilogue).map(|x| bits(&x));
            for rows in [0..1, 5..6, 7..9, 96..131, 130..131] {
                let part = case.run(&cpu, &w, rows.clone(), epilogue).map(|x| bits(&x));
                let at = rows.start * 201..rows.end * 201;
                let same = (0..2).all(|i| part[i] == all[i][at.clone()]);
                assert!(same, "rows {rows:?}, {name} on {}", cpu.tier().name());
            }
        }
    }
}

#[test]
fn what_is_not_finite_spoils_its_row_or_its_output_and_no_other() {
    let [m, n, k] = [101, 70, 20];
    for (cpu, bad) in
        cpus().into_iter().flat_map(|c| [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(|b| (c.clone(), b)))
    {
        let (mut rows, mut columns) = (Case::new([m, n, k]), Case::new([m, n, k]));
        for row in [0, 50, 100] {
            rows.x.data[row * k + row % k] = bad;
        }
        columns.w.data[33 * k + 2] = bad;
        for (name, epilogue) in rows.epilogues() {
            let what = format!("{bad}, {name} on {}", cpu.tier().name());
            for y in rows.run(&cpu, &rows.packed(&cpu, true), 0..m, epilogue) {
                assert!((0..m * n).all(|e| y[e].is_nan() == (e / n % 50 == 0)), "row: {what}");
            }
            for y in columns.run(&cpu, &columns.packed(&cpu, true), 0..m, epilogue) {
                assert!((0..m * n).all(|e| y[e].is_nan() == (e % n == 33)), "column: {what}");
            }
        }
    }
}

#[test]
fn a_row_of_zeros_gives_the_bias_exactly() {
    let mut case = Case::new([3, 50, 40]);
    case.x.data[40..80].fill(0.0);
    for cpu in cpus() {
        let [c, _] = case.run(&cpu, &case.packed(&cpu, true), 0..3, Epilogue::Store);
        assert_eq!(c[50..100], case.bias.data[..]);
    }
}

/// bf16 in, bf16 out: as f32 on the same numbers, rounded once at the end.
#[test]
fn bf16_rows_and_results_equal_those_of_f32() {
    let case = Case::new([37, 70, 52]);
    let [m, n, k] = case.shape;
    let short: Vec<bf16> = case.x.data.iter().map(|x| bf16::from_f32(*x)).collect();
    let wide: Vec<f32> = short.iter().map(|x| x.to_f32()).collect();
    for cpu in cpus() {
        let (mut a, mut b) = (Rows::new(m, k), Rows::new(m, k));
        a.quantise(&cpu, &short, &case.by.data);
        b.quantise(&cpu, &wide, &case.by.data);
        assert_eq!(bits(&a.dequantised()), bits(&b.dequantised()), "rows on {}", cpu.tier().name());
        let w = case.packed(&cpu, true);
        let (mut c, mut d) = (vec![bf16::NAN; m * n], vec![f32::NAN; m * n]);
        int8::forward(&cpu, &a, &w, &mut c[..], n, Epilogue::Store, None);
        int8::forward(&cpu, &a, &w, &mut d[..], n, Epilogue::Store, None);
        assert!(c.iter().zip(&d).all(|(c, d)| *c == bf16::from_f32(*d)), "on {}", cpu.tier().name());
    }
}
