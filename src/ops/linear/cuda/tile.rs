//! Tiles of the products that kernels/gemm.cuh computes.

use crate::error::Result;
use crate::runtime::cuda::Machine;
use crate::runtime::cuda::cost::{Cost, named};

/// What a block computes, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// As kernels' names have it: rows x columns x depth (16-bit elements of K in a stage; half as many of tf32).
    pub name: &'static str,
    /// Rows of the tile.
    pub rows: usize,
    /// Columns of the tile.
    pub columns: usize,
    /// Bytes of K of a row in a stage.
    pub line: usize,
    /// Stages of copies.
    pub stages: usize,
    /// Warps down and across.
    pub warps: [usize; 2],
    /// Registers of a thread that the model counts with.
    pub registers: usize,
}

/// A tile of rows x columns x bytes of K.
pub const fn tile(
    name: &'static str,
    [rows, columns, line]: [usize; 3],
    stages: usize,
    warps: [usize; 2],
    registers: usize,
) -> Tile {
    Tile { name, rows, columns, line, stages, warps, registers }
}

impl Tile {
    /// The tile of that name.
    pub fn named<'a>(op: &str, all: &'a [Self], name: &str) -> Result<&'a Self> {
        named(op, all, |t| t.name, name)
    }
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        32 * self.warps[0] * self.warps[1]
    }
    /// Bytes of shared memory of the stages.
    pub fn staged(&self) -> usize {
        self.stages * (self.rows + self.columns) * self.line
    }
    /// `Gemm::SHARED` of kernels/gemm.cuh: the stages, or the slabs that results pass through.
    pub fn shared(&self) -> usize {
        let [down, across] = self.warps;
        self.staged().max(down * across * 16 * (self.columns / across + 8) * 4)
    }
    /// Tiles of a matrix.
    pub fn tiles(&self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.rows) * columns.div_ceil(self.columns)
    }
    /// Of a launch of `blocks` of these over rows of `k` bytes; a step is 32 of them. `epilogue`: instructions for each element
    /// behind the loop. Weights' bytes and more shared memory are left to add.
    pub fn cost(&self, m: &Machine, blocks: usize, k: usize, epilogue: f64) -> Cost {
        let (rows, columns, line) = (self.rows as f64, self.columns as f64, self.line as f64);
        let warps = self.warps[0] * self.warps[1];
        // Fragments of A and of B, 16 rows or columns each, that a warp loads for a step.
        let [a, b] = [rows, columns].map(|x| x / 16.0);
        let [a, b] = [a / self.warps[0] as f64, b / self.warps[1] as f64];
        let (mma, copied) = (rows / 16.0 * columns / 8.0, 32.0 * (rows + columns));
        // A stage's barrier and the fragments behind it take about 60 cycles when no other block fills them.
        let alone = (mma / 4.0).max(2.0 * a * b) * m.mma() + 60.0 * 32.0 / line;
        Cost {
            blocks,
            warps,
            registers: self.registers,
            shared: self.shared(),
            steps: k.div_ceil(self.line) as f64 * line / 32.0,
            mma,
            wavefronts: 4.0 * warps as f64 * (a + b) + copied / 128.0,
            copied,
            alone,
            before: 1000.0,
            after: rows * columns * epilogue,
            ..Cost::default()
        }
    }
}
