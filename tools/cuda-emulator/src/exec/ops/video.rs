//! Video instructions: sums, differences, extremes, shifts, products and comparisons of parts of registers, one at a time,
//! in pairs of halves (`vadd2`) and in fours of bytes (`vadd4`). Source: PTX ISA, "Scalar Video Instructions" and "SIMD
//! Video Instructions".

use super::lanes::*;
use crate::error::PtxError;
use crate::exec::Class;
use crate::exec::decode::{Decoded, Scope, Src32};
use crate::ptx::ast::{Instr, Operand, Type};

/// See [`super`].
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    let name = i.op.trim_end_matches(['2', '4']);
    let known = match &i.op[name.len()..] {
        "" => {
            matches!(name, "vadd" | "vsub" | "vabsdiff" | "vmin" | "vmax" | "vset" | "vshl" | "vshr" | "vmad")
        }
        _ => matches!(name, "vadd" | "vsub" | "vavrg" | "vabsdiff" | "vmin" | "vmax" | "vset"),
    };
    if !known {
        return Ok(None);
    }
    let e = match (&i.op[name.len()..], name) {
        ("2", _) => simd::<2>(s, i, name),
        ("4", _) => simd::<4>(s, i, name),
        (_, "vmad") => multiply(s, i),
        _ => scalar(s, i, name),
    };
    done(i, e, Class::Integer)
}

/// Some bits of a register: how many, from which on.
#[derive(Clone, Copy)]
struct Part {
    bits: u32,
    at: u32,
}
impl Part {
    fn named(i: &Instr, name: &str) -> Result<Self, PtxError> {
        Ok(match name {
            "b0" | "b1" | "b2" | "b3" => Self { bits: 8, at: 8 * u32::from(name.as_bytes()[1] - b'0') },
            "h0" => Self { bits: 16, at: 0 },
            "h1" => Self { bits: 16, at: 16 },
            _ => return Err(wrong(i, format!("a register has no part .{name}"))),
        })
    }
    fn get(self, x: u32, signed: bool) -> i64 {
        let (x, by) = (i64::from(x >> self.at), 64 - self.bits);
        if signed { x << by >> by } else { ((x as u64) << by >> by) as i64 }
    }
    /// Puts the low bits of `x` into `c`.
    fn put(self, x: i64, c: u32) -> u32 {
        let mask = (((1u64 << self.bits) - 1) << self.at) as u32;
        c & !mask | ((x as u32) << self.at) & mask
    }
}
const WHOLE: Part = Part { bits: 32, at: 0 };

/// A register and what is written behind it.
fn register<'i>(s: &Scope, i: &Instr, o: &'i Operand) -> Result<(Src32, Option<&'i str>), PtxError> {
    Ok(match o {
        Operand::Part(r, part) => (s.src32(i, &Operand::Reg(*r), Type::U32)?, Some(part)),
        o => (s.src32(i, o, Type::U32)?, None),
    })
}
fn part(s: &Scope, i: &Instr, n: usize) -> Result<(Src32, Part), PtxError> {
    let (x, name) = register(s, i, s.operand(i, n)?)?;
    Ok((x, name.map_or(Ok(WHOLE), |name| Part::named(i, name))?))
}
fn destination<'i>(s: &Scope, i: &Instr, o: &'i Operand) -> Result<(Option<u32>, Option<&'i str>), PtxError> {
    Ok(match o {
        Operand::Part(r, part) => (u32::dst(s, i, &Operand::Reg(*r))?, Some(part)),
        o => (u32::dst(s, i, o)?, None),
    })
}
/// Whether the `n`-th type is signed.
fn signed(i: &Instr, n: usize) -> Result<bool, PtxError> {
    match i.ty(n) {
        Some(Type::S32) => Ok(true),
        Some(Type::U32) => Ok(false),
        _ => Err(wrong(i, "the types must be u32 or s32")),
    }
}

type Two = fn(i64, i64) -> i64;
/// What a name does with two elements.
fn operation(i: &Instr, name: &str) -> Result<Two, PtxError> {
    Ok(match name {
        "vadd" => |a, b| a + b,
        "vsub" => |a, b| a - b,
        "vabsdiff" => |a, b| (a - b).abs(),
        "vmin" => |a, b| a.min(b),
        "vmax" => |a, b| a.max(b),
        "vavrg" => |a, b| (a + b + i64::from(a + b >= 0)) >> 1,
        _ => match ["eq", "ne", "lt", "le", "gt", "ge"].iter().find(|c| i.has(c)) {
            Some(&"eq") => |a, b| i64::from(a == b),
            Some(&"ne") => |a, b| i64::from(a != b),
            Some(&"lt") => |a, b| i64::from(a < b),
            Some(&"le") => |a, b| i64::from(a <= b),
            Some(&"gt") => |a, b| i64::from(a > b),
            Some(&"ge") => |a, b| i64::from(a >= b),
            _ => return Err(wrong(i, "a comparison is missing")),
        },
    })
}
fn clamped(x: i128, bits: u32, signed: bool) -> i64 {
    let (low, high) = if signed { (-1 << (bits - 1), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
    x.clamp(low, high) as i64
}

fn scalar(s: &Scope, i: &Instr, name: &str) -> Made {
    let set = name == "vset";
    let first = usize::from(!set);
    let to_signed = !set && signed(i, 0)?;
    let (sa, sb) = (signed(i, first)?, signed(i, first + 1)?);
    let shift = matches!(name, "vshl" | "vshr");
    let (left, clamp) = (name == "vshl", i.has("clamp"));
    if shift && (sb || clamp == i.has("wrap")) {
        return Err(wrong(i, "a shift is by a .u32 and takes one of .clamp and .wrap"));
    }
    let f = if shift { |a, _| a } else { operation(i, name)? };
    let (d, into) = destination(s, i, s.operand(i, 0)?)?;
    let merged = into.map(|p| Part::named(i, p)).transpose()?;
    let ((a, pa), (b, pb)) = (part(s, i, 1)?, part(s, i, 2)?);
    let second: Option<Two> = match ["add", "min", "max"].iter().find(|m| i.has(m)) {
        Some(&"add") => Some(|x, c| x + c),
        Some(&"min") => Some(|x, c| x.min(c)),
        Some(_) => Some(|x, c| x.max(c)),
        None => None,
    };
    if second.is_some() && merged.is_some() {
        return Err(wrong(i, "a second operation and a part of the destination exclude each other"));
    }
    let c = if second.is_some() || merged.is_some() { Some(source::<u32>(s, i, 3)?) } else { None };
    let sat = i.has("sat");
    Ok(exec(move |w, _, m| {
        let Some(d) = d else { return };
        let (x, y) = (a.get(w).0, b.get(w).0);
        let z = c.as_ref().map_or([0; 32], |c| c.get(w).0);
        let r = std::array::from_fn(|l| {
            let (p, q) = (pa.get(x[l], sa), pb.get(y[l], sb));
            let by = if clamp { (q as u64).min(32) } else { q as u64 & 31 };
            let r = match (shift, left) {
                (false, _) => f(p, q).into(),
                (_, true) => i128::from(p) << by,
                _ => i128::from(p >> by),
            };
            let r = if sat { clamped(r, merged.unwrap_or(WHOLE).bits, to_signed) } else { r as i64 };
            match (second, merged) {
                (Some(g), _) => g(WHOLE.get(r as u32, to_signed), WHOLE.get(z[l], to_signed)) as u32,
                (_, Some(part)) => part.put(r, z[l]),
                _ => r as u32,
            }
        });
        u32::set(w, d, m, r);
    }))
}

/// vmad: a product and a sum, shifted, saturated.
fn multiply(s: &Scope, i: &Instr) -> Made {
    let (sa, sb) = (signed(i, 1)?, signed(i, 2)?);
    let result = sa || sb;
    signed(i, 0)?;
    let d = target::<u32>(s, i, 0)?;
    let ((a, pa), (b, pb), c) = (part(s, i, 1)?, part(s, i, 2)?, source::<u32>(s, i, 3)?);
    let by = match (i.has("shr7"), i.has("shr15")) {
        (true, _) => 7,
        (_, true) => 15,
        _ => 0,
    };
    let (one, sat) = (i128::from(i.has("po")), i.has("sat"));
    Ok(exec(move |w, _, m| {
        let Some(d) = d else { return };
        let (x, y, z) = (a.get(w).0, b.get(w).0, c.get(w).0);
        let r = std::array::from_fn(|l| {
            let product = i128::from(pa.get(x[l], sa)) * i128::from(pb.get(y[l], sb));
            let r = (product + i128::from(WHOLE.get(z[l], result)) + one) >> by;
            (if sat { clamped(r, 32, result) } else { r as i64 }) as u32
        });
        u32::set(w, d, m, r);
    }))
}

/// N elements at once: chosen from those of `b:a`, the results put into `c` or added to it.
fn simd<const N: usize>(s: &Scope, i: &Instr, name: &str) -> Made {
    let set = name == "vset";
    let first = usize::from(!set);
    let to_signed = !set && signed(i, 0)?;
    let (sa, sb) = (signed(i, first)?, signed(i, first + 1)?);
    let f = operation(i, name)?;
    let (add, sat) = (i.has("add"), i.has("sat"));
    if add && sat {
        return Err(wrong(i, ".sat and .add exclude each other"));
    }
    let bits = 32 / N as u32;
    let letter = if N == 2 { 'h' } else { 'b' };
    // Digits behind the letter, the lowest element's first.
    let digits = |text: &str| -> Result<Vec<usize>, PtxError> {
        let numbers = text.strip_prefix(letter).filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
        let numbers = numbers.ok_or_else(|| wrong(i, format!("a register has no part .{text} here")))?;
        Ok(numbers.bytes().rev().map(|b| usize::from(b - b'0')).collect())
    };
    let chosen = |n: usize, default: usize| -> Result<(Src32, [usize; N]), PtxError> {
        let (x, text) = register(s, i, s.operand(i, n)?)?;
        let Some(text) = text else { return Ok((x, std::array::from_fn(|k| k + default))) };
        let all = <[usize; N]>::try_from(digits(text)?).ok().filter(|a| a.iter().all(|k| *k < 2 * N));
        Ok((x, all.ok_or_else(|| wrong(i, format!(".{text} does not choose {N} elements")))?))
    };
    let (d, mask) = destination(s, i, s.operand(i, 0)?)?;
    let mask = match mask {
        Some(text) => digits(text)?,
        None => (0..N).collect(),
    };
    if mask.iter().any(|k| *k >= N) {
        return Err(wrong(i, "the destination has no such element"));
    }
    let ((a, ka), (b, kb), c) = (chosen(1, 0)?, chosen(2, N)?, source::<u32>(s, i, 3)?);
    Ok(exec(move |w, _, m| {
        let Some(d) = d else { return };
        let (x, y, z) = (a.get(w).0, b.get(w).0, c.get(w).0);
        let r = std::array::from_fn(|l| {
            let both = u64::from(y[l]) << 32 | u64::from(x[l]);
            let element =
                |k: usize, signed| Part { bits, at: 0 }.get((both >> (bits as usize * k)) as u32, signed);
            let mut r = z[l];
            for &k in &mask {
                let t = f(element(ka[k], sa), element(kb[k], sb));
                let t = if sat { clamped(t.into(), bits, to_signed) } else { t };
                r = if add { r.wrapping_add(t as u32) } else { Part { bits, at: bits * k as u32 }.put(t, r) };
            }
            r
        });
        u32::set(w, d, m, r);
    }))
}
