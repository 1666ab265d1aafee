//! Video instructions against the ISA's definitions, over integers without bounds.

use crate::alu::{check_bits, machine};

fn part(x: u64, bits: u32, at: u32, signed: bool) -> i128 {
    let v = i128::from(x >> at & ((1 << bits) - 1));
    if signed && v >> (bits - 1) == 1 { v - (1 << bits) } else { v }
}
fn clamp(x: i128, bits: u32, signed: bool) -> i128 {
    let low = if signed { -(1i128 << (bits - 1)) } else { 0 };
    x.clamp(low, low + (1 << bits) - 1)
}
fn two(op: &str, a: i128, b: i128) -> i128 {
    match op {
        "vadd" | "add" => a + b,
        "vsub" => a - b,
        "vabsdiff" => (a - b).abs(),
        "vmin" | "min" => a.min(b),
        "vmax" | "max" => a.max(b),
        "vavrg" if a + b >= 0 => (a + b + 1).div_euclid(2),
        "vavrg" => (a + b).div_euclid(2),
        "eq" => i128::from(a == b),
        "ne" => i128::from(a != b),
        "lt" => i128::from(a < b),
        "le" => i128::from(a <= b),
        "gt" => i128::from(a > b),
        "ge" => i128::from(a >= b),
        _ => panic!("{op}"),
    }
}
const TYPES: [&str; 2] = ["u32", "s32"];
const PARTS: [(&str, u32, u32); 7] = [
    ("", 32, 0),
    (".b0", 8, 0),
    (".b1", 8, 8),
    (".b2", 8, 16),
    (".b3", 8, 24),
    (".h0", 16, 0),
    (".h1", 16, 16),
];
const COMPARISONS: [&str; 6] = ["eq", "ne", "lt", "le", "gt", "ge"];

#[test]
fn scalar() {
    let m = &mut machine();
    let mut n = 0;
    for op in ["vadd", "vsub", "vabsdiff", "vmin", "vmax"] {
        for ((td, ta), tb) in
            TYPES.iter().flat_map(|d| TYPES.iter().map(move |a| (d, a))).flat_map(|x| TYPES.map(|b| (x, b)))
        {
            for sat in ["", ".sat"] {
                let [(pa, ba, xa), (pb, bb, xb)] = [PARTS[n % 7], PARTS[n / 3 % 7]];
                let (pd, bd, xd) = PARTS[n / 2 % 7];
                n += 1;
                let (sd, sa, sb) = (*td == "s32", *ta == "s32", tb == "s32");
                let first = move |v: &[u64], bits: u32| {
                    let t = two(op, part(v[0], ba, xa, sa), part(v[1], bb, xb, sb));
                    if sat == ".sat" { clamp(t, bits, sd) } else { t }
                };
                let head = format!("{op}.{td}.{ta}.{tb}{sat}");
                let code = format!("{head} %d, %a{pa}, %b{pb};");
                check_bits(m, &code, 32, &[32, 32], |v| first(v, 32) as u32 as u64);
                for second in ["add", "min", "max"] {
                    let code = format!("{head}.{second} %d, %a{pa}, %b{pb}, %c;");
                    check_bits(m, &code, 32, &[32, 32, 32], |v| {
                        let t = part(first(v, 32) as u32 as u64, 32, 0, sd);
                        two(second, t, part(v[2], 32, 0, sd)) as u32 as u64
                    });
                }
                if !pd.is_empty() {
                    let code = format!("{head} %d{pd}, %a{pa}, %b{pb}, %c;");
                    let mask = ((1u64 << bd) - 1) << xd;
                    check_bits(m, &code, 32, &[32, 32, 32], |v| {
                        v[2] & !mask | ((first(v, bd) as u64) << xd) & mask
                    });
                }
            }
        }
    }
}

#[test]
fn shifts_products_comparisons() {
    let m = &mut machine();
    for (op, ta, mode, sat) in [
        ("vshl", "u32", "clamp", ""),
        ("vshl", "s32", "wrap", ".sat"),
        ("vshr", "u32", "wrap", ""),
        ("vshr", "s32", "clamp", ""),
        ("vshr", "s32", "wrap", ".sat"),
        ("vshl", "u32", "clamp", ".sat"),
    ] {
        let code = format!("{op}.{ta}.{ta}.u32{sat}.{mode} %d, %a, %b.b1;");
        check_bits(m, &code, 32, &[32, 32], |v| {
            let (a, b) = (part(v[0], 32, 0, ta == "s32"), v[1] >> 8 & 255);
            let by = if mode == "clamp" { b.min(32) } else { b & 31 };
            let t = if op == "vshl" { a << by } else { a >> by };
            (if sat.is_empty() { t } else { clamp(t, 32, ta == "s32") }) as u32 as u64
        });
    }
    for (td, ta, tb) in
        [("u32", "u32", "u32"), ("s32", "s32", "u32"), ("s32", "u32", "s32"), ("s32", "s32", "s32")]
    {
        for (word, by, one, sat) in [
            ("", 0, 0, false),
            (".sat.shr7", 7, 0, true),
            (".shr15", 15, 0, false),
            (".po", 0, 1, false),
            (".sat", 0, 0, true),
        ] {
            let code = format!("vmad.{td}.{ta}.{tb}{word} %d, %a, %b.h1, %c;");
            check_bits(m, &code, 32, &[32, 32, 32], |v| {
                let (a, b) = (part(v[0], 32, 0, ta == "s32"), part(v[1], 16, 16, tb == "s32"));
                let t = (a * b + part(v[2], 32, 0, td == "s32") + one) >> by;
                (if sat { clamp(t, 32, td == "s32") } else { t }) as u32 as u64
            });
        }
    }
    for op in COMPARISONS {
        for (ta, tb) in [("u32", "u32"), ("s32", "u32"), ("u32", "s32"), ("s32", "s32")] {
            let test = move |v: &[u64]| {
                two(op, part(v[0], 8, 16, ta == "s32"), part(v[1], 32, 0, tb == "s32")) as u64
            };
            check_bits(m, &format!("vset.{ta}.{tb}.{op} %d, %a.b2, %b;"), 32, &[32, 32], test);
            check_bits(m, &format!("vset.{ta}.{tb}.{op}.add %d, %a.b2, %b, %c;"), 32, &[32, 32, 32], |v| {
                (v[2] + test(v)) & 0xffff_ffff
            });
            check_bits(m, &format!("vset.{ta}.{tb}.{op} %d.b1, %a.b2, %b, %c;"), 32, &[32, 32, 32], |v| {
                v[2] & !0xff00 | test(v) << 8
            });
        }
    }
}

/// Pairs and fours, with elements chosen from both sources in all sorts of orders and some of the results kept.
#[test]
fn simd() {
    let m = &mut machine();
    for (n, letter, masks, choices) in [
        (2u32, "h", ["", "0", "1", "10"], ["", "32", "01", "20"]),
        (4, "b", ["", "2", "310", "3210"], ["", "7654", "0246", "7003"]),
    ] {
        let bits = 32 / n;
        let mut turn = 0;
        for op in ["vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax"].into_iter().chain(COMPARISONS) {
            for (td, ta, tb) in
                [("u32", "u32", "u32"), ("s32", "s32", "s32"), ("u32", "s32", "u32"), ("s32", "u32", "s32")]
            {
                for last in ["", ".sat", ".add"] {
                    let set = COMPARISONS.contains(&op);
                    if set && last == ".sat" {
                        continue;
                    }
                    let (mask, ka, kb) = (masks[turn % 4], choices[turn / 2 % 4], choices[turn / 3 % 4]);
                    turn += 1;
                    let suffix = |t: &str| if t.is_empty() { String::new() } else { format!(".{letter}{t}") };
                    let head = if set {
                        format!("vset{n}.{ta}.{tb}.{op}")
                    } else {
                        format!("{op}{n}.{td}.{ta}.{tb}")
                    };
                    let code =
                        format!("{head}{last} %d{}, %a{}, %b{}, %c;", suffix(mask), suffix(ka), suffix(kb));
                    let digit = |text: &str, default: u32, k: u32| match text {
                        "" => default + k,
                        t => t.as_bytes()[(n - 1 - k) as usize] as u32 - 48,
                    };
                    check_bits(m, &code, 32, &[32, 32, 32], |v| {
                        let both = v[1] << 32 | v[0];
                        let mut r = v[2];
                        for k in (0..n).filter(|k| mask.is_empty() || mask.contains(&k.to_string())) {
                            let a = part(both, bits, digit(ka, 0, k) * bits, ta == "s32");
                            let b = part(both, bits, digit(kb, n, k) * bits, tb == "s32");
                            let t = two(op, a, b);
                            let t = if last == ".sat" { clamp(t, bits, td == "s32") } else { t };
                            let field = ((1u64 << bits) - 1) << (k * bits);
                            r = if last == ".add" {
                                (r as u32).wrapping_add(t as u32).into()
                            } else {
                                r & !field | ((t as u64) << (k * bits)) & field
                            };
                        }
                        r
                    });
                }
            }
        }
    }
}
