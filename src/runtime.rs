//! What everything runs on: tensors, the CPU (threads and instruction sets), GPUs, weight files.

pub mod cpu;
pub mod cuda;
pub mod device;
pub mod dtype;
pub mod simd;
pub mod tensor;
pub mod weights;

pub use cpu::Cpu;
pub use device::Device;
pub use dtype::{DType, Types};
pub use simd::{Elem, Kernel, Simd, Tier};
pub use tensor::Tensor;
