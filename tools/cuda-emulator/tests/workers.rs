//! Blocks on several worker threads at once: the checkers stay silent about what is ordered, however the workers meet.

use inp_cuda_emulator::options::Options;
use inp_cuda_emulator::run::{Arg, Machine};

/// `last`: blocks (0, y) and (1, y) each store a word and take a ticket; the second to come reads both words.
/// `fill`, then `read`: blocks (x, y) read the 32 · 16 bytes of y, as vectors or one word of each four.
const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry last(.param .u64 words, .param .u64 tickets)
{
    .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p;
    ld.param.u64 %rd1, [words]; ld.param.u64 %rd2, [tickets];
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y;
    mad.wide.u32 %rd2, %r2, 4, %rd2;
    mad.wide.u32 %rd1, %r2, 8, %rd1;
    mad.wide.u32 %rd3, %r1, 4, %rd1;
    st.global.u32 [%rd3], %r1;
    membar.gl;
    atom.global.add.u32 %r3, [%rd2], 1;
    membar.gl;
    setp.ne.u32 %p, %r3, 1;
    @%p ret;
    ld.global.u32 %r4, [%rd1];
    ld.global.u32 %r5, [%rd1+4];
    st.global.u32 [%rd1], %r5;
    st.global.u32 [%rd1+4], %r4;
    ret;
}
.visible .entry fill(.param .u64 words)
{
    .reg .b32 %r<9>; .reg .b64 %rd<9>;
    ld.param.u64 %rd1, [words];
    mov.u32 %r1, %ctaid.y; mov.u32 %r2, %tid.x;
    mad.lo.u32 %r1, %r1, 32, %r2;
    mad.wide.u32 %rd1, %r1, 16, %rd1;
    st.global.v4.u32 [%rd1], {%r1, %r1, %r1, %r1};
    ret;
}
.visible .entry read(.param .u64 words)
{
    .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p;
    ld.param.u64 %rd1, [words];
    mov.u32 %r1, %ctaid.y; mov.u32 %r2, %tid.x; mov.u32 %r3, %ctaid.x;
    mad.lo.u32 %r1, %r1, 32, %r2;
    mad.wide.u32 %rd1, %r1, 16, %rd1;
    setp.eq.u32 %p, %r3, 0;
    @%p bra VECTOR;
    ld.global.u32 %r4, [%rd1+4];
    ld.global.u32 %r4, [%rd1+8];
    ret;
VECTOR:
    ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd1];
    ret;
}
.visible .entry nothing()
{
    ret;
}
";

fn machine() -> Machine {
    let mut m = Machine::new("h100", Options { threads: Some(2), ..Options::all() }).expect("a machine");
    m.load(PTX).expect("it loads");
    m
}

fn silent(m: &Machine, name: &str, grid: (u32, u32), block: u32, args: &[Arg]) {
    let r = m.launch(name, grid, block, 0, args);
    let said: Vec<_> = r.findings.iter().take(3).map(ToString::to_string).collect();
    assert!(r.fault.is_none() && said.is_empty(), "{name}: {}", said.join("\n"));
}

#[test]
fn a_ticket_taken_last_knows_of_every_earlier_one() {
    let pairs = 100_000;
    let mut m = machine();
    for seed in [None, Some(1)] {
        m.options.seed = seed;
        let words = m.upload(&vec![0u32; 2 * pairs]);
        let tickets = m.upload(&vec![0u32; pairs]);
        silent(&m, "last", (2, pairs as u32), 1, &[words.into(), tickets.into()]);
    }
}

#[test]
fn words_and_vectors_of_constant_data_do_not_race() {
    let rows = 4096;
    let m = machine();
    let words = m.alloc(rows * 512);
    for _ in 0..8 {
        silent(&m, "fill", (1, rows as u32), 32, &[words.into()]);
        silent(&m, "read", (2, rows as u32), 32, &[words.into()]);
    }
}

#[test]
fn launches_whose_numbers_come_again_do_not_race_with_the_first() {
    let mut m = machine();
    m.options.threads = Some(1);
    let words = m.alloc(1024);
    silent(&m, "fill", (1, 2), 32, &[words.into()]);
    for _ in 1..u16::MAX {
        silent(&m, "nothing", (1, 1), 1, &[]);
    }
    silent(&m, "read", (2, 2), 32, &[words.into()]);
}
