//! The MLP of a decoder block in low-rank form: `cuda` for scoring on a GPU, `train` forward and backward on the CPU.
//! Scoring on the CPU has it in `engine::forward`.

pub mod cuda;
pub mod train;
