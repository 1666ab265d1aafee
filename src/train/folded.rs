//! The trained part by exact folds: the same function and the same gradients as `model::inp_former`, with fewer products.
//!
//! The decoder has no residual around its attention, so everything up to its MLP's second layer has rank H·P + 1; the
//! extractor's query is the same for every picture, so its scores need no keys, and its values are pooled before their
//! weights.

mod decoder;
mod extractor;

use crate::error::Result;
use crate::model::encoder::Features;
use crate::model::inp_former::{decoder_backward, groups};
use crate::model::params::Trained;
use crate::model::{Config, bottleneck};
use crate::ops::gather_loss;
use crate::runtime::{Cpu, Elem, Tensor};

/// Everything after the encoder, forward.
pub struct Head<E: Elem> {
    /// f `(B, N, C)`.
    pub fused: Tensor<E>,
    /// Intrinsic normal prototypes I `(B, P, C)`.
    pub inp: Tensor<E>,
    /// Distance of each patch to its nearest prototype, and the coherence loss.
    pub gather: gather_loss::Saved<E>,
    /// Mean of each group of decoder outputs `(B, N, C)`.
    pub de: Vec<Tensor<E>>,
    extractor: extractor::Saved<E>,
    bottleneck: bottleneck::Saved<E>,
    decoder: Vec<decoder::Saved<E>>,
}

/// Features → prototypes, distances and the decoder's groups.
pub fn forward<E: Elem>(cpu: &Cpu, p: &Trained<E>, cfg: &Config, features: &Features<E>) -> Result<Head<E>> {
    let fused = features.fused(cpu, cfg)?;
    let (inp, extractor) = extractor::forward(cpu, &p.extractor, &p.prototypes, &fused, cfg.heads)?;
    let gather = gather_loss::forward(cpu, &fused, &inp)?;
    let (mut x, bottleneck) = bottleneck::forward(cpu, &p.bottleneck, fused.clone())?;
    let mut decoder = Vec::with_capacity(p.decoder.len());
    for block in &p.decoder {
        let (y, saved) = decoder::forward(cpu, block, x, &inp, cfg.heads)?;
        decoder.push(saved);
        x = y;
    }
    let de = groups(cpu, cfg, decoder.iter().map(|s: &decoder::Saved<E>| &s.x), &x)?;
    Ok(Head { fused, inp, gather, de, extractor, bottleneck, decoder })
}

/// As [`crate::model::inp_former::backward`].
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
        decoder::backward(cpu, block, &head.inp, saved, dy, &mut dinp, dblock, cfg.heads)
    })?;
    if let Some(dx) = dx {
        bottleneck::backward(cpu, &p.bottleneck, head.bottleneck, &dx, &mut d.bottleneck, false)?;
    }
    let (e, de) = (&p.extractor, &mut d.extractor);
    extractor::backward(cpu, e, &p.prototypes, cfg.heads, head.extractor, &dinp, de, &mut d.prototypes)
}
