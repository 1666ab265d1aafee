//! The GPUs that can be modelled: limits, rates and their sources, from `gpus.json`.

/// GPUs of a machine at most.
const MOST: usize = 16;

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
    /// 32-bit floating-point operations that a multiprocessor begins in a clock.
    pub fp32_lanes: u32,
    /// The same of 64-bit ones.
    pub fp64_lanes: u32,
    /// The same of 32-bit integer ones.
    pub int32_lanes: u32,
    /// How much faster f16 products are that accumulate in f16.
    pub f16_accumulate: f64,
    /// Share of the tensor cores' rate that mma.sync reaches; the rest needs wgmma.
    pub mma_sync: f64,
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
    /// Those that `INP_EMULATED_GPU` names, `h100`, `h100*2` or `h100,a100`; without a name one H100.
    pub fn chosen(names: Option<String>) -> Result<Vec<Self>, String> {
        let names = names.filter(|n| !n.is_empty()).unwrap_or("h100".into());
        Self::list(&names).map_err(|e| format!("INP_EMULATED_GPU: {e}"))
    }
    /// GPUs of a machine: names with commas between them, each with `*n` for several equal ones.
    pub fn list(names: &str) -> Result<Vec<Self>, String> {
        let mut all = Vec::new();
        for word in names.split(',') {
            let (name, times) = word.split_once('*').unwrap_or((word, "1"));
            let times = times.parse::<usize>().ok().filter(|n| (1..=MOST).contains(n));
            let times =
                times.ok_or_else(|| format!("\"{word}\" must end with a number from 1 to {MOST} after *"))?;
            let gpu = Self::named(name).ok_or_else(|| {
                let known: Vec<String> = Self::all().into_iter().map(|g| g.name).collect();
                format!("no GPU is called \"{name}\"; known are {}", known.join(", "))
            })?;
            all.extend(std::iter::repeat_n(gpu, times));
        }
        if all.len() > MOST { Err(format!("at most {MOST} GPUs can be modelled")) } else { Ok(all) }
    }
}
