//! One op, one stem: contract, checks, forward and backward in `src/ops/X.rs`, its test in `tests/ops/X.rs`, its bench
//! in `benches/ops/X.rs`. Tensors are contiguous; activation gradients are returned, parameter gradients are added to.

pub mod anomaly_map;
pub mod attention;
pub mod cosine_loss;
pub mod fuse;
pub mod gather_loss;
pub mod gelu;
pub mod inp_attention;
pub mod inp_coefficients;
pub mod inp_decode;
pub mod inp_extract;
pub mod inp_factors;
pub mod layernorm;
pub mod linear;
pub mod optimizer;
pub mod patch_embed;
pub mod preprocess;
