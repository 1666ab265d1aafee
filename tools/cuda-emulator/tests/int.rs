//! Integer instructions against 128-bit arithmetic and bit-by-bit definitions.

use crate::alu::{WIDE, check, check_bits, extend, machine, mask};

fn limits(bits: u32, signed: bool) -> (i128, i128) {
    if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

#[test]
fn sums_products_and_quotients() {
    let m = &mut machine();
    for (t, b, s) in WIDE.iter().copied() {
        let (low, high) = limits(b, s);
        let two = &[b, b];
        check(m, &format!("add.{t} %d, %a, %b;"), b, two, s, |v| v[0] + v[1]);
        check(m, &format!("sub.{t} %d, %a, %b;"), b, two, s, |v| v[0] - v[1]);
        check(m, &format!("mul.lo.{t} %d, %a, %b;"), b, two, s, |v| v[0].wrapping_mul(v[1]));
        check(m, &format!("mul.hi.{t} %d, %a, %b;"), b, two, s, |v| high_of(v[0], v[1], b, s));
        check(m, &format!("mad.lo.{t} %d, %a, %b, %c;"), b, &[b, b, b], s, |v| {
            v[0].wrapping_mul(v[1]).wrapping_add(v[2])
        });
        check(m, &format!("mad.hi.{t} %d, %a, %b, %c;"), b, &[b, b, b], s, |v| {
            high_of(v[0], v[1], b, s) + v[2]
        });
        check(m, &format!("min.{t} %d, %a, %b;"), b, two, s, |v| v[0].min(v[1]));
        check(m, &format!("max.{t} %d, %a, %b;"), b, two, s, |v| v[0].max(v[1]));
        check(m, &format!("sad.{t} %d, %a, %b, %c;"), b, &[b, b, b], s, |v| v[2] + (v[0] - v[1]).abs());
        check(m, &format!("div.{t} %d, %a, %b;"), b, two, s, |v| if v[1] == 0 { -1 } else { v[0] / v[1] });
        check(m, &format!("rem.{t} %d, %a, %b;"), b, two, s, |v| if v[1] == 0 { v[0] } else { v[0] % v[1] });
        if b < 64 {
            let wide = &[b, b, 2 * b];
            check(m, &format!("mul.wide.{t} %d, %a, %b;"), 2 * b, two, s, |v| v[0] * v[1]);
            check(m, &format!("mad.wide.{t} %d, %a, %b, %c;"), 2 * b, wide, s, |v| v[0] * v[1] + v[2]);
        }
        if s {
            check(m, &format!("abs.{t} %d, %a;"), b, &[b], s, |v| v[0].abs());
            check(m, &format!("neg.{t} %d, %a;"), b, &[b], s, |v| -v[0]);
        }
        if t == "s32" {
            let clamp = |x: i128| x.clamp(low, high);
            check(m, "add.sat.s32 %d, %a, %b;", b, two, s, |v| clamp(v[0] + v[1]));
            check(m, "sub.sat.s32 %d, %a, %b;", b, two, s, |v| clamp(v[0] - v[1]));
            check(m, "mad.hi.sat.s32 %d, %a, %b, %c;", b, &[b, b, b], s, |v| {
                clamp((v[0] * v[1] >> 32) + v[2])
            });
            check(m, "min.relu.s32 %d, %a, %b;", b, two, s, |v| v[0].min(v[1]).max(0));
            check(m, "max.relu.s32 %d, %a, %b;", b, two, s, |v| v[0].max(v[1]).max(0));
        }
        if b == 32 {
            let low24 = |x: i128| extend(x as u64 & 0xff_ffff, 24, s);
            let three = &[b, b, b];
            check(m, &format!("mul24.lo.{t} %d, %a, %b;"), b, two, s, |v| low24(v[0]) * low24(v[1]));
            check(m, &format!("mul24.hi.{t} %d, %a, %b;"), b, two, s, |v| low24(v[0]) * low24(v[1]) >> 16);
            check(m, &format!("mad24.lo.{t} %d, %a, %b, %c;"), b, three, s, |v| {
                low24(v[0]) * low24(v[1]) + v[2]
            });
            check(m, &format!("mad24.hi.{t} %d, %a, %b, %c;"), b, three, s, |v| {
                (low24(v[0]) * low24(v[1]) >> 16) + v[2]
            });
        }
    }
}
/// The upper half of a product, by parts that fit.
fn high_of(a: i128, b: i128, bits: u32, signed: bool) -> i128 {
    if bits < 64 {
        return a * b >> bits;
    }
    let (low, rest) = (b & 0xffff_ffff, b >> 32);
    let middle = a * rest + (a * low >> 32);
    if signed { middle >> 32 } else { ((middle as u128) >> 32) as i128 }
}

#[test]
fn pairs_of_halves() {
    let m = &mut machine();
    type Op = fn(i128, i128) -> i128;
    let ops: [(&str, bool, Op); 8] = [
        ("add.u16x2", false, |a, b| a + b),
        ("add.s16x2", true, |a, b| a + b),
        ("min.u16x2", false, i128::min),
        ("max.u16x2", false, i128::max),
        ("min.s16x2", true, i128::min),
        ("max.s16x2", true, i128::max),
        ("min.relu.s16x2", true, |a, b| a.min(b).max(0)),
        ("max.relu.s16x2", true, |a, b| a.max(b).max(0)),
    ];
    for (op, signed, f) in ops {
        check_bits(m, &format!("{op} %d, %a, %b;"), 32, &[32, 32], |v| {
            let half = |by: u32| {
                f(extend(v[0] >> by & 0xffff, 16, signed), extend(v[1] >> by & 0xffff, 16, signed)) as u64
                    & 0xffff
            };
            half(0) | half(16) << 16
        });
    }
}

#[test]
fn carries() {
    let m = &mut machine();
    // 64-bit results through 32-bit instructions, and 128-bit ones through 64-bit instructions.
    let parts = "mov.b64 {%t0, %t1}, %a; mov.b64 {%t2, %t3}, %b; mov.b64 {%t4, %t5}, %c;";
    let whole = "mov.b64 %d, {%t6, %t7};";
    check_bits(
        m,
        &format!("{parts} add.cc.u32 %t6, %t0, %t2; addc.u32 %t7, %t1, %t3; {whole}"),
        64,
        &[64; 3],
        |v| v[0].wrapping_add(v[1]),
    );
    check_bits(
        m,
        &format!("{parts} sub.cc.u32 %t6, %t0, %t2; subc.s32 %t7, %t1, %t3; {whole}"),
        64,
        &[64; 3],
        |v| v[0].wrapping_sub(v[1]),
    );
    let mad = "mad.lo.cc.u32 %t6, %t0, %t2, %t4; madc.hi.u32 %t7, %t0, %t2, %t5;";
    check_bits(m, &format!("{parts} {mad} {whole}"), 64, &[64; 3], |v| {
        (v[0] & mask(32)).wrapping_mul(v[1] & mask(32)).wrapping_add(v[2])
    });
    let chain = "add.cc.u64 %u0, %a, %b; addc.cc.u64 %u1, %b, %c; addc.u64 %d, 0, 0;";
    check_bits(m, chain, 64, &[64; 3], |v| {
        let low = u128::from(v[0]) + u128::from(v[1]) >> 64;
        (u128::from(v[1]) + u128::from(v[2]) + low >> 64) as u64
    });
    let chain = "sub.cc.s64 %u0, %a, %b; subc.cc.s64 %u1, %b, %c; subc.s64 %d, 0, 0;";
    check_bits(m, chain, 64, &[64; 3], |v| {
        let low = i128::from(v[0] < v[1]);
        if i128::from(v[1]) - i128::from(v[2]) - low < 0 { !0 } else { 0 }
    });
    // Between additions and subtractions the flag is a carry: one of a + ~b + 1.
    check_bits(m, "sub.cc.u32 %t0, %a, %b; addc.u32 %d, 0, 0;", 32, &[32; 2], |v| u64::from(v[0] >= v[1]));
    check_bits(m, "add.cc.u32 %t0, %a, %b; subc.u32 %d, 5, 3;", 32, &[32; 2], |v| 1 + (v[0] + v[1] >> 32));
    // A lane that does not take part keeps its carry.
    let guarded =
        "add.cc.u32 %t0, 0xffffffff, 1; setp.eq.u32 %p, %a, 3; @%p add.cc.u32 %t0, 1, 1; addc.u32 %d, 0, 0;";
    check_bits(m, guarded, 32, &[32], |v| u64::from(v[0] != 3));
}

#[test]
fn dot_products() {
    let m = &mut machine();
    for (a, sa) in [("u32", false), ("s32", true)] {
        for (b, sb) in [("u32", false), ("s32", true)] {
            let byte = |x: u64, n: u32, s: bool| extend(x >> (8 * n) & 0xff, 8, s);
            let half = |x: u64, n: u32, s: bool| extend(x >> (16 * n) & 0xffff, 16, s);
            check_bits(m, &format!("dp4a.{a}.{b} %d, %a, %b, %c;"), 32, &[32; 3], |v| {
                (0..4).map(|n| byte(v[0], n, sa) * byte(v[1], n, sb)).sum::<i128>().wrapping_add(v[2].into())
                    as u64
                    & mask(32)
            });
            for (part, first) in [("lo", 0), ("hi", 2)] {
                check_bits(m, &format!("dp2a.{part}.{a}.{b} %d, %a, %b, %c;"), 32, &[32; 3], |v| {
                    let sum: i128 = (0..2).map(|n| half(v[0], n, sa) * byte(v[1], first + n, sb)).sum();
                    sum.wrapping_add(v[2].into()) as u64 & mask(32)
                });
            }
        }
    }
}

/// Bits of a number, low first.
fn bits(x: u64, n: u32) -> Vec<bool> {
    (0..n).map(|i| x >> i & 1 == 1).collect()
}
fn number(b: &[bool]) -> u64 {
    b.iter().rev().fold(0, |x, &b| x << 1 | u64::from(b))
}

#[test]
fn logic_and_shifts() {
    let m = &mut machine();
    for n in [16, 32, 64] {
        check_bits(m, &format!("and.b{n} %d, %a, %b;"), n, &[n, n], |v| v[0] & v[1]);
        check_bits(m, &format!("or.b{n} %d, %a, %b;"), n, &[n, n], |v| v[0] | v[1]);
        check_bits(m, &format!("xor.b{n} %d, %a, %b;"), n, &[n, n], |v| v[0] ^ v[1]);
        check_bits(m, &format!("not.b{n} %d, %a;"), n, &[n], |v| v[0] ^ mask(n));
        check_bits(m, &format!("cnot.b{n} %d, %a;"), n, &[n], |v| u64::from(v[0] == 0));
        let by = "and.b32 %t0, %b, 127;";
        for by in ["mov.b32 %t0, %b;", by] {
            let count = |x: u64| if by.starts_with("and") { x & 127 } else { x }.min(127) as usize;
            let moved = |v: &[u64], fill: bool, left: bool| {
                let (b, k) = (bits(v[0], n), count(v[1]));
                let at = |i: usize| if left { i.checked_sub(k) } else { Some(i + k) };
                number(
                    &(0..n as usize)
                        .map(|i| at(i).is_some_and(|j| b.get(j).copied().unwrap_or(fill)))
                        .collect::<Vec<_>>(),
                )
            };
            check_bits(m, &format!("{by} shl.b{n} %d, %a, %t0;"), n, &[n, 32], |v| moved(v, false, true));
            check_bits(m, &format!("{by} shr.u{n} %d, %a, %t0;"), n, &[n, 32], |v| moved(v, false, false));
            check_bits(m, &format!("{by} shr.s{n} %d, %a, %t0;"), n, &[n, 32], |v| {
                moved(v, v[0] >> (n - 1) == 1, false)
            });
        }
    }
    for (mode, wrap) in [("clamp", false), ("wrap", true)] {
        let count = |c: u64| if wrap { c % 32 } else { c.min(32) } as u32;
        let whole = |v: &[u64]| u128::from(v[1]) << 32 | u128::from(v[0]);
        check_bits(
            m,
            &format!("and.b32 %t0, %c, 63; shf.l.{mode}.b32 %d, %a, %b, %t0;"),
            32,
            &[32; 3],
            |v| (whole(v) << count(v[2] & 63) >> 32) as u64 & mask(32),
        );
        check_bits(
            m,
            &format!("and.b32 %t0, %c, 63; shf.r.{mode}.b32 %d, %a, %b, %t0;"),
            32,
            &[32; 3],
            |v| (whole(v) >> count(v[2] & 63)) as u64 & mask(32),
        );
        check_bits(
            m,
            &format!("and.b32 %t0, %a, 63; and.b32 %t1, %b, 63; bmsk.{mode}.b32 %d, %t0, %t1;"),
            32,
            &[32; 2],
            |v| {
                let (at, width) = (v[0] & 63, v[1] & 63);
                let (at, width) = if wrap { (at % 32, width % 32) } else { (at, width) };
                (0..32).filter(|i| (at..at + width).contains(i)).fold(0, |x, i| x | 1 << i)
            },
        );
        for signed in [false, true] {
            let t = if signed { "s32" } else { "u32" };
            check_bits(
                m,
                &format!("and.b32 %t1, %b, 63; szext.{mode}.{t} %d, %a, %t1;"),
                32,
                &[32; 2],
                |v| {
                    let width = if wrap { (v[1] & 63) % 32 } else { (v[1] & 63).min(32) } as u32;
                    if width == 0 { 0 } else { extend(v[0] & mask(width), width, signed) as u64 & mask(32) }
                },
            );
        }
    }
    for table in 0..256u64 {
        check_bits(m, &format!("lop3.b32 %d, %a, %b, %c, {table};"), 32, &[32; 3], |v| {
            (0..32)
                .map(|i| (table >> ((v[0] >> i & 1) << 2 | (v[1] >> i & 1) << 1 | v[2] >> i & 1) & 1) << i)
                .sum()
        });
    }
    let lop = "setp.lt.u32 %q, %a, %b; lop3.or.b32 %t0|%p, %a, %b, %c, 0x80, %q; selp.b32 %d, 1, 0, %p;";
    check_bits(m, lop, 32, &[32; 3], |v| u64::from(v[0] & v[1] & v[2] != 0 || v[0] < v[1]));
    let lop = "setp.lt.u32 %q, %a, %b; lop3.and.b32 %t0|%p, %a, %b, %c, 0x80, %q; selp.b32 %d, %t0, 0, %p;";
    check_bits(m, lop, 32, &[32; 3], |v| if v[0] < v[1] { v[0] & v[1] & v[2] } else { 0 });
    let preds = "setp.lt.u32 %p, %a, %b; setp.lt.u32 %q, %b, %c; xor.pred %p, %p, %q; not.pred %q, %q; \
                 or.pred %p, %p, %q; selp.b32 %d, 1, 0, %p;";
    check_bits(m, preds, 32, &[32; 3], |v| u64::from((v[0] < v[1]) ^ (v[1] < v[2]) || v[1] >= v[2]));
}

#[test]
fn bit_fields() {
    let m = &mut machine();
    for n in [32u32, 64] {
        check_bits(m, &format!("popc.b{n} %d, %a;"), 32, &[n], |v| {
            bits(v[0], n).iter().filter(|b| **b).count() as u64
        });
        check_bits(m, &format!("clz.b{n} %d, %a;"), 32, &[n], |v| {
            bits(v[0], n).iter().rev().take_while(|b| !**b).count() as u64
        });
        check_bits(m, &format!("brev.b{n} %d, %a;"), n, &[n], |v| {
            let mut b = bits(v[0], n);
            b.reverse();
            number(&b)
        });
        for signed in [false, true] {
            let t = format!("{}{n}", if signed { 's' } else { 'u' });
            let top = |v: &[u64]| {
                let b = bits(v[0], n);
                b.iter().rposition(|&x| x != (signed && b[n as usize - 1])).map(|p| p as u64)
            };
            check_bits(m, &format!("bfind.{t} %d, %a;"), 32, &[n], |v| top(v).unwrap_or(mask(32)));
            check_bits(m, &format!("bfind.shiftamt.{t} %d, %a;"), 32, &[n], |v| {
                top(v).map_or(mask(32), |p| u64::from(n) - 1 - p)
            });
            let small = "and.b32 %t0, %b, 0x7f; and.b32 %t1, %c, 0x7f;";
            for prefix in ["mov.b32 %t0, %b; mov.b32 %t1, %c;", small] {
                let cut = if prefix == small { 0x7f } else { 0xff };
                check_bits(m, &format!("{prefix} bfe.{t} %d, %a, %t0, %t1;"), n, &[n, 32, 32], |v| {
                    let (b, pos, len) = (bits(v[0], n), (v[1] & cut) as usize, (v[2] & cut) as usize);
                    let msb = n as usize - 1;
                    let sign = signed && len > 0 && b[(pos + len - 1).min(msb)];
                    number(
                        &(0..=msb)
                            .map(|i| if i < len && pos + i <= msb { b[pos + i] } else { sign })
                            .collect::<Vec<_>>(),
                    )
                });
            }
        }
        let code = format!("and.b32 %t0, %c, 0x7f; and.b32 %t1, %e, 0x7f; bfi.b{n} %d, %a, %b, %t0, %t1;");
        check_bits(m, &code, n, &[n, n, 32, 32], |v| {
            let (a, mut f) = (bits(v[0], n), bits(v[1], n));
            let (pos, len) = ((v[2] & 0x7f) as usize, (v[3] & 0x7f) as usize);
            for i in (0..len).take_while(|i| pos + i < n as usize) {
                f[pos + i] = a[i];
            }
            number(&f)
        });
    }
    let code = "and.b32 %t0, %b, 31; and.b32 %t1, %c, 15; sub.s32 %t1, %t1, 8; fns.b32 %d, %a, %t0, %t1;";
    check_bits(m, code, 32, &[32; 3], |v| {
        let (base, offset) = ((v[1] & 31) as usize, (v[2] & 15) as i64 - 8);
        let set: Vec<usize> = (0..32).filter(|i| v[0] >> i & 1 == 1).collect();
        let found = match offset {
            0 => set.iter().find(|&&i| i == base),
            1.. => set.iter().filter(|&&i| i >= base).nth(offset as usize - 1),
            _ => set.iter().rev().filter(|&&i| i <= base).nth(-offset as usize - 1),
        };
        found.map_or(mask(32), |&i| i as u64)
    });
    check_bits(m, "prmt.b32 %d, %a, %b, %c;", 32, &[32; 3], |v| {
        let bytes: Vec<u64> = (0..8).map(|n| v[n / 4] >> (8 * (n % 4)) & 0xff).collect();
        (0..4).map(|n| (v[2] >> (4 * n) & 15, n)).fold(0, |r, (sel, n)| {
            let byte = bytes[(sel & 7) as usize];
            r | if sel < 8 { byte } else { (byte >> 7) * 0xff } << (8 * n)
        })
    });
    // Bytes of d from the highest, by control 0 to 3, as the tables of the ISA print them.
    let modes: [(&str, [&str; 4]); 6] = [
        ("f4e", ["3210", "4321", "5432", "6543"]),
        ("b4e", ["5670", "6701", "7012", "0123"]),
        ("rc8", ["0000", "1111", "2222", "3333"]),
        ("ecl", ["3210", "3211", "3222", "3333"]),
        ("ecr", ["0000", "1110", "2210", "3210"]),
        ("rc16", ["1010", "3232", "1010", "3232"]),
    ];
    for (mode, rows) in modes {
        check_bits(m, &format!("prmt.b32.{mode} %d, %a, %b, %c;"), 32, &[32; 3], |v| {
            let picks = rows[(v[2] & 3) as usize].bytes().map(|c| usize::from(c - b'0'));
            picks.fold(0, |r, n| r << 8 | v[n / 4] >> (8 * (n % 4)) & 0xff)
        });
    }
}
