//! Each op's tests; the stem is the op's.

mod anomaly_map;
mod attention;
mod cosine_loss;
mod fuse;
mod gather_loss;
mod gelu;
mod inp_attention;
mod inp_extract;
mod layernorm;
mod linear;
mod optimizer;
mod patch_embed;
mod preprocess;
mod simd;
