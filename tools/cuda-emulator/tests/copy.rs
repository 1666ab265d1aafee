//! cp.async: when copies land, what they fill, what is seen before.

use crate::tensor::HEAD;
use inp_cuda_emulator::{options::Options, run::Machine};

fn run(body: &str, options: Options) -> (Vec<u32>, usize) {
    let text = format!(
        "{HEAD}.visible .entry k(.param .u64 d, .param .u64 a)\n{{\n.reg .b32 %r<64>;\n.reg .b64 %rd<16>;\n\
         .reg .pred %p<8>;\n.shared .align 16 .b8 s[4096];\n.shared .align 8 .b64 bar;\n\
         mov.u32 %r1, %tid.x;\nld.param.u64 %rd1, [d];\nld.param.u64 %rd2, [a];\n\
         mul.wide.u32 %rd3, %r1, 16;\nadd.s64 %rd4, %rd2, %rd3;\nadd.s64 %rd5, %rd1, %rd3;\n\
         shl.b32 %r2, %r1, 4;\nmov.u32 %r3, s;\nadd.u32 %r3, %r3, %r2;\n{body}\n\
         st.global.v4.u32 [%rd5], {{%r10,%r11,%r12,%r13}};\nret;\n}}\n"
    );
    let mut m = Machine::new("h100", options).unwrap();
    m.load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let a = m.upload(&(0..512).collect::<Vec<u32>>());
    let d = m.upload(&[0u32; 128]);
    let report = m.launch("k", 1, 32, 0, &[d.into(), a.into()]);
    assert!(report.fault.is_none(), "{:?}", report.fault);
    (m.read(d, 128), report.findings.len())
}

const READ: &str = "ld.shared.v4.u32 {%r10,%r11,%r12,%r13}, [%r3];";

#[track_caller]
fn right(body: &str, want: impl Fn(u32) -> u32) {
    for seed in [None, Some(1), Some(2), Some(3)] {
        for options in [Options { seed, ..Options::default() }, Options { seed, ..Options::all() }] {
            let (got, findings) = run(body, options);
            assert_eq!(got, (0..128).map(&want).collect::<Vec<_>>(), "seed {seed:?}");
            assert_eq!(findings, 0, "seed {seed:?}");
        }
    }
}

#[test]
fn a_waited_copy_is_there() {
    for wait in ["cp.async.wait_all;", "cp.async.commit_group;\ncp.async.wait_group 0;"] {
        right(&format!("cp.async.cg.shared.global [%r3], [%rd4], 16;\n{wait}\n{READ}"), |n| n);
        let hint = "createpolicy.fractional.L2::evict_first.b64 %rd9, 0f3F800000;\n\
            cp.async.ca.shared::cta.global.L2::cache_hint.L2::128B [%r3], [%rd4], 16, %rd9;";
        right(&format!("{hint}\n{wait}\n{READ}"), |n| n);
    }
    let four: String = (0..4)
        .map(|k| format!("cp.async.ca.shared.global [%r3+{}], [%rd4+{}], 4;\n", 4 * k, 4 * k))
        .collect();
    right(&format!("{four}cp.async.wait_all;\n{READ}"), |n| n);
}

#[test]
fn the_rest_of_a_short_source_is_zero() {
    let body = |size: &str| {
        format!("cp.async.ca.shared.global [%r3], [%rd4], 16, {size};\ncp.async.wait_all;\n{READ}")
    };
    right(&body("0"), |_| 0);
    right(&body("8"), |n| if n % 4 < 2 { n } else { 0 });
    let odd = format!("and.b32 %r5, %r1, 1;\nshl.b32 %r5, %r5, 4;\n{}", body("%r5"));
    right(&odd, |n| if n / 4 % 2 == 1 { n } else { 0 });
    // The source of an ignored copy is not touched, wherever it is.
    let ignore = format!(
        "setp.lt.u32 %p1, %r1, 4;\n@%p1 mov.u64 %rd4, 16;\n{}",
        "cp.async.ca.shared.global [%r3], [%rd4], 16, %p1;\ncp.async.wait_all;\n"
    );
    right(&format!("{ignore}{READ}"), |n| if n < 16 { 0 } else { n });
}

#[test]
fn a_destination_is_poisoned_until_the_wait() {
    let late = "cp.async.cg.shared.global [%r3], [%rd4], 16;\ncp.async.commit_group;\n\
        cp.async.cg.shared.global [%r3+1024], [%rd4+16], 16;\ncp.async.commit_group;\ncp.async.wait_group 1;\n\
        ld.shared.v4.u32 {%r10,%r11,%r12,%r13}, [%r3+1024];";
    // Without checkers and seed the copy is late, and what was there before is seen.
    let before = format!(
        "mov.u32 %r6, 5;\nst.shared.v4.u32 [%r3+1024], {{%r6,%r6,%r6,%r6}};\n{late}\ncp.async.wait_all;"
    );
    assert_eq!(run(&before, Options::default()).0, [5; 128]);
    let (got, findings) = run(late, Options::all());
    assert_eq!(got, [!0; 128]);
    assert!(findings > 0);
    let wrong = (0..8).filter(|&seed| {
        let (got, _) = run(late, Options { seed: Some(seed + 1), ..Options::default() });
        got != (4..132).collect::<Vec<u32>>()
    });
    assert!(wrong.count() >= 4);
    // The older group has landed.
    let older = late.rsplit_once('\n').unwrap().0;
    right(&format!("{older}\n{READ}\ncp.async.wait_all;"), |n| n);
}

#[test]
fn an_mbarrier_hears_of_copies() {
    let wait = "WAIT:\nmbarrier.try_wait.parity.shared.b64 %p1, [bar], 0;\n@!%p1 bra WAIT;";
    for (count, word) in [(32, ".noinc"), (33, "")] {
        // With .noinc the copies' arrivals are the expected ones; without, the lanes arrive themselves too.
        let own = if word.is_empty() { "mbarrier.arrive.shared.b64 %rd8, [bar];\n" } else { "" };
        let count = if word.is_empty() { count - 1 } else { count };
        let body = format!(
            "setp.ne.u32 %p2, %r1, 0;\n@!%p2 mbarrier.init.shared.b64 [bar], {count};\nbar.sync 0;\n\
             cp.async.cg.shared.global [%r3], [%rd4], 16;\ncp.async.mbarrier.arrive{word}.shared.b64 [bar];\n\
             {own}{wait}\nxor.b32 %r3, %r3, 16;\n{READ}"
        );
        right(&body, |n| n ^ 4);
    }
}
