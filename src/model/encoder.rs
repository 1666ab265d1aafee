//! The frozen DINOv2 encoder (docs/spec.md, section 3: patch embedding, class and register tokens, pre-norm blocks), forward only.

use crate::error::Result;
use crate::model::params::{Encoder, EncoderBlock};
use crate::model::{Config, ENCODER_EPS, Tap};
use crate::ops::{attention, fuse, gelu, layernorm, linear, patch_embed};
use crate::runtime::{Cpu, Elem, Tensor};

/// Patch features of one batch: the mean of each group of target layers, (B, N, C) each.
#[derive(Clone, Debug)]
pub struct Features<E: Elem = f32> {
    /// One tensor a group, in the order of `Config::groups`.
    pub groups: Vec<Tensor<E>>,
}

impl<E: Elem> Features<E> {
    /// f `(B, N, C)`: the mean over all target layers, which the groups partition.
    pub fn fused(&self, cpu: &Cpu, cfg: &Config) -> Result<Tensor<E>> {
        let n = cfg.target_layers.len() as f64;
        let parts: Vec<_> =
            self.groups.iter().zip(&cfg.groups).map(|(g, l)| (E::from_f64(l.len() as f64 / n), g)).collect();
        fuse::weighted(cpu, &parts)
    }
}

/// img `(B, 3, X, X)`, normalised → features of the target layers.
pub fn forward<E: Elem>(
    cpu: &Cpu,
    enc: &Encoder<E>,
    cfg: &Config,
    img: &Tensor<E>,
    tap: Tap<E>,
) -> Result<Features<E>> {
    let patches = patch_embed::forward(cpu, img, &enc.patch.w, &enc.patch.b)?;
    tap("enc.patch_embed", &patches);
    let [height, width] = [2, 3].map(|axis| img.shape()[axis] / enc.patch.w.shape()[2]);
    let pos = patch_embed::pos_embed(cpu, &enc.pos, (height, width))?;
    tap("pos_embed_interp", &pos);
    let mut x = patch_embed::tokens(cpu, &patches, &pos, &enc.cls, enc.registers.as_ref())?;
    tap("enc.tokens", &x);
    let mut outputs = Vec::with_capacity(cfg.target_layers.len());
    for (i, block) in enc.blocks.iter().enumerate() {
        forward_block(cpu, block, cfg.heads, &mut x)?;
        if cfg.target_layers.contains(&i) {
            tap(&format!("enc.block{i}"), &x);
            outputs.push(fuse::drop_prefix(cpu, &x, cfg.prefix())?);
        }
    }
    let mean = |g: &Vec<usize>| fuse::mean(cpu, &g.iter().map(|&i| &outputs[i]).collect::<Vec<_>>());
    Ok(Features { groups: cfg.groups.iter().map(mean).collect::<Result<_>>()? })
}

/// `x += ls1·proj(attn(LN1(x)))`, `x += ls2·fc2(gelu(fc1(LN2(x))))`; x `(B, T, C)`.
fn forward_block<E: Elem>(cpu: &Cpu, p: &EncoderBlock<E>, heads: usize, x: &mut Tensor<E>) -> Result<()> {
    let (y, _) = layernorm::forward(cpu, x, &p.norm1.gain, &p.norm1.bias, ENCODER_EPS)?;
    let qkv = linear::forward(cpu, &y, &p.qkv.w, Some(&p.qkv.b))?;
    let y = attention::forward(cpu, &qkv, heads)?;
    let y = linear::forward(cpu, &y, &p.proj.w, Some(&p.proj.b))?;
    fuse::add_scaled(cpu, x, &y, &p.ls1)?;
    let (y, _) = layernorm::forward(cpu, x, &p.norm2.gain, &p.norm2.bias, ENCODER_EPS)?;
    let y = gelu::forward(cpu, &linear::forward(cpu, &y, &p.mlp.fc1.w, Some(&p.mlp.fc1.b))?)?;
    let y = linear::forward(cpu, &y, &p.mlp.fc2.w, Some(&p.mlp.fc2.b))?;
    fuse::add_scaled(cpu, x, &y, &p.ls2)
}
