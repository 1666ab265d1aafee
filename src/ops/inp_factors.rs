//! What every decoder block needs of an image's prototypes: scaled keys, VW, VA and the Gram matrix of its middle's rows:
//! `cuda` for scoring on a GPU, `train` forward and backward on the CPU. Scoring on the CPU has it in `engine::forward`.

pub mod cuda;
pub mod train;
