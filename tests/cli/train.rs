//! `train`: every setting; the same bytes whatever the threads and the cache; what is said.

use inp_former::runtime::weights::WeightFile;
use inp_former::train::run::Options;
use serde_json::Value;

use super::{Place, Ran, picture, save, training};

/// The metadata of a model file.
fn metadata(place: &Place, name: &str) -> Value {
    serde_json::from_str(&WeightFile::read(place.path(name)).unwrap().metadata["inp_former"]).unwrap()
}

#[test]
fn threads_workers_and_caches_change_no_bit() {
    let place = Place::new();
    let train = |args: &str| {
        let ran = place.train(&format!("--batch-size 4 --iterations 8 --out m.safetensors {args}")).ok();
        (place.bytes("m.safetensors"), ran.err)
    };
    let (first, _) = train("--threads 2");
    for args in ["--threads 2", "--threads 1 --workers 0", "--workers 3 --cache off"] {
        assert!(train(args).0 == first, "{args} changes the model");
    }
    let (small, said) = train("--cache-limit 0.00003");
    assert!(small == first && said.contains("warning: the features of 3 of 6 images do not fit"), "{said}");
    assert!(train("--seed 2").0 != first, "the seed does nothing");
    assert!(!place.path("m.safetensors.ckpt").exists());
}

#[test]
fn disk_cache_is_reused_and_a_damaged_file_made_again() {
    let place = Place::new();
    let train = |args: &str| {
        let ran = place.train(&format!("--iterations 3 --out m.safetensors {args}")).ok();
        (place.bytes("m.safetensors"), ran.err)
    };
    let (first, _) = train("");
    let disk = "--cache disk --cache-dir cache";
    assert!(train(disk).0 == first);
    let state = || {
        let one = |f: &String| {
            let path = place.path("cache").join(f);
            (std::fs::metadata(&path).unwrap().modified().unwrap(), std::fs::read(&path).unwrap())
        };
        place.files("cache").iter().map(one).collect::<Vec<_>>()
    };
    let before = state();
    assert_eq!(before.len(), 6);
    assert!(train(disk).0 == first && state() == before, "a whole cache was written again");
    // Cut off; a bit flipped in a number; not ours at all.
    let files: Vec<_> = place.files("cache").iter().map(|f| place.path("cache").join(f)).collect();
    let mut flipped = before[1].1.clone();
    *flipped.last_mut().unwrap() ^= 0x40;
    std::fs::write(&files[0], &before[0].1[..1000]).unwrap();
    std::fs::write(&files[1], flipped).unwrap();
    std::fs::write(&files[2], "nonsense").unwrap();
    assert!(train(disk).0 == first, "damaged features were used");
    assert!(state().iter().zip(&before).all(|(a, b)| a.1 == b.1), "damaged files were left");
    // Room for three of the six: the oldest go, the model stays.
    let (small, said) = train("--cache disk --cache-dir small --cache-limit 0.00003");
    assert!(small == first && said.contains("do not fit the cache"), "{said}");
    assert_eq!(place.files("small").len(), 3);
}

#[test]
fn log_has_a_header_and_a_row_an_iteration() {
    let place = Place::new();
    place.train("--batch-size 3 --epochs 4 --out new/m.safetensors --log logs/log.csv").ok();
    let mut log = csv::Reader::from_path(place.path("logs/log.csv")).unwrap();
    let header = "iteration,epoch,lr,loss,loss_cos,g_loss,grad_norm,images_per_s";
    assert_eq!(log.headers().unwrap(), header.split(',').collect::<Vec<_>>());
    let rows: Vec<Vec<f64>> =
        log.records().map(|r| r.unwrap().iter().map(|f| f.parse().unwrap()).collect()).collect();
    assert_eq!(rows.len(), 8);
    for (i, r) in rows.iter().enumerate() {
        assert_eq!((r[0], r[1]), ((i + 1) as f64, (i / 2) as f64));
        assert!((r[4] + 0.2 * r[5] - r[3]).abs() <= 1e-6 && r[6] > 0.0 && r[7] > 0.0, "{r:?}");
    }
}

#[test]
fn single_makes_a_model_a_class() {
    let place = Place::new();
    let single = "--setting single --iterations 3 --out models --log log.csv";
    place.train(single).ok();
    assert_eq!(place.files("models"), ["bolt.safetensors", "nut.safetensors"]);
    assert!(["log-bolt.csv", "log-nut.csv"].iter().all(|log| place.text(log).lines().count() == 4));
    // The same as that class alone; a resumed run passes over what is finished.
    place.train("--classes nut --iterations 3 --out nut.safetensors").ok();
    assert!(place.bytes("nut.safetensors") == place.bytes("models/nut.safetensors"));
    std::fs::remove_file(place.path("models/nut.safetensors")).unwrap();
    place.train(&format!("{single} --resume yes")).ended(0, "bolt: trained already");
    assert!(place.bytes("nut.safetensors") == place.bytes("models/nut.safetensors"));
}

#[test]
fn super_takes_several_data_sets() {
    let place = Place::new();
    let both = "--data data/bolt data/nut --iterations 3 --out super.safetensors";
    place.train(&format!("{both} --setting super")).ended(0, "2 classes, 6 good images");
    place.train("--iterations 3 --out multi.safetensors").ok();
    assert!(place.bytes("super.safetensors") == place.bytes("multi.safetensors"));
    place.train(both).ended(2, "several --data are for --setting super");
}

#[test]
fn few_shot_draws_or_reads_its_images() {
    let place = Place::new();
    let few = |args: &str| place.train(&format!("--setting few-shot --iterations 2 {args}"));
    let drawn = few("--shots 1 --out drawn.safetensors").ok();
    assert_eq!(metadata(&place, "drawn.safetensors")["training"]["images"], 2 * 22);
    let names: Vec<&str> =
        drawn.err.lines().filter_map(|l| l.split_once(": data/")).map(|(_, name)| name).collect();
    assert_eq!(names.len(), 2, "{}", drawn.err);
    // The list may name them from where the program runs, or from where the list lies.
    std::fs::write(place.path("list.txt"), format!("data/{}\n\ndata/{}", names[0], names[1])).unwrap();
    std::fs::write(place.path("data/list.txt"), format!("  {}\r\n{}\n", names[0], names[1])).unwrap();
    for list in ["list.txt", "data/list.txt"] {
        few(&format!("--shot-list {list} --out listed.safetensors")).ok();
        assert!(place.bytes("listed.safetensors") == place.bytes("drawn.safetensors"), "{list}");
    }
    std::fs::write(place.path("empty.txt"), "\n").unwrap();
    few("--shot-list empty.txt --out m.safetensors").ended(2, "empty.txt: the list names no picture");
    few("--shot-list none.txt --out m.safetensors").ended(2, "none.txt: cannot open the list of shots");
    few("--shots 4 --out m.safetensors").ended(2, "bolt has 3 good images, not 4");
    few("--out m.safetensors").ended(2, "--setting few-shot needs --shots N");
}

#[test]
fn own_folder_smaller_than_a_batch() {
    let place = Place::new();
    let ran = place.train("--data data/nut/train/good --iterations 20 --out m.safetensors").ok();
    assert!(ran.err.contains("only 3 training images: the batch is 3 instead of 16"), "{}", ran.err);
    let training = &metadata(&place, "m.safetensors")["training"];
    assert_eq!((&training["images"], &training["iterations"]), (&3.into(), &20.into()));
    // Without --iterations it is long enough to learn, and the warm-up is never most of it.
    let own = Options { min_iterations: 1000, short_warmup: true, epochs: 200, ..Options::default() };
    let length = own.length(3).unwrap();
    assert_eq!(
        (length.batch, length.steps, length.schedule.total, length.schedule.warmup),
        (3, 1, 1000, 100)
    );
    assert_eq!(Options { iterations: Some(50), ..own }.length(3).unwrap().schedule.warmup, 5);
}

#[test]
fn a_damaged_picture_is_named_and_left_out() {
    let place = Place::new();
    place.train("--iterations 3 --out without.safetensors --cache off").ok();
    std::fs::write(place.path("data/nut/train/good/x.png"), "no picture").unwrap();
    for cache in ["ram", "off"] {
        place
            .train(&format!("--iterations 3 --out with.safetensors --cache {cache}"))
            .ended(1, "error: data/nut/train/good/x.png: this is not a picture");
        assert!(place.bytes("with.safetensors") == place.bytes("without.safetensors"));
    }
    std::fs::create_dir(place.path("bad")).unwrap();
    std::fs::write(place.path("bad/x.png"), "no picture").unwrap();
    place.train("--data bad --out bad.safetensors").ended(2, "none of the training images could be read");
}

#[test]
fn backbone_is_embedded_or_the_encoder_of_a_model() {
    let place = Place::with_model();
    save(&place.path("own/0.png"), &picture(0, false));
    let ran = place.run("train --data own --resize 64 --crop 56 --iterations 2 --out m.safetensors").ok();
    assert!(ran.err.contains("small demonstration backbone"), "{}", ran.err);
    assert_eq!(metadata(&place, "m.safetensors")["name"], "inp-proc-d192-b8");
    // What was measured with the old trained part does not pass to the new one.
    place.run("calibrate --model model.safetensors --good data/nut/test/good").ok();
    for (backbone, out) in [("model.safetensors", "a"), ("backbone.safetensors", "b")] {
        place.train(&format!("--backbone {backbone} --iterations 2 --out {out}")).ok();
    }
    assert!(metadata(&place, "model.safetensors")["threshold"].is_object());
    assert!(place.bytes("a") == place.bytes("b"));
    // A published name stands for a file of that name in $INP_BACKBONES.
    let name = "dinov2reg_vit_small_14";
    std::fs::copy(place.path("backbone.safetensors"), place.path(&format!("{name}.safetensors"))).unwrap();
    let mut command = place.command(&training(&format!("--backbone {name} --iterations 2 --out c")));
    Ran::new(command.env("INP_BACKBONES", ".").output().unwrap()).ok();
    assert!(place.bytes("c") == place.bytes("b"));
}
