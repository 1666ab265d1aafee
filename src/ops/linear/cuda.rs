//! Linear layers on a GPU, one launch each: kernels/linear.cu.

pub mod epilogue;
mod tile;

use bytemuck::{Pod, Zeroable};

pub use epilogue::{Epilogue, Fused, Groups, Norm, Output};
pub use tile::{VARIANTS, Variant, choose, cycles};

use crate::error::{Error, Result};
use crate::runtime::DType;
use crate::runtime::cuda::{Buffer, DevicePtr, Geometry, Stream};

const OP: &str = "linear";

/// Sizes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of x and y (M).
    pub rows: usize,
    /// Columns of y (N): outputs, a multiple of 8.
    pub outputs: usize,
    /// Columns of x (K): inputs, a multiple of 8.
    pub inputs: usize,
}

impl Shape {
    fn check(&self) -> Result<()> {
        let Self { rows, outputs, inputs } = *self;
        // Offsets are counted in 32 bits of 16 bytes, rows and columns in 31; 65 535 is the grid's limit.
        let fits = |n: usize| n.saturating_mul(inputs) >> 33 == 0 && n >> 31 == 0;
        let whole = rows * outputs * inputs > 0 && outputs % 8 == 0 && inputs % 8 == 0;
        if whole
            && fits(rows)
            && fits(outputs)
            && outputs.div_ceil(64) <= 65_535
            && rows.div_ceil(256) <= 65_535
        {
            return Ok(());
        }
        Err(Error::usage(format!(
            "linear: CUDA kernels take at least one row, inputs and outputs in multiples of 8, and less than 2^33 elements, \
             not {self:?}"
        )))
    }
}

/// Mirrors `LinearParams` of kernels/linear.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    x: DevicePtr<u8>,
    w: DevicePtr<u8>,
    epilogue: epilogue::Raw,
    rows: u32,
    outputs: u32,
    inputs: u32,
    unused: u32,
}

/// x `(M, K)`, w `(N, K)` of the element type → epilogue of `x·wᵀ`, by the variant of that name (all give the same bits).
///
/// Errors: sizes or buffers that do not fit together or that the kernels do not take, an unknown variant; launches that
/// fail.
pub fn forward(
    stream: &Stream,
    dtype: DType,
    variant: &str,
    epilogue: &Epilogue,
    x: &Buffer<u8>,
    w: &Buffer<u8>,
    shape: &Shape,
) -> Result<()> {
    shape.check()?;
    let Shape { rows, outputs, inputs } = *shape;
    let v = Variant::named(variant)?;
    x.expect(OP, "x", rows * inputs * dtype.bytes())?;
    w.expect(OP, "w", outputs * inputs * dtype.bytes())?;
    let epilogue = epilogue.raw(dtype, shape)?;
    let params = Params {
        x: x.ptr(),
        w: w.ptr(),
        epilogue,
        rows: rows as u32,
        outputs: outputs as u32,
        inputs: inputs as u32,
        unused: 0,
    };
    let kernel = stream.gpu().kernel(&format!("linear_fwd_{}_{}", v.name, dtype.name()))?;
    kernel.launch(stream, v.geometry(shape), &params)
}

/// A buffer of `len` elements where `wanted` are needed.
impl Variant {
    /// Blocks in groups of up to eight rows of tiles: a group's blocks share their rows of x, neighbours their tile of w.
    fn geometry(&self, s: &Shape) -> Geometry {
        let tiles = s.rows.div_ceil(self.rows);
        let groups = tiles.div_ceil(8);
        let grid = [tiles.div_ceil(groups), s.outputs.div_ceil(self.columns), groups].map(|n| n as u32);
        Geometry { grid, block: 32 * self.warps as u32, shared: self.shared() as u32 }
    }
}
