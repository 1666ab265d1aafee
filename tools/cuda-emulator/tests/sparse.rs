//! mma.sp, mma.m8n8k4 of f16, roundings of f64 products and wmma of less than 8 bits, against sums in f64 with layouts as
//! the ISA's text gives them; metadata ordered as CUTLASS's host code does before a kernel reads it.

use crate::tensor::{Draw, HEAD, draw, kernel, run, value};
use inp_cuda_emulator::{options::Options, run::Machine};

fn launch(ptx: &str, inputs: &[&[u32]], results: usize) -> Vec<u32> {
    let mut m = Machine::new("h100", Options::all()).unwrap();
    m.load(ptx).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let d = m.upload(&vec![0u32; results]);
    let mut args = vec![d.into()];
    args.extend(inputs.iter().map(|x| m.upload(x).into()));
    m.launch("k", 1, 32, 0, &args).ok();
    m.read(d, results)
}

/// Elements of `bits` packed, low first.
fn pack(x: &[u64], bits: usize) -> Vec<u32> {
    x.chunks(32 / bits).map(|c| c.iter().rev().fold(0, |w, &x| (w << (bits % 32)) | x as u32)).collect()
}

/// A sparse product: bits of an element, k, metadata threads.
fn sparse(shape: &str, types: &str, bits: usize, k: usize, holders: usize, selector: usize) {
    let t: Vec<&str> = types.rsplit('.').take(4).collect();
    let (td, ta, tb) = (t[3], t[2], t[1]);
    let r = &mut Draw(k as u64 * 77 + bits as u64 + selector as u64);
    let mut dense = vec![0u64; 16 * k];
    // Per row: kept elements and their places, two bits each.
    let (mut kept, mut places) = (vec![vec![]; 16], vec![vec![]; 16]);
    for row in 0..16 {
        let chunk = if bits == 32 {
            2
        } else if bits == 4 {
            8
        } else {
            4
        };
        for c in 0..k / chunk {
            let pick = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)][r.bits() as usize % 6];
            let pick = if bits == 32 { [(0, 1), (2, 3)][r.bits() as usize % 2] } else { pick };
            places[row].extend([pick.0, pick.1]);
            let at: Vec<usize> = match bits {
                32 => vec![pick.0 as usize / 2],
                4 => [pick.0, pick.1].iter().flat_map(|p| [2 * *p as usize, 2 * *p as usize + 1]).collect(),
                _ => vec![pick.0 as usize, pick.1 as usize],
            };
            for a in at {
                let x = draw(ta, r);
                dense[row * k + c * chunk + a] = x;
                kept[row].push(x);
            }
        }
    }
    // Words of metadata by rows, then as reordered for the threads: rows g and g + 8 side by side.
    let per = if bits > 8 { 16 } else { 32 };
    let rows: Vec<Vec<u32>> = places
        .iter()
        .map(|p| p.chunks(per / 2).map(|c| c.iter().rev().fold(0u32, |w, &x| w << 2 | x as u32)).collect())
        .collect();
    let mut meta = [0xdead_beefu32; 32];
    for g in 0..8 {
        let mut order = vec![];
        for word in 0..rows[0].len() {
            order.extend([rows[g][word], rows[g + 8][word]]);
        }
        let words: Vec<u32> =
            if per == 16 { order.chunks(2).map(|c| c[0] | c[1] << 16).collect() } else { order };
        assert_eq!(words.len(), holders, "{shape}");
        meta[4 * g + selector * holders..][..holders].copy_from_slice(&words);
    }
    let b: Vec<u64> = (0..k * 8).map(|_| draw(tb, r)).collect();
    let c: Vec<u64> = (0..128).map(|_| draw(td, r)).collect();
    let (each, registers) = (32 / bits, k * bits / 128);
    let (mut fa, mut fb, mut fc) = (vec![], vec![], vec![]);
    let acc = if td == "f16" { 16 } else { 32 };
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for n in 0..registers {
            let at = (n / 2 * 4 + t) * each;
            fa.extend(pack(&kept[g + n % 2 * 8][at..at + each], bits));
            let column: Vec<u64> = (0..each).map(|e| b[((n * 4 + t) * each + e) * 8 + g]).collect();
            fb.extend(pack(&column, bits));
        }
        let cs: Vec<u64> = (0..4).map(|i| c[(g + i / 2 * 8) * 8 + t * 2 + i % 2]).collect();
        fc.extend(pack(&cs, acc));
        fc.push(meta[lane]);
    }
    let nd = acc / 8;
    let spelling = format!("mma.sp::ordered_metadata.sync.aligned.{shape}.row.col.{types}");
    let ptx = kernel(&spelling, [nd, registers, registers, nd + 1], 4);
    let last = 10 + nd + 2 * registers + nd;
    let ptx = ptx.replace(&format!(", %r{last}}};"), &format!("}}, %r{last}, {selector};"));
    let got = launch(&ptx, &[&fa, &fb, &fc], 32 * nd);
    for lane in 0..32 {
        for i in 0..4 {
            let (row, column) = (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
            let word = got[lane * nd + i * acc / 32] >> (i * acc % 32);
            let x = value(td, if acc == 16 { word & 0xffff } else { word }.into());
            let products = (0..k).map(|d| value(ta, dense[row * k + d]) * value(tb, b[d * 8 + column]));
            let (sum, size) = products.fold((0., 0.), |(s, z): (f64, f64), p| (s + p, z + p.abs()));
            let want = sum + value(td, c[row * 8 + column]);
            let want = if td == "f16" && want.abs() > 65504. { want.clamp(-65536., 65536.) } else { want };
            let tolerance = match td {
                "f16" => want.abs() / 2048. + size * 1e-6,
                "f32" => size * 1e-6 + 1e-6,
                _ => 0.,
            };
            assert!((x - want).abs() <= tolerance, "{spelling} ({row}, {column}): {x}, not {want}");
        }
    }
}

#[test]
fn sparse_products_agree_with_f64() {
    for (shape, types, bits, k, holders) in [
        ("m16n8k16", "f32.f16.f16.f32 f16.f16.f16.f16 f32.bf16.bf16.f32", 16, 16, 1),
        ("m16n8k32", "f32.f16.f16.f32 f16.f16.f16.f16 f32.bf16.bf16.f32", 16, 32, 2),
        ("m16n8k8", "f32.tf32.tf32.f32", 32, 8, 1),
        ("m16n8k16", "f32.tf32.tf32.f32", 32, 16, 2),
        ("m16n8k32", "s32.s8.s8.s32 s32.s8.u8.s32 satfinite.s32.u8.s8.s32 s32.u8.u8.s32", 8, 32, 2),
        ("m16n8k64", "s32.s8.s8.s32 s32.u8.s8.s32", 8, 64, 4),
        ("m16n8k64", "f32.e4m3.e4m3.f32 f32.e5m2.e4m3.f32 f32.e4m3.e5m2.f32", 8, 64, 4),
        ("m16n8k64", "s32.s4.s4.s32 s32.u4.s4.s32", 4, 64, 2),
        ("m16n8k128", "s32.s4.s4.s32 s32.s4.u4.s32", 4, 128, 4),
    ] {
        for types in types.split(' ') {
            for selector in 0..4 / holders {
                sparse(shape, types, bits, k, holders, selector);
            }
        }
    }
}

#[test]
fn metadata_without_meaning_is_reported() {
    let ptx = kernel("mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", [4, 2, 2, 5], 4);
    let mut m = Machine::new("h100", Options::all()).unwrap();
    m.load(&ptx.replace(", %r22};", "}, %r22, 0;")).unwrap();
    let zero = m.upload(&[0u32; 160]);
    let r = m.launch("k", 1, 32, 0, &[zero.into(), zero.into(), zero.into(), zero.into()]);
    assert!(r.findings.iter().any(|f| f.to_string().contains("metadata 0b0000")), "{:?}", r.findings.len());
    let text = HEAD.to_owned()
        + ".visible .entry k() { .reg .b32 %r<9>; mma.sp.sync.aligned.m16n8k32.row.col.f16.f16.f16.f16 \
        {%r0,%r1},{%r0,%r1,%r2,%r3},{%r0,%r1,%r2,%r3},{%r0,%r1},%r4,2; }";
    assert!(m.load(&text).unwrap_err().to_string().contains("selector"));
}

/// Four products, in lanes q, q + 4, … of each half of the warp.
#[test]
fn quads_multiply() {
    for (a_rows, b_rows) in [(true, true), (true, false), (false, true), (false, false)] {
        for (td, tc) in [("f32", "f32"), ("f16", "f16"), ("f32", "f16")] {
            let r = &mut Draw(91);
            let mut matrix = |t: &str, n: usize| -> Vec<u64> { (0..4 * n).map(|_| draw(t, r)).collect() };
            let (a, b, c) = (matrix("f16", 32), matrix("f16", 32), matrix(tc, 64));
            let place = |t: &str, lane: usize, i: usize| {
                let high = lane / 16 * 4;
                match t {
                    "f16" => (lane % 4 + high, i),
                    _ => ((lane & 1) + (i & 2) + high, (i & 4) + (lane & 2) + (i & 1)),
                }
            };
            let (mut fa, mut fb, mut fc) = (vec![], vec![], vec![]);
            for lane in 0..32 {
                let (q, t, high) = (lane % 16 / 4, lane % 4, lane / 16 * 4);
                let pick =
                    |x: &[u64], columns: usize, at: &dyn Fn(usize) -> (usize, usize), n: usize| -> Vec<u64> {
                        (0..n).map(|i| x[q * (x.len() / 4) + at(i).0 * columns + at(i).1]).collect()
                    };
                let at_a = |i: usize| if a_rows { (t + high, i) } else { (i + high, t) };
                fa.extend(pack(&pick(&a, 4, &at_a, 4), 16));
                let at_b = |i: usize| if b_rows { (t, i + high) } else { (i, t + high) };
                fb.extend(pack(&pick(&b, 8, &at_b, 4), 16));
                fc.extend(pack(&pick(&c, 8, &|i| place(tc, lane, i), 8), if tc == "f16" { 16 } else { 32 }));
            }
            let count = |t: &str| if t == "f16" { 4 } else { 8 };
            let layout = |rows: bool| if rows { "row" } else { "col" };
            let spelling =
                format!("mma.sync.aligned.m8n8k4.{}.{}.{td}.f16.f16.{tc}", layout(a_rows), layout(b_rows));
            let ptx = kernel(&spelling, [count(td), 2, 2, count(tc)], 4);
            let got = launch(&ptx, &[&fa, &fb, &fc], 32 * count(td));
            for lane in 0..32 {
                let q = lane % 16 / 4;
                for i in 0..8 {
                    let (row, column) = place(td, lane, i);
                    let x = match td {
                        "f16" => value(td, (got[lane * 4 + i / 2] >> (i % 2 * 16) & 0xffff).into()),
                        _ => value(td, got[lane * 8 + i].into()),
                    };
                    let want = value(tc, c[q * 64 + row * 8 + column])
                        + (0..4)
                            .map(|k| {
                                value("f16", a[q * 32 + row * 4 + k])
                                    * value("f16", b[q * 32 + k * 8 + column])
                            })
                            .sum::<f64>();
                    let tolerance = if td == "f16" { want.abs() / 2048. + 1e-6 } else { 1e-6 };
                    assert!(
                        (x - want).abs() <= tolerance,
                        "{spelling} {q} ({row}, {column}): {x}, not {want}"
                    );
                }
            }
        }
    }
}

/// c + ab with one product that is not exact: each direction gives one neighbour of it.
#[test]
fn double_products_round_as_told() {
    let ones = |x: f64| [x.to_bits() as u32, (x.to_bits() >> 32) as u32];
    for (word, least, most) in [("rz", 1., 1.), ("rm", 1., 1.), ("rp", 1. + f64::EPSILON, 1. + f64::EPSILON)]
    {
        let spelling = format!("mma.sync.aligned.m8n8k4.row.col.{word}.f64.f64.f64.f64");
        let ptx = kernel(&spelling, [2, 1, 1, 2], 8);
        let a: Vec<u32> = (0..32).flat_map(|l| ones(if l % 4 == 0 { 1e-20 } else { 0. })).collect();
        let b: Vec<u32> = (0..32).flat_map(|_| ones(1.)).collect();
        let c: Vec<u32> = (0..64).flat_map(|_| ones(1.)).collect();
        let got = launch(&ptx, &[&a, &b, &c], 128);
        for x in got.as_chunks::<2>().0 {
            let x = f64::from_bits(u64::from(x[0]) | u64::from(x[1]) << 32);
            assert!(least <= x && x <= most, "{word}: {x:e}");
        }
    }
}

#[test]
fn wmma_of_small_elements_multiplies() {
    for (shape, k, ty, op) in [
        ("m8n8k32", 32, "s4", ""),
        ("m8n8k32", 32, "u4", ""),
        ("m8n8k128", 128, "b1", ".xor.popc"),
        ("m8n8k128", 128, "b1", ".and.popc"),
    ] {
        let r = &mut Draw(5);
        let mut matrix = || -> Vec<u64> { (0..8 * k).map(|_| draw(ty, r)).collect() };
        let (a, b) = (matrix(), matrix());
        let bits = 128 / k;
        let mut words = pack(&a, bits);
        words.extend(pack(&b, bits));
        let body = format!(
            "mov.b32 %r30, 7;\nmov.b32 %r31, 7;\nadd.s64 %rd3, %rd2, 128;\n\
             wmma.load.a.sync.aligned.row.{shape}.global.{ty} {{%r10}}, [%rd2], {k};\n\
             wmma.load.b.sync.aligned.col.{shape}.global.{ty} {{%r20}}, [%rd3], {k};\n\
             wmma.mma{op}.sync.aligned.row.col.{shape}.s32.{ty}.{ty}.s32 {{%r30,%r31}}, {{%r10}}, {{%r20}}, {{%r30,%r31}};\n\
             wmma.store.d.sync.aligned.row.{shape}.global.s32 [%rd1], {{%r30,%r31}}, 8;"
        );
        let got = run(&body, &words, 64);
        for (n, x) in got.iter().enumerate() {
            let pairs = (0..k).map(|d| (a[n / 8 * k + d], b[n % 8 * k + d]));
            let want = 7.
                + match op {
                    ".xor.popc" => pairs.map(|(a, b)| (a ^ b) as f64).sum::<f64>(),
                    ".and.popc" => pairs.map(|(a, b)| (a & b) as f64).sum(),
                    _ => pairs.map(|(a, b)| value(ty, a) * value(ty, b)).sum(),
                };
            assert_eq!(f64::from(*x as i32), want, "{ty}{op} {n}");
        }
    }
}
