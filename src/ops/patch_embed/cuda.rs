//! Pixels to tokens on a GPU, one launch: kernels/patch_embed.cu.

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::model::config::PATCH;
use crate::ops::linear::cuda::statistics;
use crate::ops::linear::cuda::tile::{Tile, tile};
use crate::runtime::cuda::cost::{Candidate, Cost, pick};
use crate::runtime::cuda::{Buffer, DevicePtr, Geometry, Machine, Stream, Work};
use crate::runtime::{DType, Types};

/// Numbers of a patch; what its lines are padded to, the sum.
const K: usize = 3 * PATCH * PATCH;
const STRIDE: usize = 48 * PATCH;
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
    /// The same, of the outputs' type.
    pub copy: &'a Buffer<u8>,
    /// Mean and sum of squared differences from it of every 32 columns of the copy, laid out as [`statistics`] says.
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
    pixels: u32,
}

/// Kernels of this stem: rows x columns. All give the same bits.
pub const VARIANTS: [Tile; 2] =
    [tile("64x64", [64, 64, 96], 3, [2, 2], 96), tile("128x128", [128, 128, 96], 2, [2, 4], 128)];

/// Bytes of shared memory of a block: the stages, with `lines` slots of 64 bytes of pixels a row, and the places of a tile's
/// rows in the pictures.
fn shared(v: &Tile, lines: usize) -> usize {
    v.staged() + v.stages * v.rows * 64 * lines + 4 * v.rows
}

/// What each variant would take.
pub fn candidates(dtype: DType, m: &Machine, s: &Shape) -> Vec<Candidate> {
    let k = STRIDE * dtype.bytes();
    let cost = |v: &Tile| Cost {
        shared: shared(v, 1),
        bytes: (s.channels * k) as f64,
        // Each pair of pixels is placed, loaded, converted and stored by a lane.
        arithmetic: v.rows as f64 * 32.0 / dtype.bytes() as f64 / 2.0 * 8.0,
        ..v.cost(m, v.tiles(s.batch * s.tokens(), s.channels), k, 14.0)
    };
    VARIANTS.iter().map(|v| Candidate::new(v.name, cost(v))).collect()
}

/// The fastest variant, or the one that is asked for: see [`pick`].
pub fn choose(dtype: DType, m: &Machine, s: &Shape, asked: Option<&str>) -> Result<&'static str> {
    pick(OP, m, &candidates(dtype, m, s), asked)
}

/// Weights `(C, 588)` as kernels take them, `(C, 672)`: zeros behind what lies side by side in a picture. In the order of
/// the input: (y, x, channel) of 8-bit pixels, (channel, y, x) of normalised ones.
pub fn weights(w: &[f32], u8_input: bool) -> Vec<f32> {
    let (line, zeros) = if u8_input { (3 * PATCH, 6) } else { (PATCH, 2) };
    w.chunks_exact(line).flat_map(|x| x.iter().copied().chain(std::iter::repeat_n(0.0, zeros))).collect()
}

/// input, weight `(C, 672)` of the operands' type ([`weights`]), table `(T, C)` → out, assigned: 8-bit pixels enter as
/// pixel - 128, f32 ones rounded; prefix rows are the table's.
///
/// Errors: sizes that do not fit together or that the kernels do not take, an unknown variant; launches that fail.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    stream: &Stream,
    types: impl Into<Types>,
    variant: &str,
    out: &Output,
    input: Input,
    weight: &Buffer<u8>,
    table: &Buffer<f32>,
    s: &Shape,
) -> Result<()> {
    s.check()?;
    let types = types.into();
    let e = types.operands.bytes();
    let (rows, c) = (s.batch * s.tokens(), s.channels);
    let pixels = s.batch * s.side * s.side * K;
    // Slots that a row's copied pixels take.
    let (from, kind, lines) = match input {
        Input::U8(b) => b.expect(OP, "input", pixels).map(|()| (b.ptr().address(), "u8", 1))?,
        Input::F32(b) => b.expect(OP, "input", pixels).map(|()| (b.ptr().address(), "f32", 3))?,
    };
    if from % 16 != 0 {
        return Err(Error::usage(format!(
            "{OP}: pictures must begin at a multiple of 16 bytes, not at {from:#x}"
        )));
    }
    weight.expect(OP, "weight", c * STRIDE * e)?;
    table.expect(OP, "table", s.tokens() * c)?;
    out.x.expect(OP, "x", rows * c)?;
    out.copy.expect(OP, "copy", rows * c * e)?;
    out.stats.expect(OP, "stats", statistics(rows, c))?;
    let v = Tile::named(OP, &VARIANTS, variant)?;
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
        pixels: pixels as u32,
    };
    let grid = [c.div_ceil(v.columns) as u32, rows.div_ceil(v.rows) as u32, 1];
    let (block, shared) = (v.threads() as u32, shared(v, lines) as u32);
    let (read, written) = (pixels * if kind == "u8" { 1 } else { 4 }, rows * c * (4 + e));
    let work = Work::new(&[rows, c, K], 2 * rows * c * K, read + c * STRIDE * e + written);
    let name = format!("patch_embed_fwd_{kind}_{variant}_{}", types.name());
    let kernel = stream.gpu().kernel(&name)?.doing(work);
    kernel.launch(stream, Geometry { grid, block, shared }, &params)
}
