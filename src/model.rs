//! The plain model: what the paper says, in plain ops, forward then backward in the same file.
//!
//! It is what training runs and what every faster path is checked against. Letters: `B` batch, `N` patches, `T` tokens,
//! `C` channels, `H` heads, `D` head dim, `P` prototypes.

pub mod bottleneck;
pub mod config;
pub mod decoder;
pub mod encoder;
pub mod extractor;
pub mod inp_former;
pub mod naming;
pub mod params;

pub use config::Config;
pub use inp_former::{Model, embedded};

/// Called with the name and value of an activation, in the order they are made; names as in `trace`.
pub type Tap<'a, E> = &'a mut dyn FnMut(&str, &crate::runtime::Tensor<E>);

/// LayerNorm epsilon of the encoder (DINOv2).
pub const ENCODER_EPS: f64 = 1e-6;
/// LayerNorm epsilon of everything trained (published INP-Former).
pub const TRAINED_EPS: f64 = 1e-8;
