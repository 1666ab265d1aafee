//! The fast scorer: the model's function with folded weights, one pass over tiles a stage, buffers made once.

mod fold;
mod forward;
mod kernels;
pub mod score;

pub use score::{Options, Scorer, Verdict};
