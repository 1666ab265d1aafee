//! atom and red. Lanes go one after the other; blocks on other threads see every operation whole.
//! Source: PTX ISA, "Parallel Synchronization and Communication Instructions: atom, red".

use super::memory::{Form, elements, lanes, wrong};
use crate::error::PtxError;
use crate::exec::cta::{Access, Kind, Order};
use crate::exec::decode::{Decoded, Dst, Scope, Src32, Src64};
use crate::exec::{Class, Exec, Flow, L32, L64, Warp};
use crate::ptx::ast::{Instr, Operand, Space, Type};
use half::{bf16, f16};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};

const WORDS: &[&str] =
    &["and", "or", "xor", "cas", "exch", "add", "inc", "dec", "min", "max", "noftz", "async", "noinc"];

/// The family's entry.
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    match i.op.as_str() {
        "atom" | "red" if !i.has("async") => atomic(s, i).map(Some),
        _ => Ok(None),
    }
}

/// New value from the old one and two operands, as bits of the type.
type Op = fn(u64, u64, u64) -> u64;

fn float(x: u64) -> f32 {
    f32::from_bits(x as u32)
}
fn canonical(x: f32) -> u64 {
    u64::from(if x.is_nan() { 0x7fff_ffff } else { x.to_bits() })
}
fn halves(f: fn(u16, u16) -> u16, a: u64, b: u64) -> u64 {
    u64::from(f(a as u16, b as u16)) | u64::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}
/// An operation in f32 on two f16 or bf16, rounded once: exact for these.
macro_rules! narrow {
    ($name:ident, $t:ty, $f:expr) => {
        fn $name(a: u16, b: u16) -> u16 {
            let f: fn(f32, f32) -> f32 = $f;
            let r = f(<$t>::from_bits(a).to_f32(), <$t>::from_bits(b).to_f32());
            if r.is_nan() { 0x7fff } else { <$t>::from_f32(r).to_bits() }
        }
    };
}
fn least(a: f32, b: f32) -> f32 {
    if a == b && a.is_sign_negative() { a } else { a.min(b) }
}
fn greatest(a: f32, b: f32) -> f32 {
    if a == b && a.is_sign_positive() { a } else { a.max(b) }
}
narrow!(add_f16, f16, |a, b| a + b);
narrow!(min_f16, f16, least);
narrow!(max_f16, f16, greatest);
narrow!(add_bf16, bf16, |a, b| a + b);
narrow!(min_bf16, bf16, least);
narrow!(max_bf16, bf16, greatest);

fn operation(op: &str, ty: Type) -> Option<Op> {
    use Type::*;
    Some(match (op, ty) {
        ("and", B32 | B64) => |a, b, _| a & b,
        ("or", B32 | B64) => |a, b, _| a | b,
        ("xor", B32 | B64) => |a, b, _| a ^ b,
        ("exch", B32 | B64) => |_, b, _| b,
        ("cas", B16 | B32 | B64) => |a, b, c| if a == b { c } else { a },
        ("inc", U32) => |a, b, _| if a >= b { 0 } else { a + 1 },
        ("dec", U32) => |a, b, _| if a == 0 || a > b { b } else { a - 1 },
        ("add", U32 | S32 | U64 | S64) => |a, b, _| a.wrapping_add(b),
        ("min", U32 | U64) => |a, b, _| a.min(b),
        ("max", U32 | U64) => |a, b, _| a.max(b),
        ("min", S32) => |a, b, _| (a as i32).min(b as i32) as u64,
        ("max", S32) => |a, b, _| (a as i32).max(b as i32) as u64,
        ("min", S64) => |a, b, _| (a as i64).min(b as i64) as u64,
        ("max", S64) => |a, b, _| (a as i64).max(b as i64) as u64,
        ("add", F32) => |a, b, _| canonical(float(a) + float(b)),
        ("add", F64) => |a, b, _| (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        ("add", F16) => |a, b, _| add_f16(a as u16, b as u16).into(),
        ("min", F16) => |a, b, _| min_f16(a as u16, b as u16).into(),
        ("max", F16) => |a, b, _| max_f16(a as u16, b as u16).into(),
        ("add", Bf16) => |a, b, _| add_bf16(a as u16, b as u16).into(),
        ("min", Bf16) => |a, b, _| min_bf16(a as u16, b as u16).into(),
        ("max", Bf16) => |a, b, _| max_bf16(a as u16, b as u16).into(),
        ("add", F16x2) => |a, b, _| halves(add_f16, a, b),
        ("min", F16x2) => |a, b, _| halves(min_f16, a, b),
        ("max", F16x2) => |a, b, _| halves(max_f16, a, b),
        ("add", Bf16x2) => |a, b, _| halves(add_bf16, a, b),
        ("min", Bf16x2) => |a, b, _| halves(min_bf16, a, b),
        ("max", Bf16x2) => |a, b, _| halves(max_bf16, a, b),
        _ => return None,
    })
}

/// In global memory f32 addition flushes subnormal inputs and results to zero of the same sign; in shared memory not.
fn add_flushed(a: u64, b: u64, _: u64) -> u64 {
    let flush = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    canonical(flush(flush(float(a)) + flush(float(b))))
}

/// A read-modify-write of `bytes` bytes; returns the old value.
/// SAFETY: `p` must be writable and aligned to `bytes`.
unsafe fn update(p: *mut u8, bytes: u32, op: Op, b: u64, c: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        match bytes {
            2 => {
                let f = |a: u16| Some(op(a.into(), b, c) as u16);
                AtomicU16::from_ptr(p.cast()).fetch_update(SeqCst, SeqCst, f).unwrap_or_default().into()
            }
            4 => {
                let f = |a: u32| Some(op(a.into(), b, c) as u32);
                AtomicU32::from_ptr(p.cast()).fetch_update(SeqCst, SeqCst, f).unwrap_or_default().into()
            }
            _ => {
                let f = |a: u64| Some(op(a, b, c));
                AtomicU64::from_ptr(p.cast()).fetch_update(SeqCst, SeqCst, f).unwrap_or_default()
            }
        }
    }
}

enum Source {
    W32(Src32),
    W64(Src64),
    W128(u32),
}
impl Source {
    fn of(s: &Scope, i: &Instr, o: &Operand, ty: Type) -> Result<Self, PtxError> {
        Ok(match ty.bits() {
            128 => match s.dst(i, o)? {
                Dst::R128(slot) => Self::W128(slot),
                _ => return Err(wrong(i, "a 128-bit register is needed")),
            },
            64 => Self::W64(s.src64(i, o, ty)?),
            _ => Self::W32(s.src32(i, o, ty)?),
        })
    }
    #[inline(always)]
    fn get(&self, w: &Warp, lane: usize) -> u128 {
        match self {
            Self::W32(x) => x.get(w).0[lane].into(),
            Self::W64(x) => x.get(w).0[lane].into(),
            Self::W128(slot) => w.r128(*slot)[lane],
        }
    }
}

struct Element {
    dst: Dst,
    b: Source,
    c: Source,
}

fn atomic(s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
    let f = Form::of(i, WORDS)?;
    let word = i.mods.iter().find(|m| WORDS[..10].contains(&m.as_str()));
    let Some(word) = word else { return Err(wrong(i, "the operation is missing")) };
    if !matches!(f.space, Space::Generic | Space::Global | Space::Shared) {
        return Err(wrong(i, "only global and shared memory have atomics"));
    }
    let wide = f.ty == Type::B128 && matches!(word.as_str(), "cas" | "exch");
    let op = match operation(word, f.ty) {
        Some(op) => op,
        None if wide => |a, _, _| a,
        None => return Err(wrong(i, "this operation does not exist for the type")),
    };
    let cas = word == "cas";
    let first = usize::from(i.op == "atom");
    let addr = s.addr(i, s.operand(i, first)?)?;
    let bs = elements(i, s.operand(i, first + 1)?, f.count)?;
    let mut parts = Vec::new();
    for (n, b) in bs.iter().enumerate() {
        let dst = if first == 1 { s.dst(i, &elements(i, s.operand(i, 0)?, f.count)?[n])? } else { Dst::Sink };
        let fits = match f.ty.bits() {
            128 => matches!(dst, Dst::R128(_) | Dst::Sink),
            64 => matches!(dst, Dst::R64(_) | Dst::Sink),
            _ => matches!(dst, Dst::R32(_) | Dst::Sink),
        };
        if !fits {
            return Err(wrong(i, "the destination has another width than the type"));
        }
        let c = if cas { s.operand(i, first + 2)? } else { b };
        parts.push(Element { dst, b: Source::of(s, i, b, f.ty)?, c: Source::of(s, i, c, f.ty)? });
    }
    let flushes = word == "add" && f.ty == Type::F32;
    let order = if f.order == Order::Weak { Order::Relaxed } else { f.order };
    let (space, bytes, size) = (f.space, f.bytes(), f.ty.bytes());
    let exec: Exec = Box::new(move |w, cta, mask| {
        let addresses = &addr.get(w);
        let p = cta.access(w, &Access { kind: Kind::Atomic, space, addresses, bytes, mask, order })?;
        for (n, part) in parts.iter().enumerate() {
            let mut old = [0u128; 32];
            for l in lanes(mask) {
                let (b, c) = (part.b.get(w, l), part.c.get(w, l));
                let global = space == Space::Global
                    || space == Space::Generic && addresses[l] < crate::exec::cta::SHARED;
                let op = if flushes && global { add_flushed } else { op };
                // SAFETY: `access` vouches for `bytes` bytes at each pointer of the mask, aligned to the element.
                old[l] = unsafe {
                    let p = p[l].add(n * size as usize);
                    if wide {
                        update_128(p, cas, b, c)
                    } else {
                        update(p, size, op, b as u64, c as u64).into()
                    }
                };
            }
            match part.dst {
                Dst::R32(slot) => w.set32(slot, mask, &L32(old.map(|x| x as u32))),
                Dst::R64(slot) => w.set64(slot, mask, &L64(old.map(|x| x as u64))),
                Dst::R128(slot) => w.set128(slot, mask, &old),
                Dst::Pred(_) | Dst::Sink => {}
            }
        }
        Ok(Flow::Next)
    });
    Ok((exec, Class::Atomic))
}

/// Exchange, or compare and exchange, of 16 bytes: whole among themselves.
/// SAFETY: `p` must be writable.
unsafe fn update_128(p: *mut u8, cas: bool, b: u128, c: u128) -> u128 {
    static LOCK: Mutex<()> = Mutex::new(());
    let _lock = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    // SAFETY: the caller's.
    unsafe {
        let p = p.cast::<u128>();
        let old = p.read_unaligned();
        if !cas || old == b {
            p.write_unaligned(if cas { c } else { b });
        }
        old
    }
}
