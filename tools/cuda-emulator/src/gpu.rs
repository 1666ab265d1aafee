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
    /// Whether it shares the host's memory.
    pub integrated: bool,
    /// Dense rates of the tensor cores, 10¹² operations a second, and bytes of device memory, 10⁹ a second.
    pub bf16_tflops: f64,
    /// See above; `None` where there is no such format.
    pub fp8_tflops: Option<f64>,
    /// See above.
    pub int8_tops: f64,
    /// See above.
    pub bandwidth: f64,
    /// Where the numbers come from.
    pub source: String,
}

impl Gpu {
    /// All that can be modelled.
    pub fn all() -> Vec<Self> {
        serde_json::from_str(include_str!("../gpus.json")).unwrap_or_default()
    }
    /// By short name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|g| g.name == name)
    }
    /// The one that `INP_EMULATED_GPU` names; without a name an H100.
    pub fn chosen(name: Option<String>) -> Result<Self, String> {
        let name = name.filter(|n| !n.is_empty()).unwrap_or("h100".into());
        Self::named(&name).ok_or_else(|| {
            let all: Vec<String> = Self::all().into_iter().map(|g| g.name).collect();
            format!("INP_EMULATED_GPU: no GPU is called \"{name}\"; known are {}", all.join(", "))
        })
    }
}
