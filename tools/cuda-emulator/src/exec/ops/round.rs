//! Correctly rounded f32 and f64 arithmetic in every rounding direction.
//!
//! f32: the result in f64 rounded to odd (its last bit says that something was lost) keeps enough to round once more
//! to f32 in any direction. f64: integers wide enough for the exact result, or a remainder.

use super::formats::Round;

/// The nearest number toward which `x` must move so that its last bit is odd when `rest`, what is missing, is not 0.
#[inline(always)]
pub fn odd(x: f64, rest: f64) -> f64 {
    if rest == 0. || x.to_bits() & 1 == 1 || !x.is_finite() {
        return x;
    }
    // An even x lies on one side of the exact value, its odd neighbour on the other.
    let away = (rest > 0.) == (x > 0.);
    f64::from_bits(if away { x.to_bits() + 1 } else { x.to_bits() - 1 })
}
/// What `s = a + b` lost.
#[inline(always)]
pub fn lost(a: f64, b: f64, s: f64) -> f64 {
    let t = s - a;
    (a - (s - t)) + (b - t)
}
/// `x` to f32. An `x` rounded to odd gives the exact value's rounding.
#[inline(always)]
pub fn narrow(x: f64, round: Round) -> f32 {
    let r = x as f32;
    let w = f64::from(r);
    match round {
        Round::Up if w < x => r.next_up(),
        Round::Down if w > x => r.next_down(),
        Round::Zero if w.abs() > x.abs() => f32::from_bits(r.to_bits() - 1),
        _ => r,
    }
}

/// `a + b` in f32.
#[inline(always)]
pub fn add(a: f32, b: f32, round: Round) -> f32 {
    sum(f64::from(a), f64::from(b), round)
}
/// `a * b` in f32.
#[inline(always)]
pub fn mul(a: f32, b: f32, round: Round) -> f32 {
    narrow(f64::from(a) * f64::from(b), round)
}
/// `a * b + c` in f32.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32, round: Round) -> f32 {
    sum(f64::from(a) * f64::from(b), f64::from(c), round)
}
/// The sum of two numbers of f32's range (or products of such) rounded to f32.
#[inline(always)]
fn sum(a: f64, b: f64, round: Round) -> f32 {
    let s = a + b;
    if s == 0. {
        // An exact zero of opposite signs is -0 only when rounding down.
        let plain = a.is_sign_negative() && b.is_sign_negative();
        return if plain || round == Round::Down && (a.is_sign_negative() || b.is_sign_negative()) {
            -0.
        } else {
            0.
        };
    }
    narrow(odd(s, lost(a, b, s)), round)
}
/// The sum of two numbers, in f64 rounded to odd: enough to round to f16, bf16 or f32 once.
#[inline(always)]
pub fn odd_sum(a: f64, b: f64) -> f64 {
    let s = a + b;
    odd(s, lost(a, b, s))
}
/// `a / b` in f32.
pub fn div(a: f32, b: f32, round: Round) -> f32 {
    let (a, b) = (f64::from(a), f64::from(b));
    let q = a / b;
    if !q.is_finite() || q == 0. || b.is_infinite() {
        return q as f32;
    }
    let rest = (-q).mul_add(b, a);
    narrow(odd(q, if b < 0. { -rest } else { rest }), round)
}
/// The square root in f32.
pub fn sqrt(a: f32, round: Round) -> f32 {
    let a = f64::from(a);
    let q = a.sqrt();
    if !q.is_finite() || q == 0. {
        return q as f32;
    }
    narrow(odd(q, (-q).mul_add(q, a)), round)
}

/// An f64 as `m * 2^e`, `m` below 2^53.
fn split(x: f64) -> (bool, u64, i32) {
    let b = x.to_bits();
    let (field, fraction) = ((b >> 52 & 0x7ff) as i32, b & ((1 << 52) - 1));
    let m = if field == 0 { fraction } else { fraction | 1 << 52 };
    (b >> 63 == 1, m, field.max(1) - 1075)
}
/// `m * 2^e` (the last bit of `m` also stands for anything below it) as f64.
fn join(negative: bool, m: u128, e: i32, round: Round) -> f64 {
    let sign = u64::from(negative) << 63;
    if m == 0 {
        return f64::from_bits(sign);
    }
    let top = 127 - m.leading_zeros() as i32;
    // The unit of the result: 53 bits, or what subnormal numbers have.
    let unit = (top - 52 + e).max(-1074);
    let drop = unit - e;
    let (kept, rest, half) = match drop {
        ..=0 => (m << -drop, 0, 1),
        1..=127 => (m >> drop, m & ((1 << drop) - 1), 1u128 << (drop - 1)),
        _ => (0, 1, 2),
    };
    let inward = match round {
        Round::Zero => true,
        Round::Down => !negative,
        Round::Up => negative,
        _ => false,
    };
    let up = match round {
        Round::Nearest => rest > half || rest == half && kept & 1 == 1,
        Round::Away => rest >= half,
        _ => !inward && rest != 0,
    };
    let r = ((unit + 1074) as u128) * (1 << 52) + kept + u128::from(up);
    let infinity = 0x7ffu128 << 52;
    f64::from_bits(sign | if r >= infinity { infinity as u64 - u64::from(inward) } else { r as u64 })
}
/// Shifted right, the last bit set if anything was lost.
fn jam(m: u128, by: i32) -> u128 {
    match by {
        0 => m,
        1..=127 => m >> by | u128::from(m & ((1 << by) - 1) != 0),
        _ => u128::from(m != 0),
    }
}
/// The sum of two scaled integers below 2^106.
fn sum64(a: (bool, u128, i32), b: (bool, u128, i32), round: Round) -> f64 {
    if a.1 == 0 && b.1 == 0 {
        return if a.0 && b.0 || round == Round::Down && (a.0 || b.0) { -0. } else { 0. };
    }
    // Leading bits at 2^125, then the smaller one in the larger's unit.
    let top = |(n, m, e): (bool, u128, i32)| {
        if m == 0 {
            return (n, 0, i32::MIN / 2);
        }
        let by = m.leading_zeros() as i32 - 2;
        (n, m << by, e - by)
    };
    let (a, b) = (top(a), top(b));
    let (a, b) = if a.2 < b.2 { (b, a) } else { (a, b) };
    let low = jam(b.1, a.2 - b.2);
    if a.0 == b.0 {
        return join(a.0, a.1 + low, a.2, round);
    }
    match a.1.cmp(&low) {
        std::cmp::Ordering::Equal => {
            if round == Round::Down {
                -0.
            } else {
                0.
            }
        }
        std::cmp::Ordering::Greater => join(a.0, a.1 - low, a.2, round),
        std::cmp::Ordering::Less => join(b.0, low - a.1, a.2, round),
    }
}

/// An integer in f64.
pub fn integer64(negative: bool, m: u128, round: Round) -> f64 {
    if m == 0 { 0. } else { join(negative, m, 0, round) }
}
/// `a + b` in f64.
pub fn add64(a: f64, b: f64, round: Round) -> f64 {
    let s = a + b;
    if round == Round::Nearest || !a.is_finite() || !b.is_finite() {
        return s;
    }
    let wide = |x| {
        let (n, m, e) = split(x);
        (n, u128::from(m), e)
    };
    sum64(wide(a), wide(b), round)
}
/// `a * b` in f64.
pub fn mul64(a: f64, b: f64, round: Round) -> f64 {
    if round == Round::Nearest || !a.is_finite() || !b.is_finite() {
        return a * b;
    }
    let ((na, ma, ea), (nb, mb, eb)) = (split(a), split(b));
    join(na != nb, u128::from(ma) * u128::from(mb), ea + eb, round)
}
/// `a * b + c` in f64.
pub fn fma64(a: f64, b: f64, c: f64, round: Round) -> f64 {
    if round == Round::Nearest || !a.is_finite() || !b.is_finite() || !c.is_finite() {
        return a.mul_add(b, c);
    }
    let ((na, ma, ea), (nb, mb, eb), (nc, mc, ec)) = (split(a), split(b), split(c));
    sum64((na != nb, u128::from(ma) * u128::from(mb), ea + eb), (nc, u128::from(mc), ec), round)
}
/// `a / b` in f64.
pub fn div64(a: f64, b: f64, round: Round) -> f64 {
    if round == Round::Nearest || !a.is_finite() || !b.is_finite() || a == 0. || b == 0. {
        return a / b;
    }
    let ((na, ma, ea), (nb, mb, eb)) = (split(a), split(b));
    // A dividend with its leading bit at 2^126 leaves at least 73 bits of quotient.
    let by = u128::from(ma).leading_zeros() as i32 - 1;
    let (n, d) = (u128::from(ma) << by, u128::from(mb));
    join(na != nb, n / d | u128::from(n % d != 0), ea - by - eb, round)
}
/// The square root in f64.
pub fn sqrt64(a: f64, round: Round) -> f64 {
    if round == Round::Nearest || !a.is_finite() || a <= 0. {
        return a.sqrt();
    }
    let (_, m, e) = split(a);
    let by = (u128::from(m).leading_zeros() as i32 - 2) & !1;
    let by = by - ((e - by) & 1);
    let n = u128::from(m) << by;
    let q = n.isqrt();
    // 62 bits of root or more; the last says whether it is exact.
    join(false, q << 1 | u128::from(q * q != n), (e - by) / 2 - 1, round)
}
