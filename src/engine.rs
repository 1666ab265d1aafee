//! The fast scorer: the model's function with folded weights, one pass over tiles a stage, buffers made once.

mod cuda;
mod encoder;
mod fold;
mod forward;
pub mod int8;
mod kernels;
mod layer;
mod on_cpu;
pub mod score;

pub use encoder::Encoder;
pub(crate) use encoder::EncoderWeights;
pub use score::{CpuPrecision, Options, Precision, Scorer, Verdict};
