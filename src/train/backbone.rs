//! The frozen encoder that a training runs on.

use crate::engine::{Encoder, EncoderWeights};
use crate::error::Result;
use crate::model::params::Trained;
use crate::model::{Config, Model, inp_former};
use crate::runtime::Cpu;
use crate::runtime::weights::WeightFile;

/// An encoder folded for the engine, and its tensors as they came, which go into the trained model. The plain weights
/// are let go: nothing in a training needs them.
pub struct Backbone {
    /// Of the file that the encoder came from; crop and resize are those to train with.
    pub config: Config,
    pub(super) cpu: Cpu,
    weights: EncoderWeights,
    /// Hash of the encoder: part of the key of cached features.
    pub(super) hash: [u8; 32],
    source: WeightFile,
}

impl Backbone {
    /// Folds the encoder of `model`, which may have a trained part (it is not used), for the tier of `cpu`; in bf16 on a
    /// [`Cpu::narrowed`]. Errors: a position grid that cannot be resized to the crop's.
    pub fn new(cpu: &Cpu, model: Model) -> Result<Self> {
        let hash = model.encoder_hash();
        let (config, encoder, _, source) = model.into_parts();
        // Buffers for a trained part would only take memory.
        let alone = Config { prototypes: 0, decoder_blocks: 0, ..config.clone() };
        let weights = EncoderWeights::new(cpu, &alone, encoder)?;
        Ok(Self { config, cpu: cpu.clone(), weights, hash, source })
    }

    /// What computes features; the weights are shared with it.
    pub fn encoder(&self) -> Encoder {
        Encoder::new(&self.cpu, self.weights.clone())
    }

    /// This encoder with a trained part, described by `config`, as a file.
    pub fn with_trained(&self, config: &Config, trained: &Trained) -> WeightFile {
        inp_former::to_file(self.source.clone(), config, Some(trained))
    }
}
