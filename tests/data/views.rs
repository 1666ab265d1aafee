//! Few-shot views against the published code's.

use inp_former::data::views::{VIEWS, views};
use inp_former::runtime::Tensor;

use crate::support::{close, golden, random, read_f32};

#[test]
fn views_equal_the_published_ones() {
    let Some(path) = golden("fewshot/views.safetensors") else { return };
    let file = read_f32(&path);
    let got = views(&file["input"]);
    assert_eq!(got.len(), VIEWS);
    for (i, view) in got.iter().enumerate() {
        close(&format!("view {i}"), &view.data, file["views"].slab(i), 1e-5);
    }
}

#[test]
fn views_of_any_shape_are_finite_and_keep_it() {
    for (h, w) in [(1, 1), (1, 9), (14, 3), (28, 56)] {
        let x = random("views", &[3, h, w]);
        for view in views(&x) {
            assert_eq!(view.shape(), x.shape());
            assert!(view.data.iter().all(|v| v.abs() <= 1.0), "interpolation stays between its inputs");
        }
    }
    assert_eq!(views(&Tensor::zeros(&[3, 0, 5])).len(), VIEWS);
}
