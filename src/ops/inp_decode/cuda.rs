//! The MLP of a decoder block on a GPU, two launches: kernels/inp_decode.cu.

use bytemuck::{Pod, Zeroable};

use crate::error::Result;
pub use crate::ops::inp_extract::cuda::Shape;
use crate::ops::linear::cuda::statistics;
use crate::ops::linear::cuda::tile::{Tile, tile};
use crate::runtime::DType;
use crate::runtime::cuda::cost::{Candidate, Cost, named, pick};
use crate::runtime::cuda::{Buffer, DevicePtr, Geometry, Machine, Stream, Work};

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
    /// Of its rounded rows, laid out as [`statistics`] says.
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

/// Kernels of `fc2`. All give the same bits.
pub const VARIANTS: [Tile; 3] = [
    tile("64x64x64", [64, 64, 128], 3, [2, 2], 96),
    tile("64x128x64", [64, 128, 128], 3, [2, 2], 166),
    tile("128x128x32", [128, 128, 64], 3, [2, 2], 240),
];
/// Tile of `fc1`.
const FC1: usize = 64;
/// Variants of `fc1`: how many times 64 columns a block does after its rows' variance. All give the same bits.
pub const SPLITS: [(&str, usize); 9] =
    [("x1", 1), ("x2", 2), ("x3", 3), ("x4", 4), ("x6", 6), ("x8", 8), ("x12", 12), ("x16", 16), ("x32", 32)];

/// What each variant of `fc2` would take.
pub fn candidates(dtype: DType, m: &Machine, s: &Shape) -> Vec<Candidate> {
    let k = (4 * s.channels + s.padded()) * dtype.bytes();
    let cost = |v: &Tile| Cost {
        bytes: (s.channels * k) as f64,
        ..v.cost(m, s.batch * v.tiles(s.tokens, s.channels), k, 14.0)
    };
    VARIANTS.iter().map(|v| Candidate::new(v.name, cost(v))).collect()
}

/// The fastest variant of `fc2`, or the one that is asked for: see [`pick`].
pub fn choose(dtype: DType, m: &Machine, s: &Shape, asked: Option<&str>) -> Result<&'static str> {
    pick("inp_decode", m, &candidates(dtype, m, s), asked)
}

/// What each split of `fc1` would take. A step is 64 columns; the variance before them takes about as long as one.
pub fn fc1_candidates(dtype: DType, m: &Machine, s: &Shape) -> Vec<Candidate> {
    let bytes = s.padded() * dtype.bytes();
    let (side, depth, all) = (FC1 as f64, bytes as f64 / 32.0, 4 * s.channels / FC1);
    let copied = side * bytes as f64;
    let step = Cost {
        warps: 4,
        registers: 96,
        shared: 3 * FC1 * bytes,
        mma: side / 16.0 * side / 8.0 * depth,
        wavefronts: 64.0 * depth + copied / 128.0,
        copied,
        arithmetic: side * side * 22.0,
        before: 1000.0,
        bytes: (s.batch * all * FC1 * bytes) as f64,
        ..Cost::default()
    };
    let cost = |columns: usize| Cost {
        blocks: s.batch * s.tokens.div_ceil(FC1) * all.div_ceil(columns),
        steps: 1.0 + columns.min(all) as f64,
        // Its warps go in step, so that nothing hides behind anything.
        alone: step.mma * m.mma() / 4.0 + step.wavefronts + step.arithmetic / m.lanes(),
        ..step
    };
    SPLITS.iter().map(|(name, columns)| Candidate::new(name, cost(*columns))).collect()
}

/// The fastest split of `fc1`, or the one that is asked for: see [`pick`].
pub fn choose_fc1(dtype: DType, m: &Machine, s: &Shape, asked: Option<&str>) -> Result<&'static str> {
    pick("inp_decode_fc1", m, &fc1_candidates(dtype, m, s), asked)
}

/// hidden `(B·N, 4C)` of the element type, assigned, from the coefficients `(B·N, HPK)`, in one of [`SPLITS`].
///
/// Errors: sizes that do not fit together or that the kernels do not take, an unknown split; launches that fail.
#[allow(clippy::too_many_arguments)]
pub fn fc1(
    stream: &Stream,
    dtype: DType,
    split: &str,
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
    let chunks = named(OP, &SPLITS, |v| v.0, split)?.1;
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
    let elements = rows * (hpk + 4 * c) + s.batch * (4 * c + 2 * hpk) * hpk;
    let work = Work::new(&[rows, 4 * c, hpk], 2 * rows * hpk * (4 * c + hpk), elements * e);
    let kernel = stream.gpu().kernel(&format!("inp_decode_fwd_fc1_{}", dtype.name()))?.doing(work);
    kernel.launch(stream, Geometry { grid, block: 128, shared }, &params)
}

/// z = \[hidden, coef\]·\[W2, VW\]ᵀ + bias, as `out` says.
///
/// Errors: as [`fc1`].
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
    out.stats.expect(OP, "stats", statistics(rows, c))?;
    let v = Tile::named(OP, &VARIANTS, variant)?;
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
    let k = 4 * c + hpk;
    let elements = rows * (k + c) + 4 * c * c + s.batch * c * hpk;
    let work = Work::new(&[rows, c, k], 2 * rows * c * k, elements * e + 4 * rows * c);
    let name = format!("inp_decode_fwd_fc2_{variant}_{}", dtype.name());
    let kernel = stream.gpu().kernel(&name)?.doing(work);
    let grid = [s.tokens.div_ceil(v.rows), c.div_ceil(v.columns), s.batch].map(|n| n as u32);
    let geometry = Geometry { grid, block: v.threads() as u32, shared: v.shared() as u32 };
    kernel.launch(stream, geometry, &params)
}
