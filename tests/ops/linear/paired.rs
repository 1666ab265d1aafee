//! Products in pairs: the tile against its definition, and sums of any magnitude against f64.

use inp_former::ops::linear::gemm::{Mat, Start, gemm, product};
use inp_former::runtime::simd::paired::{ROWS, Rows, STEP, VECTORS, tile};
use inp_former::runtime::simd::{Kernel, Simd, Tier};
use inp_former::runtime::{Cpu, Tensor};

use super::bits;
use crate::support::*;

/// A register tile by the tier's instructions, and as it is defined; A in rows, or in columns 16 apart.
struct Both<'a> {
    a: &'a [f32],
    in_rows: bool,
    b: &'a [f32],
    steps: usize,
}
impl Kernel<f32> for Both<'_> {
    type Output = [Vec<f32>; 2];
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) -> Self::Output {
        let (nr, len) = (S::NV * S::LANES, ROWS * VECTORS * S::LANES);
        let [row, col] = if self.in_rows { [self.a.len() / ROWS, 1] } else { [1, 16] };
        let a = Rows { p: self.a.as_ptr(), row, col };
        let k = self.steps * STEP;
        assert!((ROWS - 1) * row + (k - 1) * col < self.a.len() && k * nr <= self.b.len());
        let begin: Vec<f32> = (0..len).map(|i| i as f32 * 0.37 - 20.0).collect();
        let mut all = [begin.clone(), begin];
        let [by, as_defined] = all.each_mut().map(|x| x.as_mut_ptr());
        // SAFETY: lengths were asserted.
        unsafe {
            s.paired(a, self.b.as_ptr(), self.steps, by, self.b.as_ptr());
            tile(s, a, self.b.as_ptr(), self.steps, as_defined);
        }
        all
    }
}

#[test]
fn the_instructions_do_what_is_defined() {
    let (a, b) = (random("pair.a", &[16 * 3 * 40]), random("pair.b", &[64 * 3 * 40]));
    for cpu in cpus() {
        for (steps, in_rows) in [1, 2, 7, 40].into_iter().flat_map(|n| [(n, true), (n, false)]) {
            let [by, as_defined] = cpu.dispatch(Both { a: &a.data, in_rows, b: &b.data, steps });
            assert_eq!(bits(&by), bits(&as_defined), "{steps} steps on {}", cpu.tier().name());
        }
    }
}

/// The tier that pairs, if this chip has it.
fn paired() -> Option<Cpu> {
    let cpu = Cpu::with_tier(Some(2), Tier::Avx512Paired).ok();
    if cpu.is_none() {
        println!("SKIPPED: tier {} is not on this processor", Tier::Avx512Paired.name());
    }
    cpu
}

/// `max |error| / (‖a row‖·‖b column‖)`, in roundings of f32; NaN if the result has one.
fn error([m, n, k]: [usize; 3], a: &[f32], b: &[f32], c: &[f32]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| (x as f64).powi(2)).sum::<f64>().sqrt();
    let rows: Vec<f64> = (0..m).map(|i| norm(&mut a[i * k..(i + 1) * k].iter().copied())).collect();
    let cols: Vec<f64> = (0..n).map(|j| norm(&mut (0..k).map(|r| b[r * n + j]))).collect();
    let mut worst = 0.0f64;
    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
        let want: f64 = (0..k).map(|r| a[i * k + r] as f64 * b[r * n + j] as f64).sum();
        let off = (c[i * n + j] as f64 - want).abs();
        let e = if rows[i] * cols[j] == 0.0 { off * f64::MAX } else { off / (rows[i] * cols[j]) };
        worst = if e <= worst { worst } else { e };
    }
    worst * 2f64.powi(24)
}

/// As exact as the plain order, or nearly: whatever the magnitude of rows, columns and channels.
#[test]
fn sums_of_any_magnitude_are_as_exact() {
    let Some(cpu) = paired() else { return };
    let plain = Cpu::with_tier(Some(2), Tier::Avx512).unwrap();
    let shape @ [m, n, k] = [37, 130, 1600];
    let change = |name: &str, f: &dyn Fn(usize, usize, f32) -> f32, rows: usize, cols: usize| {
        let x = random(name, &[rows, cols]).data.into_iter().enumerate();
        x.map(|(e, x)| f(e / cols, e % cols, x)).collect::<Vec<f32>>()
    };
    type Change<'a> = &'a dyn Fn(usize, usize, f32) -> f32;
    let same: Change = &|_, _, x| x;
    let cases: [(&str, Change, Change); 9] = [
        ("even", same, same),
        ("positive", &|_, _, x| x.abs(), same),
        ("rows", &|i, _, x| x * 2f32.powi(3 * i as i32 - 60), same),
        ("columns", same, &|_, j, x| x * 1.7f32.powi(j as i32 - 60)),
        ("squares out of range", &|i, _, x| x * if i % 2 == 0 { 1e-25 } else { 1e22 }, same),
        ("hardly a number", &|_, _, x| x * 1e-37, &|_, _, x| x * 1e20),
        ("outlying channels", &|_, c, x| if c % 400 == 7 { 300.0 * x } else { x }, same),
        ("few are not zero", &|i, c, x| if (i + c) % 97 == 0 { x } else { 0.0 }, same),
        ("rows and columns of zeros", &|i, _, x| if i % 3 == 0 { 0.0 } else { x }, &|_, j, x| {
            if j % 5 == 0 { 0.0 } else { x }
        }),
    ];
    for (name, of_a, of_b) in cases {
        let (a, b) = (change("exact.a", of_a, m, k), change("exact.b", of_b, k, n));
        let [at, bt] = [(&a, m, k), (&b, k, n)]
            .map(|(x, r, c)| (0..c * r).map(|e| x[e % r * c + e / r]).collect::<Vec<f32>>());
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            let fa = if ta { Mat::transposed(&at, m) } else { Mat::plain(&a, k) };
            let fb = if tb { Mat::transposed(&bt, k) } else { Mat::plain(&b, n) };
            let [e, of_plain] =
                [&cpu, &plain].map(|cpu| error(shape, &a, &b, &product(cpu, shape, fa, fb, None)));
            println!("{name} {ta} {tb}: {e:.1} roundings, in the plain order {of_plain:.1}");
            assert!(e <= 3.0, "{name}: {e} roundings");
        }
    }
}

/// A row of zeros gives the bias, not what rounding left of it; what is not finite stays in its row and column.
#[test]
fn zeros_are_exact_and_what_is_not_finite_stays_in_its_place() {
    let Some(cpu) = paired() else { return };
    let shape @ [m, n, k] = [50, 70, 90];
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (mut a, mut b) = (random("place.a", &[m, k]), random("place.b", &[k, n]));
        a.data[3 * k..4 * k].fill(0.0);
        (0..k).for_each(|r| b.data[r * n + 5] = 0.0);
        let bias = random("place.bias", &[n]);
        let clean = product(&cpu, shape, Mat::plain(&a.data, k), Mat::plain(&b.data, n), Some(&bias.data));
        assert_eq!(bits(&clean[3 * n..4 * n]), bits(&bias.data));
        (0..m).for_each(|i| assert_eq!(clean[i * n + 5].to_bits(), bias.data[5].to_bits()));
        (a.data[40 * k + 10], b.data[20 * n + 66]) = (bad, bad);
        let got = product(&cpu, shape, Mat::plain(&a.data, k), Mat::plain(&b.data, n), Some(&bias.data));
        for (e, (got, clean)) in got.iter().zip(&clean).enumerate() {
            match e / n == 40 || e % n == 66 {
                true => assert!(!got.is_finite(), "{bad} lost at {e}"),
                false => assert_eq!(got.to_bits(), clean.to_bits(), "{bad} reaches {e}"),
            }
        }
    }
}

/// Few columns, or few steps of K, are not worth it: they have the bits of the plain order.
#[test]
fn small_products_keep_the_plain_order() {
    let Some(cpu) = paired() else { return };
    let plain = Cpu::with_tier(Some(1), Tier::Avx512).unwrap();
    for ([m, n, k], pairs) in [([40, 63, 500], false), ([40, 100, 31], false), ([40, 64, 32], true)] {
        let (a, b) = (random("small.a", &[m, k]), random("small.b", &[k, n]));
        let [x, y] = [&cpu, &plain].map(|cpu| {
            let mut c = Tensor::zeros(&[m, n]);
            let (a, b) = (Mat::plain(&a.data, k), Mat::plain(&b.data, n));
            gemm(cpu, [m, n, k], a, b, &mut c.data, n, Start::Zero);
            bits(&c.data)
        });
        assert_eq!(x != y, pairs, "{m}x{n}x{k}");
    }
}
