//! Mutated PTX is parsed, loaded and run: an error or a result, never a panic and never without end.

use inp_cuda_emulator::options::Options;
use inp_cuda_emulator::ptx;
use inp_cuda_emulator::run::{Arg, Machine};
use std::time::{Duration, Instant};

struct Random(u64);
impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// Texts of moderate size.
fn texts() -> Vec<String> {
    let all = super::coverage::ptx_files().into_iter().map(|p| std::fs::read_to_string(p).unwrap());
    all.filter(|t| t.len() < 60_000).collect()
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

/// Damaged by bytes, or with a few words and lines changed.
fn mutate(text: &str, r: &mut Random) -> String {
    if r.below(3) == 0 { damaged(text, r) } else { reworded(text, r) }
}

/// A few bytes, words or lines changed.
fn reworded(text: &str, r: &mut Random) -> String {
    const BYTES: &[u8] = b"{}()[];,.:@%|<>+-!_\"0123456789 \nrxbfsup\xc3/";
    const WORDS: &[&str] = &[
        "%r1",
        "%rd1",
        "%p1",
        "0",
        "-1",
        "4294967296",
        ".f32",
        ".u64",
        "ld",
        "bra",
        "[%rd1+1]",
        "{%r1, %r2}",
    ];
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    for _ in 0..=r.below(3) {
        let (n, other) = (r.below(lines.len()), r.below(lines.len()));
        match r.below(7) {
            0 => drop(lines.remove(n)),
            1 => lines.insert(n, lines[other].clone()),
            2 => lines.swap(n, other),
            3 => lines.truncate(n + 1),
            4 => {
                let words: Vec<&str> = lines[n].split_inclusive([' ', ',', '\t', '.']).collect();
                let at = r.below(words.len());
                let word = WORDS[r.below(WORDS.len())];
                let put =
                    |(i, w): (usize, &&str)| if i == at { format!("{word} ") } else { (*w).to_string() };
                lines[n] = words.iter().enumerate().map(put).collect();
            }
            _ => {
                let mut bytes = lines[n].clone().into_bytes();
                for _ in 0..=r.below(2) {
                    let (at, b) = (r.below(bytes.len()), BYTES[r.below(BYTES.len())]);
                    match bytes.get_mut(at) {
                        Some(x) if r.below(2) == 0 => *x = b,
                        _ => bytes.insert(at.min(bytes.len()), b),
                    }
                }
                lines[n] = String::from_utf8_lossy(&bytes).into_owned();
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.join("\n")
}

#[test]
fn mutated_ptx_is_parsed_or_refused() {
    let (texts, mut r, start) = (texts(), Random(7), Instant::now());
    let (mut good, mut bad) = (0, 0);
    while start.elapsed() < Duration::from_secs(4) {
        let lines = texts[r.below(texts.len())].clone();
        match ptx::parse(&mutate(&lines, &mut r)) {
            Ok(_) => good += 1,
            Err(e) => {
                assert!(
                    e.line as usize <= lines.lines().count() + 8 && !e.what.is_empty() && e.what.len() < 2000,
                    "{e}"
                );
                bad += 1;
            }
        }
    }
    println!("{good} parsed, {bad} refused");
    assert!(good > 20 && bad > 20, "{good} parsed, {bad} refused");
}

#[test]
fn mutated_kernels_end() {
    let (texts, mut r, start) = (texts(), Random(11), Instant::now());
    let (mut ran, mut refused) = (0, 0);
    let options = Options { budget: Some(3000), threads: Some(1), seed: Some(3), ..Options::all() };
    let mut m = Machine::new("h100", options).unwrap();
    let buffer = m.upload(&vec![1f32; 1 << 14]);
    while start.elapsed() < Duration::from_secs(12) {
        let text = mutate(&texts[r.below(texts.len())], &mut r);
        if m.load(&text).is_err() {
            refused += 1;
            continue;
        }
        let Some(program) = &m.program else { continue };
        for f in program.functions.iter().filter(|f| f.entry) {
            let number = |n: u64| if n == 8 { buffer.to_le_bytes().to_vec() } else { vec![1; n as usize] };
            let args: Vec<Arg> = f.params.iter().map(|p| Arg(number(p.1))).collect();
            let began = Instant::now();
            m.launch(&f.name, 1, f.max_threads.min(64), 4096, &args);
            assert!(began.elapsed() < Duration::from_secs(20), "{} took {:?}", f.name, began.elapsed());
            ran += 1;
        }
    }
    println!("{ran} ran, {refused} refused");
    assert!(ran > 5 && refused > 5, "{ran} ran, {refused} refused");
}

#[test]
fn hostile_texts_are_refused_quickly() {
    let head = ".version 8.0\n.target sm_80\n.address_size 64\n";
    let kernel = |body: &str| format!("{head}.entry k() {{\n{body}\n}}\n");
    let hostile = [
        kernel(&"{".repeat(1_000_000)),
        kernel(&format!(".reg .b32 %r<4>;\nmov.b32 %r1, {}", "(".repeat(1_000_000))),
        kernel(&format!(".reg .b32 %r<4>;\nmov.b32 %r1, {}1;", "-".repeat(1_000_000))),
        kernel(&format!("call f, ({});", "1,".repeat(1_000_000))),
        kernel(".local .b8 x[1099511627776][1099511627776];"),
        format!("{head}.global .b8 x[2][1000000000000] = {{{{1}}, {{2}}}};"),
        format!("{head}.global .b8 x[] = {{{}", "{".repeat(1_000_000)),
        format!("{head}{}", "/*".repeat(1_000_000)),
        format!("{head}.section .debug {{ {}", "(".repeat(1_000_000)),
        kernel(&format!("mov{} 1;", ".b32".repeat(1_000_000))),
    ];
    for text in &hostile {
        let start = Instant::now();
        let e = ptx::parse(text).map(drop).unwrap_err();
        assert!(
            e.what.len() < 2000 && start.elapsed() < Duration::from_secs(2),
            "{e}: {:?}",
            start.elapsed()
        );
    }
    // Four thousand million registers of which one is used.
    let many = kernel(".reg .b32 %r<4294967295>;\nmov.b32 %r4294967290, 1;");
    assert_eq!(ptx::parse(&many).unwrap().functions[0].regs.len(), 1);
}
