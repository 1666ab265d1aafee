//! Exact arithmetic on m·2^e for checking roundings: a result is accepted for what it is (nothing representable lies
//! between it and the exact value in the direction it should have gone), not for how it was computed.

use std::cmp::Ordering;

/// A number `±m·2^e`, `m` in base 2^32, low limb first.
#[derive(Clone, Debug)]
pub struct Exact {
    negative: bool,
    limbs: Vec<u32>,
    e: i32,
}
impl Exact {
    pub fn new(m: i128, e: i32) -> Self {
        let u = m.unsigned_abs();
        Self { negative: m < 0, limbs: (0..4).map(|n| (u >> (32 * n)) as u32).collect(), e }
    }
    pub fn of(x: f64) -> Self {
        assert!(x.is_finite());
        let (field, fraction) = (x.to_bits() >> 52 & 0x7ff, x.to_bits() & ((1 << 52) - 1));
        let (m, e) = if field == 0 { (fraction, -1074) } else { (fraction + (1 << 52), field as i32 - 1075) };
        Self { negative: x.is_sign_negative(), ..Self::new(m.into(), e) }
    }
    pub fn is_zero(&self) -> bool {
        self.limbs.iter().all(|&l| l == 0)
    }
    pub fn negate(mut self) -> Self {
        self.negative = !self.negative;
        self
    }
    fn abs(&self) -> Self {
        Self { negative: false, ..self.clone() }
    }
    pub fn times(&self, b: &Self) -> Self {
        let mut r = vec![0u32; self.limbs.len() + b.limbs.len()];
        for (i, &x) in self.limbs.iter().enumerate() {
            let mut carry = 0u64;
            for (j, &y) in b.limbs.iter().enumerate() {
                let t = u64::from(x) * u64::from(y) + u64::from(r[i + j]) + carry;
                r[i + j] = t as u32;
                carry = t >> 32;
            }
            r[i + b.limbs.len()] = carry as u32;
        }
        Self { negative: self.negative != b.negative, limbs: r, e: self.e + b.e }
    }
    /// Limbs in units of 2^e for an `e` not above its own.
    fn at(&self, e: i32) -> Vec<u32> {
        let by = (self.e - e) as usize;
        let mut r = vec![0u32; by / 32];
        let mut carry = 0u64;
        for &l in &self.limbs {
            let t = u64::from(l) << (by % 32) | carry;
            r.push(t as u32);
            carry = t >> 32;
        }
        r.push(carry as u32);
        r
    }
    fn compare(mut a: Vec<u32>, mut b: Vec<u32>) -> Ordering {
        let n = a.len().max(b.len());
        a.resize(n, 0);
        b.resize(n, 0);
        a.iter().rev().cmp(b.iter().rev())
    }
    pub fn plus(&self, b: &Self) -> Self {
        let e = self.e.min(b.e);
        let (mut x, mut y) = (self.at(e), b.at(e));
        let n = x.len().max(y.len()) + 1;
        x.resize(n, 0);
        y.resize(n, 0);
        let mut negative = self.negative;
        let mut carry = 0i64;
        let same = self.negative == b.negative;
        if !same && Self::compare(x.clone(), y.clone()) == Ordering::Less {
            std::mem::swap(&mut x, &mut y);
            negative = b.negative;
        }
        for (x, y) in x.iter_mut().zip(y) {
            let t = i64::from(*x) + if same { i64::from(y) } else { -i64::from(y) } + carry;
            *x = t as u32;
            carry = t >> 32;
        }
        Self { negative, limbs: x, e }
    }
    pub fn cmp(&self, b: &Self) -> Ordering {
        match (self.is_zero(), b.is_zero()) {
            (true, true) => return Ordering::Equal,
            (true, _) => return if b.negative { Ordering::Greater } else { Ordering::Less },
            (_, true) => return if self.negative { Ordering::Less } else { Ordering::Greater },
            _ => {}
        }
        if self.negative != b.negative {
            return if self.negative { Ordering::Less } else { Ordering::Greater };
        }
        let e = self.e.min(b.e);
        let o = Self::compare(self.at(e), b.at(e));
        if self.negative { o.reverse() } else { o }
    }
}

/// An exact real that can be compared with `m·2^e`.
pub enum Real {
    Value(Exact),
    /// a / b, b not zero.
    Quotient(Exact, Exact),
    /// The square root of a, not negative.
    Root(Exact),
}
impl Real {
    pub fn cmp(&self, x: &Exact) -> Ordering {
        match self {
            Self::Value(v) => v.cmp(x),
            Self::Quotient(a, b) => {
                let o = a.abs().cmp(&x.abs().times(&b.abs()));
                let negative = a.negative != b.negative;
                match (negative, x.negative && !x.is_zero()) {
                    _ if a.is_zero() => Exact::new(0, 0).cmp(x),
                    (false, true) => Ordering::Greater,
                    (true, false) => Ordering::Less,
                    (false, false) => o,
                    (true, true) => o.reverse(),
                }
            }
            Self::Root(a) if x.negative && !x.is_zero() => {
                let _ = a;
                Ordering::Greater
            }
            Self::Root(a) => a.cmp(&x.times(x)),
        }
    }
}

/// A format by its IEEE parameters: explicit significand bits, exponent bits, and how its largest exponent is used.
#[derive(Clone, Copy)]
pub struct Shape {
    pub mantissa: u32,
    pub exponent: u32,
    /// The bits (without sign) of the largest finite number.
    pub max: u64,
}
pub const E4M3: Shape = Shape { mantissa: 3, exponent: 4, max: 0x7e };
pub const E5M2: Shape = Shape { mantissa: 2, exponent: 5, max: 0x7b };
pub const F16: Shape = Shape { mantissa: 10, exponent: 5, max: 0x7bff };
pub const BF16: Shape = Shape { mantissa: 7, exponent: 8, max: 0x7f7f };
pub const TF32: Shape = Shape { mantissa: 10, exponent: 8, max: 0x3_fbff };
pub const F32: Shape = Shape { mantissa: 23, exponent: 8, max: 0x7f7f_ffff };
pub const F64: Shape = Shape { mantissa: 52, exponent: 11, max: 0x7fef_ffff_ffff_ffff };

impl Shape {
    pub fn sign(self) -> u64 {
        1 << (self.mantissa + self.exponent)
    }
    /// The value of a magnitude (the one after the largest counts as its continuation).
    fn magnitude(self, bits: u64) -> Exact {
        let bias = (1 << (self.exponent - 1)) - 1;
        let (field, fraction) = ((bits >> self.mantissa) as i32, bits & ((1 << self.mantissa) - 1));
        let (m, field) = if field == 0 { (fraction, 1) } else { (fraction | 1 << self.mantissa, field) };
        Exact::new(m.into(), field - bias - self.mantissa as i32)
    }
    /// Whether `bits` is what `x` becomes. `round`: n, z, d(own), u(p), a(way). `finite`: saturate to the largest.
    pub fn accepts(self, bits: u64, x: &Real, round: char, finite: bool) -> bool {
        let (negative, m) = (bits & self.sign() != 0, bits & (self.sign() - 1));
        let value = |m: u64| if negative { self.magnitude(m).negate() } else { self.magnitude(m) };
        let zero = Exact::new(0, 0);
        let sign = x.cmp(&zero);
        if sign != Ordering::Equal && (sign == Ordering::Less) != negative {
            return false;
        }
        // |x| against magnitudes.
        let size = |e: &Exact| if negative { x.cmp(e).reverse() } else { x.cmp(e) };
        let half = |m: u64| {
            let s = value(m).plus(&value(m + 1));
            size(&Exact { e: s.e - 1, ..s })
        };
        let over = m > self.max;
        if over && m != self.max + 1 {
            return false;
        }
        let top = over || finite && m == self.max;
        let inward = match round {
            'z' => true,
            'd' => !negative,
            'u' => negative,
            _ => {
                let below = m == 0
                    || match half(m - 1) {
                        Ordering::Greater => true,
                        Ordering::Equal => round == 'a' || m & 1 == 0,
                        Ordering::Less => false,
                    };
                let above = top
                    || match half(m) {
                        Ordering::Less => true,
                        Ordering::Equal => round == 'n' && m & 1 == 0,
                        Ordering::Greater => false,
                    };
                return below && above && !(over && finite);
            }
        };
        if inward {
            !over
                && size(&value(m)) != Ordering::Less
                && (m == self.max || size(&value(m + 1)) == Ordering::Less)
        } else {
            (top || size(&value(m)) != Ordering::Greater)
                && (m == 0 || size(&value(m - 1)) == Ordering::Greater)
                && !(over && finite)
        }
    }
}

/// A generator of test numbers (splitmix64).
pub struct Rng(pub u64);
impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// Bits of an integer of `bits` bits: often near a power of two, 0, the largest.
    pub fn word(&mut self, bits: u32) -> u64 {
        let mask = if bits == 64 { !0 } else { (1 << bits) - 1 };
        let r = self.next();
        let near = (1u64 << (r % u64::from(bits))).wrapping_add(r >> 20 & 3).wrapping_sub(2);
        mask & match r >> 60 {
            0..8 => self.next(),
            8..11 => near,
            11 => near.wrapping_neg(),
            12 => r >> 20 & 7,
            13 => (r >> 20 & 7).wrapping_neg(),
            _ => mask >> (r % u64::from(bits)),
        }
    }
    /// Bits of a float of any kind: any exponent, few or many bits set, subnormals, near a neighbour.
    pub fn float(&mut self, s: Shape) -> u64 {
        let (r, width) = (self.next(), s.mantissa + s.exponent + 1);
        let mask = if width == 64 { !0 } else { (1u64 << width) - 1 };
        let bias = (1u64 << (s.exponent - 1)) - 1;
        let fraction = (1u64 << s.mantissa) - 1;
        let tail = match r & 3 {
            0 => 0,
            1 => fraction,
            2 => fraction & !(fraction >> (r >> 8 & 7)),
            _ => r >> 11 & fraction,
        };
        let sign = r & s.sign();
        mask & match r >> 2 & 15 {
            0 => sign,
            1 => sign | r >> 11 & fraction,
            2 => sign | s.max - (r >> 11 & 3),
            3 => sign | fraction + 1 + (r >> 11 & 3),
            4..9 => sign | (bias - 3 + (r >> 20) % 7) << s.mantissa | tail,
            _ => sign | ((r >> 20) % ((s.max >> s.mantissa) + 1)) << s.mantissa | tail,
        }
    }
}
