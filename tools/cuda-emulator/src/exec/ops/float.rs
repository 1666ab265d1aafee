//! f32 and f64 arithmetic. Source: PTX ISA, "Floating Point Instructions".
//!
//! Approximate functions give the exact result, rounded: hardware's lies within the documented error of it.

use super::formats::{Brain, Half, Round, canonical, canonical64, flush};
use super::lanes::*;
use super::round;
use crate::exec::Class;
use crate::exec::decode::{Decoded, Dst, Scope};
use crate::ptx::ast::{Instr, Type};

/// See [`super`].
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    let Some(t) = i.ty(0) else { return Ok(None) };
    let op = i.op.as_str();
    let e = match (t, op) {
        (Type::F32 | Type::F64, "testp") => testp(s, i, t),
        (Type::F32, "add" | "sub" | "fma") if i.ty(1).is_some() => mixed(s, i),
        (Type::F32, "add" | "sub" | "mul" | "div") => two(s, i),
        (Type::F32, "fma" | "mad") => three(s, i),
        (Type::F32, "min" | "max") => min_max(s, i),
        (Type::F32, "abs") => one(s, i, |x| f32::from_bits(x.to_bits() & 0x7fff_ffff), true),
        (Type::F32, "neg") => one(s, i, |x| f32::from_bits(x.to_bits() ^ 0x8000_0000), true),
        (Type::F32, "copysign") => binary(s, i, |a: f32, b: f32| b.copysign(a)),
        (Type::F32, "rcp") if rounded(i) => directed(s, i, |x, r| round::div(1., x, r)),
        (Type::F32, "sqrt") if rounded(i) => directed(s, i, round::sqrt),
        (Type::F32, "rcp") => one(s, i, |x| 1. / x, false),
        (Type::F32, "sqrt") => one(s, i, f32::sqrt, false),
        (Type::F32, "rsqrt") => one(s, i, |x| (1. / f64::from(x).sqrt()) as f32, false),
        (Type::F32, "sin") => one(s, i, |x| f64::from(x).sin() as f32, false),
        (Type::F32, "cos") => one(s, i, |x| f64::from(x).cos() as f32, false),
        (Type::F32, "lg2") => one(s, i, |x| f64::from(x).log2() as f32, false),
        (Type::F32, "ex2") => one(s, i, exp2, false),
        (Type::F32, "tanh") => one(s, i, tanh, false),
        (Type::F32x2, "add" | "sub" | "mul" | "fma") => packed(s, i),
        (Type::F64, _) => return double(s, i),
        _ => return Ok(None),
    };
    let special = matches!(op, "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh");
    done(i, e, if special { Class::Special } else { Class::Float })
}

/// Whether a rounding direction is written.
fn rounded(i: &Instr) -> bool {
    i.mods.iter().any(|m| Round::named(m).is_some())
}
/// `.sat`: into [0, 1], NaN to 0.
#[inline(always)]
pub(super) fn saturate(x: f32) -> f32 {
    if x > 0. { x.min(1.) } else { 0. }
}
/// What `.ftz` and `.sat` make of a result.
#[inline(always)]
fn finish(x: f32, ftz: bool, sat: bool) -> f32 {
    let x = canonical(x);
    let x = if ftz { flush(x) } else { x };
    if sat { saturate(x) } else { x }
}
#[inline(always)]
fn start(x: f32, ftz: bool) -> f32 {
    if ftz { flush(x) } else { x }
}

/// A unary operation; `.ftz` and, unless `raw`, canonical NaN.
fn one(s: &Scope, i: &Instr, f: impl Fn(f32) -> f32 + Send + Sync + 'static, raw: bool) -> Made {
    match (i.has("ftz"), raw) {
        (false, true) => unary(s, i, f),
        (ftz, true) => unary(s, i, move |x| f(start(x, ftz))),
        (false, _) => unary(s, i, move |x| canonical(f(x))),
        (ftz, _) => unary(s, i, move |x| finish(f(start(x, ftz)), ftz, false)),
    }
}
fn directed(s: &Scope, i: &Instr, f: impl Fn(f32, Round) -> f32 + Send + Sync + 'static) -> Made {
    let r = Round::of(i);
    one(s, i, move |x| f(x, r), false)
}

/// a/b as `a * (1/b)` with a reciprocal that flushes: 0 (or NaN) for very large b.
fn quick_div(a: f32, b: f32) -> f32 {
    let huge = b.abs() > f32::from_bits(0x7e80_0000) && b.is_finite();
    if huge { a * 0f32.copysign(b) } else { a / b }
}

fn two(s: &Scope, i: &Instr) -> Made {
    let (ftz, sat, r) = (i.has("ftz"), i.has("sat"), Round::of(i));
    macro_rules! build {
        ($near:expr, $exact:expr) => {
            match (r, ftz || sat) {
                (Round::Nearest, false) => binary(s, i, |a: f32, b: f32| canonical($near(a, b))),
                (Round::Nearest, _) => {
                    binary(s, i, move |a: f32, b: f32| finish($near(start(a, ftz), start(b, ftz)), ftz, sat))
                }
                _ => binary(s, i, move |a: f32, b: f32| {
                    finish($exact(start(a, ftz), start(b, ftz), r), ftz, sat)
                }),
            }
        };
    }
    match i.op.as_str() {
        "add" => build!(|a: f32, b: f32| a + b, round::add),
        "sub" => build!(|a: f32, b: f32| a - b, |a: f32, b: f32, r| round::add(a, -b, r)),
        "mul" => build!(|a: f32, b: f32| a * b, round::mul),
        _ if i.has("approx") => build!(quick_div, |a, b, _| quick_div(a, b)),
        _ => build!(|a: f32, b: f32| a / b, round::div),
    }
}
fn three(s: &Scope, i: &Instr) -> Made {
    let (ftz, sat, r) = (i.has("ftz"), i.has("sat"), Round::of(i));
    match (r, ftz || sat) {
        (Round::Nearest, false) => ternary(s, i, |a: f32, b: f32, c: f32| canonical(a.mul_add(b, c))),
        (Round::Nearest, _) => ternary(s, i, move |a: f32, b: f32, c: f32| {
            finish(start(a, ftz).mul_add(start(b, ftz), start(c, ftz)), ftz, sat)
        }),
        _ => ternary(s, i, move |a: f32, b: f32, c: f32| {
            finish(round::fma(start(a, ftz), start(b, ftz), start(c, ftz), r), ftz, sat)
        }),
    }
}
/// add, sub, fma of f32 with f16 or bf16 factors or addends.
fn mixed(s: &Scope, i: &Instr) -> Made {
    let (sat, r) = (i.has("sat"), Round::of(i));
    let sub = i.op == "sub";
    let sum = move |a: f32, c: f32| finish(round::add(a, if sub { -c } else { c }, r), false, sat);
    let fma = move |a: f32, b: f32, c: f32| finish(round::fma(a, b, c, r), false, sat);
    match (i.ty(1), i.op.as_str()) {
        (Some(Type::F16), "fma") => ternary(s, i, move |a: Half, b: Half, c| fma(a.0, b.0, c)),
        (Some(Type::Bf16), "fma") => ternary(s, i, move |a: Brain, b: Brain, c| fma(a.0, b.0, c)),
        (Some(Type::F16), _) => binary(s, i, move |a: Half, c| sum(a.0, c)),
        (Some(Type::Bf16), _) => binary(s, i, move |a: Brain, c| sum(a.0, c)),
        _ => unsupported(i),
    }
}
/// Two f32 in 64 bits.
fn packed(s: &Scope, i: &Instr) -> Made {
    let (ftz, r) = (i.has("ftz"), Round::of(i));
    let both = |x: u64| (f32::from_bits(x as u32), f32::from_bits((x >> 32) as u32));
    let join = |x: f32, y: f32| u64::from(x.to_bits()) | u64::from(y.to_bits()) << 32;
    if i.op == "fma" {
        let f = move |a: f32, b: f32, c: f32| {
            let (a, b, c) = (start(a, ftz), start(b, ftz), start(c, ftz));
            finish(if r == Round::Nearest { a.mul_add(b, c) } else { round::fma(a, b, c, r) }, ftz, false)
        };
        return ternary(s, i, move |a: u64, b: u64, c: u64| {
            let ((a, d), (b, e), (c, g)) = (both(a), both(b), both(c));
            join(f(a, b, c), f(d, e, g))
        });
    }
    let (mul, sub) = (i.op == "mul", i.op == "sub");
    let f = move |a: f32, b: f32| {
        let (a, b) = (start(a, ftz), start(b, ftz));
        finish(if mul { round::mul(a, b, r) } else { round::add(a, if sub { -b } else { b }, r) }, ftz, false)
    };
    binary(s, i, move |a: u64, b: u64| {
        let ((a, c), (b, d)) = (both(a), both(b));
        join(f(a, b), f(c, d))
    })
}

/// The smaller of two numbers, -0 below +0; of a number and a NaN the number.
#[inline(always)]
pub(super) fn least(a: f32, b: f32) -> f32 {
    let key = |x: f32| {
        let b = x.to_bits() as i32;
        b ^ ((b >> 31) & 0x7fff_ffff)
    };
    let r = if key(a) < key(b) { a } else { b };
    let r = if b.is_nan() { a } else { r };
    if a.is_nan() { b } else { r }
}
/// See [`least`].
#[inline(always)]
pub(super) fn most(a: f32, b: f32) -> f32 {
    -least(-a, -b)
}
fn min_max(s: &Scope, i: &Instr) -> Made {
    let (min, ftz, nan) = (i.op == "min", i.has("ftz"), i.has("NaN"));
    let (xor, abs) = (i.has("xorsign"), i.has("abs"));
    let pick = move |a: f32, b: f32| {
        let r = if min { least(a, b) } else { most(a, b) };
        if nan && (a.is_nan() || b.is_nan()) { f32::NAN } else { r }
    };
    if i.operands.len() > 3 {
        return ternary(s, i, move |a: f32, b: f32, c: f32| {
            let [a, b, c] = [a, b, c].map(|x| start(if abs { x.abs() } else { x }, ftz));
            canonical(pick(pick(a, b), c))
        });
    }
    if xor {
        return binary(s, i, move |a: f32, b: f32| {
            let (a, b) = (start(a, ftz), start(b, ftz));
            let r = pick(a.abs(), b.abs());
            let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
            if r.is_nan() { canonical(r) } else { f32::from_bits(r.to_bits() | sign) }
        });
    }
    match (min, ftz || nan) {
        (true, false) => binary(s, i, |a, b| canonical(least(a, b))),
        (false, false) => binary(s, i, |a, b| canonical(most(a, b))),
        _ => binary(s, i, move |a: f32, b: f32| canonical(pick(start(a, ftz), start(b, ftz)))),
    }
}

/// 2^x.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    wide_exp2(f64::from(x)) as f32
}
/// 2^x to about 1e-15, for results in f32's range and somewhat beyond.
#[inline(always)]
fn wide_exp2(x: f64) -> f64 {
    const C: [f64; 12] = {
        // ln(2)^n / n!
        let mut c = [1.0; 12];
        let mut n = 1;
        while n < 12 {
            c[n] = c[n - 1] * std::f64::consts::LN_2 / n as f64;
            n += 1;
        }
        c
    };
    const MAGIC: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52: adding it rounds to an integer
    let y = if x < -1000. { -1000. } else { x };
    let y = if y > 1000. { 1000. } else { y };
    let shifted = y + MAGIC;
    let (f, n) = (y - (shifted - MAGIC), shifted.to_bits());
    let mut p = C[11];
    for k in (0..11).rev() {
        p = p * f + C[k];
    }
    let r = f64::from_bits(p.to_bits().wrapping_add(n << 52));
    if x.is_nan() { x } else { r }
}
/// The hyperbolic tangent.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let y = f64::from(x);
    let e = wide_exp2(y * (2. * std::f64::consts::LOG2_E));
    let r = (1. - 2. / (e + 1.)) as f32;
    let small = (y * (1. - y * y / 3.)) as f32;
    if x.abs() < 1e-3 { small } else { r }
}

simd! {
    fn testp[](s: &Scope, i: &Instr, t: Type) -> Made {
        let Dst::Pred(p) = s.dst(i, s.operand(i, 0)?)? else {
            return Err(wrong(i, "the destination must be a predicate"));
        };
        macro_rules! of {
            ($t:ty) => {{
                let a = source::<$t>(s, i, 1)?;
                let f: fn($t) -> bool = match i.mods.first().map(String::as_str) {
                    Some("finite") => <$t>::is_finite,
                    Some("infinite") => <$t>::is_infinite,
                    Some("number") => |x| !x.is_nan(),
                    Some("notanumber") => <$t>::is_nan,
                    Some("normal") => <$t>::is_normal,
                    Some("subnormal") => <$t>::is_subnormal,
                    _ => return unsupported(i),
                };
                Ok(exec(move |w, _, m| {
                    let r = compare::<$t>(values::<$t>(&a, w), &[0; 32], |a, _| f(a));
                    w.set_pred(p, m, r);
                }))
            }};
        }
        if t == Type::F32 { of!(f32) } else { of!(f64) }
    }
}

/// Everything of f64.
fn double(s: &Scope, i: &Instr) -> Decoded {
    let (r, near) = (Round::of(i), Round::of(i) == Round::Nearest);
    let c = canonical64;
    let upper = |x: f64| f64::from_bits(x.to_bits() & 0xffff_ffff_0000_0000);
    let flat = |x: f64| if x.is_subnormal() { 0f64.copysign(x) } else { x };
    let e = match i.op.as_str() {
        "add" if near => binary(s, i, move |a: f64, b: f64| c(a + b)),
        "add" => binary(s, i, move |a: f64, b: f64| c(round::add64(a, b, r))),
        "sub" if near => binary(s, i, move |a: f64, b: f64| c(a - b)),
        "sub" => binary(s, i, move |a: f64, b: f64| c(round::add64(a, -b, r))),
        "mul" if near => binary(s, i, move |a: f64, b: f64| c(a * b)),
        "mul" => binary(s, i, move |a: f64, b: f64| c(round::mul64(a, b, r))),
        "fma" | "mad" if near => ternary(s, i, move |a: f64, b: f64, d: f64| c(a.mul_add(b, d))),
        "fma" | "mad" => ternary(s, i, move |a: f64, b: f64, d: f64| c(round::fma64(a, b, d, r))),
        "div" => binary(s, i, move |a: f64, b: f64| c(round::div64(a, b, r))),
        "sqrt" => unary(s, i, move |a: f64| c(round::sqrt64(a, r))),
        "rcp" if rounded(i) => unary(s, i, move |a: f64| c(round::div64(1., a, r))),
        "rcp" => unary(s, i, move |a: f64| c(upper(flat(1. / flat(a))))),
        "rsqrt" if i.has("ftz") => unary(s, i, move |a: f64| c(upper(1. / flat(a).sqrt()))),
        "rsqrt" => unary(s, i, move |a: f64| c(1. / a.sqrt())),
        "abs" => unary(s, i, |a: u64| a & (!0 >> 1)),
        "neg" => unary(s, i, |a: u64| a ^ 1 << 63),
        "copysign" => binary(s, i, |a: f64, b: f64| b.copysign(a)),
        "min" | "max" => {
            let min = i.op == "min";
            let key = |x: f64| {
                let b = x.to_bits() as i64;
                b ^ ((b >> 63) & i64::MAX)
            };
            binary(s, i, move |a: f64, b: f64| {
                let first = if min { key(a) < key(b) } else { key(a) > key(b) };
                c(if a.is_nan() || !b.is_nan() && !first { b } else { a })
            })
        }
        _ => return Ok(None),
    };
    done(i, e, Class::Double)
}
