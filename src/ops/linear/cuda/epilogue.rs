//! What a product's kernel does with its sums: kernels/epilogue.cuh.

use bytemuck::{Pod, Zeroable};

use super::{OP, Shape};
use crate::error::{Error, Result};
use crate::runtime::DType;
use crate::runtime::cuda::{Buffer, DevicePtr};

/// What happens to `x·wᵀ`, in this order; nothing by default.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// LayerNorm of x, folded into centred and scaled weights.
    pub norm: Option<Norm<'a>>,
    /// `(N)`.
    pub bias: Option<&'a Buffer<f32>>,
    /// GELU.
    pub gelu: bool,
    /// `(M, N)`: what the result is added to, in place.
    pub residual: Option<&'a Buffer<f32>>,
    /// Where the result goes as the element type.
    pub output: Option<Output<'a>>,
    /// Sums over layers, of patch rows.
    pub groups: Option<Groups<'a>>,
}

/// What LayerNorm needs beside the product: `rstd·(x·wᵀ − mean·colsum)`.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// Of x, as its writer left them ([`Output::stats`]).
    pub stats: &'a Buffer<[f32; 2]>,
    /// Sums of the rows of the rounded weights, `(N)`.
    pub colsum: &'a Buffer<f32>,
    /// What is added to the variance.
    pub eps: f32,
}

/// Pairs of floats that the statistics of a `(rows, C)` matrix take: `(C/64, rows, 2)`, rows rounded up to even so that every
/// panel begins with a sector of 32 bytes; what an odd number of rows leaves over is neither written nor read.
pub fn statistics(rows: usize, columns: usize) -> usize {
    rows.next_multiple_of(2) * columns / 32
}

/// A matrix of the element type, assigned.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    /// `(M, N)`.
    pub y: &'a Buffer<u8>,
    /// Mean and sum of squared differences from it of every 32 columns of y, laid out as [`statistics`] says.
    pub stats: Option<&'a Buffer<[f32; 2]>>,
}

/// Where results are summed over layers: f32, without the prefix rows of each image.
#[derive(Clone, Copy)]
pub struct Groups<'a> {
    /// Every group, `(G, B, T - prefix, N)`.
    pub sums: &'a Buffer<f32>,
    /// The group that this layer belongs to.
    pub index: usize,
    /// Adds to it; else this is its first layer, which assigns.
    pub add: bool,
    /// Rows of an image (T).
    pub tokens: usize,
    /// Rows of an image that are no patches.
    pub prefix: usize,
    /// After the last layer: all groups in one.
    pub fused: Option<Fused<'a>>,
}

/// `share · Σ groups`, `(B, T - prefix, N)`.
#[derive(Clone, Copy)]
pub struct Fused<'a> {
    /// As the element type.
    pub output: Output<'a>,
    /// Unrounded.
    pub f32: Option<&'a Buffer<f32>>,
    /// One over the number of layers.
    pub share: f32,
}

/// Mirrors `Epilogue` of kernels/epilogue.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Raw {
    stats: DevicePtr<[f32; 2]>,
    colsum: DevicePtr<f32>,
    bias: DevicePtr<f32>,
    residual: DevicePtr<f32>,
    y: DevicePtr<u8>,
    y_stats: DevicePtr<[f32; 2]>,
    group: DevicePtr<f32>,
    groups: DevicePtr<f32>,
    fused: DevicePtr<u8>,
    fused_f32: DevicePtr<f32>,
    fused_stats: DevicePtr<[f32; 2]>,
    eps: f32,
    share: f32,
    gelu: u32,
    accumulate: u32,
    fuse: u32,
    tokens: u32,
    prefix: u32,
    magic: u32,
    patches: u32,
    unused: u32,
}

impl Epilogue<'_> {
    /// As kernels take it. Errors: buffers that do not fit the product.
    pub fn raw(&self, dtype: DType, s: &Shape) -> Result<Raw> {
        let mut raw = Raw::zeroed();
        if let Some(n) = &self.norm {
            whole("norm", s.inputs)?;
            n.stats.expect(OP, "stats", statistics(s.rows, s.inputs))?;
            n.colsum.expect(OP, "colsum", s.outputs)?;
            (raw.stats, raw.colsum, raw.eps) = (n.stats.ptr(), n.colsum.ptr(), n.eps);
        }
        if let Some(b) = self.bias {
            b.expect(OP, "bias", s.outputs)?;
            raw.bias = b.ptr();
        }
        raw.gelu = self.gelu.into();
        if let Some(r) = self.residual {
            r.expect(OP, "residual", s.rows * s.outputs)?;
            raw.residual = r.ptr();
        }
        if let Some(o) = &self.output {
            (raw.y, raw.y_stats) = o.raw(dtype, s.rows, s.outputs)?;
        }
        if let Some(g) = &self.groups {
            g.raw(dtype, s, &mut raw)?;
        }
        Ok(raw)
    }
}

impl Output<'_> {
    fn raw(&self, dtype: DType, rows: usize, columns: usize) -> Result<(DevicePtr<u8>, DevicePtr<[f32; 2]>)> {
        self.y.expect(OP, "y", rows * columns * dtype.bytes())?;
        let Some(stats) = self.stats else { return Ok((self.y.ptr(), DevicePtr::NULL)) };
        whole("y_stats", columns)?;
        stats.expect(OP, "y_stats", statistics(rows, columns))?;
        Ok((self.y.ptr(), stats.ptr()))
    }
}

impl Groups<'_> {
    fn raw(&self, dtype: DType, s: &Shape, raw: &mut Raw) -> Result<()> {
        let Self { tokens, prefix, index, .. } = *self;
        // The kernel divides a row by T with one multiplication, exact below this.
        if tokens <= prefix || !s.rows.is_multiple_of(tokens) || s.rows.saturating_mul(tokens) >> 32 != 0 {
            return Err(Error::usage(format!(
                "linear: {} rows are no whole images of {tokens} tokens, {prefix} of them prefix, below 2^32 in product",
                s.rows
            )));
        }
        let patches = s.rows / tokens * (tokens - prefix);
        let one = patches * s.outputs;
        let count = self.sums.len() / one;
        self.sums.expect(OP, "groups", one * count.max(index + 1))?;
        raw.groups = self.sums.ptr();
        raw.group = self.sums.ptr().at(index * one);
        raw.accumulate = self.add.into();
        [raw.fuse, raw.tokens, raw.prefix, raw.patches] = [count, tokens, prefix, patches].map(|n| n as u32);
        raw.magic = (1u64 << 32).div_ceil(tokens as u64) as u32;
        if let Some(f) = &self.fused {
            (raw.fused, raw.fused_stats) = f.output.raw(dtype, patches, s.outputs)?;
            raw.share = f.share;
            if let Some(x) = f.f32 {
                x.expect(OP, "fused", one)?;
                raw.fused_f32 = x.ptr();
            }
        }
        Ok(())
    }
}

/// Statistics are of 32 columns, two of them in an access.
fn whole(tensor: &'static str, columns: usize) -> Result<()> {
    if columns.is_multiple_of(64) {
        return Ok(());
    }
    let wanted = "a multiple of 64 columns wide".into();
    Err(Error::Shape { op: "linear", tensor, wanted, got: format!("{columns} wide") })
}
