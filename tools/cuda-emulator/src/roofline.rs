//! What counters say about a GPU: theoretical occupancy, and a *predicted* time from a roofline. Neither is a measurement.
//!
//! Each resource of the GPU would need some time for what was counted; the longest is the bound. A multiprocessor's own
//! resources are shared out by whole blocks: of 133 blocks on 132 multiprocessors one waits for a second turn; and each of its
//! quarters computes for warps of its own: two warps keep half of it busy. Nothing is assumed about
//! latency, caches or clocks under load, so most kernels are slower than that.

use crate::count::{Summary, tensor};
use crate::gpu::Gpu;

/// Shared memory that the system keeps for each block (compute capability 8.0 and later).
pub const RESERVED_SHARED: u64 = 1024;
/// Time that a launch takes whatever it does, µs: an assumption, what a small kernel in a graph takes on recent GPUs.
pub const LAUNCH_US: f64 = 1.5;
/// Parts of a multiprocessor: each has schedulers, lanes and a tensor core for its own warps.
const QUARTERS: f64 = 4.0;
/// Warp instructions that a multiprocessor issues in a clock, one a quarter.
const ISSUE: f64 = 4.0;
/// Bytes that a multiprocessor gets from L2 in a clock.
const L2_PORT: f64 = 64.0;
/// Special functions (rcp, rsqrt, ex2, lg2, sin, cos) and lanes of conversions and shuffles that begin in a clock.
/// Source of these: CUDA C++ Programming Guide, arithmetic instructions.
const SPECIAL: f64 = 16.0;
const CONVERT: f64 = 64.0;
const EXCHANGE: f64 = 32.0;

/// A predicted time.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Prediction {
    /// Predicted time of the launch, µs.
    pub us: f64,
    /// What bounds it: `launch` or the first of `shares`.
    pub bound: &'static str,
    /// Resources that it uses and the part of `us` that each would be busy, the busiest first.
    pub shares: Vec<(&'static str, f64)>,
    /// Resident warps of a multiprocessor over those that fit it at most, theoretical.
    pub occupancy: f64,
}

/// Blocks that are resident on a multiprocessor at once, by threads, registers a thread and shared memory (static and
/// dynamic, bytes); 0 when none fits.
pub fn resident(gpu: &Gpu, registers: u32, shared: u64, threads: u32) -> u32 {
    let warps = threads.div_ceil(32).max(1);
    let registers = (registers.max(1) * 32).next_multiple_of(256) * warps;
    let shared = (shared + RESERVED_SHARED).next_multiple_of(128);
    let by_shared = u64::from(gpu.shared_per_multiprocessor) / shared;
    (gpu.threads / 32 / warps).min(gpu.registers / registers).min(by_shared as u32).min(gpu.blocks)
}
/// Theoretical occupancy, 0 to 1: resident warps over those that fit at most.
pub fn occupancy(gpu: &Gpu, registers: u32, shared: u64, threads: u32) -> f64 {
    f64::from(resident(gpu, registers, shared, threads) * threads.div_ceil(32)) / f64::from(gpu.threads / 32)
}

/// The roofline: `counters` of one launch, registers a thread, shared memory of a block (static and dynamic, bytes), blocks
/// and threads a block.
pub fn predict(
    gpu: &Gpu,
    counters: &Summary,
    registers: u32,
    shared: u64,
    grid: [u32; 3],
    block: [u32; 3],
) -> Prediction {
    let blocks = grid.iter().map(|x| f64::from(*x)).product::<f64>().max(1.0);
    let all = f64::from(gpu.multiprocessors);
    // Multiprocessors that would be busy if the one with most blocks set the pace.
    let busy = blocks / (blocks / all).ceil();
    let threads = block.iter().fold(1u32, |a, b| a.saturating_mul(*b));
    let held = (blocks / all).ceil().min(f64::from(resident(gpu, registers, shared, threads).max(1)));
    let quarters = busy * (held * f64::from(threads.div_ceil(32)) / QUARTERS).min(1.0);
    let clock = f64::from(gpu.clock) * 1e-3; // per µs
    let class = |names: &[&str]| names.iter().filter_map(|n| counters.classes.get(*n)).sum::<u64>() as f64;
    let lanes = |names: &[&str], lanes: f64, parts: f64| class(names) * 32.0 / (lanes * clock * parts);
    // Bytes over GB/s are ns.
    let dram = (counters.unique_read + counters.unique_written) as f64 / (gpu.bandwidth * 1e3);
    let mut times = [
        ("tensor cores", tensor_us(gpu, counters) * all / quarters),
        ("issue slots", counters.instructions as f64 / (ISSUE * clock * quarters)),
        ("fp32", lanes(&["Float", "Half"], f64::from(gpu.fp32_lanes), quarters)),
        ("fp64", lanes(&["Double"], f64::from(gpu.fp64_lanes), quarters)),
        ("integer", lanes(&["Integer", "Compare"], f64::from(gpu.int32_lanes), quarters)),
        ("special functions", lanes(&["Special"], SPECIAL, quarters)),
        ("conversions", lanes(&["Convert"], CONVERT, quarters)),
        ("shuffles", lanes(&["WarpExchange"], EXCHANGE, busy)),
        ("shared memory", counters.wavefronts as f64 / (clock * busy)),
        ("L2", 32.0 * counters.sectors as f64 / (L2_PORT * clock * busy)),
        ("device memory", dram),
    ];
    times.sort_by(|a, b| b.1.total_cmp(&a.1));
    let us = times[0].1 + LAUNCH_US;
    Prediction {
        us,
        bound: if times[0].1 < LAUNCH_US { "launch" } else { times[0].0 },
        shares: times.into_iter().filter(|t| t.1 > 0.0).map(|(n, t)| (n, t / us)).collect(),
        occupancy: occupancy(gpu, registers, shared, threads),
    }
}

/// Time of the matrix instructions when every tensor core is busy, µs.
fn tensor_us(gpu: &Gpu, counters: &Summary) -> f64 {
    let fp64 =
        4e-6 * f64::from(gpu.fp64_lanes) * f64::from(gpu.multiprocessors) * f64::from(gpu.clock) * 1e-3;
    let rate = |ty: &str| {
        let (a, d) = ty.split_once(", accumulating in ").unwrap_or((ty, ""));
        let tera = match a {
            "f16" if d == "f16" => gpu.bf16_tflops * gpu.f16_accumulate,
            "tf32" => gpu.bf16_tflops / 2.0,
            "e4m3" | "e5m2" => gpu.fp8_tflops.unwrap_or(gpu.bf16_tflops),
            "s8" | "u8" => gpu.int8_tops,
            // The tensor cores' multiply-adds are twice those of the other lanes.
            "f64" => fp64,
            _ => gpu.bf16_tflops,
        };
        tera * 1e6 // operations per µs
    };
    let mut us = 0.0;
    for line in counters.lines.iter().filter(|l| l.class == "Matrix") {
        if let Some((ty, macs)) = tensor(&line.instruction) {
            let share = if line.instruction.starts_with("wgmma") { 1.0 } else { gpu.mma_sync };
            us += 2.0 * (macs * line.counts.issued) as f64 / (rate(&ty) * share);
        }
    }
    us
}
