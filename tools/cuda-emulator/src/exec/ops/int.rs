//! Integer arithmetic. Source: PTX ISA, "Integer Arithmetic Instructions" and "Extended-Precision Integer Arithmetic
//! Instructions".

use super::lanes::*;
use crate::error::PtxError;
use crate::exec::decode::{Decoded, Scope};
use crate::exec::{Class, Exec};
use crate::ptx::ast::{Instr, Type};

/// See [`super`].
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    let Some(t) = i.ty(0) else { return Ok(None) };
    use Type::*;
    if !matches!(t, U16 | S16 | U32 | S32 | U64 | S64 | U16x2 | S16x2 | B16 | B32 | B64) {
        return Ok(None);
    }
    let e = match i.op.as_str() {
        "add" | "sub" | "addc" | "subc" if i.has("cc") || i.op.ends_with('c') => carry(s, i, t),
        "mad" | "madc" if i.has("cc") || i.op == "madc" => carry(s, i, t),
        "add" => add(s, i, t),
        "sub" => sub(s, i, t),
        "mul" => mul(s, i, t),
        "mad" => mad(s, i, t),
        "mul24" | "mad24" => mul24(s, i, t),
        "div" => by_int!(t, i, T => binary(s, i, |a: T, b: T| if b == 0 { !0 } else { a.wrapping_div(b) })),
        "rem" => by_int!(t, i, T => binary(s, i, |a: T, b: T| if b == 0 { a } else { a.wrapping_rem(b) })),
        "sad" => by_int!(t, i, T => ternary(s, i, |a: T, b: T, c: T| c.wrapping_add(a.abs_diff(b) as T))),
        "abs" => match t {
            S16 => unary(s, i, i16::wrapping_abs),
            S32 => unary(s, i, i32::wrapping_abs),
            S64 => unary(s, i, i64::wrapping_abs),
            _ => unsupported(i),
        },
        "neg" => by_int!(t, i, T => unary(s, i, |a: T| (0 as T).wrapping_sub(a))),
        "min" | "max" => min_max(s, i, t),
        "dp4a" | "dp2a" => dot(s, i),
        _ => return Ok(None),
    };
    done(i, e, Class::Integer)
}

/// `d = f(a, b)` on both halves.
fn halves(s: &Scope, i: &Instr, f: impl Fn(u16, u16) -> u16 + Send + Sync + 'static) -> Made {
    binary(s, i, move |a: u32, b: u32| {
        u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
    })
}

fn add(s: &Scope, i: &Instr, t: Type) -> Made {
    match (t, i.has("sat")) {
        (Type::S32, true) => binary(s, i, i32::saturating_add),
        (_, true) => unsupported(i),
        (Type::U16x2 | Type::S16x2, _) => halves(s, i, u16::wrapping_add),
        _ => by_int!(t, i, T => binary(s, i, |a: T, b: T| a.wrapping_add(b))),
    }
}
fn sub(s: &Scope, i: &Instr, t: Type) -> Made {
    match (t, i.has("sat")) {
        (Type::S32, true) => binary(s, i, i32::saturating_sub),
        (_, true) => unsupported(i),
        (Type::U16x2 | Type::S16x2, _) => halves(s, i, u16::wrapping_sub),
        _ => by_int!(t, i, T => binary(s, i, |a: T, b: T| a.wrapping_sub(b))),
    }
}

/// The upper half of a product.
trait High: Copy {
    fn high(self, b: Self) -> Self;
}
macro_rules! high {
    ($($t:ty, $w:ty;)*) => {$(
        impl High for $t {
            #[inline(always)]
            fn high(self, b: Self) -> Self {
                (self as $w * b as $w >> <$t>::BITS) as $t
            }
        }
    )*};
}
high! { u16, u32; i16, i32; u32, u64; i32, i64; u64, u128; i64, i128; }

fn mul(s: &Scope, i: &Instr, t: Type) -> Made {
    if i.has("wide") {
        match t {
            Type::U16 => binary(s, i, |a: u16, b: u16| u32::from(a) * u32::from(b)),
            Type::S16 => binary(s, i, |a: i16, b: i16| i32::from(a) * i32::from(b)),
            Type::U32 => binary(s, i, |a: u32, b: u32| u64::from(a) * u64::from(b)),
            Type::S32 => binary(s, i, |a: i32, b: i32| i64::from(a) * i64::from(b)),
            _ => unsupported(i),
        }
    } else if i.has("hi") {
        by_int!(t, i, T => binary(s, i, |a: T, b: T| a.high(b)))
    } else if i.has("lo") {
        by_int!(t, i, T => binary(s, i, |a: T, b: T| a.wrapping_mul(b)))
    } else {
        unsupported(i)
    }
}
fn mad(s: &Scope, i: &Instr, t: Type) -> Made {
    if i.has("wide") {
        match t {
            Type::U16 => {
                ternary(s, i, |a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c))
            }
            Type::S16 => {
                ternary(s, i, |a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c))
            }
            Type::U32 => {
                ternary(s, i, |a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c))
            }
            Type::S32 => {
                ternary(s, i, |a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c))
            }
            _ => unsupported(i),
        }
    } else if i.has("hi") {
        match (t, i.has("sat")) {
            (Type::S32, true) => ternary(s, i, |a: i32, b: i32, c: i32| a.high(b).saturating_add(c)),
            (_, true) => unsupported(i),
            _ => by_int!(t, i, T => ternary(s, i, |a: T, b: T, c: T| a.high(b).wrapping_add(c))),
        }
    } else if i.has("lo") {
        by_int!(t, i, T => ternary(s, i, |a: T, b: T, c: T| a.wrapping_mul(b).wrapping_add(c)))
    } else {
        unsupported(i)
    }
}

/// mul24, mad24: 24-bit factors, bits 31–0 or 47–16 of the product.
fn mul24(s: &Scope, i: &Instr, t: Type) -> Made {
    let shift = match (i.has("hi"), i.has("lo")) {
        (true, _) => 16,
        (_, true) => 0,
        _ => return unsupported(i),
    };
    let u = move |a: u32, b: u32| (u64::from(a << 8 >> 8) * u64::from(b << 8 >> 8) >> shift) as u32;
    let v = move |a: i32, b: i32| (i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8) >> shift) as i32;
    match (t, i.op.as_str(), i.has("sat")) {
        (Type::U32, "mul24", false) => binary(s, i, u),
        (Type::S32, "mul24", false) => binary(s, i, v),
        (Type::U32, _, false) => ternary(s, i, move |a, b, c: u32| u(a, b).wrapping_add(c)),
        (Type::S32, _, false) => ternary(s, i, move |a, b, c: i32| v(a, b).wrapping_add(c)),
        (Type::S32, "mad24", true) if i.has("hi") => ternary(s, i, move |a, b, c| v(a, b).saturating_add(c)),
        _ => unsupported(i),
    }
}

fn min_max(s: &Scope, i: &Instr, t: Type) -> Made {
    let min = i.op == "min";
    let relu = i.has("relu");
    let signed = move |a: i16, b: i16| {
        let x = if min { a.min(b) } else { a.max(b) };
        if relu { x.max(0) } else { x }
    };
    match t {
        Type::S16x2 => halves(s, i, move |a, b| signed(a as i16, b as i16) as u16),
        Type::S32 if relu && min => binary(s, i, |a: i32, b: i32| a.min(b).max(0)),
        Type::S32 if relu => binary(s, i, |a: i32, b: i32| a.max(b).max(0)),
        _ if relu => unsupported(i),
        Type::U16x2 if min => halves(s, i, std::cmp::Ord::min),
        Type::U16x2 => halves(s, i, std::cmp::Ord::max),
        _ if min => by_int!(t, i, T => binary(s, i, |a: T, b: T| a.min(b))),
        _ => by_int!(t, i, T => binary(s, i, |a: T, b: T| a.max(b))),
    }
}

/// dp4a, dp2a: dot products of bytes (or halves and bytes) added to a 32-bit sum.
fn dot(s: &Scope, i: &Instr) -> Made {
    let signed = |n: usize| match i.ty(n) {
        Some(Type::S32) => Ok(true),
        Some(Type::U32) => Ok(false),
        _ => Err(wrong(i, "both types must be u32 or s32")),
    };
    let (sa, sb) = (signed(0)?, signed(1)?);
    let byte = |x: u32, n: u32, signed: bool| {
        let b = (x >> (8 * n)) as u8;
        if signed { i32::from(b as i8) } else { i32::from(b) }
    };
    if i.op == "dp4a" {
        return ternary(s, i, move |a: u32, b: u32, c: i32| {
            (0..4).fold(c, |c, n| c.wrapping_add(byte(a, n, sa) * byte(b, n, sb)))
        });
    }
    let first = match (i.has("lo"), i.has("hi")) {
        (true, false) => 0,
        (false, true) => 2,
        _ => return Err(wrong(i, "dp2a takes .lo or .hi")),
    };
    ternary(s, i, move |a: u32, b: u32, c: i32| {
        let half = |n: u32| {
            let h = (a >> (16 * n)) as u16;
            if sa { i32::from(h as i16) } else { i32::from(h) }
        };
        (0..2).fold(c, |c, n| c.wrapping_add(half(n) * byte(b, first + n, sb)))
    })
}

/// add.cc, addc, sub.cc, subc, mad.cc, madc. A lane's flag is the carry; after a subtraction, which adds the complement,
/// it is set when nothing was borrowed: nvcc's 128-bit division follows `subc.cc` by `addc`, and ptxas makes it so.
fn carry(s: &Scope, i: &Instr, t: Type) -> Result<Exec, PtxError> {
    match t.bits() {
        32 => carry_of::<u32>(s, i, t),
        64 => carry_of::<u64>(s, i, t),
        _ => unsupported(i),
    }
}
/// An integer with its carries.
trait Carry: Scalar<W = Self> + Word + std::ops::Not<Output = Self> {
    fn add(self, b: Self, carry: bool) -> (Self, bool);
    fn mul(self, b: Self, high: bool, signed: bool) -> Self;
}
macro_rules! carries {
    ($($u:ty, $i:ty;)*) => {$(
        impl Carry for $u {
            #[inline(always)]
            fn add(self, b: Self, carry: bool) -> (Self, bool) {
                let ((x, c), k) = (self.overflowing_add(b), <$u>::from(carry));
                let (x, d) = x.overflowing_add(k);
                (x, c | d)
            }
            #[inline(always)]
            fn mul(self, b: Self, high: bool, signed: bool) -> Self {
                match (high, signed) {
                    (false, _) => self.wrapping_mul(b),
                    (_, false) => self.high(b),
                    _ => (self as $i).high(b as $i) as $u,
                }
            }
        }
    )*};
}
carries! { u32, i32; u64, i64; }

simd! {
    fn carry_of[T: Carry](s: &Scope, i: &Instr, t: Type) -> Made {
        let (takes, gives) = (i.op.ends_with('c'), i.has("cc"));
        let (mad, sub) = (i.op.starts_with("mad"), i.op.starts_with("sub"));
        let (high, signed) = (i.has("hi"), t.signed());
        if mad && high == i.has("lo") {
            return Err(wrong(i, "mad with carry takes .lo or .hi"));
        }
        let (d, a, b) = (target::<T>(s, i, 0)?, source::<T>(s, i, 1)?, source::<T>(s, i, 2)?);
        let c = if mad { Some(source::<T>(s, i, 3)?) } else { None };
        Ok(exec(move |w, _, m| {
            let (x, y) = (values::<T>(&a, w), values::<T>(&b, w));
            let z = c.as_ref().map(|c| values::<T>(c, w));
            let (mut r, mut out) = ([T::default(); 32], 0);
            for l in 0..32 {
                let k = if takes { w.carry >> l & 1 == 1 } else { sub };
                let (v, o) = match z {
                    Some(z) => z[l].add(x[l].mul(y[l], high, signed), k),
                    None if sub => x[l].add(!y[l], k),
                    None => x[l].add(y[l], k),
                };
                r[l] = v;
                out |= u32::from(o) << l;
            }
            if gives {
                w.carry = w.carry & !m | out & m;
            }
            if let Some(d) = d {
                T::set(w, d, m, r);
            }
        }))
    }
}
