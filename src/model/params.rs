//! Typed weights. One `build` walks every tensor by its published name and shape; loading, random initialisation and
//! zero gradients are that walk with another source.

use crate::error::Result;
use crate::model::Config;
use crate::model::config::PATCH;
use crate::runtime::{Elem, Tensor};

/// Gives the tensor of a published name and shape.
pub type Source<'a, E> = &'a mut dyn FnMut(&str, &[usize]) -> Result<Tensor<E>>;

/// w `(N, K)`, b `(N)`.
#[derive(Clone, Debug)]
pub struct Linear<E: Elem = f32> {
    /// Weight `(N, K)`.
    pub w: Tensor<E>,
    /// Bias `(N)`.
    pub b: Tensor<E>,
}

/// gain and bias `(C)`.
#[derive(Clone, Debug)]
pub struct Norm<E: Elem = f32> {
    /// Factor `(C)`.
    pub gain: Tensor<E>,
    /// Summand `(C)`.
    pub bias: Tensor<E>,
}

/// fc1 `C → 4C`, fc2 `4C → C`, GELU between.
#[derive(Clone, Debug)]
pub struct Mlp<E: Elem = f32> {
    /// `(hidden, C)`.
    pub fc1: Linear<E>,
    /// `(C, hidden)`.
    pub fc2: Linear<E>,
}

impl<E: Elem> Linear<E> {
    fn build(name: &str, n: usize, k: usize, get: Source<E>) -> Result<Self> {
        Ok(Self { w: get(&format!("{name}.weight"), &[n, k])?, b: get(&format!("{name}.bias"), &[n])? })
    }
}

impl<E: Elem> Norm<E> {
    fn build(name: &str, c: usize, get: Source<E>) -> Result<Self> {
        Ok(Self { gain: get(&format!("{name}.weight"), &[c])?, bias: get(&format!("{name}.bias"), &[c])? })
    }
}

impl<E: Elem> Mlp<E> {
    fn build(name: &str, c: usize, hidden: usize, get: Source<E>) -> Result<Self> {
        Ok(Self {
            fc1: Linear::build(&format!("{name}.fc1"), hidden, c, get)?,
            fc2: Linear::build(&format!("{name}.fc2"), c, hidden, get)?,
        })
    }
}

/// One encoder block; `ls1`, `ls2` are the layer scales `(C)`.
#[derive(Clone, Debug)]
pub struct EncoderBlock<E: Elem = f32> {
    /// Before the attention.
    pub norm1: Norm<E>,
    /// q, k, v `(3C, C)`, each by heads.
    pub qkv: Linear<E>,
    /// After the attention `(C, C)`.
    pub proj: Linear<E>,
    /// Scale of the attention's branch `(C)`.
    pub ls1: Tensor<E>,
    /// Before the MLP.
    pub norm2: Norm<E>,
    /// `C → 4C → C`.
    pub mlp: Mlp<E>,
    /// Scale of the MLP's branch `(C)`.
    pub ls2: Tensor<E>,
}

/// The frozen encoder, up to the last block that is used.
#[derive(Clone, Debug)]
pub struct Encoder<E: Elem = f32> {
    /// Patch embedding `(C, 3, 14, 14)` and `(C)`.
    pub patch: Linear<E>,
    /// Class token `(1, 1, C)`.
    pub cls: Tensor<E>,
    /// Stored position embedding `(1, 1 + g·g, C)`.
    pub pos: Tensor<E>,
    /// Register tokens `(1, R, C)`.
    pub registers: Option<Tensor<E>>,
    /// Blocks 0 up to the last target layer.
    pub blocks: Vec<EncoderBlock<E>>,
}

impl<E: Elem> Encoder<E> {
    /// Walks the encoder's tensors.
    pub fn build(cfg: &Config, get: Source<E>) -> Result<Self> {
        let c = cfg.channels;
        let patch = Linear {
            w: get("encoder.patch_embed.proj.weight", &[c, 3, PATCH, PATCH])?,
            b: get("encoder.patch_embed.proj.bias", &[c])?,
        };
        let cls = get("encoder.cls_token", &[1, 1, c])?;
        let pos = get("encoder.pos_embed", &[1, 1 + cfg.pos_grid * cfg.pos_grid, c])?;
        let registers = match cfg.registers {
            0 => None,
            r => Some(get("encoder.register_tokens", &[1, r, c])?),
        };
        let block = |i: usize, get: Source<E>| -> Result<EncoderBlock<E>> {
            let n = format!("encoder.blocks.{i}");
            Ok(EncoderBlock {
                norm1: Norm::build(&format!("{n}.norm1"), c, get)?,
                qkv: Linear::build(&format!("{n}.attn.qkv"), 3 * c, c, get)?,
                proj: Linear::build(&format!("{n}.attn.proj"), c, c, get)?,
                ls1: get(&format!("{n}.ls1.gamma"), &[c])?,
                norm2: Norm::build(&format!("{n}.norm2"), c, get)?,
                mlp: Mlp::build(&format!("{n}.mlp"), c, cfg.hidden, get)?,
                ls2: get(&format!("{n}.ls2.gamma"), &[c])?,
            })
        };
        let blocks = (0..cfg.blocks()).map(|i| block(i, get)).collect::<Result<_>>()?;
        Ok(Self { patch, cls, pos, registers, blocks })
    }
}

/// The INP extractor: one block whose queries are the learned prototypes.
#[derive(Clone, Debug)]
pub struct Extractor<E: Elem = f32> {
    /// Of the prototypes and of the patches alike.
    pub norm1: Norm<E>,
    /// Queries, from the prototypes `(C, C)`.
    pub q: Linear<E>,
    /// Keys and values, from the patches `(2C, C)`.
    pub kv: Linear<E>,
    /// After the attention `(C, C)`.
    pub proj: Linear<E>,
    /// Before the MLP.
    pub norm2: Norm<E>,
    /// `C → 4C → C`.
    pub mlp: Mlp<E>,
}

/// One INP-guided decoder block; `scale` is `learn_scale` `(H, 1, 1)`.
#[derive(Clone, Debug)]
pub struct DecoderBlock<E: Elem = f32> {
    /// Of the patches and of the prototypes alike.
    pub norm1: Norm<E>,
    /// Queries, from the patches `(C, C)`.
    pub q: Linear<E>,
    /// Keys and values, from the image's prototypes `(2C, C)`.
    pub kv: Linear<E>,
    /// Factor of each head's similarities `(H, 1, 1)`.
    pub scale: Tensor<E>,
    /// After the attention `(C, C)`.
    pub proj: Linear<E>,
    /// Before the MLP.
    pub norm2: Norm<E>,
    /// `C → 4C → C`.
    pub mlp: Mlp<E>,
}

/// Everything that is trained; a gradient has the same type.
#[derive(Clone, Debug)]
pub struct Trained<E: Elem = f32> {
    /// Learned prototypes P0 `(P, C)`.
    pub prototypes: Tensor<E>,
    /// `C → 4C → C` between encoder and decoder.
    pub bottleneck: Mlp<E>,
    /// Makes the image's prototypes.
    pub extractor: Extractor<E>,
    /// Blocks in the order they run.
    pub decoder: Vec<DecoderBlock<E>>,
}

/// Every tensor of a `&Trained` or a `&mut Trained`, in `build` order.
macro_rules! all_tensors {
    ($t:expr) => {{
        let Trained { prototypes, bottleneck, extractor, decoder } = $t;
        let Extractor { norm1, q, kv, proj, norm2, mlp } = extractor;
        let mut v = vec![prototypes];
        all_tensors!(v, mlp bottleneck);
        all_tensors!(v, norm norm1, lin q, lin kv, lin proj, norm norm2, mlp mlp);
        for block in decoder {
            let DecoderBlock { norm1, q, kv, scale, proj, norm2, mlp } = block;
            all_tensors!(v, norm norm1, lin q, lin kv, one scale, lin proj, norm norm2, mlp mlp);
        }
        v
    }};
    ($v:ident, $($kind:ident $x:ident),*) => { $(all_tensors!(@$kind $v, $x);)* };
    (@one $v:ident, $x:expr) => { $v.push($x) };
    (@lin $v:ident, $x:expr) => {{
        let Linear { w, b } = $x;
        $v.extend([w, b]);
    }};
    (@norm $v:ident, $x:expr) => {{
        let Norm { gain, bias } = $x;
        $v.extend([gain, bias]);
    }};
    (@mlp $v:ident, $x:expr) => {{
        let Mlp { fc1, fc2 } = $x;
        all_tensors!(@lin $v, fc1);
        all_tensors!(@lin $v, fc2);
    }};
}

impl<E: Elem> Trained<E> {
    /// Walks the trained tensors, always in this order.
    pub fn build(cfg: &Config, get: Source<E>) -> Result<Self> {
        let (c, hidden) = (cfg.channels, 4 * cfg.channels);
        let prototypes = get("prototype_token", &[cfg.prototypes, c])?;
        let bottleneck = Mlp::build("bottleneck.0", c, hidden, get)?;
        let n = "aggregation.0";
        let extractor = Extractor {
            norm1: Norm::build(&format!("{n}.norm1"), c, get)?,
            q: Linear::build(&format!("{n}.attn.q"), c, c, get)?,
            kv: Linear::build(&format!("{n}.attn.kv"), 2 * c, c, get)?,
            proj: Linear::build(&format!("{n}.attn.proj"), c, c, get)?,
            norm2: Norm::build(&format!("{n}.norm2"), c, get)?,
            mlp: Mlp::build(&format!("{n}.mlp"), c, hidden, get)?,
        };
        let block = |j: usize, get: Source<E>| -> Result<DecoderBlock<E>> {
            let n = format!("decoder.{j}");
            Ok(DecoderBlock {
                norm1: Norm::build(&format!("{n}.norm1"), c, get)?,
                q: Linear::build(&format!("{n}.attn.q"), c, c, get)?,
                kv: Linear::build(&format!("{n}.attn.kv"), 2 * c, c, get)?,
                scale: get(&format!("{n}.attn.learn_scale"), &[cfg.heads, 1, 1])?,
                proj: Linear::build(&format!("{n}.attn.proj"), c, c, get)?,
                norm2: Norm::build(&format!("{n}.norm2"), c, get)?,
                mlp: Mlp::build(&format!("{n}.mlp"), c, hidden, get)?,
            })
        };
        let decoder = (0..cfg.decoder_blocks).map(|j| block(j, get)).collect::<Result<_>>()?;
        Ok(Self { prototypes, bottleneck, extractor, decoder })
    }

    /// All zeros: where gradients and optimiser moments start.
    pub fn zeros(cfg: &Config) -> Self {
        Self::build(cfg, &mut |_, shape| Ok(Tensor::zeros(shape))).expect("zeros have every shape")
    }

    /// Published names, in `build` order.
    pub fn names(cfg: &Config) -> Vec<String> {
        let mut v = Vec::new();
        Self::build(cfg, &mut |name, shape| {
            v.push(name.to_string());
            Ok(Tensor::<E>::zeros(&vec![0; shape.len()]))
        })
        .expect("names have no errors");
        v
    }

    /// Every tensor, in `build` order.
    pub fn tensors(&self) -> Vec<&Tensor<E>> {
        all_tensors!(self)
    }

    /// Every tensor, in `build` order.
    pub fn tensors_mut(&mut self) -> Vec<&mut Tensor<E>> {
        all_tensors!(self)
    }
}
