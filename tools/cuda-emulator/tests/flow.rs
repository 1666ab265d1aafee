//! Control flow, barriers, calls, and waiting for others: between lanes, warps and blocks.

use inp_cuda_emulator::error::Code;
use inp_cuda_emulator::options::Options;
use inp_cuda_emulator::run::{Arg, Machine};

/// Plain, and two adversarial schedules.
fn schedules() -> Vec<Options> {
    let seeded = |n| Options { seed: Some(n), ..Options::default() };
    let one = Options { threads: Some(1), ..Options::default() };
    vec![Options { budget: Some(1 << 26), ..one }, Options::default(), seeded(1), seeded(2)]
}

fn kernel(params: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k({params}) {{\n\
         .reg .pred %p<8>; .reg .b32 %r<32>; .reg .b64 %rd<16>; .reg .f32 %f<8>;\n{body}\n}}\n"
    )
}

const OUT: &str = ".param .u64 out";
/// `%rd1`: the address of this thread's (in the grid) word of `out`; `%r1`: the thread; `%r2`: the lane.
const MINE: &str = "ld.param.u64 %rd0, [out]; mov.u32 %r0, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r1, %tid.x;
    mad.lo.s32 %r0, %r0, %r2, %r1; mul.wide.u32 %rd1, %r0, 4; add.s64 %rd1, %rd0, %rd1; mov.u32 %r2, %laneid;";

fn machine(ptx: &str, options: Options) -> Machine {
    let mut m = Machine::new("h100", options).unwrap();
    m.load(ptx).unwrap();
    m
}

/// Runs `k(out)` under every schedule and compares `out`, a word for each thread, with what is expected.
fn check(ptx: &str, grid: u32, block: u32, want: impl Fn(u32) -> u32) {
    for options in schedules() {
        let m = machine(ptx, options.clone());
        let out = m.upload(&vec![0u32; (grid * block) as usize]);
        m.launch("k", grid, block, 0, &[out.into()]).ok();
        let got = m.read::<u32>(out, (grid * block) as usize);
        let want: Vec<u32> = (0..grid * block).map(&want).collect();
        assert_eq!(got, want, "{options:?}");
    }
}

#[test]
fn straight_line() {
    check(
        &kernel(OUT, &format!("{MINE} mad.lo.s32 %r3, %r0, 3, 7; st.global.u32 [%rd1], %r3; ret;")),
        3,
        70,
        |i| 3 * i + 7,
    );
}

#[test]
fn loops_diverge_and_meet_again() {
    // Each lane counts to its own number; all lanes store together.
    let body = format!(
        "{MINE} mov.u32 %r3, 0; mov.u32 %r4, 0;
        L: setp.ge.u32 %p1, %r3, %r2; @%p1 bra D; add.u32 %r4, %r4, %r3; add.u32 %r3, %r3, 1; bra L;
        D: and.b32 %r5, %r2, 1; setp.eq.u32 %p2, %r5, 0; @%p2 bra E; add.u32 %r4, %r4, 1000; bra F;
        E: add.u32 %r4, %r4, 2000;
        F: activemask.b32 %r6; setp.ne.u32 %p3, %r6, -1; @%p3 add.u32 %r4, %r4, 100000;
        st.global.u32 [%rd1], %r4; ret;"
    );
    check(&kernel(OUT, &body), 2, 64, |i| {
        let l = i % 32;
        l * l.wrapping_sub(1) / 2 + if l % 2 == 1 { 1000 } else { 2000 }
    });
}

#[test]
fn barrier_orders_shared_memory() {
    let body = format!(
        ".shared .align 4 .b8 s[1024]; {MINE} shl.b32 %r3, %r1, 2; mov.u32 %r4, s; add.u32 %r5, %r4, %r3;
        st.shared.u32 [%r5], %r1; bar.sync 0; mov.u32 %r6, 255; sub.u32 %r6, %r6, %r1; shl.b32 %r6, %r6, 2;
        add.u32 %r6, %r4, %r6; ld.shared.u32 %r7, [%r6]; st.global.u32 [%rd1], %r7; ret;"
    );
    check(&kernel(OUT, &body), 4, 256, |i| 255 - i % 256);
}

#[test]
fn barrier_counts_only_threads_that_are_left() {
    let body =
        format!("{MINE} setp.lt.u32 %p1, %r1, 40; @%p1 exit; bar.sync 0; st.global.u32 [%rd1], 1; ret;");
    check(&kernel(OUT, &body), 2, 128, |i| u32::from(i % 128 >= 40));
}

#[test]
fn barrier_reduces() {
    let body = format!(
        "{MINE} setp.lt.u32 %p1, %r1, 40; bar.red.popc.u32 %r3, 1, %p1; bar.red.and.pred %p2, 2, %p1;
        bar.red.or.pred %p3, 3, %p1; selp.u32 %r4, 1000, 0, %p2; selp.u32 %r5, 2000, 0, %p3; add.u32 %r3, %r3, %r4;
        add.u32 %r3, %r3, %r5; st.global.u32 [%rd1], %r3; ret;"
    );
    check(&kernel(OUT, &body), 2, 96, |_| 2040);
}

#[test]
fn producer_and_consumer_by_named_barriers() {
    // Warp 0 fills, warp 1 drains, four times; 1: full, 2: empty.
    let body = format!(
        ".shared .align 4 .b8 s[128]; {MINE} mov.u32 %r10, s; shl.b32 %r11, %r2, 2; add.u32 %r10, %r10, %r11;
        mov.u32 %r3, 0; mov.u32 %r4, 0; setp.lt.u32 %p1, %r1, 32; @!%p1 bra C;
        P: bar.sync 2, 64; add.u32 %r5, %r3, %r2; st.shared.u32 [%r10], %r5; bar.arrive 1, 64; add.u32 %r3, %r3, 1;
        setp.lt.u32 %p2, %r3, 4; @%p2 bra P; bra D;
        C: bar.arrive 2, 64; bar.sync 1, 64; ld.shared.u32 %r5, [%r10]; add.u32 %r4, %r4, %r5; add.u32 %r3, %r3, 1;
        setp.lt.u32 %p2, %r3, 4; @%p2 bra C;
        D: st.global.u32 [%rd1], %r4; ret;"
    );
    check(&kernel(OUT, &body), 2, 64, |i| if i % 64 < 32 { 0 } else { 6 + 4 * (i % 32) });
}

#[test]
fn a_lock_between_lanes_warps_and_blocks() {
    let body = "ld.param.u64 %rd0, [out];
        L: atom.global.acquire.gpu.cas.b32 %r1, [%rd0], 0, 1; setp.ne.u32 %p1, %r1, 0; @%p1 bra L;
        ld.volatile.global.u32 %r2, [%rd0+4]; add.u32 %r2, %r2, 1; st.volatile.global.u32 [%rd0+4], %r2;
        membar.gl; atom.global.exch.b32 %r3, [%rd0], 0; ret;";
    for options in schedules() {
        let m = machine(&kernel(OUT, body), options);
        let out = m.upload(&[0u32, 0]);
        m.launch("k", 6, 64, 0, &[out.into()]).ok();
        assert_eq!(m.read::<u32>(out, 2), [0, 384]);
    }
}

#[test]
fn blocks_wait_for_the_block_before_and_after() {
    // A chain: block b waits for its neighbour's flag; upwards, then downwards.
    for step in
        ["add.u32 %r4, %r3, -1; setp.eq.u32 %p1, %r3, 0;", "add.u32 %r4, %r3, 1; setp.eq.u32 %p1, %r3, 19;"]
    {
        let body = format!(
            "ld.param.u64 %rd0, [out]; mov.u32 %r3, %ctaid.x; {step} mov.u32 %r6, 0; @%p1 bra S;
            mul.wide.u32 %rd2, %r4, 4; add.s64 %rd2, %rd0, %rd2;
            W: ld.acquire.gpu.global.u32 %r6, [%rd2]; setp.eq.u32 %p2, %r6, 0; @%p2 bra W;
            S: mul.wide.u32 %rd1, %r3, 4; add.s64 %rd1, %rd0, %rd1; add.u32 %r6, %r6, 1;
            st.release.gpu.global.u32 [%rd1], %r6; ret;"
        );
        for options in schedules() {
            let m = machine(&kernel(OUT, &body), options);
            let out = m.upload(&[0u32; 20]);
            m.launch("k", 20, 1, 0, &[out.into()]).ok();
            let mut got = m.read::<u32>(out, 20);
            got.sort();
            assert_eq!(got, (1..=20).collect::<Vec<u32>>());
        }
    }
}

#[test]
fn counting_is_not_waiting() {
    // Long enough that a loop which waited would be said to hang.
    let body = "ld.param.u64 %rd0, [out]; mov.u32 %r1, 0;
        L: atom.global.add.u32 %r2, [%rd0], 1; add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 5000000; @%p1 bra L; ret;";
    let m = machine(&kernel(OUT, body), Options::default());
    let out = m.upload(&[0u32]);
    m.launch("k", 1, 1, 0, &[out.into()]).ok();
    assert_eq!(m.read::<u32>(out, 1), [5000000]);
}

#[test]
fn a_barrier_of_the_grid() {
    let body = "ld.param.u64 %rd0, [out]; mov.u32 %r9, 0; mov.u32 %r1, %tid.x; mov.u32 %r7, %nctaid.x;
        R: bar.sync 0; setp.ne.u32 %p1, %r1, 0; @%p1 bra J; membar.gl; add.u32 %r9, %r9, 1;
        mul.lo.u32 %r8, %r7, %r9; atom.global.add.u32 %r2, [%rd0], 1;
        W: ld.volatile.global.u32 %r3, [%rd0]; setp.lt.u32 %p2, %r3, %r8; @%p2 bra W; membar.gl; add.u32 %r9, %r9, -1;
        J: bar.sync 0; add.u32 %r9, %r9, 1; setp.lt.u32 %p3, %r9, 5; @%p3 bra R; ret;";
    for options in schedules() {
        let m = machine(&kernel(OUT, body), options);
        let out = m.upload(&[0u32]);
        m.cooperate("k", 100, 128, 0, &[out.into()]).ok();
        assert_eq!(m.read::<u32>(out, 1), [500]);
    }
}

const CALLS: &str = ".version 8.0\n.target sm_80\n.address_size 64
.func (.param .b32 ret) twice(.param .b32 x) {
  .reg .b32 %r<4>; ld.param.u32 %r1, [x]; shl.b32 %r1, %r1, 1; st.param.b32 [ret], %r1; ret; }
.func (.param .b32 ret) thrice(.param .b32 x) {
  .reg .b32 %r<4>; ld.param.u32 %r1, [x]; mul.lo.u32 %r1, %r1, 3; st.param.b32 [ret], %r1; ret; }
.func (.param .b32 ret) sum(.param .b32 n) {
  .local .align 4 .b8 keep[8];
  .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p<2>;
  ld.param.u32 %r1, [n]; mov.u64 %rd1, keep; st.local.u32 [%rd1+4], %r1; mov.u32 %r3, 0;
  setp.eq.u32 %p1, %r1, 0; @%p1 bra D; add.u32 %r2, %r1, -1;
  { .param .b32 a; .param .b32 b; st.param.b32 [a], %r2; call.uni (b), sum, (a); ld.param.b32 %r3, [b]; }
  ld.local.u32 %r4, [keep+4]; add.u32 %r3, %r3, %r4;
  D: st.param.b32 [ret], %r3; ret; }
.global .align 8 .u64 table[2] = {twice, thrice};
.visible .entry k(.param .u64 out) {
  .reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .pred %p<4>;
  ld.param.u64 %rd0, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd1, %r1, 4; add.s64 %rd1, %rd0, %rd1;
  { .param .b32 a; .param .b32 b; st.param.b32 [a], %r1; call (b), sum, (a); ld.param.b32 %r2, [b]; }
  and.b32 %r3, %r1, 1; mul.wide.u32 %rd2, %r3, 8; mov.u64 %rd3, table; add.s64 %rd3, %rd3, %rd2;
  ld.global.u64 %rd4, [%rd3];
  { .param .b32 a; .param .b32 b; st.param.b32 [a], %r2;
  proto: .callprototype (.param .b32 _) _ (.param .b32 _);
  call (b), %rd4, (a), proto; ld.param.b32 %r2, [b]; }
  st.global.u32 [%rd1], %r2; ret; }";

#[test]
fn calls_recursion_and_pointers() {
    check(CALLS, 1, 64, |i| i * (i + 1) / 2 * (2 + i % 2));
}

#[test]
fn endless_recursion_uses_up_the_stack() {
    let m = machine(CALLS, Options { budget: Some(1 << 24), ..Options::default() });
    let ptx = CALLS.replace("setp.eq.u32 %p1, %r1, 0;", "setp.eq.u32 %p1, 0, 1;");
    let m2 = machine(&ptx, m.options.clone());
    let out = m2.upload(&[0u32; 32]);
    let fault = m2.launch("k", 1, 32, 0, &[out.into()]).fault.unwrap();
    assert_eq!(fault.1.code, Code::HardwareStackError);
}

#[test]
fn indexed_branch() {
    let body = format!(
        "{MINE} and.b32 %r3, %r2, 3; ts: .branchtargets A, B, C, D; brx.idx %r3, ts;
        A: mov.u32 %r4, 10; bra E; B: mov.u32 %r4, 11; bra E; C: mov.u32 %r4, 12; bra E; D: mov.u32 %r4, 13;
        E: st.global.u32 [%rd1], %r4; ret;"
    );
    check(&kernel(OUT, &body), 1, 64, |i| 10 + i % 4);
}

fn fault(body: &str, options: Options) -> (u32, Code, String) {
    let m = machine(&kernel(OUT, body), options);
    let out = m.upload(&[0u32; 64]);
    let (site, f) = m.launch("k", 1, 64, 0, &[out.into()]).fault.expect("a fault");
    assert_eq!(site.kernel, "k");
    (site.line, f.code, f.what)
}

#[test]
fn memory_is_taken_from_the_stack_and_given_back() {
    // Two arrays of each thread, the second of a size of its own and taken again at the same place.
    let body = format!(
        "{MINE} shl.b32 %r3, %r2, 2; add.u32 %r3, %r3, 4; cvt.u64.u32 %rd7, %r3;
        alloca.u64 %rd2, 68, 32; st.local.u32 [%rd2+64], %r0; stacksave.u64 %rd3; alloca.u64 %rd4, %rd7;
        cvta.local.u64 %rd8, %rd4; add.u64 %rd8, %rd8, %rd7; st.u32 [%rd8-4], %r2; stackrestore.u64 %rd3;
        cvt.u32.u64 %r4, %rd3; stackrestore.u32 %r4; alloca.u32 %r4, %r3, 4; cvt.u64.u32 %rd5, %r4; add.u64 %rd4, %rd4, 4;
        sub.u64 %rd6, %rd4, %rd5; cvt.u32.u64 %r5, %rd6; and.b64 %rd6, %rd2, 31; cvt.u32.u64 %r6, %rd6;
        ld.local.u32 %r7, [%rd2+64]; mad.lo.u32 %r7, %r5, 1000, %r7; mad.lo.u32 %r7, %r6, 77, %r7;
        st.global.u32 [%rd1], %r7; ret;"
    );
    // Behind 68 bytes, aligned to 8 and to 4.
    check(&kernel(OUT, &body), 2, 64, |i| i + 8 * 1000);
    let fails = |body: &str| fault(&format!("{body} ret;"), Options::default()).1;
    let past = "alloca.u64 %rd2, 16; ld.local.u32 %r1, [%rd2+16];";
    assert_eq!(fails(past), Code::IllegalAddress);
    let gone = "stacksave.u64 %rd3; alloca.u64 %rd2, 16; stackrestore.u64 %rd3; st.local.u32 [%rd2], %r1;";
    assert_eq!(fails(gone), Code::IllegalAddress);
    assert_eq!(fails("alloca.u64 %rd2, 1000000;"), Code::HardwareStackError);
    assert_eq!(fails("mov.u64 %rd2, 5; stackrestore.u64 %rd2;"), Code::HardwareStackError);
}

#[test]
fn deadlocks_and_endless_loops_end() {
    let body = "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 32;\n@%p1 bar.sync 3, 64;\nret;";
    for options in schedules() {
        let (line, code, what) = fault(body, options);
        assert_eq!((line, code), (7, Code::LaunchTimeout), "{what}");
        assert!(what.contains("barrier 3"), "{what}");
    }
    let body = "ld.param.u64 %rd0, [out];\nL: ld.volatile.global.u32 %r1, [%rd0]; setp.eq.u32 %p1, %r1, 0; @%p1 bra L; ret;";
    assert_eq!(fault(body, Options::default()).1, Code::LaunchTimeout);
    let options = Options { budget: Some(10_000), ..Options::default() };
    assert_eq!(fault("L: bra L;", options).1, Code::LaunchTimeout);
}

#[test]
fn traps_and_wrong_barriers() {
    assert_eq!(fault("trap; ret;", Options::default()).1, Code::LaunchFailed);
    assert_eq!(fault("mov.u32 %r1, 16; bar.sync %r1; ret;", Options::default()).1, Code::IllegalInstruction);
    assert_eq!(fault("bar.sync 1, 33; ret;", Options::default()).1, Code::IllegalInstruction);
}

#[test]
fn synccheck_sees_a_divergent_barrier() {
    let body = "mov.u32 %r1, %laneid; setp.lt.u32 %p1, %r1, 7; @%p1 bra A; bar.sync 0; bra B; A: bar.sync 0; B: ret;";
    let m = machine(&kernel(OUT, body), Options { synccheck: true, ..Options::default() });
    let report = m.launch("k", 1, 64, 0, &[0u64.into()]);
    assert!(report.findings.iter().any(|f| f.what.contains("barrier 0")), "{:?}", report.findings);
}

#[test]
fn a_warp_meets_at_its_barrier_and_exchange() {
    // Odd lanes loop longer; the exchange waits for them. Then halves meet at barriers in different branches.
    let body = format!(
        "{MINE} and.b32 %r3, %r2, 1; mov.u32 %r4, 0; setp.eq.u32 %p1, %r3, 0; @%p1 bra G;
        L: add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 1000; @%p2 bra L;
        G: shfl.sync.bfly.b32 %r5, %r4, 1, 31, -1; setp.lt.u32 %p3, %r2, 16; @%p3 bra A; bar.warp.sync -1; bra B;
        A: bar.warp.sync -1; B: st.global.u32 [%rd1], %r5; ret;"
    );
    check(&kernel(OUT, &body), 2, 64, |i| if i % 2 == 1 { 0 } else { 1000 });
    let m = machine(&kernel(OUT, &body), Options::all());
    let out = m.upload(&[0u32; 64]);
    m.launch("k", 1, 64, 0, &[out.into()]).ok();
}

#[test]
fn registers_that_share_a_place_keep_apart() {
    // Two ways through a loop with temporaries of their own; %r12 and %r13 are written under guards, before and in it.
    let body = format!(
        "{MINE} mov.u32 %r3, 0; mov.u32 %r4, 0; and.b32 %r5, %r2, 1; setp.eq.u32 %p1, %r5, 1;
        setp.lt.u32 %p4, %r2, 5; @%p4 mov.u32 %r13, 77;
        L: @%p1 bra O;
        mul.lo.u32 %r6, %r3, 3; add.u32 %r7, %r6, %r2; mul.lo.u32 %r8, %r7, %r7; add.u32 %r4, %r4, %r8; bra N;
        O: add.u32 %r9, %r3, 11; xor.b32 %r10, %r9, %r2; add.u32 %r11, %r10, %r10; add.u32 %r4, %r4, %r11;
        N: setp.eq.u32 %p2, %r3, 2; @%p2 mov.u32 %r12, %r4; add.u32 %r3, %r3, 1;
        setp.lt.u32 %p3, %r3, 4; @%p3 bra L;
        selp.u32 %r14, %r13, 0, %p4; add.u32 %r15, %r4, %r12; add.u32 %r16, %r15, %r14;
        st.global.u32 [%rd1], %r16; ret;"
    );
    check(&kernel(OUT, &body), 2, 70, |i| {
        let lane = i % 70 % 32;
        let term = |n: u32| if lane % 2 == 1 { ((n + 11) ^ lane) * 2 } else { (3 * n + lane).pow(2) };
        let sum = |n: u32| (0..n).map(term).sum::<u32>();
        sum(4) + sum(3) + if lane < 5 { 77 } else { 0 }
    });
}

#[test]
fn prints_and_asserts() {
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64
.extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);
.extern .func __assertfail(.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 c);
.global .align 1 .b8 text[22] = {120,61,37,53,100,32,121,61,37,46,50,102,32,37,115,32,37,37,10,0,0,0};
.global .align 1 .b8 word[3] = {111,107,0};
.visible .entry k(.param .u32 x) {
  .local .align 8 .b8 args[24]; .reg .b64 %rd<8>; .reg .b32 %r<4>; .reg .f64 %d<2>; .reg .pred %p;
  ld.param.u32 %r1, [x]; setp.eq.u32 %p, %r1, 7; @%p bra A;
  mov.u64 %rd1, args; cvta.local.u64 %rd1, %rd1; st.u32 [%rd1], %r1; mov.f64 %d1, 0d4004000000000000;
  st.f64 [%rd1+8], %d1; mov.u64 %rd3, word; cvta.global.u64 %rd3, %rd3; st.u64 [%rd1+16], %rd3;
  mov.u64 %rd2, text; cvta.global.u64 %rd2, %rd2;
  { .param .b64 f; .param .b64 a; .param .b32 r; st.param.b64 [f], %rd2; st.param.b64 [a], %rd1;
  call.uni (r), vprintf, (f, a); ld.param.b32 %r2, [r]; }
  ret;
  A: mov.u64 %rd3, word; cvta.global.u64 %rd3, %rd3; mov.u32 %r3, 12; mov.u64 %rd4, 1;
  { .param .b64 m; .param .b64 f; .param .b32 l; .param .b64 n; .param .b64 c; st.param.b64 [m], %rd3;
  st.param.b64 [f], %rd3; st.param.b32 [l], %r3; st.param.b64 [n], %rd3; st.param.b64 [c], %rd4;
  call.uni __assertfail, (m, f, l, n, c); }
  ret; }";
    let m = machine(ptx, Options::default());
    let report = m.launch("k", 1, 2, 0, &[(-3i32).into()]);
    report.ok();
    assert_eq!(report.printed, "x=   -3 y=2.50 ok %\n".repeat(2));
    let (_, f) = m.launch("k", 1, 1, 0, &[7i32.into()]).fault.unwrap();
    assert_eq!(f.code, Code::AssertFailed);
    assert!(f.what.contains("ok:12"), "{}", f.what);
}

#[test]
fn unknown_instructions_are_named_with_their_lines() {
    let mut m = Machine::new("h100", Options::default()).unwrap();
    let e = m.load(&kernel(OUT, "frob.u32 %r1, %r2;\nquux.b64 %rd1;\nret;")).unwrap_err();
    let s = e.to_string();
    assert!(s.contains("line 6") && s.contains("frob.u32") && s.contains("line 7: quux.b64"), "{s}");
    let _: Arg = 1u32.into();
}
