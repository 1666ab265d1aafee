//! mma.sync against products in f64, with the ISA's formulas for rows and columns as its text gives them; ldmatrix,
//! stmatrix, movmatrix and wmma round trips.

use inp_cuda_emulator::{options::Options, run::Machine};

/// A generator of test values.
pub struct Draw(pub u64);
impl Draw {
    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32 ^ (self.0 >> 7) as u32
    }
}

/// Header of a module and the byte offsets of the lane: `%rd1` = 8 lane, `%r1` = lane.
pub const HEAD: &str = ".version 8.8\n.target sm_90\n.address_size 64\n";

pub fn kernel(spelling: &str, counts: [usize; 4], bytes: usize) -> String {
    let (file, ty) = if bytes == 8 { ("%fd", "f64") } else { ("%r", "b32") };
    let mut text = format!(
        "{HEAD}.visible .entry k(.param .u64 d, .param .u64 a, .param .u64 b, .param .u64 c)\n{{\n\
         .reg .b32 %r<64>;\n.reg .f64 %fd<64>;\n.reg .b64 %rd<8>;\nmov.u32 %r1, %tid.x;\n"
    );
    let mut next = 10;
    let mut lists = Vec::new();
    for (n, name) in ["d", "a", "b", "c"].iter().enumerate() {
        let regs: Vec<String> = (0..counts[n]).map(|k| format!("{file}{}", next + k)).collect();
        next += counts[n];
        text += &format!(
            "ld.param.u64 %rd{n}, [{name}];\nmad.wide.u32 %rd{n}, %r1, {}, %rd{n};\n",
            counts[n] * bytes
        );
        if n > 0 {
            for (k, r) in regs.iter().enumerate() {
                text += &format!("ld.global.{ty} {r}, [%rd{n}+{}];\n", k * bytes);
            }
        }
        lists.push((n, regs));
    }
    let set = |n: usize| format!("{{{}}}", lists[n].1.join(", "));
    text += &format!("{spelling} {}, {}, {}, {};\n", set(0), set(1), set(2), set(3));
    for (k, r) in lists[0].1.iter().enumerate() {
        text += &format!("st.global.{ty} [%rd0+{}], {r};\n", k * bytes);
    }
    text + "ret;\n}\n"
}

type Place = fn(usize, usize, usize) -> (usize, usize);

/// A shape as the ISA describes it: with g = lane / 4 and t = lane % 4, row and column of element i of A, B, C.
struct Shape {
    mnk: [usize; 3],
    bits: usize,
    a: Place,
    b: Place,
    c: Place,
}
const C16: Place = |g, t, i| (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1));
const C8: Place = |g, t, i| (g, t * 2 + i);

fn shape(name: &str, bits: usize) -> Shape {
    let (mnk, a, b, c): ([usize; 3], Place, Place, Place) = match (name, bits) {
        ("m16n8k8", 16) => (
            [16, 8, 8],
            |g, t, i| (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1)),
            |g, t, i| (t * 2 + i, g),
            C16,
        ),
        ("m16n8k16", 16) => (
            [16, 8, 16],
            |g, t, i| {
                let row = if i < 2 || (4..6).contains(&i) { g } else { g + 8 };
                (row, t * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
            },
            |g, t, i| (t * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }, g),
            C16,
        ),
        ("m16n8k4", 32 | 64) => {
            ([16, 8, 4], |g, t, i| (if i == 0 { g } else { g + 8 }, t), |g, t, _| (t, g), C16)
        }
        ("m16n8k8", 32) => (
            [16, 8, 8],
            |g, t, i| (if i == 0 || i == 2 { g } else { g + 8 }, if i < 2 { t } else { t + 4 }),
            |g, t, i| (if i == 0 { t } else { t + 4 }, g),
            C16,
        ),
        ("m8n8k16", 8) => ([8, 8, 16], |g, t, i| (g, t * 4 + i), |g, t, i| (t * 4 + i, g), C8),
        ("m16n8k16", 8) => (
            [16, 8, 16],
            |g, t, i| (if i < 4 { g } else { g + 8 }, t * 4 + (i & 3)),
            |g, t, i| (t * 4 + i, g),
            C16,
        ),
        ("m16n8k32", 8) => (
            [16, 8, 32],
            |g, t, i| {
                let row = if i < 4 || (8..12).contains(&i) { g } else { g + 8 };
                (row, t * 4 + (i & 3) + if i >= 8 { 16 } else { 0 })
            },
            |g, t, i| (t * 4 + (i & 3) + if i >= 4 { 16 } else { 0 }, g),
            C16,
        ),
        ("m8n8k32", 4) => ([8, 8, 32], |g, t, i| (g, t * 8 + i), |g, t, i| (t * 8 + i, g), C8),
        ("m16n8k32", 4) => (
            [16, 8, 32],
            |g, t, i| (if i < 8 { g } else { g + 8 }, t * 8 + (i & 7)),
            |g, t, i| (t * 8 + i, g),
            C16,
        ),
        ("m16n8k64", 4) => (
            [16, 8, 64],
            |g, t, i| {
                let row = if i < 8 || (16..24).contains(&i) { g } else { g + 8 };
                (row, t * 8 + (i & 7) + if i >= 16 { 32 } else { 0 })
            },
            |g, t, i| (t * 8 + (i & 7) + if i >= 8 { 32 } else { 0 }, g),
            C16,
        ),
        ("m8n8k128", 1) => ([8, 8, 128], |g, t, i| (g, t * 32 + i), |g, t, i| (t * 32 + i, g), C8),
        ("m16n8k128", 1) => (
            [16, 8, 128],
            |g, t, i| (if i < 32 { g } else { g + 8 }, t * 32 + (i & 31)),
            |g, t, i| (t * 32 + i, g),
            C16,
        ),
        ("m16n8k256", 1) => (
            [16, 8, 256],
            |g, t, i| {
                let row = if i < 32 || (64..96).contains(&i) { g } else { g + 8 };
                (row, t * 32 + (i & 31) + if i >= 64 { 128 } else { 0 })
            },
            |g, t, i| (t * 32 + (i & 31) + if i >= 32 { 128 } else { 0 }, g),
            C16,
        ),
        ("m8n8k4", 64) => ([8, 8, 4], |g, t, _| (g, t), |g, t, _| (t, g), C8),
        ("m16n8k8", 64) => (
            [16, 8, 8],
            |g, t, i| (if i % 2 == 0 { g } else { g + 8 }, t + i / 2 * 4),
            |g, t, i| (t + i * 4, g),
            C16,
        ),
        ("m16n8k16", 64) => (
            [16, 8, 16],
            |g, t, i| (if i % 2 == 0 { g } else { g + 8 }, i / 2 * 4 + t),
            |g, t, i| (i * 4 + t, g),
            C16,
        ),
        _ => panic!("{name} with {bits} bits"),
    };
    Shape { mnk, bits, a, b, c }
}

/// A float with `exponent` and `mantissa` bits, by its definition.
fn small(x: u32, exponent: u32, mantissa: u32) -> f64 {
    let bias = (1 << (exponent - 1)) - 1;
    let sign = if x >> (exponent + mantissa) & 1 == 1 { -1. } else { 1. };
    let e = (x >> mantissa & ((1 << exponent) - 1)) as i32;
    let m = f64::from(x & ((1 << mantissa) - 1)) / f64::from(1 << mantissa);
    sign * if e == 0 { m * 2f64.powi(1 - bias) } else { (1. + m) * 2f64.powi(e - bias) }
}

pub fn value(ty: &str, x: u64) -> f64 {
    let w = x as u32;
    match ty {
        "f16" => small(w, 5, 10),
        "bf16" => f64::from(f32::from_bits(w << 16)),
        "tf32" => f64::from(f32::from_bits(w >> 13 << 13)),
        "f32" => f64::from(f32::from_bits(w)),
        "f64" => f64::from_bits(x),
        "e4m3" => small(w, 4, 3),
        "e5m2" => small(w, 5, 2),
        "s8" => f64::from(w as u8 as i8),
        "u8" | "u4" => f64::from(w),
        "s4" => f64::from(if w >= 8 { w as i32 - 16 } else { w as i32 }),
        "b1" => f64::from(w),
        "s32" => f64::from(w as i32),
        _ => panic!("{ty}"),
    }
}

/// Bits of a random element, finite.
pub fn draw(ty: &str, r: &mut Draw) -> u64 {
    let x = r.bits();
    let unit = f64::from(x) / f64::from(1u32 << 31) - 1.;
    let bits = match ty {
        "f16" if x.is_multiple_of(16) => x >> 8 & 0x83ff,
        "f16" => half::f16::from_f64(unit).to_bits().into(),
        "bf16" => half::bf16::from_f64(unit).to_bits().into(),
        "tf32" | "f32" => (unit as f32).to_bits(),
        "e4m3" => {
            if x & 0x7f == 0x7f {
                x & 0x80
            } else {
                x & 0xff
            }
        }
        "e5m2" => x & if x & 0x7c == 0x7c { 0xbb } else { 0xff },
        "s8" | "u8" => x & 0xff,
        "s4" | "u4" => x & 15,
        "b1" => x & 1,
        "s32" => x & 0xffff,
        _ => return unit.to_bits(),
    };
    bits.into()
}

fn check(spelling: &str) {
    let words: Vec<&str> = spelling.split('.').collect();
    let types: Vec<&str> = words
        .iter()
        .copied()
        .filter(|t| {
            ["f16", "bf16", "tf32", "f32", "f64", "e4m3", "e5m2", "s8", "u8", "s4", "u4", "b1", "s32"]
                .contains(t)
        })
        .collect();
    let [td, ta, tb, tc] = types[..] else { panic!("{spelling}") };
    let bits = |t: &str| match t {
        "f64" => 64,
        "tf32" | "f32" | "s32" => 32,
        "f16" | "bf16" => 16,
        "s4" | "u4" => 4,
        "b1" => 1,
        _ => 8,
    };
    let s = shape(words[3], bits(ta));
    let [m, n, k] = s.mnk;
    let r = &mut Draw(7);
    let word = if ta == "f64" { 64 } else { 32 };
    let mut matrix = |t: &str, len: usize| -> Vec<u64> { (0..len).map(|_| draw(t, r)).collect() };
    let (a, b, c) = (matrix(ta, m * k), matrix(tb, k * n), matrix(tc, m * n));
    let fragments = |x: &[u64], columns: usize, bits: usize, place: Place| -> Vec<u64> {
        let count = x.len() / 32;
        let mut out = vec![0u64; 32 * count * bits / word];
        for lane in 0..32 {
            for i in 0..count {
                let (row, column) = place(lane / 4, lane % 4, i);
                out[(lane * count + i) * bits / word] |= x[row * columns + column] << (i * bits % word);
            }
        }
        out
    };
    let fa = fragments(&a, k, s.bits, s.a);
    let fb = fragments(&b, n, s.bits, s.b);
    let fc = fragments(&c, n, bits(tc), s.c);
    let each = |x: &[u64]| x.len() / 32;
    let nd = m * n * bits(td) / word / 32;
    let ptx = kernel(spelling, [nd, each(&fa), each(&fb), each(&fc)], word / 8);
    let mut machine = Machine::new("h100", Options::all()).unwrap();
    machine.load(&ptx).unwrap_or_else(|e| panic!("{spelling}: {e}"));
    let up = |x: &[u64]| {
        if word == 64 {
            machine.upload(x)
        } else {
            machine.upload(&x.iter().map(|&x| x as u32).collect::<Vec<_>>())
        }
    };
    let d = machine.upload(&vec![0u8; 32 * nd * word / 8]);
    machine.launch("k", 1, 32, 0, &[d.into(), up(&fa).into(), up(&fb).into(), up(&fc).into()]).ok();
    let got: Vec<u64> = if word == 64 {
        machine.read::<u64>(d, 32 * nd)
    } else {
        machine.read::<u32>(d, 32 * nd).into_iter().map(u64::from).collect()
    };
    let db = bits(td);
    let count = m * n / 32;
    for lane in 0..32 {
        for i in 0..count {
            let x = got[(lane * count + i) * db / word] >> (i * db % word);
            let x = value(td, if db == 16 { x & 0xffff } else { x });
            let (row, column) = (s.c)(lane / 4, lane % 4, i);
            let mut want = value(tc, c[row * n + column]);
            let mut size = want.abs();
            for d in 0..k {
                let (p, q) = (a[row * k + d], b[d * n + column]);
                let t = match (spelling.contains("xor"), spelling.contains("and")) {
                    (true, _) => (p ^ q) as f64,
                    (_, true) => (p & q) as f64,
                    _ => value(ta, p) * value(tb, q),
                };
                want += t;
                size += t.abs();
            }
            if td == "f16" && want.abs() > 65504. {
                want = want.clamp(-65536., 65536.);
            }
            let tolerance = match td {
                "f16" => want.abs() / 2048. + size * 1e-6,
                "f32" => size * 1e-6,
                "f64" => size * 1e-15,
                _ => 0.,
            };
            assert!((x - want).abs() <= tolerance, "{spelling} ({row}, {column}): {x}, not {want}");
        }
    }
}

#[test]
fn products_agree_with_f64() {
    let head = "mma.sync.aligned";
    for (shapes, types) in [
        ("m16n8k8 m16n8k16", "f32.f16.f16.f32 f16.f16.f16.f16 f32.bf16.bf16.f32"),
        ("m16n8k4 m16n8k8", "f32.tf32.tf32.f32"),
        (
            "m16n8k16 m16n8k32",
            "f32.e4m3.e4m3.f32 f32.e4m3.e5m2.f32 f32.e5m2.e4m3.f32 f32.e5m2.e5m2.f32 f16.e5m2.e4m3.f16",
        ),
        (
            "m8n8k16 m16n8k16 m16n8k32",
            "s32.s8.s8.s32 s32.s8.u8.s32 s32.u8.s8.s32 s32.u8.u8.s32 satfinite.s32.s8.u8.s32",
        ),
        ("m8n8k32 m16n8k32 m16n8k64", "s32.s4.s4.s32 s32.s4.u4.s32 s32.u4.s4.s32 s32.u4.u4.s32"),
        ("m8n8k128 m16n8k128 m16n8k256", "s32.b1.b1.s32.xor.popc s32.b1.b1.s32.and.popc"),
        ("m8n8k4 m16n8k4 m16n8k8 m16n8k16", "f64.f64.f64.f64"),
    ] {
        for shape in shapes.split(' ') {
            for ty in types.split(' ') {
                check(&format!("{head}.{shape}.row.col.{ty}"));
            }
        }
    }
}

pub fn run(body: &str, input: &[u32], outputs: usize) -> Vec<u32> {
    let text = format!(
        "{HEAD}.visible .entry k(.param .u64 d, .param .u64 a)\n{{\n.reg .b32 %r<64>;\n.reg .f32 %f<64>;\n\
         .reg .b64 %rd<8>;\n.shared .align 16 .b8 s[4096];\nmov.u32 %r1, %tid.x;\nld.param.u64 %rd1, [d];\n\
         ld.param.u64 %rd2, [a];\n{body}\nret;\n}}\n"
    );
    let mut m = Machine::new("h100", Options::all()).unwrap();
    m.load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let (a, d) = (m.upload(input), m.upload(&vec![0u32; outputs]));
    m.launch("k", 1, 32, 0, &[d.into(), a.into()]).ok();
    m.read(d, outputs)
}

/// Four 8×8 matrices of 16-bit elements whose element (row, column) of matrix m is `256 m + 16 row + column`.
fn matrices() -> Vec<u32> {
    let element = |m: usize, r: usize, c: usize| (256 * m + 16 * r + c) as u32;
    (0..128)
        .map(|w| {
            let (m, r, c) = (w / 32, w / 4 % 8, w % 4 * 2);
            element(m, r, c) | element(m, r, c + 1) << 16
        })
        .collect()
}

const TO_SHARED: &str = "mul.wide.u32 %rd3, %r1, 16;\nadd.s64 %rd4, %rd2, %rd3;\n\
    ld.global.v4.u32 {%r2,%r3,%r4,%r5}, [%rd4];\nmov.u32 %r6, s;\nshl.b32 %r7, %r1, 4;\nadd.u32 %r6, %r6, %r7;\n\
    st.shared.v4.u32 [%r6], {%r2,%r3,%r4,%r5};\nbar.sync 0;\nadd.s64 %rd5, %rd1, %rd3;\n";

#[test]
fn ldmatrix_gives_pairs_of_rows_or_columns() {
    for (trans, word) in [(false, ""), (true, ".trans")] {
        for (count, regs) in [(1, "{%r10}"), (2, "{%r10,%r11}"), (4, "{%r10,%r11,%r12,%r13}")] {
            let zero = "mov.u32 %r10, 0;\nmov.u32 %r11, 0;\nmov.u32 %r12, 0;\nmov.u32 %r13, 0;\n";
            let body = format!(
                "{TO_SHARED}{zero}ldmatrix.sync.aligned.m8n8.x{count}{word}.shared.b16 {regs}, [%r6];\n\
                 st.global.v4.u32 [%rd5], {{%r10,%r11,%r12,%r13}};"
            );
            let got = run(&body, &matrices(), 128);
            for lane in 0..32u32 {
                for m in 0..4u32 {
                    let (r, c) = (lane / 4, lane % 4 * 2);
                    let at = |k: u32| 256 * m + if trans { 16 * (c + k) + r } else { 16 * r + c + k };
                    let want = if m < count { at(0) | at(1) << 16 } else { 0 };
                    assert_eq!(got[(lane * 4 + m) as usize], want, "x{count}{word} lane {lane} matrix {m}");
                }
            }
        }
    }
}

#[test]
fn stmatrix_undoes_ldmatrix() {
    for word in ["", ".trans"] {
        let body = format!(
            "{TO_SHARED}ldmatrix.sync.aligned.m8n8.x4{word}.shared.b16 {{%r10,%r11,%r12,%r13}}, [%r6];\n\
             stmatrix.sync.aligned.m8n8.x4{word}.shared.b16 [%r6+2048], {{%r10,%r11,%r12,%r13}};\nbar.sync 0;\n\
             ld.shared.v4.u32 {{%r10,%r11,%r12,%r13}}, [%r6+2048];\n\
             st.global.v4.u32 [%rd5], {{%r10,%r11,%r12,%r13}};"
        );
        assert_eq!(run(&body, &matrices(), 128), matrices(), "{word}");
    }
}

#[test]
fn movmatrix_transposes() {
    let body = format!(
        "{TO_SHARED}ldmatrix.sync.aligned.m8n8.x2.shared.b16 {{%r10,%r11}}, [%r6];\n\
         movmatrix.sync.aligned.m8n8.trans.b16 %r12, %r10;\n\
         ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {{%r13}}, [%r6];\n\
         st.global.v4.u32 [%rd5], {{%r12,%r13,%r12,%r13}};"
    );
    for x in run(&body, &matrices(), 128).chunks_exact(2) {
        assert_eq!(x[0], x[1]);
    }
}

/// A whole wmma product by rows of A and columns of B.
#[test]
fn wmma_multiplies() {
    for (shape, mnk, ty, regs) in [
        ("m16n16k16", [16, 16, 16], "f16", [8, 8]),
        ("m8n32k16", [8, 32, 16], "f16", [8, 8]),
        ("m32n8k16", [32, 8, 16], "bf16", [8, 2]),
        ("m16n16k16", [16, 16, 16], "bf16", [4, 4]),
        ("m16n16k16", [16, 16, 16], "s8", [2, 2]),
        ("m16n16k8", [16, 16, 8], "tf32", [4, 4]),
    ] {
        let [m, n, k] = mnk;
        let acc = if ty == "s8" { "s32" } else { "f32" };
        let r = &mut Draw(3);
        let (a, b): (Vec<u64>, Vec<u64>) =
            ((0..m * k).map(|_| draw(ty, r)).collect(), (0..n * k).map(|_| draw(ty, r)).collect());
        let bytes = match ty {
            "s8" => 1,
            "tf32" => 4,
            _ => 2,
        };
        let mut input: Vec<u8> = Vec::new();
        for x in a.iter().chain(&b) {
            input.extend_from_slice(&x.to_le_bytes()[..bytes]);
        }
        let words: Vec<u32> = input.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let list = |from: usize, count: usize| {
            format!("{{{}}}", (from..from + count).map(|r| format!("%r{r}")).collect::<Vec<_>>().join(","))
        };
        let (fa, fb, fc) = (list(10, regs[0]), list(20, regs[1]), list(30, 8));
        let types = if ty == "f16" { "f32.f32".to_owned() } else { format!("{acc}.{ty}.{ty}.{acc}") };
        let zero: String = (30..38).map(|r| format!("mov.b32 %r{r}, 0;\n")).collect();
        let body = format!(
            "{zero}add.s64 %rd3, %rd2, {};\n\
             wmma.load.a.sync.aligned.row.{shape}.global.{ty} {fa}, [%rd2], {k};\n\
             wmma.load.b.sync.aligned.col.{shape}.global.{ty} {fb}, [%rd3], {k};\n\
             wmma.mma.sync.aligned.row.col.{shape}.{types} {fc}, {fa}, {fb}, {fc};\n\
             wmma.store.d.sync.aligned.col.{shape}.global.{acc} [%rd1], {fc}, {m};",
            m * k * bytes
        );
        let got = run(&body, &words, m * n);
        for row in 0..m {
            for column in 0..n {
                let want: f64 =
                    (0..k).map(|d| value(ty, a[row * k + d]) * value(ty, b[column * k + d])).sum();
                let x = value(acc, got[column * m + row].into());
                assert!((x - want).abs() <= 1e-5, "{shape} {ty} ({row}, {column}): {x}, not {want}");
            }
        }
    }
}
