//! The extractor on a GPU, five launches: kernels/inp_extract.cu. Features of B images → their prototypes I.

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::ops::linear::cuda::statistics;
use crate::runtime::cuda::cost::{Candidate, Cost, named, pick};
use crate::runtime::cuda::{Arena, Buffer, DevicePtr, Geometry, Machine, Stream, Work};
use crate::runtime::{DType, Types};

/// Sizes that the four INP stems share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Images.
    pub batch: usize,
    /// Patch tokens N of an image.
    pub tokens: usize,
    /// C, 64 a head.
    pub channels: usize,
    /// H.
    pub heads: usize,
    /// P, at most 16.
    pub prototypes: usize,
}

impl Shape {
    /// HPK: H·P rounded up to 16, what one mma takes.
    pub fn padded(&self) -> usize {
        (self.heads * self.prototypes).next_multiple_of(16)
    }
    /// Errors: sizes that the kernels were not made for, as a sentence.
    pub fn check(&self, op: &'static str, dtype: DType) -> Result<()> {
        let Self { batch, tokens, channels, heads, prototypes } = *self;
        let fail = |what: String| Err(Error::Usage(format!("{op}: {what}")));
        if [batch, tokens, heads, prototypes].contains(&0) {
            return fail(format!("{self:?} is empty"));
        }
        if channels != 64 * heads {
            return fail(format!(
                "{channels} channels in {heads} heads; on CUDA a head has 64: use --device cpu"
            ));
        }
        if prototypes > 16 || self.padded() * dtype.bytes() > MOST_BYTES {
            return fail(format!(
                "{heads} heads x {prototypes} prototypes; CUDA kernels take 16 prototypes, and together {} in {}: use \
                 --device cpu",
                MOST_BYTES / dtype.bytes(),
                dtype.name()
            ));
        }
        // Rows are counted in 32 bits, tokens of an image in blocks of 64 along a grid.
        if batch > 65_535 || (batch * tokens).checked_mul(4 * channels).is_none_or(|n| n >> 33 != 0) {
            return fail(format!("{batch} images of {tokens} tokens are too many: take a smaller batch"));
        }
        Ok(())
    }
}

/// Bytes of a row of coefficients that the kernels' shared memory has room for.
const MOST_BYTES: usize = 480;
/// Tokens that one block pools.
const SPLIT: usize = 64;

/// Folded weights (`engine::fold`): gains in the weights after them.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Weights<'a> {
    /// Constant query times key weights `(HPK, C)`, row h·P + p, in base 2, centred, zero below; sums of its rounded rows `(HPK)`.
    pub query_key: &'a Buffer<u8>,
    pub colsum: &'a Buffer<f32>,
    /// `(C, C)`, `(C)`.
    pub value: &'a Buffer<u8>,
    pub value_bias: &'a Buffer<f32>,
    /// `(C, C)`, `(C)`.
    pub proj: &'a Buffer<u8>,
    pub proj_bias: &'a Buffer<f32>,
    /// P0 `(P, C)`.
    pub prototypes: &'a Buffer<f32>,
    /// `(4C, C)`, `(4C)`.
    pub fc1: &'a Buffer<u8>,
    pub fc1_bias: &'a Buffer<f32>,
    /// `(C, 4C)`, `(C)`.
    pub fc2: &'a Buffer<u8>,
    pub fc2_bias: &'a Buffer<f32>,
}

/// What is between the launches.
pub struct Workspace {
    tops: Buffer<[f32; 2]>,
    parts: Buffer<f32>,
    mixed: Buffer<u8>,
    middle: Buffer<f32>,
    hidden: Buffer<u8>,
}

impl Workspace {
    /// For passes of this shape.
    pub fn new(arena: &mut Arena, dtype: DType, s: &Shape) -> Self {
        let rows = s.batch * s.tokens.div_ceil(SPLIT) * s.padded();
        let out = s.batch * s.prototypes * s.channels;
        Self {
            tops: arena.take(rows),
            parts: arena.take(rows * s.channels),
            mixed: arena.take(out * dtype.bytes()),
            middle: arena.take(out),
            hidden: arena.take(4 * out * dtype.bytes()),
        }
    }
}

/// Mirrors `InpExtractParams` of kernels/inp_extract.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    f: DevicePtr<u8>,
    stats: DevicePtr<[f32; 2]>,
    qk: DevicePtr<u8>,
    colsum: DevicePtr<f32>,
    value_w: DevicePtr<u8>,
    value_b: DevicePtr<f32>,
    proj_w: DevicePtr<u8>,
    proj_b: DevicePtr<f32>,
    prototypes: DevicePtr<f32>,
    fc1_w: DevicePtr<u8>,
    fc1_b: DevicePtr<f32>,
    fc2_w: DevicePtr<u8>,
    fc2_b: DevicePtr<f32>,
    tops: DevicePtr<[f32; 2]>,
    parts: DevicePtr<f32>,
    mixed: DevicePtr<u8>,
    middle: DevicePtr<f32>,
    hidden: DevicePtr<u8>,
    out: DevicePtr<f32>,
    batch: i32,
    tokens: i32,
    channels: i32,
    heads: i32,
    count: i32,
    padded: i32,
    eps: f32,
    unused: i32,
}

/// Variants of the products of a few rows (kernels/rows.cuh), how many rows share a reading of the weights, and registers of a
/// thread. All give the same bits.
pub const VARIANTS: [(&str, usize, usize); 2] = [("x1", 8, 48), ("x4", 32, 64)];

/// Rows of a block of a variant.
pub(in crate::ops) fn rows_of(op: &str, variant: &str) -> Result<usize> {
    named(op, &VARIANTS, |v| v.0, variant).map(|v| v.1)
}

/// What each variant would take for B·P rows times matrices of (outputs, inputs). A step is 512 bytes of K, 64 a warp.
pub(in crate::ops) fn few_rows(dtype: DType, rows: usize, products: &[[usize; 2]]) -> Vec<Candidate> {
    let of = |(name, of, registers): (&'static str, usize, usize)| {
        let cost = |[outputs, inputs]: [usize; 2]| {
            let (k, tiles) = (inputs * dtype.bytes(), of as f64 / 8.0);
            Cost {
                blocks: outputs / 16 * rows.div_ceil(of),
                warps: 8,
                registers,
                shared: of / 8 * 4608,
                steps: k as f64 / 512.0,
                mma: 8.0 * 2.0 * tiles,
                copied: 512.0 * (16 + rows.min(of)) as f64,
                // Four steps are on their way at once.
                alone: 200.0,
                before: 1000.0,
                // The warps' sums are added.
                after: 128.0 * tiles * 10.0,
                bytes: (outputs * k) as f64,
                ..Cost::default()
            }
        };
        Candidate { name, launches: products.iter().copied().map(cost).collect() }
    };
    VARIANTS.into_iter().map(of).collect()
}

/// What the products of each variant would take; the pooling before them has one kernel.
pub fn candidates(dtype: DType, s: &Shape) -> Vec<Candidate> {
    let c = s.channels;
    few_rows(dtype, s.batch * s.prototypes, &[[c, c], [c, c], [4 * c, c], [c, 4 * c]])
}

/// The fastest variant, or the one that is asked for: see [`pick`].
pub fn choose(dtype: DType, m: &Machine, s: &Shape, asked: Option<&str>) -> Result<&'static str> {
    pick("inp_extract", m, &candidates(dtype, s), asked)
}

/// f `(B·N, C)` and the [`statistics`] of its rows → out: I `(B, P, C)`, assigned. f and query_key are of the
/// outputs' type, the other weights and what they are multiplied with of the operands'.
///
/// Errors: sizes that do not fit together or that the kernels do not take; launches that fail.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    stream: &Stream,
    types: impl Into<Types>,
    variant: &str,
    out: &Buffer<f32>,
    work: &Workspace,
    f: &Buffer<u8>,
    stats: &Buffer<[f32; 2]>,
    w: &Weights,
    s: &Shape,
    eps: f32,
) -> Result<()> {
    const OP: &str = "inp_extract";
    let types = types.into();
    s.check(OP, types.operands)?;
    let (c, e, p, splits) = (s.channels, types.operands.bytes(), s.prototypes, s.tokens.div_ceil(SPLIT));
    let (rows, tokens, hpk) = (s.batch * p, s.batch * s.tokens, s.padded());
    let elements: [(_, &Buffer<u8>, _); 8] = [
        ("f", f, tokens * c),
        ("query_key", w.query_key, hpk * c),
        ("value", w.value, c * c),
        ("proj", w.proj, c * c),
        ("fc1", w.fc1, 4 * c * c),
        ("fc2", w.fc2, 4 * c * c),
        ("mixed", &work.mixed, rows * c),
        ("hidden", &work.hidden, rows * 4 * c),
    ];
    elements.iter().try_for_each(|(name, b, n)| b.expect(OP, name, n * e))?;
    let floats: [(_, &Buffer<f32>, _); 9] = [
        ("out", out, rows * c),
        ("colsum", w.colsum, hpk),
        ("value_bias", w.value_bias, c),
        ("proj_bias", w.proj_bias, c),
        ("prototypes", w.prototypes, p * c),
        ("fc1_bias", w.fc1_bias, 4 * c),
        ("fc2_bias", w.fc2_bias, c),
        ("middle", &work.middle, rows * c),
        ("parts", &work.parts, s.batch * splits * hpk * c),
    ];
    floats.iter().try_for_each(|(name, b, n)| b.expect(OP, name, *n))?;
    stats.expect(OP, "stats", statistics(tokens, c))?;
    work.tops.expect(OP, "tops", s.batch * splits * hpk)?;
    let params = Params {
        f: f.ptr(),
        stats: stats.ptr(),
        qk: w.query_key.ptr(),
        colsum: w.colsum.ptr(),
        value_w: w.value.ptr(),
        value_b: w.value_bias.ptr(),
        proj_w: w.proj.ptr(),
        proj_b: w.proj_bias.ptr(),
        prototypes: w.prototypes.ptr(),
        fc1_w: w.fc1.ptr(),
        fc1_b: w.fc1_bias.ptr(),
        fc2_w: w.fc2.ptr(),
        fc2_b: w.fc2_bias.ptr(),
        tops: work.tops.ptr(),
        parts: work.parts.ptr(),
        mixed: work.mixed.ptr(),
        middle: work.middle.ptr(),
        hidden: work.hidden.ptr(),
        out: out.ptr(),
        batch: s.batch as i32,
        tokens: s.tokens as i32,
        channels: c as i32,
        heads: s.heads as i32,
        count: p as i32,
        padded: hpk as i32,
        eps,
        unused: 0,
    };
    let launch = |name: &str, dtype: DType, grid: [usize; 3], block, shared: usize, work: Work| {
        let grid = grid.map(|n| n as u32);
        let kernel = stream.gpu().kernel(&format!("inp_extract_fwd_{name}_{}", dtype.name()))?.doing(work);
        kernel.launch(stream, Geometry { grid, block, shared: shared as u32 }, &params)
    };
    let pooled = tokens * c * e * (hpk / 16) + hpk * c * e + s.batch * splits * hpk * c * 4;
    let work = Work::new(&[tokens, hpk, c], 4 * tokens * hpk * c, pooled);
    launch("pool", types.outputs, [splits, hpk / 16, s.batch], 128, 0, work)?;
    let of = rows_of(OP, variant)?;
    for (stage, columns, k, shared) in
        [("value", c, c, 4 * of * splits), ("proj", c, c, 0), ("fc1", 4 * c, c, 0), ("fc2", c, 4 * c, 0)]
    {
        let elements = columns * k + rows * (columns + k);
        let work = Work::new(&[rows, columns, k], 2 * rows * columns * k, elements * e);
        let grid = [columns / 16, rows.div_ceil(of), 1];
        launch(&format!("{stage}_{variant}"), types.operands, grid, 256, shared, work)?;
    }
    Ok(())
}
