//! Intrinsics of floats, written from their descriptions: rounded ones by exact arithmetic, others within units of the last place.

use super::intrinsics::Row;
use crate::exact::{BF16, E4M3, E5M2, Exact, F16, F32, F64, Real, Shape};
use crate::float::{exact, host};

/// A format that has values.
#[derive(Clone, Copy)]
pub struct Kind(pub Shape);

impl Kind {
    pub fn sign(self) -> u64 {
        self.0.sign()
    }
    /// Bits of infinity, if it has one.
    fn infinity(self) -> u64 {
        self.0.max + 1
    }
    fn finite_only(self) -> bool {
        self.0.exponent == E4M3.exponent
    }
    fn nan(self, bits: u64) -> bool {
        let m = bits & (self.sign() - 1);
        m > self.infinity() || self.finite_only() && m == self.infinity()
    }
    pub fn value(self, bits: u64) -> f64 {
        let (s, m) = (self.0, bits & (self.sign() - 1));
        let (field, fraction) = (m >> s.mantissa, m & ((1 << s.mantissa) - 1));
        let least = 2 - (1 << (s.exponent - 1)) - s.mantissa as i32;
        let x = if self.nan(bits) {
            f64::NAN
        } else if m == self.infinity() {
            f64::INFINITY
        } else if s.mantissa == 52 {
            f64::from_bits(m)
        } else if field == 0 {
            fraction as f64 * f64::powi(2., least)
        } else {
            (fraction + (1 << s.mantissa)) as f64 * f64::powi(2., least + field as i32 - 1)
        };
        if bits & self.sign() == 0 { x } else { -x }
    }
    /// Whether bits hold just this number, its sign too.
    pub fn is(self, bits: u64, x: f64) -> bool {
        let y = self.value(bits);
        if x.is_nan() { y.is_nan() } else { y == x && y.is_sign_negative() == x.is_sign_negative() }
    }
    /// Whether bits hold a number rounded so.
    fn rounds(self, bits: u64, x: f64, round: char, finite: bool) -> bool {
        if x.is_finite() && x != 0. {
            return self.0.accepts(bits, &Real::Value(Exact::of(x)), round, finite);
        }
        let top = Self(self.0).value(self.0.max).copysign(x);
        let beyond = if finite {
            top
        } else if self.finite_only() {
            f64::NAN
        } else {
            x
        };
        self.is(bits, if x.is_infinite() { beyond } else { x })
    }
    /// Whether bits are within so many units of the last place (of rounding apart) of a number.
    pub fn near(self, bits: u64, x: f64, units: f64) -> bool {
        let (y, top) = (self.value(bits), self.value(self.0.max));
        if x.is_nan() {
            return y.is_nan();
        }
        let least = 2 - (1 << (self.0.exponent - 1));
        let exponent =
            ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).clamp(least, least - 3 + (1 << self.0.exponent));
        let unit = f64::powi(2., exponent - self.0.mantissa as i32);
        if x.abs() >= top + unit / 2. {
            return y == f64::INFINITY.copysign(x)
                || units > 0. && y == top.copysign(x) && x.abs() < top + units * unit;
        }
        (y - x).abs() <= (units + 0.5) * unit
            || y.is_infinite() && y * x > 0. && x.abs() + units * unit >= top
    }
}

/// What becomes of a result below 0, above 1.
#[derive(Clone, Copy, PartialEq)]
pub enum Clamp {
    Never,
    Unit,
    Positive,
}

/// Whether `got` is an operation's exact value, rounded.
pub fn rounded(k: Kind, op: &str, row: &[u64], round: char, clamp: Clamp, got: u64) -> bool {
    let v: Vec<f64> = row.iter().map(|&x| k.value(x)).collect();
    let h = host(op, &v, round == 'd');
    match clamp {
        Clamp::Unit if h.is_nan() => return got == 0,
        Clamp::Unit | Clamp::Positive if h <= 0. => return got == 0,
        Clamp::Unit if h >= 1. => return k.is(got, 1.),
        _ => (),
    }
    match exact(op, &v) {
        Some(real) => k.0.accepts(got, &real, round, false),
        None => k.is(got, h),
    }
}

/// The lesser or greater: one that is no number yields, or (`strict`) prevails.
pub fn extreme(k: Kind, min: bool, strict: bool, a: u64, b: u64, got: u64) -> bool {
    let (x, y) = (k.value(a), k.value(b));
    match (x.is_nan(), y.is_nan()) {
        (true, true) => k.nan(got),
        (true, _) | (_, true) if strict => k.nan(got),
        (true, _) => got == b,
        (_, true) => got == a,
        _ => got == if (x.total_cmp(&y).is_lt()) == min { a } else { b },
    }
}

fn is_comparison(op: &str) -> bool {
    ["eq", "ne", "lt", "le", "gt", "ge"]
        .iter()
        .any(|c| op.strip_prefix(c).is_some_and(|u| matches!(u, "" | "u")))
}

/// `lt`, `ltu`, …
fn compare(op: &str, x: f64, y: f64) -> bool {
    let holds = match &op[..2] {
        "eq" => x == y,
        "ne" => x != y && !x.is_nan() && !y.is_nan(),
        "lt" => x < y,
        "le" => x <= y,
        "gt" => x > y,
        _ => x >= y,
    };
    holds || op.len() == 3 && (x.is_nan() || y.is_nan())
}

/// An intrinsic of one f16 or bf16.
fn one(k: Kind, name: &str, v: &[u64], got: u64) -> Option<bool> {
    let x = k.value(v[0]);
    let base = name.strip_prefix("__h")?;
    let (op, flag) = base.split_once('_').unwrap_or((base, ""));
    let clamp = match flag {
        "sat" => Clamp::Unit,
        "relu" => Clamp::Positive,
        _ => Clamp::Never,
    };
    Some(match op {
        "add" | "sub" | "mul" | "div" => rounded(k, op, &v[..2], 'n', clamp, got),
        "fma" => rounded(k, op, v, 'n', clamp, got),
        "neg" => k.is(got, -x),
        "abs" => k.is(got, x.abs()),
        "min" | "max" => extreme(k, op == "min", flag == "nan", v[0], v[1], got),
        _ => return None,
    })
}

/// Elementary functions; units of the last place that the result may be off after rounding.
fn elementary(k: Kind, name: &str, x: u64, got: u64) -> Option<bool> {
    let x = k.value(x);
    let exact = |y| Some(k.is(got, y));
    let half = k.0.mantissa == F16.mantissa;
    let y = match name.strip_prefix('h')? {
        "ceil" => return exact(x.ceil()),
        "floor" => return exact(x.floor()),
        "trunc" => return exact(x.trunc()),
        "rint" => return exact(x.round_ties_even()),
        // The greatest error that is documented.
        "tanh_approx" => {
            return Some(
                k.is(got, x.tanh())
                    || (k.value(got) - x.tanh()).abs() <= f64::powf(2., if half { -10.987 } else { -8. }),
            );
        }
        "sqrt" => x.sqrt(),
        "rsqrt" => 1. / x.sqrt(),
        "rcp" => 1. / x,
        "exp" => x.exp(),
        "exp2" => x.exp2(),
        "exp10" => f64::powf(10., x),
        "log" => x.ln(),
        "log2" => x.log2(),
        "log10" => x.log10(),
        "sin" => x.sin(),
        "cos" => x.cos(),
        "tanh" => x.tanh(),
        _ => return None,
    };
    // The library corrects what hardware's own approximations miss of these in f16, and so misses elsewhere.
    let off = half && (name.contains("exp") || name.contains("log"));
    Some(k.near(got, y, if off { 1. } else { 0. }) && (y != 0. || k.is(got, y)))
}

/// An intrinsic of f16 or bf16, of one or (`packed`) two.
pub fn call(s: Shape, packed: bool, name: &str, row: &Row, got: u64) -> Option<bool> {
    let (k, v) = (Kind(s), [row.get(0), row.get(1), row.get(2)]);
    if !packed {
        let (x, y) = (k.value(v[0]), k.value(v[1]));
        return match name.strip_prefix("__h") {
            Some("isnan") => Some(got == u64::from(x.is_nan())),
            Some("isinf") => Some(got as u32 as i32 == if x.is_infinite() { x.signum() as i32 } else { 0 }),
            Some(op) if is_comparison(op) => Some(got == u64::from(compare(op, x, y))),
            _ => one(k, name, &v, got).or_else(|| elementary(k, name, v[0], got)),
        };
    }
    let lane = |n: usize| v.map(|x| x >> (16 * n) & 0xffff);
    let [low, high] = [lane(0), lane(1)];
    let halves = [got & 0xffff, got >> 16];
    let word = |l: u64, h: u64| Some(got == (l | h << 16));
    let wide =
        |x: u64| Some(f32::from_bits(got as u32).to_bits() == got as u32 && Kind(F32).is(got, k.value(x)));
    match name {
        "__low2half" => return Some(got == low[0]),
        "__high2half" => return Some(got == high[0]),
        "__low2half2" => return word(low[0], low[0]),
        "__high2half2" => return word(high[0], high[0]),
        "__lowhigh2highlow" => return word(high[0], low[0]),
        "__lows2half2" => return word(low[0], low[1]),
        "__highs2half2" => return word(high[0], high[1]),
        "__low2float" => return wide(low[0]),
        "__high2float" => return wide(high[0]),
        "__half22float2" => {
            let f = Kind(F32);
            return Some(f.is(got & 0xffff_ffff, k.value(low[0])) && f.is(got >> 32, k.value(high[0])));
        }
        _ => (),
    }
    if let Some(op) = name.strip_prefix("__hb").and_then(|o| o.strip_suffix('2')) {
        let all = [low, high].iter().all(|v| compare(op, k.value(v[0]), k.value(v[1])));
        return Some(got == u64::from(all));
    }
    let scalar = name.replacen('2', "", 1);
    let both = |f: &dyn Fn([u64; 3], u64) -> Option<bool>| Some(f(low, halves[0])? && f(high, halves[1])?);
    let op = scalar.trim_start_matches("__h");
    if let Some(op) = Some(op.strip_suffix("_mask").unwrap_or(op)).filter(|op| is_comparison(op)) {
        let set = |x: bool, r: u64| {
            if scalar.ends_with("mask") {
                r == if x { 0xffff } else { 0 }
            } else {
                k.is(r, f64::from(u8::from(x)))
            }
        };
        return both(&|v, r| Some(set(compare(op, k.value(v[0]), k.value(v[1])), r)));
    }
    match op {
        "isnan" => both(&|v, r| Some(k.is(r, f64::from(u8::from(k.value(v[0]).is_nan()))))),
        "cmadd" => {
            // ((a.x b.x + c.x) - a.y b.y, (a.x b.y + c.y) + a.y b.x), rounded after each sum.
            let sum = |x: f64, y: f64, z: f64| half_rounded(k, x, y, z);
            let [[ax, bx, cx], [ay, by, cy]] = [low, high].map(|v| v.map(|x| k.value(x)));
            let re = sum(-ay, by, sum(ax, bx, cx));
            let im = sum(ay, bx, sum(ax, by, cy));
            Some(k.is(halves[0], re) && k.is(halves[1], im))
        }
        _ => both(&|v, r| one(k, &scalar, &v, r).or_else(|| elementary(k, &scalar, v[0], r))),
    }
}

/// x y + z, rounded once to a format of 16 bits.
fn half_rounded(k: Kind, x: f64, y: f64, z: f64) -> f64 {
    let r = x.mul_add(y, z);
    if !r.is_finite() || r == 0. {
        return r;
    }
    let real = Real::Value(Exact::of(x).times(&Exact::of(y)).plus(&Exact::of(z)));
    let sign = if r < 0. { k.sign() } else { 0 };
    // Of the numbers around it, the one that is accepted.
    let code = if k.0.mantissa == F16.mantissa {
        u64::from(half::f16::from_f64(r).to_bits())
    } else {
        u64::from(half::bf16::from_f64(r).to_bits())
    };
    let m = code & (k.sign() - 1);
    let near = (m.saturating_sub(1)..=m + 1).map(|m| m | sign);
    near.into_iter().find(|&b| k.0.accepts(b, &real, 'n', false)).map_or(f64::NAN, |b| k.value(b))
}

/// The way a name ends: `_rz`.
fn mode(name: &str) -> (&str, char) {
    match name.rsplit_once("_r") {
        Some((head, m @ ("n" | "z" | "u" | "d"))) => (head, m.chars().next().unwrap_or('n')),
        _ => (name, 'n'),
    }
}

/// Bits and sign of an integer's name; bits that a float conversion gives for what is no number.
fn integer(name: &str) -> Option<(u32, bool)> {
    Some(match name {
        "char" => (8, true),
        "uchar" => (8, false),
        "short" => (16, true),
        "ushort" => (16, false),
        "int" => (32, true),
        "uint" => (32, false),
        "ll" => (64, true),
        "ull" => (64, false),
        _ => return None,
    })
}

/// From a float to an integer, another float or its bits.
pub fn casts(s: Shape, name: &str, v: [u64; 3], got: u64) -> Option<bool> {
    let x = Kind(s).value(v[0]);
    let (head, round) = mode(name);
    if let Some((_, to)) = head.rsplit_once("_as_") {
        return ["short", "ushort", "int", "uint", "longlong"].contains(&to).then_some(got == v[0]);
    }
    match head {
        "__double2hiint" => return Some(got == v[0] >> 32),
        "__double2loint" => return Some(got == v[0] & 0xffff_ffff),
        "__half2float" => return Some(Kind(F32).is(got, x)),
        "__half2half2" => return Some(got == (v[0] | v[0] << 16)),
        "__double2float" => return Some(Kind(F32).rounds(got, x, round, false)),
        _ => (),
    }
    let (from, to) = head.strip_prefix("__")?.split_once('2')?;
    let (bits, signed) = integer(to).filter(|_| matches!(from, "half" | "float" | "double"))?;
    if x.is_nan() {
        let special = bits == 64 || from == "double";
        return Some(got == if special { 1 << (bits - 1) } else { 0 });
    }
    let whole = match round {
        'z' => x.trunc(),
        'u' => x.ceil(),
        'd' => x.floor(),
        _ => x.round_ties_even(),
    };
    let (least, most) =
        if signed { (-1i128 << (bits - 1), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
    let mask = if bits == 64 { !0 } else { (1 << bits) - 1 };
    Some(got == (whole as i128).clamp(least, most) as u64 & mask)
}

/// To a float, from integers, other floats or bits.
pub fn from(to: Shape, source: &str, name: &str, v: [u64; 3], got: u64) -> Option<bool> {
    let k = Kind(to);
    let (head, round) = mode(name);
    let float = match source {
        "f32" => Some(F32),
        "f64" => Some(F64),
        _ => None,
    };
    if let Some(f) = float {
        let [x, y, _] = v.map(|x| Kind(f).value(x));
        let two =
            |x: f64, y: f64| k.rounds(got & 0xffff, x, 'n', false) && k.rounds(got >> 16, y, 'n', false);
        return Some(match head {
            "__float2half2" => two(x, x),
            "__floats2half2" | "__float22half2" => two(x, y),
            "__float2half" | "__double2half" => k.rounds(got, x, round, false),
            _ => return None,
        });
    }
    if head.contains("_as_") {
        return Some(got == v[0] & (k.sign() * 2).wrapping_sub(1));
    }
    if head == "__hiloint2double" {
        return Some(got == (v[0] << 32 | v[1]));
    }
    let (bits, signed) = integer(head.strip_prefix("__")?.split_once('2')?.0)?;
    let x = v[0] << (64 - bits) >> (64 - bits);
    let x = if signed { i128::from((x << (64 - bits)) as i64 >> (64 - bits)) } else { i128::from(x) };
    Some(if x == 0 { got == 0 } else { k.0.accepts(got, &Real::Value(Exact::new(x, 0)), round, false) })
}

/// Directed rounding in f32 and f64.
pub fn directed(s: Shape, name: &str, v: [u64; 3], got: u64) -> Option<bool> {
    let k = Kind(s);
    let x = k.value(v[0]);
    match name {
        "__saturatef" => return Some(k.is(got, if x > 0. { x.min(1.) } else { 0. })),
        // Twice rounded, but for one in 2^28.
        "__frsqrt_rn" => return Some(k.near(got, 1. / x.sqrt(), 1e-6)),
        _ => (),
    }
    let (head, round) = mode(name);
    let op = head.trim_start_matches("__").trim_end_matches("_ieee");
    let op = if op.starts_with("fma") { "fma" } else { &op[1..] };
    let n = match op {
        "fma" => 3,
        "rcp" | "sqrt" => 1,
        "add" | "sub" | "mul" | "div" => 2,
        _ => return None,
    };
    Some(rounded(k, op, &v[..n], round, Clamp::Never, got))
}

/// Whether a scale of 8 bits is a power of two towards zero or up from a number's magnitude.
fn scale(got: u64, x: f64, up: bool, finite: bool) -> bool {
    if x.is_nan() {
        return got == 0xff;
    }
    let fits = |e: i32| if up { f64::powi(2., e) >= x.abs() } else { f64::powi(2., e) <= x.abs() };
    let fit = if up { (-127..=127).find(|&e| fits(e)) } else { (-127..=127).rev().find(|&e| fits(e)) };
    // From f64 the library cuts to f32 first, so that towards zero only infinity is beyond.
    let over = if up { fit.is_none() } else { x.is_infinite() };
    let want = if over { if finite { 254 } else { 255 } } else { fit.unwrap_or(-127) + 127 };
    got == want as u64
}

/// To and from 8 bits.
pub fn eight(source: &str, call: &str, v: [u64; 3], got: u64) -> Option<bool> {
    let (name, rest) = call.split_once('(')?;
    let format = if call.contains("E4M3") { E4M3 } else { E5M2 };
    let (k, half) = (Kind(format), Kind(F16));
    match name {
        "__nv_cvt_fp8_to_halfraw" => return Some(half.is(got, k.value(v[0]))),
        "__nv_cvt_fp8x2_to_halfraw2" => {
            return Some(
                half.is(got & 0xffff, k.value(v[1] & 0xff)) && half.is(got >> 16, k.value(v[1] >> 8)),
            );
        }
        "__nv_cvt_e8m0_to_bf16raw" => {
            let want = if v[0] == 0xff { f64::NAN } else { f64::powi(2., v[0] as i32 - 127) };
            return Some(Kind(BF16).is(got, want));
        }
        _ => (),
    }
    let from = Kind(super::intrinsics::shape(source)?);
    let finite = rest.contains("SATFINITE");
    if name.ends_with("e8m0") {
        return Some(scale(got, from.value(v[0]), rest.contains("PosInf"), finite));
    }
    let (x, y) = if source.ends_with("x2") { (v[0] & 0xffff, v[0] >> 16) } else { (v[0], v[1]) };
    let low = k.rounds(got & 0xff, from.value(x), 'n', finite);
    Some(if name.ends_with("x2") {
        low && k.rounds(got >> 8, from.value(y), 'n', finite)
    } else {
        low && got < 256
    })
}
