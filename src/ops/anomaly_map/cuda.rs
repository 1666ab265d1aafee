//! Features to distances, pixel map and score on a GPU, two launches: kernels/anomaly_map.cu.

use bytemuck::{Pod, Zeroable};

use super::{SIDE, axis_matrix};
use crate::error::{Error, Result};
use crate::runtime::cuda::{Buffer, DevicePtr, Geometry, Gpu, Stream, Work};

/// Most groups of layers.
pub const GROUPS: usize = 8;
/// Largest map values whose mean is the score: 1 % of all.
pub const TOP: usize = SIDE * SIDE / 100;

const OP: &str = "anomaly_map";
/// Rows of patches that a block of `distances` does, a warp each.
const WARPS: usize = 8;
/// Map rows and threads of a block of `post`, its bins by magnitude, bytes of its list of candidates.
const STRIP: usize = 8;
const THREADS: u32 = 1024;
const BINS: usize = 2048;
const LIST: usize = 4 * 4096;

/// Sizes of the features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Pictures.
    pub batch: usize,
    /// Patches N of a picture.
    pub tokens: usize,
    /// C, a multiple of 4.
    pub channels: usize,
}

/// Mirrors `DistancesParams` of kernels/anomaly_map.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct DistancesParams {
    e: [DevicePtr<f32>; GROUPS],
    d: [DevicePtr<f32>; GROUPS],
    native: DevicePtr<f32>,
    rows: u32,
    tokens: u32,
    channels: u32,
    groups: u32,
    prototypes: u32,
    unused: u32,
}

/// Sums of each group's encoder outputs e and decoder outputs d, `(B, N, C)` each → native `(B, G, N)`, assigned: 1 - cos of
/// each patch.
///
/// Errors: other sizes, no group or more than [`GROUPS`]; launches that fail.
pub fn distances(
    stream: &Stream,
    native: &Buffer<f32>,
    e: &[Buffer<f32>],
    d: &[Buffer<f32>],
    s: &Shape,
) -> Result<()> {
    if d.len() != e.len() {
        return Err(Error::usage(format!(
            "{OP}: {} groups of encoder outputs and {} of the decoder's",
            e.len(),
            d.len()
        )));
    }
    let n = s.batch * s.tokens * s.channels;
    d.iter().try_for_each(|d| d.expect(OP, "d", n))?;
    launch(stream, "distances", native, e, d, s, e.len(), 0)
}

/// Zero-shot: e as [`distances`], prototypes `(B, P, C)` of each picture → native `(B, 1, N)`, assigned: 1 - cos of the sum
/// over groups to the nearest prototype.
///
/// Errors: as [`distances`]; no prototypes.
pub fn nearest(
    stream: &Stream,
    native: &Buffer<f32>,
    e: &[Buffer<f32>],
    prototypes: &Buffer<f32>,
    count: usize,
    s: &Shape,
) -> Result<()> {
    if count == 0 {
        return Err(Error::usage(format!("{OP}: there are no prototypes to be near to")));
    }
    prototypes.expect(OP, "prototypes", s.batch * count * s.channels)?;
    launch(stream, "nearest", native, e, std::slice::from_ref(prototypes), s, 1, count)
}

#[allow(clippy::too_many_arguments)]
fn launch(
    stream: &Stream,
    variant: &str,
    native: &Buffer<f32>,
    e: &[Buffer<f32>],
    d: &[Buffer<f32>],
    s: &Shape,
    maps: usize,
    prototypes: usize,
) -> Result<()> {
    let rows = s.batch * s.tokens;
    if rows * s.channels == 0
        || !s.channels.is_multiple_of(4)
        || rows >> 31 != 0
        || !(1..=GROUPS).contains(&e.len())
    {
        return Err(Error::usage(format!(
            "{OP}: CUDA kernels take 1 to {GROUPS} groups of at least one patch, with channels in multiples of 4, not {} \
             of {s:?}",
            e.len()
        )));
    }
    e.iter().try_for_each(|e| e.expect(OP, "e", rows * s.channels))?;
    native.expect(OP, "native", rows * maps)?;
    let all = |b: &[Buffer<f32>]| std::array::from_fn(|i| b.get(i).map_or(DevicePtr::NULL, Buffer::ptr));
    let params = DistancesParams {
        e: all(e),
        d: all(d),
        native: native.ptr(),
        rows: rows as u32,
        tokens: s.tokens as u32,
        channels: s.channels as u32,
        groups: e.len() as u32,
        prototypes: prototypes as u32,
        unused: 0,
    };
    let grid = [rows.div_ceil(WARPS) as u32, maps as u32, 1];
    let n = rows * s.channels * e.len();
    let work =
        Work::new(&[rows, s.channels, e.len()], 6 * n, 4 * (n + d.iter().map(Buffer::len).sum::<usize>()));
    let kernel = stream.gpu().kernel(&format!("anomaly_map_fwd_{variant}_f32"))?.doing(work);
    kernel.launch(stream, Geometry { grid, block: 32 * WARPS as u32, shared: 0 }, &params)
}

/// R `(256, side)` on the device, as bands: each row's weights that are not zero.
pub struct Bands {
    side: usize,
    width: usize,
    /// First column of each row, `(256)`.
    first: Buffer<u32>,
    /// `(width, 256)`.
    weights: Buffer<f32>,
}

impl Bands {
    /// The chain from a grid of `side`² patches over `crop`² pixels to the map, along one axis.
    pub fn new(gpu: &Gpu, side: usize, crop: usize) -> Result<Self> {
        if side * crop == 0 {
            return Err(Error::usage(format!("{OP}: a grid of {side} patches over {crop} pixels is empty")));
        }
        let m = axis_matrix(side, crop);
        let rows = || m.chunks_exact(side);
        let first = |r: &[f64]| r.iter().position(|x| *x != 0.0).unwrap_or(0);
        let last = |r: &[f64]| r.iter().rposition(|x| *x != 0.0).unwrap_or(0);
        let width = rows().map(|r| last(r) + 1 - first(r)).max().unwrap_or(1);
        // No band leaves the row: near its end they begin earlier.
        let first: Vec<u32> = rows().map(|r| first(r).min(side - width) as u32).collect();
        let weight = |k: usize| rows().zip(&first).map(move |(r, f)| r[*f as usize + k] as f32);
        let weights: Vec<f32> = (0..width).flat_map(weight).collect();
        Ok(Self { side, width, first: gpu.upload(&first)?, weights: gpu.upload(&weights)? })
    }
}

/// What [`post`] writes.
#[derive(Clone, Copy)]
pub struct Maps<'a> {
    /// `(B, 256, 256)`.
    pub map: &'a Buffer<f32>,
    /// `(B)`; NaN where the map holds a value that is not finite.
    pub score: &'a Buffer<f32>,
    /// Scratch of [`Maps::state`] numbers, zeroed once; every launch leaves zeros.
    pub state: &'a Buffer<u32>,
}

impl Maps<'_> {
    /// Elements of `state` for a batch.
    pub fn state(batch: usize) -> usize {
        batch * (BINS + 1)
    }
}

/// Mirrors `PostParams` of kernels/anomaly_map.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PostParams {
    native: DevicePtr<f32>,
    first: DevicePtr<u32>,
    weights: DevicePtr<f32>,
    map: DevicePtr<f32>,
    score: DevicePtr<f32>,
    state: DevicePtr<u32>,
    groups: u32,
    side: u32,
    width: u32,
    top: u32,
}

/// native `(B, G, N)`, distances in 0..=2 → out: the mean over groups through both bands, and the mean of the [`TOP`] largest
/// map values, exact to 2^-40.
///
/// Errors: other sizes, too large a grid; launches that fail.
pub fn post(
    stream: &Stream,
    out: &Maps,
    native: &Buffer<f32>,
    bands: &Bands,
    groups: usize,
    batch: usize,
) -> Result<()> {
    if groups == 0 || !(1..=65_535).contains(&batch) {
        return Err(Error::usage(format!(
            "{OP}: CUDA kernels take 1 to 65535 maps, not {batch} of {groups} groups"
        )));
    }
    native.expect(OP, "native", batch * groups * bands.side * bands.side)?;
    out.map.expect(OP, "map", batch * SIDE * SIDE)?;
    out.score.expect(OP, "score", batch)?;
    out.state.expect(OP, "state", Maps::state(batch))?;
    let params = PostParams {
        native: native.ptr(),
        first: bands.first.ptr(),
        weights: bands.weights.ptr(),
        map: out.map.ptr(),
        score: out.score.ptr(),
        state: out.state.ptr(),
        groups: groups as u32,
        side: bands.side as u32,
        width: bands.width as u32,
        top: TOP as u32,
    };
    let grid = [(SIDE / STRIP) as u32, batch as u32, 1];
    let shared = (4 * STRIP * bands.side).max(LIST) as u32;
    let (cells, pixels) = (batch * groups * bands.side * bands.side, batch * SIDE * SIDE);
    let flop = 2 * bands.width * (SIDE * bands.side * batch + pixels);
    let work = Work::new(&[batch, groups, bands.side], flop, 4 * (cells + pixels));
    let kernel = stream.gpu().kernel("anomaly_map_fwd_post_f32")?.doing(work);
    kernel.launch(stream, Geometry { grid, block: THREADS, shared }, &params)
}
