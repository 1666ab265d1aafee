//! NVIDIA GPUs through the driver API: the only place that calls it. Kernels are embedded ([`image`]); the driver is found
//! when it is asked for, so that one program runs with and without a GPU, and on the emulator.

mod buffer;
mod driver;
mod gpu;
mod graph;
pub mod image;
mod kernel;
mod stream;

pub use buffer::{Arena, Buffer, DevicePtr, Pinned};
pub use driver::{emulated_report, set_emulated};
pub use gpu::{Gpu, Machine, count};
pub use graph::Graph;
pub use kernel::{Geometry, Kernel, asked};
pub use stream::{Event, Stream};
