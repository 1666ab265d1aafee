//! GPUs that the emulator models, for what is predicted of them, and theoretical occupancy.

use inp_former::runtime::DType;
use inp_former::runtime::cuda::{Geometry, Work, image::KernelInfo};
use inp_former::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

const FILE: &str = include_str!("../../tools/cuda-emulator/gpus.json");

/// A GPU of the emulator's list.
#[derive(Deserialize)]
pub struct Modelled {
    /// What `--gpu` and `INP_EMULATED_GPU` call it.
    pub name: String,
    /// What the driver calls it.
    pub product: String,
    capability: [u32; 2],
    shared_per_multiprocessor: u32,
    registers: u32,
    threads: u32,
    blocks: u32,
    bf16_tflops: f64,
    mma_sync: f64,
    bandwidth: f64,
}

impl Modelled {
    /// Every one.
    pub fn all() -> Vec<Self> {
        serde_json::from_str(FILE).expect("the emulator's tests read this file")
    }
    /// By short name. Errors: an unknown one.
    pub fn named(name: &str) -> Result<Self> {
        let known = || Self::all().into_iter().map(|g| g.name).collect::<Vec<_>>().join(", ");
        Self::all()
            .into_iter()
            .find(|g| g.name == name)
            .ok_or_else(|| Error::usage(format!("--gpu {name}: the emulator models {}", known())))
    }
    /// One of this architecture, of this product if that is known.
    pub fn like(product: &str, arch: u32) -> Option<Self> {
        let mut all = Self::all();
        all.retain(|g| g.arch() == arch);
        let i = all.iter().position(|g| g.product == product).unwrap_or(0);
        (i < all.len()).then(|| all.swap_remove(i))
    }
    fn arch(&self) -> u32 {
        10 * self.capability[0] + self.capability[1]
    }
    /// Everything that the emulator knows of it.
    pub fn inputs(&self) -> Value {
        let all: Vec<Value> = serde_json::from_str(FILE).expect("the emulator's tests read this file");
        all.into_iter().find(|g| g["name"] == *self.name).unwrap_or_default()
    }
    /// Microseconds that a launch would be busy at the full rate of what bounds it, and what that is: tensor cores through
    /// mma.sync, or device memory.
    pub fn roofline(&self, dtype: DType, work: &Work) -> (f64, &'static str) {
        let rate = self.bf16_tflops * self.mma_sync * if dtype == DType::Tf32 { 0.5 } else { 1.0 };
        let (computing, moving) = (work.flop / (rate * 1e6), work.bytes / (self.bandwidth * 1e3));
        if moving > computing { (moving, "device memory") } else { (computing, "tensor cores") }
    }
    /// Theoretical occupancy of a launch, 0 to 1: resident warps over those that fit a multiprocessor at most, by threads,
    /// blocks, ptxas's registers and shared memory, of which the system keeps 1 KiB a block.
    pub fn occupancy(&self, kernel: &KernelInfo, g: &Geometry) -> f64 {
        let warps = g.block.div_ceil(32).max(1);
        let registers = (kernel.registers.max(1) * 32).next_multiple_of(256) * warps;
        let shared = (kernel.shared + g.shared + 1024).next_multiple_of(128);
        let blocks = [
            self.threads / 32 / warps,
            self.registers / registers,
            self.shared_per_multiprocessor / shared,
            self.blocks,
        ];
        f64::from(blocks.into_iter().min().unwrap_or(0) * warps) / f64::from(self.threads / 32)
    }
}
