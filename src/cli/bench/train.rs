//! `bench --train`: how long a training step takes, the encoder's part apart from the rest.

use std::io::BufRead;
use std::time::Instant;

use clap::ValueEnum;
use inp_former::engine::Encoder;
use inp_former::error::IoContext;
use inp_former::model::encoder::Features;
use inp_former::model::params::Trained;
use inp_former::model::{Config, Model};
use inp_former::ops::preprocess::{self, Cropper, ImageView};
use inp_former::runtime::{Cpu, Tensor};
use inp_former::train::Backbone;
use inp_former::train::step::{self, Optimizer, Path};
use inp_former::{Error, Result};
use serde_json::json;

use super::Stats;
use crate::cli::print;
use crate::cli::subject::{HEIGHT, WIDTH, frame};

/// Where a step's features come from.
#[derive(ValueEnum, Clone, Copy, PartialEq)]
pub enum Source {
    /// The encoder runs in every step.
    Fresh,
    /// Kept from before.
    Cached,
}

/// A training that repeats its first batch.
pub struct Training {
    cpu: Cpu,
    config: Config,
    encoder: Encoder,
    source: Source,
    path: Path,
    trained: Trained,
    optimizer: Optimizer,
    pictures: Vec<Tensor>,
    features: Features,
}

/// One step: milliseconds of the encoder, of the gradients and of the update, and the loss.
struct Step {
    encoder: f64,
    gradients: f64,
    update: f64,
    loss: f64,
}

impl Training {
    /// `input`, `(B, 3, X, X)` and normalised, or `batch` times the bench's frame.
    pub fn new(
        cpu: Cpu,
        model: Model,
        batch: usize,
        input: Option<Tensor>,
        source: Source,
        path: Path,
    ) -> Result<Self> {
        let (x, config, trained) = (model.config.crop, model.config.clone(), model.trained()?.clone());
        let pictures = match input {
            Some(t) if t.shape()[1..] == [3, x, x] => {
                (0..t.shape()[0]).map(|i| Tensor::new(&[3, x, x], t.slab(i).to_vec())).collect()
            }
            Some(t) => return Err(Error::usage(format!("`input` is {:?}, not (B, 3, {x}, {x})", t.shape()))),
            None => {
                let (pixels, mut crop) = (frame(), vec![0; 3 * x * x]);
                let view = ImageView::rgb(&pixels, WIDTH, HEIGHT)?;
                Cropper::new(config.resize, x)?.run(&cpu, &view, &mut crop)?;
                vec![preprocess::normalise(&crop, x, x); batch]
            }
        };
        let encoder = Backbone::new(&cpu, model)?.encoder();
        let (optimizer, features) = (Optimizer::new(&config), Features { groups: Vec::new() });
        let mut new = Self { cpu, config, encoder, source, path, trained, optimizer, pictures, features };
        new.encode()?;
        Ok(new)
    }

    fn encode(&mut self) -> Result<()> {
        let cfg = &self.config;
        let (b, n, c) = (self.pictures.len(), cfg.side().pow(2), cfg.channels);
        let mut groups = vec![Vec::with_capacity(b * n * c); cfg.groups.len()];
        for picture in &self.pictures {
            let mut all = groups.iter_mut();
            let group = |f: &[f32]| all.next().expect("as many groups").extend_from_slice(f);
            self.encoder.each_group(&picture.data, group)?;
        }
        self.features = Features { groups: groups.into_iter().map(|g| Tensor::new(&[b, n, c], g)).collect() };
        Ok(())
    }

    fn step(&mut self) -> Result<Step> {
        let start = Instant::now();
        let mut last = start;
        let mut lap = || {
            let ms = last.elapsed().as_secs_f64() * 1e3;
            last = Instant::now();
            ms
        };
        if self.source == Source::Fresh {
            self.encode()?;
        }
        let encoder = lap();
        let g = step::gradients(&self.cpu, &self.trained, &self.config, &self.features, self.path)?;
        let gradients = lap();
        self.optimizer.step(&self.cpu, &mut self.trained, &g.grads, 1e-4)?;
        Ok(Step { encoder, gradients, update: lap(), loss: g.loss })
    }

    /// A step for each line on standard input: its milliseconds and the loss that it found.
    pub fn serve(&mut self) -> Result<()> {
        for line in std::io::stdin().lock().lines() {
            line.at("stdin", "read the next line")?;
            let s = self.step()?;
            print(&format!("{:.4} {}\n", s.encoder + s.gradients + s.update, s.loss))?;
        }
        Ok(())
    }

    /// `iters` steps after `warmup`, as JSON.
    pub fn measure(&mut self, name: &str, warmup: u32, iters: u32) -> Result<String> {
        for _ in 0..warmup {
            self.step()?;
        }
        let steps: Vec<Step> = (0..iters).map(|_| self.step()).collect::<Result<_>>()?;
        let stats = |f: &dyn Fn(&Step) -> f64| Stats::of(&mut steps.iter().map(f).collect::<Vec<_>>());
        let all = stats(&|s| s.encoder + s.gradients + s.update);
        let middle = |f: &dyn Fn(&Step) -> f64| stats(f).p50;
        let batch = self.pictures.len();
        let v = json!({
            "model": name, "train": if self.source == Source::Fresh { "fresh" } else { "cached" },
            "path": self.path.name(), "crop": self.config.crop, "simd": self.cpu.tier().name(),
            "threads": self.cpu.threads(), "precision": if self.cpu.is_narrow() { "bf16" } else { "f32" }, "batch": batch, "iters": iters,
            "ms": all.json(), "ms_per_image": all.p50 / batch as f64,
            "stages": {
                "encoder": middle(&|s| s.encoder), "gradients": middle(&|s| s.gradients),
                "update": middle(&|s| s.update),
            },
            "loss": steps.last().map(|s| s.loss), "version": env!("CARGO_PKG_VERSION"),
        });
        Ok(format!("{v:#}\n"))
    }
}
