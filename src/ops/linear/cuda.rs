//! Linear layers on a GPU, one launch each: kernels/linear.cu.

pub mod epilogue;
pub(in crate::ops) mod tile;

use bytemuck::{Pod, Zeroable};

pub use epilogue::{Epilogue, Fused, Groups, Norm, Output, statistics};
pub use tile::Tile;
use tile::tile;

use crate::error::{Error, Result};
use crate::runtime::DType;
use crate::runtime::cuda::cost::{Candidate, Cost, pick};
use crate::runtime::cuda::{Buffer, DevicePtr, Geometry, Machine, Stream, Work};

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
    let v = Tile::named(OP, &VARIANTS, variant)?;
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
    let (flop, elements) = (2 * rows * outputs * inputs, (rows + outputs) * inputs + rows * outputs);
    let work = Work::new(&[rows, outputs, inputs], flop, elements * dtype.bytes());
    let kernel = stream.gpu().kernel(&format!("linear_fwd_{}_{}", v.name, dtype.name()))?.doing(work);
    // Blocks in groups of up to eight rows of tiles: a group's blocks share their rows of x, neighbours their tile of w.
    let tiles = rows.div_ceil(v.rows);
    let groups = tiles.div_ceil(8);
    let grid = [tiles.div_ceil(groups), outputs.div_ceil(v.columns), groups].map(|n| n as u32);
    kernel.launch(stream, Geometry { grid, block: v.threads() as u32, shared: shared(v) as u32 }, &params)
}

/// Kernels of this stem. All give the same bits.
pub const VARIANTS: [Tile; 7] = [
    tile("128x256x64", [128, 256, 128], 2, [2, 4], 240),
    tile("128x128x64", [128, 128, 128], 3, [2, 2], 240),
    tile("128x128x32", [128, 128, 64], 3, [2, 2], 240),
    tile("128x64x64", [128, 64, 128], 3, [2, 2], 160),
    tile("64x128x64", [64, 128, 128], 3, [2, 2], 160),
    tile("64x64x64", [64, 64, 128], 3, [2, 2], 96),
    tile("32x64x64", [32, 64, 128], 4, [2, 2], 72),
];

/// Bytes of shared memory of a block: the stages, then mean and deviation of the rows.
fn shared(v: &Tile) -> usize {
    v.shared() + 8 * v.rows
}

/// What each variant would take.
pub fn candidates(dtype: DType, m: &Machine, s: &Shape, gelu: bool) -> Vec<Candidate> {
    let (k, instructions) = (s.inputs * dtype.bytes(), if gelu { 22.0 } else { 10.0 });
    let cost = |v: &Tile| Cost {
        shared: shared(v),
        bytes: (s.outputs * k) as f64,
        ..v.cost(m, v.tiles(s.rows, s.outputs), k, instructions)
    };
    VARIANTS.iter().map(|v| Candidate::new(v.name, cost(v))).collect()
}

/// The fastest variant, or the one that is asked for: see [`pick`].
pub fn choose(dtype: DType, m: &Machine, s: &Shape, gelu: bool, asked: Option<&str>) -> Result<&'static str> {
    pick(OP, m, &candidates(dtype, m, s, gelu), asked)
}
