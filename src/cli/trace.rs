//! `trace`: named activations, loss, gradients and optimiser steps of the plain model, as float32 safetensors.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use inp_former::data::image::{self, Limits};
use inp_former::engine::score::MAP_SIDE;
use inp_former::engine::{Options, Scorer, Verdict};
use inp_former::model::config::PATCH;
use inp_former::model::encoder::{self, Features};
use inp_former::model::params::Trained;
use inp_former::model::{Model, inp_former as net};
use inp_former::ops::{anomaly_map, optimizer, preprocess};
use inp_former::runtime::weights::{RawTensor, WeightFile};
use inp_former::runtime::{Cpu, Tensor};
use inp_former::train::schedule::Schedule;
use inp_former::train::step::{self, MAX_NORM, Optimizer};
use inp_former::{Error, Result};

use super::device::Place;
use super::subject::Subject;
use super::{Common, Done};

#[derive(Args)]
pub struct Trace {
    #[command(flatten)]
    subject: Subject,
    /// Safetensors with `input` (B, 3, h, w), float32, normalised
    #[arg(long, value_name = "FILE", conflicts_with = "image", required_unless_present = "image")]
    input: Option<PathBuf>,
    /// A picture: decoded, resized and cropped here
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What computes: the plain model or the fast scorer
    #[arg(long, default_value = "model")]
    path: PathKind,
    /// Add the loss and the gradient of every parameter
    #[arg(long)]
    grads: bool,
    /// Make K optimiser steps on this batch; parameters after steps 1, 2 and K are written
    #[arg(long, value_name = "K", requires = "total_iters", requires = "warmup")]
    steps: Option<u64>,
    /// Length of the learning-rate schedule
    #[arg(long, value_name = "T")]
    total_iters: Option<u64>,
    /// Warm-up of the schedule
    #[arg(long, value_name = "W")]
    warmup: Option<u64>,
    /// Highest learning rate
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
}

#[derive(ValueEnum, Clone, Copy, PartialEq)]
enum PathKind {
    Model,
    Engine,
}

impl Trace {
    pub fn run(self, common: &Common) -> Result<Done> {
        let engine_at = match self.path {
            PathKind::Engine => Some(common.place()?),
            PathKind::Model => None,
        };
        // Also what follows the last layer that scoring needs.
        let model = match self.subject.file() {
            Some(path) => Model::load(WeightFile::read(path)?)?,
            None => self.subject.open(common)?,
        };
        let mut out = WeightFile { path: self.out.clone(), ..WeightFile::default() };
        let mut put = |name: &str, t: &Tensor| {
            out.tensors.insert(name.to_string(), RawTensor::from_f32(t));
        };
        let (input, crop) = self.input(&model, &mut put)?;
        if let Some(place) = engine_at {
            if self.grads || self.steps.is_some() {
                return Err(Error::usage("--grads and --steps are the plain model's; use --path model"));
            }
            engine(common, place, &model, &input, crop.as_deref(), &mut put)?;
            out.write(&self.out)?;
            common.note(format!("{} tensors: {}", out.tensors.len(), self.out.display()));
            return Ok(Done::All);
        }
        let cpu = common.cpu()?;
        let features = encoder::forward(&cpu, &model.encoder, &model.config, &input, &mut put)?;
        if model.trained.is_some() {
            activations(&cpu, &model, &features, &input, &mut put)?;
        } else {
            common.note("note: this file is an encoder alone: only its activations are written");
        }
        if self.grads {
            gradients(&cpu, &model, &features, &mut put)?;
        }
        if let (Some(k), Some(total), Some(warmup)) = (self.steps, self.total_iters, self.warmup) {
            self.make_steps(&cpu, &model, &features, k, Schedule { base: self.lr, total, warmup }, &mut put)?;
        }
        out.write(&self.out)?;
        common.note(format!("{} tensors: {}", out.tensors.len(), self.out.display()));
        Ok(Done::All)
    }

    /// The normalised input, and the crop `(X, X, 3)` that it was made from.
    fn input(&self, model: &Model, put: &mut dyn FnMut(&str, &Tensor)) -> Result<(Tensor, Option<Vec<u8>>)> {
        if let Some(path) = &self.image {
            let cfg = &model.config;
            let picture = image::decode(path, &Limits::default())?;
            let crop = picture.crop(cfg.resize, cfg.crop)?;
            let x = cfg.crop;
            put("input_u8", &Tensor::new(&[1, x, x, 3], crop.iter().map(|&b| b as f32).collect()));
            let input = preprocess::normalise(&crop, x, x).reshaped(&[1, 3, x, x]);
            put("input", &input);
            return Ok((input, Some(crop)));
        }
        let path = self.input.as_ref().expect("clap asks for one of the two");
        let input = super::inputs::tensor(path)?;
        match *input.shape() {
            [b, 3, h, w] if b > 0 && h == w && h > 0 && h % PATCH == 0 => Ok((input, None)),
            _ => Err(Error::file(
                path,
                format!("`input` is {:?}, not (B, 3, h, h) with h a multiple of 14", input.shape()),
            )),
        }
    }

    fn make_steps(
        &self,
        cpu: &Cpu,
        model: &Model,
        features: &Features,
        steps: u64,
        schedule: Schedule,
        put: &mut dyn FnMut(&str, &Tensor),
    ) -> Result<()> {
        let cfg = &model.config;
        let (mut p, mut opt) = (model.trained()?.clone(), Optimizer::new(cfg));
        for k in 1..=steps {
            let g = step::gradients(cpu, &p, cfg, features, step::Path::Plain)?;
            opt.step(cpu, &mut p, &g.grads, schedule.lr(k - 1))?;
            put(&format!("step{k}.loss"), &scalar(g.loss));
            if k <= 2 || k == steps {
                for (name, t) in Trained::<f32>::names(cfg).iter().zip(p.tensors()) {
                    put(&format!("step{k}.{name}"), t);
                }
            }
        }
        Ok(())
    }
}

/// What the fast scorer has to show: prototypes, native maps, the pixel map and its scores. Of a picture it gets the crop,
/// as in scoring: 8-bit pixels are exact in every precision, normalised ones are rounded.
fn engine(
    common: &Common,
    mut place: Place,
    model: &Model,
    input: &Tensor,
    crop: Option<&[u8]>,
    put: &mut dyn FnMut(&str, &Tensor),
) -> Result<()> {
    let [b, _, size, _] = *input.shape() else { unreachable!("inputs are (B, 3, h, h)") };
    let mut model = model.clone();
    let resize = model.config.resize.max(size);
    model.config = model.config.with_sizes(Some(resize), Some(size))?;
    let (cfg, side) = (model.config.clone(), size / PATCH);
    let mut open =
        |zero_shot| place.scorer(common, model.clone(), Options { zero_shot, ..Options::default() });
    let (mut full, mut zero) = (open(false)?, open(true)?);
    let mut rows: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let mut add = |name: &str, shape: &[usize], x: &[f32]| {
        rows.entry(name.into()).or_insert_with(|| (shape.to_vec(), Vec::new())).1.extend_from_slice(x);
    };
    let mut v = Verdict::default();
    let score = |scorer: &mut Scorer, i, v: &mut Verdict| match crop {
        Some(crop) => scorer.score_crops_into(crop, std::slice::from_mut(v)),
        None => scorer.score_tensor_into(input.slab(i), v),
    };
    for i in 0..b {
        score(&mut zero, i, &mut v)?;
        add("inp_distance", &[b, side * side], &zero.native_maps()?[0]);
        score(&mut full, i, &mut v)?;
        add("inp", &[b, cfg.prototypes, cfg.channels], full.prototypes()?);
        for (g, map) in full.native_maps()?.iter().enumerate() {
            add(&format!("amap_native{g}"), &[b, side, side], map);
        }
        add("amap_256_gauss", &[b, 1, MAP_SIDE, MAP_SIDE], &v.map);
        add("score_top1pct", &[b], &[v.score]);
        add("score_max", &[b], &[anomaly_map::score(&v.map, 0.0)?]);
    }
    rows.into_iter().for_each(|(name, (shape, data))| put(&name, &Tensor::new(&shape, data)));
    Ok(())
}

fn scalar(x: f64) -> Tensor {
    Tensor::new(&[1], vec![x as f32])
}

/// Writes every activation after the encoder.
fn activations(
    cpu: &Cpu,
    model: &Model,
    features: &Features,
    input: &Tensor,
    put: &mut dyn FnMut(&str, &Tensor),
) -> Result<()> {
    let (cfg, size) = (&model.config, input.shape()[2]);
    let (b, side) = (input.shape()[0], size / PATCH);
    let head = net::forward(cpu, model.trained()?, cfg, features, false, put)?;
    for (kind, groups) in [("en", &features.groups), ("de", &head.de)] {
        for (g, t) in groups.iter().enumerate() {
            put(&format!("{kind}{g}"), &channels_first(t, side));
        }
    }
    let native = net::native_maps(cpu, features, &head)?;
    for (g, t) in native.iter().enumerate() {
        put(&format!("amap_native{g}"), &t.clone().reshaped(&[b, side, side]));
    }
    let post = anomaly_map::post(cpu, &native, side, size)?;
    let image = |t: Tensor| {
        let [b, h, w] = *t.shape() else { unreachable!("maps are (B, h, w)") };
        t.reshaped(&[b, 1, h, w])
    };
    for (name, ratio) in [("score_top1pct", 0.01), ("score_max", 0.0)] {
        let scores = (0..b).map(|i| anomaly_map::score(post.gauss.slab(i), ratio)).collect::<Result<_>>()?;
        put(name, &Tensor::new(&[b], scores));
    }
    put("amap_crop", &image(post.crop));
    put("amap_256", &image(post.m256));
    put("amap_256_gauss", &image(post.gauss));
    Ok(())
}

fn gradients(
    cpu: &Cpu,
    model: &Model,
    features: &Features,
    put: &mut dyn FnMut(&str, &Tensor),
) -> Result<()> {
    let cfg = &model.config;
    let mut g = step::gradients(cpu, model.trained()?, cfg, features, step::Path::Plain)?;
    put("loss", &scalar(g.loss));
    put("loss_cos", &scalar(g.loss_cos));
    let names = Trained::<f32>::names(cfg);
    for (name, t) in names.iter().zip(g.grads.tensors()) {
        put(&format!("grad.{name}"), t);
    }
    let norm = optimizer::clip(cpu, &mut g.grads.tensors_mut(), MAX_NORM);
    put("grad_norm", &scalar(norm));
    for (name, t) in names.iter().zip(g.grads.tensors()) {
        put(&format!("clipped.{name}"), t);
    }
    Ok(())
}

/// (B, N, C) → (B, C, side, side), as the published code names `en` and `de`.
fn channels_first(t: &Tensor, side: usize) -> Tensor {
    let [b, n, c] = *t.shape() else { unreachable!("features are (B, N, C)") };
    let mut y = Tensor::zeros(&[b, c, side, side]);
    for bi in 0..b {
        for ni in 0..n {
            for (ci, x) in t.row(bi * n + ni).iter().enumerate() {
                y.data[(bi * c + ci) * n + ni] = *x;
            }
        }
    }
    y
}
