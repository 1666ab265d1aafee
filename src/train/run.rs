//! The training loop: batches in a seeded order, a checkpoint every epoch, a clean stop on request.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::model::Config;
use crate::model::params::Trained;
use crate::runtime::Cpu;
use crate::train::checkpoint;
use crate::train::features::FeatureStore;
use crate::train::init::{self, Rng};
use crate::train::schedule::{Schedule, WARMUP};
use crate::train::step::{self, Optimizer};

/// What a run does, besides its data and its encoder.
#[derive(Clone, Debug)]
pub struct Options {
    /// Passes over the data.
    pub epochs: u64,
    /// Sets the number of iterations Tt; otherwise epochs × steps.
    pub iterations: Option<u64>,
    /// Least number of iterations when `iterations` is not given (own folders: 1000).
    pub min_iterations: u64,
    /// Warm-up is at most a tenth of the run (own folders); the published 100 otherwise.
    pub short_warmup: bool,
    /// Images a step; fewer images than that make the batch smaller.
    pub batch_size: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Of the initial weights and of the order of images.
    pub seed: u64,
    /// Form of the trained part.
    pub path: step::Path,
    /// Prototypes P.
    pub prototypes: usize,
    /// File of the checkpoints; `None` writes none.
    pub checkpoint: Option<PathBuf>,
    /// Continue from the checkpoint.
    pub resume: Option<PathBuf>,
}

impl Default for Options {
    /// The published setting.
    fn default() -> Self {
        Self {
            epochs: 200,
            iterations: None,
            min_iterations: 0,
            short_warmup: false,
            batch_size: 16,
            lr: 1e-3,
            seed: 1,
            path: step::Path::Folds,
            prototypes: 6,
            checkpoint: None,
            resume: None,
        }
    }
}

/// The run's length, worked out from the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Length {
    /// Images a step.
    pub batch: usize,
    /// Steps of an epoch (the last, incomplete batch is dropped).
    pub steps: u64,
    /// Learning rate of every iteration.
    pub schedule: Schedule,
}

impl Options {
    /// Batch, steps an epoch and schedule for `images` training images.
    pub fn length(&self, images: usize) -> Result<Length> {
        if images == 0 || self.batch_size == 0 {
            return Err(Error::usage("training needs at least one image and a batch of at least one"));
        }
        let batch = self.batch_size.min(images);
        let steps = (images / batch) as u64;
        let total = self.iterations.unwrap_or(self.epochs.saturating_mul(steps).max(self.min_iterations));
        if total == 0 {
            return Err(Error::usage("no iteration to make: give --epochs or --iterations of at least 1"));
        }
        let warmup = if self.short_warmup { WARMUP.min(total / 10) } else { WARMUP };
        Ok(Length { batch, steps, schedule: Schedule { base: self.lr, total, warmup } })
    }
}

/// What is known after each iteration.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Iterations made.
    pub iteration: u64,
    /// Iterations to be made in all.
    pub total: u64,
    /// 0-based.
    pub epoch: u64,
    /// Rate that the step was made with.
    pub lr: f64,
    /// `loss_cos + 0.2·g_loss`.
    pub loss: f64,
    /// Reconstruction loss.
    pub loss_cos: f64,
    /// Coherence loss.
    pub g_loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Images in the step.
    pub images: usize,
}

/// How a run ended.
pub enum Outcome {
    /// The configuration of the whole model, where it came from included, and its trained part.
    Finished(Box<(Config, Trained)>),
    /// Stopped on request; the checkpoint holds the state.
    Stopped {
        /// Iterations made.
        iteration: u64,
    },
}

/// Trains on the features of `store`. `observe` sees every iteration; when it breaks,
/// the state is saved and the run stops. `note` gets sentences for the user.
pub fn train(
    cpu: &Cpu,
    store: &mut FeatureStore,
    options: &Options,
    mut note: impl FnMut(String),
    mut observe: impl FnMut(&Report) -> ControlFlow<()>,
) -> Result<Outcome> {
    let mut cfg = init::plan(store.config(), options.prototypes);
    let images = store.len();
    let Length { batch, steps, schedule } = options.length(images)?;
    if batch < options.batch_size {
        note(format!(
            "only {images} training images: the batch is {batch} instead of {}",
            options.batch_size
        ));
    }
    if schedule.total <= schedule.warmup {
        note(format!(
            "{} iterations end within the warm-up of {}: the learning rate never peaks",
            schedule.total, schedule.warmup
        ));
    }
    let settings = settings(cpu, &cfg, store, options, batch, &schedule);
    let (mut p, mut opt) = match &options.resume {
        Some(path) => checkpoint::load(path, &cfg, &settings)?,
        None => (init::init(&cfg, options.seed)?, Optimizer::new(&cfg)),
    };
    let mut saver = Saver { path: options.checkpoint.as_deref(), last: None, cost: 0.0 };
    let mut order = Vec::new();
    while opt.steps < schedule.total {
        let i = opt.steps;
        let (epoch, k) = (i / steps, (i % steps) as usize);
        if k == 0 || order.is_empty() {
            order = (0..images).collect::<Vec<_>>();
            Rng(options.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (epoch + 1)).shuffle(&mut order);
        }
        let features = store.batch(&order[k * batch..(k + 1) * batch])?;
        let g = step::gradients(cpu, &p, &cfg, &features, options.path)?;
        let lr = schedule.lr(i);
        let grad_norm = opt.step(cpu, &mut p, &g.grads, lr)?;
        let report = Report {
            iteration: i + 1,
            total: schedule.total,
            epoch,
            lr,
            loss: g.loss,
            loss_cos: g.loss_cos,
            g_loss: g.g_loss,
            grad_norm,
            images: batch,
        };
        let stop = observe(&report).is_break();
        if stop || (k as u64 + 1 == steps && opt.steps < schedule.total) {
            saver.save(stop, &cfg, &p, &opt, &settings)?;
        }
        if stop {
            return Ok(Outcome::Stopped { iteration: i + 1 });
        }
    }
    let provenance = json!({
        "made_by": concat!("inp-former ", env!("CARGO_PKG_VERSION")),
        "images": images, "iterations": schedule.total, "batch_size": options.batch_size, "lr": options.lr,
        "seed": options.seed,
    });
    cfg.other.insert("training".into(), provenance);
    Ok(Outcome::Finished(Box::new((cfg, p))))
}

/// Everything that must be equal for a resumed run to be the same run.
fn settings(
    cpu: &Cpu,
    cfg: &Config,
    store: &FeatureStore,
    o: &Options,
    batch: usize,
    s: &Schedule,
) -> Map<String, Value> {
    let value = json!({
        "images": store.len(), "features": store.fingerprint(), "batch": batch, "iterations": s.total,
        "warmup": s.warmup, "lr": s.base, "seed": o.seed, "prototypes": cfg.prototypes,
        "decoder_blocks": cfg.decoder_blocks, "path": o.path.name(),
        "precision": if cpu.is_narrow() { "bf16" } else { "f32" },
    });
    value.as_object().expect("made as an object").clone()
}

/// Writes checkpoints, but spends at most about a twentieth of the time on them: short epochs of a large model would
/// otherwise write more than they train.
struct Saver<'a> {
    path: Option<&'a Path>,
    last: Option<Instant>,
    cost: f64,
}

impl Saver<'_> {
    fn save(
        &mut self,
        must: bool,
        cfg: &Config,
        p: &Trained,
        opt: &Optimizer,
        settings: &Map<String, Value>,
    ) -> Result<()> {
        let Some(path) = self.path else { return Ok(()) };
        if !must && self.last.is_some_and(|t| t.elapsed().as_secs_f64() < 20.0 * self.cost) {
            return Ok(());
        }
        let start = Instant::now();
        checkpoint::save(path, cfg, p, opt, settings)?;
        self.cost = start.elapsed().as_secs_f64();
        self.last = Some(Instant::now());
        Ok(())
    }
}
