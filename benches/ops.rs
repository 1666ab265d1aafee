//! Each op's bench; the stem is the op's.

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

pub fn all(c: &mut criterion::Criterion) {
    anomaly_map::all(c);
    attention::all(c);
    cosine_loss::all(c);
    fuse::all(c);
    gather_loss::all(c);
    gelu::all(c);
    inp_attention::all(c);
    inp_extract::all(c);
    layernorm::all(c);
    linear::all(c);
    optimizer::all(c);
    patch_embed::all(c);
    preprocess::all(c);
}
