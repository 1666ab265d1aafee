//! mbarrier: phases, parities, transactions, drops, and misuse.

use crate::tensor::HEAD;
use inp_cuda_emulator::check::Tool;
use inp_cuda_emulator::exec::launch::Report;
use inp_cuda_emulator::{options::Options, run::Machine};

fn launch(body: &str, block: u32, seed: Option<u64>) -> (Vec<u32>, Report) {
    let text = format!(
        "{HEAD}.visible .entry k(.param .u64 d)\n{{\n.reg .b32 %r<64>;\n.reg .b64 %rd<16>;\n.reg .pred %p<8>;\n\
         .shared .align 8 .b64 bar;\n.shared .align 4 .b32 x[256];\nmov.u32 %r1, %tid.x;\nld.param.u64 %rd1, [d];\n\
         mul.wide.u32 %rd3, %r1, 4;\nadd.s64 %rd5, %rd1, %rd3;\nsetp.eq.u32 %p1, %r1, 0;\n{body}\nret;\n}}\n"
    );
    let mut m = Machine::new("h100", Options { seed, ..Options::all() }).unwrap();
    m.load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let d = m.upload(&[0u32; 256]);
    let report = m.launch("k", 1, block, 0, &[d.into()]);
    (m.read(d, 256), report)
}

/// Predicates of one lane after a sequence, as 0 and 1.
fn sequence(body: &str, results: usize) -> Vec<u32> {
    let (got, report) = launch(body, 1, None);
    report.ok();
    got[..results].to_vec()
}

fn show(n: usize) -> String {
    format!("selp.u32 %r9, 1, 0, %p2;\nst.global.u32 [%rd1+{}], %r9;\n", 4 * n)
}

#[test]
fn a_phase_ends_with_the_last_arrival() {
    let test = "mbarrier.test_wait.shared.b64 %p2, [bar], %rd6;\n";
    let parity = "mbarrier.test_wait.parity.shared::cta.b64 %p2, [bar], 0;\n";
    let odd = "mbarrier.try_wait.parity.shared.b64 %p2, [bar], 1, 1000;\n";
    let body = format!(
        "mbarrier.init.shared.b64 [bar], 3;\nmbarrier.arrive.shared.b64 %rd6, [bar];\n\
         mbarrier.pending_count.b64 %r5, %rd6;\nst.global.u32 [%rd1], %r5;\n{test}{}\
         mbarrier.arrive.noComplete.shared.b64 %rd7, [bar], 1;\nmbarrier.pending_count.b64 %r5, %rd7;\n\
         st.global.u32 [%rd1+8], %r5;\n{parity}{}{odd}{}mbarrier.arrive.release.cta.shared.b64 _, [bar];\n\
         {test}{}{parity}{}{odd}{}mbarrier.inval.shared.b64 [bar];",
        show(1),
        show(3),
        show(4),
        show(5),
        show(6),
        show(7)
    );
    assert_eq!(sequence(&body, 8), [3, 0, 2, 0, 1, 1, 1, 0]);
}

#[test]
fn transactions_hold_a_phase_open() {
    let parity = "mbarrier.test_wait.parity.shared.b64 %p2, [bar], 0;\n";
    let body = format!(
        "mbarrier.init.shared.b64 [bar], 1;\nmbarrier.arrive.expect_tx.shared.b64 %rd6, [bar], 96;\n{parity}{}\
         mbarrier.complete_tx.relaxed.cta.shared.b64 [bar], 32;\n{parity}{}\
         mbarrier.complete_tx.relaxed.cta.shared.b64 [bar], 64;\n{parity}{}\
         mbarrier.complete_tx.relaxed.cta.shared.b64 [bar], 8;\n\
         mbarrier.expect_tx.relaxed.cta.shared.b64 [bar], 8;\nmbarrier.arrive.shared.b64 %rd6, [bar];\n\
         mbarrier.test_wait.parity.shared.b64 %p2, [bar], 1;\n{}",
        show(0),
        show(1),
        show(2),
        show(3)
    );
    assert_eq!(sequence(&body, 4), [0, 0, 1, 1]);
}

#[test]
fn a_drop_lasts() {
    let body = format!(
        "mbarrier.init.shared.b64 [bar], 2;\nmbarrier.arrive_drop.shared.b64 %rd6, [bar];\n\
         mbarrier.arrive.shared.b64 %rd6, [bar];\nmbarrier.test_wait.parity.shared.b64 %p2, [bar], 0;\n{}\
         mbarrier.arrive.shared.b64 %rd6, [bar];\nmbarrier.test_wait.parity.shared.b64 %p2, [bar], 1;\n{}",
        show(0),
        show(1)
    );
    assert_eq!(sequence(&body, 2), [1, 1]);
}

/// Warps hand over through an mbarrier; each lane reads what another warp wrote.
#[test]
fn an_mbarrier_orders_warps() {
    let body = "@%p1 mbarrier.init.shared.b64 [bar], 128;\nbar.sync 0;\nshl.b32 %r2, %r1, 2;\nmov.u32 %r3, x;\n\
        add.u32 %r4, %r3, %r2;\nst.shared.u32 [%r4], %r1;\nmbarrier.arrive.shared.b64 %rd6, [bar];\n\
        WAIT:\nmbarrier.try_wait.shared.b64 %p2, [bar], %rd6;\n@!%p2 bra WAIT;\n\
        xor.b32 %r4, %r2, 132;\nadd.u32 %r4, %r3, %r4;\nld.shared.u32 %r5, [%r4];\nst.global.u32 [%rd5], %r5;";
    for seed in [None, Some(1), Some(2), Some(3)] {
        let (got, report) = launch(body, 128, seed);
        report.ok();
        assert_eq!(got[..128], (0..128).map(|n| n ^ 33).collect::<Vec<u32>>(), "seed {seed:?}");
    }
}

#[test]
fn misuse_is_reported() {
    for body in [
        "mov.u32 %r2, bar;\nst.shared.u64 [%r2], 0;\nmbarrier.arrive.shared.b64 %rd6, [bar];",
        "mbarrier.init.shared.b64 [bar], 0;",
        "mbarrier.init.shared.b64 [bar], 1;\nmbarrier.arrive.shared.b64 %rd6, [bar], 2;",
        "mbarrier.init.shared.b64 [bar], 1;\nmbarrier.arrive.noComplete.shared.b64 %rd6, [bar], 1;",
        "mbarrier.init.shared.b64 [bar], 1;\nmbarrier.inval.shared.b64 [bar];\nmbarrier.inval.shared.b64 [bar];",
    ] {
        let (_, report) = launch(body, 1, None);
        assert!(report.fault.is_some(), "{body}");
        assert!(report.findings.iter().any(|f| f.tool == Tool::Synccheck), "{body}");
    }
}
