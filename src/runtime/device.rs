//! Where to compute.

use crate::runtime::Cpu;
use crate::runtime::cuda::Gpu;

/// A processor or a GPU.
#[derive(Clone)]
pub enum Device {
    /// Threads and an instruction set.
    Cpu(Cpu),
    /// An NVIDIA GPU, or the emulated one.
    Cuda(Gpu),
}

impl From<Cpu> for Device {
    fn from(cpu: Cpu) -> Self {
        Self::Cpu(cpu)
    }
}
impl From<Gpu> for Device {
    fn from(gpu: Gpu) -> Self {
        Self::Cuda(gpu)
    }
}
