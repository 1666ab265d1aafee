//! The tiles of kernels/linear.cu, and which is the fastest for a product.

use super::Shape;
use crate::error::{Error, Result};
use crate::runtime::DType;
use crate::runtime::cuda::Machine;

/// A kernel of this stem: what a block computes, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// As kernels' names have it: rows x columns x depth.
    pub name: &'static str,
    /// Rows of the tile.
    pub rows: usize,
    /// Columns of the tile.
    pub columns: usize,
    /// 16-bit elements of K in a stage; half as many of tf32.
    pub depth: usize,
    /// Warps of a block.
    pub warps: usize,
    /// Stages of copies.
    pub stages: usize,
    /// Fragments of A and of B, 16 rows or columns each, that a warp loads for a step of 32 bytes of K.
    fragments: (usize, usize),
    /// Registers of a thread that the model counts with.
    registers: usize,
}

const fn tile(
    name: &'static str,
    [rows, columns, depth]: [usize; 3],
    warps: usize,
    stages: usize,
    fragments: (usize, usize),
    registers: usize,
) -> Variant {
    Variant { name, rows, columns, depth, warps, stages, fragments, registers }
}

/// Every one.
pub const VARIANTS: [Variant; 7] = [
    tile("128x256x64", [128, 256, 64], 8, 2, (4, 4), 240),
    tile("128x128x64", [128, 128, 64], 4, 3, (4, 4), 240),
    tile("128x128x32", [128, 128, 32], 4, 3, (4, 4), 240),
    tile("128x64x64", [128, 64, 64], 4, 3, (4, 2), 160),
    tile("64x128x64", [64, 128, 64], 4, 3, (2, 4), 160),
    tile("64x64x64", [64, 64, 64], 4, 3, (2, 2), 96),
    tile("32x64x64", [32, 64, 64], 4, 4, (1, 2), 64),
];

impl Variant {
    /// The variant of that name.
    pub fn named(name: &str) -> Result<&'static Self> {
        VARIANTS.iter().find(|v| v.name == name).ok_or_else(|| {
            let all = VARIANTS.map(|v| v.name).join(", ");
            Error::usage(format!("linear has no CUDA variant \"{name}\"; there are {all}"))
        })
    }
    /// Bytes of shared memory of a block: the stages, then mean and deviation of the rows.
    pub fn shared(&self) -> usize {
        self.stages * (self.rows + self.columns) * 2 * self.depth + 8 * self.rows
    }
    /// Blocks that one multiprocessor holds.
    fn held(&self, m: &Machine) -> usize {
        let registers = 65_536 / (self.registers * 32 * self.warps);
        registers.min((m.shared + 1024) / (self.shared() + 1024))
    }
}

/// Predicted clock cycles of a launch.
///
/// Blocks come in rounds of as many as all multiprocessors hold. A round costs the latency of its first copies, then for
/// each step of 32 bytes of K what its blocks together ask of the busiest unit (tensor cores, shared memory, second-level
/// cache) and a quarter of the rest, but no less than one block needs on its own; then the epilogue's instructions.
pub fn cycles(v: &Variant, dtype: DType, m: &Machine, s: &Shape, gelu: bool) -> f64 {
    // Cycles of an mma of 2048 MAC on a quarter of a multiprocessor; bytes a cycle from the second-level cache; lanes that
    // do f32 arithmetic.
    let (mma, cache, lanes) = match m.arch {
        80 => (8.0, 35.0, 64.0),
        90 => (6.5, 42.0, 128.0),
        _ => (16.0, 16.0, 128.0),
    };
    let (rows, columns, warps) = (v.rows as f64, v.columns as f64, v.warps as f64);
    // The same cycles for half the MAC and half the rate of tf32, twice the steps.
    let tensor = rows / 16.0 * columns / 8.0 * mma / 4.0;
    let copied = 32.0 * (rows + columns);
    let loads = 4.0 * warps * (v.fragments.0 + v.fragments.1) as f64;
    let shared = loads + copied / 128.0;
    // A stage's barrier and the fragments behind it take about 60 cycles when no other block fills them.
    let alone =
        tensor.max(2.0 * v.fragments.0 as f64 * v.fragments.1 as f64 * mma) + 60.0 * 16.0 / v.depth as f64;
    let epilogue = rows * columns * if gelu { 22.0 } else { 10.0 } / lanes;

    let steps = (s.inputs * dtype.bytes()).div_ceil(2 * v.depth) as f64 * v.depth as f64 / 16.0;
    let round = |blocks: usize| {
        let n = blocks as f64;
        let units = [n * tensor, n * shared, n * copied / cache];
        let busiest = units.iter().copied().fold(0.0, f64::max);
        let step = alone.max(busiest + (units.iter().sum::<f64>() - busiest) / 4.0);
        1000.0 + steps * step + n * epilogue
    };
    let blocks = s.rows.div_ceil(v.rows) * s.outputs.div_ceil(v.columns);
    let held = v.held(m).max(1);
    let (rounds, rest) = (blocks / (m.sms * held), blocks % (m.sms * held));
    let last = if rest == 0 { 0.0 } else { round(rest.div_ceil(m.sms)) };
    rounds as f64 * round(held) + last
}

/// The variant with the fewest predicted cycles among those that the GPU can run, or the one that is asked for.
///
/// Errors: an unknown one.
pub fn choose(
    dtype: DType,
    m: &Machine,
    s: &Shape,
    gelu: bool,
    asked: Option<&str>,
) -> Result<&'static Variant> {
    if let Some(name) = asked {
        return Variant::named(name);
    }
    let cost = |v: &&Variant| cycles(v, dtype, m, s, gelu);
    let fits = VARIANTS.iter().filter(|v| v.held(m) > 0);
    let best = fits.min_by(|a, b| cost(a).total_cmp(&cost(b)));
    best.ok_or_else(|| {
        Error::Device(format!("linear: no CUDA variant fits {} bytes of shared memory", m.shared))
    })
}
