//! Pictures in batches, the second GPU, what does not fit, what fails.

use std::path::Path;

use inp_former::model::Config;
use inp_former::runtime::weights::RawTensor;
use serde_json::Value;

use super::{Place, Ran, built, mask, models, picture, place, save, support};

/// The program with variables of the environment.
fn run(place: &Place, variables: &[(&str, &str)], args: &str) -> Ran {
    Ran::new(place.command(args).envs(variables.iter().copied()).output().unwrap())
}

/// Records without their times.
fn records(ran: &Ran) -> Vec<Value> {
    let mut all = ran.records();
    all.iter_mut().for_each(|r| _ = r.as_object_mut().unwrap().remove("ms"));
    all
}

const SCORE: &str = "score --model mini.safetensors --format jsonl --device emulated";

#[test]
fn batches_change_nothing_and_a_bad_picture_fails_alone() {
    if !built() {
        return;
    }
    let place = place();
    (0..7).for_each(|i| save(&place.path(&format!("mixed/{i}.png")), &picture(i, i % 2 == 0)));
    std::fs::write(place.path("mixed/2.png"), "not a picture").unwrap();
    let want = run(&place, &[], &format!("{SCORE} mixed --batch 1 --maps maps1")).ended(1, "mixed/2.png");
    assert_eq!(records(&want).iter().filter(|r| r["score"].is_f64()).count(), 6);
    assert!(want.records()[2]["error"].is_string(), "{}", want.out);
    for (name, args) in [("3", "--batch 3"), ("4", "--batch 4 --workers 1"), ("default", "")] {
        let got =
            run(&place, &[], &format!("{SCORE} mixed {args} --maps maps{name}")).ended(1, "mixed/2.png");
        assert_eq!(records(&got), records(&want), "{args}");
        for file in place.files("maps1") {
            let of = |folder: &str| place.bytes(&format!("{folder}/{file}"));
            assert!(of("maps1") == of(&format!("maps{name}")), "{file} with {args}");
        }
        assert_eq!(place.files(&format!("maps{name}")).len(), 6);
    }
    let eval = |args: &str| {
        run(&place, &[], &format!("eval --model mini.safetensors --data data --device emulated {args}"))
            .ok()
            .out
    };
    assert_eq!(eval("--batch 1"), eval("--batch 3"));
    place.run(&format!("{SCORE} mixed --batch 33")).ended(2, "33 is not in 1..=32");
}

/// A folder in which a program finds the emulated driver as it finds a real one.
#[cfg(unix)]
fn as_a_driver(folder: &Path) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_inp-former"));
    let emulator = program.parent().unwrap().join("deps/libinp_cuda_emulator.so");
    std::fs::create_dir_all(folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(&emulator, folder.join(name)).unwrap();
    }
    folder.to_str().unwrap().into()
}

#[cfg(unix)]
#[test]
fn the_second_gpu_is_used_when_it_is_asked_for() {
    if !built() {
        return;
    }
    let place = place();
    let driver = as_a_driver(&place.path("driver"));
    let on = |gpus: &str, device: &str| {
        let variables = [("LD_LIBRARY_PATH", &*driver), ("INP_EMULATED_GPU", gpus)];
        run(
            &place,
            &variables,
            &format!("score --model mini.safetensors data/nut/test/good --device {device}"),
        )
    };
    let second = on("a100,h100", "cuda:1").ended(0, "device: emulated cuda:1 NVIDIA H100 80GB HBM3, bf16");
    assert_eq!(records(&second), records(&on("h100", "cuda:0").ok()));
    on("h100*2", "cuda:1").ended(0, "device: emulated cuda:1 NVIDIA H100");
    let none = on("h100*2", "cuda:2").ended(2, "there is no cuda:2: there are cuda:0 to cuda:1");
    assert!(none.out.is_empty());
    on("t4", "cuda").ended(2, "cuda:0 (NVIDIA Tesla T4) is too old: it is sm_75");
}

/// Its variables mean something to whoever asks for it, and to nobody else.
#[test]
fn the_emulators_variables_are_the_emulators() {
    if !built() {
        return;
    }
    let place = place();
    let score = |variables: &[(&str, &str)], device: &str| {
        let args = "score --model mini.safetensors data/nut/test/good --precision f32 --device";
        run(&place, variables, &format!("{args} {device}"))
    };
    let nonsense = [
        ("INP_EMULATED_GPU", "nonsense"),
        ("INP_EMULATED_CHECK", "nonsense"),
        ("INP_EMULATED_MEMORY", "1"),
        ("INP_EMULATED_DRIVER", "1"),
    ];
    let want = score(&[], "cpu").ok();
    for device in ["cpu", "auto"] {
        let got = score(&nonsense, device).ended(0, "device: cpu");
        assert_eq!(records(&got), records(&want));
    }
    let emulated = |name: &str, value: &str, said: &str| {
        run(&place, &[(name, value)], &format!("{SCORE} data/nut/test/good")).ended(2, said);
    };
    emulated("INP_EMULATED_GPU", "nonsense", "no GPU is called \"nonsense\"; known are");
    emulated("INP_EMULATED_CHECK", "nonsense", "no checker is called \"nonsense\"");
    emulated("INP_EMULATED_MEMORY", "much", "INP_EMULATED_MEMORY: \"much\" is no number of bytes");
    emulated("INP_EMULATED_DRIVER", "12080", "the NVIDIA driver is too old: it knows CUDA 12.8");
}

#[test]
fn what_does_not_fit_says_what_would() {
    if !built() {
        return;
    }
    let place = place();
    let pictures = "data/nut/test/good/0.png ".repeat(40);
    let score = |memory: &str, args: &str| {
        run(&place, &[("INP_EMULATED_MEMORY", memory)], &format!("{SCORE} {args} {pictures}"))
    };
    score("2000000", "--precision tf32")
        .ended(2, "this model's weights take about")
        .ended(2, "--precision bf16, a");
    score("2000000", "").ended(2, "in bf16: take a smaller model, another GPU or --device cpu");
    score("6000000", "--batch 1").ended(2, "there is no room for a picture: take a smaller crop or model");
    let ran = score("30000000", "--batch 32").ended(2, "of 32 pictures at once ");
    let fits = ran.err.split("of 32 pictures at once ").nth(1).unwrap().split(' ').next().unwrap();
    println!("{}", ran.err);
    assert!((1..32).contains(&fits.parse::<usize>().unwrap()), "{}", ran.err);
    assert_eq!(score("30000000", &format!("--batch {fits}")).ok().records().len(), 40);
}

#[test]
fn a_fault_ends_the_run_and_names_the_kernel_when_asked() {
    if !built() {
        return;
    }
    let place = place();
    let args = format!("{SCORE} data/nut/test/good");
    let ran = run(&place, &[("INP_EMULATED_BUDGET", "100")], &args);
    let ran = ran.ended(2, "has lost its context: start the program again, with INP_CUDA_BLOCKING=1");
    assert!(ran.out.is_empty() && ran.err.matches("error: ").count() == 1, "{}", ran.err);
    let blocking = [("INP_EMULATED_BUDGET", "100"), ("INP_CUDA_BLOCKING", "1")];
    let ran = run(&place, &blocking, &args).ended(2, "error: CUDA: kernel patch_embed_fwd_");
    assert!(ran.err.contains(" blocks, ") && ran.err.contains("CUDA_ERROR_LAUNCH_TIMEOUT"), "{}", ran.err);
    // Where nothing fails, waiting for every kernel changes nothing.
    let want = run(&place, &[], &args).ok();
    assert_eq!(records(&run(&place, &[("INP_CUDA_BLOCKING", "1")], &args).ok()), records(&want));
}

#[test]
fn what_f16_cannot_hold_is_said() {
    if !built() {
        return;
    }
    let place = place();
    let with = |file: &str, tensor: &str, x: f32| {
        let mut weights = models::file(&models::config("mini"));
        let t = weights.tensors.get_mut(tensor).unwrap();
        let mut values = t.to_f32().unwrap();
        values.data[..4].fill(x);
        *t = RawTensor::from_f32(&values);
        weights.write(place.path(file)).unwrap();
    };
    with("weight.safetensors", "encoder.blocks.1.mlp.fc2.weight", 1e6);
    with("stream.safetensors", "encoder.patch_embed.proj.bias", 1e5);
    let score = |model: &str, precision: &str| {
        place.run(&format!(
            "score --model {model} data/nut/test/good --format jsonl --device emulated --precision {precision}"
        ))
    };
    score("weight.safetensors", "f16").ended(2, "encoder block 1, fc2 holds");
    score("weight.safetensors", "bf16").ok();
    let ran = score("stream.safetensors", "f16").ended(2, "none of the 2 pictures could be scored");
    for r in ran.records() {
        let said = r["error"].as_str().unwrap();
        assert!(
            said.contains("the model's numbers do not fit f16") && said.contains("--precision bf16"),
            "{said}"
        );
    }
    score("stream.safetensors", "bf16").ok();
}

/// What a user judges by: the same areas as on the CPU, in both half precisions.
fn areas_are_the_cpus(place: &Place, model: &str, data: &str) {
    let eval = |args: &str| -> Value {
        let ran = place.run(&format!("eval --model {model} --data {data} {args}"));
        serde_json::from_str(&ran.ok().out).unwrap()
    };
    let want = eval("--device cpu --precision f32");
    for precision in ["bf16", "f16"] {
        let got = eval(&format!("--device emulated --precision {precision}"));
        let classes = want["classes"].as_object().unwrap().keys().map(|c| &want["classes"][c]);
        let theirs = got["classes"].as_object().unwrap().keys().map(|c| &got["classes"][c]);
        let means = classes.chain([&want["mean"]]).zip(theirs.chain([&got["mean"]]));
        for ((of, with), kind) in means.flat_map(|m| [(m, "image"), (m, "pixel")]) {
            let area = |v: &Value| v[kind]["auroc"].as_f64().unwrap();
            let (x, y) = (area(of), area(with));
            println!("{kind} AUROC of {} pictures: {x:.5} on the CPU, {y:.5} in {precision}", of["images"]);
            assert!((x - y).abs() <= 0.002, "{kind}: {x} on the CPU, {y} in {precision}");
        }
    }
}

#[test]
fn areas_under_the_curve_are_the_cpus() {
    if !built() {
        return;
    }
    let place = Place::new();
    for i in 0..8 {
        save(&place.path(&format!("data/bolt/test/good/more{i}.png")), &picture(17 + i, false));
        save(&place.path(&format!("data/bolt/test/cut/more{i}.png")), &picture(17 + i, true));
        save(&place.path(&format!("data/bolt/ground_truth/cut/more{i}_mask.png")), &mask());
    }
    let encoder = Config { trained: false, ..models::config("mini") };
    models::file(&encoder).write(place.path("mini.safetensors")).unwrap();
    place.train("--backbone mini.safetensors --iterations 150 --out trained.safetensors").ok();
    areas_are_the_cpus(&place, "trained.safetensors", "data");
}

/// The demonstration whole: its training takes minutes.
#[test]
fn areas_of_the_demonstration_are_the_cpus() {
    if !support::full() || !built() {
        return println!("SKIPPED: training the demonstration, which tools/check.sh --full does");
    }
    let place = Place::new();
    place.run("demo --device cpu --precision f32 --quiet").ok();
    areas_are_the_cpus(&place, "demo/model.safetensors", "demo/data");
}
