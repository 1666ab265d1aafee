//! A launch: a decoded kernel over a grid.

use super::Inst;
use super::load::Hidden;
use super::ops::flow::Returns;
use crate::check::Finding;
use crate::count::Counters;
use crate::error::{Fault, Site};
use crate::gpu::Gpu;
use crate::memory::Memory;
use crate::options::Options;
use std::collections::HashMap;
use std::sync::Arc;

/// A module decoded for one device: its variables are placed, its functions are closures.
pub struct Program {
    /// Functions, kernels first or not, by name and in the module's order.
    pub functions: Vec<Code>,
    /// Addresses and sizes of module-scope global and const variables.
    pub globals: HashMap<String, (u64, u64)>,
    /// `.file` names.
    pub files: HashMap<u32, String>,
    /// Registers of a call's frame in each file.
    pub(super) frame: [usize; 4],
    /// Bytes of local memory of a call's frame, of those that kernels make.
    pub(super) callee_local: u64,
    /// Bytes of param memory of a call's frame.
    pub(super) param_stride: u64,
    /// Whether any function calls another.
    pub(super) makes_calls: bool,
    /// Whether any function has an alloca or its kin.
    pub(super) takes_stack: bool,
}

/// One decoded function.
pub struct Code {
    /// Its name.
    pub name: String,
    /// Its instructions.
    pub body: Vec<Inst>,
    /// Parameters: offset and size in param memory.
    pub params: Vec<(u64, u64)>,
    /// Bytes of all parameters.
    pub param_bytes: u64,
    /// Bytes of static shared memory that it (and what it calls) uses.
    pub shared_bytes: u64,
    /// Bytes of local memory a thread.
    pub local_bytes: u64,
    /// Whether a host may launch it.
    pub entry: bool,
    /// `.maxntid` product, or 1024.
    pub max_threads: u32,
    /// Registers a thread: an estimate (PTX has virtual ones), see the README for how good.
    pub registers: u32,
    /// `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    /// Slots by file: up to 32, 64, 128 bits, predicates.
    pub(super) registers_by_file: [usize; 4],
    /// What its hidden slots hold.
    pub(super) hidden: Vec<Hidden>,
    /// Alignment of dynamic shared memory.
    pub(super) dynamic_align: u64,
    /// Branches back in loops that only wait, ascending.
    pub(super) spins: Vec<u32>,
    /// What to do when a call returns.
    pub(super) calls: HashMap<u32, Returns>,
}

impl Program {
    /// Frees its variables.
    pub fn unload(&self, memory: &Memory) {
        for &(at, _) in self.globals.values() {
            let _ = memory.free(at);
        }
    }
    /// A function by name.
    pub fn function(&self, name: &str) -> Option<usize> {
        self.functions.iter().position(|f| f.name == name)
    }
}

/// What the host asks for.
pub struct Launch<'a> {
    /// The program.
    pub program: &'a Program,
    /// Index of the kernel.
    pub kernel: usize,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads a block.
    pub block: [u32; 3],
    /// Dynamic shared memory.
    pub dynamic_shared: u32,
    /// Parameter memory.
    pub params: Vec<u8>,
    /// All blocks are resident at once (grid-wide barriers).
    pub cooperative: bool,
    /// Device memory that grid-wide barriers use, in `%envreg1` (high) and `%envreg2` (low); 0: a cooperative launch gets its
    /// own.
    pub workspace: u64,
    /// The device's memory.
    pub memory: &'a Memory,
    /// The device.
    pub gpu: &'a Gpu,
    /// What to check, count, vary.
    pub options: &'a Options,
}

/// How a launch went.
#[derive(Default)]
pub struct Report {
    /// Sums over blocks, when counting.
    pub counters: Option<Counters>,
    /// What the checkers found, in block order.
    pub findings: Vec<Finding>,
    /// What stopped it.
    pub fault: Option<(Site, Fault)>,
    /// What the kernel printed (already written to stdout).
    pub printed: String,
}

/// Loaded modules are shared by contexts and graphs.
pub type Shared = Arc<Program>;
