//! The decoder's attention to the prototypes, down to its coefficients: `cuda` for scoring on a GPU, `train` forward and
//! backward on the CPU. Scoring on the CPU has it in `engine::forward`.

pub mod cuda;
pub mod train;
