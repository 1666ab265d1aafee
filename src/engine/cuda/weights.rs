//! The folds of `engine::fold` as CUDA kernels want them: LayerNorm in its centred form, rounded, on the device.
//!
//! `LN(x)·Wᵀ = rstd·(x·W'ᵀ − mean·colsum) + b'` with `W' = W·diag(gain)·(I − 11ᵀ/C)`. Without rounding the rows of W'
//! sum to zero and the mean drops out; with it the sums are small, and taken of the rounded W'.

use crate::engine::fold::{self, LowRank, Plain};
use crate::error::Result;
use crate::model::config::PATCH;
use crate::model::params::{DecoderBlock, Trained};
use crate::model::{Config, Model};
use crate::ops::linear::gemm::{Mat, Start, gemm};
use crate::ops::{anomaly_map, patch_embed};
use crate::runtime::cuda::{Buffer, Gpu};
use crate::runtime::{Cpu, DType, Types};

/// A linear layer on the device.
pub struct Dense {
    /// `(n, k)` of the element type.
    pub w: Buffer<u8>,
    /// `(n)`; zeros where there is none.
    pub bias: Buffer<f32>,
    /// Sums over k of the rounded weights, `(n)`; of a layer behind a LayerNorm only.
    pub colsum: Option<Buffer<f32>>,
    pub n: usize,
    pub k: usize,
}

/// Puts layers on a device in one element type.
pub struct Loader<'a> {
    pub gpu: &'a Gpu,
    pub dtype: DType,
}

impl Loader<'_> {
    /// Types for layers that few rows go through: `first` for rows of length sqrt(k) at most, as normalised ones and means of
    /// them are; what comes of them is an operand of `then`. f16 has to have the range for it, and places: it ends at 2^-24.
    fn finest(&self, first: &[&Plain], then: &[&[f32]]) -> Types {
        let largest = |p: &Plain| {
            let most = |(w, b): (&[f32], &f32)| (p.k() as f64 * fold::dot(w, w)).sqrt() + f64::from(b.abs());
            p.w.chunks_exact(p.k()).zip(&p.b).map(most).fold(0.0, f64::max)
        };
        if !first.iter().all(|p| (1.0 / 64.0..6e4).contains(&largest(p))) {
            return self.dtype.into();
        }
        let weights: Vec<_> = first.iter().map(|p| &p.w[..]).chain(then.iter().copied()).collect();
        Types::finest(self.dtype, &weights)
    }
    /// The same in the operands' type.
    fn operands(&self, types: Types) -> Self {
        Self { gpu: self.gpu, dtype: types.operands }
    }
    /// Elements. Errors: one that the type cannot hold, `what` being the name of the layer.
    pub fn elements(&self, what: &str, x: &[f32]) -> Result<Buffer<u8>> {
        self.gpu.upload(&self.dtype.encode_weights(what, x)?)
    }
    /// Numbers that stay f32.
    pub fn floats(&self, x: &[f32]) -> Result<Buffer<f32>> {
        self.gpu.upload(x)
    }
    /// A layer as it is.
    pub fn dense(&self, what: &str, p: &Plain) -> Result<Dense> {
        let (n, k) = (p.b.len(), p.k());
        Ok(Dense { w: self.elements(what, &p.w)?, bias: self.floats(&p.b)?, colsum: None, n, k })
    }
    /// A layer whose input is normalised, the gain already in its weights.
    pub fn behind_norm(&self, what: &str, p: &Plain) -> Result<Dense> {
        let p = centred(p);
        Ok(Dense { colsum: Some(self.floats(&self.sums(&p))?), ..self.dense(what, &p)? })
    }
    /// Sums over k of the rounded weights.
    pub fn sums(&self, p: &Plain) -> Vec<f32> {
        let sum = |row: &[f32]| row.iter().map(|x| self.dtype.round(*x) as f64).sum::<f64>() as f32;
        p.w.chunks_exact(p.k()).map(sum).collect()
    }
}

/// Every row without its mean.
pub fn centred(p: &Plain) -> Plain {
    let k = p.k();
    let mut w = p.w.clone();
    for row in w.chunks_exact_mut(k) {
        let mean = row.iter().map(|x| *x as f64).sum::<f64>() / k as f64;
        row.iter_mut().for_each(|x| *x = (*x as f64 - mean) as f32);
    }
    Plain { w, b: p.b.clone() }
}

/// What one encoder block multiplies with.
pub struct Block {
    pub qkv: Dense,
    pub proj: Dense,
    pub fc1: Dense,
    pub fc2: Dense,
}

/// Patch weights `(C, K)` and the table `(T, C)` that their products are added to.
pub struct Patch {
    pub w: Buffer<u8>,
    pub table: Buffer<f32>,
    pub types: Types,
}

/// One decoder block, besides what [`Factors`] holds of all.
pub struct Decode {
    pub q: Dense,
    /// What the projection's bias adds to the first MLP layer before the row's scale, and what comes after it, `(4C)`.
    pub fc1_scaled: Buffer<f32>,
    pub fc1_shift: Buffer<f32>,
    /// Squared length of the projection's centred bias / C: what a row without coefficients varies by.
    pub bias_variance: f32,
    pub fc2: Dense,
}

/// A model on a device.
pub struct Weights {
    pub config: Config,
    pub dtype: DType,
    pub patch_u8: Patch,
    pub patch_f32: Patch,
    pub blocks: Vec<Block>,
    pub extract: Extract,
    pub bottleneck: (Dense, Dense),
    pub factors: Factors,
    pub decode: Vec<Decode>,
    pub bands: anomaly_map::cuda::Bands,
}

/// The extractor (`kernels/inp_extract.cu`).
pub struct Extract {
    /// `(HPK, C)`, in base 2.
    pub query_key: Buffer<u8>,
    pub colsum: Buffer<f32>,
    pub value: Dense,
    pub proj: Dense,
    /// P0 `(P, C)`.
    pub prototypes: Buffer<f32>,
    pub fc1: Dense,
    pub fc2: Dense,
    pub types: Types,
}

/// All decoder blocks' weights that prototypes go through (`kernels/inp_factors.cu`).
pub struct Factors {
    /// `(J, 2C, C)` and `(J, 2C)`.
    pub kv_w: Buffer<u8>,
    pub kv_b: Buffer<f32>,
    /// `(J, 5C, C)`: the projection, then its centred form through the gain and the first MLP layer.
    pub products: Buffer<u8>,
    /// `Wc'·Wc/C` `(J, C, C)` and `Wc'·bc/C` `(J, C)` of the centred projection.
    pub middle: Buffer<f32>,
    pub cross: Buffer<f32>,
    /// `learn_scale` `(J, H)`.
    pub scale: Buffer<f32>,
    pub types: Types,
}

/// Bytes that a model's large matrices take on a device, nearly all of its memory.
pub fn bytes(cfg: &Config, dtype: DType) -> usize {
    let (encoder, decoder) = (cfg.blocks(), cfg.decoder_blocks);
    // In units of C x C: qkv, proj, MLP; bottleneck; extractor; keys, values, products, query, MLP's second half.
    let elements = 12 * encoder + 8 + 10 + 12 * decoder;
    cfg.channels.pow(2) * (elements * dtype.bytes() + 4 * decoder)
}

impl Weights {
    /// Folds, rounds and uploads; blocks are let go as they are folded.
    pub fn new(cpu: &Cpu, gpu: &Gpu, dtype: DType, model: Model) -> Result<Self> {
        model.trained()?;
        let (config, encoder, trained, _) = model.into_parts();
        let trained = trained.expect("asked for above");
        let cfg = &config;
        let on = Loader { gpu, dtype };
        let side = cfg.side();
        let pos = patch_embed::pos_embed(cpu, &encoder.pos, (side, side))?;
        let patch = |u8_input| -> Result<Patch> {
            let (p, mut table) = fold::patches(cfg, &encoder, &pos, u8_input);
            let k = 3 * PATCH * PATCH;
            if u8_input {
                // Pixels enter as pixel - 128.
                for (i, row) in p.w.chunks_exact(k).enumerate() {
                    let offset = 128.0 * row.iter().map(|x| *x as f64).sum::<f64>();
                    let column =
                        table[cfg.prefix() * cfg.channels..].iter_mut().skip(i).step_by(cfg.channels);
                    column.for_each(|x| *x = (*x as f64 + offset) as f32);
                }
            }
            let types = Types::finest(dtype, &[&p.w]);
            let w = patch_embed::cuda::weights(&p.w, u8_input);
            Ok(Patch { w: on.operands(types).elements("patch_embed", &w)?, table: on.floats(&table)?, types })
        };
        let (patch_u8, patch_f32) = (patch(true)?, patch(false)?);
        let block = |(i, b)| -> Result<Block> {
            let name = |layer: &str| format!("encoder block {i}, {layer}");
            let [qkv, proj, fc1, fc2] = fold::encoder_block(cfg, b);
            Ok(Block {
                qkv: on.behind_norm(&name("qkv"), &qkv)?,
                proj: on.dense(&name("proj"), &proj)?,
                fc1: on.behind_norm(&name("fc1"), &fc1)?,
                fc2: on.dense(&name("fc2"), &fc2)?,
            })
        };
        let blocks = encoder.blocks.into_iter().enumerate().map(block).collect::<Result<_>>()?;
        let mlp = &trained.bottleneck;
        let bottleneck = (
            on.dense("bottleneck fc1", &Plain::of(&mlp.fc1))?,
            on.dense("bottleneck fc2", &Plain::of(&mlp.fc2))?,
        );
        let (factors, decode) = decoder(cpu, &on, trained.decoder.as_slice())?;
        Ok(Self {
            extract: Extract::new(cpu, &on, cfg, &trained)?,
            bands: anomaly_map::cuda::Bands::new(gpu, side, cfg.crop)?,
            dtype,
            patch_u8,
            patch_f32,
            blocks,
            bottleneck,
            factors,
            decode,
            config,
        })
    }
}

impl Extract {
    fn new(cpu: &Cpu, on: &Loader, cfg: &Config, p: &Trained) -> Result<Self> {
        let (e, c, hp) = (&p.extractor, cfg.channels, cfg.heads * cfg.prototypes);
        let (mut qk, kv) = fold::query_key(cpu, cfg, p)?;
        qk.iter_mut().for_each(|x| *x *= std::f32::consts::LOG2_E);
        qk.resize(padded(hp) * c, 0.0);
        let qk = centred(&Plain { w: qk, b: vec![0.0; padded(hp)] });
        let value = Plain { w: kv.w[c * c..].to_vec(), b: kv.b[c..].to_vec() };
        let (proj, fc2) = (Plain::of(&e.proj), Plain::of(&e.mlp.fc2));
        let fc1 = fold::normed(&e.norm2, &e.mlp.fc1);
        let types = on.finest(&[&value, &fc1], &[&proj.w, &fc2.w]);
        let rows = on.operands(types);
        Ok(Self {
            query_key: on.elements("extractor query and key", &qk.w)?,
            colsum: on.floats(&on.sums(&qk))?,
            value: rows.dense("extractor value", &value)?,
            proj: rows.dense("extractor proj", &proj)?,
            prototypes: on.floats(&p.prototypes.data)?,
            fc1: rows.dense("extractor fc1", &fc1)?,
            fc2: rows.dense("extractor fc2", &fc2)?,
            types,
        })
    }
}

fn decoder(cpu: &Cpu, on: &Loader, blocks: &[DecoderBlock]) -> Result<(Factors, Vec<Decode>)> {
    let (mut all_kv, mut products) = (Plain { w: Vec::new(), b: Vec::new() }, Vec::new());
    let (mut middle, mut cross, mut scale) = (Vec::new(), Vec::new(), Vec::new());
    let mut decode = Vec::with_capacity(blocks.len());
    for (j, b) in blocks.iter().enumerate() {
        let name = |layer: &str| format!("decoder block {j}, {layer}");
        let c = b.proj.b.len();
        let l = LowRank::new(cpu, b);
        let kv = fold::normed(&b.norm1, &b.kv);
        all_kv.w.extend(kv.w);
        all_kv.b.extend(kv.b);
        products.extend_from_slice(&b.proj.w.data);
        products.extend(l.a);
        let mut s = vec![0.0; c * c];
        let centred = |m: fn(_, _) -> _| m(&l.centred[..], c);
        gemm(cpu, [c, c, c], centred(Mat::transposed), centred(Mat::plain), &mut s, c, Start::Zero);
        middle.extend(s.iter().map(|x| x / c as f32));
        let column = |i: usize| l.centred.iter().skip(i).step_by(c).zip(&l.centred_bias);
        let product = |(w, b): (&f32, &f32)| *w as f64 * *b as f64;
        cross.extend((0..c).map(|i| (column(i).map(product).sum::<f64>() / c as f64) as f32));
        scale.extend(&b.scale.data);
        decode.push(Decode {
            q: on.behind_norm(&name("query"), &fold::normed(&b.norm1, &b.q))?,
            fc1_scaled: on.floats(&l.fc1_scaled)?,
            fc1_shift: on.floats(&l.fc1_shift)?,
            bias_variance: (fold::dot(&l.centred_bias, &l.centred_bias) / c as f64) as f32,
            fc2: on.dense(&name("fc2"), &l.fc2)?,
        });
    }
    let types = on.finest(&[&all_kv], &[&products]);
    let factors = Factors {
        types,
        kv_w: on.operands(types).elements("the decoder's key and value layers", &all_kv.w)?,
        kv_b: on.floats(&all_kv.b)?,
        products: on.operands(types).elements("the decoder's proj and fc1 layers", &products)?,
        middle: on.floats(&middle)?,
        cross: on.floats(&cross)?,
        scale: on.floats(&scale)?,
    };
    Ok((factors, decode))
}

/// Heads times prototypes, rounded up to what one mma takes.
pub fn padded(hp: usize) -> usize {
    hp.div_ceil(16) * 16
}
