//! f32 and f64 instructions: rounded ones against exact arithmetic, approximate ones within their documented error.

use crate::alu::{accept, compare, machine};
use crate::exact::{BF16, Exact, F16, F32, F64, Real, Rng, Shape};
use inp_cuda_emulator::exec::ops::formats;
use inp_cuda_emulator::run::Machine;

/// A type under test, its values as f64.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    bits: u32,
    shape: Shape,
}
const SINGLE: Kind = Kind { name: "f32", bits: 32, shape: F32 };
const DOUBLE: Kind = Kind { name: "f64", bits: 64, shape: F64 };

impl Kind {
    fn value(self, bits: u64) -> f64 {
        if self.bits == 32 { f32::from_bits(bits as u32).into() } else { f64::from_bits(bits) }
    }
    fn nan(self) -> u64 {
        if self.bits == 32 { 0x7fff_ffff } else { 0xfff8_0000_0000_0000 }
    }
    fn subnormal(self, bits: u64) -> bool {
        let m = bits & !(1 << (self.bits - 1));
        m >> self.shape.mantissa == 0
    }
    fn sign(self, bits: u64) -> u64 {
        bits & 1 << (self.bits - 1)
    }
    fn columns(self, n: usize, rows: usize, seed: u64) -> Vec<(u32, Vec<u64>)> {
        let mut rng = Rng(seed);
        let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        let mut one = || match rng.next() % 24 {
            k @ 0..3 if self.bits == 32 => u64::from((special[k as usize] as f32).to_bits()),
            k @ 0..3 => special[k as usize].to_bits(),
            _ => rng.float(self.shape),
        };
        let mut c: Vec<Vec<u64>> = (0..n).map(|_| (0..rows).map(|_| one()).collect()).collect();
        // Some rows nearly cancel.
        for r in (0..rows).filter(|r| r % 5 == 0) {
            let last = n - 1;
            if n == 2 {
                c[1][r] = c[0][r] ^ 1 << (self.bits - 1) ^ (r as u64 / 5 & 3);
            } else if n == 3 {
                let p = self.value(c[0][r]) * self.value(c[1][r]);
                c[last][r] = if self.bits == 32 { u64::from((-p as f32).to_bits()) } else { (-p).to_bits() };
            }
        }
        c.into_iter().map(|x| (self.bits, x)).collect()
    }
}

/// The exact value of an operation on finite numbers; `None` where it has none (or is a zero whose sign is a rule).
pub fn exact(op: &str, v: &[f64]) -> Option<Real> {
    let e = |n: usize| Exact::of(v[n]);
    if v.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let r = match op {
        "add" => e(0).plus(&e(1)),
        "sub" => e(0).plus(&e(1).negate()),
        "mul" => e(0).times(&e(1)),
        "fma" => e(0).times(&e(1)).plus(&e(2)),
        "div" if v[1] != 0. && v[0] != 0. => return Some(Real::Quotient(e(0), e(1))),
        "rcp" if v[0] != 0. => return Some(Real::Quotient(Exact::new(1, 0), e(0))),
        "sqrt" if v[0] > 0. => return Some(Real::Root(e(0))),
        _ => return None,
    };
    (!r.is_zero()).then_some(Real::Value(r))
}
/// What the host makes of it, for infinities, NaN and signed zeros.
pub fn host(op: &str, v: &[f64], down: bool) -> f64 {
    let r = match op {
        "add" => v[0] + v[1],
        "sub" => v[0] - v[1],
        "mul" => v[0] * v[1],
        "fma" => v[0].mul_add(v[1], v[2]),
        "div" => v[0] / v[1],
        "rcp" => 1. / v[0],
        _ => v[0].sqrt(),
    };
    // Differing zeros, or numbers that cancel, give -0 when rounding down.
    let both = match op {
        "add" => v[0].is_sign_negative() == v[1].is_sign_negative(),
        "sub" => v[0].is_sign_negative() != v[1].is_sign_negative(),
        "fma" => (v[0].is_sign_negative() != v[1].is_sign_negative()) == v[2].is_sign_negative(),
        _ => true,
    };
    if r == 0. && down && !both { -0. } else { r }
}

fn rounded(m: &mut Machine, k: Kind, op: &str, operands: usize, round: (&str, char), ftz: bool, sat: bool) {
    let code = format!(
        "{op}.{}{}{}.{} %d, {};",
        round.0,
        if ftz { ".ftz" } else { "" },
        if sat { ".sat" } else { "" },
        k.name,
        ["%a", "%b", "%c"][..operands].join(", ")
    );
    let columns = k.columns(operands, 3000, 11);
    accept(m, &code, k.bits, &columns, |row, got| {
        let input = |x: u64| if ftz && k.subnormal(x) { k.sign(x) } else { x };
        let v: Vec<f64> = row.iter().map(|&x| k.value(input(x))).collect();
        let Some(real) = exact(op, &v) else {
            let h = host(op, &v, round.1 == 'd');
            if sat {
                return k.value(got) == if h > 0. { h.min(1.) } else { 0. } && k.sign(got) == 0;
            }
            let want = if h.is_nan() {
                k.nan()
            } else if k.bits == 32 {
                u64::from((h as f32).to_bits())
            } else {
                h.to_bits()
            };
            return got == want;
        };
        if sat {
            let zero = Exact::new(0, 0);
            if real.cmp(&zero).is_lt() {
                return got == 0;
            }
            if real.cmp(&Exact::new(1, 0)).is_ge() {
                return k.value(got) == 1.;
            }
        }
        if ftz && k.subnormal(got) {
            // A flushed result: the true one is below the smallest normal number.
            let least = Exact::new(1, -126);
            return got == k.sign(got)
                && real.cmp(&least).is_lt()
                && real.cmp(&least.clone().negate()).is_gt();
        }
        k.shape.accepts(got, &real, round.1, false)
    });
}

#[test]
fn rounded_operations() {
    let m = &mut machine();
    for round in [("rn", 'n'), ("rz", 'z'), ("rm", 'd'), ("rp", 'u')] {
        for (op, n) in [("add", 2), ("sub", 2), ("mul", 2), ("fma", 3), ("div", 2), ("rcp", 1), ("sqrt", 1)] {
            rounded(m, DOUBLE, op, n, round, false, false);
            rounded(m, SINGLE, op, n, round, false, false);
            rounded(m, SINGLE, op, n, round, true, false);
            if matches!(op, "add" | "sub" | "mul" | "fma") {
                rounded(m, SINGLE, op, n, round, false, true);
                rounded(m, SINGLE, op, n, round, true, true);
            }
        }
    }
}

#[test]
fn pairs_and_mixed_precision() {
    let m = &mut machine();
    let mut rng = Rng(3);
    let half = |x: u64, s: Shape| {
        if s.exponent == 5 { formats::F16.widen(x as u32) } else { formats::BF16.widen(x as u32) }
    };
    for (name, mode) in [("rn", 'n'), ("rz", 'z'), ("rm", 'd'), ("rp", 'u')] {
        let c: Vec<_> = (0..3)
            .map(|_| (64, (0..2000).map(|_| rng.float(F32) | rng.float(F32) << 32).collect()))
            .collect();
        for (op, n) in [("add", 2), ("sub", 2), ("mul", 2), ("fma", 3)] {
            let code = format!("{op}.{name}.f32x2 %d, {};", ["%a", "%b", "%c"][..n].join(", "));
            accept(m, &code, 64, &c[..n], |row, got| {
                [0, 32].iter().all(|by| {
                    let v: Vec<f64> = row.iter().map(|x| SINGLE.value(x >> by & 0xffff_ffff)).collect();
                    let got = got >> by & 0xffff_ffff;
                    exact(op, &v).is_none_or(|real| F32.accepts(got, &real, mode, false))
                })
            });
        }
        for (t, s) in [("f16", F16), ("bf16", BF16)] {
            let mut halves = || (16, (0..2000).map(|_| rng.float(s)).collect::<Vec<u64>>());
            let (a, b) = (halves(), halves());
            let c = (32, (0..2000).map(|_| rng.float(F32)).collect::<Vec<u64>>());
            for op in ["add", "sub"] {
                accept(
                    m,
                    &format!("{op}.{name}.f32.{t} %d, %a, %b;"),
                    32,
                    &[a.clone(), c.clone()],
                    |row, got| {
                        let v = [half(row[0], s), SINGLE.value(row[1])];
                        exact(op, &v).is_none_or(|real| F32.accepts(got, &real, mode, false))
                    },
                );
            }
            accept(m, &format!("fma.{name}.f32.{t} %d, %a, %b, %c;"), 32, &[a, b, c], |row, got| {
                let v = [half(row[0], s), half(row[1], s), SINGLE.value(row[2])];
                exact("fma", &v).is_none_or(|real| F32.accepts(got, &real, mode, false))
            });
        }
    }
}

#[test]
fn signs_minima_and_classes() {
    let m = &mut machine();
    for k in [SINGLE, DOUBLE] {
        let top = 1u64 << (k.bits - 1);
        let c = k.columns(3, 3000, 5);
        compare(m, &format!("abs.{} %d, %a;", k.name), k.bits, &c[..1], |v| v[0] & !top);
        compare(m, &format!("neg.{} %d, %a;", k.name), k.bits, &c[..1], |v| v[0] ^ top);
        compare(m, &format!("copysign.{} %d, %a, %b;", k.name), k.bits, &c[..2], |v| {
            v[1] & !top | v[0] & top
        });
        // Numbers in order, -0 before +0.
        let order = |x: u64| if x & top != 0 { -i128::from(x & !top) - 1 } else { i128::from(x) };
        let pick = |min: bool, strict: bool, a: u64, b: u64| match (k.value(a).is_nan(), k.value(b).is_nan())
        {
            (true, true) => k.nan(),
            (true, _) | (_, true) if strict => k.nan(),
            (true, _) => b,
            (_, true) => a,
            _ if (order(a) < order(b)) == min => a,
            _ => b,
        };
        for (op, min) in [("min", true), ("max", false)] {
            compare(m, &format!("{op}.{} %d, %a, %b;", k.name), k.bits, &c[..2], |v| {
                pick(min, false, v[0], v[1])
            });
            if k.bits == 64 {
                continue;
            }
            compare(m, &format!("{op}.NaN.f32 %d, %a, %b;"), 32, &c[..2], |v| pick(min, true, v[0], v[1]));
            compare(m, &format!("{op}.f32 %d, %a, %b, %c;"), 32, &c, |v| {
                pick(min, false, pick(min, false, v[0], v[1]), v[2])
            });
            let flush = |x: u64| if k.subnormal(x) { x & top } else { x };
            compare(m, &format!("{op}.ftz.f32 %d, %a, %b;"), 32, &c[..2], |v| {
                pick(min, false, flush(v[0]), flush(v[1]))
            });
            compare(m, &format!("{op}.xorsign.abs.f32 %d, %a, %b;"), 32, &c[..2], |v| {
                let r = pick(min, false, v[0] & !top, v[1] & !top);
                if k.value(r).is_nan() { r } else { r | (v[0] ^ v[1]) & top }
            });
        }
        type Is = fn(f64) -> bool;
        let classes: [(&str, Is); 4] = [
            ("finite", f64::is_finite),
            ("infinite", f64::is_infinite),
            ("number", |x| !x.is_nan()),
            ("notanumber", f64::is_nan),
        ];
        for (name, is) in classes {
            let code = format!("testp.{name}.{} %p, %a; selp.u32 %d, 1, 0, %p;", k.name);
            compare(m, &code, 32, &c[..1], |v| u64::from(is(k.value(v[0]))));
        }
        for (name, want) in [("normal", false), ("subnormal", true)] {
            let code = format!("testp.{name}.{} %p, %a; selp.u32 %d, 1, 0, %p;", k.name);
            compare(m, &code, 32, &c[..1], |v| {
                let x = k.value(v[0]);
                u64::from(x.is_finite() && x != 0. && k.subnormal(v[0]) == want)
            });
        }
    }
}

#[test]
fn approximations() {
    let m = &mut machine();
    type F = fn(f64) -> f64;
    let f: [(&str, F); 8] = [
        ("rcp.approx", |x| 1. / x),
        ("sqrt.approx", f64::sqrt),
        ("rsqrt.approx", |x| 1. / x.sqrt()),
        ("sin.approx", f64::sin),
        ("cos.approx", f64::cos),
        ("lg2.approx", f64::log2),
        ("ex2.approx", f64::exp2),
        ("tanh.approx", f64::tanh),
    ];
    let mut c = SINGLE.columns(1, 6000, 8);
    let zeros = [0, 0x8000_0000u64, 1, 0x8000_0001, 0x7f80_0000, 0xff80_0000, 0x7fc0_0001];
    c[0].1[..zeros.len()].copy_from_slice(&zeros);
    for (name, f) in f {
        for ftz in [false, true] {
            if ftz && name.starts_with("tanh") {
                continue;
            }
            let code = format!("{name}{}.f32 %d, %a;", if ftz { ".ftz" } else { "" });
            accept(m, &code, 32, &c, |row, got| {
                let x = if ftz && SINGLE.subnormal(row[0]) { SINGLE.sign(row[0]) } else { row[0] };
                let want = f(SINGLE.value(x)) as f32;
                let want = if ftz && want.is_subnormal() { 0f32.copysign(want) } else { want };
                let got = f32::from_bits(got as u32);
                if want.is_nan() || want.is_infinite() || want == 0. {
                    return got.to_bits() == want.to_bits() || want.is_nan() && got.to_bits() == 0x7fff_ffff;
                }
                let least = if ftz { f32::MIN_POSITIVE } else { 1e-45 };
                (f64::from(got) - f64::from(want)).abs() <= f64::from(want.abs()) * 1.2e-7 + f64::from(least)
            });
        }
    }
    let c = SINGLE.columns(2, 6000, 9);
    for name in ["div.approx", "div.full"] {
        accept(m, &format!("{name}.f32 %d, %a, %b;"), 32, &c, |row, got| {
            let (a, b) = (SINGLE.value(row[0]), SINGLE.value(row[1]));
            let got = f32::from_bits(got as u32);
            let huge = name == "div.approx" && b.is_finite() && b.abs() > 2f64.powi(126);
            let want = if huge && a.is_infinite() {
                f32::NAN
            } else if huge {
                (a * 0. * b.signum()) as f32
            } else {
                (a / b) as f32
            };
            got.to_bits() == want.to_bits() || want.is_nan() && got.to_bits() == 0x7fff_ffff
        });
    }
}
