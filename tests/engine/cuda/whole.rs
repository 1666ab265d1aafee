//! Whole passes: against the published code's own maps, and of the large models against the CPU's.

use inp_former::engine::{Scorer, Verdict};
use inp_former::runtime::DType;

use super::{like, options, tensors_like_the_cpus};
use crate::models::model;
use crate::support::*;

fn against_golden(name: &str, file: &str, batch: usize, dtypes: Vec<DType>) {
    let Some(path) = golden(file) else { return };
    let (want, m, device) = (read_f32(&path), model(name), gpu());
    let x = m.config.crop;
    let pictures = golden_input(name, batch, x, x);
    for dtype in dtypes {
        let mut checked = Checked::new("engine", dtype.name(), format!("{name}, published maps"));
        checked.ran("as chosen");
        let mut s = Scorer::new(m.clone(), device.clone(), &options(dtype, false)).unwrap();
        for i in 0..batch {
            let what = |map: &str| format!("{file} {} picture {i} {map}", dtype.name());
            let mut v = Verdict::default();
            s.score_tensor_into(pictures.slab(i), &mut v).unwrap();
            for (g, map) in s.native_maps().unwrap().iter().enumerate() {
                let key = format!("amap_native{g}");
                like(&mut checked, &what(&key), map, want[&key].slab(i), dtype);
            }
            like(&mut checked, &what("map"), &v.map, want["amap_256_gauss"].slab(i), dtype);
            let score = want["score_top1pct"].data[i];
            // The noise of bf16 is 1.0e-3 of a cell's distance on so small a model (root of the mean square), and the score
            // follows one or two cells. No stage dominates: each of 27, rounded alone, has a fifth of the variance at most.
            let bound = if name == "mini" && dtype == DType::Bf16 { 1.1e-3 } else { 1e-3 };
            checked.within(&what("score"), f64::from((v.score - score).abs()), bound);
        }
    }
    clean(&device);
}

#[test]
fn mini_gives_the_published_maps() {
    against_golden("mini", "mini/forward.safetensors", 2, DType::ALL.into());
}

#[test]
fn small_at_252_pixels_gives_the_published_maps() {
    against_golden("small252", "small252/outputs.safetensors", 1, dtypes(0));
}

/// The emulator takes minutes for these.
#[test]
fn base_at_392_pixels_and_large_are_like_the_cpus() {
    if !full() {
        return println!("SKIPPED: ViT-B at 392 pixels and ViT-L, which tools/check.sh --full runs");
    }
    tensors_like_the_cpus("base392", &[DType::Bf16, DType::F16], &[false]);
    tensors_like_the_cpus("base98", &[DType::Tf32], &[false]);
    // What the checkers remember of its weights in tf32 takes more memory than most machines have.
    tensors_like_the_cpus("large112", &[DType::Bf16, DType::F16], &[false]);
}
