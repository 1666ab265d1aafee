//! Every barrier and every wait for copies of the foreign kernels, deleted or weakened one at a time: the checkers must
//! speak, or a result be wrong under one of eight seeds. Left out are mutants that are the same program (`redundant.rs`
//! proves it); what survives else is listed with the reason in `survivors.txt`.

use super::redundant::Flow;
use super::{Buffer, Case, cases, complaint, read, reference};
use inp_cuda_emulator::options::Options;
use rayon::prelude::*;
use std::collections::HashSet;

/// A changed text.
struct Mutant {
    /// Case, line and change: `softmax_f32 41 delete`.
    name: String,
    ptx: String,
    /// The same program, by proof.
    same: bool,
}

/// All mutants of a case.
fn mutants(case: &Case) -> Vec<Mutant> {
    let ptx = case.ptx();
    let lines: Vec<_> = ptx.lines().collect();
    let entry = |l: &str| l.contains(".entry") && l.contains(&format!(" {}(", case.kernel));
    let first = lines.iter().position(|l| entry(l)).expect("the kernel");
    let end = lines[first..].iter().position(|l| *l == "}").expect("its end") + first;
    let mut all = vec![];
    let flow = Flow::new(&lines[first..end]);
    for (n, line) in lines.iter().enumerate().take(end).skip(first) {
        let mut change = |how: &str, weaker: Option<u32>| {
            let with = weaker.map_or(String::new(), |n| format!("cp.async.wait_group {n};"));
            let text: Vec<_> =
                lines.iter().enumerate().map(|(i, l)| if i == n { &with } else { *l }).collect();
            let name = format!("{} {} {how}", case.name, n + 1);
            all.push(Mutant { name, ptx: text.join("\n"), same: flow.redundant(n - first, weaker) });
        };
        let code = line.trim();
        if let Some(groups) = code.strip_prefix("cp.async.wait_group") {
            let groups: u32 = groups.trim().trim_end_matches(';').trim().parse().expect("a number of groups");
            change("weaken", Some(groups + 1));
            change("delete", None);
        } else if ["bar.sync", "barrier.sync", "cp.async.wait_all"].iter().any(|w| code.starts_with(w)) {
            change("delete", None);
        }
    }
    all
}

/// What shows under some seed.
fn killed(case: &Case, mutant: &Mutant, buffers: &[Buffer], expected: &[Vec<(f64, f64)>]) -> Option<String> {
    (1..=8).find_map(|seed| {
        // A mutant may never end; no case needs a tenth of the budget.
        let options =
            Options { seed: Some(seed), threads: Some(1), budget: Some(20_000_000), ..Options::all() };
        match case.run(&mutant.ptx, buffers, options) {
            Err(e) => panic!("{}: {e}", mutant.name),
            Ok((report, results)) => complaint(&report).or_else(|| case.wrong(expected, &results)),
        }
    })
}

/// Tries every mutant: those that survive, those that are the same program and yet show (a false alarm, or a false
/// proof), and how many are not the same program.
fn sweep() -> (Vec<String>, Vec<String>, usize) {
    let all: Vec<_> = cases("triton.json").into_iter().chain(cases("cute.json")).collect();
    let each: Vec<_> = all.iter().flat_map(|c| mutants(c).into_iter().map(move |m| (c, m))).collect();
    println!("{} of {} mutants are the same program", each.iter().filter(|m| m.1.same).count(), each.len());
    let tried: Vec<_> = each
        .par_iter()
        .map(|(case, mutant)| {
            let buffers = case.buffers();
            let expected = reference::compute(&case.op, &buffers);
            (mutant, killed(case, mutant, &buffers, &expected))
        })
        .collect();
    let names = |same: bool, shown: bool| {
        let some = tried.iter().filter(|t| t.0.same == same && t.1.is_some() == shown);
        some.map(|t| t.0.name.clone() + &t.1.as_ref().map_or(String::new(), |w| format!(": {w}"))).collect()
    };
    (names(false, false), names(true, true), tried.iter().filter(|t| !t.0.same).count())
}

/// At most one of twenty survives, and every survivor is listed with its reason.
#[test]
fn mutants_show() {
    let (survivors, shown, count) = sweep();
    let text = read("survivors.txt");
    let listed = |l: &str| {
        l.split_once(": ").filter(|(_, reason)| reason.len() > 10).map(|(name, _)| name.to_string())
    };
    let known: HashSet<_> = text.lines().filter(|l| !l.starts_with('#')).filter_map(listed).collect();
    let unknown: Vec<_> = survivors.iter().filter(|s| !known.contains(*s)).collect();
    let stale: Vec<_> = known.iter().filter(|k| !survivors.contains(k)).collect();
    println!("{count} mutants, {} survive", survivors.len());
    assert!(shown.is_empty(), "{} mutants are the same program and yet differ:\n{shown:#?}", shown.len());
    assert!(unknown.is_empty(), "{} of {count} mutants survive unlisted:\n{unknown:#?}", unknown.len());
    assert!(stale.is_empty(), "listed as survivors, and yet they show:\n{stale:#?}");
    assert!(survivors.len() * 20 <= count, "{} of {count} mutants survive", survivors.len());
}
