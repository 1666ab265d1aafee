//! The program itself, run as a user runs it: on pictures of 64 pixels, with a backbone of 64 channels.

mod bench;
mod calibrate;
mod convert;
mod cuda;
mod errors;
mod eval;
mod outputs;
mod quantise;
#[cfg(unix)]
mod resume;
mod score;
mod trace;
mod train;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use image::{Rgb, RgbImage};
use inp_former::model::Config;
use inp_former::runtime::Cpu;
use serde_json::Value;
use tempfile::TempDir;

use crate::{models, support};

/// What a run left behind.
pub struct Ran {
    code: Option<i32>,
    /// The code, or the signal that killed it, in words.
    status: std::process::ExitStatus,
    out: String,
    err: String,
}

impl Ran {
    fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert!(!err.contains("panicked"), "{err}");
        Self { code: output.status.code(), status: output.status, out, err }
    }

    /// Checks the exit code and that stderr says `said`.
    #[track_caller]
    fn ended(self, code: i32, said: &str) -> Self {
        let (out, err) = (&self.out, &self.err);
        assert!(
            self.code == Some(code) && err.contains(said),
            "{}, not {code}, or `{said}` not said:\n{err}\n{out}",
            self.status
        );
        self
    }

    #[track_caller]
    fn ok(self) -> Self {
        self.ended(0, "")
    }

    /// Each line of stdout as JSON.
    fn records(&self) -> Vec<Value> {
        self.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

/// What `--precision auto` is on this CPU.
fn auto() -> &'static str {
    if Cpu::new(None).unwrap().has_bf16() { "bf16" } else { "f32" }
}

/// A folder to work in. `data` is a data set of two classes; `backbone.safetensors` an encoder.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        for (c, class) in ["bolt", "nut"].into_iter().enumerate() {
            let at = |below: &str| place.path(&format!("data/{class}/{below}"));
            (0..3).for_each(|i| save(&at(&format!("train/good/{i}.png")), &picture(10 * c + i, false)));
            for i in 0..2 {
                save(&at(&format!("test/good/{i}.png")), &picture(10 * c + 3 + i, false));
                save(&at(&format!("test/cut/{i}.png")), &picture(10 * c + 5 + i, true));
                save(&at(&format!("ground_truth/cut/{i}_mask.png")), &mask());
            }
        }
        let encoder = Config { trained: false, ..models::config("tiny") };
        models::file(&encoder).write(place.path("backbone.safetensors")).unwrap();
        place
    }

    /// With `model.safetensors`, trained on `data`.
    fn with_model() -> Self {
        static MODEL: OnceLock<Vec<u8>> = OnceLock::new();
        let place = Self::new();
        let bytes = MODEL.get_or_init(|| {
            place.train("--iterations 150 --out model.safetensors").ok();
            place.bytes("model.safetensors")
        });
        std::fs::write(place.path("model.safetensors"), bytes).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    #[track_caller]
    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).unwrap()
    }

    /// The program in this folder; `args` are separated by spaces.
    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inp-former"));
        command.args(args.split_whitespace()).current_dir(self.dir.path()).env_remove("INP_BACKBONES");
        command
    }

    fn run(&self, args: &str) -> Ran {
        Ran::new(self.command(args).output().unwrap())
    }

    /// As [`Place::run`], with `input` on standard input.
    fn feed(&self, args: &str, input: &str) -> Ran {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ran::new(child.wait_with_output().unwrap())
    }

    /// Trains on `data`, unless `args` name something else.
    fn train(&self, args: &str) -> Ran {
        self.run(&training(args))
    }

    /// Sorted names of the files below a folder, with `/`; none where there is no folder.
    fn files(&self, folder: &str) -> Vec<String> {
        let pattern = self.path(folder).join("**/*");
        let found = glob::glob(pattern.to_str().unwrap()).unwrap().flatten().filter(|p| p.is_file());
        let below =
            |p: PathBuf| p.strip_prefix(self.path(folder)).unwrap().to_str().unwrap().replace('\\', "/");
        found.map(below).collect()
    }
}

/// The arguments of a small training run.
fn training(args: &str) -> String {
    let data = if args.contains("--data") { "" } else { "--data data" };
    let backbone = if args.contains("--backbone") { "" } else { "--backbone backbone.safetensors" };
    format!("train {data} {backbone} --resize 64 --crop 56 {args}")
}

/// A chequered part under noise, with or without a red spot.
fn picture(seed: usize, defect: bool) -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| {
        if defect && spot(x, y) {
            return Rgb([230, 20, 20]);
        }
        let noise = support::s_value("picture", seed * 64 * 64 + (y * 64 + x) as usize).rem_euclid(16) as u8;
        let v = 90 + 60 * ((x / 8 + y / 8) % 2) as u8 + noise;
        Rgb([v, v, v + seed as u8])
    })
}

fn mask() -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| Rgb([if spot(x, y) { 255 } else { 0 }; 3]))
}

fn spot(x: u32, y: u32) -> bool {
    (20..40).contains(&x) && (24..44).contains(&y)
}

fn save(path: &Path, picture: &RgbImage) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    picture.save(path).unwrap();
}

/// The keys of a JSON object, in order.
fn keys(v: &Value) -> Vec<&str> {
    v.as_object().unwrap().keys().map(String::as_str).collect()
}
