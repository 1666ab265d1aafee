//! Instructions run on columns of operands, for comparison with a reference.

use crate::exact::Rng;
use inp_cuda_emulator::options::Options;
use inp_cuda_emulator::run::Machine;

/// Integer types: name, bits, whether signed.
pub const INTS: [(&str, u32, bool); 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];
/// Those that arithmetic instructions take: not of 8 bits.
pub const WIDE: &[(&str, u32, bool)] = INTS.split_at(2).1;

/// A device for arithmetic.
pub fn machine() -> Machine {
    Machine::new("h100", Options { threads: Some(1), ..Options::default() }).expect("a device")
}

/// Runs `code` for each row: inputs in `%a %b %c %e` (of the bits given), the result in `%d`. `%p %q` are predicates,
/// `%t0`–`%t7` 32-bit, `%u0`–`%u7` 64-bit, `%h0`–`%h7` 16-bit registers to use.
pub fn eval(m: &mut Machine, code: &str, out: u32, ins: &[(u32, Vec<u64>)]) -> Vec<u64> {
    let n = ins[0].1.len();
    let mut text = String::from(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 n, .param .u64 out",
    );
    let names = ["a", "b", "c", "e"];
    for name in &names[..ins.len()] {
        text += &format!(", .param .u64 in_{name}");
    }
    text += &format!(
        ")\n{{\n.reg .pred %p, %q, %done; .reg .b32 %t<8>; .reg .b64 %u<8>; .reg .b16 %h<8>; .reg .b{out} %d;\n\
         .reg .b32 %i<4>; .reg .b64 %at<8>;\n\
         mov.u32 %i0, %ctaid.x; mov.u32 %i1, %ntid.x; mov.u32 %i2, %tid.x; mad.lo.u32 %i3, %i0, %i1, %i2;\n\
         mul.wide.u32 %at0, %i3, 8; ld.param.u64 %at1, [n]; setp.ge.u64 %done, %at0, %at1; @%done bra DONE;\n\
         ld.param.u64 %at2, [out]; add.u64 %at2, %at2, %at0;\n"
    );
    for (name, (bits, _)) in names.iter().zip(ins) {
        text += &format!(
            ".reg .b{bits} %{name};\nld.param.u64 %at1, [in_{name}]; add.u64 %at1, %at1, %at0; \
             ld.global.b{bits} %{name}, [%at1];\n"
        );
    }
    text += &format!("{code}\nst.global.b{out} [%at2], %d;\nDONE: ret;\n}}\n");
    m.load(&text).unwrap_or_else(|e| panic!("{code}: {e}"));
    let result = m.upload(&vec![0u64; n]);
    let mut args = vec![(8 * n as u64).into(), result.into()];
    let columns: Vec<u64> = ins.iter().map(|(_, x)| m.upload(x)).collect();
    args.extend(columns.iter().map(|&x| x.into()));
    m.launch("k", n.div_ceil(128) as u32, 128, 0, &args).ok();
    let r = m.read::<u64>(result, n);
    for at in columns.into_iter().chain([result]) {
        m.memory.free(at).expect("an allocation");
    }
    r
}

/// Sign- or zero-extended.
pub fn extend(x: u64, bits: u32, signed: bool) -> i128 {
    let by = 128 - bits;
    let x = i128::from(x) << by;
    if signed { x >> by } else { ((x as u128) >> by) as i128 }
}
/// The low bits.
pub fn mask(bits: u32) -> u64 {
    if bits == 64 { !0 } else { (1 << bits) - 1 }
}

/// Compares an instruction with a function of its operands' bits on random rows.
#[track_caller]
pub fn check_bits(m: &mut Machine, code: &str, out: u32, ins: &[u32], f: impl Fn(&[u64]) -> u64) {
    let mut rng = Rng(code.bytes().fold(7, |h, b| h.wrapping_mul(131).wrapping_add(u64::from(b))));
    let columns: Vec<_> =
        ins.iter().map(|&b| (b, (0..3000).map(|_| rng.word(b)).collect::<Vec<_>>())).collect();
    compare(m, code, out, &columns, f);
}
/// Compares on given columns.
#[track_caller]
pub fn compare(
    m: &mut Machine,
    code: &str,
    out: u32,
    columns: &[(u32, Vec<u64>)],
    f: impl Fn(&[u64]) -> u64,
) {
    let got = eval(m, code, out, columns);
    for (n, got) in got.iter().enumerate() {
        let row: Vec<u64> = columns.iter().map(|c| c.1[n]).collect();
        let want = f(&row);
        assert!(*got == want, "{code} of {row:x?}: {got:#x}, expected {want:#x}");
    }
}
/// As [`check_bits`], over integers: operands extended as `signed` says, the result's low bits taken.
#[track_caller]
pub fn check(m: &mut Machine, code: &str, out: u32, ins: &[u32], signed: bool, f: impl Fn(&[i128]) -> i128) {
    check_bits(m, code, out, ins, |v| {
        let v: Vec<i128> = v.iter().zip(ins).map(|(&x, &b)| extend(x, b, signed)).collect();
        f(&v) as u64 & mask(out)
    });
}
/// Runs on columns and asks of each row whether the result is acceptable.
#[track_caller]
pub fn accept(
    m: &mut Machine,
    code: &str,
    out: u32,
    columns: &[(u32, Vec<u64>)],
    ok: impl Fn(&[u64], u64) -> bool,
) {
    let got = eval(m, code, out, columns);
    for (n, &got) in got.iter().enumerate() {
        let row: Vec<u64> = columns.iter().map(|c| c.1[n]).collect();
        assert!(ok(&row, got), "{code} of {row:x?}: {got:#x}");
    }
}
