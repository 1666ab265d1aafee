//! f16 and bf16 instructions against exact arithmetic; unary ones on all 65536 numbers.

use crate::alu::{accept, compare, machine};
use crate::exact::{BF16, Exact, F16, Real, Rng, Shape};
use inp_cuda_emulator::exec::ops::formats::{self, Format};

const KINDS: [(&str, Shape, Format); 2] = [("f16", F16, formats::F16), ("bf16", BF16, formats::BF16)];

fn subnormal(f: Format, x: u32) -> bool {
    x & 0x7fff < 1 << f.mantissa
}
fn flush(f: Format, x: u32) -> u32 {
    if subnormal(f, x) { x & 0x8000 } else { x }
}

#[test]
fn every_number() {
    let m = &mut machine();
    let all = [(16, (0..0x1_0000u64).collect::<Vec<_>>())];
    let pairs = [(32, (0..0x1_0000u64).map(|x| x | (x * 40503 & 0xffff) << 16).collect::<Vec<_>>())];
    for (t, s, f) in KINDS {
        compare(m, &format!("neg.{t} %d, %a;"), 16, &all, |v| v[0] ^ 0x8000);
        compare(m, &format!("abs.{t} %d, %a;"), 16, &all, |v| v[0] & 0x7fff);
        compare(m, &format!("neg.{t}x2 %d, %a;"), 32, &pairs, |v| v[0] ^ 0x8000_8000);
        compare(m, &format!("abs.{t}x2 %d, %a;"), 32, &pairs, |v| v[0] & 0x7fff_7fff);
        type F = fn(f64) -> f64;
        let functions: [(&str, F); 2] = [("tanh.approx", f64::tanh), ("ex2.approx", f64::exp2)];
        for (name, g) in functions {
            let ftz = t == "bf16" && name.starts_with("ex2");
            let ok = |x: u32, got: u32| {
                let x = if ftz { flush(f, x) } else { x };
                let want = g(f.widen(x));
                if want.is_nan() {
                    return got == 0x7fff;
                }
                // Within one unit of the last place (hardware's own errors are larger).
                let bits = f.narrow(want, formats::Round::Nearest, false);
                let bits = if ftz { flush(f, bits) } else { bits };
                let order = |x: u32| if x & 0x8000 != 0 { -i64::from(x & 0x7fff) } else { i64::from(x) };
                (order(got) - order(bits)).abs() <= 1 && (bits != 0 || got == 0 || got == 1)
            };
            let flag = if ftz { ".ftz" } else { "" };
            accept(m, &format!("{name}{flag}.{t} %d, %a;"), 16, &all, |v, got| ok(v[0] as u32, got as u32));
            accept(m, &format!("{name}{flag}.{t}x2 %d, %a;"), 32, &pairs, |v, got| {
                ok(v[0] as u32 & 0xffff, got as u32 & 0xffff) && ok((v[0] >> 16) as u32, (got >> 16) as u32)
            });
        }
        // The format itself, as the comparison with zero sees it.
        compare(
            m,
            &format!("mov.b16 %h0, 0; setp.lt.{t} %p, %a, %h0; selp.u32 %d, 1, 0, %p;"),
            32,
            &all,
            |v| u64::from(v[0] > 0x8000 && v[0] & 0x7fff <= s.max + 1),
        );
    }
}

#[test]
fn arithmetic() {
    let m = &mut machine();
    for (t, s, f) in KINDS {
        let mut rng = Rng(21);
        let mut c: Vec<(u32, Vec<u64>)> = (0..3)
            .map(|_| (32, (0..20_000).map(|_| rng.float(s) | rng.float(s) << 16).collect::<Vec<u64>>()))
            .collect();
        for r in (0..20_000).step_by(4) {
            // Products that nearly cancel; and the numbers that are none.
            let p = |by: u32| {
                f.narrow(
                    -f.widen((c[0].1[r] >> by) as u32 & 0xffff) * f.widen((c[1].1[r] >> by) as u32 & 0xffff),
                    formats::Round::Zero,
                    false,
                )
            };
            c[2].1[r] = u64::from(p(0) | p(16) << 16);
            let special = [0x7fff, f.infinity.unwrap_or(0), f.infinity.unwrap_or(0) | 0x8000][r / 4 % 3];
            if r % 5 == 0 {
                c[r / 20 % 3].1[r] = u64::from(special | 0x3c00 << 16);
            }
        }
        let narrow: Vec<(u32, Vec<u64>)> =
            c.iter().map(|x| (16, x.1.iter().map(|v| v & 0xffff).collect())).collect();
        let flags: &[&str] =
            if t == "f16" { &["", ".ftz", ".sat", ".ftz.sat", ".relu", ".ftz.relu"] } else { &["", ".relu"] };
        for (op, n) in [("add", 2), ("sub", 2), ("mul", 2), ("fma", 3)] {
            for flag in flags.iter().filter(|f| op == "fma" || !f.contains("relu")) {
                let (ftz, sat, relu) = (flag.contains("ftz"), flag.contains("sat"), flag.contains("relu"));
                let ok = |row: &[u64], got: u32| {
                    let v: Vec<f64> = row
                        .iter()
                        .map(|&x| f.widen(if ftz { flush(f, x as u32) } else { x as u32 }))
                        .collect();
                    let host = match op {
                        "add" => v[0] + v[1],
                        "sub" => v[0] - v[1],
                        "mul" => v[0] * v[1],
                        _ => v[0].mul_add(v[1], v[2]),
                    };
                    if host.is_nan() {
                        return got == if sat { 0 } else { 0x7fff };
                    }
                    if sat && host <= 0. || relu && host <= 0. {
                        return got == 0;
                    }
                    if sat && host >= 1. {
                        return f.widen(got) == 1.;
                    }
                    if host.is_infinite() || v.iter().any(|x| x.is_infinite()) {
                        return f.widen(got) == host;
                    }
                    let e = |n: usize| Exact::of(v[n]);
                    let real = match op {
                        "add" => e(0).plus(&e(1)),
                        "sub" => e(0).plus(&e(1).negate()),
                        "mul" => e(0).times(&e(1)),
                        _ => e(0).times(&e(1)).plus(&e(2)),
                    };
                    if real.is_zero() {
                        return got & 0x7fff == 0 && (got != 0) == host.is_sign_negative();
                    }
                    if ftz && subnormal(f, got) {
                        let least = f.widen(1 << f.mantissa);
                        return got & 0x7fff == 0 && host.abs() < least && (got != 0) == (host < 0.);
                    }
                    s.accepts(got.into(), &Real::Value(real), 'n', false)
                };
                let names = ["%a", "%b", "%c"][..n].join(", ");
                accept(m, &format!("{op}.rn{flag}.{t} %d, {names};"), 16, &narrow[..n], |row, got| {
                    ok(row, got as u32)
                });
                accept(m, &format!("{op}.rn{flag}.{t}x2 %d, {names};"), 32, &c[..n], |row, got| {
                    let half = |by: u32| {
                        let row: Vec<u64> = row.iter().map(|x| x >> by & 0xffff).collect();
                        ok(&row, (got >> by) as u32 & 0xffff)
                    };
                    half(0) && half(16)
                });
            }
        }
    }
}

#[test]
fn minima() {
    let m = &mut machine();
    for (t, s, f) in KINDS {
        let mut rng = Rng(4);
        let mut one = || if rng.next().is_multiple_of(9) { 0x7fff } else { rng.float(s) };
        let c: Vec<_> =
            (0..2).map(|_| (32, (0..10_000).map(|_| one() | one() << 16).collect::<Vec<u64>>())).collect();
        for (op, min) in [("min", true), ("max", false)] {
            for flag in ["", ".NaN", ".xorsign.abs", ".NaN.xorsign.abs"] {
                let (strict, xor) = (flag.contains("NaN"), flag.contains("xorsign"));
                let pick = |a: u64, b: u64| {
                    let (x, y) = if xor { (a & 0x7fff, b & 0x7fff) } else { (a, b) };
                    let nan = |x: u64| f.widen(x as u32).is_nan();
                    let order = |x: u64| {
                        if x & 0x8000 != 0 { -i64::try_from(x & 0x7fff).unwrap() - 1 } else { x as i64 }
                    };
                    let r = match (nan(x), nan(y)) {
                        (true, true) => return 0x7fff,
                        (true, _) | (_, true) if strict => return 0x7fff,
                        (true, _) => y,
                        (_, true) => x,
                        _ if (order(x) < order(y)) == min => x,
                        _ => y,
                    };
                    if xor { r | (a ^ b) & 0x8000 } else { r }
                };
                compare(m, &format!("{op}{flag}.{t}x2 %d, %a, %b;"), 32, &c, |v| {
                    pick(v[0] & 0xffff, v[1] & 0xffff) | pick(v[0] >> 16, v[1] >> 16) << 16
                });
            }
        }
    }
}
