//! ld, st, atom and red in all spaces and widths.

use crate::tensor::HEAD;
use inp_cuda_emulator::error::Code;
use inp_cuda_emulator::exec::launch::Report;
use inp_cuda_emulator::{options::Options, run::Machine};

fn machine(body: &str) -> Machine {
    let text = format!(
        "{HEAD}.global .align 16 .b32 g[4] = {{7, 8, 9, 10}};\n.const .align 8 .b16 c[4] = {{1, 0xfffe, 3, 4}};\n\
         .visible .entry k(.param .u64 d, .param .u64 a, .param .u32 n)\n{{\n.reg .b16 %h<32>;\n.reg .b32 %r<64>;\n\
         .reg .f32 %f<64>;\n.reg .f64 %fd<8>;\n.reg .b64 %rd<64>;\n.reg .b128 %q<4>;\n.reg .pred %p<8>;\n\
         .local .align 16 .b8 l[64];\n.shared .align 16 .b8 s[4096];\n\
         mov.u32 %r1, %tid.x;\nld.param.u64 %rd1, [d];\nld.param.u64 %rd2, [a];\n{body}\nret;\n}}\n"
    );
    let mut m = Machine::new("h100", Options::all()).unwrap();
    m.load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    m
}

fn run(m: &Machine, grid: u32, block: u32, d: u64, a: u64) -> Report {
    m.launch("k", grid, block, 0, &[d.into(), a.into(), 5u32.into()])
}

/// One lane's body over the input, its outputs.
fn one(body: &str, input: &[u64], outputs: usize) -> Vec<u64> {
    let m = machine(body);
    let (a, d) = (m.upload(input), m.upload(&vec![0u64; outputs]));
    run(&m, 1, 1, d, a).ok();
    m.read(d, outputs)
}

#[test]
fn narrow_loads_extend_by_their_sign() {
    let body = "ld.global.s8 %r2, [%rd2];\nst.global.u32 [%rd1], %r2;\nld.global.u8 %r2, [%rd2];\n\
        st.global.u32 [%rd1+4], %r2;\nld.global.s16 %rd3, [%rd2];\nst.global.u64 [%rd1+8], %rd3;\n\
        ld.global.s8 %h1, [%rd2];\nst.global.u16 [%rd1+16], %h1;\nld.global.b16 %rd3, [%rd2];\n\
        st.global.b64 [%rd1+24], %rd3;\nld.global.s32 %rd3, [%rd2+4];\nst.global.b64 [%rd1+32], %rd3;\n\
        st.global.u8 [%rd1+40], %rd3;";
    let got = one(body, &[0x8000_0001_0000_80f1], 6);
    assert_eq!(got, [0xf1_ffff_fff1, 0xffff_ffff_ffff_80f1, 0xfff1, 0x80f1, 0xffff_ffff_8000_0001, 1]);
}

#[test]
fn every_space_and_hint() {
    let body = "ld.const.s16 %r2, [c+2];\nst.local.v2.u32 [l+8], {%r2, 77};\nld.local.u32 %r3, [l+12];\n\
        ld.volatile.global.u32 %r4, [g+8];\nmov.u64 %rd3, g;\nld.u32 %r5, [%rd3+4];\nld.param.u32 %r6, [n];\n\
        st.shared::cta.u32 [s+16], %r6;\nmov.u32 %r20, s;\nld.volatile.shared.u32 %r7, [%r20+16];\n\
        mov.u64 %rd4, l;\ncvta.local.u64 %rd5, %rd4;\nld.u32 %r8, [%rd5+8];\n\
        createpolicy.fractional.L2::evict_last.b64 %rd6, 1.0;\n\
        ld.global.L1::no_allocate.L2::cache_hint.L2::128B.v2.u32 {%r9, _}, [%rd2], %rd6;\n\
        ld.global.nc.L1::evict_last.u32 %r10, [%rd2+4];\nld.relaxed.gpu.global.u32 %r11, [%rd2+8];\n\
        ld.acquire.sys.u32 %r12, [%rd2+12];\nldu.global.u32 %r13, [%rd2];\nld.global.cg.u32 %r14, [%rd2];\n\
        prefetch.global.L2 [%rd2];\nprefetchu.L1 [%rd2];\n\
        st.global.v4.u32 [%rd1], {%r2, %r3, %r4, %r5};\nst.global.L1::no_allocate.v4.u32 [%rd1+16], {%r6, %r7, %r8, %r9};\n\
        st.release.gpu.global.u32 [%rd1+32], %r10;\nst.relaxed.cta.global.u32 [%rd1+36], %r11;\n\
        st.volatile.global.u32 [%rd1+40], %r12;\nst.global.wt.u32 [%rd1+44], %r13;\nst.u32 [%rd1+48], %r14;";
    let got = one(body, &[0x1_0000_0002, 0x3_0000_0004], 7);
    let words: Vec<u32> = got.iter().flat_map(|x| [*x as u32, (x >> 32) as u32]).collect();
    assert_eq!(words, [-2i32 as u32, 77, 9, 8, 5, 5, -2i32 as u32, 2, 1, 4, 3, 2, 2, 0]);
}

#[test]
fn vectors_of_every_width() {
    for (vector, ty, file, count) in [
        ("v2", "u8", "h", 2),
        ("v4", "u8", "h", 4),
        ("v4", "b16", "h", 4),
        ("v8", "b32", "r", 8),
        ("v4", "f32", "f", 4),
        ("v2", "b64", "rd", 2),
        ("v4", "b64", "rd", 4),
        ("v2", "f64", "fd", 2),
    ] {
        let regs: Vec<String> = (2..2 + count)
            .map(|n| if file == "rd" { format!("%rd{}", n + 20) } else { format!("%{file}{n}") })
            .collect();
        let regs = regs.join(",");
        let bytes = match ty {
            "u8" => 1,
            "b16" => 2,
            "b32" | "f32" => 4,
            _ => 8,
        } * count;
        let body = format!(
            "mul.wide.u32 %rd3, %r1, {bytes};\nadd.s64 %rd4, %rd2, %rd3;\nadd.s64 %rd5, %rd1, %rd3;\n\
             ld.global.{vector}.{ty} {{{regs}}}, [%rd4];\nst.global.{vector}.{ty} [%rd5], {{{regs}}};"
        );
        let m = machine(&body);
        let input: Vec<u8> = (0..32 * bytes).map(|n| (n * 7 + n / 256) as u8).collect();
        for lanes in [32, 21] {
            let (a, d) = (m.upload(&input), m.upload(&vec![0u8; input.len()]));
            run(&m, 1, lanes, d, a).ok();
            let n = lanes as usize * bytes as usize;
            assert_eq!(m.read::<u8>(d, n), input[..n], "{vector}.{ty}, {lanes} lanes");
        }
    }
}

#[test]
fn a_misaligned_vector_is_a_fault() {
    let m = machine("ld.global.v2.u32 {%r2,%r3}, [%rd2+4];\nst.global.u32 [%rd1], %r2;");
    let (a, d) = (m.upload(&[0u64; 4]), m.upload(&[0u64; 4]));
    let fault = run(&m, 1, 1, d, a).fault.map(|f| f.1.code);
    assert_eq!(fault, Some(Code::MisalignedAddress));
}

#[test]
fn atomics_do_what_their_names_say() {
    let cases: [(&str, u64, u64, u64); 24] = [
        ("add.u32", 0xffff_ffff, 3, 2),
        ("add.s32", 5, 0xffff_ffff, 4),
        ("add.u64", u64::MAX, 3, 2),
        ("and.b32", 12, 10, 8),
        ("or.b32", 12, 10, 14),
        ("xor.b64", 12 << 40, 10 << 40, 6 << 40),
        ("exch.b32", 12, 10, 10),
        ("exch.b64", 12, 10 << 40, 10 << 40),
        ("inc.u32", 3, 3, 0),
        ("inc.u32", 2, 3, 3),
        ("dec.u32", 0, 9, 9),
        ("dec.u32", 10, 9, 9),
        ("dec.u32", 5, 9, 4),
        ("min.s32", 5, 0xffff_ffff, 0xffff_ffff),
        ("min.u32", 5, 0xffff_ffff, 5),
        ("max.s64", u64::MAX, 1, 1),
        ("max.u64", u64::MAX, 1, u64::MAX),
        ("add.f32", 0x3fc0_0000, 0x4000_0000, 0x4060_0000),
        ("add.f32", 1, 0, 0),
        ("add.f64", 1.5f64.to_bits(), 2f64.to_bits(), 3.5f64.to_bits()),
        ("add.noftz.f16x2", 0x3c00_4000, 0x4000_3c00, 0x4200_4200),
        ("add.noftz.bf16x2", 0x3f80_4000, 0x4000_3f80, 0x4040_4040),
        ("add.noftz.f16", 1, 1, 2),
        ("add.noftz.bf16", 0x3f80, 0x3f80, 0x4000),
    ];
    for (op, old, b, new) in cases {
        let (reg, load) = match &op[op.rfind('.').unwrap() + 1..] {
            "u64" | "s64" | "b64" | "f64" => (["%rd3", "%rd4"], "b64"),
            "f16" | "bf16" => (["%h3", "%h4"], "b16"),
            _ => (["%r3", "%r4"], "b32"),
        };
        let [x, y] = reg;
        let body = format!(
            "ld.global.{load} {x}, [%rd2];\natom.global.{op} {y}, [%rd1], {x};\nst.global.{load} [%rd1+8], {y};\n\
             red.relaxed.gpu.global.{op} [%rd1+16], {x};"
        );
        let m = machine(&body);
        let (a, d) = (m.upload(&[b]), m.upload(&[old, 0, old]));
        run(&m, 1, 1, d, a).ok();
        assert_eq!(m.read::<u64>(d, 3), [new, old, new], "{op}");
    }
}

#[test]
fn wide_compare_and_exchange() {
    let body = "ld.global.b128 %q1, [%rd2];\nld.global.b128 %q2, [%rd2+16];\n\
        atom.global.cas.b128 %q3, [%rd1], %q1, %q2;\nst.global.b128 [%rd1+16], %q3;\n\
        atom.global.exch.b128 %q3, [%rd1], %q1;\nst.global.b128 [%rd1+32], %q3;\n\
        mov.b16 %h1, 5;\nmov.b16 %h2, 6;\natom.global.cas.b16 %h3, [%rd1+48], %h1, %h2;\nst.global.b16 [%rd1+56], %h3;\n";
    let m = machine(body);
    let (a, d) = (m.upload(&[1u64, 2, 3, 4]), m.upload(&[1u64, 2, 0, 0, 0, 0, 5, 0]));
    run(&m, 1, 1, d, a).ok();
    assert_eq!(m.read::<u64>(d, 8), [1, 2, 1, 2, 3, 4, 6, 5]);
}

#[test]
fn vector_reductions() {
    let body = "mov.f32 %f1, 0f3F800000;\nred.global.add.v4.f32 [%rd1], {%f1,%f1,%f1,%f1};\n\
        atom.global.v2.f32.add {%f2,%f3}, [%rd1+16], {%f1,%f1};";
    let m = machine(body);
    let (a, d) = (m.upload(&[0u64]), m.upload(&[0f32; 6]));
    run(&m, 1, 32, d, a).ok();
    assert_eq!(m.read::<f32>(d, 6), [32.; 6]);
}

/// Every thread of many blocks takes a ticket, under a spinning lock adds plainly, and adds a float.
#[test]
fn atomics_of_many_blocks() {
    let body = "atom.global.add.u32 %r2, [%rd1], 1;\nmul.wide.u32 %rd3, %r2, 4;\nadd.s64 %rd4, %rd1, %rd3;\n\
        red.global.add.u32 [%rd4+16], 1;\nmov.f32 %f1, 0f3F800000;\nred.global.add.f32 [%rd1+4], %f1;\n\
        setp.ne.u32 %p1, %r1, 0;\n@%p1 bra DONE;\n\
        TRY:\natom.acquire.gpu.global.cas.b32 %r3, [%rd2], 0, 1;\nsetp.ne.u32 %p2, %r3, 0;\n@%p2 bra TRY;\n\
        ld.relaxed.gpu.global.u32 %r4, [%rd2+4];\nadd.u32 %r4, %r4, 1;\nst.relaxed.gpu.global.u32 [%rd2+4], %r4;\n\
        atom.release.gpu.global.exch.b32 %r5, [%rd2], 0;\nDONE:";
    let m = machine(body);
    let threads = 64 * 128;
    let (a, d) = (m.upload(&[0u32, 0]), m.upload(&vec![0u32; 4 + threads]));
    run(&m, 64, 128, d, a).ok();
    let got = m.read::<u32>(d, 4 + threads);
    assert_eq!(got[0] as usize, threads);
    assert_eq!(f32::from_bits(got[1]) as usize, threads);
    assert!(got[4..].iter().all(|&x| x == 1), "a ticket was given twice");
    assert_eq!(m.read::<u32>(a, 2), [0, 64]);
}

#[test]
fn lanes_at_one_address_go_in_order() {
    let body = "atom.shared.exch.b32 %r2, [s], %r1;\nmul.wide.u32 %rd3, %r1, 4;\nadd.s64 %rd4, %rd1, %rd3;\n\
        st.global.u32 [%rd4], %r2;";
    let m = machine(&format!("st.shared.u32 [s], 99;\nbar.sync 0;\n{body}"));
    let (a, d) = (m.upload(&[0u32]), m.upload(&[0u32; 32]));
    run(&m, 1, 32, d, a).ok();
    let want: Vec<u32> = std::iter::once(99).chain(0..31).collect();
    assert_eq!(m.read::<u32>(d, 32), want);
}

#[test]
fn what_does_not_exist_is_refused() {
    for line in [
        "ld.global.u32 %h1, [%rd2];",
        "ld.global.v4.u64 {%rd3,%rd4}, [%rd2];",
        "ld.global.f32.nonsense %f1, [%rd2];",
        "st.const.u32 [c], %r1;",
        "atom.global.add.b32 %r2, [%rd1], %r1;",
        "atom.local.add.u32 %r2, [l], %r1;",
        "cp.async.cg.shared.global [s], [%rd2], 8;",
        "mma.sync.aligned.m16n8k7.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2}, {%r3}, {%f1,%f2,%f3,%f4};",
    ] {
        let text = format!(
            "{HEAD}.const .align 8 .b16 c[4];\n.visible .entry k()\n{{\n.reg .b16 %h<4>;\n.reg .b32 %r<9>;\n\
             .reg .f32 %f<9>;\n.reg .b64 %rd<9>;\n.local .b32 l[4];\n.shared .align 16 .b8 s[64];\n{line}\nret;\n}}\n"
        );
        let mut m = Machine::new("h100", Options::default()).unwrap();
        assert!(m.load(&text).is_err(), "{line}");
    }
}
