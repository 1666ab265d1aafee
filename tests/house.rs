//! The house: what lives where, and what no file may hold.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files of the working tree that git tracks, relative to the root; `None` (said) outside a checkout.
fn tracked() -> Option<Vec<PathBuf>> {
    let out = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Some(out) = out.ok().filter(|o| o.status.success()) else {
        println!("SKIPPED: this is no git checkout, so which files belong to the house is not known");
        return None;
    };
    let text = String::from_utf8(out.stdout).unwrap();
    let paths = text.split('\0').filter(|p| !p.is_empty()).map(PathBuf::from);
    Some(paths.filter(|p| root().join(p).is_file()).collect())
}

/// The text of a tracked file; `None` if it is binary.
fn text(path: &Path) -> Option<String> {
    String::from_utf8(std::fs::read(root().join(path)).unwrap()).ok().filter(|t| !t.contains('\0'))
}

/// Text of every tracked file below one of `folders` whose name ends in one of `endings`.
fn sources(folders: &[&str], endings: &[&str]) -> Vec<(String, String)> {
    let chosen = |p: &PathBuf| {
        let ending = p.extension().is_some_and(|e| endings.iter().any(|known| e == *known));
        ending && folders.iter().any(|f| p.starts_with(f))
    };
    let files = tracked().unwrap_or_default().into_iter().filter(chosen);
    files.map(|p| (p.to_string_lossy().into_owned(), text(&p).expect("sources are text"))).collect()
}

/// Numbered lines that are not comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().zip(1..).map(|(l, n)| (n, l)).filter(|(_, l)| !l.trim_start().starts_with("//"))
}

#[track_caller]
fn none(rule: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

/// Stems of the files directly in `folder` that end in `.ending`.
fn stems(folder: &str, ending: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root().join(folder)) else { return Vec::new() };
    let paths = entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == ending));
    paths.map(|p| p.file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_op_has_a_test_and_a_bench_that_checks_its_answer() {
    let read = |path: String| std::fs::read_to_string(root().join(path)).unwrap_or_default();
    let (tests, benches) = (read("tests/ops.rs".into()), read("benches/ops.rs".into()));
    let mut found = Vec::new();
    let ops = stems("src/ops", "rs");
    assert!(ops.len() >= 10, "the ops were not found");
    for op in ops {
        let (test, bench) = (read(format!("tests/ops/{op}.rs")), read(format!("benches/ops/{op}.rs")));
        let mut need = |there: bool, what: &str| {
            if !there {
                found.push(format!("{op}: {what}"));
            }
        };
        need(test.contains("#[test]"), "no test in tests/ops");
        need(tests.contains(&format!("mod {op};")), "its tests are not part of tests/ops.rs");
        need(bench.contains("time(") || bench.contains("bench_function("), "no bench in benches/ops");
        need(bench.contains("close(") || bench.contains("assert"), "its bench does not check the answer");
        need(benches.contains(&format!("{op}::all(c);")), "its bench is not run by benches/ops.rs");
    }
    none("ops without their four files", found);
}

#[test]
fn every_backward_is_checked_by_finite_differences() {
    let sources = sources(&["src/ops"], &["rs"]);
    let with = sources.iter().filter(|(_, text)| text.contains("pub fn backward"));
    let mut found = Vec::new();
    for (path, _) in with {
        let test = path.replace("src/", "tests/");
        let checked =
            std::fs::read_to_string(root().join(&test)).is_ok_and(|t| t.contains("check_gradient("));
        if !checked {
            found.push(format!("{test} checks no gradient of {path}"));
        }
    }
    none("a backward without finite differences in f64", found);
}

#[test]
fn every_kernel_has_its_op_test_and_bench() {
    let mut found = Vec::new();
    for stem in stems("kernels", "cu") {
        let paths = ["src", "tests", "benches"].map(|f| format!("{f}/ops/{stem}.rs"));
        let missing = paths.into_iter().filter(|p| !root().join(p).is_file());
        found.extend(missing.map(|p| format!("kernels/{stem}.cu has no {p}")));
    }
    none("kernels without their four files", found);
}

/// Generic CPU bodies that work on raw pointers, the threads that they run on, the calls into the C library and the CUDA
/// driver.
const UNSAFE: [&str; 19] = [
    "src/ops/attention.rs",
    "src/ops/linear/gemm.rs",
    "src/ops/linear/gemm/paired.rs",
    "src/ops/linear/gemm/side.rs",
    "src/ops/linear/gemm/task.rs",
    "src/ops/linear/int8.rs",
    "src/ops/linear/micro.rs",
    "src/ops/linear/pack.rs",
    "src/ops/linear/packed.rs",
    "src/ops/linear/packed/factors.rs",
    "src/ops/linear/paired.rs",
    "src/runtime/cpu.rs",
    "src/runtime/cpu/team.rs",
    "src/runtime/cuda/buffer.rs",
    "src/runtime/cuda/driver.rs",
    "src/runtime/cuda/gpu.rs",
    "src/runtime/cuda/graph.rs",
    "src/runtime/cuda/kernel.rs",
    "src/runtime/cuda/stream.rs",
];

#[test]
fn unsafe_stays_where_it_may_be_and_says_why_it_is_sound() {
    let mut found = Vec::new();
    for (path, text) in sources(&["src"], &["rs"]) {
        let simd = path.starts_with("src/runtime/simd");
        let lines: Vec<&str> = text.lines().collect();
        for (n, _) in
            code(&text).filter(|(_, l)| l.split(|c: char| !c.is_alphanumeric()).any(|w| w == "unsafe"))
        {
            // The intrinsics of a tier share one proof, at the top of their block.
            let reach = if simd { n } else { 5 };
            let said = lines[n.saturating_sub(reach)..n].iter().any(|l| l.contains("SAFETY"));
            if !simd && !UNSAFE.contains(&path.as_str()) {
                found.push(format!("{path}:{n}: no unsafe here"));
            } else if !said {
                found.push(format!("{path}:{n}: no SAFETY comment above"));
            }
        }
    }
    none("unsafe code out of its place or without its reason", found);
}

#[test]
fn no_file_is_long() {
    let all = sources(&["src", "tests", "benches", "tools", "kernels"], &["rs", "py", "sh", "cu", "cuh"]);
    let long = all.iter().filter(|(_, text)| text.lines().count() > 500);
    none("files over 500 lines", long.map(|(p, t)| format!("{p}: {}", t.lines().count())).collect());
}

#[test]
fn nothing_is_unfinished() {
    let everywhere = ["todo!", "unimplemented!", "dbg!", "[ignore"];
    let mut found = Vec::new();
    for (path, text) in sources(&["src", "tests", "benches", "kernels"], &["rs", "cu", "cuh"]) {
        if path == "tests/house.rs" {
            continue;
        }
        for (n, line) in code(&text) {
            let in_src = path.starts_with("src").then_some(".unwrap()");
            for word in everywhere.into_iter().chain(in_src).filter(|w| line.contains(w)) {
                found.push(format!("{path}:{n}: {word}"));
            }
        }
    }
    none("marks of unfinished work, or an `unwrap` that does not say why it cannot fail", found);
}

#[test]
fn no_path_of_one_machine() {
    let forbidden = ["home", "root", "tmp", "work", "Users"].map(|d| format!("/{d}/"));
    let mut found = Vec::new();
    for path in tracked().unwrap_or_default() {
        for (n, line) in text(&path).unwrap_or_default().lines().enumerate() {
            if forbidden.iter().any(|f| line.contains(f.as_str())) {
                found.push(format!("{}:{}: {line}", path.display(), n + 1));
            }
        }
    }
    none("paths that exist on one machine only", found);
}

/// README's tree: the fenced block that names `src/`.
#[test]
fn readme_names_all_that_lies_at_the_top() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let tree = readme.split("```").skip(1).step_by(2).find(|block| block.contains("\nsrc/\n"));
    let tree = tree.expect("README.md has a fenced block with a line `src/`: the tree");
    let words: BTreeSet<&str> = tree.split_whitespace().map(|w| w.split('/').next().unwrap()).collect();
    let top: BTreeSet<String> = tracked()
        .unwrap_or_default()
        .iter()
        .map(|p| p.components().next().unwrap().as_os_str().to_string_lossy().into_owned())
        .collect();
    none("not in README's tree", top.into_iter().filter(|t| !words.contains(t.as_str())).collect());
}

/// A README of `tests/data`, or of a folder below, names each file (or a pattern of it) in back-quotes.
#[test]
fn every_data_file_says_how_it_was_made() {
    let mut found = Vec::new();
    for path in tracked().unwrap_or_default() {
        let data = path.starts_with("tests/data") && path.extension().is_none_or(|e| e != "rs");
        if !data || path.ends_with("README.md") {
            continue;
        }
        let named = path.ancestors().skip(1).take_while(|f| f.starts_with("tests/data")).any(|folder| {
            let readme = std::fs::read_to_string(root().join(folder).join("README.md")).unwrap_or_default();
            let below = path.strip_prefix(folder).unwrap();
            let mut names = readme.split('`').skip(1).step_by(2).filter_map(|n| glob::Pattern::new(n).ok());
            names.any(|n| n.matches_path(below))
        });
        if !named {
            found.push(path.display().to_string());
        }
    }
    none("data files that no README beside or above them names", found);
}
