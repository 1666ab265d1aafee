//! What launches found and counted: to stderr, and as JSON to the file of `INP_EMULATED_REPORT` (`%p` is the process).

use super::state::lock;
use super::work::Kernel;
use crate::check::Finding;
use crate::count::{Counters, Summary};
use crate::exec::launch::{Program, Report};
use crate::gpu::Gpu;
use crate::roofline::{self, Prediction};
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
    /// Static shared memory, bytes.
    pub static_shared: u64,
    /// Registers a thread: an estimate from PTX.
    pub registers: u32,
    /// Theoretical occupancy, 0 to 1, with these registers.
    pub occupancy: f64,
    /// Sums, when counting.
    pub counters: Option<Summary>,
    /// Predicted by a roofline of the counters, when counting; never measured.
    pub predicted: Option<Prediction>,
    /// What the checkers found.
    pub findings: Vec<Finding>,
    /// What stopped it, in words.
    pub fault: Option<String>,
}

/// All launches of a kernel of a program.
struct Sum {
    kernel: String,
    program: Arc<Program>,
    launches: u64,
    counters: Counters,
    registers: u32,
    /// Of the last launch.
    occupancy: f64,
    predicted_us: f64,
}
#[derive(Default)]
struct Inner {
    gpu: String,
    launches: Vec<Launched>,
    sums: Vec<Sum>,
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
        let (f, program) = (k.function.code(), &k.function.module.program);
        let (shared, threads) = (f.shared_bytes + u64::from(k.dynamic_shared), k.block.iter().product());
        let occupancy = roofline::occupancy(gpu, f.registers, shared, threads);
        let counters = r.counters.as_ref().map(|c| c.summary(program));
        let predicted =
            counters.as_ref().map(|c| roofline::predict(gpu, c, f.registers, shared, k.grid, k.block));
        if let (Some(counters), Some(p)) = (r.counters, &predicted) {
            match i.sums.iter_mut().find(|s| s.kernel == f.name && Arc::ptr_eq(&s.program, program)) {
                Some(s) => {
                    s.launches += 1;
                    s.counters.add(&counters);
                    s.predicted_us += p.us;
                    s.occupancy = occupancy;
                }
                None => i.sums.push(Sum {
                    kernel: f.name.clone(),
                    program: program.clone(),
                    launches: 1,
                    counters,
                    registers: f.registers,
                    occupancy,
                    predicted_us: p.us,
                }),
            }
        }
        i.launches.push(Launched {
            kernel: f.name.clone(),
            grid: k.grid,
            block: k.block,
            dynamic_shared: k.dynamic_shared,
            static_shared: f.shared_bytes,
            registers: f.registers,
            occupancy,
            counters,
            predicted,
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
            .map(|s| {
                serde_json::json!({
                    "kernel": s.kernel, "launches": s.launches, "registers": s.registers,
                    "occupancy": s.occupancy, "predicted_us": s.predicted_us,
                    "counters": s.counters.summary(&s.program),
                })
            })
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
    /// Findings and, `counted`, sums by kernel.
    fn table(&self, counted: bool) {
        let i = lock(&self.inner);
        let sums = if counted { &i.sums[..] } else { &[] };
        if !sums.is_empty() {
            let heads = ["launches", "instructions", "FLOP", "unique bytes", "conflicts"];
            let heads = heads.map(|h| format!("{h:>15}")).concat();
            eprintln!("cuda-emulator: {:<36}{heads} ~registers occupancy predicted µs", "kernel");
        }
        for s in sums {
            let c = s.counters.summary(&s.program);
            let flop = c.flop + 2 * c.tensor_macs.values().sum::<u64>();
            let row = [s.launches, c.instructions, flop, c.unique_read + c.unique_written, c.bank_conflicts];
            let row = row.map(|x| format!("{x:>15}")).concat();
            let (registers, share, us) = (s.registers, s.occupancy * 100.0, s.predicted_us);
            eprintln!("cuda-emulator: {:<36}{row} {registers:>10} {share:>8.0}% {us:>12.1}", s.kernel);
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
        d.log.table(d.options().count);
        Ok(())
    });
}
