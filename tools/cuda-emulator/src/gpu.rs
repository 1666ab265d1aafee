//! The GPUs that can be modelled: limits, rates and their sources, from `gpus.json`.

/// One GPU.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Gpu {
    /// Short name, `h100`.
    pub name: String,
    /// What the driver calls it.
    pub product: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Device memory, bytes.
    pub memory: u64,
    /// Shared memory of a multiprocessor, bytes.
    pub shared_per_multiprocessor: u32,
    /// Shared memory a block may opt in to, bytes (48 KiB without opting in).
    pub shared_per_block: u32,
    /// 32-bit registers of a multiprocessor.
    pub registers: u32,
    /// Resident threads of a multiprocessor.
    pub threads: u32,
    /// Resident blocks of a multiprocessor.
    pub blocks: u32,
    /// L2 bytes.
    pub l2: u64,
    /// Boost clock, kHz.
    pub clock: u32,
    /// Memory clock, kHz, and bus width, bits.
    pub memory_clock: u32,
    /// Bus width, bits.
    pub bus: u32,
}

impl Gpu {
    /// By short name.
    pub fn named(name: &str) -> Option<Self> {
        (name == "h100").then(|| Self {
            name: "h100".into(),
            product: "NVIDIA H100 80GB HBM3".into(),
            capability: (9, 0),
            multiprocessors: 132,
            memory: 80 << 30,
            shared_per_multiprocessor: 228 << 10,
            shared_per_block: 227 << 10,
            registers: 65536,
            threads: 2048,
            blocks: 32,
            l2: 50 << 20,
            clock: 1_980_000,
            memory_clock: 2_619_000,
            bus: 5120,
        })
    }
}
