//! mov in all its forms, cvta and isspacep. Source: PTX ISA, "Data Movement and Conversion Instructions".

use super::lanes::*;
use crate::exec::cta::{CODE, LOCAL, PARAM, SHARED};
use crate::exec::decode::{Decoded, Dst, Scope, Src32, Src64};
use crate::exec::{Class, L32, L64, Warp, special};
use crate::ptx::ast::{Instr, Operand, Space, Type};

/// See [`super`].
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    let e = match i.op.as_str() {
        "mov" if i.ty(0) != Some(Type::Pred) => mov(s, i),
        "cvta" => cvta(s, i),
        "isspacep" => isspacep(s, i),
        "mapa" | "getctarank" => cluster(s, i),
        _ => return Ok(None),
    };
    done(i, e, Class::Move)
}

/// An element of a vector.
enum Part {
    W32(Src32),
    W64(Src64),
}

fn mov(s: &Scope, i: &Instr) -> Made {
    let (d, a) = (s.operand(i, 0)?, s.operand(i, 1)?);
    match (d, a) {
        (Operand::Vector(v), _) if v.len() > 1 => return unpack(s, i, v, a),
        (_, Operand::Vector(v)) if v.len() > 1 => return pack(s, i, d, v),
        (_, Operand::Special(name)) if !s.specials.contains_key(name) => {
            let read = special::live(name).ok_or_else(|| wrong(i, format!("%{name} is not known")))?;
            return match s.dst(i, d)? {
                Dst::R32(d) => Ok(exec(move |w, c, m| w.set32(d, m, &L32::splat(read(w, c) as u32)))),
                Dst::R64(d) => Ok(exec(move |w, c, m| w.set64(d, m, &L64::splat(read(w, c))))),
                _ => unsupported(i),
            };
        }
        (_, Operand::Symbol(name, 0)) if !s.symbols.contains_key(name) => {
            if let (Some(&f), Dst::R64(d)) = (s.functions.get(name), s.dst(i, d)?) {
                return Ok(exec(move |w, _, m| w.set64(d, m, &L64::splat(CODE + u64::from(f)))));
            }
        }
        _ => {}
    }
    let t = ty(i)?;
    match t.bits() {
        128 => {
            let (Dst::R128(d), Operand::Reg(r)) = (s.dst(i, d)?, a) else { return unsupported(i) };
            if s.function.regs[*r as usize].bits() != 128 {
                return unsupported(i);
            }
            let a = s.slots[*r as usize];
            Ok(exec(move |w, _, m| w.set128(d, m, &{ *w.r128(a) })))
        }
        64 => unary(s, i, |a: u64| a),
        16 => unary(s, i, |a: u16| a),
        _ if t == Type::F32 => unary(s, i, |a: f32| a),
        _ => unary(s, i, |a: u32| a),
    }
}

/// One element of a vector, as wide as `bits` says.
fn part(s: &Scope, i: &Instr, o: &Operand, bits: u32) -> Result<Part, crate::error::PtxError> {
    Ok(match bits {
        8 => Part::W32(s.src32(i, o, Type::B8)?),
        16 => Part::W32(s.src32(i, o, Type::B16)?),
        32 => Part::W32(s.src32(i, o, Type::B32)?),
        64 => Part::W64(s.src64(i, o, Type::B64)?),
        _ => return unsupported(i),
    })
}

simd! {
    fn pack[](s: &Scope, i: &Instr, d: &Operand, v: &[Operand]) -> Made {
        let bits = ty(i)?.bits() / v.len() as u32;
        let parts = v.iter().map(|o| part(s, i, o, bits)).collect::<Result<Vec<_>, _>>()?;
        let d = s.dst(i, d)?;
        Ok(match (d, <[Part; 2]>::try_from(parts)) {
            (Dst::R32(d), Ok([Part::W32(a), Part::W32(b)])) => exec(move |w, _, m| {
                let (x, y) = (a.get(w), b.get(w));
                let mask = (1u32 << bits) - 1;
                let mut r = [0; 32];
                for l in 0..32 {
                    r[l] = x.0[l] & mask | y.0[l] << bits;
                }
                u32::set(w, d, m, r);
            }),
            (Dst::R64(d), Ok([Part::W32(a), Part::W32(b)])) => exec(move |w, _, m| {
                let (x, y) = (a.get(w), b.get(w));
                let mut r = [0; 32];
                for l in 0..32 {
                    r[l] = u64::from(x.0[l]) | u64::from(y.0[l]) << 32;
                }
                u64::set(w, d, m, r);
            }),
            (Dst::R128(d), Ok([Part::W64(a), Part::W64(b)])) => exec(move |w, _, m| {
                let (x, y) = (a.get(w), b.get(w));
                let r = std::array::from_fn(|l| u128::from(x.0[l]) | u128::from(y.0[l]) << 64);
                w.set128(d, m, &r);
            }),
            (d @ (Dst::R32(_) | Dst::R64(_) | Dst::R128(_)), Err(parts)) => {
                let mask = (1u128 << bits) - 1;
                exec(move |w, _, m| {
                    let mut r = [0u128; 32];
                    for (n, p) in parts.iter().enumerate() {
                        for l in 0..32 {
                            r[l] |= (wide(p, w, l) & mask) << (bits as usize * n);
                        }
                    }
                    match d {
                        Dst::R32(d) => u32::set(w, d, m, r.map(|x| x as u32)),
                        Dst::R64(d) => u64::set(w, d, m, r.map(|x| x as u64)),
                        Dst::R128(d) => w.set128(d, m, &r),
                        _ => {}
                    }
                })
            }
            _ => return unsupported(i),
        })
    }
}
fn wide(p: &Part, w: &Warp, lane: usize) -> u128 {
    match p {
        Part::W32(a) => a.get(w).0[lane].into(),
        Part::W64(a) => a.get(w).0[lane].into(),
    }
}

simd! {
    fn unpack[](s: &Scope, i: &Instr, v: &[Operand], a: &Operand) -> Made {
        let whole = ty(i)?.bits();
        let bits = whole / v.len() as u32;
        let parts = v.iter().map(|o| s.dst(i, o)).collect::<Result<Vec<_>, _>>()?;
        if parts.iter().any(|d| !matches!((d, bits), (Dst::Sink, _) | (Dst::R32(_), 8..=32) | (Dst::R64(_), 64)))
        {
            return Err(wrong(i, "elements and value do not have the same size"));
        }
        if whole == 128 {
            let Operand::Reg(r) = a else { return unsupported(i) };
            if s.function.regs[*r as usize].bits() != 128 {
                return unsupported(i);
            }
            let a = s.slots[*r as usize];
            return Ok(exec(move |w, _, m| {
                let x = *w.r128(a);
                for (n, d) in parts.iter().enumerate() {
                    match *d {
                        Dst::R32(d) => u32::set(w, d, m, x.map(|x| (x >> (bits as usize * n)) as u32)),
                        Dst::R64(d) => u64::set(w, d, m, x.map(|x| (x >> (bits as usize * n)) as u64)),
                        _ => {}
                    }
                }
            }));
        }
        let mask = if bits == 32 { !0 } else { (1u32 << bits) - 1 };
        if whole == 64 {
            let a = s.src64(i, a, Type::B64)?;
            return Ok(exec(move |w, _, m| {
                let x = *a.get(w);
                for (n, d) in parts.iter().enumerate() {
                    if let Dst::R32(d) = *d {
                        u32::set(w, d, m, x.0.map(|x| (x >> (bits as usize * n)) as u32 & mask));
                    }
                }
            }));
        }
        let a = s.src32(i, a, Type::B32)?;
        Ok(exec(move |w, _, m| {
            let x = *a.get(w);
            for (n, d) in parts.iter().enumerate() {
                if let Dst::R32(d) = *d {
                    let mut r = [0; 32];
                    r.iter_mut().zip(&x.0).for_each(|(r, x)| *r = x >> (bits as usize * n) & mask);
                    u32::set(w, d, m, r);
                }
            }
        }))
    }
}

/// The space that a modifier names.
fn space(i: &Instr) -> Result<Space, crate::error::PtxError> {
    let named = i.mods.iter().find_map(|m| {
        Some(match m.split("::").next()? {
            "global" => Space::Global,
            "const" => Space::Const,
            "shared" => Space::Shared,
            "local" => Space::Local,
            "param" => Space::Param,
            _ => return None,
        })
    });
    named.ok_or_else(|| wrong(i, "a state space is missing"))
}

/// cvta, cvta.to: between addresses of a space and generic ones.
fn cvta(s: &Scope, i: &Instr) -> Made {
    let base = match space(i)? {
        Space::Shared => SHARED,
        Space::Local => LOCAL,
        Space::Param => PARAM,
        _ => 0,
    };
    if ty(i)? != Type::U64 {
        return Err(wrong(i, "generic addresses have 64 bits"));
    }
    if i.has("to") {
        unary(s, i, move |a: u64| a.wrapping_sub(base))
    } else {
        unary(s, i, move |a: u64| a.wrapping_add(base))
    }
}

/// mapa, getctarank: a cluster is one block, so addresses in it are its own and its rank is 0.
fn cluster(s: &Scope, i: &Instr) -> Made {
    match (i.op.as_str(), ty(i)?) {
        ("mapa", Type::U64) => binary(s, i, |a: u64, _: u32| a),
        ("mapa", Type::U32) => binary(s, i, |a: u32, _: u32| a),
        ("getctarank", Type::U64) => unary(s, i, |_: u64| 0u32),
        ("getctarank", Type::U32) => unary(s, i, |_: u32| 0u32),
        _ => unsupported(i),
    }
}

/// isspacep: whether a generic address lies in a space.
fn isspacep(s: &Scope, i: &Instr) -> Made {
    let Dst::Pred(p) = s.dst(i, s.operand(i, 0)?)? else {
        return Err(wrong(i, "the destination must be a predicate"));
    };
    let a = source::<u64>(s, i, 1)?;
    let constants: Vec<(u64, u64)> = s
        .module
        .variables
        .iter()
        .filter(|v| v.space == Space::Const)
        .filter_map(|v| Some((s.symbols.get(&v.name)?.1, v.bytes)))
        .collect();
    let space = space(i)?;
    Ok(exec(move |w, _, m| {
        let mut r = 0;
        for (l, &x) in a.get(w).0.iter().enumerate() {
            let is = match x & !(SHARED - 1) {
                SHARED => Space::Shared,
                LOCAL => Space::Local,
                PARAM => Space::Param,
                _ if constants.iter().any(|&(at, n)| x.wrapping_sub(at) < n) => Space::Const,
                _ => Space::Global,
            };
            r |= u32::from(is == space) << l;
        }
        w.set_pred(p, m, r);
    }))
}
