//! INP-Former: universal visual anomaly detection from *intrinsic normal prototypes* of the image itself.
//!
//! Luo et al., "Exploring Intrinsic Normal Prototypes within a Single Image for Universal Anomaly Detection",
//! CVPR 2025. `model` says what the paper says in plain ops; `engine` scores images; `train` trains; `eval` measures.

#![warn(missing_docs)]

pub mod data;
pub mod engine;
pub mod error;
pub mod eval;
pub mod fs;
pub mod model;
pub mod ops;
pub mod runtime;
pub mod train;

pub use error::{Error, Result};
