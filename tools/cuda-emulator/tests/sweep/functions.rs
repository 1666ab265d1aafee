//! Functions of f32 and f64 that have one right value, and the fast ones of f32.

use super::floats::{Clamp, Kind, extreme, rounded};
use crate::exact::{F32, Shape};

/// Functions that have one right value in f32 and f64; with parameter `n` of those that take an integer.
pub fn single_valued(s: Shape, call: &str, v: [u64; 3], got: u64) -> Option<bool> {
    let (k, single) = (Kind(s), s.mantissa == 23);
    let [x, y, _] = v.map(|x| k.value(x));
    let n = (v[2] % 4200) as i32 - 2100;
    let name = call.split('(').next()?;
    let name = if single && name != "a / b" { name.strip_suffix('f').unwrap_or(name) } else { name };
    let narrow = |f: fn(f32, f32) -> f32, g: fn(f64, f64) -> f64| {
        if single { f(x as f32, y as f32).into() } else { g(x, y) }
    };
    let scaled = if single { libm::scalbnf(x as f32, n).into() } else { libm::scalbn(x, n) };
    // A converted NaN or one too large is whatever it is.
    let whole = |r: f64| !(r.abs() < 9e18) || got == r as i64 as u64;
    Some(match name {
        "lrint" | "llrint" => whole(x.round_ties_even()),
        "lround" | "llround" => whole(x.round()),
        "bool" => {
            let yes = match call {
                "bool(isnan(a))" => x.is_nan(),
                "bool(isinf(a))" => x.is_infinite(),
                "bool(isfinite(a))" => x.is_finite(),
                _ => v[0] & k.sign() != 0,
            };
            got == u64::from(yes)
        }
        "ilogb" => got as u32 as i32 == libm::ilogb(x),
        "power" => !x.is_finite() || got as u32 as i32 == libm::frexp(x).1,
        "quotient" => {
            let (r, q) = libm::remquo(x, y);
            let got = got as u32 as i32;
            r.is_nan()
                || got.unsigned_abs() % 8 == q.unsigned_abs() % 8
                    && (got == 0 || (got < 0) == ((x < 0.) ^ (y < 0.)))
        }
        "fma" => rounded(k, "fma", &v, 'n', Clamp::Never, got),
        "sqrt" => rounded(k, "sqrt", &v[..1], 'n', Clamp::Never, got),
        "a / b" => rounded(k, "div", &v[..2], 'n', Clamp::Never, got),
        "fdim" if x > y => rounded(k, "sub", &v[..2], 'n', Clamp::Never, got),
        "fdim" => k.is(got, if x <= y { 0. } else { f64::NAN }),
        "fmax" | "fmin" => extreme(k, name == "fmin", false, v[0], v[1], got),
        _ => k.is(
            got,
            match name {
                "ceil" => x.ceil(),
                "floor" => x.floor(),
                "trunc" | "whole" => x.trunc(),
                "rint" | "nearbyint" => x.round_ties_even(),
                "round" => x.round(),
                "fabs" => x.abs(),
                "logb" if x == 0. || !x.is_finite() => x.abs().ln(),
                "logb" => libm::ilogb(x).into(),
                "nextafter" => narrow(libm::nextafterf, libm::nextafter),
                "copysign" => x.copysign(y),
                "fmod" => x % y,
                "remainder" | "left" => libm::remquo(x, y).0,
                "ldexp" | "scalbn" | "scalbln" => scaled,
                "fraction" => libm::frexp(x).0,
                "rest" => {
                    if x.is_infinite() {
                        0f64.copysign(x)
                    } else {
                        (x - x.trunc()).copysign(x)
                    }
                }
                _ => return None,
            },
        ),
    })
}

/// The fast functions of f32, where an error is documented; elsewhere anything goes.
pub fn fast(name: &str, v: [u64; 3], got: u64) -> Option<bool> {
    let k = Kind(F32);
    let (x, y, r) = (k.value(v[0]), k.value(v[1]), k.value(got));
    let within = |want: f64, error: f64| (r - want).abs() <= error;
    let two = |e: f64| f64::powf(2., e);
    let log = |want: f64, inside: f64, units: f64| {
        if (0.5..=2.).contains(&x) {
            within(want, two(inside))
        } else {
            !(x >= two(-126.) && x.is_finite()) || k.near(got, want, units)
        }
    };
    // Results that are neither infinite nor subnormal.
    let exponential =
        |want: f64, units: f64| !(want > two(-126.) && want < two(127.)) || k.near(got, want, units);
    let turn = x.abs() <= std::f64::consts::PI;
    Some(match name {
        "__sinf" | "sine" => !turn || within(x.sin(), two(-21.41)),
        "__cosf" | "cosine" => !turn || within(x.cos(), two(-21.19)),
        "__tanf" => !(x.abs() <= 1.) || within(x.tan(), two(-19.)),
        "__tanhf" => x.is_nan() || within(x.tanh(), two(-10.987) * x.tanh().abs()),
        "__expf" => exponential(x.exp(), 2. + (1.173 * x).abs().floor()),
        "__exp10f" => exponential(f64::powf(10., x), 2. + (2.97 * x).abs().floor()),
        "__logf" => log(x.ln(), -21.41, 3.),
        "__log2f" => log(x.log2(), -22., 2.),
        "__log10f" => log(x.log10(), -24., 3.),
        "__powf" => !((0.5..8.).contains(&x) && y.abs() < 8.) || within(x.powf(y), two(-18.) * x.powf(y)),
        "__fdividef" if y.abs() > two(126.) && y.is_finite() && x.is_finite() => r == 0.,
        "__fdividef" => {
            let want = x / y;
            !(y.abs() >= two(-126.) && y.abs() <= two(126.) && want.abs() > two(-126.))
                || k.near(got, want, 2.)
        }
        _ => return None,
    })
}
