//! `Encoder`: one normalised picture in, its patch features out. What training caches.

use std::sync::Arc;

use half::bf16;

use crate::engine::fold;
use crate::engine::forward::{Pixels, Workspace};
use crate::error::{Error, Result};
use crate::model::Config;
use crate::model::params;
use crate::ops::linear::packed::Narrow;
use crate::runtime::Cpu;

/// A folded encoder, which multiplies in f32, or in bf16 where it was made on a [`Cpu::narrowed`]. Clones share it.
#[derive(Clone)]
pub(crate) enum EncoderWeights {
    F32(Arc<fold::Encoder<f32>>),
    Bf16(Arc<fold::Encoder<bf16>>),
}

impl EncoderWeights {
    /// Folds and packs for `cpu`.
    pub fn new(cpu: &Cpu, cfg: &Config, encoder: params::Encoder) -> Result<Self> {
        Ok(match cpu.is_narrow() {
            true => Self::Bf16(Arc::new(fold::Encoder::new(cpu, cfg, encoder, &mut |_, _| None)?)),
            false => Self::F32(Arc::new(fold::Encoder::new(cpu, cfg, encoder, &mut |_, _| None)?)),
        })
    }
}

/// The folded encoder with buffers for one picture. The weights are shared.
///
/// Its features are those of [`crate::model::encoder::forward`] up to the rounding of the folds, a few 1e-6 of the
/// largest one, and that of bf16 where it multiplies in it. The same bits whatever the number of threads; others on
/// another instruction tier.
pub struct Encoder {
    cpu: Cpu,
    pass: Pass,
}

enum Pass {
    F32(Arc<fold::Encoder<f32>>, Workspace<f32>),
    Bf16(Arc<fold::Encoder<bf16>>, Workspace<bf16>),
}

impl Encoder {
    /// `weights` must have been packed for the tier of `cpu`.
    pub(crate) fn new(cpu: &Cpu, weights: EncoderWeights) -> Self {
        let pass = match weights {
            EncoderWeights::F32(w) => Pass::F32(w.clone(), Workspace::new(cpu, &w.config)),
            EncoderWeights::Bf16(w) => Pass::Bf16(w.clone(), Workspace::new(cpu, &w.config)),
        };
        Self { cpu: cpu.clone(), pass }
    }

    /// A normalised picture `(3, X, X)` → the mean of each group of target layers, `(N, C)`, one after the other. Errors:
    /// another length.
    pub fn features(&mut self, input: &[f32]) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        self.each_group(input, |group| all.extend_from_slice(group))?;
        Ok(all)
    }

    /// As [`Encoder::features`], one group `(N, C)` after the other.
    pub fn each_group(&mut self, input: &[f32], group: impl FnMut(&[f32])) -> Result<()> {
        match &mut self.pass {
            Pass::F32(weights, work) => features(&self.cpu, weights, work, input, group),
            Pass::Bf16(weights, work) => features(&self.cpu, weights, work, input, group),
        }
    }
}

fn features<X: Narrow>(
    cpu: &Cpu,
    weights: &fold::Encoder<X>,
    work: &mut Workspace<X>,
    input: &[f32],
    mut group: impl FnMut(&[f32]),
) -> Result<()> {
    let cfg = &weights.config;
    let x = cfg.crop;
    if input.len() != 3 * x * x {
        return Err(Error::usage(format!("{} numbers are not a tensor (3, {x}, {x})", input.len())));
    }
    work.patches(cpu, weights, Pixels::F32(input));
    work.encode(cpu, weights, &mut |_| {});
    for (i, layers) in cfg.groups.iter().enumerate() {
        group(work.mean(cpu, i, layers.len()));
    }
    Ok(())
}
