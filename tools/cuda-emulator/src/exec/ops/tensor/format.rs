//! Element formats of matrix operands: a register of packed elements becomes planes of f32, one for each place in the
//! register. All conversions are exact.

/// A packed format. `EACH` elements in 32 bits.
pub trait Format {
    /// Elements in a register.
    const EACH: usize;
    /// The element at a place.
    fn get(x: u32, place: usize) -> f32;
}

/// A float of less than 16 bits with the exponent's bias `127 - lift`: its magnitude's bits are `m`, moved to where f32
/// has them. With `infinite`, the greatest exponent is infinity and NaN.
#[inline(always)]
fn lifted(sign: u32, m: u32, lift: u32, special: bool) -> f32 {
    let x = f32::from_bits(m) * f32::from_bits((127 + lift) << 23);
    f32::from_bits(sign | if special { m | 0x7f80_0000 } else { x.to_bits() })
}

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident, $each:expr, |$x:ident| $f:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Format for $name {
            const EACH: usize = $each;
            #[inline(always)]
            fn get(x: u32, place: usize) -> f32 {
                let $x = x >> (place * (32 / $each));
                $f
            }
        }
    )*};
}
formats! {
    /// binary16.
    F16, 2, |x| lifted((x & 0x8000) << 16, (x & 0x7fff) << 13, 112, x & 0x7c00 == 0x7c00);
    /// bfloat16.
    Bf16, 2, |x| f32::from_bits(x << 16);
    /// The upper 19 bits of an f32; the others are ignored.
    Tf32, 1, |x| f32::from_bits(x & 0xffff_e000);
    /// 1-4-3, no infinities, NaN is all ones.
    E4m3, 4, |x| lifted((x & 0x80) << 24, (x & 0x7f) << 20, 120, x & 0x7f == 0x7f);
    /// 1-5-2.
    E5m2, 4, |x| lifted((x & 0x80) << 24, (x & 0x7f) << 21, 112, x & 0x7c == 0x7c);
    /// Signed byte.
    S8, 4, |x| f32::from(x as i8);
    /// Byte.
    U8, 4, |x| f32::from(x as u8);
    /// Signed 4 bits.
    S4, 8, |x| ((x << 28) as i32 >> 28) as f32;
    /// 4 bits.
    U4, 8, |x| (x & 15) as f32;
}

/// Splits registers to planes: register `r`, place `e` at `to[r * EACH + e]`.
#[inline(always)]
pub fn planes<F: Format>(registers: &[&[u32; 32]], to: &mut [[f32; 32]]) {
    for (r, to) in registers.iter().zip(to.chunks_exact_mut(F::EACH)) {
        for (e, to) in to.iter_mut().enumerate() {
            for l in 0..32 {
                to[l] = F::get(r[l], e);
            }
        }
    }
}

/// f32 to binary16, to nearest even, NaN canonical.
#[inline(always)]
pub fn to_f16(x: f32) -> u32 {
    if x.is_nan() { 0x7fff } else { half::f16::from_f32(x).to_bits().into() }
}
