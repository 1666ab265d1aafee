//! Exchange between lanes, against its definition lane by lane.

use crate::alu::machine;
use crate::exact::Rng;
use inp_cuda_emulator::check::Finding;
use inp_cuda_emulator::options::Options;
use inp_cuda_emulator::run::Machine;

/// Runs one warp; `%a %b %c` are the lane's inputs, `%d` its result.
fn warp(m: &mut Machine, code: &str, ins: &[[u32; 32]]) -> [u32; 32] {
    run(m, code, 32, ins).0
}
fn run(m: &mut Machine, code: &str, threads: u32, ins: &[[u32; 32]]) -> ([u32; 32], Vec<Finding>) {
    let mut text = String::from(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out)\n{\n\
         .reg .pred %p, %q; .reg .b32 %t<8>; .reg .b32 %a, %b, %c, %d, %i; .reg .b64 %u<8>;\n\
         mov.u32 %i, %tid.x; mul.wide.u32 %u0, %i, 4; ld.param.u64 %u1, [in]; ld.param.u64 %u2, [out];\n\
         add.u64 %u1, %u1, %u0; add.u64 %u2, %u2, %u0; mov.u32 %d, 0;\n",
    );
    for (n, name) in ["a", "b", "c"][..ins.len()].iter().enumerate() {
        text += &format!("ld.global.u32 %{name}, [%u1+{}];\n", 128 * n);
    }
    text += &format!("{code}\nst.global.u32 [%u2], %d;\nret;\n}}\n");
    m.load(&text).unwrap_or_else(|e| panic!("{code}: {e}"));
    let (x, y) = (m.upload(&ins.concat()), m.upload(&[0u32; 32]));
    let report = m.launch("k", 1, threads, 0, &[x.into(), y.into()]);
    assert!(report.fault.is_none(), "{code}");
    let r = m.read::<u32>(y, 32);
    (std::array::from_fn(|l| r[l]), report.findings)
}
fn random(rng: &mut Rng) -> [u32; 32] {
    std::array::from_fn(|_| rng.next() as u32)
}

#[test]
fn shuffles() {
    let m = &mut machine();
    let mut rng = Rng(1);
    for mode in ["up", "down", "bfly", "idx"] {
        for case in 0..60 {
            let a = random(&mut rng);
            let width = 1u32 << (rng.next() % 6);
            // As the CUDA intrinsics of that width do it, or anything.
            let b: [u32; 32] = match case % 3 {
                0 => [rng.next() as u32 % 32; 32],
                _ => std::array::from_fn(|_| rng.next() as u32 % 40),
            };
            let c = match case % 4 {
                3 => rng.next() as u32 & 0x1f1f,
                _ => (32 - width) << 8 | if mode == "up" { 0 } else { 31 },
            };
            let constant = case % 3 == 0;
            let by = if constant { b[0].to_string() } else { "%b".into() };
            let code = format!(
                "shfl.sync.{mode}.b32 %t0|%p, %a, {by}, {c}, 0xffffffff; selp.u32 %t1, 0x10001, 1, %p; xor.b32 %d, %t0, %t1;"
            );
            let got = warp(m, &code, &[a, b]);
            let (clamp, mask) = (c & 31, c >> 8 & 31);
            for lane in 0..32u32 {
                let bval = b[lane as usize] & 31;
                let max = (lane & mask | clamp & !mask) as i32;
                let min = (lane & mask) as i32;
                let j = match mode {
                    "up" => lane as i32 - bval as i32,
                    "down" => lane as i32 + bval as i32,
                    "bfly" => (lane ^ bval) as i32,
                    _ => min | (bval & !mask) as i32,
                };
                let inside = if mode == "up" { j >= max } else { j <= max };
                let from = if inside { j as usize } else { lane as usize };
                let want = a[from] ^ if inside { 0x10001 } else { 1 };
                assert_eq!(got[lane as usize], want, "{code} lane {lane} of {b:?}");
                // The intrinsics' own words: a segment of `width` lanes, out of it one's own value.
                if case % 4 != 3 && mode == "down" && bval < width {
                    let same = (lane + bval) / width == lane / width;
                    assert_eq!(from, if same { lane + bval } else { lane } as usize);
                }
            }
        }
    }
}

#[test]
fn votes_matches_and_reductions() {
    let m = &mut machine();
    let mut rng = Rng(2);
    for case in 0..40 {
        let few = 1 + rng.next() as u32 % 4;
        let a: [u32; 32] = std::array::from_fn(|_| rng.next() as u32 % few);
        let wide = random(&mut rng);
        // Two halves with masks of their own meet at the same instruction.
        let split = rng.next() as u32;
        let split = if case % 3 == 0 || split == 0 { !0 } else { split };
        let masks: [u32; 32] = std::array::from_fn(|l| if split >> l & 1 == 1 { split } else { !split });
        let groups = |l: usize| (0..32).filter(move |k| masks[l] >> k & 1 == 1);
        let each = |f: &dyn Fn(usize) -> u32| -> [u32; 32] { std::array::from_fn(f) };
        let yes = |k: usize| a[k] != 0;
        for (op, f) in [
            ("all", Box::new(|l| groups(l).all(yes)) as Box<dyn Fn(usize) -> bool>),
            ("any", Box::new(|l| groups(l).any(yes))),
            ("uni", Box::new(|l| groups(l).all(yes) || !groups(l).any(yes))),
        ] {
            let code =
                format!("setp.ne.u32 %p, %a, 0; vote.sync.{op}.pred %q, %p, %b; selp.u32 %d, 1, 0, %q;");
            assert_eq!(warp(m, &code, &[a, masks]), each(&|l| u32::from(f(l))), "{code}");
        }
        let code = "setp.ne.u32 %p, %a, 0; vote.sync.ballot.b32 %d, !%p, %b;";
        assert_eq!(
            warp(m, code, &[a, masks]),
            each(&|l| groups(l).filter(|k| !yes(*k)).map(|k| 1 << k).sum())
        );
        let same = |l: usize| groups(l).filter(|k| a[*k] == a[l]).map(|k| 1u32 << k).sum::<u32>();
        assert_eq!(warp(m, "match.any.sync.b32 %d, %a, %b;", &[a, masks]), each(&same));
        let code = "match.all.sync.b32 %t0|%p, %a, %b; selp.u32 %t1, 5, 3, %p; xor.b32 %d, %t0, %t1;";
        assert_eq!(warp(m, code, &[a, masks]), each(&|l| if same(l) == masks[l] { masks[l] ^ 5 } else { 3 }));
        let code = "cvt.u64.u32 %u3, %a; shl.b64 %u3, %u3, 40; match.any.sync.b64 %d, %u3, %b;";
        assert_eq!(warp(m, code, &[a, masks]), each(&same));

        type Fold = fn(u32, u32) -> u32;
        let folds: [(&str, Fold); 8] = [
            ("add.u32", u32::wrapping_add),
            ("min.u32", u32::min),
            ("max.u32", u32::max),
            ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
            ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
            ("and.b32", |a, b| a & b),
            ("or.b32", |a, b| a | b),
            ("xor.b32", |a, b| a ^ b),
        ];
        for (op, f) in folds {
            let want = each(&|l| groups(l).map(|k| wide[k]).reduce(f).unwrap());
            assert_eq!(warp(m, &format!("redux.sync.{op} %d, %a, %b;"), &[wide, masks]), want, "{op}");
        }
        let code = "elect.sync %t0|%p, %b; selp.u32 %t1, 100, 0, %p; add.u32 %d, %t0, %t1;";
        let leader = |l: usize| masks[l].trailing_zeros();
        assert_eq!(
            warp(m, code, &[a, masks]),
            each(&|l| leader(l) + if leader(l) == l as u32 { 100 } else { 0 })
        );
    }
    let code = "setp.lt.u32 %p, %i, 5; @%p activemask.b32 %d;";
    assert_eq!(warp(m, code, &[]), std::array::from_fn(|l| if l < 5 { 31 } else { 0 }));
    let divergent =
        "setp.lt.u32 %p, %i, 7; @%p bra LOW; activemask.b32 %d; bra END; LOW: activemask.b32 %d; END:";
    assert_eq!(warp(m, divergent, &[]), std::array::from_fn(|l| if l < 7 { 127 } else { !127 }));
}

#[test]
fn wrong_member_masks_are_reported() {
    let mut m = Machine::new("h100", Options { synccheck: true, ..Options::default() }).expect("a device");
    let words = |m: &mut Machine, code: &str, threads: u32| -> Vec<String> {
        run(m, code, threads, &[]).1.into_iter().map(|f| f.what).collect()
    };
    let fine = [
        ("shfl.sync.bfly.b32 %d, %i, 1, 31, 0xffffffff;", 32),
        // Lanes that do not exist need not come.
        ("vote.sync.ballot.b32 %d, 1, 0xffffffff;", 20),
        ("shfl.sync.down.b32 %d, %i, 1, 31, 0xffffffff;", 20),
        ("setp.lt.u32 %p, %i, 16; @%p shfl.sync.bfly.b32 %d, %i, 1, 31, 0xffff;", 32),
    ];
    for (code, threads) in fine {
        assert_eq!(words(&mut m, code, threads), Vec::<String>::new(), "{code}");
    }
    // Lanes that come later are waited for; those that exit without coming are named.
    let later = "setp.lt.u32 %p, %i, 16; mov.u32 %t0, 5; @%p bra ON; LOOP: sub.u32 %t0, %t0, 1; setp.ne.u32 %q, %t0, 0; \
                 @%q bra LOOP; ON: shfl.sync.bfly.b32 %d, %i, 16, 31, 0xffffffff;";
    let gone = "setp.lt.u32 %p, %i, 16; @!%p bra OUT; shfl.sync.bfly.b32 %d, %i, 1, 31, 0xffffffff; OUT:";
    assert_eq!(words(&mut m, later, 32), Vec::<String>::new());
    let bad = [
        (gone, "have exited"),
        (
            "setp.lt.u32 %p, %i, 16; @%p shfl.sync.bfly.b32 %d, %i, 1, 31, 0xffffffff; bar.sync 0;",
            "names lanes",
        ),
        ("shfl.sync.bfly.b32 %d, %i, 1, 31, 0xffff;", "leaves out"),
        ("setp.lt.u32 %p, %i, 16; @%p redux.sync.add.u32 %d, %i, 0x1ffff; bar.sync 0;", "names lanes"),
        (
            "setp.lt.u32 %p, %i, 16; @%p shfl.sync.bfly.b32 %d, %i, 16, 31, 0xffff; bar.sync 0;",
            "reads from lane",
        ),
    ];
    for (code, what) in bad {
        let found = words(&mut m, code, 32);
        assert!(found.iter().any(|f| f.contains(what)), "{code}: {found:?}");
    }
}
