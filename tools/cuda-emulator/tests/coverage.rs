//! `INSTRUCTIONS.md` lists what the emulator decodes.

use inp_cuda_emulator::exec::launch::Program;
use inp_cuda_emulator::gpu::Gpu;
use inp_cuda_emulator::memory::Memory;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// PTX files under a folder of the tests, in order.
pub fn ptx_files() -> Vec<PathBuf> {
    fn walk(folder: &Path, all: &mut Vec<PathBuf>) {
        for e in std::fs::read_dir(folder).unwrap() {
            let path = e.unwrap().path();
            if path.is_dir() {
                walk(&path, all);
            } else if path.extension().is_some_and(|e| e == "ptx") {
                all.push(path);
            }
        }
    }
    let mut all = vec![];
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut all);
    all.sort();
    assert!(all.len() >= 90, "{} PTX files", all.len());
    all
}

/// Words of a spelling in some order: PTX takes modifiers in several.
fn words(spelling: &str) -> Vec<String> {
    let mut words: Vec<String> = spelling.split('.').map(str::to_owned).collect();
    words[1..].sort();
    words
}

/// The decoders are asked about every form of the ISA that `forms/isa.txt` writes down; the answers are the table. Set
/// `INP_WRITE_INSTRUCTIONS=1` to write it anew, `INP_WRITE_FORMS=FOLDER` for the questions (what ptxas makes of them).
#[test]
fn the_table_of_instructions_is_what_decodes() {
    let gpu = Gpu::named("h100").unwrap();
    let memory = Memory::new(gpu.memory).unwrap();
    let decodes = |text: &str| {
        let module = inp_cuda_emulator::ptx::parse(text)?;
        Program::load(&module, &memory, &gpu).map(|p| p.unload(&memory))
    };
    let mut table = String::from(
        "# Instructions\n\nWhat the decoders say to every form of PTX instructions: `{a,b}` is a choice, `{,.x}` may be left \
         out. The target is the lowest\nthat has the form; operands are checked too. Made by `tests/coverage.rs` from \
         `tests/forms/isa.txt`. Any other form is an\nerror that names the instruction and its line when the module is loaded.\n",
    );
    let (mut section, mut refused) = (String::new(), String::new());
    let mut known = BTreeSet::new();
    for (n, f) in crate::forms::list().iter().enumerate() {
        if let Ok(folder) = std::env::var("INP_WRITE_FORMS") {
            let path = format!("{folder}/{n:03}_{}.ptx", f.target);
            std::fs::write(path, crate::forms::module(&f.all, &f.target)).unwrap();
        }
        let syntax = f.syntax.replace('(', "{").replace(')', "}").replace('|', ",");
        let errors: Vec<String> = f
            .all
            .iter()
            .filter_map(|i| decodes(&crate::forms::module(std::slice::from_ref(i), "80")).err())
            .map(|e| e.to_string())
            .collect();
        if let Some(e) = errors.first() {
            assert!(
                errors.len() == f.all.len(),
                "{syntax}: {} of {} refused: {e}",
                errors.len(),
                f.all.len()
            );
            refused += &format!("| `{syntax}` | sm_{} |\n", f.target);
            continue;
        }
        known.extend(f.all.iter().map(|i| words(i.split(' ').next().unwrap_or_default())));
        if section != f.section {
            table += &format!("\n## {}\n\n| instructions | forms | target |\n|---|---|---|\n", f.section);
            section.clone_from(&f.section);
        }
        table += &format!("| `{syntax}` | {} | sm_{} |\n", f.all.len(), f.target);
    }
    table += &format!("\n## Refused\n\n| instructions | target |\n|---|---|\n{refused}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("INSTRUCTIONS.md");
    if std::env::var("INP_WRITE_INSTRUCTIONS").is_ok_and(|v| v == "1") {
        std::fs::write(&path, &table).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == table,
        "INSTRUCTIONS.md is not up to date: set INP_WRITE_INSTRUCTIONS=1 and test again"
    );
    // What compilers spell is understood, and stands in the table.
    let mut missing = BTreeSet::new();
    for path in ptx_files() {
        let text = std::fs::read_to_string(&path).unwrap();
        let module =
            inp_cuda_emulator::ptx::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for (spelling, decodes) in Program::spellings(&module, &memory, &gpu).unwrap() {
            assert!(decodes, "{}: {spelling} is not understood", path.display());
            if !known.contains(&words(&spelling)) {
                missing.insert(spelling);
            }
        }
    }
    assert!(missing.is_empty(), "not in forms/isa.txt: {missing:?}");
}
