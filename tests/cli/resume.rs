//! Runs that are killed or stopped go on as if nothing had happened.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::{Place, Ran, training};

const RUN: &str = "--batch-size 4 --iterations 400 --out m.safetensors --log log.csv";
const CKPT: &str = "m.safetensors.ckpt";

fn signal(child: &Child, name: &str) {
    let kill = format!("kill -s {name} {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// A run that gets the signal once its first checkpoint is there.
fn stopped(place: &Place, name: &str) -> Ran {
    stopped_in(place, RUN, name)
}

fn stopped_in(place: &Place, run: &str, name: &str) -> Ran {
    let mut command = place.command(&training(run));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while !place.path(CKPT).exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "no checkpoint was written");
        std::thread::sleep(Duration::from_millis(1));
    }
    signal(&child, name);
    let ran = Ran::new(child.wait_with_output().unwrap());
    assert!(place.path(CKPT).exists() && !place.path("m.safetensors").exists(), "it ended before the signal");
    ran
}

/// The log's columns but the last, which is a speed.
fn log(place: &Place) -> Vec<String> {
    place.text("log.csv").lines().map(|l| l.rsplit_once(',').unwrap().0.to_string()).collect()
}

#[test]
fn killed_and_interrupted_runs_end_with_the_same_bytes() {
    let place = Place::new();
    place.train(RUN).ok();
    let (model, rows) = (place.bytes("m.safetensors"), log(&place));
    assert_eq!(rows.len(), 401);
    for name in ["KILL", "INT", "TERM"] {
        std::fs::remove_file(place.path("m.safetensors")).unwrap();
        let ran = stopped(&place, name);
        if name != "KILL" {
            let ran = ran.ended(2, "of 400 iterations; continue with --resume m.safetensors.ckpt");
            assert!(ran.err.lines().last().unwrap().starts_with("error: stopped after "), "{}", ran.err);
        }
        let before = log(&place).len();
        assert!((2..401).contains(&before), "{before} lines in the log");
        place.train(&format!("{RUN} --resume {CKPT}")).ok();
        assert!(place.bytes("m.safetensors") == model, "{name}: another model");
        assert_eq!(log(&place), rows, "{name}");
        assert_eq!(place.files("").iter().filter(|f| f.ends_with(".ckpt")).count(), 0);
    }
}

/// Operands of bf16, masters and moments of f32: what is continued must not be rounded.
#[test]
fn runs_in_bf16_go_on_as_well() {
    let (place, run) = (Place::new(), format!("{RUN} --precision bf16"));
    place.train(&run).ok();
    let (model, rows) = (place.bytes("m.safetensors"), log(&place));
    std::fs::remove_file(place.path("m.safetensors")).unwrap();
    stopped_in(&place, &run, "KILL");
    place
        .train(&format!("{RUN} --precision f32 --resume {CKPT}"))
        .ended(2, "precision: \"bf16\" then, \"f32\" now");
    place.train(&format!("{run} --resume {CKPT}")).ok();
    assert!(place.bytes("m.safetensors") == model, "another model");
    assert_eq!(log(&place), rows);
}

#[test]
fn an_interrupted_calibration_leaves_a_whole_model() {
    let place = Place::with_model();
    let (model, picture) = (place.bytes("model.safetensors"), place.bytes("data/nut/train/good/0.png"));
    std::fs::create_dir(place.path("good")).unwrap();
    (0..1000).for_each(|i| std::fs::write(place.path(&format!("good/{i}.png")), &picture).unwrap());
    let mut interrupted = 0;
    for ms in [1, 10, 100, 300] {
        let mut command =
            place.command("quantise --model model.safetensors --good good --pictures 1000 --threads 1");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(ms));
        // INT is ignored by what a script started in the background.
        signal(&child, "TERM");
        let ran = Ran::new(child.wait_with_output().unwrap());
        if ran.code.is_none() {
            interrupted += 1;
        } else {
            // A busy machine may let it end before this process goes on.
            ran.ok();
        }
        // Whole either way, for the signal may come when it is written already.
        if place.bytes("model.safetensors") != model {
            place.run("score --model model.safetensors --precision int8 --allow-inaccurate good/0.png").ok();
            std::fs::write(place.path("model.safetensors"), &model).unwrap();
        }
    }
    assert!(interrupted > 0, "it always ended before the signal");
    place.run("quantise --model model.safetensors --good good --pictures 2").ok();
    assert!(place.bytes("model.safetensors") != model);
}

#[test]
fn what_cannot_be_resumed_is_said() {
    let place = Place::new();
    stopped(&place, "INT").ended(2, "continue with");
    place
        .train(RUN)
        .ended(2, "an unfinished run is here; continue it with --resume and this file, or delete it");
    std::fs::copy(place.path(CKPT), place.path("copy.ckpt")).unwrap();
    place
        .train(&format!("{RUN} --resume copy.ckpt"))
        .ended(2, "m.safetensors.ckpt: an unfinished run is here");
    let resume = |args: &str| place.train(&format!("--out other.safetensors {args}"));
    let other = "--batch-size 3 --iterations 9 --lr 0.002 --seed 5 --prototypes 4";
    let said = resume(&format!("{other} --resume {CKPT}")).ended(2, "started with other settings").err;
    for part in ["batch: 4 then, 3 now", "iterations: 400 then, 9 now", "lr: 0.001 then, 0.002 now"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(said.contains("seed: 1 then, 5 now") && said.contains("prototypes: 6 then, 4 now"), "{said}");
    std::fs::remove_file(place.path("data/nut/train/good/0.png")).unwrap();
    let said = place.train(&format!("{RUN} --resume {CKPT}")).ended(2, "images: 6 then, 5 now").err;
    assert!(said.contains("features: other pictures"), "{said}");

    let whole = place.bytes(CKPT);
    std::fs::write(place.path("cut.ckpt"), &whole[..whole.len() / 2]).unwrap();
    resume("--resume cut.ckpt").ended(2, "error: cut.ckpt: ").ended(2, "truncated");
    resume("--resume backbone.safetensors").ended(2, "this is not a training checkpoint");
    resume("--resume nowhere.ckpt").ended(2, "error: nowhere.ckpt: ");
    assert!(place.bytes(CKPT) == whole);
}
