//! PTX of nvcc for five architectures (`parse/make.sh`), messages, and damaged text.

use inp_cuda_emulator::options::Options;
use inp_cuda_emulator::ptx::ast::{Instr, Module};
use inp_cuda_emulator::ptx::parse;
use inp_cuda_emulator::run::{Arg, Machine};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}
/// All PTX files below the tests, by path.
fn corpus() -> Vec<String> {
    let (mut folders, mut files) = (vec![folder()], vec![]);
    while let Some(f) = folders.pop() {
        for e in std::fs::read_dir(f).unwrap() {
            let path = e.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "ptx") {
                files.push(path);
            }
        }
    }
    files.sort();
    files.iter().map(|f| std::fs::read_to_string(f).unwrap()).collect()
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

/// xorshift.
struct Random(u64);
impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }
}
/// Bytes changed, removed, or exchanged with other places of the text.
fn damaged(text: &str, random: &mut Random) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.below(3) {
        let (at, from) = (random.below(bytes.len()), random.below(bytes.len()));
        let n = random.below(12).min(bytes.len() - at).min(bytes.len() - from);
        match random.below(6) {
            0 => bytes[at] = random.below(128) as u8,
            1 => bytes[at] = b"0123456789;,.{}[]()%@!-+<>:\n"[random.below(28)],
            2 => bytes.copy_within(from..from + n, at),
            3 => drop(bytes.drain(at..at + n)),
            4 => drop(bytes.splice(at..at, text.as_bytes()[from.min(text.len())..].iter().take(n).copied())),
            // A digit becomes another: sizes, registers, offsets.
            _ => {
                if let Some(d) = bytes[at..].iter().position(u8::is_ascii_digit) {
                    bytes[at + d] = b'0' + random.below(10) as u8;
                }
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn damaged_text_never_panics() {
    let (corpus, mut random) = (corpus(), Random(0x5eed));
    let (start, mut tried) = (Instant::now(), 0);
    while tried < 3000 && start.elapsed() < Duration::from_secs(4) {
        let text = &corpus[random.below(corpus.len())];
        let text = damaged(text, &mut random);
        let cut = if random.below(8) == 0 { random.below(text.len()) } else { text.len() };
        let _ = parse(&text[..text.floor_char_boundary(cut)]);
        tried += 1;
    }
    println!("{tried} damaged texts");
}

#[test]
fn damaged_programs_never_panic_or_hang() {
    let (corpus, mut random) = (corpus(), Random(0xdead));
    let small: Vec<_> = corpus.iter().filter(|t| t.len() < 40_000).collect();
    let (start, mut ran) = (Instant::now(), 0);
    while ran < 600 && start.elapsed() < Duration::from_secs(4) {
        let text = damaged(small[random.below(small.len())], &mut random);
        let options = Options { budget: Some(2000), threads: Some(1), seed: Some(1), ..Options::all() };
        let mut m = Machine::new("h100", options).unwrap();
        if m.load(&text).is_err() {
            continue;
        }
        let memory = m.upload(&vec![0u32; 1 << 12]);
        let Some(f) = m.program.as_ref().unwrap().functions.iter().find(|f| f.entry) else { continue };
        let argument = |&(_, bytes): &(u64, u64)| {
            let mut bytes = vec![0; bytes as usize];
            let n = bytes.len().min(8);
            let x = if n == 8 { memory } else { 3 };
            bytes[..n].copy_from_slice(&x.to_le_bytes()[..n]);
            Arg(bytes)
        };
        if f.param_bytes > 4096 {
            continue;
        }
        let (name, args) = (f.name.clone(), f.params.iter().map(argument).collect::<Vec<_>>());
        let case = Instant::now();
        m.launch(&name, 1, 64, 1024, &args);
        assert!(case.elapsed() < Duration::from_secs(3), "too slow:\n{text}");
        ran += 1;
    }
    println!("{ran} damaged programs");
}
