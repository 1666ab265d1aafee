//! Pixels to tokens on a GPU, one launch: kernels/patch_embed.cu.

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::model::config::PATCH;
use crate::runtime::DType;
use crate::runtime::cuda::{Buffer, DevicePtr, Geometry, Stream};

/// Numbers of a patch, and what rows of weights are padded to.
const K: usize = 3 * PATCH * PATCH;
const STRIDE: usize = 592;
const OP: &str = "patch_embed";

/// Sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Pictures.
    pub batch: usize,
    /// Patches across and down: pictures are 14·side pixels wide and high.
    pub side: usize,
    /// Class and register tokens.
    pub prefix: usize,
    /// C, a multiple of 64.
    pub channels: usize,
}

impl Shape {
    /// T.
    pub fn tokens(&self) -> usize {
        self.prefix + self.side * self.side
    }
    fn check(&self) -> Result<()> {
        let Self { batch, side, channels, .. } = *self;
        let pixels = side.saturating_mul(side).saturating_mul(batch).saturating_mul(K);
        // Rows and pixels are counted in 32 bits.
        let fits = pixels >> 31 == 0 && batch.saturating_mul(self.tokens()).div_ceil(64) <= 65_535;
        if [batch, side, channels].contains(&0) || channels % 64 != 0 || !fits {
            return Err(Error::usage(format!(
                "{OP}: CUDA kernels take at least one picture and patch, channels in multiples of 64 and a batch of less \
                 than 2^31 pixels, not {self:?}"
            )));
        }
        Ok(())
    }
}

/// Pictures.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// Crops `(B, X, X, 3)`, RGB.
    U8(&'a Buffer<u8>),
    /// Normalised `(B, 3, X, X)`.
    F32(&'a Buffer<f32>),
}

/// The residual stream as its writers leave it.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    /// `(B, T, C)`.
    pub x: &'a Buffer<f32>,
    /// The same, of the element type.
    pub copy: &'a Buffer<u8>,
    /// Mean and sum of squared differences from it of every 32 columns of the copy, `(B·T, C/32)`.
    pub stats: &'a Buffer<[f32; 2]>,
}

/// Mirrors `PatchEmbedParams` of kernels/patch_embed.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    from: u64,
    weight: DevicePtr<u8>,
    table: DevicePtr<f32>,
    x: DevicePtr<f32>,
    copy: DevicePtr<u8>,
    stats: DevicePtr<[f32; 2]>,
    rows: u32,
    tokens: u32,
    prefix: u32,
    side: u32,
    channels: u32,
    unused: u32,
}

/// Tiles of rows x columns. Same bits.
pub const VARIANTS: [&str; 2] = ["64x64", "128x128"];
/// Side, threads and stages of each.
const TILES: [(usize, u32, usize); 2] = [(64, 128, 3), (128, 256, 2)];

/// The variant for a GPU of `sms` multiprocessors: the largest tile that gives every one of them a block.
pub fn choose(s: &Shape, sms: usize) -> &'static str {
    let blocks = |side: usize| (s.batch * s.tokens()).div_ceil(side) * s.channels.div_ceil(side);
    let i = (0..TILES.len()).rev().find(|i| blocks(TILES[*i].0) >= sms).unwrap_or(0);
    VARIANTS[i]
}

/// Weights `(C, 588)` as kernels take them: rows padded with zeros. In the order of the input: (y, x, channel) of 8-bit
/// pixels, (channel, y, x) of normalised ones.
pub fn weights(w: &[f32]) -> Vec<f32> {
    w.chunks_exact(K).flat_map(|row| row.iter().copied().chain([0.0; STRIDE - K])).collect()
}

/// input, weight `(C, 592)` of the element type ([`weights`]), table `(T, C)` → out, assigned: 8-bit pixels enter as
/// pixel - 128, f32 ones rounded; prefix rows are the table's.
///
/// Errors: sizes that do not fit together or that the kernels do not take, an unknown variant; launches that fail.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    stream: &Stream,
    dtype: DType,
    variant: &str,
    out: &Output,
    input: Input,
    weight: &Buffer<u8>,
    table: &Buffer<f32>,
    s: &Shape,
) -> Result<()> {
    s.check()?;
    let (rows, c) = (s.batch * s.tokens(), s.channels);
    let pixels = s.batch * s.side * s.side * K;
    let (from, kind) = match input {
        Input::U8(b) => b.expect(OP, "input", pixels).map(|()| (b.ptr().address(), "u8"))?,
        Input::F32(b) => b.expect(OP, "input", pixels).map(|()| (b.ptr().address(), "f32"))?,
    };
    weight.expect(OP, "weight", c * STRIDE * dtype.bytes())?;
    table.expect(OP, "table", s.tokens() * c)?;
    out.x.expect(OP, "x", rows * c)?;
    out.copy.expect(OP, "copy", rows * c * dtype.bytes())?;
    out.stats.expect(OP, "stats", rows * c / 32)?;
    let Some(i) = VARIANTS.iter().position(|v| *v == variant) else {
        return Err(Error::usage(format!(
            "{OP} has no variant {variant}; there are {}",
            VARIANTS.join(", ")
        )));
    };
    let (tile, block, stages) = TILES[i];
    let params = Params {
        from,
        weight: weight.ptr(),
        table: table.ptr(),
        x: out.x.ptr(),
        copy: out.copy.ptr(),
        stats: out.stats.ptr(),
        rows: rows as u32,
        tokens: s.tokens() as u32,
        prefix: s.prefix as u32,
        side: s.side as u32,
        channels: c as u32,
        unused: 0,
    };
    let grid = [c.div_ceil(tile) as u32, rows.div_ceil(tile) as u32, 1];
    // The stages, and the places of a tile's rows in the pictures.
    let shared = (stages * 2 * tile * 128 + 4 * tile) as u32;
    let kernel = stream.gpu().kernel(&format!("patch_embed_fwd_{kind}_{variant}_{}", dtype.name()))?;
    kernel.launch(stream, Geometry { grid, block, shared }, &params)
}
