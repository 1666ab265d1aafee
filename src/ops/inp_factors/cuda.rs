//! Factors of all decoder blocks on a GPU, two launches: kernels/inp_factors.cu.

use bytemuck::{Pod, Zeroable};

use crate::error::Result;
pub use crate::ops::inp_extract::cuda::{Shape, VARIANTS};
use crate::ops::inp_extract::cuda::{few_rows, rows_of};
use crate::runtime::cuda::cost::{Candidate, pick};
use crate::runtime::cuda::{Arena, Buffer, DevicePtr, Geometry, Machine, Stream, Work};
use crate::runtime::{DType, Types};

/// Folded weights of J blocks, one after the other.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Weights<'a> {
    /// `(J, 2C, C)`, `(J, 2C)`, the gain and bias of the norm before them in.
    pub kv: &'a Buffer<u8>,
    pub kv_bias: &'a Buffer<f32>,
    /// `(J, 5C, C)`: the C rows of the projection Wp, then 4C rows, row o: `Σ_m Wc[m, :]·g[m]·W1[o, m]` with Wc the projection
    /// centred over its outputs (`Wc[m, :] = Wp[m, :] − mean_m Wp`), g the gain and W1 the first layer of the MLP.
    pub products: &'a Buffer<u8>,
    /// `Wcᵀ·Wc/C` `(J, C, C)`.
    pub middle: &'a Buffer<f32>,
    /// `Wcᵀ·bc/C` `(J, C)` with bc the projection's bias less its mean.
    pub cross: &'a Buffer<f32>,
    /// `learn_scale` `(J, H)`.
    pub scale: &'a Buffer<f32>,
}

/// The result; block j of each begins at `j/J` of its length.
pub struct Factors {
    /// Keys of length learn_scale `(J, B, H, P, 64)`.
    pub keys: Buffer<f32>,
    /// `(J, B, C, HPK)` and `(J, B, 4C, HPK)` of the outputs' type: column h·P + p, pads zero.
    pub vw: Buffer<u8>,
    /// See `vw`.
    pub va: Buffer<u8>,
    /// The Gram matrix in two elements `(J, B, 2·HPK, HPK)` and its columns' scales and linear terms `(J, B, HPK)`: see
    /// kernels/inp_factors.cu.
    pub gram: Buffer<u8>,
    /// See `gram`.
    pub gram_scale: Buffer<[f32; 2]>,
    /// Keys and values between the launches `(J, B, P, C)`.
    k: Buffer<f32>,
    v: Buffer<u8>,
    blocks: usize,
}

impl Factors {
    /// For J = `blocks` blocks and passes of this shape.
    pub fn new(arena: &mut Arena, dtype: DType, s: &Shape, blocks: usize) -> Self {
        let (items, e, hpk) = (blocks * s.batch, dtype.bytes(), s.padded());
        let kv = items * s.prototypes * s.channels;
        Self {
            keys: arena.take(kv),
            vw: arena.take(items * s.channels * hpk * e),
            va: arena.take(4 * items * s.channels * hpk * e),
            gram: arena.take(2 * items * hpk * hpk * e),
            gram_scale: arena.take(items * hpk),
            k: arena.take(kv),
            v: arena.take(kv * e),
            blocks,
        }
    }
    /// Block j's part of one of the buffers.
    pub fn of<T: Pod>(&self, buffer: &Buffer<T>, j: usize) -> Result<Buffer<T>> {
        let len = buffer.len() / self.blocks;
        buffer.part(j * len, len)
    }
}

/// What the keys and values of J blocks would take in each variant; the products behind them have one kernel.
pub fn candidates(dtype: DType, s: &Shape, blocks: usize) -> Vec<Candidate> {
    few_rows(dtype, s.batch * s.prototypes, &[[blocks * 2 * s.channels, s.channels]])
}

/// The fastest variant, or the one that is asked for: see [`pick`].
pub fn choose(
    dtype: DType,
    m: &Machine,
    s: &Shape,
    blocks: usize,
    asked: Option<&str>,
) -> Result<&'static str> {
    pick("inp_factors", m, &candidates(dtype, s, blocks), asked)
}

/// Mirrors `InpFactorsParams` of kernels/inp_factors.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    inp: DevicePtr<f32>,
    kv_w: DevicePtr<u8>,
    kv_b: DevicePtr<f32>,
    weights: DevicePtr<u8>,
    middle: DevicePtr<f32>,
    cross: DevicePtr<f32>,
    scale: DevicePtr<f32>,
    k: DevicePtr<f32>,
    v: DevicePtr<u8>,
    keys: DevicePtr<f32>,
    vw: DevicePtr<u8>,
    va: DevicePtr<u8>,
    gram: DevicePtr<u8>,
    gram_scale: DevicePtr<[f32; 2]>,
    batch: i32,
    channels: i32,
    heads: i32,
    count: i32,
    padded: i32,
    blocks: i32,
    eps: f32,
    unused: i32,
}

/// I `(B, P, C)` → the factors, all assigned. Weights of the operands' type.
///
/// Errors: sizes that do not fit together or that the kernels do not take; launches that fail.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    stream: &Stream,
    types: impl Into<Types>,
    variant: &str,
    out: &Factors,
    inp: &Buffer<f32>,
    w: &Weights,
    s: &Shape,
    eps: f32,
) -> Result<()> {
    const OP: &str = "inp_factors";
    let types = types.into();
    let dtype = types.operands;
    s.check(OP, dtype)?;
    let (c, e, p, j, hpk) = (s.channels, dtype.bytes(), s.prototypes, out.blocks, s.padded());
    let items = j * s.batch;
    let elements: [(_, &Buffer<u8>, _); 6] = [
        ("kv", w.kv, j * 2 * c * c),
        ("products", w.products, j * 5 * c * c),
        ("v", &out.v, items * p * c),
        ("vw", &out.vw, items * c * hpk),
        ("va", &out.va, items * 4 * c * hpk),
        ("gram", &out.gram, items * 2 * hpk * hpk),
    ];
    elements.iter().try_for_each(|(name, b, n)| b.expect(OP, name, n * e))?;
    let floats: [(_, &Buffer<f32>, _); 7] = [
        ("inp", inp, s.batch * p * c),
        ("kv_bias", w.kv_bias, j * 2 * c),
        ("middle", w.middle, j * c * c),
        ("cross", w.cross, j * c),
        ("scale", w.scale, j * s.heads),
        ("k", &out.k, items * p * c),
        ("keys", &out.keys, items * p * c),
    ];
    floats.iter().try_for_each(|(name, b, n)| b.expect(OP, name, *n))?;
    out.gram_scale.expect(OP, "gram_scale", items * hpk)?;
    let params = Params {
        inp: inp.ptr(),
        kv_w: w.kv.ptr(),
        kv_b: w.kv_bias.ptr(),
        weights: w.products.ptr(),
        middle: w.middle.ptr(),
        cross: w.cross.ptr(),
        scale: w.scale.ptr(),
        k: out.k.ptr(),
        v: out.v.ptr(),
        keys: out.keys.ptr(),
        vw: out.vw.ptr(),
        va: out.va.ptr(),
        gram: out.gram.ptr(),
        gram_scale: out.gram_scale.ptr(),
        batch: s.batch as i32,
        channels: c as i32,
        heads: s.heads as i32,
        count: p as i32,
        padded: hpk as i32,
        blocks: j as i32,
        eps,
        unused: 0,
    };
    let launch = |name: &str, grid: [usize; 2], shared: usize, work: Work| {
        let kernel = stream.gpu().kernel(&format!("inp_factors_fwd_{name}"))?.doing(work);
        let grid = [grid[0] as u32, grid[1] as u32, 1];
        kernel.launch(stream, Geometry { grid, block: 256, shared: shared as u32 }, &params)
    };
    let rows = (s.batch * p).div_ceil(rows_of(OP, variant)?);
    let (inputs, outputs) = (s.batch * p, j * 2 * c);
    let bytes = outputs * c * e + inputs * (c + outputs) * 4;
    let work = Work::new(&[inputs, outputs, c], 2 * inputs * outputs * c, bytes);
    launch(&format!("kv_{variant}_{}", dtype.name()), [outputs / 16, rows], 0, work)?;
    let units = j * s.heads + (j * 5 * c).div_ceil(128);
    let shared = (128 * (hpk * e + 16)).max(4 * p * (68 * s.heads + hpk + 64));
    // Products with 5C rows, and the Gram matrix through the middle's blocks of 64 x 64.
    let flop = 2 * items * p * (5 * c * c + c * c + p * s.heads * c);
    let bytes = j * c * c * (5 * e + 4) + items * hpk * (5 * c + 2 * hpk) * e;
    let work = Work::new(&[items, 5 * c, hpk], flop, bytes);
    launch(&format!("products_{}", types.name()), [s.batch * units, 1], shared, work)
}
