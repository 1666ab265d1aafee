//! The program on the emulated GPU: scores as on the CPU, `profile`, `info`.

use inp_former::runtime::cuda::image::IMAGES;
use serde_json::Value;

use super::{Place, picture, save};
use crate::models;

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
    let want = run("--device cpu");
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
    let trace = |device: &str| {
        let args =
            format!("trace --model mini.safetensors --image x.png --path engine --out {device}.safetensors");
        place.run(&format!("{args} --device {device}")).ok();
        crate::support::read_f32(&place.path(&format!("{device}.safetensors")))
    };
    let (want, got) = (trace("cpu"), trace("emulated"));
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for name in ["amap_native0", "amap_native1", "amap_256_gauss"] {
        let top = want[name].data.iter().fold(0.0, |m, x| f32::max(m, *x));
        let worst = got[name].data.iter().zip(&want[name].data).map(|(a, b)| (a - b).abs());
        let worst = worst.fold(0.0, |m, x| if x <= m { m } else { x });
        assert!(worst <= 8e-3 * top, "{name}: {worst:e} of {top:e}");
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
    let text = place.run("info --kernels --device emulated").ok().out;
    for said in ["emulated GPU", "sm_80", "attention_fwd_", "predicted cycles", "fc2"] {
        assert!(text.contains(said), "{said} is not in\n{text}");
    }
}
