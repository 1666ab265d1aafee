//! `INSTRUCTIONS.md` lists what the PTX of the tests spells and the emulator decodes.

use inp_cuda_emulator::exec::launch::Program;
use inp_cuda_emulator::gpu::Gpu;
use inp_cuda_emulator::memory::Memory;
use std::collections::BTreeMap;
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

/// Set `INP_WRITE_INSTRUCTIONS=1` to write the list anew.
#[test]
fn the_list_of_instructions_is_what_decodes() {
    let gpu = Gpu::named("h100").unwrap();
    let memory = Memory::new(gpu.memory).unwrap();
    let mut all: BTreeMap<String, bool> = BTreeMap::new();
    for path in ptx_files() {
        let text = std::fs::read_to_string(&path).unwrap();
        let module =
            inp_cuda_emulator::ptx::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for (spelling, known) in Program::spellings(&module, &memory, &gpu).unwrap() {
            *all.entry(spelling).or_insert(true) &= known;
        }
    }
    let unknown: Vec<&String> = all.iter().filter(|s| !s.1).map(|s| s.0).collect();
    assert!(unknown.is_empty(), "not understood: {unknown:?}");
    let mut table = String::from(
        "# Instructions\n\nEvery spelling in the PTX of the tests: all of them decode. Made by `tests/coverage.rs`; other \
         modifiers of these\ninstructions mostly decode too, and what does not is an error that names the instruction and its \
         line.\n\n| instruction | spellings |\n|---|---|\n",
    );
    let mut by_op: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for spelling in all.keys() {
        let op = spelling.split('.').next().unwrap_or_default();
        by_op.entry(op).or_default().push(spelling);
    }
    for (op, spellings) in by_op {
        table += &format!("| `{op}` | `{}` |\n", spellings.join("` `"));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("INSTRUCTIONS.md");
    if std::env::var("INP_WRITE_INSTRUCTIONS").is_ok_and(|v| v == "1") {
        std::fs::write(&path, &table).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == table,
        "INSTRUCTIONS.md is not up to date: set INP_WRITE_INSTRUCTIONS=1 and test again"
    );
}
