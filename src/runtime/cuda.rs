//! NVIDIA GPUs through the driver API: the only place that calls it. Kernels are embedded ([`image`]); the driver is found
//! when it is asked for, so that one program runs with and without a GPU, and on the emulator.

mod buffer;
pub mod cost;
mod driver;
mod gpu;
mod graph;
pub mod image;
mod kernel;
mod stream;

use crate::error::{Error, Result};

pub use buffer::{Arena, Buffer, DevicePtr, Pinned, size};
pub use driver::{emulated_report, set_emulated};
pub use gpu::{Gpu, Machine, Watched, count};
pub use graph::Graph;
pub use kernel::{Geometry, Kernel, Work, asked, check_asked};
pub use stream::{Event, Stream};

/// Errors: a build without kernels.
pub fn has_kernels() -> Result<()> {
    match image::IMAGES.is_empty() {
        false => Ok(()),
        true => Err(Error::Device(
            "this build holds no CUDA kernels, as there was no nvcc: run tools/install-cuda-toolkit and build again".into(),
        )),
    }
}
