//! ld, ldu, st, prefetches and cache policies. Source: PTX ISA, "Data Movement and Conversion Instructions".

use super::copy;
use super::lanes::simd;
use crate::error::PtxError;
use crate::exec::cta::{Access, Kind, Order};
use crate::exec::decode::{Addr, Decoded, Dst, Scope, Src32, Src64};
use crate::exec::{Class, Exec, Flow, L32, L64, Mask};
use crate::ptx::ast::{Instr, Operand, Space, Type};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// The families' entry.
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    match i.op.as_str() {
        "ld" | "ldu" => load(s, i).map(Some),
        "st" if !i.has("async") && !i.has("bulk") => store(s, i).map(Some),
        // Hints change nothing here, and an address that is not mapped is no fault.
        "prefetch" | "prefetchu" | "applypriority" => {
            let address = i.operands.first().is_some_and(|o| matches!(o, Operand::Address(_)));
            if !address {
                return Err(wrong(i, "an address is missing"));
            }
            Ok(Some((Box::new(|_, _, _| Ok(Flow::Next)), Class::Other)))
        }
        "discard" => discard(s, i).map(Some),
        "createpolicy" => {
            let d = s.dst(i, s.operand(i, 0)?)?;
            let Dst::R64(d) = d else { return Err(wrong(i, "a cache policy is 64 bits wide")) };
            let exec: Exec = Box::new(move |w, _, mask| {
                w.set64(d, mask, &L64::splat(0));
                Ok(Flow::Next)
            });
            Ok(Some((exec, Class::Other)))
        }
        _ => Ok(None),
    }
}

/// An error of this instruction.
pub(super) fn wrong(i: &Instr, what: &str) -> PtxError {
    PtxError::new(i.line, format!("{}: {what}", i.spelling()))
}

/// What the modifiers of a memory instruction say.
pub(super) struct Form {
    pub space: Space,
    pub order: Order,
    /// Elements of the vector.
    pub count: usize,
    pub ty: Type,
}
impl Form {
    /// Reads the modifiers; the family's own ones are in `also`.
    pub fn of(i: &Instr, also: &[&str]) -> Result<Self, PtxError> {
        let mut f = Self { space: Space::Generic, order: Order::Weak, count: 1, ty: Type::Pred };
        for m in &i.mods {
            match m.as_str() {
                "param" | "param::entry" | "param::func" => f.space = Space::Param,
                "const" => f.space = Space::Const,
                "global" => f.space = Space::Global,
                "shared" | "shared::cta" | "shared::cluster" => f.space = Space::Shared,
                "local" => f.space = Space::Local,
                "weak" => {}
                "volatile" | "relaxed" | "mmio" => f.order = Order::Relaxed,
                "acquire" => f.order = Order::Acquire,
                "release" => f.order = Order::Release,
                "acq_rel" => f.order = Order::AcquireRelease,
                "cta" | "cluster" | "gpu" | "sys" => {}
                "v2" => f.count = 2,
                "v4" => f.count = 4,
                "v8" => f.count = 8,
                "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "nc" | "unified" => {}
                m if m.starts_with("L1::") || m.starts_with("L2::") => {}
                m if also.contains(&m) => {}
                m => match Type::named(m) {
                    Some(ty) => f.ty = ty,
                    None => return Err(wrong(i, &format!(".{m} is not known here"))),
                },
            }
        }
        if f.ty == Type::Pred {
            return Err(wrong(i, "a type is missing"));
        }
        if f.bytes() > 32 {
            return Err(wrong(i, "a lane moves at most 32 bytes"));
        }
        Ok(f)
    }
    /// Bytes of a lane.
    pub fn bytes(&self) -> u32 {
        self.ty.bytes() * self.count as u32
    }
    fn strong(&self) -> bool {
        self.order != Order::Weak
    }
}

/// The elements of a vector operand, or the one operand.
pub(super) fn elements<'i>(i: &Instr, o: &'i Operand, count: usize) -> Result<&'i [Operand], PtxError> {
    let v = match o {
        Operand::Vector(v) => v.as_slice(),
        o => std::slice::from_ref(o),
    };
    if v.len() == count { Ok(v) } else { Err(wrong(i, &format!("a vector of {count} is needed"))) }
}

/// An integer in memory: loaded and stored plainly or, for strong accesses, as an atomic.
pub(super) trait Cell: Copy {
    /// SAFETY: `p` must be readable, and aligned when `STRONG`.
    unsafe fn load<const STRONG: bool>(p: *const u8) -> Self;
    /// SAFETY: `p` must be writable, and aligned when `STRONG`.
    unsafe fn store<const STRONG: bool>(self, p: *mut u8);
    fn wide(self) -> u64;
    fn narrow(x: u64) -> Self;
}
macro_rules! cell {
    ($($t:ty, $a:ty);*) => {$(
        impl Cell for $t {
            #[inline(always)]
            unsafe fn load<const STRONG: bool>(p: *const u8) -> Self {
                // SAFETY: the caller's.
                unsafe {
                    if STRONG {
                        <$a>::from_ptr(p as *mut _).load(Ordering::SeqCst) as $t
                    } else {
                        p.cast::<$t>().read_unaligned()
                    }
                }
            }
            #[inline(always)]
            unsafe fn store<const STRONG: bool>(self, p: *mut u8) {
                // SAFETY: the caller's.
                unsafe {
                    if STRONG {
                        <$a>::from_ptr(p.cast()).store(self as _, Ordering::Release)
                    } else {
                        p.cast::<$t>().write_unaligned(self)
                    }
                }
            }
            #[inline(always)]
            fn wide(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn narrow(x: u64) -> Self {
                x as $t
            }
        }
    )*};
}
cell!(u8, AtomicU8; i8, AtomicU8; u16, AtomicU16; i16, AtomicU16; u32, AtomicU32; i32, AtomicU32; u64, AtomicU64);

type Pointers = [*mut u8; 32];

/// Lanes of a mask.
#[inline(always)]
pub(super) fn lanes(mut mask: Mask) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let l = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (l < 32).then_some(l as usize)
    })
}

#[inline(always)]
fn contiguous(p: &Pointers, bytes: usize) -> bool {
    let first = p[0] as usize;
    let mut apart = 0;
    for (l, p) in p.iter().enumerate() {
        apart |= *p as usize ^ first.wrapping_add(l * bytes);
    }
    apart == 0
}

macro_rules! movers {
    ($get:ident, $put:ident, $reg:ident, $word:ty) => {
        /// SAFETY: at `offset` of each pointer of the mask there must be a `T`.
        unsafe fn $get<T: Cell, const STRONG: bool>(p: &Pointers, offset: usize, mask: Mask) -> $reg {
            let mut r = $reg::splat(0);
            // SAFETY: the caller's; contiguous lanes are one piece of memory that the access covers.
            unsafe {
                if mask == !0 {
                    if !STRONG && size_of::<T>() == size_of::<$word>() && contiguous(p, size_of::<T>()) {
                        r.0 = p[0].add(offset).cast::<[$word; 32]>().read_unaligned();
                    } else {
                        for l in 0..32 {
                            r.0[l] = T::load::<STRONG>(p[l].add(offset)).wide() as $word;
                        }
                    }
                } else {
                    for l in lanes(mask) {
                        r.0[l] = T::load::<STRONG>(p[l].add(offset)).wide() as $word;
                    }
                }
            }
            r
        }
        /// SAFETY: at `offset` of each pointer of the mask there must be room for a `T`.
        unsafe fn $put<T: Cell, const STRONG: bool>(p: &Pointers, offset: usize, mask: Mask, x: &$reg) {
            // SAFETY: as for loads.
            unsafe {
                if mask == !0 {
                    if !STRONG && size_of::<T>() == size_of::<$word>() && contiguous(p, size_of::<T>()) {
                        p[0].add(offset).cast::<[$word; 32]>().write_unaligned(x.0);
                    } else {
                        for l in 0..32 {
                            T::narrow(u64::from(x.0[l])).store::<STRONG>(p[l].add(offset));
                        }
                    }
                } else {
                    for l in lanes(mask) {
                        T::narrow(u64::from(x.0[l])).store::<STRONG>(p[l].add(offset));
                    }
                }
            }
        }
    };
}
movers!(get32, put32, L32, u32);
movers!(get64, put64, L64, u64);

/// The function of a family for a type's width, its sign and the access's strength.
macro_rules! choose {
    ($f:ident, $ty:expr, $strong:expr, $signed:expr) => {
        match ($ty.bytes(), $signed, $strong) {
            (1, false, false) => $f::<u8, false>,
            (1, false, true) => $f::<u8, true>,
            (1, true, false) => $f::<i8, false>,
            (1, true, true) => $f::<i8, true>,
            (2, false, false) => $f::<u16, false>,
            (2, false, true) => $f::<u16, true>,
            (2, true, false) => $f::<i16, false>,
            (2, true, true) => $f::<i16, true>,
            (4, false, false) => $f::<u32, false>,
            (4, false, true) => $f::<u32, true>,
            (4, true, false) => $f::<i32, false>,
            (4, true, true) => $f::<i32, true>,
            (_, _, false) => $f::<u64, false>,
            (_, _, true) => $f::<u64, true>,
        }
    };
}

enum Get {
    W32(u32, unsafe fn(&Pointers, usize, Mask) -> L32, u32),
    W64(u32, unsafe fn(&Pointers, usize, Mask) -> L64),
    W128(u32),
}

simd! {
    fn load[](s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
        let f = Form::of(i, &[])?;
        let mut gets = Vec::new();
        for (n, o) in elements(i, s.operand(i, 0)?, f.count)?.iter().enumerate() {
            let at = n * f.ty.bytes() as usize;
            let bits = if let Operand::Reg(r) = o { s.function.regs[*r as usize].bits() } else { 128 };
            if bits < f.ty.bits() {
                return Err(wrong(i, "the destination is narrower than the type"));
            }
            let signed = f.ty.signed();
            gets.push((
                at,
                match s.dst(i, o)? {
                    Dst::R32(slot) => {
                        let keep = if bits < 32 { (1 << bits) - 1 } else { !0 };
                        Get::W32(slot, choose!(get32, f.ty, f.strong(), signed), keep)
                    }
                    Dst::R64(slot) => Get::W64(slot, choose!(get64, f.ty, f.strong(), signed)),
                    Dst::R128(slot) if f.ty == Type::B128 => Get::W128(slot),
                    Dst::Sink => continue,
                    _ => return Err(wrong(i, "this destination cannot hold the type")),
                },
            ));
        }
        let addr = s.addr(i, s.operand(i, 1)?)?;
        let class = match f.space {
            Space::Generic => Class::LoadGeneric,
            Space::Global => Class::LoadGlobal,
            Space::Const | Space::Param => Class::LoadConst,
            Space::Shared => Class::LoadShared,
            Space::Local => Class::LoadLocal,
        };
        let (space, order, bytes) = (f.space, f.order, f.bytes());
        let exec: Exec = Box::new(move |w, cta, mask| {
            copy::drift(cta);
            let p = cta.reach(w, &addr, (Kind::Read, space, order), bytes, mask)?;
            for (at, get) in &gets {
                // SAFETY: `access` vouches for `bytes` bytes at each pointer of the mask, aligned to the element.
                unsafe {
                    match get {
                        Get::W32(slot, get, keep) => {
                            let mut x = get(&p, *at, mask);
                            if *keep != !0 {
                                x.0.iter_mut().for_each(|x| *x &= keep);
                            }
                            w.set32(*slot, mask, &x);
                        }
                        Get::W64(slot, get) => w.set64(*slot, mask, &get(&p, *at, mask)),
                        Get::W128(slot) => {
                            let mut x = [0; 32];
                            lanes(mask).for_each(|l| x[l] = p[l].add(*at).cast::<u128>().read_unaligned());
                            w.set128(*slot, mask, &x);
                        }
                    }
                }
            }
            Ok(Flow::Next)
        });
        Ok((exec, class))
    }
}

enum Put {
    W32(Src32, unsafe fn(&Pointers, usize, Mask, &L32)),
    W64(Src64, unsafe fn(&Pointers, usize, Mask, &L64)),
    W128(u32),
}

simd! {
    fn store[](s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
        let f = Form::of(i, &[])?;
        if f.space == Space::Const {
            return Err(wrong(i, "constant memory cannot be written"));
        }
        let addr = s.addr(i, s.operand(i, 0)?)?;
        let mut puts = Vec::new();
        for (n, o) in elements(i, s.operand(i, 1)?, f.count)?.iter().enumerate() {
            let bits = if let Operand::Reg(r) = o { s.function.regs[*r as usize].bits() } else { f.ty.bits() };
            if bits < f.ty.bits() {
                return Err(wrong(i, "the source is narrower than the type"));
            }
            let put = match (bits, o) {
                (128, Operand::Reg(_)) if f.ty == Type::B128 => match s.dst(i, o)? {
                    Dst::R128(slot) => Put::W128(slot),
                    _ => return Err(wrong(i, "this source cannot hold the type")),
                },
                (64, _) => Put::W64(s.src64(i, o, f.ty)?, choose!(put64, f.ty, f.strong(), false)),
                _ => Put::W32(s.src32(i, o, f.ty)?, choose!(put32, f.ty, f.strong(), false)),
            };
            puts.push((n * f.ty.bytes() as usize, put));
        }
        let class = match f.space {
            Space::Generic => Class::StoreGeneric,
            Space::Shared => Class::StoreShared,
            Space::Local | Space::Param => Class::StoreLocal,
            _ => Class::StoreGlobal,
        };
        let (space, order, bytes) = (f.space, f.order, f.bytes());
        let exec: Exec = Box::new(move |w, cta, mask| {
            copy::drift(cta);
            let p = cta.reach(w, &addr, (Kind::Write, space, order), bytes, mask)?;
            for (at, put) in &puts {
                // SAFETY: `access` vouches for `bytes` bytes at each pointer of the mask, aligned to the element.
                unsafe {
                    match put {
                        Put::W32(x, put) => put(&p, *at, mask, x.get(w)),
                        Put::W64(x, put) => put(&p, *at, mask, x.get(w)),
                        Put::W128(slot) => {
                            lanes(mask)
                                .for_each(|l| p[l].add(*at).cast::<u128>().write_unaligned(w.r128(*slot)[l]));
                        }
                    }
                }
            }
            Ok(Flow::Next)
        });
        Ok((exec, class))
    }
}

/// The 128 bytes hold nothing from now on: poison says so under an adversarial schedule or the checkers.
fn discard(s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
    let addr: Addr = s.addr(i, s.operand(i, 0)?)?;
    if s.operand(i, 1)? != &Operand::Int(128) {
        return Err(wrong(i, "the size must be 128"));
    }
    let exec: Exec = Box::new(move |w, cta, mask| {
        if copy::poisons(cta) {
            let addresses = &addr.get(w);
            let (kind, order, space) = (Kind::Write, Order::Weak, Space::Global);
            let p = cta.access(w, &Access { kind, space, addresses, bytes: 128, mask, order })?;
            // SAFETY: `access` vouches for 128 bytes at each pointer of the mask.
            lanes(mask).for_each(|l| unsafe { p[l].write_bytes(copy::POISON, 128) });
        }
        Ok(Flow::Next)
    });
    Ok((exec, Class::StoreGlobal))
}
