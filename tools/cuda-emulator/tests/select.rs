//! Comparison, selection, moves and addresses.

use crate::alu::{WIDE, check_bits, compare, extend, machine, mask};
use crate::exact::{BF16, F16, F32, F64, Rng, Shape};
use inp_cuda_emulator::exec::ops::formats;
use inp_cuda_emulator::options::Options;
use inp_cuda_emulator::run::Machine;
use std::cmp::Ordering;

/// Whether a comparison holds of an outcome (`None`: unordered).
fn holds(op: &str, o: Option<Ordering>) -> bool {
    let ordered = |op: &str, o: Ordering| match op {
        "eq" => o.is_eq(),
        "ne" => o.is_ne(),
        "lt" | "lo" => o.is_lt(),
        "le" | "ls" => o.is_le(),
        "gt" | "hi" => o.is_gt(),
        _ => o.is_ge(),
    };
    match (op, o) {
        ("num", o) => o.is_some(),
        ("nan", o) => o.is_none(),
        (_, Some(o)) => ordered(op.strip_suffix('u').unwrap_or(op), o),
        (_, None) => op.ends_with('u'),
    }
}
const FLOAT_OPS: [&str; 14] =
    ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

fn value(s: Shape, x: u64) -> f64 {
    match s.mantissa {
        52 => f64::from_bits(x),
        23 => f32::from_bits(x as u32).into(),
        10 => formats::F16.widen(x as u32),
        _ => formats::BF16.widen(x as u32),
    }
}
fn floats(s: Shape, seed: u64) -> Vec<(u32, Vec<u64>)> {
    let mut rng = Rng(seed);
    let bits = s.mantissa + s.exponent + 1;
    let mut one = || if rng.next().is_multiple_of(8) { mask(bits - 1) } else { rng.float(s) };
    let a: Vec<u64> = (0..2000).map(|_| one()).collect();
    let b = a.iter().enumerate().map(|(n, &x)| if n % 4 == 0 { x } else { one() }).collect();
    vec![(bits, a), (bits, b)]
}

#[test]
fn integer_comparisons() {
    let m = &mut machine();
    for (t, b, s) in WIDE.iter().copied() {
        let ops: &[&str] = if s {
            &["eq", "ne", "lt", "le", "gt", "ge"]
        } else {
            &["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"]
        };
        for op in ops {
            let is = |v: &[u64]| holds(op, extend(v[0], b, s).partial_cmp(&extend(v[1], b, s)));
            check_bits(m, &format!("setp.{op}.{t} %p, %a, %b; selp.u32 %d, 1, 0, %p;"), 32, &[b, b], |v| {
                u64::from(is(v))
            });
            check_bits(m, &format!("set.{op}.u32.{t} %d, %a, %b;"), 32, &[b, b], |v| {
                if is(v) { mask(32) } else { 0 }
            });
            check_bits(m, &format!("set.{op}.f32.{t} %d, %a, %b;"), 32, &[b, b], |v| {
                if is(v) { 0x3f80_0000 } else { 0 }
            });
            for (name, f) in [
                ("and", (|a, b| a & b) as fn(bool, bool) -> bool),
                ("or", |a, b| a | b),
                ("xor", |a, b| a ^ b),
            ] {
                let code = format!(
                    "setp.gt.u32 %p, %c, 0x7fffffff; setp.{op}.{name}.{t} %p|%q, %a, %b, !%p; \
                     selp.u32 %t0, 1, 0, %p; selp.u32 %t1, 2, 0, %q; or.b32 %d, %t0, %t1;"
                );
                check_bits(m, &code, 32, &[b, b, 32], |v| {
                    let c = v[2] <= 0x7fff_ffff;
                    u64::from(f(is(v), c)) | u64::from(f(!is(v), c)) << 1
                });
            }
        }
    }
}

#[test]
fn float_comparisons() {
    let m = &mut machine();
    for (t, s) in [("f16", F16), ("bf16", BF16), ("f32", F32), ("f64", F64)] {
        let c = floats(s, 3);
        for op in FLOAT_OPS {
            let is = |a: u64, b: u64| holds(op, value(s, a).partial_cmp(&value(s, b)));
            compare(m, &format!("setp.{op}.{t} %p, %a, %b; selp.u32 %d, 1, 0, %p;"), 32, &c, |v| {
                u64::from(is(v[0], v[1]))
            });
            compare(m, &format!("set.{op}.u32.{t} %d, %a, %b;"), 32, &c, |v| {
                if is(v[0], v[1]) { mask(32) } else { 0 }
            });
            if t == "f32" || t == "f16" {
                let flush = |x: u64| {
                    let top = 1 << (s.mantissa + s.exponent);
                    if (x & !top) >> s.mantissa == 0 { 0 } else { x }
                };
                let code = format!("setp.{op}.ftz.{t} %p, %a, %b; selp.u32 %d, 1, 0, %p;");
                compare(m, &code, 32, &c, |v| u64::from(is(flush(v[0]), flush(v[1]))));
            }
            if s.mantissa > 10 {
                continue;
            }
            let one = if t == "f16" { 0x3c00 } else { 0x3f80 };
            compare(m, &format!("set.{op}.{t}.{t} %d, %a, %b;"), 16, &c, |v| {
                if is(v[0], v[1]) { one } else { 0 }
            });
            let join =
                |n: usize| (32, (0..2000).map(|r| c[n].1[r] | c[n].1[1999 - r] << 16).collect::<Vec<u64>>());
            let pairs = [join(0), join(1)];
            for (to, yes) in [(format!("{t}x2"), one), ("u32".into(), 0xffff)] {
                compare(m, &format!("set.{op}.{to}.{t}x2 %d, %a, %b;"), 32, &pairs, |v| {
                    let half = |by: u32| if is(v[0] >> by & 0xffff, v[1] >> by & 0xffff) { yes } else { 0 };
                    half(0) | half(16) << 16
                });
            }
            let code = format!(
                "setp.{op}.{t}x2 %p|%q, %a, %b; selp.u32 %t0, 1, 0, %p; selp.u32 %t1, 2, 0, %q; or.b32 %d, %t0, %t1;"
            );
            compare(m, &code, 32, &pairs, |v| {
                let half = |by: u32| u64::from(is(v[0] >> by & 0xffff, v[1] >> by & 0xffff));
                half(0) | half(16) << 1
            });
        }
    }
}

#[test]
fn selections() {
    let m = &mut machine();
    for (n, types) in [
        (16, &["b16", "u16", "s16"][..]),
        (32, &["b32", "u32", "s32", "f32"]),
        (64, &["b64", "u64", "s64", "f64"]),
    ] {
        for t in types {
            let code = format!("setp.lt.s32 %p, %c, 0; selp.{t} %d, %a, %b, %p;");
            check_bits(m, &code, n, &[n, n, 32], |v| if v[2] >> 31 == 1 { v[0] } else { v[1] });
            check_bits(m, &format!("slct.{t}.s32 %d, %a, %b, %c;"), n, &[n, n, 32], |v| {
                v[(v[2] >> 31) as usize]
            });
            check_bits(m, &format!("slct.{t}.f32 %d, %a, %b, %c;"), n, &[n, n, 32], |v| {
                if f32::from_bits(v[2] as u32) >= 0. { v[0] } else { v[1] }
            });
        }
    }
}

#[test]
fn moves() {
    let m = &mut machine();
    check_bits(m, "mov.b32 {%h0, %h1}, %a; mov.b32 %d, {%h1, %h0};", 32, &[32], |v| {
        v[0] >> 16 | v[0] << 16 & mask(32)
    });
    check_bits(m, "mov.b64 {%t0, %t1}, %a; mov.b64 %d, {%t1, %t0};", 64, &[64], |v| v[0].rotate_left(32));
    check_bits(m, "mov.b64 {%h0, %h1, %h2, %h3}, %a; mov.b64 %d, {%h3, %h0, %h2, %h1};", 64, &[64], |v| {
        let h = |n: u32| v[0] >> (16 * n) & 0xffff;
        h(3) | h(0) << 16 | h(2) << 32 | h(1) << 48
    });
    check_bits(m, "mov.b64 {_, %t1}, %a; mov.b32 %d, %t1;", 32, &[64], |v| v[0] >> 32);
    check_bits(
        m,
        ".reg .b128 %w; mov.b128 %w, {%a, %b}; mov.b128 {%u0, %u1}, %w; sub.u64 %d, %u1, %u0;",
        64,
        &[64; 2],
        |v| v[1].wrapping_sub(v[0]),
    );
    check_bits(
        m,
        ".reg .b8 %x<4>; mov.b32 {%x0, %x1, %x2, %x3}, %a; mov.b32 %d, {%x3, %x2, %x1, %x0};",
        32,
        &[32],
        |v| (v[0] as u32).swap_bytes().into(),
    );
    check_bits(m, "mov.f64 %u0, 0d3FF0000000000000; mov.b64 %d, %u0;", 64, &[32], |_| 1f64.to_bits());
    check_bits(m, "mov.f32 %d, 0f40490FDB;", 32, &[32], |_| 0x4049_0fdb);
    check_bits(m, "mov.u32 %d, %laneid; sub.u32 %d, %d, %tid.x; and.b32 %d, %d, 31;", 32, &[32], |_| 0);
    check_bits(
        m,
        "mov.u64 %u0, %clock64; mov.u64 %u1, %clock64; setp.gt.u64 %p, %u1, %u0; selp.u32 %d, 1, 0, %p;",
        32,
        &[32],
        |_| 1,
    );
    check_bits(m, "mov.pred %q, 1; mov.pred %p, !%q; selp.u32 %d, 1, 2, %p;", 32, &[32], |_| 2);
}

#[test]
fn addresses_of_every_space() {
    let mut m = Machine::new("h100", Options::all()).expect("a device");
    let spaces = ["global", "const", "shared", "local", "param"];
    let mut text = String::from(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.global .u32 g[4] = {7, 8, 9, 10};\n.const .u32 c[4] = {3, 4, 5, 6};\n\
         .visible .entry k(.param .u64 out, .param .u32 x)\n{\n.reg .pred %p; .reg .b64 %a<8>; .reg .b32 %r<8>;\n\
         .shared .u32 s[4]; .local .u32 l[4];\n\
         ld.param.u64 %a7, [out]; mov.u32 %r7, 21; mov.u32 %r6, 42; st.shared.u32 [s+8], %r7; st.local.u32 [l+8], %r6;\n",
    );
    for (n, (space, name)) in spaces.iter().zip(["g", "c", "s", "l", "x"]).enumerate() {
        text += &format!("mov.u64 %a1, {name}; cvta.{space}.u64 %a0, %a1; cvta.to.{space}.u64 %a2, %a0;\n");
        let offset = if name == "x" { 0 } else { 8 };
        text += &format!("ld.u32 %r1, [%a0+{offset}]; ld.{space}.u32 %r2, [%a2+{offset}]; mov.u32 %r0, 0;\n");
        for (bit, other) in spaces.iter().enumerate() {
            text += &format!(
                "isspacep.{other} %p, %a0; selp.u32 %r3, {}, 0, %p; or.b32 %r0, %r0, %r3;\n",
                1 << bit
            );
        }
        text += &format!("st.global.v4.u32 [%a7+{}], {{%r0, %r1, %r2, %r2}};\n", 16 * n);
    }
    text += "ret;\n}\n";
    m.load(&text).unwrap_or_else(|e| panic!("{e}"));
    let out = m.upload(&[0u32; 20]);
    m.launch("k", 1, 1, 0, &[out.into(), 77u32.into()]).ok();
    let r = m.read::<u32>(out, 20);
    for (n, want) in [9, 5, 21, 42, 77].into_iter().enumerate() {
        assert_eq!(r[4 * n + 1..4 * n + 3], [want, want], "{}", spaces[n]);
        assert_eq!(r[4 * n], 1 << n, "{}", spaces[n]);
    }
}

#[test]
fn what_is_not_known_is_an_error() {
    let mut m = machine();
    for bad in [
        "add.f32.s64 %r, %r, %r;",
        "cvt.u8.f64.rx %r, %r;",
        "shf.l.b32 %r, %r, %r, %r;",
        "add.u32 %r, %r;",
        "frob.u32 %r, %r;",
    ] {
        let text = format!(
            ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{{\n.reg .b32 %r;\n{bad}\nret;\n}}\n"
        );
        let e = m.load(&text).expect_err(bad);
        assert!(e.line == 7 || e.what.contains("line 7"), "{bad}: {e}");
    }
}
