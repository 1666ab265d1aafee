//! The program on the emulated GPU: scores as on the CPU, `profile`, `info`.

use inp_former::runtime::cuda::image::IMAGES;
use inp_former::runtime::weights::{RawTensor, WeightFile};
use serde_json::Value;

use super::{Place, Ran, mask, picture, save};
use crate::{models, support};

mod gpus;

/// Stems with variants.
const STEMS: [&str; 8] = [
    "patch_embed",
    "linear",
    "attention",
    "inp_extract",
    "inp_factors",
    "inp_coefficients",
    "inp_decode_fc1",
    "inp_decode",
];

/// Says so where there is nothing to run.
fn built() -> bool {
    if IMAGES.is_empty() {
        println!("SKIPPED: this build holds no CUDA kernels, so the program has none to run");
    }
    !IMAGES.is_empty()
}

/// A place with a model whose heads have 64 channels.
fn place() -> Place {
    let place = Place::new();
    models::file(&models::config("mini")).write(place.path("mini.safetensors")).unwrap();
    place
}

#[test]
fn scores_are_the_cpus() {
    if !built() {
        return;
    }
    let place = place();
    let run = |args: &str| {
        let ran = place.run(&format!("score --model mini.safetensors data/bolt/test --format jsonl {args}"));
        ran.ok().records().iter().map(|r| r["score"].as_f64().unwrap()).collect::<Vec<f64>>()
    };
    let want = run("--device cpu --precision f32");
    assert_eq!(want.len(), 4);
    for (precision, bound) in [("f16", 1e-3), ("tf32", 1e-3), ("bf16", 1e-3)] {
        let got = run(&format!("--device emulated --precision {precision}"));
        for (a, b) in got.iter().zip(&want) {
            assert!((a - b).abs() <= bound, "{precision}: {got:?} and not {want:?}");
        }
        assert_eq!(got.len(), want.len());
    }
}

#[test]
fn a_trace_of_the_engine_holds_what_the_cpus_does() {
    if !built() {
        return;
    }
    let place = place();
    save(&place.path("x.png"), &picture(3, true));
    let mut file = WeightFile { path: "input".into(), ..WeightFile::default() };
    let input = support::golden_input("trace", 1, 70, 70);
    file.tensors.insert("input".into(), RawTensor::from_f32(&input));
    file.write(place.path("x.safetensors")).unwrap();
    for subject in ["--model mini.safetensors --image x.png", "--arch small --input x.safetensors"] {
        let trace = |device: &str| {
            let args = format!("trace {subject} --path engine --out t.safetensors");
            let precision = if device == "cpu" { "f32" } else { "bf16" };
            place.run(&format!("{args} --device {device} --precision {precision}")).ok();
            support::read_f32(&place.path("t.safetensors"))
        };
        let (want, got) = (trace("cpu"), trace("emulated"));
        assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
        for name in ["amap_native0", "amap_native1", "amap_256_gauss"] {
            let top = want[name].data.iter().fold(0.0, |m, x| f32::max(m, *x));
            let worst = got[name].data.iter().zip(&want[name].data).map(|(a, b)| (a - b).abs());
            let worst = worst.fold(0.0, |m, x| if x <= m { m } else { x });
            assert!(worst <= 8e-3 * top, "{subject} {name}: {worst:e} of {top:e}");
        }
    }
}

#[test]
fn heads_of_another_width_are_refused() {
    if !built() {
        return;
    }
    let place = Place::new();
    models::file(&models::config("tiny")).write(place.path("tiny.safetensors")).unwrap();
    place
        .run("score --model tiny.safetensors data/bolt/test --device emulated")
        .ended(2, "this model: 64 channels in 2 heads; on CUDA a head has 64: use --device cpu");
}

#[test]
fn what_inp_kernel_asks_for_is_run_or_refused() {
    if !built() {
        return;
    }
    let place = place();
    let run = |kernel: &str| {
        let mut command = place.command("profile --model mini.safetensors --device emulated --quiet");
        super::Ran::new(command.env("INP_KERNEL", kernel).output().unwrap())
    };
    let ran = run("linear=128x64x64,inp_extract=x4").ok();
    let profile: Value = serde_json::from_str(&ran.out).unwrap();
    let names = profile["kernels"].as_array().unwrap().iter().map(|k| k["kernel"].as_str().unwrap());
    let linear: Vec<&str> = names.clone().filter(|n| n.starts_with("linear_")).collect();
    assert!(!linear.is_empty() && linear.iter().all(|n| n.contains("_128x64x64_")), "{linear:?}");
    assert!(names.clone().any(|n| n.contains("inp_extract_fwd_fc1_x4_")), "{:?}", names.collect::<Vec<_>>());
    run("lineer=64x64x64")
        .ended(2, "INP_KERNEL: \"lineer=64x64x64\" is no stem=variant; stems with variants are");
    run("linear=7x7x7").ended(2, "linear has no CUDA variant \"7x7x7\"");
    run("inp_decode=7x7").ended(2, "inp_decode");
}

#[test]
fn a_profile_lists_every_launch_and_says_predicted() {
    if !built() {
        return;
    }
    let place = place();
    let ran = place.run("profile --model mini.safetensors --gpu a100 --batch 2 --json p.json").ok();
    assert!(ran.err.contains("device: emulated"), "{}", ran.err);
    let v: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(v, serde_json::from_str::<Value>(&place.text("p.json")).unwrap());
    assert_eq!((&v["predicted"], &v["arch"], &v["batch"]), (&true.into(), &80.into(), &2.into()));
    assert!(v["measured_us"].is_null() && v["inputs"]["name"] == "a100", "{v}");
    let kernels = v["kernels"].as_array().unwrap();
    let sum = |key: &str| kernels.iter().map(|k| k[key].as_f64().unwrap()).sum::<f64>();
    assert_eq!(sum("calls"), v["launches"].as_f64().unwrap());
    let us = v["predicted_us"].as_f64().unwrap();
    assert!(us > 0.0 && (sum("predicted_us") / us - 1.0).abs() <= 1e-9, "{v}");
    assert!(kernels.iter().all(|k| k["spills"] == 0 && k["registers"].as_u64() > Some(0)), "{v}");
    // mini: two products and attention in each of five encoder blocks at least, all on tensor cores.
    assert!(sum("flop") > 2e8, "{v}");

    place.run("profile --model mini.safetensors --gpu a101").ended(2, "--gpu a101: the emulator models");
    place.run("profile --device cpu").ended(2, "profile looks at a GPU");
    place.run("profile --device cuda --gpu a100").ended(2, "it goes with --device emulated");
}

#[test]
fn a_profile_of_variants_lists_each_at_every_shape() {
    if !built() {
        return;
    }
    let place = place();
    let ran = place.run("profile --model mini.safetensors --gpu h100 --variants").ok();
    let v: Value = serde_json::from_str(&ran.out).unwrap();
    let all = v["variants"].as_array().unwrap();
    let text = |v: &Value, key: &str| v[key].as_str().unwrap().to_string();
    let of = |stem: &str| all.iter().filter(|v| v["stem"] == stem).collect::<Vec<_>>();
    for (stem, variants) in
        [("patch_embed", 2), ("linear", 7), ("attention", 6), ("inp_extract", 2), ("inp_decode", 3)]
    {
        let names: std::collections::BTreeSet<_> = of(stem).iter().map(|v| text(v, "variant")).collect();
        assert_eq!(names.len(), variants, "{stem}: {names:?}");
    }
    assert!(STEMS.iter().all(|stem| of(stem).iter().any(|v| v["chosen"] == true)), "{}", ran.out);
    // 128 channels, 69 tokens: qkv, proj, fc1 and fc2 of five blocks, the bottleneck's two of 64 patches. K stays apart.
    for shape in ["69x384x128", "69x128x128", "69x512x128", "69x128x512", "64x512x128", "64x128x512"] {
        let at: Vec<_> = of("linear").into_iter().filter(|v| v["shape"] == shape).collect();
        assert_eq!(at.len(), 7, "{shape}");
        assert_eq!(at.iter().filter(|v| v["chosen"] == true).count(), 1, "{shape}");
        let calls = if shape.starts_with("64") { 1 } else { 5 };
        for v in at {
            let number = |key: &str| v[key].as_f64().unwrap();
            assert_eq!(number("calls"), calls as f64, "{v}");
            let sizes: Vec<f64> = shape.split('x').map(|n| n.parse().unwrap()).collect();
            assert!(number("flop") >= calls as f64 * 2.0 * sizes.iter().product::<f64>(), "{v}");
            for key in ["predicted_us", "occupancy", "registers", "dynamic_shared", "sectors", "global_bytes"]
            {
                assert!(number(key) > 0.0, "{key} of {v}");
            }
            assert!((0.0..=1.0).contains(&number("share_of_roofline")), "{v}");
        }
    }
}

#[test]
fn info_lists_gpus_and_kernels() {
    if !built() {
        return;
    }
    let place = Place::new();
    let v: Value =
        serde_json::from_str(&place.run("info --json --kernels --device emulated").ok().out).unwrap();
    assert_eq!((&v["gpus"][0]["emulated"], &v["no_gpu_because"]), (&true.into(), &Value::Null));
    let kernels: usize = IMAGES.iter().map(|i| i.kernels.len()).sum();
    assert_eq!(v["kernels"].as_array().unwrap().len(), kernels);
    let choices = v["choices"].as_array().unwrap();
    for stem in STEMS {
        let of: Vec<&Value> = choices.iter().filter(|c| c["stem"] == stem).collect();
        assert!(of.len() >= 6, "{stem}");
        for c in of {
            let all = c["candidates"].as_array().unwrap();
            let us = |c: &Value| c["predicted_us"].as_f64().unwrap();
            assert!(all.len() >= 2 && us(&all[0]) > 0.0 && all.is_sorted_by_key(us), "{c}");
            assert!(c["picked"] == all.iter().find(|c| c["fits"] == true).unwrap()["variant"], "{c}");
        }
    }
    let text = place.run("info --kernels --device emulated").ok().out;
    for said in ["emulated GPU", "sm_80", "attention_fwd_", "predicted µs", "linear fc2", "tensor cores"] {
        assert!(text.contains(said), "{said} is not in\n{text}");
    }
    let mut command = place.command("info --kernels --device emulated");
    let ran = super::Ran::new(command.env("INP_KERNEL", "inp_decode_fc1=x12").output().unwrap());
    assert_eq!(ran.ok().out.matches("x12 (INP_KERNEL)").count(), 6);
    let mut command = place.command("info --kernels --device emulated");
    let ran = super::Ran::new(command.env("INP_KERNEL", "attention=1x1").output().unwrap());
    ran.ended(2, "attention has no CUDA variant \"1x1\"; there are");
}
