//! cvt and cvt.pack. Source: PTX ISA, "Data Movement and Conversion Instructions: cvt".
//!
//! Every value is taken as an exact integer or an f64 (which holds every narrower number) and rounded once; frequent
//! conversions have loops of their own.

use super::formats::{
    BF16, Brain, E4M3, E5M2, F16, Format, Half, Round, canonical, canonical64, flush, narrow_tf32,
};
use super::lanes::*;
use super::round;
use crate::error::PtxError;
use crate::exec::Class;
use crate::exec::decode::{Decoded, Dst, Scope, Src32, Src64};
use crate::ptx::ast::{Instr, Operand, Type};

/// See [`super`].
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    if i.op != "cvt" {
        return Ok(None);
    }
    let e = if i.has("pack") {
        pack(s, i)
    } else {
        match (i.ty(0), i.ty(1)) {
            (Some(d), Some(a)) => convert(s, i, d, a),
            _ => unsupported(i),
        }
    };
    done(i, e, Class::Convert)
}

fn is_float(t: Type) -> bool {
    use Type::*;
    matches!(t, F16 | Bf16 | F32 | F64 | Tf32)
}
fn is_int(t: Type) -> bool {
    use Type::*;
    matches!(t, U8 | U16 | U32 | U64 | S8 | S16 | S32 | S64)
}

/// How a conversion rounds and limits.
#[derive(Clone, Copy)]
struct How {
    round: Round,
    /// `.rni` and its kind: to an integral value.
    integral: bool,
    ftz: bool,
    sat: bool,
    relu: bool,
    finite: bool,
}

fn convert(s: &Scope, i: &Instr, d: Type, a: Type) -> Made {
    use Type::*;
    let integral = ["rni", "rzi", "rmi", "rpi"].iter().any(|m| i.has(m));
    let how = How {
        round: if !is_int(d) || integral { Round::of(i) } else { Round::Zero },
        integral,
        ftz: i.has("ftz"),
        sat: i.has("sat"),
        relu: i.has("relu"),
        finite: i.has("satfinite"),
    };
    if i.has("rs") {
        return unsupported(i);
    }
    match (d, a) {
        (F16x2 | Bf16x2 | E4m3x2 | E5m2x2, F32) => two(s, i, d, how),
        (E4m3x2 | E5m2x2, F16x2 | Bf16x2) | (F16x2 | Bf16x2, E4m3x2 | E5m2x2) => pairs(s, i, d, a, how),
        _ if (is_int(d) || is_float(d)) && (is_int(a) || is_float(a) && a != Tf32) => {
            if let Some(e) = frequent(s, i, d, a, how) {
                return e;
            }
            general(s, i, d, a, how)
        }
        _ => unsupported(i),
    }
}

/// Conversions that kernels are full of, where registers are of the types' own sizes.
fn frequent(s: &Scope, i: &Instr, d: Type, a: Type, how: How) -> Option<Made> {
    use Type::*;
    let width = |n: usize| match i.operands.get(n) {
        Some(Operand::Reg(r)) => s.function.regs[*r as usize].bits(),
        _ => 0,
    };
    let plain = !(how.sat || how.relu || how.finite);
    if width(0) != d.bits() || width(1) != a.bits() || !plain {
        return None;
    }
    let near = how.round == Round::Nearest && !how.integral;
    let ftz = how.ftz;
    Some(match (d, a) {
        (F32, S32) if near => unary(s, i, |x: i32| x as f32),
        (F32, U32) if near => unary(s, i, |x: u32| x as f32),
        (F64, S32) => unary(s, i, f64::from as fn(i32) -> f64),
        (F64, U32) => unary(s, i, f64::from as fn(u32) -> f64),
        (S32, F32) if how.round == Round::Zero => unary(s, i, |x: f32| x as i32),
        (U32, F32) if how.round == Round::Zero => unary(s, i, |x: f32| x as u32),
        (S32, F32) if how.round == Round::Nearest => unary(s, i, |x: f32| x.round_ties_even() as i32),
        (F32, F16) => unary(s, i, |x: Half| x.0),
        (F32, Bf16) => unary(s, i, |x: Brain| x.0),
        (F16, F32) if near && !ftz => unary(s, i, Half),
        (Bf16, F32) if near && !ftz => unary(s, i, Brain),
        (F64, F32) if !ftz => unary(s, i, |x: f32| canonical64(f64::from(x))),
        (F32, F64) if near => {
            unary(s, i, move |x: f64| canonical(if ftz { flush(x as f32) } else { x as f32 }))
        }
        (S64, S32) => unary(s, i, i64::from as fn(i32) -> i64),
        (S64 | U64, U32) => unary(s, i, u64::from as fn(u32) -> u64),
        (S32 | U32, S64 | U64) => unary(s, i, |x: u64| x as u32),
        (S16 | U16, S32 | U32) => unary(s, i, |x: u32| x as u16),
        (S32 | U32, U16) => unary(s, i, |x: u16| u32::from(x)),
        (S32 | U32, S16) => unary(s, i, |x: i16| i32::from(x)),
        _ => return None,
    })
}

/// A source of any width.
enum Any {
    W32(Src32),
    W64(Src64),
}
fn any(s: &Scope, i: &Instr, o: &Operand, t: Type) -> Result<Any, PtxError> {
    let wide = match o {
        Operand::Reg(r) => s.function.regs[*r as usize].bits() == 64,
        _ => t.bits() == 64,
    };
    Ok(if wide { Any::W64(s.src64(i, o, t)?) } else { Any::W32(s.src32(i, o, t)?) })
}

#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}
/// The number that the low bits of a register are.
fn load(bits: u64, t: Type, ftz: bool) -> Number {
    let by = 64 - t.bits();
    match t {
        Type::F64 => Number::Float(f64::from_bits(bits)),
        Type::F32 => {
            let x = f32::from_bits(bits as u32);
            Number::Float(f64::from(if ftz { flush(x) } else { x }))
        }
        Type::F16 => Number::Float(F16.widen(bits as u32 & 0xffff)),
        Type::Bf16 => Number::Float(BF16.widen(bits as u32 & 0xffff)),
        _ if t.signed() => Number::Int(((bits << by) as i64 >> by).into()),
        _ => Number::Int((bits << by >> by).into()),
    }
}
/// An integer as f64, rounded to odd.
fn odd_of(x: i128) -> f64 {
    let y = x as f64;
    round::odd(y, (x - y as i128) as f64)
}
/// To the bits of type `d`, zero-extended (signed integers: sign-extended).
fn store(x: Number, a: Type, d: Type, how: How) -> u64 {
    if is_int(d) {
        let bits = d.bits();
        let (low, high) = if d.signed() {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        } else {
            (0, (1 << bits) - 1)
        };
        let v = match x {
            Number::Int(v) if how.sat => v.clamp(low, high),
            Number::Int(v) => v,
            Number::Float(v) if v.is_nan() => {
                if a != Type::F64 && bits < 64 {
                    0
                } else {
                    1 << (bits - 1)
                }
            }
            Number::Float(v) => (to_integral(v, how.round) as i128).clamp(low, high),
        };
        let (v, by) = ((v as u64) << (64 - bits), 64 - bits);
        return if d.signed() { (v as i64 >> by) as u64 } else { v >> by };
    }
    let v = match x {
        Number::Int(v) if d == Type::F64 => {
            let r = round::integer64(v < 0, v.unsigned_abs(), how.round);
            return limit(r, how).to_bits();
        }
        Number::Int(v) => odd_of(v),
        Number::Float(v) if how.integral => to_integral(v, how.round),
        Number::Float(v) => v,
    };
    let v = limit(v, how);
    match d {
        Type::F64 => canonical64(v).to_bits(),
        Type::F32 => {
            let r = canonical(round::narrow(v, how.round));
            u64::from((if how.ftz { flush(r) } else { r }).to_bits())
        }
        Type::Tf32 => u64::from(narrow_tf32(v as f32, how.round, how.finite)),
        Type::Bf16 => u64::from(BF16.narrow(v, how.round, how.finite)),
        _ => u64::from(F16.narrow(v, how.round, how.finite)),
    }
}
/// `.sat` and `.relu`.
fn limit(v: f64, how: How) -> f64 {
    let v = if how.relu && v <= 0. { 0. } else { v };
    if !how.sat {
        v
    } else if v > 0. {
        v.min(1.)
    } else {
        0.
    }
}
fn to_integral(v: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => v.round_ties_even(),
        Round::Away => v.round(),
        Round::Zero => v.trunc(),
        Round::Down => v.floor(),
        Round::Up => v.ceil(),
    }
}

simd! {
    fn general[](s: &Scope, i: &Instr, d: Type, a: Type, how: How) -> Made {
        let from = any(s, i, s.operand(i, 1)?, a)?;
        let to = s.operand(i, 0)?;
        let dst = s.dst(i, to)?;
        let bits = match to {
            Operand::Reg(r) => s.function.regs[*r as usize].bits(),
            _ => 64,
        };
        if bits < d.bits() {
            return Err(wrong(i, "the destination is too narrow"));
        }
        let mask = if bits == 64 { !0 } else { (1u64 << bits) - 1 };
        Ok(exec(move |w, _, m| {
            let x: [u64; 32] = match &from {
                Any::W32(x) => x.get(w).0.map(u64::from),
                Any::W64(x) => x.get(w).0,
            };
            let r = x.map(|x| store(load(x, a, how.ftz), a, d, how) & mask);
            match dst {
                Dst::R32(d) => u32::set(w, d, m, r.map(|r| r as u32)),
                Dst::R64(d) => u64::set(w, d, m, r),
                _ => {}
            }
        }))
    }
}

fn format(t: Type) -> Format {
    match t {
        Type::F16 | Type::F16x2 => F16,
        Type::Bf16 | Type::Bf16x2 => BF16,
        Type::E4m3x2 | Type::E4m3 => E4M3,
        _ => E5M2,
    }
}

/// Two f32 to two narrow numbers, the first operand to the upper.
fn two(s: &Scope, i: &Instr, d: Type, how: How) -> Made {
    let (f, bits) = (format(d), d.bits() / 2);
    let plain = how.round == Round::Nearest && !how.relu && !how.finite && !how.ftz;
    match d {
        Type::F16x2 if plain => binary(s, i, |a: f32, b: f32| Half(a).to_word() << 16 | Half(b).to_word()),
        Type::Bf16x2 if plain => binary(s, i, |a: f32, b: f32| Brain(a).to_word() << 16 | Brain(b).to_word()),
        _ => binary(s, i, move |a: f32, b: f32| {
            let one = |x: f32| {
                f.narrow(limit(f64::from(if how.ftz { flush(x) } else { x }), how), how.round, how.finite)
            };
            one(a) << bits | one(b)
        }),
    }
}
/// Two narrow numbers to two of another format.
fn pairs(s: &Scope, i: &Instr, d: Type, a: Type, how: How) -> Made {
    let (to, from) = (format(d), format(a));
    let (wide, narrow) = (d.bits() / 2, a.bits() / 2);
    let mask = (1u32 << narrow) - 1;
    let one = move |x: u32| to.narrow(limit(from.widen(x & mask), how), how.round, how.finite);
    if narrow == 8 {
        unary(s, i, move |x: u16| one(u32::from(x)) | one(u32::from(x) >> narrow) << wide)
    } else {
        unary(s, i, move |x: u32| (one(x) | one(x >> narrow) << wide) as u16)
    }
}

/// cvt.pack: two integers saturated and put side by side, before the low bits of a third.
fn pack(s: &Scope, i: &Instr) -> Made {
    let Some((signed, bits)) =
        i.mods.get(2).and_then(|m| Some((m.starts_with('s'), m[1..].parse::<u32>().ok()?)))
    else {
        return unsupported(i);
    };
    if !i.has("sat") || !matches!(bits, 2 | 4 | 8 | 16) || i.mods.get(3).map(String::as_str) != Some("s32") {
        return unsupported(i);
    }
    let (low, high) = if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
    let one = move |x: i32| x.clamp(low, high) as u32 & ((1 << bits) - 1);
    let both = move |a: i32, b: i32| one(a) << bits | one(b);
    if bits == 16 {
        binary(s, i, both)
    } else {
        ternary(s, i, move |a: i32, b: i32, c: u32| c << (2 * bits) | both(a, b))
    }
}
