//! Numbers of every width as f64, and a generator of them. Rounding is done here by arithmetic in f64 (to nearest even at
//! the format's precision), so that nothing is shared with the emulator's conversions.

/// A number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    F64,
    F32,
    F16,
    Bf16,
    E4m3,
    E5m2,
    I8,
    U8,
    U16,
    U32,
    I32,
    I64,
}
use Number::*;

impl Number {
    pub fn named(s: &str) -> Self {
        match s {
            "f64" => F64,
            "f32" => F32,
            "f16" => F16,
            "bf16" => Bf16,
            "e4m3" => E4m3,
            "e5m2" => E5m2,
            "i8" => I8,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "i32" => I32,
            "i64" => I64,
            _ => panic!("no number format is called {s}"),
        }
    }
    pub fn bytes(self) -> usize {
        match self {
            F64 | I64 => 8,
            F32 | I32 | U32 => 4,
            F16 | Bf16 | U16 => 2,
            E4m3 | E5m2 | I8 | U8 => 1,
        }
    }
    /// Bits of precision, least exponent of a normal number, largest finite number.
    fn format(self) -> Option<(i32, i32, f64)> {
        match self {
            F32 => Some((24, -126, f64::from(f32::MAX))),
            F16 => Some((11, -14, 65504.)),
            Bf16 => Some((8, -126, f64::from_bits(0x47EF_E000_0000_0000))),
            E4m3 => Some((4, -6, 448.)),
            E5m2 => Some((3, -14, 57344.)),
            _ => None,
        }
    }
    /// To nearest, ties to even; beyond the largest: infinity, in fp8 the largest.
    pub fn round(self, x: f64) -> f64 {
        let Some((precision, least, most)) = self.format() else {
            return if self == F64 { x } else { x.trunc() };
        };
        let r = quantise(x, precision, least);
        match self {
            _ if r.abs() <= most || r.is_nan() => r,
            E4m3 | E5m2 => most.copysign(x),
            _ => f64::INFINITY.copysign(x),
        }
    }
    /// Bits of a number of this format.
    fn code(self, x: f64) -> u64 {
        match self {
            F64 => x.to_bits(),
            I64 => x as i64 as u64,
            I32 | I8 => x as i64 as u64,
            U8 | U16 | U32 => x as u64,
            F32 => u64::from((x as f32).to_bits()),
            Bf16 => u64::from((x as f32).to_bits() >> 16),
            F16 | E4m3 | E5m2 => {
                let (precision, least, _) = self.format().unwrap();
                let sign = u64::from(x.is_sign_negative()) << (self.bytes() * 8 - 1);
                let e = exponent(x).max(least);
                let m = (x.abs() / f64::powi(2., e - precision + 1)) as u64;
                // The leading bit carries into the exponent's field.
                sign | ((((e - least) as u64) << (precision - 1)) + m)
            }
        }
    }
    fn value(self, bits: u64) -> f64 {
        match self {
            F64 => f64::from_bits(bits),
            I64 => bits as i64 as f64,
            I32 => f64::from(bits as u32 as i32),
            I8 => f64::from(bits as u8 as i8),
            U8 | U16 | U32 => bits as f64,
            F32 => f64::from(f32::from_bits(bits as u32)),
            Bf16 => f64::from(f32::from_bits((bits as u32) << 16)),
            F16 | E4m3 | E5m2 => {
                let (precision, least, most) = self.format().unwrap();
                let width = self.bytes() * 8 - 1;
                let sign = if bits >> width & 1 == 1 { -1. } else { 1. };
                let m = bits & ((1 << (precision - 1)) - 1);
                let e = (bits & ((1 << width) - 1)) >> (precision - 1);
                let (m, e) = if e == 0 { (m, 1) } else { (m | 1 << (precision - 1), e) };
                let x = m as f64 * f64::powi(2., e as i32 - 1 + least - precision + 1);
                // Above the largest finite number: infinity or NaN, never a result here.
                if x > most { f64::NAN } else { sign * x }
            }
        }
    }
    /// Bytes of numbers of this format, little-endian.
    pub fn encode(self, data: &[f64]) -> Vec<u8> {
        data.iter().flat_map(|&x| self.code(x).to_le_bytes().into_iter().take(self.bytes())).collect()
    }
    pub fn decode(self, bytes: &[u8]) -> Vec<f64> {
        let word = |c: &[u8]| c.iter().rev().fold(0u64, |a, &b| a << 8 | u64::from(b));
        bytes.chunks_exact(self.bytes()).map(|c| self.value(word(c))).collect()
    }
}

fn exponent(x: f64) -> i32 {
    (x.to_bits() >> 52 & 0x7FF) as i32 - 1023
}

/// To nearest even at a precision, subnormal below an exponent.
pub fn quantise(x: f64, precision: i32, least: i32) -> f64 {
    if x == 0. || !x.is_finite() {
        return x;
    }
    let unit = f64::powi(2., exponent(x).max(least) - precision + 1);
    (x / unit).round_ties_even() * unit
}

/// splitmix64.
pub struct Random(u64);

impl Random {
    pub fn named(name: &str) -> Self {
        Self(
            name.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3)),
        )
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 * f64::powi(2., -53)
    }
    /// Numbers of a format: `normal`, `tf32` (normal, of that precision), `uniform [LIMIT]`, `integers LOW HIGH`, `zero`,
    /// `two_of_four` and `one_of_two` (words of what a sparse matrix keeps, four bits for each group).
    pub fn fill(&mut self, number: Number, kind: &str, n: usize) -> Vec<f64> {
        let mut words = kind.split(' ');
        let kind = words.next().unwrap_or("");
        let limits: Vec<f64> = words.map(|w| w.parse().expect("a number")).collect();
        let mut one = || match (kind, &limits[..]) {
            ("normal", _) => (0..12).map(|_| self.uniform()).sum::<f64>() - 6.,
            ("tf32", _) => quantise((0..12).map(|_| self.uniform()).sum::<f64>() - 6., 11, -126),
            ("uniform", []) => self.uniform(),
            ("uniform", [limit, ..]) => (self.uniform() * 2. - 1.) * limit,
            ("integers", [low, high]) => low + (self.uniform() * (high - low + 1.)).floor(),
            ("zero", _) => 0.,
            ("two_of_four" | "one_of_two", _) => {
                let kept: &[u64] = if kind == "one_of_two" { &[4, 14] } else { &[4, 8, 9, 12, 13, 14] };
                let nibble = |w: u64, _| w << 4 | kept[self.next() as usize % kept.len()];
                (0..2 * number.bytes()).fold(0, nibble) as f64
            }
            _ => panic!("no filling is called {kind}"),
        };
        (0..n).map(|_| number.round(one())).collect()
    }
}
