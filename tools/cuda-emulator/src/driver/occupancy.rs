//! Occupancy: how many blocks fit a multiprocessor, by threads, registers (an estimate from PTX) and shared memory.

use super::function::{Function, by_handle};
use super::{Handle, api, put};
use crate::error::Code;
use crate::gpu::Gpu;
use crate::roofline::{RESERVED_SHARED, resident};

/// Resident blocks of a multiprocessor.
pub(crate) fn blocks(f: &Function, gpu: &Gpu, threads: u32, dynamic: u64) -> u32 {
    resident(gpu, f.code().registers, f.code().shared_bytes + dynamic, threads)
}
fn active(out: *mut i32, f: Handle, threads: i32, dynamic: usize, flags: u32) -> Result<(), Code> {
    if threads < 1 || flags > 1 {
        return Err(Code::InvalidValue);
    }
    let f = by_handle(f)?;
    let gpu = f.gpu();
    let fits = threads as u32 <= f.max_threads();
    put(out, if fits { blocks(&f, gpu, threads as u32, dynamic as u64) as i32 } else { 0 })
}
type Dynamic = Option<unsafe extern "C" fn(i32) -> usize>;
fn potential(
    grid: *mut i32,
    block: *mut i32,
    f: Handle,
    dynamic: Dynamic,
    fixed: usize,
    limit: i32,
) -> Result<(), Code> {
    let f = by_handle(f)?;
    let gpu = f.gpu();
    let most = f.max_threads().min(if limit > 0 { limit as u32 } else { 1024 });
    let mut best = (0, 0);
    for threads in (1..=most / 32).rev().map(|w| w * 32).chain((most < 32).then_some(most)) {
        // SAFETY: the caller's function from block size to bytes.
        let bytes = dynamic.map_or(fixed, |d| unsafe { d(threads as i32) });
        let n = blocks(&f, gpu, threads, bytes as u64);
        if n * threads > best.0 * best.1 {
            best = (n, threads);
        }
    }
    put(grid, (best.0 * gpu.multiprocessors) as i32)?;
    put(block, best.1 as i32)
}

api! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(out: *mut i32, f: Handle, threads: i32, dynamic: usize) {
        active(out, f, threads, dynamic, 0)
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        out: *mut i32, f: Handle, threads: i32, dynamic: usize, flags: u32,
    ) {
        active(out, f, threads, dynamic, flags)
    }
    fn cuOccupancyMaxPotentialBlockSize(
        grid: *mut i32, block: *mut i32, f: Handle, dynamic: Dynamic, fixed: usize, limit: i32,
    ) {
        potential(grid, block, f, dynamic, fixed, limit)
    }
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: *mut i32, block: *mut i32, f: Handle, dynamic: Dynamic, fixed: usize, limit: i32, _flags: u32,
    ) {
        potential(grid, block, f, dynamic, fixed, limit)
    }
    fn cuOccupancyAvailableDynamicSMemPerBlock(out: *mut usize, f: Handle, n: i32, threads: i32) {
        let f = by_handle(f)?;
    let gpu = f.gpu();
        if n < 1 || threads < 1 || blocks(&f, gpu, threads as u32, 0) < n as u32 {
            return Err(Code::InvalidValue);
        }
        let each = gpu.shared_per_multiprocessor as u64 / n as u64 / 128 * 128;
        let left = each.saturating_sub(RESERVED_SHARED).min(gpu.shared_per_block as u64);
        put(out, left.saturating_sub(f.code().shared_bytes) as usize)
    }
    fn cuOccupancyMaxActiveClusters(_out: *mut i32, f: Handle, _config: *const super::launch::Config) {
        by_handle(f)?;
        Err(Code::NotSupported)
    }
    fn cuOccupancyMaxPotentialClusterSize(_out: *mut i32, f: Handle, _config: *const super::launch::Config) {
        by_handle(f)?;
        Err(Code::NotSupported)
    }
}
