//! The MLP of a decoder block on a GPU, two launches: kernels/inp_decode.cu.

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::ops::inp_coefficients::cuda::{shared, tile};
pub use crate::ops::inp_extract::cuda::Shape;
use crate::runtime::DType;
use crate::runtime::cuda::{Buffer, DevicePtr, Geometry, Stream};

/// Folded weights of one block, and its part of the images' factors (`inp_factors`).
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Weights<'a> {
    /// `(B, 4C, HPK)`, `(B, C, HPK)`, `(B, 2·HPK, HPK)`, `(B, HPK)`.
    pub va: &'a Buffer<u8>,
    pub vw: &'a Buffer<u8>,
    pub gram: &'a Buffer<u8>,
    pub gram_scale: &'a Buffer<[f32; 2]>,
    /// Squared length of the projection's centred bias / C.
    pub bias_variance: f32,
    /// What that bias adds to the first layer before the row's scale, and what comes after it, `(4C)`.
    pub fc1_scaled: &'a Buffer<f32>,
    pub fc1_shift: &'a Buffer<f32>,
    /// Second layer `(C, 4C)` of the element type, `(C)`; its bias includes the projection's.
    pub fc2: &'a Buffer<u8>,
    pub fc2_bias: &'a Buffer<f32>,
}

/// Where the block's output goes.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    /// `(B·N, C)` of the element type.
    pub z: &'a Buffer<u8>,
    /// Statistics of its rounded rows `(B·N, C/32)`.
    pub stats: &'a Buffer<[f32; 2]>,
    /// The group's sum `(B, N, C)`.
    pub sum: &'a Buffer<f32>,
    /// Whether to add to the sum, or assign it.
    pub accumulate: bool,
}

/// Mirrors `InpDecodeFc1Params` of kernels/inp_decode.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Fc1Params {
    coef: DevicePtr<u8>,
    va: DevicePtr<u8>,
    gram: DevicePtr<u8>,
    gram_scale: DevicePtr<[f32; 2]>,
    scaled: DevicePtr<f32>,
    shift: DevicePtr<f32>,
    hidden: DevicePtr<u8>,
    tokens: i32,
    width: i32,
    padded: i32,
    chunks: i32,
    constant: f32,
    eps: f32,
}

/// Mirrors `InpDecodeFc2Params` of kernels/inp_decode.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Fc2Params {
    hidden: DevicePtr<u8>,
    coef: DevicePtr<u8>,
    w: DevicePtr<u8>,
    vw: DevicePtr<u8>,
    bias: DevicePtr<f32>,
    z: DevicePtr<u8>,
    stats: DevicePtr<[f32; 2]>,
    sum: DevicePtr<f32>,
    tokens: i32,
    channels: i32,
    padded: i32,
    accumulate: i32,
}

/// Variants of `fc2`: tiles of rows x columns x K (in 16-bit elements). Same bits.
pub const VARIANTS: [&str; 3] = ["64x64x64", "64x128x64", "128x128x32"];
/// Rows, columns, bytes of K and stages of each.
const TILES: [[usize; 4]; 3] = [[64, 64, 128, 3], [64, 128, 128, 3], [128, 128, 64, 3]];
/// Tile of `fc1`.
const FC1: usize = 64;

/// The variant of `fc2` for a GPU of `sms` multiprocessors: the largest tile that gives every one of them a block.
pub fn choose(s: &Shape, sms: usize) -> &'static str {
    let blocks = |[m, n, ..]: [usize; 4]| s.batch * s.tokens.div_ceil(m) * s.channels.div_ceil(n);
    let i = (0..TILES.len()).rev().find(|i| blocks(TILES[*i]) >= sms).unwrap_or(0);
    VARIANTS[i]
}

/// How many times 64 columns a block of `fc1` does after its rows' variance, which costs about as much as 64 columns: what
/// keeps the busiest of `sms` multiprocessors least long, one block alone there counting half as much again, since nothing
/// hides its waits.
pub fn choose_chunks(s: &Shape, sms: usize) -> usize {
    let (rows, all) = (s.batch * s.tokens.div_ceil(FC1), 4 * s.channels / FC1);
    let cost = |chunks: &usize| {
        let blocks = (rows * all.div_ceil(*chunks)).div_ceil(sms);
        2 * blocks.max(1) * (1 + chunks) * if blocks < 2 { 3 } else { 2 }
    };
    (1..=all).min_by_key(cost).unwrap_or(1)
}

/// hidden `(B·N, 4C)` of the element type, assigned, from the coefficients `(B·N, HPK)`. `chunks`: see [`choose_chunks`];
/// any gives the same bits.
///
/// Errors: sizes that do not fit together or that the kernels do not take; launches that fail.
#[allow(clippy::too_many_arguments)]
pub fn fc1(
    stream: &Stream,
    dtype: DType,
    chunks: usize,
    hidden: &Buffer<u8>,
    coef: &Buffer<u8>,
    w: &Weights,
    s: &Shape,
    eps: f32,
) -> Result<()> {
    const OP: &str = "inp_decode fc1";
    s.check(OP, dtype)?;
    let (c, e, rows, hpk) = (s.channels, dtype.bytes(), s.batch * s.tokens, s.padded());
    let elements: [(_, &Buffer<u8>, _); 4] = [
        ("hidden", hidden, rows * 4 * c),
        ("coef", coef, rows * hpk),
        ("va", w.va, s.batch * 4 * c * hpk),
        ("gram", w.gram, s.batch * 2 * hpk * hpk),
    ];
    elements.iter().try_for_each(|(name, b, n)| b.expect(OP, name, n * e))?;
    w.gram_scale.expect(OP, "gram_scale", s.batch * hpk)?;
    w.fc1_scaled.expect(OP, "fc1_scaled", 4 * c)?;
    w.fc1_shift.expect(OP, "fc1_shift", 4 * c)?;
    if chunks == 0 {
        return Err(Error::Usage(format!("{OP}: a block does no columns")));
    }
    let params = Fc1Params {
        coef: coef.ptr(),
        va: w.va.ptr(),
        gram: w.gram.ptr(),
        gram_scale: w.gram_scale.ptr(),
        scaled: w.fc1_scaled.ptr(),
        shift: w.fc1_shift.ptr(),
        hidden: hidden.ptr(),
        tokens: s.tokens as i32,
        width: 4 * c as i32,
        padded: hpk as i32,
        chunks: chunks as i32,
        constant: w.bias_variance,
        eps,
    };
    let grid = [s.tokens.div_ceil(FC1), (4 * c / FC1).div_ceil(chunks), s.batch].map(|n| n as u32);
    let shared = (3 * FC1 * hpk * e) as u32;
    let kernel = stream.gpu().kernel(&format!("inp_decode_fwd_fc1_{}", dtype.name()))?;
    kernel.launch(stream, Geometry { grid, block: 128, shared }, &params)
}

/// z = \[hidden, coef\]·\[W2, VW\]ᵀ + bias, as `out` says.
///
/// Errors: as [`fc1`], and an unknown variant.
#[allow(clippy::too_many_arguments)]
pub fn fc2(
    stream: &Stream,
    dtype: DType,
    variant: &str,
    out: &Output,
    hidden: &Buffer<u8>,
    coef: &Buffer<u8>,
    w: &Weights,
    s: &Shape,
) -> Result<()> {
    const OP: &str = "inp_decode fc2";
    s.check(OP, dtype)?;
    let (c, e, rows, hpk) = (s.channels, dtype.bytes(), s.batch * s.tokens, s.padded());
    let elements: [(_, &Buffer<u8>, _); 5] = [
        ("z", out.z, rows * c),
        ("hidden", hidden, rows * 4 * c),
        ("coef", coef, rows * hpk),
        ("fc2", w.fc2, 4 * c * c),
        ("vw", w.vw, s.batch * c * hpk),
    ];
    elements.iter().try_for_each(|(name, b, n)| b.expect(OP, name, n * e))?;
    w.fc2_bias.expect(OP, "fc2_bias", c)?;
    out.sum.expect(OP, "sum", rows * c)?;
    out.stats.expect(OP, "stats", rows * c / 32)?;
    let [m, n, line, stages] = tile(OP, &VARIANTS, &TILES, variant)?;
    let params = Fc2Params {
        hidden: hidden.ptr(),
        coef: coef.ptr(),
        w: w.fc2.ptr(),
        vw: w.vw.ptr(),
        bias: w.fc2_bias.ptr(),
        z: out.z.ptr(),
        stats: out.stats.ptr(),
        sum: out.sum.ptr(),
        tokens: s.tokens as i32,
        channels: c as i32,
        padded: hpk as i32,
        accumulate: out.accumulate.into(),
    };
    let kernel = stream.gpu().kernel(&format!("inp_decode_fwd_fc2_{variant}_{}", dtype.name()))?;
    let grid = [s.tokens.div_ceil(m), c.div_ceil(n), s.batch].map(|n| n as u32);
    kernel.launch(stream, Geometry { grid, block: 128, shared: shared(m, n, line, stages, 2, 2) }, &params)
}
