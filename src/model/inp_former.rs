//! The whole model: weights, what one image becomes, and the backward of everything trained.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::model::encoder::{self, Features};
use crate::model::params::{Encoder, Trained};
use crate::model::{Config, Tap, bottleneck, decoder, extractor, naming};
use crate::ops::{anomaly_map, cosine_loss, fuse, gather_loss};
use crate::runtime::weights::{RawTensor, WeightFile};
use crate::runtime::{Cpu, Elem, Tensor};

/// A model in memory. `source` keeps the encoder's tensors as they came (names, dtype), so that a model written again
/// has the very same bits.
#[derive(Clone, Debug)]
pub struct Model {
    /// What fixes the computation besides the weights.
    pub config: Config,
    /// The frozen encoder.
    pub encoder: Encoder,
    /// `None` for an encoder alone (a backbone): it can be trained on, not scored with.
    pub trained: Option<Trained>,
    /// Large layers that multiply int8 where that is asked for, and what their inputs `(K)` are multiplied with before
    /// (`engine::int8`); in a file the tensors `int8.LAYER.by`.
    pub int8: BTreeMap<String, Vec<f32>>,
    source: WeightFile,
}

/// The backbone that comes with the program, so that a fresh clone can train: small, for demonstration (assets/README.md).
pub fn embedded() -> Result<WeightFile> {
    WeightFile::from_bytes("embedded backbone", include_bytes!("../../assets/inp-proc-d192-b8.safetensors"))
}

/// Keys that a published file may carry and that no computation here reads.
fn is_unused(key: &str, cfg: &Config) -> bool {
    let block = |k: &str| k.strip_prefix("encoder.blocks.")?.split('.').next()?.parse::<usize>().ok();
    key == "encoder.mask_token"
        || key.starts_with("encoder.norm.")
        || key.starts_with("encoder.head")
        || key.starts_with("encoder.fc_norm")
        || block(key).is_some_and(|b| b >= cfg.blocks() && b < cfg.depth)
}

impl Model {
    /// Takes any file that `naming::normalise` knows. Missing, extra and misshapen keys are reported all at once.
    pub fn load(file: WeightFile) -> Result<Self> {
        Self::take(file, true)
    }

    /// As [`Model::load`] for a model that will only score: the file's tensors are let go as they are read, so that the
    /// weights are in memory once. [`Model::to_file`] then lacks the encoder.
    pub fn load_to_score(file: WeightFile) -> Result<Self> {
        Self::take(file, false)
    }

    /// The shape, the weights, and the encoder's tensors as they came (see [`to_file`]).
    pub fn into_parts(self) -> (Config, Encoder, Option<Trained>, WeightFile) {
        (self.config, self.encoder, self.trained, self.source)
    }

    fn take(file: WeightFile, keep: bool) -> Result<Self> {
        let (mut file, _) = naming::normalise(file)?;
        let config = Config::infer(&file)?;
        let mut problems = Vec::new();
        let mut used = std::collections::BTreeSet::new();
        let mut get = |name: &str, shape: &[usize]| {
            used.insert(name.to_string());
            let t = match file.tensors.get(name) {
                None => Err(format!("missing: {name} {shape:?}")),
                Some(t) if t.shape != shape => {
                    Err(format!("shape of {name}: wanted {shape:?}, got {:?}", t.shape))
                }
                Some(t) => t.to_f32().map_err(|e| format!("{name}: {e}")),
            };
            if !keep {
                file.tensors.remove(name);
            }
            Ok(t.unwrap_or_else(|problem| {
                problems.push(problem);
                Tensor::zeros(&vec![0; shape.len()])
            }))
        };
        let encoder = Encoder::build(&config, &mut get)?;
        let trained = if config.trained { Some(Trained::build(&config, &mut get)?) } else { None };
        let mut int8 = BTreeMap::new();
        for (layer, inputs) in config.large_layers() {
            let by = file.tensors.remove(&format!("int8.{layer}.by"));
            let Some(by) = by else { continue };
            match by.to_f32() {
                Ok(t) if t.shape() == [inputs] && t.data.iter().all(|x| x.is_finite() && *x > 0.0) => {
                    int8.insert(layer, t.data);
                }
                _ => problems.push(format!("int8.{layer}.by: not {inputs} positive numbers")),
            }
        }
        let extra = |k: &&String| !used.contains(*k) && !is_unused(k, &config);
        problems.extend(file.tensors.keys().filter(extra).map(|k| format!("unknown: {k}")));
        if !problems.is_empty() {
            return Err(Error::Weights { path: file.path, problems });
        }
        let mut source = file;
        source.tensors.retain(|k, _| keep && k.starts_with("encoder."));
        Ok(Self { config, encoder, trained, int8, source })
    }

    /// The model as a file: encoder tensors as they came, trained tensors in f32, configuration in the metadata.
    pub fn to_file(&self) -> WeightFile {
        let mut file = to_file(self.source.clone(), &self.config, self.trained.as_ref());
        for (layer, by) in &self.int8 {
            let by = RawTensor::from_f32(&Tensor::new(&[by.len()], by.clone()));
            file.tensors.insert(format!("int8.{layer}.by"), by);
        }
        file
    }

    /// Hash of the encoder's tensors that run: part of the key of cached features.
    pub fn encoder_hash(&self) -> [u8; 32] {
        let cfg = &self.config;
        self.source
            .content_hash(self.source.tensors.keys().map(String::as_str).filter(|k| !is_unused(k, cfg)))
    }

    /// This encoder with another trained part, described by `config`.
    pub fn with_trained(&self, config: Config, trained: Trained) -> Self {
        let mut config = config;
        config.other.shift_remove("int8");
        Self { config, trained: Some(trained), int8: BTreeMap::new(), ..self.clone() }
    }

    /// The trained part, or a sentence that this file is a backbone.
    pub fn trained(&self) -> Result<&Trained> {
        self.trained.as_ref().ok_or_else(|| {
            Error::file(
                &self.source.path,
                "this is an encoder without a trained INP-Former; `train` one on it first",
            )
        })
    }
}

/// A model's file: the trained tensors in f32 and the configuration added to the encoder's tensors as they came.
pub fn to_file(encoder: WeightFile, config: &Config, trained: Option<&Trained>) -> WeightFile {
    let mut file = encoder;
    if let Some(trained) = trained {
        for (name, t) in Trained::<f32>::names(config).into_iter().zip(trained.tensors()) {
            file.tensors.insert(name, RawTensor::from_f32(t));
        }
    }
    file.metadata.insert("inp_former".into(), config.to_json().to_string());
    file
}

/// Everything after the encoder, forward.
pub struct Head<E: Elem> {
    /// f `(B, N, C)`.
    pub fused: Tensor<E>,
    /// Intrinsic normal prototypes I `(B, P, C)`.
    pub inp: Tensor<E>,
    /// Distance of each patch to its nearest prototype, and the coherence loss.
    pub gather: gather_loss::Saved<E>,
    /// Mean of each group of decoder outputs `(B, N, C)`; empty for zero-shot.
    pub de: Vec<Tensor<E>>,
    extractor: extractor::Saved<E>,
    bottleneck: Option<bottleneck::Saved<E>>,
    decoder: Vec<decoder::Saved<E>>,
}

/// Features → prototypes, distances and (unless `zero_shot`) the decoder's groups.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    p: &Trained<E>,
    cfg: &Config,
    features: &Features<E>,
    zero_shot: bool,
    tap: Tap<E>,
) -> Result<Head<E>> {
    let fused = features.fused(cpu, cfg)?;
    tap("fused", &fused);
    let (inp, extractor) = extractor::forward(cpu, &p.extractor, &p.prototypes, &fused, cfg.heads)?;
    tap("inp", &inp);
    let gather = gather_loss::forward(cpu, &fused, &inp)?;
    tap("g_loss", &Tensor::new(&[1], vec![gather.loss]));
    tap("inp_distance", &gather.dist);
    let mut head =
        Head { fused, inp, gather, de: Vec::new(), extractor, bottleneck: None, decoder: Vec::new() };
    if zero_shot {
        return Ok(head);
    }
    let (mut x, saved) = bottleneck::forward(cpu, &p.bottleneck, head.fused.clone())?;
    tap("bottleneck", &x);
    head.bottleneck = Some(saved);
    for (j, block) in p.decoder.iter().enumerate() {
        let (y, saved) = decoder::forward(cpu, block, x, &head.inp, cfg.heads)?;
        tap(&format!("dec{j}"), &y);
        head.decoder.push(saved);
        x = y;
    }
    head.de = groups(cpu, cfg, head.decoder.iter().map(|s| &s.x), &x)?;
    Ok(head)
}

/// Means of the decoder's groups, of its blocks' inputs and the last one's output: each block's input is the output of the
/// one before.
pub(crate) fn groups<'a, E: Elem>(
    cpu: &Cpu,
    cfg: &Config,
    inputs: impl Iterator<Item = &'a Tensor<E>>,
    last: &'a Tensor<E>,
) -> Result<Vec<Tensor<E>>> {
    let outputs: Vec<_> = inputs.skip(1).chain([last]).collect();
    let of = |i: &usize| outputs[outputs.len() - 1 - i];
    let mean = |g: &Vec<usize>| fuse::mean(cpu, &g.iter().map(of).collect::<Vec<_>>());
    cfg.decoder_groups.iter().map(mean).collect()
}

/// Back through the decoder's blocks, last first: `block` makes its output's gradient that of its input. What comes out is
/// the gradient of the decoder's input; `None` without a block.
pub(crate) fn decoder_backward<E: Elem, S>(
    cpu: &Cpu,
    cfg: &Config,
    saved: Vec<S>,
    dde: &[Tensor<E>],
    mut block: impl FnMut(usize, S, &Tensor<E>) -> Result<Tensor<E>>,
) -> Result<Option<Tensor<E>>> {
    let mut dx: Option<Tensor<E>> = None;
    for (j, saved) in saved.into_iter().enumerate().rev() {
        let (weight, group) = cfg.decoder_share(j);
        let own = (E::from_f64(weight), &dde[group]);
        let dy = match &dx {
            Some(dx) => fuse::weighted(cpu, &[(E::ONE, dx), own])?,
            None => fuse::weighted(cpu, &[own])?,
        };
        dx = Some(block(j, saved, &dy)?);
    }
    Ok(dx)
}

/// Group gradients `dde` `(B, N, C)` each and `dinp` `(B, P, C)` (of the coherence loss) → parameter gradients, added
/// to `d`.
pub fn backward<E: Elem>(
    cpu: &Cpu,
    p: &Trained<E>,
    cfg: &Config,
    head: Head<E>,
    dde: &[Tensor<E>],
    mut dinp: Tensor<E>,
    d: &mut Trained<E>,
) -> Result<()> {
    let dx = decoder_backward(cpu, cfg, head.decoder, dde, |j, saved, dy| {
        let (block, dblock) = (&p.decoder[j], &mut d.decoder[j]);
        decoder::backward(cpu, block, &head.inp, cfg.heads, saved, dy, &mut dinp, dblock)
    })?;
    if let (Some(saved), Some(dx)) = (head.bottleneck, dx) {
        bottleneck::backward(cpu, &p.bottleneck, saved, &dx, &mut d.bottleneck, false)?;
    }
    let (e, de) = (&p.extractor, &mut d.extractor);
    extractor::backward(
        cpu,
        e,
        &p.prototypes,
        &head.fused,
        cfg.heads,
        head.extractor,
        &dinp,
        de,
        &mut d.prototypes,
    )
}

/// Native maps `(B, N)`: cosine distance of each group, or the distance to the prototypes for zero-shot.
pub fn native_maps<E: Elem>(cpu: &Cpu, features: &Features<E>, head: &Head<E>) -> Result<Vec<Tensor<E>>> {
    if head.de.is_empty() {
        return Ok(vec![head.gather.dist.clone()]);
    }
    features.groups.iter().zip(&head.de).map(|(a, d)| cosine_loss::distance(cpu, a, d)).collect()
}

/// img `(B, 3, X, X)`, normalised → the maps of every stage.
pub fn maps(
    cpu: &Cpu,
    model: &Model,
    img: &Tensor<f32>,
    zero_shot: bool,
    tap: Tap<f32>,
) -> Result<anomaly_map::PostMaps> {
    let (cfg, trained) = (&model.config, model.trained()?);
    let features = encoder::forward(cpu, &model.encoder, cfg, img, tap)?;
    let head = forward(cpu, trained, cfg, &features, zero_shot, tap)?;
    let native = native_maps(cpu, &features, &head)?;
    let side = img.shape()[2] / crate::model::config::PATCH;
    anomaly_map::post(cpu, &native, side, img.shape()[2])
}
