//! Exchange between the lanes of a warp: shfl, vote, match, redux, activemask, elect. Source: PTX ISA, "Data Movement and
//! Conversion Instructions: shfl.sync" and "Parallel Synchronization and Communication Instructions".
//!
//! Lanes that meet at the instruction with the same member mask act together, when all that the mask names (and that have
//! not exited) are there. A mask that leaves out a lane which executes it, or names a lane that never comes, is a misuse
//! that is reported; the lanes that are there go on.

use super::lanes::*;
use crate::error::PtxError;
use crate::exec::decode::{Decoded, Dst, Scope, Src32};
use crate::exec::{Class, Cta, Exec, Flow, L32, Mask, Warp};
use crate::ptx::ast::{Instr, Operand, Type};

/// What a lane reads from one that does not take part; as a float, a NaN.
const POISON: u32 = 0xffff_dead;

/// See [`super`].
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    let e = match i.op.as_str() {
        "shfl" => shfl(s, i),
        "vote" => vote(s, i),
        "match" => matches(s, i),
        "redux" => redux(s, i),
        "activemask" => {
            let d = target::<u32>(s, i, 0)?;
            Ok(exec(move |w, _, m| {
                if let Some(d) = d {
                    w.set32(d, m, &L32::splat(m));
                }
            }))
        }
        "elect" => elect(s, i),
        _ => return Ok(None),
    };
    done(i, e, Class::WarpExchange)
}

/// The member mask; the older forms without `.sync` take the lanes that are there.
fn members(s: &Scope, i: &Instr, n: usize) -> Result<Option<Src32>, PtxError> {
    if i.has("sync") { Ok(Some(source::<u32>(s, i, n)?)) } else { Ok(None) }
}
/// Work that waits for the lanes its member masks name, as long as they may come.
fn together(
    members: Option<Src32>,
    f: impl Fn(&mut Warp, &mut Cta, Mask, &Option<Src32>) + Send + Sync + 'static,
) -> Exec {
    let named = members.clone();
    let work = exec(move |w, c, m| f(w, c, m, &members));
    Box::new(move |w, c, m| {
        if let Some(named) = &named
            && !w.stuck
        {
            let masks = &named.get(w).0;
            let all = (0..32).filter(|l| m >> l & 1 == 1).fold(0, |all, l| all | masks[l]);
            if all & w.alive & !m != 0 {
                return Ok(Flow::Converge);
            }
        }
        work(w, c, m)
    })
}
/// Calls `f` with each group of lanes that act together.
#[inline(always)]
fn groups(
    w: &mut Warp,
    c: &mut Cta,
    m: Mask,
    members: &Option<Src32>,
    mut f: impl FnMut(&mut Warp, &mut Cta, Mask),
) {
    let Some(members) = members else { return f(w, c, m) };
    if matches!(members, Src32::Const(x) if x.0[0] & w.alive == m) {
        return f(w, c, m);
    }
    let masks = *members.get(w);
    let mut rest = m;
    while rest != 0 {
        let named = masks.0[rest.trailing_zeros() as usize];
        let mut group = 0;
        for l in 0..32 {
            group |= u32::from(masks.0[l] == named && rest >> l & 1 == 1) << l;
        }
        rest &= !group;
        let (outside, missing) = (group & !named, named & w.alive & !group);
        if outside != 0 {
            c.misuse(w, Some(outside.trailing_zeros()), || {
                format!("member mask {named:#010x} leaves out lanes that execute it ({outside:#010x})")
            });
        }
        if missing != 0 {
            c.misuse(w, Some(group.trailing_zeros()), || {
                format!("member mask {named:#010x} names lanes that are not there ({missing:#010x})")
            });
        }
        f(w, c, group);
    }
}

/// Two destinations `d|p`, either may be a sink; or one.
fn two(s: &Scope, i: &Instr) -> Result<(Option<u32>, Option<u32>), PtxError> {
    let (d, p) = match s.operand(i, 0)? {
        Operand::Pair(d, p) => (&**d, Some(&**p)),
        d => (d, None),
    };
    let d = match s.dst(i, d)? {
        Dst::R32(d) => Some(d),
        Dst::Sink => None,
        _ => return Err(wrong(i, "the destination must be a 32-bit register")),
    };
    let p = match p.map(|p| s.dst(i, p)).transpose()? {
        Some(Dst::Pred(p)) => Some(p),
        None | Some(Dst::Sink) => None,
        _ => return Err(wrong(i, "the second destination must be a predicate")),
    };
    Ok((d, p))
}

#[derive(Clone, Copy)]
enum Mode {
    Up,
    Down,
    Butterfly,
    Index,
}
/// The lane that `lane` reads, and whether it is in range.
fn partner(mode: Mode, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let (first, last) = (lane & segment, lane & segment | clamp & !segment);
    let (j, inside) = match mode {
        Mode::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= last as i32),
        Mode::Down => (lane + b, lane + b <= last),
        Mode::Butterfly => (lane ^ b, lane ^ b <= last),
        Mode::Index => (first | b & !segment, first | b & !segment <= last),
    };
    (if inside { j & 31 } else { lane }, inside)
}

fn shfl(s: &Scope, i: &Instr) -> Made {
    let mode = match i.mods.iter().find(|m| *m != "sync").map(String::as_str) {
        Some("up") => Mode::Up,
        Some("down") => Mode::Down,
        Some("bfly") => Mode::Butterfly,
        Some("idx") => Mode::Index,
        _ => return unsupported(i),
    };
    let (d, p) = two(s, i)?;
    let (a, b, c) = (source::<u32>(s, i, 1)?, source::<u32>(s, i, 2)?, source::<u32>(s, i, 3)?);
    let members = members(s, i, 4)?;
    // Where each lane reads is known now if distance and range are constants.
    let fixed = match (&b, &c) {
        (Src32::Const(b), Src32::Const(c)) => Some(plan(mode, b, c)),
        _ => None,
    };
    Ok(together(members, move |w, cta, m, members| {
        let (from, inside) = fixed.unwrap_or_else(|| plan(mode, b.get(w), c.get(w)));
        let x = *a.get(w);
        let mut r = [0; 32];
        for l in 0..32 {
            r[l] = x.0[from[l] as usize & 31];
        }
        groups(w, cta, m, members, |w, cta, group| {
            if group != !0 {
                for l in (0..32).filter(|l| group >> l & 1 == 1 && group >> from[*l] & 1 == 0) {
                    r[l] = POISON;
                    if w.alive >> from[l] & 1 == 1 {
                        cta.misuse(w, Some(l as u32), || {
                            format!("reads from lane {}, which does not take part", from[l])
                        });
                    }
                }
            }
        });
        if let Some(d) = d {
            u32::set(w, d, m, r);
        }
        if let Some(p) = p {
            w.set_pred(p, m, inside);
        }
    }))
}
fn plan(mode: Mode, b: &L32, c: &L32) -> ([u8; 32], Mask) {
    let (mut from, mut inside) = ([0; 32], 0);
    for l in 0..32 {
        let (j, ok) = partner(mode, l as u32, b.0[l], c.0[l]);
        from[l] = j as u8;
        inside |= u32::from(ok) << l;
    }
    (from, inside)
}

fn vote(s: &Scope, i: &Instr) -> Made {
    let a = s.pred(i, s.operand(i, 1)?)?;
    let members = members(s, i, 2)?;
    if i.has("ballot") {
        let d = target::<u32>(s, i, 0)?;
        return Ok(together(members, move |w, c, m, members| {
            let x = a.get(w);
            groups(w, c, m, members, |w, _, g| {
                if let Some(d) = d {
                    w.set32(d, g, &L32::splat(x & g));
                }
            });
        }));
    }
    let Dst::Pred(p) = s.dst(i, s.operand(i, 0)?)? else {
        return Err(wrong(i, "the destination must be a predicate"));
    };
    let f: fn(Mask, Mask) -> bool = match i.mods.iter().find(|m| *m != "sync").map(String::as_str) {
        Some("all") => |x, g| x & g == g,
        Some("any") => |x, g| x & g != 0,
        Some("uni") => |x, g| x & g == g || x & g == 0,
        _ => return unsupported(i),
    };
    Ok(together(members, move |w, c, m, members| {
        let x = a.get(w);
        groups(w, c, m, members, |w, _, g| w.set_pred(p, g, if f(x, g) { !0 } else { 0 }));
    }))
}

/// match: which lanes of the group have the same value; or whether all have.
fn matches(s: &Scope, i: &Instr) -> Made {
    let (d, p) = two(s, i)?;
    let any = match (i.has("any"), i.has("all")) {
        (true, false) => true,
        (false, true) => false,
        _ => return unsupported(i),
    };
    let members = members(s, i, 2)?;
    let wide = match ty(i)? {
        Type::B32 => None,
        Type::B64 => Some(source::<u64>(s, i, 1)?),
        _ => return unsupported(i),
    };
    let narrow = if wide.is_none() { Some(source::<u32>(s, i, 1)?) } else { None };
    Ok(together(members, move |w, c, m, members| {
        let x: [u64; 32] = match (&narrow, &wide) {
            (Some(a), _) => a.get(w).0.map(u64::from),
            (_, Some(a)) => a.get(w).0,
            _ => return,
        };
        groups(w, c, m, members, |w, _, g| {
            let (mut rest, mut r, mut all) = (g, [0; 32], 0);
            while rest != 0 {
                let value = x[rest.trailing_zeros() as usize];
                let same =
                    (0..32).filter(|l| g >> l & 1 == 1 && x[*l] == value).fold(0, |s, l| s | 1u32 << l);
                rest &= !same;
                for l in (0..32).filter(|l| same >> l & 1 == 1) {
                    r[l] = if any || same == g { same } else { 0 };
                }
                all |= if same == g { g } else { 0 };
            }
            if let Some(d) = d {
                u32::set(w, d, g, r);
            }
            if let Some(p) = p {
                w.set_pred(p, g, all);
            }
        });
    }))
}

/// redux: one number from all lanes of the group.
fn redux(s: &Scope, i: &Instr) -> Made {
    let op = i.mods.iter().find(|m| *m != "sync").map(String::as_str).unwrap_or_default();
    let f: fn(u32, u32) -> u32 = match (op, ty(i)?) {
        ("add", Type::U32 | Type::S32) => |a, b| a.wrapping_add(b),
        ("min", Type::U32) => |a, b| a.min(b),
        ("max", Type::U32) => |a, b| a.max(b),
        ("min", Type::S32) => |a, b| (a as i32).min(b as i32) as u32,
        ("max", Type::S32) => |a, b| (a as i32).max(b as i32) as u32,
        ("and", Type::B32) => |a, b| a & b,
        ("or", Type::B32) => |a, b| a | b,
        ("xor", Type::B32) => |a, b| a ^ b,
        ("min" | "max", Type::F32) => return redux_float(s, i, op == "min"),
        _ => return unsupported(i),
    };
    let (d, a, members) = (target::<u32>(s, i, 0)?, source::<u32>(s, i, 1)?, members(s, i, 2)?);
    Ok(together(members, move |w, c, m, members| {
        let x = *a.get(w);
        groups(w, c, m, members, |w, _, g| {
            let r = (0..32).filter(|l| g >> l & 1 == 1).map(|l| x.0[l]).reduce(f).unwrap_or_default();
            if let Some(d) = d {
                w.set32(d, g, &L32::splat(r));
            }
        });
    }))
}
fn redux_float(s: &Scope, i: &Instr, min: bool) -> Made {
    use super::float::{least, most};
    let (abs, nan) = (i.has("abs"), i.has("NaN"));
    let (d, a, members) = (target::<u32>(s, i, 0)?, source::<u32>(s, i, 1)?, members(s, i, 2)?);
    Ok(together(members, move |w, c, m, members| {
        let x = *a.get(w);
        groups(w, c, m, members, |w, _, g| {
            let values = (0..32).filter(|l| g >> l & 1 == 1).map(|l| f32::from_bits(x.0[l]));
            let r = values.map(|x| if abs { x.abs() } else { x }).reduce(|a, b| match (nan, min) {
                (true, _) if a.is_nan() || b.is_nan() => f32::NAN,
                (_, true) => least(a, b),
                _ => most(a, b),
            });
            if let Some(d) = d {
                w.set32(d, g, &L32::splat(super::formats::canonical(r.unwrap_or_default()).to_bits()));
            }
        });
    }))
}

/// elect: the first lane of the group.
fn elect(s: &Scope, i: &Instr) -> Made {
    let (d, p) = two(s, i)?;
    let members = members(s, i, 1)?;
    Ok(together(members, move |w, c, m, members| {
        groups(w, c, m, members, |w, _, g| {
            let leader = g.trailing_zeros();
            if let Some(d) = d {
                w.set32(d, g, &L32::splat(leader));
            }
            if let Some(p) = p {
                w.set_pred(p, g, 1 << leader);
            }
        });
    }))
}
