//! Each op's tests; the stem is the op's.

mod anomaly_map;
mod attention;
mod cosine_loss;
mod fuse;
mod gather_loss;
mod gelu;
mod inp;
mod inp_attention;
mod inp_coefficients;
mod inp_decode;
mod inp_extract;
mod inp_factors;
mod layernorm;
mod linear;
mod optimizer;
mod patch_embed;
mod preprocess;
mod simd;
