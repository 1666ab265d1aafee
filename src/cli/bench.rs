//! `bench`: how long a frame takes from its pixels to its score, stage by stage; or a training step.

mod train;

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use inp_former::Result;
use inp_former::data::{image, prefetch};
use inp_former::engine::score::TOP;
use inp_former::engine::{Options, Precision, Scorer, Verdict};
use inp_former::error::IoContext;
use inp_former::fs::write_atomic;
use inp_former::model::config::PATCH;
use inp_former::model::{Config, Model, inp_former as net};
use inp_former::ops::anomaly_map;
use inp_former::ops::preprocess::{self, Cropper, ImageView};
use inp_former::runtime::{Cpu, Tensor};
use inp_former::train::step;
use serde_json::{Map, Value, json};

use super::device::Place;
use super::subject::{HEIGHT, Subject, WIDTH, frame};
use super::{Common, Done, inputs, print};
use train::{Source, Training};

#[derive(Args)]
pub struct Bench {
    #[command(flatten)]
    subject: Subject,
    /// Pictures a call
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Calls to measure [default: 10 to 1000, what fits in ten seconds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    iters: Option<u32>,
    /// Calls before measuring
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: u32,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also measure from this file, decoding included
    #[arg(long, value_name = "PICTURE")]
    file: Option<PathBuf>,
    /// Run a call for each line on standard input and print its milliseconds
    #[arg(long, conflicts_with_all = ["iters", "json", "file"])]
    serve: bool,
    /// The fast scorer, or the plain model that it is checked against; of a training, its exact folds or the plain form
    #[arg(long, value_enum, default_value = "engine")]
    path: Path,
    /// Measure training steps instead, on one batch: with the encoder in each, or on kept features
    #[arg(long, value_enum, conflicts_with = "file")]
    train: Option<Source>,
    /// Normalised pictures of --train: a safetensors file with `input` (B, 3, X, X), instead of --batch frames
    #[arg(long, value_name = "FILE", requires = "train")]
    input: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy)]
enum Path {
    Engine,
    Model,
}

/// Called with a stage's name as it ends.
type Stage<'a> = &'a mut dyn FnMut(&'static str);

impl Bench {
    pub fn run(self, common: &Common) -> Result<Done> {
        if let Some(source) = self.train {
            return self.training(common, source);
        }
        let mut place = match self.path {
            Path::Engine => common.place()?,
            Path::Model => {
                let cpu = common.cpu()?;
                Place::on_cpu(cpu, Precision::F32)
            }
        };
        let cpu = place.cpu.clone();
        if place.is_emulated() {
            common.warn("times on the emulated GPU are the emulator's own, on this processor: they say nothing of a GPU");
        }
        if let Some(path) = &self.json {
            inputs::make_parent(path)?;
        }
        let decode = |path: &PathBuf| image::decode(path, &image::Limits::default());
        let first = self.file.as_ref().map(decode).transpose()?;
        let model = self.subject.open(common)?;
        let cfg = model.config.clone();
        let mut runner = match self.path {
            Path::Engine => Runner::Engine(Box::new(place.scorer(common, model, Options::default())?)),
            Path::Model => Runner::Plain(Box::new(Plain::new(model, cpu.clone())?)),
        };
        let batch = usize::from(self.batch);
        let pixels = frame();
        let frames = vec![ImageView::rgb(&pixels, WIDTH, HEIGHT)?; batch];
        let mut clock = Clock::new(batch);
        let mut fastest = f64::INFINITY;
        for _ in 0..self.warmup.max(u32::from(self.iters.is_none() && !self.serve)) {
            fastest = fastest.min(clock.call(&mut runner, &frames)?);
        }
        if self.serve {
            for line in std::io::stdin().lock().lines() {
                line.at("stdin", "read the next line")?;
                print(&format!("{:.4}\n", clock.call(&mut runner, &frames)?))?;
            }
            return Ok(Done::All);
        }
        let iters = self.iters.unwrap_or_else(|| (1e4 / fastest).clamp(10.0, 1000.0) as u32);
        let bar = common.bar(iters as usize, "measuring");
        let mut times = Vec::with_capacity(iters as usize);
        clock.stages.clear();
        for _ in 0..iters {
            times.push(clock.call(&mut runner, &frames)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let ms = Stats::of(&mut times);

        let mut stages = std::mem::take(&mut clock.stages);
        stages.iter_mut().for_each(|s| s.1 /= f64::from(iters));

        let from_file = match (&self.file, first) {
            (Some(path), Some(first)) => {
                // The first frame of another size makes the filter's coefficients anew.
                clock.call(&mut runner, &[view(&first)?])?;
                // As `score` reads a folder.
                let (mut times, mut scoring, mut start) = (Vec::new(), 0.0, Instant::now());
                let (limits, mut pictures) = (image::Limits::default(), Vec::with_capacity(batch));
                let files = vec![path; iters as usize * batch];
                let read = |_: usize, path: &PathBuf| image::read(path, &limits);
                let load = |_: usize, bytes: Result<Vec<u8>>| image::decode_bytes(path, &bytes?, &limits);
                prefetch::staged(&cpu, files, None, read, load, |_, picture| {
                    pictures.push(picture?);
                    if pictures.len() == batch {
                        let frames = pictures.iter().map(view).collect::<Result<Vec<_>>>()?;
                        scoring += clock.call(&mut runner, &frames)?;
                        pictures.clear();
                        times.push(start.elapsed().as_secs_f64() * 1e3);
                        start = Instant::now();
                    }
                    Ok::<(), inp_former::Error>(())
                })?;
                let all: f64 = times.iter().sum();
                Some((Stats::of(&mut times), all / scoring - 1.0))
            }
            _ => None,
        };
        let (precision, launches) = match &mut runner {
            Runner::Engine(s) => (s.precision(), s.launches(&frames[0], batch)?),
            Runner::Plain(_) => ("f32", None),
        };
        let report = Report {
            name: self.subject.name(),
            path: if matches!(self.path, Path::Engine) { "engine" } else { "model" },
            cfg,
            device: place.name(),
            precision,
            launches,
            cpu,
            batch,
            iters,
            ms,
            stages,
            from_file,
        };
        let json = format!("{:#}\n", report.json());
        if let Some(path) = &self.json {
            write_atomic(path, json.as_bytes())?;
        }
        print(&if std::io::stdout().is_terminal() { report.table() } else { json })?;
        Ok(Done::All)
    }
}

impl Bench {
    fn training(&self, common: &Common, source: Source) -> Result<Done> {
        if let Some(path) = &self.json {
            inputs::make_parent(path)?;
        }
        let (cpu, model) = (common.training_cpu()?, self.subject.open(common)?);
        let input = self.input.as_ref().map(|path| inputs::tensor(path)).transpose()?;
        let form = match self.path {
            Path::Engine => step::Path::Folds,
            Path::Model => step::Path::Plain,
        };
        let mut training = Training::new(cpu, model, self.batch.into(), input, source, form)?;
        if self.serve {
            training.serve()?;
            return Ok(Done::All);
        }
        let json = training.measure(&self.subject.name(), self.warmup, self.iters.unwrap_or(10))?;
        if let Some(path) = &self.json {
            write_atomic(path, json.as_bytes())?;
        }
        print(&json)?;
        Ok(Done::All)
    }
}

fn view(p: &image::Picture) -> Result<ImageView<'_>> {
    ImageView::rgb(&p.rgb, p.width, p.height)
}

/// What is measured.
enum Runner {
    Engine(Box<Scorer>),
    Plain(Box<Plain>),
}

impl Runner {
    fn batch(&mut self, frames: &[ImageView], verdicts: &mut [Verdict], stage: Stage) -> Result<()> {
        match self {
            Self::Engine(scorer) => scorer.score_batch_timed(frames, verdicts, stage),
            Self::Plain(plain) => plain.batch(frames, verdicts, stage),
        }
    }
}

/// Times calls, and in the same calls their stages: it is read some dozens of times a picture, which takes microseconds.
struct Clock {
    verdicts: Vec<Verdict>,
    /// Milliseconds of all calls, in order; together they are the whole.
    stages: Vec<(&'static str, f64)>,
}

impl Clock {
    fn new(batch: usize) -> Self {
        Self { verdicts: vec![Verdict::default(); batch], stages: Vec::new() }
    }
    /// Milliseconds.
    fn call(&mut self, runner: &mut Runner, frames: &[ImageView]) -> Result<f64> {
        let Self { verdicts, stages } = self;
        let start = Instant::now();
        let mut last = start;
        let mut stage = |name| {
            let now = Instant::now();
            let ms = (now - last).as_secs_f64() * 1e3;
            match stages.iter_mut().find(|s| s.0 == name) {
                Some(s) => s.1 += ms,
                None => stages.push((name, ms)),
            }
            last = now;
        };
        runner.batch(frames, &mut verdicts[..frames.len()], &mut stage)?;
        // What follows the last picture's last stage.
        stage("rest");
        Ok((last - start).as_secs_f64() * 1e3)
    }
}

/// The plain model from pixels to score.
struct Plain {
    cpu: Cpu,
    model: Model,
    cropper: Cropper,
}

impl Plain {
    fn new(model: Model, cpu: Cpu) -> Result<Self> {
        let cropper = Cropper::new(model.config.resize, model.config.crop)?;
        Ok(Self { cpu, model, cropper })
    }
    fn batch(&mut self, frames: &[ImageView], verdicts: &mut [Verdict], stage: Stage) -> Result<()> {
        let x = self.model.config.crop;
        let (mut crop, mut img) = (vec![0; 3 * x * x], Tensor::zeros(&[frames.len(), 3, x, x]));
        for (frame, img) in frames.iter().zip(img.data.chunks_exact_mut(3 * x * x)) {
            self.cropper.run(&self.cpu, frame, &mut crop)?;
            preprocess::normalise_into(&crop, img);
        }
        stage("crop");
        let maps = net::maps(&self.cpu, &self.model, &img, false, &mut |name, _| match name {
            "enc.tokens" => stage("patches"),
            "fused" => stage("encoder"),
            "inp" => stage("extractor"),
            "bottleneck" => stage("bottleneck"),
            _ if name.starts_with("dec") => stage("decoder"),
            _ => {}
        })?;
        stage("map");
        for (i, v) in verdicts.iter_mut().enumerate() {
            v.score = anomaly_map::score(maps.gauss.slab(i), TOP)?;
        }
        stage("score");
        Ok(())
    }
}

/// Of milliseconds a call; percentiles are interpolated between the two nearest calls.
struct Stats {
    min: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
    stddev: f64,
}

impl Stats {
    fn of(ms: &mut [f64]) -> Self {
        ms.sort_unstable_by(f64::total_cmp);
        let last = ms.len() - 1;
        let mean = ms.iter().sum::<f64>() / ms.len() as f64;
        let var = ms.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / ms.len() as f64;
        let at = |q: f64| {
            let (i, t) = ((q * last as f64) as usize, (q * last as f64).fract());
            ms[i] + t * (ms[(i + 1).min(last)] - ms[i])
        };
        Self {
            min: ms[0],
            mean,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: ms[last],
            stddev: var.sqrt(),
        }
    }
    fn json(&self) -> Value {
        json!({
            "min": self.min, "mean": self.mean, "median": self.p50, "p50": self.p50, "p90": self.p90,
            "p99": self.p99, "p999": self.p999, "max": self.max, "stddev": self.stddev,
        })
    }
    fn row(&self) -> [f64; 8] {
        [self.min, self.mean, self.p50, self.p90, self.p99, self.p999, self.max, self.stddev]
    }
}

struct Report {
    name: String,
    path: &'static str,
    cfg: Config,
    device: String,
    precision: &'static str,
    /// Kernels of a call, on a GPU.
    launches: Option<usize>,
    cpu: Cpu,
    batch: usize,
    iters: u32,
    ms: Stats,
    stages: Vec<(&'static str, f64)>,
    /// From file, and what decoding adds to scoring.
    from_file: Option<(Stats, f64)>,
}

impl Report {
    fn images_per_s(&self) -> f64 {
        1e3 * self.batch as f64 / self.ms.mean
    }
    fn gflop_per_s(&self, stage: &str, ms: f64) -> Option<f64> {
        let flop = if self.path == "engine" { flop(&self.cfg, stage) } else { None };
        flop.map(|f| f * self.batch as f64 / ms / 1e6)
    }

    fn json(&self) -> Value {
        let stages: Map<String, Value> =
            self.stages.iter().map(|(n, ms)| (n.to_string(), json!(ms))).collect();
        let rate = |(n, ms): &(&str, f64)| self.gflop_per_s(n, *ms).map(|r| (n.to_string(), json!(r)));
        let rates: Map<String, Value> = self.stages.iter().filter_map(rate).collect();
        let file = self.from_file.as_ref().map(|(stats, share)| {
            let mut v = stats.json();
            v["decoding_adds"] = json!(share);
            v
        });
        json!({
            "model": self.name, "path": self.path, "crop": self.cfg.crop, "device": self.device,
            "simd": self.cpu.tier().name(), "threads": self.cpu.threads(), "precision": self.precision,
            "launches": self.launches, "batch": self.batch,
            "iters": self.iters, "ms": self.ms.json(), "ms_per_image": self.ms.p50 / self.batch as f64,
            "images_per_s": self.images_per_s(), "stages": stages, "gflop_per_s": rates, "file_ms": file,
            "version": env!("CARGO_PKG_VERSION"),
        })
    }

    fn table(&self) -> String {
        let mut ms = Table::new();
        ms.load_preset(presets::UTF8_BORDERS_ONLY);
        ms.set_header(["ms a call", "min", "mean", "p50", "p90", "p99", "p99.9", "max", "deviation"]);
        let mut row = |name: &str, s: &Stats| {
            ms.add_row(std::iter::once(name.to_string()).chain(s.row().map(|x| format!("{x:.2}"))));
        };
        row("from the frame", &self.ms);
        if let Some((stats, _)) = &self.from_file {
            row("from the file", stats);
        }
        let mut stages = Table::new();
        stages.load_preset(presets::UTF8_BORDERS_ONLY);
        stages.set_header(["stage", "mean ms", "%", "GFLOP/s"]);
        for (name, ms) in &self.stages {
            let rate = self.gflop_per_s(name, *ms).map_or_else(String::new, |r| format!("{r:.0}"));
            stages.add_row([
                name.to_string(),
                format!("{ms:.3}"),
                format!("{:.1}", 100.0 * ms / self.ms.mean),
                rate,
            ]);
        }
        for table in [&mut ms, &mut stages] {
            table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
        }
        let file = self.from_file.as_ref().map_or_else(String::new, |(_, share)| {
            format!("decoding the file adds {:.1} % to scoring its picture\n", 100.0 * share)
        });
        format!(
            "{} ({} px) through the {} on {}, {}, {} threads, {}{}; {} calls of {}\n{ms}\n{:.1} images/s, {:.2} ms an \
             image; jitter: deviation {:.2} ms, max - min {:.2} ms\n{file}{stages}\n",
            self.name,
            self.cfg.crop,
            self.path,
            self.device,
            self.cpu.tier().name(),
            self.cpu.threads(),
            self.precision,
            self.launches.map_or_else(String::new, |n| format!(", {n} launches")),
            self.iters,
            if self.batch == 1 { "one picture".into() } else { format!("{} pictures", self.batch) },
            self.images_per_s(),
            self.ms.p50 / self.batch as f64,
            self.ms.stddev,
            self.ms.max - self.ms.min,
        )
    }
}

/// Floating-point operations that the engine does in a stage of one picture, a multiply-add being two: the matrix
/// products. `None` for what is bound by something else.
fn flop(cfg: &Config, stage: &str) -> Option<f64> {
    let (c, n, p, hidden) = (cfg.channels, cfg.side().pow(2), cfg.prototypes, cfg.hidden);
    let (t, hp, blocks, decoders) = (n + cfg.prefix(), cfg.heads * p, cfg.blocks(), cfg.decoder_blocks);
    // Only patches leave the last encoder block.
    let rows = blocks * t - cfg.prefix();
    let multiply_adds = match stage {
        "patches" => n * 3 * PATCH * PATCH * c,
        "qkv" => blocks * t * c * 3 * c,
        "attention" => 2 * rows * t * c,
        "proj" => rows * c * c,
        "fc1" | "fc2" => rows * c * hidden,
        "extractor" => 2 * n * hp * c + p * c * (2 * c + 8 * c),
        // Keys and values; VW, its centred twin and VA; the Gram matrix.
        "factors" => decoders * (p * c * 2 * c + p * c * 6 * c + hp * hp * c),
        "bottleneck" => 8 * n * c * c,
        "decoder q" => decoders * n * (c * c + p * c + hp * hp),
        "decoder fc1" => decoders * n * hp * 4 * c,
        "decoder fc2" => decoders * n * (4 * c + hp) * c,
        _ => return None,
    };
    Some(2.0 * multiply_adds as f64)
}
