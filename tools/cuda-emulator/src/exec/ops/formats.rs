//! Narrow floating-point formats and rounding to them.

use super::lanes::Scalar;
use crate::ptx::ast::{Instr, Type};

/// How a result that cannot be represented becomes one that can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To the nearest, ties to even: `.rn`.
    Nearest,
    /// Toward zero: `.rz`.
    Zero,
    /// Toward minus infinity: `.rm`.
    Down,
    /// Toward plus infinity: `.rp`.
    Up,
    /// To the nearest, ties away from zero: `.rna`.
    Away,
}
impl Round {
    /// The one an instruction names; `.rn` when it names none.
    pub fn of(i: &Instr) -> Self {
        i.mods.iter().find_map(|m| Self::named(m)).unwrap_or(Self::Nearest)
    }
    /// By its modifier.
    pub fn named(m: &str) -> Option<Self> {
        Some(match m {
            "rn" | "rni" => Self::Nearest,
            "rz" | "rzi" => Self::Zero,
            "rm" | "rmi" => Self::Down,
            "rp" | "rpi" => Self::Up,
            "rna" => Self::Away,
            _ => return None,
        })
    }
}

/// A binary format of at most 32 bits with an implicit leading one.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Explicit bits of the significand.
    pub mantissa: u32,
    /// Exponent of the smallest normal number.
    pub least: i32,
    /// Bits of the largest finite number, without sign.
    pub max: u32,
    /// Bits of infinity; `None` when the format has none.
    pub infinity: Option<u32>,
    /// The canonical NaN.
    pub nan: u32,
    /// The sign bit.
    pub sign: u32,
}
/// IEEE half precision.
pub const F16: Format =
    Format { mantissa: 10, least: -14, max: 0x7bff, infinity: Some(0x7c00), nan: 0x7fff, sign: 0x8000 };
/// The upper half of f32.
pub const BF16: Format =
    Format { mantissa: 7, least: -126, max: 0x7f7f, infinity: Some(0x7f80), nan: 0x7fff, sign: 0x8000 };
/// 8 bits, no infinities, one NaN.
pub const E4M3: Format = Format { mantissa: 3, least: -6, max: 0x7e, infinity: None, nan: 0x7f, sign: 0x80 };
/// 8 bits, IEEE-like.
pub const E5M2: Format =
    Format { mantissa: 2, least: -14, max: 0x7b, infinity: Some(0x7c), nan: 0x7f, sign: 0x80 };
/// f32 with 10 bits of significand, the low 13 bits zero (see [`narrow_tf32`]).
const TF32: Format = Format {
    mantissa: 10,
    least: -126,
    max: 0x3_fbff,
    infinity: Some(0x3_fc00),
    nan: 0x3_ffff,
    sign: 0x4_0000,
};

impl Format {
    /// `x` in this format. Beyond the largest number: infinity (or NaN where there is none) or, rounding toward zero
    /// or when `finite`, the largest.
    pub fn narrow(self, x: f64, round: Round, finite: bool) -> u32 {
        if x.is_nan() {
            return self.nan;
        }
        let (bits, negative) = (x.to_bits() & (!0 >> 1), x.is_sign_negative());
        let sign = if negative { self.sign } else { 0 };
        let inward = match round {
            Round::Nearest | Round::Away => false,
            Round::Zero => true,
            Round::Down => !negative,
            Round::Up => negative,
        };
        let over = self.infinity.filter(|_| !finite);
        if x.is_infinite() {
            return sign | over.unwrap_or(if finite { self.max } else { self.nan });
        }
        // The value in units of the last place of its binade, and what falls below.
        let exponent = ((bits >> 52) as i32 - 1023).max(-1022);
        let significand = if bits >> 52 == 0 { bits } else { bits & ((1 << 52) - 1) | 1 << 52 };
        let e = exponent.max(self.least);
        let drop = (52 - self.mantissa as i32 + e - exponent).min(60) as u32;
        let (kept, rest, half) = (significand >> drop, significand & ((1 << drop) - 1), 1u64 << (drop - 1));
        let up = match round {
            Round::Nearest => rest > half || rest == half && kept & 1 == 1,
            Round::Away => rest >= half,
            _ => !inward && rest != 0,
        };
        // Below 2^least the exponent field is 0 and the leading one is a plain bit: the carry works out by itself.
        let field = (e - self.least) as u64;
        let r = (field << self.mantissa) + kept + u64::from(up);
        if r > u64::from(self.max) {
            return sign | if finite || inward { self.max } else { over.unwrap_or(self.nan) };
        }
        sign | r as u32
    }
    /// The number that bits stand for.
    pub fn widen(self, bits: u32) -> f64 {
        let (m, negative) = (bits & (self.sign - 1), bits & self.sign != 0);
        let v = match self.infinity {
            Some(i) if m == i => f64::INFINITY,
            _ if m > self.max => return f64::NAN,
            _ => {
                let (field, fraction) = ((m >> self.mantissa) as i32, m & ((1 << self.mantissa) - 1));
                let (lead, e) =
                    if field == 0 { (0, self.least) } else { (1 << self.mantissa, self.least + field - 1) };
                f64::from(lead | fraction) * power(e - self.mantissa as i32)
            }
        };
        if negative { -v } else { v }
    }
}
/// 2^e for exponents of normal f64 numbers.
fn power(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// f32 bits rounded to tf32, the dropped bits zero.
pub fn narrow_tf32(x: f32, round: Round, finite: bool) -> u32 {
    if x.is_nan() {
        return 0x7fff_ffff;
    }
    TF32.narrow(f64::from(x), round, finite) << 13
}

/// f16 bits to f32, exact; NaN becomes the canonical one.
#[inline(always)]
pub fn f16_to_f32(h: u32) -> f32 {
    let m = (h & 0x7fff) << 13;
    let v = (f32::from_bits(m) * f32::from_bits(0x7780_0000)).to_bits();
    let v = if m > 0x0f80_0000 {
        0x7fff_ffff
    } else if m == 0x0f80_0000 {
        0x7f80_0000
    } else {
        v
    };
    f32::from_bits(if m > 0x0f80_0000 { v } else { v | (h & 0x8000) << 16 })
}
/// f32 to f16 bits, nearest even; NaN becomes 0x7fff.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u32 {
    let b = x.to_bits();
    let a = b & 0x7fff_ffff;
    let normal = (a.wrapping_add(0xfff).wrapping_add(a >> 13 & 1)).wrapping_sub(0x3800_0000) >> 13;
    // Adding 0.5 leaves a multiple of 2^-24, f16's smallest number, rounded as it should be.
    let small = (f32::from_bits(a) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let r = if a < 0x3880_0000 { small } else { normal.min(0x7c00) };
    let r = if a >= 0x4780_0000 { 0x7c00 } else { r };
    if a > 0x7f80_0000 { 0x7fff } else { r | b >> 16 & 0x8000 }
}
/// bf16 bits to f32, exact; NaN becomes the canonical one.
#[inline(always)]
pub fn bf16_to_f32(h: u32) -> f32 {
    f32::from_bits(if h & 0x7fff > 0x7f80 { 0x7fff_ffff } else { h << 16 })
}
/// f32 to bf16 bits, nearest even; NaN becomes 0x7fff.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u32 {
    let b = x.to_bits();
    let r = b.wrapping_add(0x7fff).wrapping_add(b >> 16 & 1) >> 16;
    if b & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { r }
}

/// An f16 register as its value; written back rounded to the nearest even.
#[derive(Clone, Copy, Debug)]
pub struct Half(pub f32);
impl Scalar for Half {
    type W = u32;
    const TY: Type = Type::F16;
    #[inline(always)]
    fn from_word(x: u32) -> Self {
        Self(f16_to_f32(x & 0xffff))
    }
    #[inline(always)]
    fn to_word(self) -> u32 {
        f32_to_f16(self.0)
    }
}
/// A bf16 register as its value; written back rounded to the nearest even.
#[derive(Clone, Copy, Debug)]
pub struct Brain(pub f32);
impl Scalar for Brain {
    type W = u32;
    const TY: Type = Type::Bf16;
    #[inline(always)]
    fn from_word(x: u32) -> Self {
        Self(bf16_to_f32(x & 0xffff))
    }
    #[inline(always)]
    fn to_word(self) -> u32 {
        f32_to_bf16(self.0)
    }
}

/// Subnormal f32 to zero of its sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    let b = x.to_bits();
    f32::from_bits(if b & 0x7f80_0000 == 0 { b & 0x8000_0000 } else { b })
}
/// Subnormal f16 (as f32) to zero of its sign.
#[inline(always)]
pub fn flush_half(x: f32) -> f32 {
    if x.abs() < f32::from_bits(0x3880_0000) { 0f32.copysign(x) } else { x }
}
/// Every NaN to the canonical one.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    f32::from_bits(if x.is_nan() { 0x7fff_ffff } else { x.to_bits() })
}
/// Every NaN to the canonical one.
#[inline(always)]
pub fn canonical64(x: f64) -> f64 {
    f64::from_bits(if x.is_nan() { 0xfff8_0000_0000_0000 } else { x.to_bits() })
}
