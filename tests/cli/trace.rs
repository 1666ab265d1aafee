//! `trace`: every name of the interface, with the published values.

use std::collections::BTreeMap;

use inp_former::data::image::{Limits, decode};
use inp_former::ops::preprocess::{ImageView, crop_u8};
use inp_former::runtime::Tensor;
use inp_former::runtime::weights::{RawTensor, WeightFile};

use super::Place;
use crate::models;
use crate::support::{close, cpu, golden_input, golden_or_part, golden_weight, read_f32};

/// `tiny.safetensors` with the golden weights, `input.safetensors` with the golden input.
fn place() -> Place {
    let place = Place::new();
    models::file(&models::config("tiny")).write(place.path("tiny.safetensors")).unwrap();
    let mut file = WeightFile::default();
    file.tensors.insert("input".into(), RawTensor::from_f32(&golden_input("tiny", 2, 112, 112)));
    file.write(place.path("input.safetensors")).unwrap();
    place
}

fn trace(place: &Place, args: &str) -> BTreeMap<String, Tensor> {
    place.run(&format!("trace --model tiny.safetensors {args} --out t.safetensors")).ok();
    let path = place.path("t.safetensors");
    let tensors = read_f32(&path);
    assert_eq!(tensors.len(), WeightFile::read(path).unwrap().tensors.len(), "not all are f32");
    tensors
}

/// The names of the interface, for this model of four target layers and four decoder blocks.
const NAMES: &str = "enc.patch_embed enc.tokens enc.block1 enc.block2 enc.block3 enc.block4 fused inp bottleneck dec0 \
    dec1 dec2 dec3 en0 en1 de0 de1 g_loss inp_distance amap_native0 amap_native1 amap_crop amap_256 amap_256_gauss \
    score_top1pct score_max pos_embed_interp";

/// The key half of the extractor's kv bias shifts every score alike: its gradient is zero but for rounding.
fn skip(name: &str) -> usize {
    if name.ends_with("aggregation.0.attn.kv.bias") { 64 } else { 0 }
}

#[test]
fn activations_are_the_published_ones() {
    let place = place();
    let got = trace(&place, "--input input.safetensors");
    let mut names: Vec<&str> = NAMES.split_whitespace().collect();
    names.sort_unstable();
    assert_eq!(got.keys().collect::<Vec<_>>(), names);
    let (full, part) = ("tiny/forward.safetensors", "tiny/small_forward.safetensors");
    let Some(want) = golden_or_part(full, part).map(|p| read_f32(&p)) else { return };
    let mut compared = 0;
    for (name, want) in want.iter().filter(|(name, _)| names.contains(&name.as_str())) {
        let got = &got[name];
        assert!(got.shape() == want.shape() || part_of(got, want), "{name}: {:?}", got.shape());
        close(name, &got.data[..want.len()], &want.data, 5e-5);
        compared += 1;
    }
    assert!(compared >= 25, "only {compared} names compared");
}

/// The committed part of the goldens may hold the first picture's alone.
fn part_of(got: &Tensor, want: &Tensor) -> bool {
    want.shape()[0] == 1 && got.shape()[1..] == want.shape()[1..]
}

#[test]
fn gradients_are_the_published_ones() {
    let place = place();
    let got = trace(&place, "--input input.safetensors --grads");
    let (full, part) = ("tiny/train_step1.safetensors", "tiny/small_gradients.safetensors");
    let Some(want) = golden_or_part(full, part).map(|p| read_f32(&p)) else { return };
    let mut compared = 0;
    for (name, want) in &want {
        let ours = name.starts_with("grad.") || name.starts_with("clipped.");
        if ours || ["loss", "loss_cos", "g_loss", "grad_norm"].contains(&name.as_str()) {
            assert_eq!(got[name].shape(), want.shape(), "{name}");
            close(name, &got[name].data[skip(name)..], &want.data[skip(name)..], 1e-4);
            compared += 1;
        }
    }
    assert!(compared >= 80, "only {compared} names compared");
    let clipped = got.keys().filter(|k| k.starts_with("clipped.")).count();
    assert!(clipped == got.keys().filter(|k| k.starts_with("grad.")).count() && clipped > 70);
}

#[test]
fn steps_follow_the_published_schedule() {
    let place = place();
    let got = trace(&place, "--input input.safetensors --steps 10 --total-iters 8 --warmup 3");
    let steps: std::collections::BTreeSet<&str> = got
        .keys()
        .filter(|k| k.starts_with("step") && !k.ends_with(".loss"))
        .map(|k| k.split_once('.').unwrap().0)
        .collect();
    assert!(steps.iter().eq(["step1", "step10", "step2"].iter()), "{steps:?}");
    let (full, part) = ("tiny/train_short_total8_warm3.safetensors", "tiny/small_train_short.safetensors");
    let Some(want) = golden_or_part(full, part).map(|p| read_f32(&p)) else { return };
    let mut compared = 0;
    for (name, want) in want.iter().filter(|(name, _)| name.starts_with("step")) {
        let (step, parameter) = name.split_once('.').unwrap();
        let start = golden_weight(parameter, want.shape());
        let far = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).skip(skip(name)).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum::<f64>().sqrt()
        };
        let (off, way) = (far(&got[name].data, &want.data), far(&want.data, &start.data));
        // The learning rate begins at 0: the first step changes nothing.
        let tol = if step == "step2" { 1e-2 } else { 3e-3 };
        assert!(off <= tol * way, "{name} is {:.2e} of its way from the golden", off / way);
        compared += 1;
    }
    assert!(compared >= 70, "only {compared} parameters compared");
}

#[test]
fn a_picture_is_decoded_resized_and_cropped() {
    let place = Place::with_model();
    let picture = "data/nut/test/cut/0.png";
    place.run(&format!("trace --model model.safetensors --image {picture} --out t.safetensors")).ok();
    let got = read_f32(&place.path("t.safetensors"));
    let p = decode(&place.path(picture), &Limits::default()).unwrap();
    let crop = crop_u8(&cpu(), &ImageView::rgb(&p.rgb, 64, 64).unwrap(), 64, 56).unwrap();
    assert_eq!(got["input_u8"], Tensor::new(&[1, 56, 56, 3], crop.iter().map(|&b| b as f32).collect()));
    assert_eq!(got["input"].shape(), [1, 3, 56, 56]);
    assert!(NAMES.split_whitespace().all(|n| got.contains_key(n)));
    // What `score` says, up to the engine's rounding, and the same as `trace --input` of what was written.
    let record =
        &place.run(&format!("score --model model.safetensors --precision f32 {picture}")).ok().records()[0];
    close("score", &got["score_top1pct"].data, &[record["score"].as_f64().unwrap()], 1e-5);
    place.run("trace --model model.safetensors --input t.safetensors --out again.safetensors").ok();
    let again = read_f32(&place.path("again.safetensors"));
    assert!(again.iter().all(|(name, t)| &got[name] == t) && again.len() == got.len() - 2);
    // The fast scorer gets the picture's 8-bit pixels, and so gives what it gives in scoring, to the bit.
    place
        .run(&format!("trace --model model.safetensors --path engine --image {picture} --out e.safetensors"))
        .ok();
    let record = &place.run(&format!("score --model model.safetensors {picture}")).ok().records()[0];
    let score = read_f32(&place.path("e.safetensors"))["score_top1pct"].data[0];
    assert_eq!(score, record["score"].as_f64().unwrap() as f32);
}

#[test]
fn an_encoder_alone_gives_its_own_activations() {
    let place = place();
    let run = |args: &str| {
        place.run(&format!("trace --model backbone.safetensors --input input.safetensors {args}"))
    };
    run("--out t.safetensors").ended(0, "this file is an encoder alone");
    let (got, whole) = (read_f32(&place.path("t.safetensors")), trace(&place, "--input input.safetensors"));
    assert!(got.keys().eq(whole.keys().filter(|k| k.starts_with("enc.") || *k == "pos_embed_interp")));
    assert!(got.iter().all(|(name, t)| &whole[name] == t));
    run("--grads --out t.safetensors").ended(2, "this is an encoder without a trained INP-Former");
}

#[test]
fn inputs_of_another_shape_are_refused() {
    let place = place();
    for shape in
        [vec![1, 3, 50, 50], vec![1, 3, 56, 70], vec![3, 56, 56], vec![1, 1, 56, 56], vec![0, 3, 56, 56]]
    {
        let mut file = WeightFile::default();
        file.tensors.insert("input".into(), RawTensor::from_f32(&Tensor::zeros(&shape)));
        file.write(place.path("bad.safetensors")).unwrap();
        let ran = place.run("trace --model tiny.safetensors --input bad.safetensors --out t.safetensors");
        ran.ended(2, "bad.safetensors: `input` is [");
    }
    assert!(!place.path("t.safetensors").exists());
}
