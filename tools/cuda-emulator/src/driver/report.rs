//! What launches found and counted: to stderr, and as JSON to the file of `INP_EMULATED_REPORT` (`%p` is the process).

use super::state::lock;
use super::work::Kernel;
use crate::check::Finding;
use crate::count::{Counters, Summary};
use crate::exec::launch::{Program, Report};
use crate::gpu::Gpu;
use std::sync::{Arc, Mutex};

/// One launch.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Launched {
    /// Kernel.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads a block.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub dynamic_shared: u32,
    /// Sums, when counting.
    pub counters: Option<Summary>,
    /// What the checkers found.
    pub findings: Vec<Finding>,
    /// What stopped it, in words.
    pub fault: Option<String>,
}

#[derive(Default)]
struct Inner {
    gpu: String,
    launches: Vec<Launched>,
    /// By kernel and program: launches and sums.
    sums: Vec<(String, Arc<Program>, u64, Counters)>,
    findings: u64,
    faults: u64,
    seen: u64,
}
/// The log of a process.
pub(crate) struct Log {
    file: Option<String>,
    inner: Mutex<Inner>,
}
impl Log {
    pub fn new() -> Self {
        let file = super::state::setting("INP_EMULATED_REPORT").filter(|f| !f.is_empty());
        // SAFETY: a handler without arguments that does not unwind (`at_exit` is guarded).
        unsafe { libc::atexit(at_exit) };
        Self { file: file.map(|f| f.replace("%p", &std::process::id().to_string())), inner: Mutex::default() }
    }
    /// A launch ended. Findings and faults are said at once; quiet launches are kept only when they counted.
    pub fn launched(&self, k: &Kernel, r: Report, gpu: &Gpu) {
        let mut i = lock(&self.inner);
        for f in &r.findings {
            eprintln!("cuda-emulator: {:?}: {} at {} ({} times)", f.tool, f.what, f.site, f.times);
            f.other.iter().for_each(|o| eprintln!("cuda-emulator:   the other: {o}"));
        }
        let fault = r.fault.map(|(site, f)| format!("{f} at {site}"));
        fault.iter().for_each(|f| eprintln!("cuda-emulator: fault: {f}"));
        i.gpu.clone_from(&gpu.name);
        i.seen += 1;
        i.findings += r.findings.len() as u64;
        i.faults += fault.is_some() as u64;
        if fault.is_none() && r.findings.is_empty() && r.counters.is_none() {
            return;
        }
        let program = &k.function.module.program;
        if let Some(c) = &r.counters {
            let name = k.function.name();
            match i.sums.iter_mut().find(|s| s.0 == name && Arc::ptr_eq(&s.1, program)) {
                Some(s) => {
                    s.2 += 1;
                    s.3.add(c);
                }
                None => i.sums.push((name.to_owned(), program.clone(), 1, c.clone())),
            }
        }
        i.launches.push(Launched {
            kernel: k.function.name().to_owned(),
            grid: k.grid,
            block: k.block,
            dynamic_shared: k.dynamic_shared,
            counters: r.counters.map(|c| c.summary(program)),
            findings: r.findings,
            fault,
        });
    }
    /// The report as it stands.
    pub fn json(&self) -> serde_json::Value {
        let i = lock(&self.inner);
        let sums: Vec<_> = i
            .sums
            .iter()
            .map(|(k, p, n, c)| serde_json::json!({"kernel": k, "launches": n, "counters": c.summary(p)}))
            .collect();
        serde_json::json!({
            "gpu": i.gpu, "launched": i.seen, "findings": i.findings, "faults": i.faults,
            "sums": sums, "launches": i.launches,
        })
    }
    /// The host waited: nothing is held back, as findings are said at once.
    pub fn synchronized(&self) {
        if let Some(f) = &self.file
            && let Err(e) = std::fs::write(f, self.json().to_string())
        {
            eprintln!("cuda-emulator: the report {f} cannot be written: {e}");
        }
    }
    fn table(&self) {
        let i = lock(&self.inner);
        if !i.sums.is_empty() {
            let heads =
                ["launches", "instructions", "tensor MAC", "sectors", "unique bytes", "bank conflicts"];
            eprintln!("cuda-emulator: {:<40}{}", "kernel", heads.map(|h| format!("{h:>16}")).concat());
        }
        for (name, program, n, c) in &i.sums {
            let s = c.summary(program);
            let macs = s.tensor_macs.values().sum();
            let unique = s.unique_read + s.unique_written;
            let row = [*n, s.instructions, macs, s.sectors, unique, s.bank_conflicts];
            eprintln!("cuda-emulator: {name:<40}{}", row.map(|x| format!("{x:>16}")).concat());
        }
        if i.findings + i.faults > 0 {
            eprintln!("cuda-emulator: {} findings, {} faults in {} launches", i.findings, i.faults, i.seen);
        }
    }
}
extern "C" fn at_exit() {
    super::guard(|| {
        let d = super::state::driver()?;
        d.log.synchronized();
        d.log.table();
        Ok(())
    });
}
