//! The fast scorer: the model's function with folded weights, one pass over tiles a stage, buffers made once.

mod encoder;
mod fold;
mod forward;
mod kernels;
pub mod score;

pub use encoder::Encoder;
pub(crate) use fold::Encoder as EncoderWeights;
pub use score::{Options, Scorer, Verdict};
