//! f16 and bf16 arithmetic, single and in pairs. Source: PTX ISA, "Half Precision Floating Point Instructions" and the
//! half forms of tanh, ex2, min, max, abs and neg.
//!
//! Sums and products are exact, or rounded to odd, in f32: one more rounding gives the correctly rounded result.

use super::float::{exp2, least, most, tanh};
use super::formats::{Brain, Half, flush_half};
use super::lanes::*;
use super::round;
use crate::exec::Class;
use crate::exec::decode::{Decoded, Scope};
use crate::ptx::ast::{Instr, Type};

/// See [`super`].
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    let e = match i.ty(0) {
        Some(Type::F16) => arithmetic::<Half, false>(s, i),
        Some(Type::F16x2) => arithmetic::<Half, true>(s, i),
        Some(Type::Bf16) => arithmetic::<Brain, false>(s, i),
        Some(Type::Bf16x2) => arithmetic::<Brain, true>(s, i),
        _ => return Ok(None),
    };
    match e {
        Some(e) => done(i, e, Class::Half),
        None => Ok(None),
    }
}

/// A 16-bit float.
trait Narrow: Scalar<W = u32> {
    /// Bits of the exponent.
    const EXPONENT: u32;
    fn value(bits: u32) -> f32;
    fn bits(x: f32) -> u32;
    /// Subnormal to zero.
    fn flush(x: f32) -> f32;
}
impl Narrow for Half {
    const EXPONENT: u32 = 0x7c00;
    #[inline(always)]
    fn value(bits: u32) -> f32 {
        Self::from_word(bits).0
    }
    #[inline(always)]
    fn bits(x: f32) -> u32 {
        Self(x).to_word()
    }
    #[inline(always)]
    fn flush(x: f32) -> f32 {
        flush_half(x)
    }
}
impl Narrow for Brain {
    const EXPONENT: u32 = 0x7f80;
    #[inline(always)]
    fn value(bits: u32) -> f32 {
        Self::from_word(bits).0
    }
    #[inline(always)]
    fn bits(x: f32) -> u32 {
        Self(x).to_word()
    }
    #[inline(always)]
    fn flush(x: f32) -> f32 {
        super::formats::flush(x)
    }
}

/// `.ftz`, `.sat` and `.relu`.
#[derive(Clone, Copy)]
struct Limits {
    ftz: bool,
    sat: bool,
    relu: bool,
}
impl Limits {
    #[inline(always)]
    fn open<N: Narrow>(self, bits: u32) -> f32 {
        let x = N::value(bits);
        if self.ftz { N::flush(x) } else { x }
    }
    #[inline(always)]
    fn close<N: Narrow>(self, x: f32) -> u32 {
        let x = if self.relu && x <= 0. { 0. } else { x };
        let saturated = if x > 0. { x.min(1.) } else { 0. };
        let r = N::bits(if self.sat { saturated } else { x });
        if self.ftz && r & N::EXPONENT == 0 { r & 0x8000 } else { r }
    }
}

/// An f64 to f32, rounded to odd.
#[inline(always)]
fn odd(x: f64) -> f32 {
    let r = x as f32;
    let w = f64::from(r);
    let b = r.to_bits();
    let toward = if w.abs() < x.abs() { b.wrapping_add(1) } else { b.wrapping_sub(1) };
    f32::from_bits(if w == x || b & 1 == 1 || x.is_nan() { b } else { toward })
}
/// `a * b`, exact or rounded to odd.
#[inline(always)]
fn product(a: f32, b: f32) -> f32 {
    odd(f64::from(a) * f64::from(b))
}
/// `a * b + c`, exact or rounded to odd.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    odd(round::odd_sum(f64::from(a) * f64::from(b), f64::from(c)))
}

fn lift1<const PAIR: bool>(s: &Scope, i: &Instr, f: impl Fn(u32) -> u32 + Send + Sync + 'static) -> Made {
    if PAIR {
        unary(s, i, move |a: u32| f(a & 0xffff) | f(a >> 16) << 16)
    } else {
        unary(s, i, move |a: u16| f(a.into()) as u16)
    }
}
fn lift2<const PAIR: bool>(
    s: &Scope,
    i: &Instr,
    f: impl Fn(u32, u32) -> u32 + Send + Sync + 'static,
) -> Made {
    if PAIR {
        binary(s, i, move |a: u32, b: u32| f(a & 0xffff, b & 0xffff) | f(a >> 16, b >> 16) << 16)
    } else {
        binary(s, i, move |a: u16, b: u16| f(a.into(), b.into()) as u16)
    }
}
fn lift3<const PAIR: bool>(
    s: &Scope,
    i: &Instr,
    f: impl Fn(u32, u32, u32) -> u32 + Send + Sync + 'static,
) -> Made {
    if PAIR {
        ternary(s, i, move |a: u32, b: u32, c: u32| {
            f(a & 0xffff, b & 0xffff, c & 0xffff) | f(a >> 16, b >> 16, c >> 16) << 16
        })
    } else {
        ternary(s, i, move |a: u16, b: u16, c: u16| f(a.into(), b.into(), c.into()) as u16)
    }
}

fn arithmetic<N: Narrow, const PAIR: bool>(s: &Scope, i: &Instr) -> Option<Made> {
    let l = Limits { ftz: i.has("ftz"), sat: i.has("sat"), relu: i.has("relu") };
    let exact = N::EXPONENT == Half::EXPONENT; // a product of two f16 fits in f32
    Some(match i.op.as_str() {
        "add" => lift2::<PAIR>(s, i, move |a, b| l.close::<N>(l.open::<N>(a) + l.open::<N>(b))),
        "sub" => lift2::<PAIR>(s, i, move |a, b| l.close::<N>(l.open::<N>(a) - l.open::<N>(b))),
        "mul" if exact => lift2::<PAIR>(s, i, move |a, b| l.close::<N>(l.open::<N>(a) * l.open::<N>(b))),
        "mul" => lift2::<PAIR>(s, i, move |a, b| l.close::<N>(product(l.open::<N>(a), l.open::<N>(b)))),
        "fma" => lift3::<PAIR>(s, i, move |a, b, c| {
            l.close::<N>(fused(l.open::<N>(a), l.open::<N>(b), l.open::<N>(c)))
        }),
        "neg" => lift1::<PAIR>(s, i, move |a| {
            (if l.ftz && a & N::EXPONENT == 0 { a & 0x8000 } else { a }) ^ 0x8000
        }),
        "abs" => lift1::<PAIR>(s, i, move |a| if l.ftz && a & N::EXPONENT == 0 { 0 } else { a & 0x7fff }),
        "tanh" => lift1::<PAIR>(s, i, move |a| l.close::<N>(tanh(l.open::<N>(a)))),
        "ex2" => lift1::<PAIR>(s, i, move |a| l.close::<N>(exp2(l.open::<N>(a)))),
        "min" | "max" => {
            let (min, nan, xor) = (i.op == "min", i.has("NaN"), i.has("xorsign"));
            lift2::<PAIR>(s, i, move |a, b| {
                let (x, y) = (l.open::<N>(a), l.open::<N>(b));
                let (u, v) = if xor { (x.abs(), y.abs()) } else { (x, y) };
                let r = if min { least(u, v) } else { most(u, v) };
                let r = if nan && (u.is_nan() || v.is_nan()) { f32::NAN } else { r };
                let sign = if xor && !r.is_nan() { (a ^ b) & 0x8000 } else { 0 };
                N::bits(r) | sign
            })
        }
        _ => return None,
    })
}
