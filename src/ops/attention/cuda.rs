//! Self-attention on a GPU, one launch: kernels/attention.cu.

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::runtime::DType;
use crate::runtime::cuda::{Buffer, DevicePtr, Geometry, Machine, Stream};

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
    /// The variant of that name.
    pub fn named(dtype: DType, name: &str) -> Result<&'static Self> {
        variants(dtype).iter().find(|v| v.name == name).ok_or_else(|| {
            let all: Vec<_> = variants(dtype).iter().map(|v| v.name).collect();
            let (dtype, all) = (dtype.name(), all.join(", "));
            Error::usage(format!("attention has no CUDA variant \"{name}\" for {dtype}; there are {all}"))
        })
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

/// Predicted clock cycles of a launch.
///
/// Blocks come in rounds of as many as all multiprocessors hold. In a round a tile of 64 keys costs each multiprocessor what its
/// blocks together ask of the busiest unit (tensor cores, shared memory, second-level cache) and a quarter of the rest, but no
/// less than one warp needs on its own.
pub fn cycles(v: &Variant, dtype: DType, m: &Machine, s: &Shape) -> f64 {
    // Cycles of an mma of 2048 MAC on a quarter of a multiprocessor; bytes a cycle from the second-level cache.
    let (mma, cache) = match m.arch {
        80 => (8.0, 35.0),
        90 => (6.5, 42.0),
        _ => (16.0, 16.0),
    };
    let wide = dtype.bytes() as f64 / 2.0;
    let (rows, warps) = (v.rows as f64, v.warps as f64);
    // In steps of 16 rows: 64 mma a tile, of half the MAC and half the rate for tf32.
    let mma = mma * wide * wide;
    let copied = 2.0 * 64.0 * 64.0 * dtype.bytes() as f64;
    let tensor = rows / 16.0 * 64.0 * mma / 4.0;
    let shared = warps * 128.0 * wide + copied / 128.0;
    // 32 or 64 of 2^x at 8 cycles a warp, overlapped with the next scores or not, and the waits.
    let alone = if v.wide() { 128.0 * mma + 64.0 * 8.0 + 300.0 } else { 64.0 * mma + 32.0 * 4.0 + 300.0 };

    let registers = 65_536 / (v.registers.next_multiple_of(8) * 32 * v.warps);
    let held = registers.min((m.shared + 1024) / (v.shared(dtype) + 1024)).max(1);
    let blocks = s.batch * s.heads * s.tokens.div_ceil(v.rows);
    let round = |blocks: usize| {
        let n = blocks as f64;
        let units = [n * tensor, n * shared, n * copied / cache];
        let busiest = units.iter().copied().fold(0.0, f64::max);
        alone.max(busiest + (units.iter().sum::<f64>() - busiest) / 4.0)
    };
    let (rounds, rest) = (blocks / (m.sms * held), blocks % (m.sms * held));
    let last = if rest == 0 { 0.0 } else { round(rest.div_ceil(m.sms)) };
    s.tokens.div_ceil(64) as f64 * (rounds as f64 * round(held) + last)
}

/// The variant with the fewest predicted cycles among those that the GPU can run, or the one that is asked for.
///
/// Errors: an unknown one.
pub fn choose(dtype: DType, m: &Machine, s: &Shape, asked: Option<&str>) -> Result<&'static Variant> {
    if let Some(name) = asked {
        return Variant::named(dtype, name);
    }
    let fits = variants(dtype).iter().filter(|v| v.shared(dtype) <= m.shared);
    let best = fits.min_by(|a, b| cycles(a, dtype, m, s).total_cmp(&cycles(b, dtype, m, s)));
    best.ok_or_else(|| {
        Error::Device(format!("attention: no CUDA variant fits {} bytes of shared memory", m.shared))
    })
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
    let v = Variant::named(dtype, variant)?;
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
    let kernel = stream.gpu().kernel(&format!("attention_fwd_{}_{}", v.name, dtype.name()))?;
    let grid = [tokens.div_ceil(v.rows), heads, batch].map(|n| n as u32);
    let geometry = Geometry { grid, block: 32 * v.warps as u32, shared: v.shared(dtype) as u32 };
    let params = Params { qkv: qkv.ptr(), out: out.ptr(), tokens: tokens as i32, heads: heads as i32 };
    kernel.launch(stream, geometry, &params)
}
