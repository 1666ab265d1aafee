//! Conversions: every pair of types in every rounding mode, exhaustive where the source is narrow.

use crate::alu::{INTS, accept, check_bits, compare, extend, machine, mask};
use crate::exact::{BF16, E4M3, E5M2, Exact, F16, F32, F64, Real, Rng, Shape, TF32};
use inp_cuda_emulator::exec::ops::formats::{self, Format, Round};

const FLOATS: [(&str, Shape); 4] = [("f16", F16), ("bf16", BF16), ("f32", F32), ("f64", F64)];
const MODES: [(&str, char); 4] = [("rn", 'n'), ("rz", 'z'), ("rm", 'd'), ("rp", 'u')];

fn bits(s: Shape) -> u32 {
    s.mantissa + s.exponent + 1
}
fn value(s: Shape, x: u64) -> f64 {
    match bits(s) {
        64 => f64::from_bits(x),
        32 => f32::from_bits(x as u32).into(),
        _ if s.exponent == 5 => half::f16::from_bits(x as u16).to_f64(),
        _ => f32::from_bits((x as u32) << 16).into(),
    }
}
fn nan(s: Shape) -> u64 {
    match bits(s) {
        64 => 0xfff8_0000_0000_0000,
        n => mask(n - 1),
    }
}
fn limits(b: u32, signed: bool) -> (i128, i128) {
    if signed { (-(1 << (b - 1)), (1 << (b - 1)) - 1) } else { (0, (1 << b) - 1) }
}
/// All of a 16-bit type, or numbers of every kind; some near integers and midpoints.
fn floats(s: Shape, seed: u64) -> Vec<u64> {
    if bits(s) == 16 {
        return (0..0x1_0000).collect();
    }
    let mut rng = Rng(seed);
    let mut v: Vec<u64> = (0..6000).map(|_| rng.float(s)).collect();
    for n in 0..4000 {
        let x = extend(rng.word(64), 64, true) as f64 / 2f64.powi(n % 70);
        let near = match n % 3 {
            0 => x.round(),
            1 => x.trunc() + 0.5,
            _ => x,
        };
        v.push(if bits(s) == 64 { near.to_bits() } else { (near as f32).to_bits().into() });
    }
    v.extend([nan(s), nan(s) ^ 1, (s.max + 1), s.max + 1 | 1 << (bits(s) - 1), 0, 1 << (bits(s) - 1)]);
    v
}

#[test]
fn integers_to_integers() {
    let m = &mut machine();
    for (d, db, ds) in INTS {
        for (a, ab, asg) in INTS {
            // 8-bit values live in wider registers; a wider destination gets the extended value.
            for width in [16, 32, 64].into_iter().filter(|w| *w >= db) {
                let source = ab.max(16);
                let (low, high) = limits(db, ds);
                let narrow = |v: i128| extend(v as u64 & mask(db), db, ds) as u64 & mask(width);
                check_bits(m, &format!("cvt.{d}.{a} %d, %a;"), width, &[source], |v| {
                    narrow(extend(v[0] & mask(ab), ab, asg))
                });
                check_bits(m, &format!("cvt.sat.{d}.{a} %d, %a;"), width, &[source], |v| {
                    narrow(extend(v[0] & mask(ab), ab, asg).clamp(low, high))
                });
            }
        }
    }
    // A source in a wider register than its type.
    check_bits(m, "cvt.u32.u8 %d, %a;", 32, &[32], |v| v[0] & 0xff);
    check_bits(m, "cvt.s32.s16 %d, %a;", 32, &[64], |v| extend(v[0] & 0xffff, 16, true) as u64 & mask(32));
}

#[test]
fn integers_to_floats() {
    let m = &mut machine();
    for (a, ab, asg) in INTS {
        for (d, s) in FLOATS {
            for (mode, c) in MODES {
                let mut rng = Rng(31);
                let column = [(ab.max(16), (0..4000).map(|_| rng.word(ab)).collect())];
                accept(m, &format!("cvt.{mode}.{d}.{a} %d, %a;"), bits(s), &column, |v, got| {
                    let x = extend(v[0] & mask(ab), ab, asg);
                    if x == 0 { got == 0 } else { s.accepts(got, &Real::Value(Exact::new(x, 0)), c, false) }
                });
            }
        }
    }
    check_bits(m, "cvt.rn.sat.f32.s32 %d, %a;", 32, &[32], |v| {
        if extend(v[0], 32, true) > 0 { 0x3f80_0000 } else { 0 }
    });
}

/// The integer next to a number, by mode.
fn integral(x: f64, mode: char) -> f64 {
    let (below, above) = (x.floor(), x.ceil());
    match mode {
        'd' => below,
        'u' => above,
        'z' => {
            if x < 0. {
                above
            } else {
                below
            }
        }
        _ if x - below < above - x => below,
        _ if x - below > above - x => above,
        _ if (below / 2.).fract() == 0. => below,
        _ => above,
    }
}

#[test]
fn floats_to_integers() {
    let m = &mut machine();
    for (a, s) in FLOATS {
        let column = [(bits(s), floats(s, 17))];
        for (d, db, ds) in INTS {
            for (mode, c) in [("rni", 'n'), ("rzi", 'z'), ("rmi", 'd'), ("rpi", 'u')] {
                let (low, high) = limits(db, ds);
                compare(m, &format!("cvt.{mode}.{d}.{a} %d, %a;"), db.max(16), &column, |v| {
                    let x = value(s, v[0]);
                    let r = if !x.is_nan() {
                        (integral(x, c) as i128).clamp(low, high)
                    } else if db == 64 || a == "f64" {
                        1 << (db - 1)
                    } else {
                        0
                    };
                    extend(r as u64 & mask(db), db, ds) as u64 & mask(db.max(16))
                });
            }
        }
    }
    let column = [(32, floats(F32, 18))];
    compare(m, "cvt.rpi.ftz.s32.f32 %d, %a;", 32, &column, |v| {
        let x = f32::from_bits(v[0] as u32);
        let x = if x.is_subnormal() { 0. } else { x };
        x.ceil() as i32 as u32 as u64
    });
}

#[test]
fn floats_to_floats() {
    let m = &mut machine();
    for (a, from) in FLOATS {
        let column = [(bits(from), floats(from, 23))];
        for (d, to) in FLOATS {
            let wider = to.mantissa > from.mantissa && to.exponent >= from.exponent;
            for (mode, c) in MODES {
                for relu in [false, true] {
                    let half = bits(to) == 16 && a == "f32";
                    if a == d || relu && !(half && "nz".contains(c)) {
                        continue;
                    }
                    let code = format!(
                        "cvt{}{}.{d}.{a} %d, %a;",
                        if wider { String::new() } else { format!(".{mode}") },
                        if relu { ".relu" } else { "" }
                    );
                    accept(m, &code, bits(to), &column, |v, got| {
                        let x = value(from, v[0]);
                        if x.is_nan() {
                            return got == nan(to);
                        }
                        let top = 1 << (bits(to) - 1);
                        let sign = if x.is_sign_negative() { top } else { 0 };
                        match () {
                            () if relu && x <= 0. => got == 0,
                            () if x == 0. => got == sign,
                            () if x.is_infinite() => got == sign | to.max + 1,
                            () => to.accepts(got, &Real::Value(Exact::of(x)), c, false),
                        }
                    });
                }
            }
        }
        // To an integral value of the same type.
        for (mode, c) in [("rni", 'n'), ("rzi", 'z'), ("rmi", 'd'), ("rpi", 'u')] {
            if a == "bf16" {
                continue;
            }
            accept(m, &format!("cvt.{mode}.{a}.{a} %d, %a;"), bits(from), &column, |v, got| {
                let x = value(from, v[0]);
                if x.is_nan() {
                    return got == nan(from);
                }
                let r = if x.is_infinite() || x.abs() > 1e17 { x } else { integral(x, c) };
                value(from, got) == r && (r != 0. || (got != 0) == x.is_sign_negative())
            });
        }
    }
    let column = [(32, floats(F32, 29))];
    accept(m, "cvt.sat.f32.f32 %d, %a;", 32, &column, |v, got| {
        let x = f32::from_bits(v[0] as u32);
        got == u64::from(if x > 0. { x.min(1.) } else { 0. }.to_bits())
    });
    accept(m, "cvt.ftz.f64.f32 %d, %a;", 64, &column, |v, got| {
        let x = f32::from_bits(v[0] as u32);
        let x = if x.is_subnormal() { 0f32.copysign(x) } else { x };
        got == f64::from(x).to_bits() || x.is_nan() && got == nan(F64)
    });
    accept(m, "cvt.rn.satfinite.f16.f32 %d, %a;", 16, &column, |v, got| {
        let x = f32::from_bits(v[0] as u32);
        got == u64::from(if x.is_nan() {
            0x7fff
        } else {
            half::f16::from_f32(x.clamp(-65504., 65504.)).to_bits()
        })
    });
    for (mode, c) in [("rna", 'a'), ("rn", 'n'), ("rz", 'z')] {
        accept(m, &format!("cvt.{mode}.tf32.f32 %d, %a;"), 32, &column, |v, got| {
            let x = f32::from_bits(v[0] as u32);
            if !x.is_finite() || x == 0. {
                return got == if x.is_nan() { 0x7fff_ffff } else { v[0] };
            }
            got & 0x1fff == 0 && TF32.accepts(got >> 13, &Real::Value(Exact::of(x.into())), c, false)
        });
    }
}

#[test]
fn packed() {
    let m = &mut machine();
    let (mut a, mut b) = (floats(F32, 41), floats(F32, 42));
    // Every f16 and the midpoints between them, so that each 8-bit number's borders are met.
    for h in 0..0x1_0000u32 {
        let x = formats::f16_to_f32(h).to_bits();
        a.push(u64::from(x));
        b.push(u64::from(x.wrapping_add(h * 2_654_435_761 >> 31 | 0x1000 * (h & 1))));
    }
    let columns = [(32, a), (32, b)];
    let kinds: [(&str, Shape, Format); 4] = [
        ("f16x2", F16, formats::F16),
        ("bf16x2", BF16, formats::BF16),
        ("e4m3x2", E4M3, formats::E4M3),
        ("e5m2x2", E5M2, formats::E5M2),
    ];
    for (t, s, f) in kinds {
        let eight = bits(s) == 8;
        for (mode, c) in [("rn", 'n'), ("rz", 'z')] {
            for relu in [false, true] {
                for finite in [false, true] {
                    if eight && (c == 'z' || !finite) {
                        continue;
                    }
                    let flags = format!(
                        "{}{}",
                        if finite { ".satfinite" } else { "" },
                        if relu { ".relu" } else { "" }
                    );
                    let code = format!("cvt.{mode}{flags}.{t}.f32 %d, %a, %b;");
                    accept(m, &code, 2 * bits(s), &columns, |v, got| {
                        let one = |x: u64, got: u64| {
                            let x = f32::from_bits(x as u32);
                            let sign = u64::from(x.is_sign_negative()) << (bits(s) - 1);
                            match () {
                                () if x.is_nan() => got == u64::from(f.nan),
                                () if relu && x <= 0. => got == 0,
                                () if x.is_infinite() => got == sign | if finite { s.max } else { s.max + 1 },
                                () if x == 0. => got == sign,
                                () => s.accepts(got, &Real::Value(Exact::of(x.into())), c, finite),
                            }
                        };
                        one(v[0], got >> bits(s)) && one(v[1], got & mask(bits(s)))
                    });
                }
            }
        }
        if !eight {
            continue;
        }
        // All pairs of 8-bit numbers to f16, and all f16 back.
        let all = [(16, (0..0x1_0000u64).collect::<Vec<_>>())];
        for relu in [false, true] {
            let code = format!("cvt.rn{}.f16x2.{t} %d, %a;", if relu { ".relu" } else { "" });
            compare(m, &code, 32, &all, |v| {
                let one = |x: u64| {
                    let (e, fraction) = ((x & 0x7f) >> s.mantissa, x & mask(s.mantissa));
                    let bias = (1 << (s.exponent - 1)) - 1;
                    let magnitude = match e {
                        _ if x & 0x7f == s.max + 1 && s.exponent == 5 => f64::INFINITY,
                        _ if x & 0x7f > s.max => return 0x7fff,
                        0 => fraction as f64 * 2f64.powi(1 - bias - s.mantissa as i32),
                        _ => {
                            (fraction + (1 << s.mantissa)) as f64
                                * 2f64.powi(e as i32 - bias - s.mantissa as i32)
                        }
                    };
                    let x = if x & 0x80 != 0 { -magnitude } else { magnitude };
                    u64::from(half::f16::from_f64(if relu && x <= 0. { 0. } else { x }).to_bits())
                };
                one(v[0] & 0xff) | one(v[0] >> 8) << 16
            });
        }
        let pairs = [(32, (0..0x1_0000u64).map(|x| x | (x ^ 0x5a5a) << 16).collect::<Vec<_>>())];
        accept(m, &format!("cvt.rn.satfinite.{t}.f16x2 %d, %a;"), 16, &pairs, |v, got| {
            let one = |x: u64, got: u64| {
                let v = value(F16, x);
                if v.is_nan() {
                    return got == u64::from(f.nan);
                }
                let sign = x >> 15 << 7;
                match () {
                    () if v == 0. => got == sign,
                    () if v.is_infinite() => got == sign | s.max,
                    () => s.accepts(got, &Real::Value(Exact::of(v)), 'n', true),
                }
            };
            one(v[0] & 0xffff, got & 0xff) && one(v[0] >> 16, got >> 8)
        });
    }
}

#[test]
fn packs_of_integers() {
    let m = &mut machine();
    let one = |x: u64, b: u32, signed: bool| {
        let (low, high) = limits(b, signed);
        extend(x, 32, true).clamp(low, high) as u64 & mask(b)
    };
    for (t, b, signed) in [("u16", 16, false), ("s16", 16, true)] {
        check_bits(m, &format!("cvt.pack.sat.{t}.s32 %d, %a, %b;"), 32, &[32; 2], |v| {
            one(v[0], b, signed) << 16 | one(v[1], b, signed)
        });
    }
    for (t, b, signed) in [
        ("u8", 8, false),
        ("s8", 8, true),
        ("u4", 4, false),
        ("s4", 4, true),
        ("u2", 2, false),
        ("s2", 2, true),
    ] {
        check_bits(m, &format!("cvt.pack.sat.{t}.s32.b32 %d, %a, %b, %c;"), 32, &[32; 3], |v| {
            (v[2] << (2 * b) | one(v[0], b, signed) << b | one(v[1], b, signed)) & mask(32)
        });
    }
}

#[test]
fn wide_sources_round_once() {
    // Values that a detour through f32 would round twice.
    let m = &mut machine();
    let x: Vec<u64> = (0..2000u64)
        .map(|n| (1.0 + 2f64.powi(-11) + 2f64.powi(-40 - (n % 12) as i32) * n as f64).to_bits())
        .collect();
    compare(m, "cvt.rn.f16.f64 %d, %a;", 16, &[(64, x)], |v| {
        formats::F16.narrow(f64::from_bits(v[0]), Round::Nearest, false).into()
    });
    compare(
        m,
        "cvt.rn.f16.f64 %d, %a;",
        16,
        &[(64, vec![(1.0 + 2f64.powi(-11) + 2f64.powi(-45)).to_bits()])],
        |_| 0x3c01,
    );
}
