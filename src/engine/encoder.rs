//! `Encoder`: one normalised picture in, its patch features out. What training caches.

use std::sync::Arc;

use crate::engine::fold;
use crate::engine::forward::{Pixels, Workspace};
use crate::error::{Error, Result};
use crate::runtime::Cpu;

/// The folded encoder with buffers for one picture. The weights are shared.
///
/// Its features are those of [`crate::model::encoder::forward`] up to the rounding of the folds: a few 1e-6 of the
/// largest one. The same bits whatever the number of threads; others on another instruction tier.
pub struct Encoder {
    cpu: Cpu,
    weights: Arc<fold::Encoder>,
    work: Workspace<f32>,
}

impl Encoder {
    /// `weights` must have been packed for the tier of `cpu`.
    pub(crate) fn new(cpu: &Cpu, weights: Arc<fold::Encoder>) -> Self {
        Self { work: Workspace::new(cpu, &weights.config), cpu: cpu.clone(), weights }
    }

    /// A normalised picture `(3, X, X)` → the mean of each group of target layers, `(N, C)`, one after the other. Errors:
    /// another length.
    pub fn features(&mut self, input: &[f32]) -> Result<Vec<f32>> {
        let cfg = &self.weights.config;
        let x = cfg.crop;
        if input.len() != 3 * x * x {
            return Err(Error::usage(format!("{} numbers are not a tensor (3, {x}, {x})", input.len())));
        }
        self.work.patches(&self.cpu, &self.weights, Pixels::F32(input));
        self.work.encode(&self.cpu, &self.weights, &mut |_| {});
        let groups = self.work.encoded().iter().zip(&cfg.groups);
        Ok(groups
            .flat_map(|(sum, layers)| {
                let share = 1.0 / layers.len() as f32;
                sum[cfg.prefix() * cfg.channels..].iter().map(move |x| x * share)
            })
            .collect())
    }
}
