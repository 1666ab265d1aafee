//! Lane-wise instructions from scalar functions: operands are found at decode, the loop over the 32 lanes is compiled
//! twice (for any CPU and for AVX2 with FMA) and chosen once.
#![allow(clippy::needless_range_loop)] // Lanes of several arrays run in step.

use crate::error::{Fault, PtxError};
use crate::exec::decode::{Dst, Scope, Src32, Src64};
use crate::exec::{Cta, Exec, Flow, L32, L64, Mask, Warp};
use crate::ptx::ast::{Instr, Operand, Type};

/// An error at an instruction.
pub(super) fn wrong(i: &Instr, what: impl std::fmt::Display) -> PtxError {
    PtxError::new(i.line, format!("{}: {what}", i.spelling()))
}
/// The error for a form that is not known.
pub(super) fn unsupported<T>(i: &Instr) -> Result<T, PtxError> {
    Err(wrong(i, "this form is not supported"))
}
/// The first type of an instruction.
pub(super) fn ty(i: &Instr) -> Result<Type, PtxError> {
    i.ty(0).ok_or_else(|| wrong(i, "a type is missing"))
}

/// What a register file holds: 32 or 64 bits.
pub trait Word: Copy + Default + Send + Sync + 'static {
    /// A source of it.
    type Src: Send + Sync + 'static;
    /// Finds a source.
    fn src(s: &Scope, i: &Instr, o: &Operand, ty: Type) -> Result<Self::Src, PtxError>;
    /// Its values.
    fn get<'a>(src: &'a Self::Src, w: &'a Warp) -> &'a [Self; 32];
    /// A destination; `None` for a sink.
    fn dst(s: &Scope, i: &Instr, o: &Operand) -> Result<Option<u32>, PtxError>;
    /// Writes the lanes of the mask.
    fn set(w: &mut Warp, slot: u32, m: Mask, x: [Self; 32]);
}
impl Word for u32 {
    type Src = Src32;
    fn src(s: &Scope, i: &Instr, o: &Operand, ty: Type) -> Result<Src32, PtxError> {
        s.src32(i, o, ty)
    }
    #[inline(always)]
    fn get<'a>(src: &'a Src32, w: &'a Warp) -> &'a [u32; 32] {
        &src.get(w).0
    }
    fn dst(s: &Scope, i: &Instr, o: &Operand) -> Result<Option<u32>, PtxError> {
        match s.dst(i, o)? {
            Dst::R32(d) => Ok(Some(d)),
            Dst::Sink => Ok(None),
            _ => Err(wrong(i, "the destination must be a 32-bit (or narrower) register")),
        }
    }
    #[inline(always)]
    fn set(w: &mut Warp, slot: u32, m: Mask, x: [u32; 32]) {
        w.set32(slot, m, &L32(x));
    }
}
impl Word for u64 {
    type Src = Src64;
    fn src(s: &Scope, i: &Instr, o: &Operand, ty: Type) -> Result<Src64, PtxError> {
        s.src64(i, o, ty)
    }
    #[inline(always)]
    fn get<'a>(src: &'a Src64, w: &'a Warp) -> &'a [u64; 32] {
        &src.get(w).0
    }
    fn dst(s: &Scope, i: &Instr, o: &Operand) -> Result<Option<u32>, PtxError> {
        match s.dst(i, o)? {
            Dst::R64(d) => Ok(Some(d)),
            Dst::Sink => Ok(None),
            _ => Err(wrong(i, "the destination must be a 64-bit register")),
        }
    }
    #[inline(always)]
    fn set(w: &mut Warp, slot: u32, m: Mask, x: [u64; 32]) {
        w.set64(slot, m, &L64(x));
    }
}

/// A value of one lane as a scalar function wants it.
pub trait Scalar: Copy + 'static {
    /// Where it is kept.
    type W: Word;
    /// As an operand's type.
    const TY: Type;
    /// From the register's bits (the upper ones are not looked at).
    fn from_word(x: Self::W) -> Self;
    /// To the register's bits (the upper ones are zero).
    fn to_word(self) -> Self::W;
}
macro_rules! scalar {
    ($($t:ty, $u:ty, $w:ty, $ty:ident;)*) => {$(
        impl Scalar for $t {
            type W = $w;
            const TY: Type = Type::$ty;
            #[inline(always)]
            fn from_word(x: $w) -> Self {
                x as $t
            }
            #[inline(always)]
            fn to_word(self) -> $w {
                self as $u as $w
            }
        }
    )*};
}
scalar! {
    u8, u8, u32, U8;
    i8, u8, u32, S8;
    u16, u16, u32, U16;
    i16, u16, u32, S16;
    u32, u32, u32, U32;
    i32, u32, u32, S32;
    u64, u64, u64, U64;
    i64, u64, u64, S64;
}
impl Scalar for f32 {
    type W = u32;
    const TY: Type = Type::F32;
    #[inline(always)]
    fn from_word(x: u32) -> Self {
        Self::from_bits(x)
    }
    #[inline(always)]
    fn to_word(self) -> u32 {
        self.to_bits()
    }
}
impl Scalar for f64 {
    type W = u64;
    const TY: Type = Type::F64;
    #[inline(always)]
    fn from_word(x: u64) -> Self {
        Self::from_bits(x)
    }
    #[inline(always)]
    fn to_word(self) -> u64 {
        self.to_bits()
    }
}

/// Whether this CPU has what [`simd`] compiles for.
pub(super) fn fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        static FAST: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *FAST.get_or_init(|| {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt")
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}
/// A function that is compiled twice: for any CPU and for AVX2 with FMA, as are the closures written in it. The latter runs
/// where it can. Generic parameters stand in brackets.
macro_rules! simd {
    ($(#[$doc:meta])* $v:vis fn $name:ident[$($g:ident: $bound:path),*]($($a:ident: $t:ty),* $(,)?) -> $r:ty $body:block) => {
        $(#[$doc])*
        $v fn $name<$($g: $bound),*>($($a: $t),*) -> $r {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
            fn for_avx2<$($g: $bound),*>($($a: $t),*) -> $r $body
            fn for_any<$($g: $bound),*>($($a: $t),*) -> $r $body
            #[cfg(target_arch = "x86_64")]
            if $crate::exec::ops::lanes::fast() {
                // SAFETY: `fast` saw the features.
                return unsafe { for_avx2::<$($g),*>($($a),*) };
            }
            for_any::<$($g),*>($($a),*)
        }
    };
}
pub(super) use simd;

simd! {
    /// Work that cannot fail and goes on to the next instruction.
    pub(super) fn exec[](f: impl Fn(&mut Warp, &mut Cta, Mask) + Send + Sync + 'static) -> Exec {
        Box::new(move |w, c, m| {
            f(w, c, m);
            Ok::<_, Fault>(Flow::Next)
        })
    }
}

/// Decoded work.
pub(super) type Made = Result<Exec, PtxError>;
type Operands<A> = <<A as Scalar>::W as Word>::Src;

/// Operand `n` as a source of a scalar type.
pub(super) fn source<A: Scalar>(s: &Scope, i: &Instr, n: usize) -> Result<Operands<A>, PtxError> {
    A::W::src(s, i, s.operand(i, n)?, A::TY)
}
/// The values of a source.
#[inline(always)]
pub(super) fn values<'a, A: Scalar>(src: &'a Operands<A>, w: &'a Warp) -> &'a [A::W; 32] {
    A::W::get(src, w)
}
/// Operand `n` as a destination of a scalar type.
pub(super) fn target<D: Scalar>(s: &Scope, i: &Instr, n: usize) -> Result<Option<u32>, PtxError> {
    D::W::dst(s, i, s.operand(i, n)?)
}

simd! {
    /// `d = f(a)`.
    pub(super) fn unary[A: Scalar, D: Scalar](
        s: &Scope,
        i: &Instr,
        f: impl Fn(A) -> D + Send + Sync + 'static,
    ) -> Made {
        let (d, a) = (target::<D>(s, i, 0)?, source::<A>(s, i, 1)?);
        Ok(exec(move |w, _, m| {
            let Some(d) = d else { return };
            let x = values::<A>(&a, w);
            let mut r = [D::W::default(); 32];
            for l in 0..32 {
                r[l] = f(A::from_word(x[l])).to_word();
            }
            D::W::set(w, d, m, r);
        }))
    }
}
simd! {
    /// `d = f(a, b)`.
    pub(super) fn binary[A: Scalar, B: Scalar, D: Scalar](
        s: &Scope,
        i: &Instr,
        f: impl Fn(A, B) -> D + Send + Sync + 'static,
    ) -> Made {
        let (d, a, b) = (target::<D>(s, i, 0)?, source::<A>(s, i, 1)?, source::<B>(s, i, 2)?);
        Ok(exec(move |w, _, m| {
            let Some(d) = d else { return };
            let (x, y) = (values::<A>(&a, w), values::<B>(&b, w));
            let mut r = [D::W::default(); 32];
            for l in 0..32 {
                r[l] = f(A::from_word(x[l]), B::from_word(y[l])).to_word();
            }
            D::W::set(w, d, m, r);
        }))
    }
}
simd! {
    /// `d = f(a, b, c)`.
    pub(super) fn ternary[A: Scalar, B: Scalar, C: Scalar, D: Scalar](
        s: &Scope,
        i: &Instr,
        f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
    ) -> Made {
        let d = target::<D>(s, i, 0)?;
        let (a, b, c) = (source::<A>(s, i, 1)?, source::<B>(s, i, 2)?, source::<C>(s, i, 3)?);
        Ok(exec(move |w, _, m| {
            let Some(d) = d else { return };
            let (x, y, z) = (values::<A>(&a, w), values::<B>(&b, w), values::<C>(&c, w));
            let mut r = [D::W::default(); 32];
            for l in 0..32 {
                r[l] = f(A::from_word(x[l]), B::from_word(y[l]), C::from_word(z[l])).to_word();
            }
            D::W::set(w, d, m, r);
        }))
    }
}
simd! {
    /// `d = f(a, b, c, e)`.
    pub(super) fn quaternary[A: Scalar, B: Scalar, C: Scalar, E: Scalar, D: Scalar](
        s: &Scope,
        i: &Instr,
        f: impl Fn(A, B, C, E) -> D + Send + Sync + 'static,
    ) -> Made {
        let d = target::<D>(s, i, 0)?;
        let (a, b) = (source::<A>(s, i, 1)?, source::<B>(s, i, 2)?);
        let (c, e) = (source::<C>(s, i, 3)?, source::<E>(s, i, 4)?);
        Ok(exec(move |w, _, m| {
            let Some(d) = d else { return };
            let (x, y, z, u) = (values::<A>(&a, w), values::<B>(&b, w), values::<C>(&c, w), values::<E>(&e, w));
            let mut r = [D::W::default(); 32];
            for l in 0..32 {
                let (x, y) = (A::from_word(x[l]), B::from_word(y[l]));
                r[l] = f(x, y, C::from_word(z[l]), E::from_word(u[l])).to_word();
            }
            D::W::set(w, d, m, r);
        }))
    }
}

/// Lanes in which `f(a, b)` holds.
#[inline(always)]
pub(super) fn compare<A: Scalar>(x: &[A::W; 32], y: &[A::W; 32], f: impl Fn(A, A) -> bool) -> Mask {
    let mut r = 0;
    for l in 0..32 {
        r |= u32::from(f(A::from_word(x[l]), A::from_word(y[l]))) << l;
    }
    r
}

/// Runs the body with `$T` as the Rust type of an integer (or bit) type.
macro_rules! by_int {
    ($ty:expr, $i:expr, $T:ident => $body:expr) => {
        match $ty {
            Type::U16 | Type::B16 => {
                type $T = u16;
                $body
            }
            Type::S16 => {
                type $T = i16;
                $body
            }
            Type::U32 | Type::B32 => {
                type $T = u32;
                $body
            }
            Type::S32 => {
                type $T = i32;
                $body
            }
            Type::U64 | Type::B64 => {
                type $T = u64;
                $body
            }
            Type::S64 => {
                type $T = i64;
                $body
            }
            _ => $crate::exec::ops::lanes::unsupported($i),
        }
    };
}
pub(super) use by_int;

/// What a family answers for an instruction of its own: its work, if every word of it is known.
pub(super) fn done(i: &Instr, e: Made, class: crate::exec::Class) -> crate::exec::decode::Decoded {
    let words = modifiers(&i.op);
    let known = |m: &str| Type::named(m).is_some() || words.split(' ').any(|w| w == m);
    match i.mods.iter().find(|m| !known(m.split("::").next().unwrap_or(m))) {
        Some(m) => Err(wrong(i, format!("the modifier .{m} is not known"))),
        None => e.map(|e| Some((e, class))),
    }
}

/// The modifiers, besides types, that an operation may have.
fn modifiers(op: &str) -> &'static str {
    match op {
        "add" | "sub" => "sat cc rn rz rm rp ftz",
        "addc" | "subc" => "cc",
        "mul" => "lo hi wide sat rn rz rm rp ftz",
        "mad" | "fma" => "lo hi wide cc sat rn rz rm rp ftz relu",
        "madc" => "lo hi cc",
        "mul24" | "mad24" | "dp2a" => "lo hi sat",
        "div" => "approx full rn rz rm rp ftz",
        "min" | "max" => "ftz NaN xorsign abs relu",
        "abs" | "neg" | "slct" => "ftz",
        "shf" => "l r clamp wrap",
        "bmsk" | "szext" => "clamp wrap",
        "lop3" => "or and",
        "prmt" => "f4e b4e rc8 ecl ecr rc16",
        "bfind" => "shiftamt",
        "cvta" | "isspacep" | "mapa" | "getctarank" => "to global const shared local param",
        "set" | "setp" => "eq ne lt le gt ge lo ls hi hs equ neu ltu leu gtu geu num nan and or xor ftz",
        "rcp" | "sqrt" => "approx rn rz rm rp ftz",
        "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => "approx ftz",
        "testp" => "finite infinite number notanumber normal subnormal",
        "cvt" => "rn rz rm rp rna rni rzi rmi rpi ftz sat relu satfinite pack u4 s4 u2 s2",
        "shfl" => "sync up down bfly idx",
        "vote" => "sync all any uni ballot",
        "match" => "sync any all",
        "redux" => "sync add min max and or xor abs NaN",
        "elect" => "sync",
        "vmad" => "sat po shr7 shr15",
        op if op.starts_with("vset") => "eq ne lt le gt ge add min max",
        "vshl" | "vshr" => "sat clamp wrap add min max",
        op if op.starts_with('v') => "sat add min max",
        _ => "",
    }
}
