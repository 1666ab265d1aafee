//! Logic, shifts and bit fields. Source: PTX ISA, "Logic and Shift Instructions" and the bit instructions of "Integer
//! Arithmetic Instructions".

use super::lanes::*;
use crate::exec::decode::{Decoded, Dst, Scope, SrcPred};
use crate::exec::{Class, Mask};
use crate::ptx::ast::{Instr, Operand, Type};

/// See [`super`].
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    let Some(t) = i.ty(0) else { return Ok(None) };
    use Type::*;
    let e = match (i.op.as_str(), t) {
        ("and" | "or" | "xor" | "not" | "mov", Pred) => predicates(s, i),
        ("and", _) => by_int!(t, i, T => binary(s, i, |a: T, b: T| a & b)),
        ("or", _) => by_int!(t, i, T => binary(s, i, |a: T, b: T| a | b)),
        ("xor", _) => by_int!(t, i, T => binary(s, i, |a: T, b: T| a ^ b)),
        ("not", _) => by_int!(t, i, T => unary(s, i, |a: T| !a)),
        ("cnot", _) => by_int!(t, i, T => unary(s, i, |a: T| T::from(a == 0))),
        ("shl", _) => by_int!(t, i, T => binary(s, i, |a: T, b: u32| a.checked_shl(b).unwrap_or(0))),
        ("shr", _) => by_int!(t, i, T => binary(s, i, |a: T, b: u32| {
            let most = T::BITS - 1;
            #[allow(unused_comparisons)]
            let fill = if a < 0 { !0 } else { 0 };
            if b > most { fill } else { a >> (b & most) }
        })),
        ("shf", B32) => funnel(s, i),
        ("lop3", B32) => lop3(s, i),
        ("prmt", B32) => prmt(s, i),
        ("popc", B32) => unary(s, i, u32::count_ones),
        ("popc", B64) => unary(s, i, u64::count_ones),
        ("clz", B32) => unary(s, i, u32::leading_zeros),
        ("clz", B64) => unary(s, i, u64::leading_zeros),
        ("brev", B32) => unary(s, i, u32::reverse_bits),
        ("brev", B64) => unary(s, i, u64::reverse_bits),
        ("bfind", U32 | S32 | U64 | S64) => bfind(s, i, t),
        ("bfe", U32) => ternary(s, i, |a: u32, b: u32, c: u32| bfe(u64::from(a), b, c) as u32),
        ("bfe", U64) => ternary(s, i, bfe),
        ("bfe", S32) => ternary(s, i, |a: i32, b: u32, c: u32| bfe_signed(i64::from(a), b, c) as i32),
        ("bfe", S64) => ternary(s, i, bfe_signed),
        ("bfi", B32) => {
            quaternary(s, i, |a: u32, b: u32, c: u32, d: u32| bfi(u64::from(a), u64::from(b), c, d) as u32)
        }
        ("bfi", B64) => quaternary(s, i, bfi),
        ("fns", B32) => ternary(s, i, fns),
        ("bmsk", B32) => {
            let clamp = clamp(i)?;
            binary(s, i, move |a: u32, b: u32| {
                let (at, width) = if clamp { (a.min(32), b.min(32)) } else { (a & 31, b & 31) };
                ((((1u64 << width) - 1) << at) & 0xffff_ffff) as u32
            })
        }
        ("szext", U32 | S32) => {
            let (clamp, signed) = (clamp(i)?, t == S32);
            binary(s, i, move |a: u32, b: u32| {
                let n = if clamp { b.min(32) } else { b & 31 };
                match (n, signed) {
                    (0, _) => 0,
                    (_, true) => ((a as i32) << (32 - n) >> (32 - n)) as u32,
                    _ => a << (32 - n) >> (32 - n),
                }
            })
        }
        _ => return Ok(None),
    };
    done(i, e, if i.op == "mov" { Class::Move } else { Class::Integer })
}

/// `.clamp` or `.wrap`.
fn clamp(i: &Instr) -> Result<bool, crate::error::PtxError> {
    match (i.has("clamp"), i.has("wrap")) {
        (true, false) => Ok(true),
        (false, true) => Ok(false),
        _ => Err(wrong(i, "one of .clamp and .wrap is wanted")),
    }
}

fn predicates(s: &Scope, i: &Instr) -> Made {
    let Dst::Pred(d) = s.dst(i, s.operand(i, 0)?)? else {
        return Err(wrong(i, "the destination must be a predicate"));
    };
    let a = s.pred(i, s.operand(i, 1)?)?;
    let b = if matches!(i.op.as_str(), "not" | "mov") {
        SrcPred::Const(false)
    } else {
        s.pred(i, s.operand(i, 2)?)?
    };
    let f: fn(Mask, Mask) -> Mask = match i.op.as_str() {
        "and" => |a, b| a & b,
        "or" => |a, b| a | b,
        "xor" => |a, b| a ^ b,
        "not" => |a, _| !a,
        _ => |a, _| a,
    };
    Ok(exec(move |w, _, m| w.set_pred(d, m, f(a.get(w), b.get(w)))))
}

/// shf: a 64-bit value `b:a` shifted; `.l` gives its upper word, `.r` its lower.
fn funnel(s: &Scope, i: &Instr) -> Made {
    let clamp = clamp(i)?;
    let n = move |c: u32| if clamp { c.min(32) } else { c & 31 };
    let pair = |a: u32, b: u32| u64::from(b) << 32 | u64::from(a);
    match (i.has("l"), i.has("r")) {
        (true, false) => ternary(s, i, move |a: u32, b: u32, c: u32| (pair(a, b) << n(c) >> 32) as u32),
        (false, true) => ternary(s, i, move |a: u32, b: u32, c: u32| (pair(a, b) >> n(c)) as u32),
        _ => unsupported(i),
    }
}

simd! {
    /// lop3: any function of three bits, by its table; with `.or`/`.and`, also a predicate `(d != 0) op q`.
    fn lop3[](s: &Scope, i: &Instr) -> Made {
        let Operand::Int(table) = *s.operand(i, 4)? else { return Err(wrong(i, "the table must be a constant")) };
        let pick: [u32; 8] = std::array::from_fn(|n| if table >> n & 1 == 1 { !0 } else { 0 });
        let f = move |a: u32, b: u32, c: u32| {
            let (na, nb, nc) = (!a, !b, !c);
            (pick[0] & na & nb & nc | pick[1] & na & nb & c | pick[2] & na & b & nc | pick[3] & na & b & c)
                | (pick[4] & a & nb & nc | pick[5] & a & nb & c | pick[6] & a & b & nc | pick[7] & a & b & c)
        };
        let or = match (i.has("or"), i.has("and")) {
            (false, false) => {
                return match table & 0xff {
                    0xc0 => ternary(s, i, |a: u32, b: u32, _: u32| a & b),
                    0xfc => ternary(s, i, |a: u32, b: u32, _: u32| a | b),
                    0x3c => ternary(s, i, |a: u32, b: u32, _: u32| a ^ b),
                    0xea => ternary(s, i, |a: u32, b: u32, c: u32| a & b | c),
                    0x96 => ternary(s, i, |a: u32, b: u32, c: u32| a ^ b ^ c),
                    _ => ternary(s, i, f),
                };
            }
            (or, _) => or,
        };
        let (d, p) = match s.operand(i, 0)? {
            Operand::Pair(d, p) => (s.dst(i, d)?, s.dst(i, p)?),
            _ => return Err(wrong(i, "the destination must be d|p")),
        };
        let Dst::Pred(p) = p else { return Err(wrong(i, "the second destination must be a predicate")) };
        let (a, b, c) = (source::<u32>(s, i, 1)?, source::<u32>(s, i, 2)?, source::<u32>(s, i, 3)?);
        let q = s.pred(i, s.operand(i, 5)?)?;
        let d = match d {
            Dst::R32(d) => Some(d),
            Dst::Sink => None,
            _ => return Err(wrong(i, "the destination must be a 32-bit register")),
        };
        Ok(exec(move |w, _, m| {
            let (x, y, z) = (a.get(w), b.get(w), c.get(w));
            let r: [u32; 32] = std::array::from_fn(|l| f(x.0[l], y.0[l], z.0[l]));
            let set = compare::<u32>(&r, &[0; 32], |a, b| a != b);
            let q = q.get(w);
            w.set_pred(p, m, if or { set | q } else { set & q });
            if let Some(d) = d {
                u32::set(w, d, m, r);
            }
        }))
    }
}

/// prmt: bytes of `b:a` by selectors.
fn prmt(s: &Scope, i: &Instr) -> Made {
    let byte = |x: u64, n: u32| (x >> (8 * (n & 7)) & 0xff) as u32;
    // Source byte of each destination byte, low first, by the control's two bits.
    let table: [[u32; 4]; 4] = match i.mods.iter().find(|m| *m != "b32").map(String::as_str) {
        None => {
            return ternary(s, i, move |a: u32, b: u32, c: u32| {
                let x = u64::from(b) << 32 | u64::from(a);
                let mut r = 0;
                for n in 0..4 {
                    let sel = c >> (4 * n);
                    let v = byte(x, sel);
                    let sign = if v & 0x80 != 0 { 0xff } else { 0 };
                    r |= (if sel & 8 != 0 { sign } else { v }) << (8 * n);
                }
                r
            });
        }
        Some("f4e") => [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]],
        Some("b4e") => [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]],
        Some("rc8") => [[0; 4], [1; 4], [2; 4], [3; 4]],
        Some("ecl") => [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]],
        Some("ecr") => [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]],
        Some("rc16") => [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]],
        _ => return unsupported(i),
    };
    ternary(s, i, move |a: u32, b: u32, c: u32| {
        let x = u64::from(b) << 32 | u64::from(a);
        let t = table[(c & 3) as usize];
        byte(x, t[0]) | byte(x, t[1]) << 8 | byte(x, t[2]) << 16 | byte(x, t[3]) << 24
    })
}

/// bfind: the most significant bit that is not a copy of the sign; with `.shiftamt`, how far it is from the top.
fn bfind(s: &Scope, i: &Instr, t: Type) -> Made {
    let shift = i.has("shiftamt");
    let place = move |zeros: u32, bits: u32| {
        if zeros == bits {
            !0
        } else if shift {
            zeros
        } else {
            bits - 1 - zeros
        }
    };
    match t {
        Type::U32 => unary(s, i, move |a: u32| place(a.leading_zeros(), 32)),
        Type::S32 => unary(s, i, move |a: i32| place((a ^ (a >> 31)).leading_zeros(), 32)),
        Type::U64 => unary(s, i, move |a: u64| place(a.leading_zeros(), 64)),
        _ => unary(s, i, move |a: i64| place((a ^ (a >> 63)).leading_zeros(), 64)),
    }
}

/// The `len & 255` bits of `a` from bit `pos & 255` on.
fn bfe(a: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let x = if pos > 63 { 0 } else { a >> pos };
    if len > 63 { x } else { x & ((1 << len) - 1) }
}
/// The same of a sign-extended number: bits past the top are copies of the sign.
fn bfe_signed(a: i64, pos: u32, len: u32) -> i64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let x = a >> pos.min(63);
    match len {
        0 => 0,
        1..=63 => x << (64 - len) >> (64 - len),
        _ => x,
    }
}
/// The low bits of `a` put into `b`.
fn bfi(a: u64, b: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos > 63 {
        return b;
    }
    let mask = if len > 63 { !0 } else { (1 << len) - 1 } << pos;
    b & !mask | a << pos & mask
}

/// fns: the n-th set bit from `base` up (or down, for a negative n; 0 asks about `base` itself).
fn fns(mask: u32, base: u32, offset: i32) -> u32 {
    let mut at = i64::from(base);
    let step = if offset < 0 { -1 } else { 1 };
    let mut left = offset.unsigned_abs().max(1);
    let mut tries = if offset == 0 { 1 } else { 32 };
    while (0..32).contains(&at) && tries > 0 {
        if mask >> at & 1 == 1 {
            left -= 1;
            if left == 0 {
                return at as u32;
            }
        }
        at += step;
        tries -= 1;
    }
    !0
}
