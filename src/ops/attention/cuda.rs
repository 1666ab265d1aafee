//! Self-attention on a GPU, one launch: kernels/attention.cu.

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::runtime::DType;
use crate::runtime::cuda::cost::{Candidate, Cost, named, pick};
use crate::runtime::cuda::{Buffer, DevicePtr, Geometry, Machine, Stream, Work};

/// Sizes of a call; a head has 64 channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Images (B).
    pub batch: usize,
    /// Tokens of an image (T), at least one.
    pub tokens: usize,
    /// Heads (H).
    pub heads: usize,
}

/// Mirrors `AttentionParams` of kernels/attention.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    qkv: DevicePtr<u8>,
    out: DevicePtr<u8>,
    tokens: i32,
    heads: i32,
}

/// A kernel of this stem. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variant {
    /// As kernels' names have it: rows x warps.
    pub name: &'static str,
    /// Query rows of a block.
    pub rows: usize,
    /// Warps of a block, 16 or 32 rows each.
    pub warps: usize,
    /// Registers of a thread that the model counts with.
    registers: usize,
}
impl Variant {
    const fn new(name: &'static str, rows: usize, warps: usize, registers: usize) -> Self {
        Self { name, rows, warps, registers }
    }
    /// Whether a warp has 32 rows, one tile after the other; else 16, and the next tile's scores ahead.
    fn wide(&self) -> bool {
        self.rows == 32 * self.warps
    }
    /// Bytes of shared memory of a block.
    pub fn shared(&self, dtype: DType) -> usize {
        64 * (self.rows + 256) * dtype.bytes()
    }
}

const WIDE: [Variant; 3] = [
    Variant::new("256x8", 256, 8, 255),
    Variant::new("128x4", 128, 4, 255),
    Variant::new("64x2", 64, 2, 255),
];
const NARROW: [Variant; 3] =
    [Variant::new("128x8", 128, 8, 176), Variant::new("64x4", 64, 4, 168), Variant::new("32x2", 32, 2, 168)];
const TF32: [Variant; 3] =
    [Variant::new("128x8", 128, 8, 232), Variant::new("64x4", 64, 4, 232), Variant::new("32x2", 32, 2, 232)];
const SIXTEEN: [Variant; 6] = [WIDE[0], WIDE[1], WIDE[2], NARROW[0], NARROW[1], NARROW[2]];

/// The kernels for an element type.
pub fn variants(dtype: DType) -> &'static [Variant] {
    match dtype {
        DType::Bf16 | DType::F16 => &SIXTEEN,
        DType::Tf32 => &TF32,
    }
}

/// What each variant would take; a step is a tile of 64 keys.
pub fn candidates(dtype: DType, m: &Machine, s: &Shape) -> Vec<Candidate> {
    let wide = dtype.bytes() as f64 / 2.0;
    // Half the MAC and half the rate for tf32.
    let mma = m.mma() * wide * wide;
    let copied = 2.0 * 64.0 * 64.0 * dtype.bytes() as f64;
    let cost = |v: &Variant| Cost {
        blocks: s.batch * s.heads * s.tokens.div_ceil(v.rows),
        warps: v.warps,
        registers: v.registers,
        shared: v.shared(dtype),
        steps: s.tokens.div_ceil(64) as f64,
        // 64 mma for every 16 rows.
        mma: v.rows as f64 / 16.0 * 64.0 * wide * wide,
        wavefronts: v.warps as f64 * 128.0 * wide + copied / 128.0,
        copied,
        // 32 or 64 of 2^x at 8 cycles a warp, overlapped with the next scores or not, and the waits.
        alone: if v.wide() { 128.0 * mma + 64.0 * 8.0 + 300.0 } else { 64.0 * mma + 32.0 * 4.0 + 300.0 },
        ..Cost::default()
    };
    variants(dtype).iter().map(|v| Candidate::new(v.name, cost(v))).collect()
}

/// The fastest variant, or the one that is asked for: see [`pick`].
pub fn choose(dtype: DType, m: &Machine, s: &Shape, asked: Option<&str>) -> Result<&'static str> {
    pick("attention", m, &candidates(dtype, m, s), asked)
}

/// qkv `(B·T, 3C)` of the element type, columns q, k, v, a head's 64 together, q holding 1/8·log2(e) → out `(B·T, C)`,
/// assigned: softmax to the base 2. NaN in a row of q spoils that row of its head, in k the whole head, in v its column.
///
/// Errors: buffers that do not fit, an empty shape, an unknown variant; launches that fail.
pub fn forward(
    stream: &Stream,
    dtype: DType,
    variant: &str,
    out: &Buffer<u8>,
    qkv: &Buffer<u8>,
    s: &Shape,
) -> Result<()> {
    let v = named("attention", variants(dtype), |v| v.name, variant)?;
    let Shape { batch, tokens, heads } = *s;
    // Offsets within an image are counted in 32 bits of 16 bytes.
    if batch * tokens * heads == 0 || tokens.saturating_mul(heads) >> 26 > 0 {
        return Err(Error::usage(format!(
            "attention: CUDA kernels take at least one image, token and head, and less than 2^26 tokens times heads, not {s:?}"
        )));
    }
    let bytes = batch * tokens * 64 * heads * dtype.bytes();
    for (tensor, buffer, parts) in [("qkv", qkv, 3), ("out", out, 1)] {
        buffer.expect("attention", tensor, bytes * parts)?;
    }
    let work = Work::new(&[batch, tokens, heads], 256 * batch * heads * tokens * tokens, 4 * bytes);
    let kernel = stream.gpu().kernel(&format!("attention_fwd_{}_{}", v.name, dtype.name()))?.doing(work);
    let grid = [tokens.div_ceil(v.rows), heads, batch].map(|n| n as u32);
    let geometry = Geometry { grid, block: 32 * v.warps as u32, shared: v.shared(dtype) as u32 };
    let params = Params { qkv: qkv.ptr(), out: out.ptr(), tokens: tokens as i32, heads: heads as i32 };
    kernel.launch(stream, geometry, &params)
}
