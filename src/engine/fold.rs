//! Exact algebraic folds, made once when a model is opened: the same function with fewer and larger products.
//!
//! - Encoder: LayerNorm gains go into the next weights and its biases into the next biases; the attention scale and
//!   log2(e) into the query (its softmax is in base 2); the key's bias drops out of the softmax, the value's joins the
//!   projection's; layer scales go into projections.
//! - Patches: `/255`, mean and deviation go into the patch weights (8-bit input); position, bias, class and register rows
//!   become one table.
//! - Extractor: its query is constant, so query and key weights become `(H·P, C)`; values are pooled before their weights.
//! - Decoder: the attention's output is `coef·VW + bp` of rank H·P + 1, so its first MLP layer shrinks from C to H·P
//!   inputs (`VA`), and its normalisation follows from a Gram matrix.
//! - Post-processing: resizes, mean and blur are one banded matrix, applied on both sides.
//!
//! Weights are rounded to operands X after all of that, once. The extractor's and the Gram matrix's stay f32: they are small.

use crate::error::Result;
use crate::model::config::PATCH;
use crate::model::params::{self, Linear, Norm, Trained};
use crate::model::{Config, ENCODER_EPS, Model, TRAINED_EPS};
use crate::ops::linear::gemm::{Mat, Start, gemm};
use crate::ops::linear::packed::{Narrow, Packed};
use crate::ops::{anomaly_map, layernorm, linear, patch_embed, preprocess};
use crate::runtime::{Cpu, Tensor};

use super::layer::{Decide, Layer};

/// One encoder block; every LayerNorm before a product is only `(x - mean)·rstd`.
pub struct Block<X> {
    pub qkv: Layer<X>,
    pub proj: Layer<X>,
    pub fc1: Layer<X>,
    pub fc2: Layer<X>,
}

/// The extractor with its constant query.
pub struct Extract {
    /// `(H·P, C)`: what the normalised features are multiplied with to get the scores.
    pub query_key: Packed,
    /// Value weights `(D, C)` of each head.
    pub value: Vec<Packed>,
    pub proj: Packed,
    pub fc1: Packed,
    pub fc2: Packed,
    /// P0 `(P, C)`.
    pub prototypes: Vec<f32>,
}

/// One decoder block in its low-rank form.
pub struct Decode<X> {
    pub q: Layer<X>,
    pub kv: Packed<X>,
    /// `learn_scale` `(H)`.
    pub scale: Vec<f32>,
    /// Projection `(C, C)` of a value to the block's middle, and the same with the mean over its outputs taken away.
    pub proj: Packed<X>,
    pub centred: Packed,
    /// The projection's bias with its mean taken away, `(C)`.
    pub centred_bias: Vec<f32>,
    /// A `(C, 4C)`: centred projection, gain and first MLP weights in one.
    pub a: Packed<X>,
    /// What the projection's bias adds to the first MLP layer before the row's scale, and what comes after it, `(4C)`.
    pub fc1_scaled: Vec<f32>,
    pub fc1_shift: Vec<f32>,
    /// Second MLP layer; its bias includes the projection's.
    pub fc2: Layer<X>,
}

/// Taken from 8-bit pixels, so that the rounding of weights is not multiplied by their mean.
pub const OFFSET: f32 = 128.0;

/// An encoder ready for the engine.
pub struct Encoder<X = f32> {
    pub config: Config,
    /// Patch weights for 8-bit pixels less [`OFFSET`] `(C, 3·14·14)` and for normalised ones.
    pub patch_u8: Packed<X>,
    pub patch_f32: Packed<X>,
    /// What patch products are added to, `(T, C)`: prefix rows, then position, bias and (8-bit) the mean's share.
    pub table_u8: Vec<f32>,
    pub table_f32: Vec<f32>,
    pub blocks: Vec<Block<X>>,
}

/// A model ready for the engine.
pub struct Folded<X> {
    pub config: Config,
    pub encoder: Encoder<X>,
    pub extract: Extract,
    pub bottleneck: (Layer<X>, Layer<X>),
    pub decode: Vec<Decode<X>>,
    pub post: Post,
}

/// Rows of the banded matrix that takes a map on the patch grid to the pixel map, along either axis.
pub struct Post {
    /// First column and weights of each of the 256 rows.
    pub rows: Vec<(usize, Vec<f32>)>,
}

impl<X: Narrow> Folded<X> {
    /// Folds and packs for the tier of `cpu`; `decide` says which layers are in int8. Blocks are let go as they are folded:
    /// the weights are in memory once.
    pub fn new(cpu: &Cpu, model: Model, decide: Decide) -> Result<Self> {
        model.trained()?;
        let (cfg, enc, trained, _) = model.into_parts();
        let p = trained.expect("asked for above");
        let encoder = Encoder::new(cpu, &cfg, enc, decide)?;
        let extract = Extract::new(cpu, &cfg, &p)?;
        let mut layer = |name: &str, l| Layer::new(cpu, format!("bottleneck.{name}"), Plain::of(l), decide);
        let bottleneck = (layer("fc1", &p.bottleneck.fc1), layer("fc2", &p.bottleneck.fc2));
        let decode =
            p.decoder.into_iter().enumerate().map(|(j, b)| Decode::new(cpu, j, &b, decide)).collect();
        Ok(Self { post: Post::new(cfg.side(), cfg.crop), config: cfg, encoder, extract, bottleneck, decode })
    }
}

impl<X: Narrow> Encoder<X> {
    /// As [`Folded::new`], of the encoder alone.
    pub fn new(cpu: &Cpu, cfg: &Config, enc: params::Encoder, decide: Decide) -> Result<Self> {
        let (c, side) = (cfg.channels, cfg.side());
        let pos = patch_embed::pos_embed(cpu, &enc.pos, (side, side))?;
        let patch = |u8_input| {
            let (p, mut table) = patches(cfg, &enc, &pos, u8_input);
            if u8_input {
                let rows = p.w.chunks_exact(p.w.len() / c);
                let offset =
                    rows.map(|row| (OFFSET as f64 * row.iter().map(|x| *x as f64).sum::<f64>()) as f32);
                let offset: Vec<f32> = offset.collect();
                for row in table[cfg.prefix() * c..].chunks_exact_mut(c) {
                    row.iter_mut().zip(&offset).for_each(|(x, o)| *x += o);
                }
            }
            (Packed::new(cpu, &p.w, c, p.w.len() / c, p.b), table)
        };
        let (patch_f32, table_f32) = patch(false);
        let (patch_u8, table_u8) = patch(true);
        let block = |(l, b)| {
            let mut layer = |name: &str, p| Layer::new(cpu, format!("encoder.blocks.{l}.{name}"), p, decide);
            let [qkv, proj, fc1, fc2] = encoder_block(cfg, b);
            Block {
                qkv: layer("qkv", qkv),
                proj: layer("proj", proj),
                fc1: layer("fc1", fc1),
                fc2: layer("fc2", fc2),
            }
        };
        let blocks = enc.blocks.into_iter().enumerate().map(block).collect();
        Ok(Self { config: cfg.clone(), patch_u8, patch_f32, table_u8, table_f32, blocks })
    }
}

/// Queries-keys-values, projection and both MLP layers of one encoder block.
pub fn encoder_block(cfg: &Config, b: params::EncoderBlock) -> [Plain; 4] {
    let c = cfg.channels;
    let mut qkv = normed(&b.norm1, &b.qkv);
    let scale = ((c as f64 / cfg.heads as f64).powf(-0.5) * std::f64::consts::LOG2_E) as f32;
    qkv.w[..c * c].iter_mut().for_each(|x| *x *= scale);
    qkv.b[..c].iter_mut().for_each(|x| *x *= scale);
    let value_bias = qkv.b[2 * c..].to_vec();
    qkv.b[c..].fill(0.0);
    let mut proj = Plain::of(&b.proj);
    proj.add_product(&value_bias);
    let fc1 = normed(&b.norm2, &b.mlp.fc1);
    [qkv, proj.scaled(&b.ls1.data), fc1, Plain::of(&b.mlp.fc2).scaled(&b.ls2.data)]
}

/// A linear layer being folded: w `(n, k)` row-major, b `(n)`.
pub struct Plain {
    pub w: Vec<f32>,
    pub b: Vec<f32>,
}

impl Plain {
    pub fn of(l: &Linear) -> Self {
        Self { w: l.w.data.clone(), b: l.b.data.clone() }
    }
    pub fn k(&self) -> usize {
        self.w.len() / self.b.len()
    }
    /// `b += W·x`.
    fn add_product(&mut self, x: &[f32]) {
        let k = self.k();
        for (b, row) in self.b.iter_mut().zip(self.w.chunks_exact(k)) {
            *b = (*b as f64 + dot(row, x)) as f32;
        }
    }
    /// The same layer on inputs that were multiplied by `by` `(k)`.
    pub fn smooth(&mut self, by: &[f32]) {
        for row in self.w.chunks_exact_mut(by.len()) {
            row.iter_mut().zip(by).for_each(|(x, by)| *x /= by);
        }
    }
    /// Every output times its scale.
    fn scaled(mut self, scale: &[f32]) -> Self {
        let k = self.k();
        for ((row, b), s) in self.w.chunks_exact_mut(k).zip(&mut self.b).zip(scale) {
            row.iter_mut().for_each(|x| *x *= s);
            *b *= s;
        }
        self
    }
    fn packed<X: Narrow>(self, cpu: &Cpu) -> Packed<X> {
        let (n, k) = (self.b.len(), self.k());
        Packed::new(cpu, &self.w, n, k, self.b)
    }
}

pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| *x as f64 * *y as f64).sum()
}

/// `W·(x̂∘gain + bias) + b` as one layer on x̂.
pub fn normed(norm: &Norm, l: &Linear) -> Plain {
    let mut p = Plain::of(l);
    p.add_product(&norm.bias.data);
    let k = p.k();
    for row in p.w.chunks_exact_mut(k) {
        row.iter_mut().zip(&norm.gain.data).for_each(|(x, g)| *x *= g);
    }
    p
}

/// Patch weights and the table that their products are added to, `(T, C)`.
pub fn patches(cfg: &Config, enc: &params::Encoder, pos: &Tensor, u8_input: bool) -> (Plain, Vec<f32>) {
    let (c, prefix, area) = (cfg.channels, cfg.prefix(), PATCH * PATCH);
    let mut w = enc.patch.w.data.clone();
    let mut bias: Vec<f64> = enc.patch.b.data.iter().map(|x| *x as f64).collect();
    if u8_input {
        // (x/255 - mean)/std as weights on x and a constant; pixels come interleaved, (y, x, channel).
        for (row, b) in w.chunks_exact_mut(3 * area).zip(&mut bias) {
            let mut interleaved = vec![0.0; 3 * area];
            for ch in 0..3 {
                let (mean, std) = (preprocess::MEAN[ch] as f64, preprocess::STD[ch] as f64);
                for i in 0..area {
                    let x = row[ch * area + i] as f64;
                    *b -= x * mean / std;
                    interleaved[i * 3 + ch] = (x / (255.0 * std)) as f32;
                }
            }
            row.copy_from_slice(&interleaved);
        }
    }
    let mut table = enc.cls.data.iter().zip(pos.row(0)).map(|(a, b)| a + b).collect::<Vec<f32>>();
    if let Some(r) = &enc.registers {
        table.extend_from_slice(&r.data);
    }
    debug_assert_eq!(table.len(), prefix * c);
    for n in 1..pos.rows() {
        table.extend(pos.row(n).iter().zip(&bias).map(|(p, b)| (*p as f64 + b) as f32));
    }
    (Plain { w, b: Vec::new() }, table)
}

/// The extractor's constant query times its key weights, `(H·P, C)` on normalised features, and its key-value layer with
/// the gain folded in.
pub fn query_key(cpu: &Cpu, cfg: &Config, p: &Trained) -> Result<(Vec<f32>, Plain)> {
    let (e, c, h, n) = (&p.extractor, cfg.channels, cfg.heads, cfg.prototypes);
    let d = c / h;
    let (norm, _) = layernorm::forward(cpu, &p.prototypes, &e.norm1.gain, &e.norm1.bias, TRAINED_EPS)?;
    let q = linear::forward(cpu, &norm, &e.q.w, Some(&e.q.b))?;
    let kv = normed(&e.norm1, &e.kv);
    let scale = (d as f64).powf(-0.5) as f32;
    // Row (h, p): scale·q[p, h]·Wk[h]. The key's bias adds the same to every token's score and drops out.
    let mut query_key = vec![0.0; h * n * c];
    for head in 0..h {
        let a = Mat::plain(&q.data[head * d..], c);
        let b = Mat::plain(&kv.w[head * d * c..], c);
        gemm(cpu, [n, c, d], a, b, &mut query_key[head * n * c..][..n * c], c, Start::Zero);
    }
    query_key.iter_mut().for_each(|x| *x *= scale);
    Ok((query_key, kv))
}

impl Extract {
    fn new(cpu: &Cpu, cfg: &Config, p: &Trained) -> Result<Self> {
        let (e, c, h, n) = (&p.extractor, cfg.channels, cfg.heads, cfg.prototypes);
        let d = c / h;
        let (query_key, kv) = query_key(cpu, cfg, p)?;
        let value = |head: usize| {
            let rows = (c + head * d)..(c + (head + 1) * d);
            Packed::new(cpu, &kv.w[rows.start * c..rows.end * c], d, c, kv.b[rows].to_vec())
        };
        Ok(Self {
            query_key: Packed::new(cpu, &query_key, h * n, c, Vec::new()),
            value: (0..h).map(value).collect(),
            proj: Plain::of(&e.proj).packed(cpu),
            fc1: normed(&e.norm2, &e.mlp.fc1).packed(cpu),
            fc2: Plain::of(&e.mlp.fc2).packed(cpu),
            prototypes: p.prototypes.data.clone(),
        })
    }
}

/// What a decoder block's low-rank form is made of.
pub struct LowRank {
    /// The projection `(C, C)` with the mean over its outputs taken away, and its bias `(C)` likewise.
    pub centred: Vec<f32>,
    pub centred_bias: Vec<f32>,
    /// Centred projection, gain and first MLP weights in one, `(4C, C)`.
    pub a: Vec<f32>,
    /// What the projection's bias adds to the first MLP layer before the row's scale, and what comes after it, `(4C)`.
    pub fc1_scaled: Vec<f32>,
    pub fc1_shift: Vec<f32>,
    /// Second MLP layer; its bias includes the projection's.
    pub fc2: Plain,
}

impl LowRank {
    pub fn new(cpu: &Cpu, b: &params::DecoderBlock) -> Self {
        let c = b.proj.b.len();
        let hidden = b.mlp.fc1.b.len();
        let mut centred = b.proj.w.data.clone();
        let mut mean = vec![0.0f64; c];
        for row in centred.chunks_exact(c) {
            mean.iter_mut().zip(row).for_each(|(m, x)| *m += *x as f64 / c as f64);
        }
        for row in centred.chunks_exact_mut(c) {
            row.iter_mut().zip(&mean).for_each(|(x, m)| *x = (*x as f64 - m) as f32);
        }
        let middle = b.proj.b.data.iter().map(|x| *x as f64).sum::<f64>() / c as f64;
        let centred_bias: Vec<f32> = b.proj.b.data.iter().map(|x| (*x as f64 - middle) as f32).collect();
        let mut fc1 = normed(&b.norm2, &b.mlp.fc1);
        let fc1_shift = std::mem::take(&mut fc1.b);
        // a[o, i] = Σ_m W1[o, m]·centred[m, i].
        let mut a = vec![0.0; hidden * c];
        let (w1, middle) = (Mat::plain(&fc1.w, c), Mat::plain(&centred, c));
        gemm(cpu, [hidden, c, c], w1, middle, &mut a, c, Start::Zero);
        let fc1_scaled = fc1.w.chunks_exact(c).map(|row| dot(row, &centred_bias) as f32).collect();
        let mut fc2 = Plain::of(&b.mlp.fc2);
        fc2.b.iter_mut().zip(&b.proj.b.data).for_each(|(x, p)| *x += p);
        Self { centred, centred_bias, a, fc1_scaled, fc1_shift, fc2 }
    }
}

impl<X: Narrow> Decode<X> {
    fn new(cpu: &Cpu, j: usize, b: &params::DecoderBlock, decide: Decide) -> Self {
        let c = b.proj.b.len();
        let l = LowRank::new(cpu, b);
        Self {
            q: Layer::new(cpu, format!("decoder.{j}.q"), normed(&b.norm1, &b.q), decide),
            kv: normed(&b.norm1, &b.kv).packed(cpu),
            scale: b.scale.data.clone(),
            proj: Packed::new(cpu, &b.proj.w.data, c, c, Vec::new()),
            centred: Packed::new(cpu, &l.centred, c, c, Vec::new()),
            centred_bias: l.centred_bias,
            a: Packed::new(cpu, &l.a, b.mlp.fc1.b.len(), c, Vec::new()),
            fc1_scaled: l.fc1_scaled,
            fc1_shift: l.fc1_shift,
            fc2: Layer::new(cpu, format!("decoder.{j}.fc2"), l.fc2, decide),
        }
    }
}

impl Post {
    /// Grid side → crop (corners aligned) → 256 (centres) → blur, as one matrix made by applying the steps to unit vectors.
    fn new(side: usize, crop: usize) -> Self {
        let m = anomaly_map::axis_matrix(side, crop);
        let row = |r: &[f64]| {
            let first = r.iter().position(|x| *x != 0.0).unwrap_or(0);
            let last = r.iter().rposition(|x| *x != 0.0).unwrap_or(0);
            (first, r[first..=last].iter().map(|x| *x as f32).collect())
        };
        Self { rows: m.chunks_exact(side).map(row).collect() }
    }
}

/// Epsilons under the square roots, for whoever normalises.
pub const EPS: (f32, f32) = (ENCODER_EPS as f32, TRAINED_EPS as f32);
