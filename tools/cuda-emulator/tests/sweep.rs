//! What nvcc makes of C++: every language and library feature of a kernel (`foreign/sweep_features.cu`) loads and leaves what
//! its comment says; the mathematics library (`foreign/sweep_math.cu`) stays within its documented errors; intrinsics are in
//! `sweep/`. `foreign/make_sweep.sh` compiles them.

mod floats;
mod functions;
mod integers;
mod intrinsics;
mod mathematics;

use inp_cuda_emulator::{options::Options, run::Machine};
use std::path::PathBuf;

fn read(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/sweep").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What element `t` of a kernel's result is; `None`: it has only to run.
fn expected(kernel: &str, t: i32) -> Option<i32> {
    const JUMPS: [i32; 16] = [31, 4, 15, 9, 2, 65, 35, 89, 7, 93, 23, 84, -1, -1, -1, -1];
    const FIBONACCI: [i32; 12] = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
    Some(match kernel {
        "tile_reduce" => 120,
        "tile_scan" => t % 32,
        "coalesced" => 4,
        "block_reduce" | "atomic_refs" => 128,
        "labeled" | "prints" => t,
        "block_barrier" => 127 - t,
        "memcpy_barrier" => 3 * t,
        "pipeline" => t + 5,
        "pipeline_primitives" => 7 * t,
        "virtual_functions" => 3 + t % 2,
        "recursion" => FIBONACCI[t as usize % 12],
        "function_pointers" => [2 * t, t * t][t as usize % 2],
        "jump_table" => JUMPS[t as usize % 16],
        "variable_arrays" => t % 9 * (t % 9 + 1) / 2,
        "variables" => 23,
        "dynamic_shared" => 7,
        "cache_hints" => 6 * t,
        name if name.starts_with("any") => return None,
        _ => 1,
    })
}

#[test]
fn features() {
    let mut failures = vec![];
    for (file, gpu) in [("features.sm_80.ptx", "a100"), ("features.sm_89.ptx", "rtx4090")] {
        let text = read(file);
        let kernels: Vec<&str> = text
            .lines()
            .filter_map(|l| l.strip_prefix(".visible .entry "))
            .map(|l| l.trim_end_matches('('))
            .collect();
        assert!(kernels.len() >= 25, "{kernels:?}");
        for seed in [None, Some(1), Some(2)] {
            let base = if seed.is_some() { Options::all() } else { Options::default() };
            let mut m = Machine::new(gpu, Options { seed, ..base }).unwrap();
            m.load(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
            for kernel in &kernels {
                let o = m.upload(&[0i32; 128]);
                let r = match *kernel {
                    "grid_sync" => m.cooperate(kernel, 4, 128, 512, &[o.into()]),
                    _ => m.launch(kernel, 1, 128, 512, &[o.into()]),
                };
                let got = m.read::<i32>(o, 128);
                let want = |t: usize| expected(kernel, t as i32).unwrap_or(got[t]);
                if let Some((site, fault)) = &r.fault {
                    failures.push(format!("{gpu} {kernel} (seed {seed:?}): {fault} in {site}"));
                } else if let Some(f) = r.findings.first() {
                    failures.push(format!("{gpu} {kernel} (seed {seed:?}): {f}"));
                } else if let Some(t) = (0..128).find(|&t| got[t] != want(t)) {
                    failures.push(format!(
                        "{gpu} {kernel} (seed {seed:?}): [{t}] is {}, not {}",
                        got[t],
                        want(t)
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
