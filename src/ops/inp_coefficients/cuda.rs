//! Coefficients of the attention to the prototypes on a GPU, one launch: kernels/inp_coefficients.cu.

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
pub use crate::ops::inp_extract::cuda::Shape;
use crate::runtime::DType;
use crate::runtime::cuda::{Buffer, DevicePtr, Geometry, Stream};

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

/// Tiles of rows x columns x K (in 16-bit elements). Same bits.
pub const VARIANTS: [&str; 3] = ["64x64x64", "128x64x64", "128x128x32"];
/// Rows, columns, bytes of K and stages of each.
const TILES: [[usize; 4]; 3] = [[64, 64, 128, 3], [128, 64, 128, 3], [128, 128, 64, 3]];

/// The variant for a GPU of `sms` multiprocessors: the largest tile that gives every one of them a block.
pub fn choose(s: &Shape, sms: usize) -> &'static str {
    let blocks = |[m, n, ..]: [usize; 4]| (s.batch * s.tokens).div_ceil(m) * s.channels.div_ceil(n);
    let i = (0..TILES.len()).rev().find(|i| blocks(TILES[*i]) >= sms).unwrap_or(0);
    VARIANTS[i]
}

/// z `(B·N, C)` of the element type with its rows' statistics `(B·N, C/32)`, keys `(B, H, P, 64)` of the block → out:
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
    const OP: &str = "inp_coefficients";
    s.check(OP, dtype)?;
    let (c, e, rows) = (s.channels, dtype.bytes(), s.batch * s.tokens);
    let elements: [(_, &Buffer<u8>, _); 3] =
        [("out", out, rows * s.padded()), ("z", z, rows * c), ("q", w.q, c * c)];
    elements.iter().try_for_each(|(name, b, n)| b.expect(OP, name, n * e))?;
    let floats: [(_, &Buffer<f32>, _); 3] =
        [("keys", keys, s.batch * s.prototypes * c), ("colsum", w.colsum, c), ("bias", w.bias, c)];
    floats.iter().try_for_each(|(name, b, n)| b.expect(OP, name, *n))?;
    stats.expect(OP, "stats", rows * c / 32)?;
    let [m, n, line, stages] = tile(OP, &VARIANTS, &TILES, variant)?;
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
    // Four warps down, 64 columns each; the slabs that results may pass through are not used here but counted.
    let shared = shared(m, n, line, stages, 4, n / 64);
    let kernel = stream.gpu().kernel(&format!("inp_coefficients_fwd_{variant}_{}", dtype.name()))?;
    let grid = [rows.div_ceil(m) as u32, c.div_ceil(n) as u32, 1];
    kernel.launch(stream, Geometry { grid, block: 2 * n as u32, shared }, &params)
}

/// The sizes of a variant.
pub(in crate::ops) fn tile<const K: usize>(
    op: &'static str,
    names: &[&str],
    tiles: &[[usize; K]],
    variant: &str,
) -> Result<[usize; K]> {
    let found = names.iter().position(|n| *n == variant).map(|i| tiles[i]);
    found
        .ok_or_else(|| Error::Usage(format!("{op} has no variant {variant}; there are {}", names.join(", "))))
}

/// `Gemm::SHARED` of kernels/gemm.cuh.
pub(in crate::ops) fn shared(
    m: usize,
    n: usize,
    line: usize,
    stages: usize,
    down: usize,
    across: usize,
) -> u32 {
    let slabs = down * across * 16 * (n / across + 8) * 4;
    (stages * (m + n) * line).max(slabs) as u32
}
