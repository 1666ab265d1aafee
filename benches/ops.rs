//! Each op's bench; the stem is the op's.

mod anomaly_map;
mod attention;
mod cosine_loss;
mod fuse;
mod gather_loss;
mod gelu;
#[path = "../tests/ops/inp.rs"]
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

pub fn all(c: &mut criterion::Criterion) {
    anomaly_map::all(c);
    attention::all(c);
    cosine_loss::all(c);
    fuse::all(c);
    gather_loss::all(c);
    gelu::all(c);
    inp_attention::all(c);
    inp_coefficients::all(c);
    inp_decode::all(c);
    inp_extract::all(c);
    inp_factors::all(c);
    layernorm::all(c);
    linear::all(c);
    optimizer::all(c);
    patch_embed::all(c);
    preprocess::all(c);
}

/// Every element type on the GPU, if there is one, with ViT-S's and ViT-B's sizes on one picture and on 32; on the emulator with
/// a small one.
fn inp_cases() -> Vec<(inp::On, inp_former::ops::inp_extract::cuda::Shape)> {
    use inp_former::runtime::DType;
    let Some(gpu) = crate::gpu::gpu() else { return Vec::new() };
    let real: &[[usize; 4]] = &[[1, 784, 6, 6], [1, 784, 12, 6], [32, 784, 12, 6]];
    let shapes = if gpu.is_emulated() { &[[2, 70, 2, 6]] } else { real };
    let on = |dtype| inp::On { gpu: gpu.clone(), stream: gpu.stream(), dtype, outputs: dtype };
    shapes.iter().flat_map(|s| DType::ALL.map(|d| (on(d), inp::shape(*s)))).collect()
}
