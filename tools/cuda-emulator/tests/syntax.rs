//! What the front end makes of PTX text: names, lines, constants, addresses, initial values.

use inp_cuda_emulator::ptx::ast::{Module, Operand, Space, Type};
use inp_cuda_emulator::ptx::parse;

const HEAD: &str = ".version 9.0\n.target sm_90a, debug\n.address_size 64\n";

fn module(text: &str) -> Module {
    parse(&format!("{HEAD}{text}")).unwrap()
}
/// The body of a kernel with registers declared; it begins at line 7.
fn kernel(body: &str) -> Module {
    module(&format!(
        ".entry k(.param .u64 .ptr .global .align 16 a, .param .align 8 .b8 b[24]) .maxntid 64, 2\n{{\n\
         .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<4>; .reg .v2 .f32 %v;\n{body}\n}}\n"
    ))
}
fn error(text: &str) -> (u32, String) {
    let e = parse(text).map(drop).unwrap_err();
    (e.line, e.what)
}

#[test]
fn heads_and_parameters() {
    let m = kernel("ret;");
    assert_eq!((m.version, m.sm, m.suffix), ((9, 0), 90, Some('a')));
    let f = &m.functions[0];
    assert!(f.entry && f.defined && f.max_threads == Some([64, 2, 1]) && f.line == 4);
    let shapes: Vec<_> = f.params.iter().map(|p| (p.name.as_str(), p.ty, p.bytes, p.align)).collect();
    assert_eq!(shapes, [("a", Type::U64, 8, 8), ("b", Type::B8, 24, 8)]);
    let m = module(
        ".extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);\n.func f();\n.alias g, f;\n.func g();\n\
         .weak .func f() .noreturn { ret; }\n.entry c() .reqntid 32 .minnctapersm 2 .maxnreg 64 .reqnctapercluster 2, 1, 1 \
         .explicitcluster\n{ .pragma \"nounroll\"; call g; }",
    );
    assert_eq!(m.functions.iter().map(|f| f.defined).collect::<Vec<_>>(), [false, true, false, true]);
    let c = &m.functions[3];
    assert_eq!((c.required_threads, c.cluster, c.min_blocks), (Some([32, 1, 1]), Some([2, 1, 1]), Some(2)));
    assert_eq!((c.max_registers, &c.body[0].operands[0]), (Some(64), &Operand::Symbol("f".into(), 0)));
}

#[test]
fn operands() {
    let m = kernel(
        "@!%p1 shfl.sync.bfly.b32 %r1|%p2, %r2, -0x1, 1<<4 | (3 - 2)*2, 0b101;\n\
         ld.global.L2::128B.v2.b32 { %r1 , _ }, [ %rd1 + -8 ];\nld.param.u64 %rd1, [b+16];\n\
         mov.b32 %r3, %ctaid.y; mov.f32 %v.y, 0f3F800000; mov.f64 %rd2, -1.5e2;\nmov.u32 %r4, WARP_SZ;\n\
         cp.async.bulk.tensor.2d.shared::cluster.global.tile [%r1], [%rd2, {%r3, %r4}], [%r5];\n\
         call (b), vfn, (a, %r1), proto;\nproto: .callprototype (.param .b32 _) _ (.param .b64 _) ;\n\
         brx.idx %r1, list;\nlist: .branchtargets L0,\n L1;\nL0: and.pred %p1, !%p2, %p3;\nL1:"
            .replace("vfn", "%rd3")
            .as_str(),
    );
    let f = &m.functions[0];
    let reg = |name: &str| Operand::Reg(f.names.iter().position(|n| n == name).unwrap() as u32);
    let i = |n: usize| &f.body[n];
    assert!(i(0).guard.is_some_and(|g| g.1) && i(0).line == 7 && i(1).line == 8);
    assert_eq!(i(0).operands[0], Operand::Pair(Box::new(reg("%r1")), Box::new(reg("%p2"))));
    assert_eq!(i(0).operands[2..], [Operand::Int(-1), Operand::Int(18), Operand::Int(5)]);
    assert_eq!(i(1).mods, ["global", "L2::128B", "v2", "b32"]);
    assert_eq!(i(1).operands[0], Operand::Vector(vec![reg("%r1"), Operand::Sink]));
    let Operand::Address(a) = &i(1).operands[1] else { panic!("{:?}", i(1)) };
    assert_eq!((&a.base, a.offset), (&reg("%rd1"), -8));
    let Operand::Address(a) = &i(2).operands[1] else { panic!("{:?}", i(2)) };
    assert_eq!((&a.base, a.offset), (&Operand::Symbol("b".into(), 0), 16));
    assert_eq!(i(3).operands[1], Operand::Special("ctaid.y".into()));
    assert_eq!(i(4).operands, [reg("%v[1]"), Operand::F32(0x3f80_0000)]);
    assert_eq!(i(5).operands[1], Operand::F64((-150f64).to_bits()));
    assert_eq!(i(6).operands[1], Operand::Int(32));
    let Operand::Address(a) = &i(7).operands[1] else { panic!("{:?}", i(7)) };
    assert_eq!(a.coordinates, [reg("%r3"), reg("%r4")]);
    assert_eq!(i(8).operands[2], Operand::List(vec![Operand::Symbol("a".into(), 0), reg("%r1")]));
    assert_eq!(f.prototypes["proto"].params.len(), 1);
    assert_eq!(
        (&f.targets["list"], f.labels["L0"], f.labels["L1"]),
        (&vec!["L0".into(), "L1".into()], 10, 11)
    );
}

/// A nested block's registers, variables and labels are its own; jumps may leave it.
#[test]
fn blocks() {
    let block = "{ .reg .b32 %r<2>; .param .b64 p0; DO: mov.b32 %r1, 2; @%p1 bra DO; @%p2 bra OUT; st.param.b64 [p0], %rd1; }\n";
    let m = kernel(&format!("mov.b32 %r1, 1;\n{block}{block}OUT: mov.b32 %r1, 3;"));
    let f = &m.functions[0];
    assert_eq!(f.names.iter().filter(|n| *n == "%r1").count(), 3);
    assert_eq!(f.body[0].operands[0], f.body[9].operands[0]);
    let target = |n: usize| match &f.body[n].operands[0] {
        Operand::Symbol(name, 0) => f.labels[name],
        o => panic!("{o:?}"),
    };
    assert_eq!([target(2), target(3), target(6), target(7)], [1, 9, 5, 9]);
    assert_eq!(f.variables.iter().filter(|v| v.space == Space::Param).count(), 1);
}

#[test]
fn initial_values() {
    let m = module(
        ".global .align 4 .b8 s[6] = {1, 0x2, 3};\n.const .f32 f[2] = {0f3F800000, -2.5};\n.global .u16 g[2][3] = {{1}, {2, 3}};\n\
         .global .u64 p[2] = {generic(s)+4, f};\n.visible .global .u32 n[] = {7, 1 ? 8 : 9};\n.extern .shared .align 16 .b8 d[];\n\
         .global .align 8 .b8 q[10] = {5, 0, 0xFF(generic(s)), 0xFF00(generic(s)), 0xFF0000(generic(s))};\n.global .v4 .f32 v;",
    );
    let v = |name: &str| m.variables.iter().find(|v| v.name == name).unwrap();
    assert_eq!((&v("s").init[..], v("s").bytes), (&[1, 2, 3][..], 6));
    assert_eq!(v("f").init, [0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0]);
    assert_eq!(v("g").init, [1, 0, 0, 0, 0, 0, 2, 0, 3, 0]);
    let p: Vec<_> =
        v("p").relocations.iter().map(|r| (r.offset, &r.symbol[..], r.addend, r.generic)).collect();
    assert_eq!(p, [(0, "s", 4, true), (8, "f", 0, false)]);
    assert_eq!((v("n").bytes, &v("n").init[..], v("n").visible), (8, &[7, 0, 0, 0, 8, 0, 0, 0][..], true));
    assert!(v("d").external && v("d").bytes == 0 && v("d").align == 16);
    assert_eq!(
        (v("q").relocations[0].offset, v("q").relocations[0].bytes, v("q").relocations.len()),
        (2, 3, 1)
    );
    assert_eq!((v("v").bytes, v("v").align), (16, 16));
}

#[test]
fn sources() {
    let m = kernel(
        ".loc 1 20 3\nmov.b32 %r1, 1;\n.loc\t2 30 1, function_name $L__info_string0, inlined_at 1 21 5\nmov.b32 %r2, 2; /* a\n\
         comment */ mov.b32 %r3, 3; // more\n}\n.file 1 \"a.cu\"\n.file 2 \"b.h\", 12, 34\n\
         .section .debug_str {\n$L__info_string0:\n.b8 95, 90\n.b64 $L__tmp1-$L__tmp0\n}\n.entry e() {",
    );
    let f = &m.functions[0];
    assert_eq!(
        f.body.iter().map(|i| i.source).collect::<Vec<_>>(),
        [Some((1, 20)), Some((2, 30)), Some((2, 30))]
    );
    assert_eq!(f.body.iter().map(|i| i.line).collect::<Vec<_>>(), [8, 10, 11]);
    assert_eq!((&m.files[&1][..], &m.files[&2][..]), ("a.cu", "b.h"));
}

#[test]
fn errors_name_the_line_and_what_was_wanted() {
    let body = |s: &str| format!("{HEAD}.entry k() {{\n.reg .b32 %r<3>;\n{s}\n}}");
    for (text, line, words) in [
        (String::new(), 1, ".version"),
        (".version 8.0\n.target gfx90".into(), 2, "sm_80"),
        (format!("{HEAD}.address_size 32\n"), 5, "64"),
        (body("mov.b32 %r1, %r3;"), 6, "%r3"),
        (body("mov.b32 %r1, %r2"), 7, "`;`"),
        (body("bra NOWHERE;"), 6, "NOWHERE"),
        (body("mov.b32 %r1, 1/0;"), 6, "zero"),
        (body("L: L: ret;"), 6, "twice"),
        (body("ld.global.b32 %r1, [%r2;"), 6, "`]`"),
        (body("@%r1 ret;"), 6, "predicate"),
        (body("mov.b32 %r1, \u{e9};"), 6, "character"),
        (format!("{HEAD}.global .b8 x[2] = {{1, 2, 3}};"), 4, "room"),
        (format!("{HEAD}.global .texref t;"), 4, "type"),
        (format!("{HEAD}.entry k() {{ ret;"), 4, "`}`"),
    ] {
        let (at, what) = error(&text);
        assert!(
            at.abs_diff(line) <= u32::from(words == "64") && what.contains(words),
            "line {at}: {what}; wanted {line}: {words}"
        );
    }
}
