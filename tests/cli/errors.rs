//! What cannot be done is one sentence on stderr and exit code 2, before any work.

use super::Place;

/// Every part of `refusals` that begins with a command: its arguments, then ` => ` and a piece of the sentence.
fn refused(place: &Place, refusals: &str) {
    for line in refusals.lines().filter(|l| !l.trim().is_empty()) {
        let (args, said) = line.split_once("=>").unwrap();
        let ran = place.run(&format!("{args} --quiet")).ended(2, said.trim());
        assert!(ran.out.is_empty() && ran.err.starts_with("error: "), "{args}: {}{}", ran.err, ran.out);
        // The argument parser adds how to get help, in more lines.
        assert!(ran.err.lines().count() == 1 || ran.err.contains("--help"), "{args}: {}", ran.err);
    }
}

#[test]
fn options() {
    let train = "train --data data --out m.safetensors --backbone backbone.safetensors";
    let place = Place::new();
    refused(
        &place,
        &"
        TRAIN --device cuda => --device cuda: this command has no CUDA kernels; use --device cpu
        TRAIN --device cuda:1 => --device cuda:1: this command has no CUDA kernels
        TRAIN --device emulated => --device emulated
        TRAIN --device gpu => --device gpu: choose auto, cpu, cuda
        TRAIN --device cpu:3 => --device cpu:3: choose auto, cpu, cuda
        TRAIN --precision int8 => --precision int8: training computes in f32 or bf16
        TRAIN --precision tf32 => --precision tf32: training computes in f32 or bf16
        TRAIN --precision f64 => --precision f64: choose auto, f32
        TRAIN --threads 0 => '0'
        TRAIN --setting solo => 'solo'
        TRAIN --cache tape => 'tape'
        TRAIN --dataset coco => 'coco'
        TRAIN --lr 0 => --lr must be a positive number
        TRAIN --lr=-1 => --lr must be a positive number
        TRAIN --lr NaN => --lr must be a positive number
        TRAIN --lr inf => --lr must be a positive number
        TRAIN --lr fast => 'fast'
        TRAIN --batch-size 0 => '0'
        TRAIN --iterations 0 => '0'
        TRAIN --epochs 0 => '0'
        TRAIN --prototypes 0 => '0'
        TRAIN --shots 1 => --shots and --shot-list are for --setting few-shot
        TRAIN --crop 50 => crop 50 is not a multiple of 14
        TRAIN --crop 0 => crop 0 is not a multiple of 14
        TRAIN --resize 50 --crop 56 => resize 50 is smaller than crop 56
        TRAIN --resize 20000 => resize 20000 is above 16384
        TRAIN --cache-limit=-1 => --cache-limit -1: give a positive number of GB
        TRAIN --unknown => '--unknown'
        score --model m.safetensors => <PATH>
        score --model m.safetensors data --format xml => 'xml'
        score --model m.safetensors data --threshold nan => --threshold must be a finite number
        score --model m.safetensors data --heatmap-scale 2,1 => LOW,HIGH
        calibrate --model m.safetensors --good data --false-alarm-rate 1 => --false-alarm-rate must be
        eval --model m.safetensors --data data --metrics all => 'all'
        trace --model m.safetensors --out t => --input
        trace --model m.safetensors --out t --image p --steps 3 => --total-iters
        fly => 'fly'
        "
        .replace("TRAIN", train),
    );
    assert!(!place.path("m.safetensors").exists());
}

#[test]
fn files() {
    let place = Place::with_model();
    let model = place.bytes("model.safetensors");
    std::fs::write(place.path("cut.safetensors"), &model[..model.len() / 2]).unwrap();
    std::fs::write(place.path("text"), "no pictures here").unwrap();
    std::fs::create_dir_all(place.path("empty")).unwrap();
    std::fs::create_dir_all(place.path("none")).unwrap();
    std::fs::write(place.path("none/readme.txt"), "").unwrap();
    let tiny = "--backbone backbone.safetensors --resize 64 --crop 56 --iterations 2";
    refused(
        &place,
        &"
        score --model nowhere data => nowhere: cannot read the weights
        score --model cut.safetensors data => cut.safetensors: the tensor
        score --model data/nut/test/good/0.png data => data/nut/test/good/0.png: this is not a safetensors file
        score --model data data => data: this is not a regular file
        score --model backbone.safetensors data => this is an encoder without a trained INP-Former
        score --model model.safetensors empty => empty: there is no picture in this folder
        score --model model.safetensors none => none: there is no picture in this folder
        score --model model.safetensors data/*/x*.png => data/*/x*.png: no picture matches this pattern
        score --model model.safetensors data/[ => data/[: not a pattern
        score --model model.safetensors data --maps text/maps => text/maps
        calibrate --model model.safetensors --good empty => empty: there is no picture in this folder
        eval --model nowhere --data data => nowhere: cannot read the weights
        eval --model empty --data data => empty/bolt.safetensors: there is no model of this class
        eval --model model.safetensors --data nowhere => nowhere: there is no such folder
        eval --model model.safetensors --data text => text: this is a file, not a folder
        eval --model model.safetensors --data data --classes bolt,screw => no class `screw`; those present: bolt, nut
        eval --model model.safetensors --data data --json text/x.json => text
        train --out m --data nowhere => data set nowhere: there is no such folder
        train --out m --data empty => data set empty: no known layout
        train --out m --data none => data set none: no known layout
        train --out m --data data --classes screw => there is no class `screw`; those present: bolt, nut
        train --out m --data data --dataset real-iad => data set data: there is no realiad_jsons
        train --out m --data data --backbone text => text
        train --out m --data data --backbone dinov2reg_vit_base_14 => $INP_BACKBONES/dinov2reg_vit_base_14
        train --out text/m --data data TINY => text: cannot make the folder
        train --out empty --data data TINY => empty: this is a folder; name a file in it
        train --out text --data data TINY --setting single => text: cannot make the folder of models
        train --out m --data data TINY --log none => none: this is a folder; name a file in it
        train --out m --data data TINY --cache disk --cache-dir text => text
        train --out m --data data TINY --lr 1e38 => --lr
        convert nowhere x => nowhere: cannot read the weights
        convert text x => text: this is not a safetensors file
        convert model.safetensors none/no/x => none/no
        trace --model model.safetensors --out t --image text => text: this is not a picture
        trace --model model.safetensors --out t --input model.safetensors => there is no tensor `input`
        "
        .replace("TINY", tiny)

    );
    assert!(place.bytes("model.safetensors") == model && !place.path("m").exists());
}
