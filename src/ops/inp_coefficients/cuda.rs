//! Coefficients of the attention to the prototypes on a GPU, one launch: kernels/inp_coefficients.cu.

use bytemuck::{Pod, Zeroable};

use crate::error::Result;
pub use crate::ops::inp_extract::cuda::Shape;
use crate::ops::linear::cuda::statistics;
use crate::ops::linear::cuda::tile::{Tile, tile};
use crate::runtime::DType;
use crate::runtime::cuda::cost::{Candidate, Cost, pick};
use crate::runtime::cuda::{Buffer, DevicePtr, Geometry, Machine, Stream, Work};

/// The query's folded weights of one block.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// `(C, C)` of the element type, the norm's gain in, centred.
    pub q: &'a Buffer<u8>,
    /// Sums of its rounded rows `(C)`.
    pub colsum: &'a Buffer<f32>,
    /// `(C)`, the norm's bias in.
    pub bias: &'a Buffer<f32>,
}

/// Mirrors `InpCoefficientsParams` of kernels/inp_coefficients.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    z: DevicePtr<u8>,
    stats: DevicePtr<[f32; 2]>,
    w: DevicePtr<u8>,
    colsum: DevicePtr<f32>,
    bias: DevicePtr<f32>,
    keys: DevicePtr<f32>,
    coef: DevicePtr<u8>,
    rows: i32,
    tokens: i32,
    channels: i32,
    heads: i32,
    count: i32,
    padded: i32,
    eps: f32,
    unused: i32,
}

const OP: &str = "inp_coefficients";

/// Kernels of this stem; a warp has 64 columns, a head. All give the same bits.
pub const VARIANTS: [Tile; 3] = [
    tile("64x64x64", [64, 64, 128], 3, [4, 1], 96),
    tile("128x64x64", [128, 64, 128], 3, [4, 1], 152),
    tile("128x128x32", [128, 128, 64], 3, [4, 2], 145),
];

/// What each variant would take.
pub fn candidates(dtype: DType, m: &Machine, s: &Shape) -> Vec<Candidate> {
    let k = s.channels * dtype.bytes();
    // For each element the norm and its share of P products.
    let instructions = 8.0 + 2.0 * s.prototypes as f64;
    let cost = |v: &Tile| Cost {
        bytes: (s.channels * k) as f64,
        ..v.cost(m, v.tiles(s.batch * s.tokens, s.channels), k, instructions)
    };
    VARIANTS.iter().map(|v| Candidate::new(v.name, cost(v))).collect()
}

/// The fastest variant, or the one that is asked for: see [`pick`].
pub fn choose(dtype: DType, m: &Machine, s: &Shape, asked: Option<&str>) -> Result<&'static str> {
    pick(OP, m, &candidates(dtype, m, s), asked)
}

/// z `(B·N, C)` of the element type with its rows' [`statistics`], keys `(B, H, P, 64)` of the block → out:
/// coefficients `(B·N, HPK)` of the element type, pads zero, assigned.
///
/// Errors: sizes that do not fit together or that the kernels do not take, an unknown variant; launches that fail.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    stream: &Stream,
    dtype: DType,
    variant: &str,
    out: &Buffer<u8>,
    z: &Buffer<u8>,
    stats: &Buffer<[f32; 2]>,
    keys: &Buffer<f32>,
    w: &Weights,
    s: &Shape,
    eps: f32,
) -> Result<()> {
    s.check(OP, dtype)?;
    let (c, e, rows) = (s.channels, dtype.bytes(), s.batch * s.tokens);
    let elements: [(_, &Buffer<u8>, _); 3] =
        [("out", out, rows * s.padded()), ("z", z, rows * c), ("q", w.q, c * c)];
    elements.iter().try_for_each(|(name, b, n)| b.expect(OP, name, n * e))?;
    let floats: [(_, &Buffer<f32>, _); 3] =
        [("keys", keys, s.batch * s.prototypes * c), ("colsum", w.colsum, c), ("bias", w.bias, c)];
    floats.iter().try_for_each(|(name, b, n)| b.expect(OP, name, *n))?;
    stats.expect(OP, "stats", statistics(rows, c))?;
    let v = Tile::named(OP, &VARIANTS, variant)?;
    let params = Params {
        z: z.ptr(),
        stats: stats.ptr(),
        w: w.q.ptr(),
        colsum: w.colsum.ptr(),
        bias: w.bias.ptr(),
        keys: keys.ptr(),
        coef: out.ptr(),
        rows: rows as i32,
        tokens: s.tokens as i32,
        channels: c as i32,
        heads: s.heads as i32,
        count: s.prototypes as i32,
        padded: s.padded() as i32,
        eps,
        unused: 0,
    };
    let flop = 2 * rows * c * (c + s.prototypes);
    let work = Work::new(&[rows, c, s.prototypes], flop, (rows * (c + s.padded()) + c * c) * e);
    let name = format!("inp_coefficients_fwd_{variant}_{}", dtype.name());
    let kernel = stream.gpu().kernel(&name)?.doing(work);
    let grid = [rows.div_ceil(v.rows) as u32, c.div_ceil(v.columns) as u32, 1];
    // The slabs that results may pass through are not used here but counted.
    let geometry = Geometry { grid, block: v.threads() as u32, shared: v.shared() as u32 };
    kernel.launch(stream, geometry, &params)
}
