//! The mathematics library (`foreign/sweep_math.cu`): each function in float and double, within the error that is documented.

use super::read;
use crate::exact::Rng;
use inp_cuda_emulator::{options::Options, run::Machine};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI, SQRT_2};

/// Sine and cosine of π x: of an exact remainder, where either is flat.
fn sinpi(x: f64) -> f64 {
    let r = x.abs() % 2.;
    let (r, sign) = if r > 1. { (r - 1., -x.signum()) } else { (r, x.signum()) };
    let r = r.min(1. - r);
    sign * if r > 0.25 { (PI * (0.5 - r)).cos() } else { (PI * r).sin() }
}
fn cospi(x: f64) -> f64 {
    let r = x.abs() % 2.;
    let r = r.min(2. - r);
    if r > 0.25 && r < 0.75 {
        (PI * (0.5 - r)).sin()
    } else {
        (1. - 2. * f64::from(r > 0.5)) * (PI * r.min(1. - r)).cos()
    }
}

/// The y that has erf p and erfc q = 1 - p: by halving, and a step of Newton's.
fn inverse(p: f64, q: f64) -> f64 {
    let (mut low, mut high) = (0., 30.);
    let above = |y: f64| if p < 0.5 { libm::erf(y) > p } else { libm::erfc(y) < q };
    for _ in 0..60 {
        let middle = (low + high) / 2.;
        if above(middle) { high = middle } else { low = middle }
    }
    let off = if p < 0.5 { libm::erf(low) - p } else { q - libm::erfc(low) };
    low - off / FRAC_2_SQRT_PI * (low * low).exp()
}
fn erfinv(x: f64) -> f64 {
    inverse(x.abs(), 1. - x.abs()).copysign(x)
}
fn erfcinv(x: f64) -> f64 {
    if x > 1. { -inverse(x - 1., 2. - x) } else { inverse(1. - x, x) }
}
/// exp(x²) erfc(x), with what x² loses.
fn erfcx(x: f64) -> f64 {
    let square = x * x;
    square.exp() * (1. + x.mul_add(x, -square)) * libm::erfc(x)
}
/// erfc(-x/√2)/2, with what -x/√2 loses.
fn normcdf(x: f64) -> f64 {
    const BELOW: f64 = -4.833646656726457e-17;
    let t = -x * FRAC_1_SQRT_2;
    let lost = (-x).mul_add(FRAC_1_SQRT_2, -t) - x * BELOW;
    (libm::erfc(t) - lost * FRAC_2_SQRT_PI * (-t * t).exp()) / 2.
}
/// The modified Bessel function of the first kind, of order n, by its series.
fn bessel_i(n: i32, x: f64) -> f64 {
    let first = if n == 0 { 1. } else { x / 2. };
    let terms = (1..80).scan(first, |t, k| {
        *t *= x * x / 4. / f64::from(k) / f64::from(k + n);
        Some(*t)
    });
    // From the least.
    terms.collect::<Vec<_>>().iter().rev().sum::<f64>() + first
}

/// Units of the last place, and an absolute error, that a reference in f64 has of its own.
fn own(name: &str) -> (f64, f64) {
    match name {
        "acosh" | "asinh" | "atanh" | "sinh" | "cosh" | "tanh" | "tgamma" | "cyl_bessel_i0"
        | "cyl_bessel_i1" => (4., 0.),
        "j0" | "j1" | "y0" | "y1" => (2., 2e-15),
        "sinpi" | "cospi" | "norm3d" | "norm4d" | "rhypot" | "rnorm3d" | "rnorm4d" => (2., 0.),
        "erfcx" | "erfinv" | "erfcinv" | "normcdf" | "normcdfinv" => (3., 0.),
        _ => (1., 0.),
    }
}
/// What is documented as an absolute error.
fn absolute(name: &str) -> [f64; 2] {
    if matches!(name, "jn" | "yn") { [2.2e-6, 5e-12] } else { [0.; 2] }
}

type Reference = fn(f64, f64) -> f64;
/// A function, its value in f64, documented ulp in float and double, arguments from … to ….
const FUNCTIONS: &[(&str, Reference, [f64; 2], [f64; 2])] = &[
    ("sin", |x, _| x.sin(), [2., 2.], [-1e5, 1e5]),
    ("cos", |x, _| x.cos(), [2., 2.], [-1e5, 1e5]),
    ("tan", |x, _| x.tan(), [4., 2.], [-1e5, 1e5]),
    ("asin", |x, _| x.asin(), [2., 2.], [-1., 1.]),
    ("acos", |x, _| x.acos(), [2., 2.], [-1., 1.]),
    ("atan", |x, _| x.atan(), [2., 2.], [-20., 20.]),
    ("sinh", |x, _| x.sinh(), [3., 2.], [-20., 20.]),
    ("cosh", |x, _| x.cosh(), [2., 1.], [-20., 20.]),
    ("tanh", |x, _| x.tanh(), [2., 1.], [-5., 5.]),
    ("asinh", |x, _| x.asinh(), [3., 3.], [1., 50.]),
    ("acosh", |x, _| x.acosh(), [4., 3.], [2., 50.]),
    ("atanh", |x, _| x.atanh(), [3., 2.], [0.1, 0.9]),
    ("exp", |x, _| x.exp(), [2., 1.], [-80., 80.]),
    ("exp2", |x, _| x.exp2(), [2., 1.], [-120., 120.]),
    ("expm1", |x, _| x.exp_m1(), [1., 1.], [-3., 3.]),
    ("log", |x, _| x.ln(), [1., 1.], [0.001, 100.]),
    ("log2", |x, _| x.log2(), [1., 1.], [0.001, 100.]),
    ("log10", |x, _| x.log10(), [2., 1.], [0.001, 100.]),
    ("log1p", |x, _| x.ln_1p(), [1., 1.], [-0.9, 5.]),
    ("sqrt", |x, _| x.sqrt(), [0., 0.], [0., 1e6]),
    ("cbrt", |x, _| x.cbrt(), [1., 1.], [-1e6, 1e6]),
    ("pow", f64::powf, [4., 2.], [0.1, 9.]),
    ("atan2", f64::atan2, [3., 2.], [-5., 5.]),
    ("hypot", f64::hypot, [3., 2.], [-1e3, 1e3]),
    ("fmod", |x, y| x % y, [0., 0.], [-1e6, 1e6]),
    ("exp10", |x, _| f64::powf(10., x), [2., 1.], [-30., 30.]),
    ("sinpi", |x, _| sinpi(x), [1., 2.], [-9., 9.]),
    ("cospi", |x, _| cospi(x), [1., 2.], [-9., 9.]),
    ("rsqrt", |x, _| 1. / x.sqrt(), [2., 1.], [1e-3, 1e6]),
    ("rcbrt", |x, _| 1. / x.cbrt(), [1., 1.], [0.1, 1e6]),
    ("rhypot", |x, y| 1. / x.hypot(y), [2., 1.], [-9., 9.]),
    ("norm3d", |x, y| (x * x + y * y + 2.25).sqrt(), [3., 2.], [-9., 9.]),
    ("rnorm3d", |x, y| 1. / (x * x + y * y + 2.25).sqrt(), [2., 1.], [-9., 9.]),
    ("norm4d", |x, y| (x * x + y * y + 2.3125).sqrt(), [3., 2.], [-9., 9.]),
    ("rnorm4d", |x, y| 1. / (x * x + y * y + 2.3125).sqrt(), [2., 1.], [-9., 9.]),
    ("erf", |x, _| libm::erf(x), [2., 2.], [-4., 4.]),
    ("erfc", |x, _| libm::erfc(x), [4., 5.], [-3., 9.]),
    ("erfcx", |x, _| erfcx(x), [4., 4.], [-2., 20.]),
    ("erfinv", |x, _| erfinv(x), [2., 5.], [-0.9999, 0.9999]),
    ("erfcinv", |x, _| erfcinv(x), [4., 6.], [1e-4, 1.99]),
    ("normcdf", |x, _| normcdf(x), [5., 5.], [-8., 5.]),
    ("normcdfinv", |x, _| -SQRT_2 * erfcinv(2. * x), [5., 8.], [1e-4, 0.99]),
    ("tgamma", |x, _| libm::tgamma(x), [5., 10.], [0.1, 20.]),
    ("lgamma", |x, _| libm::lgamma(x), [6., 4.], [0.1, 50.]),
    ("j0", |x, _| libm::j0(x), [9., 7.], [0., 7.9]),
    ("j1", |x, _| libm::j1(x), [9., 7.], [0., 7.9]),
    ("y0", |x, _| libm::y0(x), [9., 7.], [0.1, 7.9]),
    ("y1", |x, _| libm::y1(x), [9., 7.], [0.1, 7.9]),
    ("jn", |x, _| libm::jn(3, x), [9., 7.], [0.1, 20.]),
    ("yn", |x, _| libm::yn(3, x), [9., 7.], [3., 20.]),
    ("cyl_bessel_i0", |x, _| bessel_i(0, x), [6., 6.], [-8., 8.]),
    ("cyl_bessel_i1", |x, _| bessel_i(1, x), [6., 6.], [-8., 8.]),
];

#[test]
fn mathematics() {
    let mut m = Machine::new("a100", Options::default()).unwrap();
    m.load(&read("math.sm_80.ptx")).unwrap_or_else(|e| panic!("{e}"));
    let mut failures = vec![];
    for &(name, f, [ulp32, ulp64], [from, to]) in FUNCTIONS {
        let mut r = Rng(11);
        let mut draw = |from: f64, to: f64| from + (to - from) * (r.word(32) as f64 / 4294967296.);
        let x: Vec<f64> = (0..1024).map(|_| draw(from, to)).collect();
        let z: Vec<f64> = (0..1024).map(|_| draw(-4., 6.)).collect();
        let [narrow_x, narrow_z] = [&x, &z].map(|x| x.iter().map(|&x| x as f32).collect::<Vec<_>>());
        let y = m.upload(&vec![0f32; 1024]);
        m.launch(
            &format!("{name}_32"),
            1,
            1024,
            0,
            &[m.upload(&narrow_x).into(), m.upload(&narrow_z).into(), y.into()],
        )
        .ok();
        for (n, got) in m.read::<f32>(y, 1024).into_iter().enumerate() {
            let want = f(narrow_x[n].into(), narrow_z[n].into());
            let ulp = f64::from((want.abs() as f32).next_up()) - f64::from(want.abs() as f32);
            // A reference with half an ulp of its own to round away.
            if !((f64::from(got) - want).abs() <= (ulp32 + 0.5) * ulp + absolute(name)[0]) {
                failures.push(format!("{name}f({}, {}): {got}, not {want}", narrow_x[n], narrow_z[n]));
                break;
            }
        }
        let y = m.upload(&vec![0f64; 1024]);
        m.launch(&format!("{name}_64"), 1, 1024, 0, &[m.upload(&x).into(), m.upload(&z).into(), y.into()])
            .ok();
        for (n, got) in m.read::<f64>(y, 1024).into_iter().enumerate() {
            let want = f(x[n], z[n]);
            let (units, more) = own(name);
            let ulp = want.abs().next_up() - want.abs();
            if !((got - want).abs() <= (ulp64 + units) * ulp + more + absolute(name)[1]) {
                failures.push(format!("{name}({}, {}): {got}, not {want}", x[n], z[n]));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
