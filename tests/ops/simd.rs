//! The vector functions of every tier against f64 libm, and the choice of a tier.

use half::bf16;
use inp_former::runtime::simd::{Product, ProductKernel, slice};
use inp_former::runtime::{Cpu, Elem, Kernel, Simd, Tier};

use crate::support::*;

/// `(exp x, erf x)` of a slice.
struct ExpErf<'a, E>(&'a [E]);
impl<E: Elem> Kernel<E> for ExpErf<'_, E> {
    type Output = (Vec<E>, Vec<E>);
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) -> Self::Output {
        let (mut exp, mut erf) = (self.0.to_vec(), self.0.to_vec());
        slice::map(s, &mut exp, |x| s.exp(x));
        slice::map(s, &mut erf, |x| s.erf(x));
        (exp, erf)
    }
}

#[test]
fn exp_and_erf_keep_their_bounds() {
    // Every 1999th f32 of either sign, from 0 to infinity.
    let x: Vec<f32> = (0..=f32::INFINITY.to_bits())
        .step_by(1999)
        .flat_map(|b| [f32::from_bits(b), -f32::from_bits(b)])
        .collect();
    // And densely where they bend.
    let x: Vec<f32> = x.into_iter().chain((-900_000..900_000).map(|i| i as f32 * 1e-4)).collect();
    let floor = 2f64.powf(-125.5);
    for cpu in cpus() {
        let (exp, erf) = cpu.dispatch(ExpErf(&x));
        let (mut worst_exp, mut worst_erf) = (0.0f64, 0.0f64);
        for ((&x, exp), erf) in x.iter().zip(exp).zip(erf) {
            let want = libm::exp(x as f64);
            if want > f32::MAX as f64 * (1.0 + 1e-6) {
                assert_eq!(exp, f32::INFINITY, "exp({x})");
            } else if want < floor * (1.0 - 1e-6) {
                assert_eq!(exp, 0.0, "exp({x})");
            } else if want > floor * (1.0 + 1e-6) && want < f32::MAX as f64 * (1.0 - 1e-6) {
                worst_exp = worst_exp.max((exp as f64 / want - 1.0).abs());
                assert!(
                    (exp as f64 / want - 1.0).abs() <= f32::EPSILON as f64,
                    "exp({x}) = {exp}, not {want}"
                );
            }
            let e = (erf as f64 - libm::erf(x as f64)).abs();
            assert!(e <= 1.1e-7, "erf({x}) = {erf}: off by {e:.2e}");
            worst_erf = worst_erf.max(e);
        }
        println!(
            "{}: exp {:.2} ulp, erf {worst_erf:.2e}",
            cpu.tier().name(),
            worst_exp / f32::EPSILON as f64
        );
        let (exp, erf) = cpu.dispatch(ExpErf(&[0.0f32, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0]));
        assert_eq!((exp[0], exp[1], exp[2], exp[4]), (1.0, f32::INFINITY, 0.0, 1.0));
        assert_eq!((erf[0], erf[1], erf[2], erf[4]), (0.0, 1.0, -1.0, 0.0));
        assert!(exp[3].is_nan() && erf[3].is_nan());
    }
}

/// `(2^x, gelu x)` of a slice.
struct Exp2Gelu<'a, E>(&'a [E]);
impl<E: Elem> Kernel<E> for Exp2Gelu<'_, E> {
    type Output = (Vec<E>, Vec<E>);
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) -> Self::Output {
        let (mut exp2, mut gelu) = (self.0.to_vec(), self.0.to_vec());
        slice::map(s, &mut exp2, |x| s.exp2(x));
        slice::map(s, &mut gelu, |x| s.gelu(x));
        (exp2, gelu)
    }
}

#[test]
fn exp2_and_gelu_keep_their_bounds() {
    let gelu64 = |x: f64| 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
    // Every 1999th finite f32 of either sign, and densely where they bend.
    let x: Vec<f32> = (0..f32::INFINITY.to_bits())
        .step_by(1999)
        .flat_map(|b| [f32::from_bits(b), -f32::from_bits(b)])
        .chain((-1_300_000..1_270_000).map(|i| i as f32 * 1e-4))
        .collect();
    for cpu in cpus() {
        let (exp2, gelu) = cpu.dispatch(Exp2Gelu(&x));
        let (mut worst_exp2, mut worst_gelu) = (0.0f64, 0.0f64);
        for ((&x, exp2), gelu) in x.iter().zip(exp2).zip(gelu) {
            if x <= 127.0 {
                let e = (exp2 as f64 / libm::exp2(x.max(-125.0) as f64) - 1.0).abs();
                assert!(!e.is_nan(), "2^{x} = {exp2}");
                worst_exp2 = worst_exp2.max(e);
            }
            let e = (gelu as f64 - gelu64(x as f64)).abs();
            assert!(!e.is_nan(), "gelu({x}) = {gelu}");
            worst_gelu = worst_gelu.max(e / (1.0 + x.abs() as f64));
        }
        println!("{}: exp2 {worst_exp2:.2e}, gelu {worst_gelu:.2e} of 1 + |x|", cpu.tier().name());
        assert!(worst_exp2 <= 2.4e-7 && worst_gelu <= 6e-8, "on {}", cpu.tier().name());
        let (exp2, gelu) = cpu.dispatch(Exp2Gelu(&[0.0f32, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]));
        let floor = 2f64.powi(-125);
        assert!((exp2[0] - 1.0).abs() <= 2.4e-7 && (exp2[2] as f64 / floor - 1.0).abs() <= 2.4e-7);
        assert!(gelu[0] == 0.0 && gelu[1] == f32::INFINITY && gelu[2].abs() <= 1e-8);
        assert!(exp2[3].is_nan() && gelu[3].is_nan());
    }
}

/// As [`Exp2Gelu`], for results that are rounded to X.
struct Coarse<'a>(&'a [f32]);
impl ProductKernel<bf16> for Coarse<'_> {
    type Output = (Vec<f32>, Vec<f32>);
    #[inline(always)]
    fn run<P: Product<X = bf16>>(self, p: P) -> Self::Output {
        let (mut exp2, mut gelu) = (self.0.to_vec(), self.0.to_vec());
        slice::map(p.simd(), &mut exp2, |x| p.exp2(x));
        slice::map(p.simd(), &mut gelu, |x| p.gelu(x));
        (exp2, gelu)
    }
}

#[test]
fn exp2_and_gelu_for_bf16_keep_their_bounds() {
    let x: Vec<f32> = (-1_200_000..200_000).map(|i| i as f32 * 1e-4).collect();
    for cpu in cpus() {
        let (exp2, gelu) = cpu.product(Coarse(&x));
        for ((&x, exp2), gelu) in x.iter().zip(exp2).zip(gelu) {
            if x <= 0.0 {
                let e = (exp2 as f64 / libm::exp2(x as f64) - 1.0).abs();
                assert!(e <= 1e-4, "2^{x} = {exp2} on {}", cpu.tier().name());
            }
            let want = 0.5 * x as f64 * libm::erfc(-x as f64 * std::f64::consts::FRAC_1_SQRT_2);
            let e = (gelu as f64 - want).abs();
            let bound = if x >= -6.0 { 5e-4 * want.abs() } else { 1e-8 };
            assert!(e <= bound + 2e-7, "gelu({x}) = {gelu}, not {want} on {}", cpu.tier().name());
        }
        let (exp2, gelu) = cpu.product(Coarse(&[0.0, f32::NEG_INFINITY, f32::NAN, f32::INFINITY]));
        assert!((exp2[0] - 1.0).abs() <= 1e-4 && exp2[1].abs() <= 1e-37 && exp2[2].is_nan());
        assert!(gelu[0] == 0.0 && gelu[1].abs() <= 1e-8 && gelu[2].is_nan() && gelu[3] == f32::INFINITY);
    }
}

/// Reductions of a slice, as `[dot, sum, Σ(a - 1)², max]`.
struct Reduce<'a, E>(&'a [E], &'a [E]);
impl<E: Elem> Kernel<E> for Reduce<'_, E> {
    type Output = [E; 4];
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) -> [E; 4] {
        let Self(a, b) = self;
        [slice::dot(s, a, b), slice::sum(s, a), slice::sum_sq_dev(s, a, E::ONE), slice::max(s, a)]
    }
}

#[test]
fn reductions_of_every_length() {
    for n in (0..140).chain([1000]) {
        let (a, b) = (uniform("reduce.a", &[n], -2.0, 1.0), random("reduce.b", &[n]));
        let (x, y) = (a.cast::<f64>().data, b.cast::<f64>().data);
        let want = [
            x.iter().zip(&y).map(|(x, y)| x * y).sum::<f64>(),
            x.iter().sum(),
            x.iter().map(|x| (x - 1.0).powi(2)).sum(),
            x.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ];
        for cpu in cpus() {
            let got = cpu.dispatch(Reduce(&a.data, &b.data));
            for (got, want) in got.into_iter().zip(want) {
                let e = (got as f64 - want).abs();
                assert!(got as f64 == want || e <= 1e-6 * (1.0 + 3.0 * n as f64), "{n}: {got} is not {want}");
            }
        }
    }
}

#[test]
fn a_tier_is_chosen_by_name() {
    assert_eq!(Tier::choose(None).unwrap(), Tier::detect());
    assert_eq!(Tier::choose(Some("scalar")).unwrap(), Tier::Scalar);
    let e = Tier::choose(Some("neon")).unwrap_err().to_string();
    assert!(e.contains("INP_SIMD is `neon`") && e.contains("avx512"), "{e}");
    for tier in Tier::ALL {
        assert_eq!(Tier::choose(Some(tier.name())).is_ok(), tier.is_supported());
        assert_eq!(Cpu::with_tier(Some(1), tier).is_ok(), tier.is_supported());
    }
}
