//! Broken kernels and their repaired twins: the right checker names kernel and source line, and the twin is silent.
//! The kernels say themselves how they are launched: see `pairs/race.cu`.

mod host;

use inp_cuda_emulator::error::Site;
use inp_cuda_emulator::exec::launch::Report;
use inp_cuda_emulator::options::Options;
use inp_cuda_emulator::run::{Arg, Machine};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

/// A kernel as its source describes it.
struct Pair {
    name: String,
    tool: String,
    settings: HashMap<String, String>,
    /// Lines that a report may name, by file.
    lines: HashSet<(String, u32)>,
}

fn read(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/pairs").join(file);
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn marked(file: &str, text: &str, first: u32) -> impl Iterator<Item = (String, u32)> {
    let lines: Vec<_> =
        (first..).zip(text.lines()).filter(|(_, l)| l.ends_with("// <<")).map(|l| l.0).collect();
    lines.into_iter().map(move |l| (file.to_string(), l)).collect::<Vec<_>>().into_iter()
}

/// The pairs of a source file: each from its `pair:` line to the next.
fn pairs(file: &str) -> Vec<Pair> {
    let text = read(file);
    let starts: Vec<_> = text.match_indices("// pair: ").map(|m| m.0).collect();
    let mut common: HashSet<_> = marked("pairs.cuh", &read("pairs.cuh"), 1).collect();
    if let Some(f) = text.find("__noinline__") {
        let line = text[..f].lines().count() as u32;
        common.extend(marked(file, &text[f..text[f..].find("// pair:").map_or(text.len(), |e| f + e)], line));
    }
    let pair = |(n, &at): (usize, &usize)| {
        let part = &text[at..starts.get(n + 1).copied().unwrap_or(text.len())];
        let line = text[..at].lines().count() as u32 + 1;
        let mut words = part.lines().next().unwrap_or("").split_whitespace().skip(2);
        let tool = words.next().expect("a tool").to_string();
        let settings = words.filter_map(|w| w.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
        let name =
            part.split("KERNEL ").nth(1).and_then(|p| p.split('(').next()).expect("a kernel").to_string();
        let lines = marked(file, part, line).chain(common.iter().cloned()).collect();
        Pair { name, tool, settings, lines }
    };
    starts.iter().enumerate().map(pair).collect()
}

impl Pair {
    fn number(&self, name: &str, default: u32) -> u32 {
        self.settings.get(name).map_or(default, |v| v.parse().expect("a number"))
    }
    /// `in:N` floats, `bins:N` integers 0–7, `zero:N`, `out:N` not written, `freed:N`, `null`, `i32:VALUE`.
    fn argument(m: &Machine, word: &str) -> Arg {
        let (kind, n) = word.split_once(':').unwrap_or((word, "0"));
        let n: i32 = n.parse().expect("a number");
        match kind {
            "in" => m.upload(&(0..n).map(|i| i as f32).collect::<Vec<_>>()).into(),
            "bins" => m.upload(&(0..n).map(|i| i * 5 % 8).collect::<Vec<_>>()).into(),
            "zero" => m.upload(&vec![0i32; n as usize]).into(),
            "out" => m.alloc(n as usize * 4).into(),
            "freed" => {
                let at = m.upload(&vec![0i32; n as usize]);
                m.memory.free(at).expect("it was allocated");
                at.into()
            }
            "null" => 0u64.into(),
            "i32" => n.into(),
            _ => panic!("no argument is called {kind}"),
        }
    }
    fn run(&self, file: &str, broken: bool, seed: u64) -> Report {
        let twin = if broken { "broken" } else { "fixed" };
        let mut m =
            Machine::new("h100", Options { seed: Some(seed), budget: Some(10_000_000), ..Options::all() })
                .expect("a machine");
        m.load(&read(&file.replace(".cu", &format!(".{twin}.ptx")))).expect("PTX of nvcc loads");
        let list = (!broken).then(|| self.settings.get("fixed")).flatten().or(self.settings.get("args"));
        let args: Vec<_> = list.expect("arguments").split(',').map(|w| Self::argument(&m, w)).collect();
        m.launch(
            &self.name,
            self.number("grid", 1),
            self.number("block", 32),
            self.number("shared", 0),
            &args,
        )
    }
    /// Whether a site is this kernel and one of the marked lines.
    fn here(&self, site: &Site) -> bool {
        site.kernel == self.name && site.source.as_ref().is_some_and(|s| self.lines.contains(s))
    }
    /// Whether the right checker (for memcheck and synccheck: or the fault that hardware raises) names the place.
    fn caught(&self, r: &Report) -> bool {
        let finding = r
            .findings
            .iter()
            .any(|f| format!("{:?}", f.tool).eq_ignore_ascii_case(&self.tool) && self.here(&f.site));
        finding
            || ["memcheck", "synccheck"].contains(&&*self.tool)
                && r.fault.as_ref().is_some_and(|(s, _)| self.here(s))
    }
}

fn said(r: &Report) -> String {
    let fault = r.fault.iter().map(|(site, f)| format!("{:?}: {f} at {site}", f.code));
    let findings = r.findings.iter().map(ToString::to_string);
    fault.chain(findings).take(3).collect::<Vec<_>>().join("; ")
}

fn check(file: &str) {
    let all = pairs(file);
    let mut failures = vec![];
    for p in &all {
        for seed in [1, 2] {
            let broken = p.run(file, true, seed);
            if !p.caught(&broken) {
                failures.push(format!(
                    "{} (seed {seed}) not caught by {}: {}",
                    p.name,
                    p.tool,
                    said(&broken)
                ));
            }
            let fixed = p.run(file, false, seed);
            if fixed.fault.is_some() || !fixed.findings.is_empty() {
                failures.push(format!("{} (seed {seed}) repaired: {}", p.name, said(&fixed)));
            }
        }
    }
    println!("{} pairs of {file}, {} failures", all.len(), failures.len());
    assert!(failures.is_empty(), "{file}:\n{}", failures.join("\n"));
}

#[test]
fn races() {
    check("race.cu");
}

#[test]
fn memory() {
    check("memory.cu");
}

#[test]
fn initialisation() {
    check("init.cu");
}

#[test]
fn synchronisation() {
    check("sync.cu");
}
