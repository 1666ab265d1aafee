//! What launches found and counted: to stderr, and as JSON to the file of `INP_EMULATED_REPORT` (`%p` is the process).

use super::state::lock;
use super::work::Kernel;
use crate::check::Finding;
use crate::count::Counters;
use crate::exec::launch::Report;
use crate::gpu::Gpu;
use std::sync::Mutex;

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
    pub counters: Option<Counters>,
    /// What the checkers found.
    pub findings: Vec<Finding>,
    /// What stopped it, in words.
    pub fault: Option<String>,
}

#[derive(Default)]
struct Inner {
    gpu: String,
    launches: Vec<Launched>,
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
    pub fn from_environment() -> Self {
        let file = std::env::var("INP_EMULATED_REPORT").ok().filter(|f| !f.is_empty());
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
        i.launches.push(Launched {
            kernel: k.function.name().to_owned(),
            grid: k.grid,
            block: k.block,
            dynamic_shared: k.dynamic_shared,
            counters: r.counters,
            findings: r.findings,
            fault,
        });
    }
    /// The report as it stands.
    pub fn json(&self) -> serde_json::Value {
        let i = lock(&self.inner);
        let mut sums = std::collections::BTreeMap::<&str, (u64, Counters)>::new();
        for l in &i.launches {
            let s = sums.entry(&l.kernel).or_default();
            s.0 += 1;
            l.counters.iter().for_each(|c| s.1.add(c));
        }
        let sums: Vec<_> = sums
            .into_iter()
            .map(|(k, (n, c))| serde_json::json!({"kernel": k, "launches": n, "counters": c}))
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
        let counted = i.launches.iter().filter(|l| l.counters.is_some());
        for l in counted {
            let n = l.counters.as_ref().map_or(0, |c| c.instructions);
            eprintln!("cuda-emulator: {:<40} grid {:?} block {:?}: {n} warp instructions", l.kernel, l.grid, l.block);
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
