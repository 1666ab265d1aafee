//! PTX of nvcc for five architectures (`parse/make.sh`), and messages.

use inp_cuda_emulator::ptx::ast::{Instr, Module};
use inp_cuda_emulator::ptx::parse;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}
fn features(arch: &str) -> (String, Module) {
    let text = std::fs::read_to_string(folder().join(format!("parse/features.{arch}.ptx"))).unwrap();
    let module = parse(&text).unwrap_or_else(|e| panic!("{arch}: {e}"));
    (text, module)
}
fn instructions(m: &Module) -> impl Iterator<Item = &Instr> {
    m.functions.iter().flat_map(|f| &f.body)
}

#[test]
fn every_architecture_is_read() {
    for (arch, sm, suffix) in [
        ("sm_80", 80, None),
        ("sm_89", 89, None),
        ("sm_90a", 90, Some('a')),
        ("sm_100a", 100, Some('a')),
        ("sm_120", 120, None),
    ] {
        let (text, m) = features(arch);
        assert_eq!((m.version, m.sm, m.suffix), ((9, 0), sm, suffix));
        assert_eq!(m.functions.iter().filter(|f| f.entry).count(), 2);
        let pairs = m.variables.iter().find(|v| v.name == "pairs").unwrap();
        assert_eq!((pairs.bytes, pairs.align), (48, 8));
        assert_eq!(pairs.init[16..18], (-3i16).to_le_bytes());
        assert_eq!(pairs.init[24..32], 1e-300f64.to_le_bytes());
        let words = m.variables.iter().find(|v| v.name == "words").unwrap();
        let found: Vec<_> = words.relocations.iter().map(|r| (r.offset, r.generic)).collect();
        assert_eq!(found, [(0, true), (8, true)]);
        let string = m.variables.iter().find(|v| v.name == words.relocations[1].symbol).unwrap();
        assert_eq!(&string.init[..5], b"\"two\"");
        // The line of an instruction is where its opcode stands.
        let lines: Vec<_> = text.lines().collect();
        for i in instructions(&m) {
            let line = lines[i.line as usize - 1];
            assert!(line.contains(&i.op), "{arch} line {}: {} is not in {line:?}", i.line, i.op);
        }
        // So is that of the source.
        let source = std::fs::read_to_string(folder().join("parse/features.cu")).unwrap();
        let barrier = instructions(&m).find(|i| i.op == "bar" || i.op == "barrier").unwrap();
        let (file, line) = barrier.source.unwrap();
        assert_eq!(m.files[&file], "features.cu");
        assert!(source.lines().nth(line as usize - 1).unwrap().contains("__syncthreads"), "{arch}: {line}");
    }
}

#[test]
fn messages_name_the_line_and_what_was_wanted() {
    let head = ".version 8.0\n.target sm_80\n.address_size 64\n";
    let body = |s: &str| format!("{head}.entry k(.param .u64 a) {{\n.reg .b32 %r<4>;\n{s}\n}}\n");
    for (text, line, what) in [
        (String::new(), 1, "`.version`"),
        (".version 8.0\n.address_size 64".into(), 2, "`.target`"),
        (".version 8.0\n.target compute_80".into(), 2, "sm_80"),
        (format!("{head}.texref t;"), 4, "textures"),
        (format!("{head}\nnonsense"), 5, "a directive"),
        (body("add.u32 %r1, %r2"), 7, "found `}`"),
        (body("add.u32 %r1, %r2, %q;"), 6, "%q"),
        (body("bra NOWHERE;"), 6, "NOWHERE"),
        (body("add.u32 %r1, [%r2, %r3;"), 6, "`]`"),
        (body("/* never ends"), 6, "comment"),
        (body(".reg .b33 %x;"), 6, "b33"),
        (format!("{head}.entry k() {{ ret;"), 4, "no closing `}`"),
    ] {
        let e = parse(&text).expect_err(&text);
        assert!(e.line == line && e.what.contains(what), "{text}\n{e}\nwanted line {line} and {what}");
    }
}
