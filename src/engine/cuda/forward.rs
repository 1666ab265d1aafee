//! One batch through the kernels: from pixels on the device to maps and scores on the device.
//!
//! The extractor and what the decoder needs of the prototypes run beside the bottleneck: they only share the features.

use super::weights::{Dense, Weights};
use crate::engine::fold::EPS;
use crate::error::Result;
use crate::ops::anomaly_map::SIDE;
use crate::ops::anomaly_map::cuda as anomaly_map;
use crate::ops::attention::cuda as attention;
use crate::ops::inp_coefficients::cuda as inp_coefficients;
use crate::ops::inp_decode::cuda as inp_decode;
use crate::ops::inp_extract::cuda::{self as inp_extract, Shape};
use crate::ops::inp_factors::cuda as inp_factors;
use crate::ops::linear::cuda::{self as linear, Epilogue, Fused, Groups, Norm, Output};
use crate::ops::patch_embed::cuda as patch_embed;
use crate::runtime::DType;
use crate::runtime::cuda::{Arena, Buffer, Stream};

/// Stems whose variant `INP_KERNEL` may choose.
pub const STEMS: [&str; 8] = [
    "patch_embed",
    "linear",
    "attention",
    "inp_extract",
    "inp_factors",
    "inp_coefficients",
    "inp_decode_fc1",
    "inp_decode",
];

/// Rows of elements and the statistics that a LayerNorm behind them needs.
struct Rows {
    /// `(rows, C)` of the element type.
    x: Buffer<u8>,
    /// As [`linear::statistics`] lays them out.
    stats: Buffer<[f32; 2]>,
}

impl Rows {
    fn new(arena: &mut Arena, dtype: DType, rows: usize, c: usize) -> Self {
        Self { x: arena.take(rows * c * dtype.bytes()), stats: arena.take(linear::statistics(rows, c)) }
    }
    fn output(&self) -> Output<'_> {
        Output { y: &self.x, stats: Some(&self.stats) }
    }
}

/// Every buffer of one pass, for one number of pictures.
pub struct Workspace {
    shape: Shape,
    zero_shot: bool,
    /// Token stream `(B, T, C)` in f32, and rounded.
    x: Buffer<f32>,
    rounded: Rows,
    qkv: Buffer<u8>,
    attended: Buffer<u8>,
    /// `(B·T, 4C)`, and the decoder's `(B·N, 4C)`.
    hidden: Buffer<u8>,
    decoder_hidden: Buffer<u8>,
    /// Sums of each group's encoder outputs `(G, B, N, C)` and each group's part of it; the decoder's of each group.
    encoded: Buffer<f32>,
    encoded_of: Vec<Buffer<f32>>,
    decoded_of: Vec<Buffer<f32>>,
    /// f `(B, N, C)`.
    fused: Rows,
    extract: inp_extract::Workspace,
    /// I `(B, P, C)`.
    pub inp: Buffer<f32>,
    factors: inp_factors::Factors,
    /// Decoder stream `(B, N, C)`.
    z: Rows,
    coef: Buffer<u8>,
    /// `(B, G, N)`; zero-shot `(B, 1, N)`.
    pub native: Buffer<f32>,
    state: Buffer<u32>,
    /// `(B, 256, 256)` and `(B)`.
    pub map: Buffer<f32>,
    pub score: Buffer<f32>,
}

/// Where a batch enters.
pub enum Pixels<'a> {
    /// `(B, X, X, 3)`, 8 bits.
    Crops(&'a Buffer<u8>),
    /// `(B, 3, X, X)`, normalised.
    Tensors(&'a Buffer<f32>),
}

impl Workspace {
    /// For `batch` pictures.
    pub fn new(arena: &mut Arena, m: &Weights, batch: usize, zero_shot: bool) -> Result<Self> {
        let (cfg, dtype) = (&m.config, m.dtype);
        let (c, side, groups) = (cfg.channels, cfg.side(), cfg.groups.len());
        let (heads, prototypes) = (cfg.heads, cfg.prototypes);
        let shape = Shape { batch, tokens: side * side, channels: c, heads, prototypes };
        let patches = batch * shape.tokens;
        let rows = batch * (shape.tokens + cfg.prefix());
        let e = dtype.bytes();
        let encoded: Buffer<f32> = arena.take(groups * patches * c);
        let part = |g| encoded.part(g * patches * c, patches * c);
        Ok(Self {
            x: arena.take(rows * c),
            rounded: Rows::new(arena, dtype, rows, c),
            qkv: arena.take(rows * 3 * c * e),
            attended: arena.take(rows * c * e),
            hidden: arena.take(rows * cfg.hidden * e),
            decoder_hidden: arena.take(patches * 4 * c * e),
            encoded_of: (0..groups).map(part).collect::<Result<_>>()?,
            encoded,
            decoded_of: (0..groups).map(|_| arena.take(patches * c)).collect(),
            fused: Rows::new(arena, dtype, patches, c),
            extract: inp_extract::Workspace::new(arena, dtype, &shape),
            inp: arena.take(batch * prototypes * c),
            factors: inp_factors::Factors::new(arena, dtype, &shape, cfg.decoder_blocks),
            z: Rows::new(arena, dtype, patches, c),
            coef: arena.take(patches * shape.padded() * e),
            native: arena.take(if zero_shot { 1 } else { groups } * patches),
            state: arena.take(anomaly_map::Maps::state(batch)),
            map: arena.take(batch * SIDE * SIDE),
            score: arena.take(batch),
            zero_shot,
            shape,
        })
    }

    /// Once, before the first pass.
    pub fn prepare(&self, s: &Stream) -> Result<()> {
        self.state.fill(s, 0)
    }

    /// Native maps `(N)` of each group and prototypes `(P, C)` of the last picture of the last pass.
    pub fn last(&self, s: &Stream) -> Result<(Vec<Vec<f32>>, Vec<f32>)> {
        let last = |b: &Buffer<f32>| {
            let len = b.len() / self.shape.batch;
            b.part(b.len() - len, len)?.download(s)
        };
        let native = last(&self.native)?;
        Ok((native.chunks_exact(self.shape.tokens).map(<[f32]>::to_vec).collect(), last(&self.inp)?))
    }

    /// Pixels → native maps, prototypes, maps and scores, queued on `s`; what can run beside goes to `side`.
    pub fn run(&self, s: &Stream, side: &Stream, m: &Weights, pixels: Pixels) -> Result<()> {
        let cfg = &m.config;
        self.patches(s, m, pixels)?;
        for l in 0..m.blocks.len() {
            self.block(s, m, l)?;
        }
        let Shape { batch, tokens, channels, .. } = self.shape;
        let sizes = anomaly_map::Shape { batch, tokens, channels };
        if self.zero_shot {
            self.extract(s, m)?;
            anomaly_map::nearest(s, &self.native, &self.encoded_of, &self.inp, cfg.prototypes, &sizes)?;
        } else {
            s.fork(side)?;
            self.extract(side, m)?;
            self.factors(side, m)?;
            self.bottleneck(s, m)?;
            s.join(side)?;
            for j in 0..m.decode.len() {
                self.decode(s, m, j)?;
            }
            anomaly_map::distances(s, &self.native, &self.encoded_of, &self.decoded_of, &sizes)?;
        }
        let out = anomaly_map::Maps { map: &self.map, score: &self.score, state: &self.state };
        let groups = if self.zero_shot { 1 } else { cfg.groups.len() };
        anomaly_map::post(s, &out, &self.native, &m.bands, groups, batch)
    }

    fn patches(&self, s: &Stream, m: &Weights, pixels: Pixels) -> Result<()> {
        let cfg = &m.config;
        let shape = patch_embed::Shape {
            batch: self.shape.batch,
            side: cfg.side(),
            prefix: cfg.prefix(),
            channels: cfg.channels,
        };
        let out = patch_embed::Output { x: &self.x, copy: &self.rounded.x, stats: &self.rounded.stats };
        let (input, patch) = match pixels {
            Pixels::Crops(p) => (patch_embed::Input::U8(p), &m.patch_u8),
            Pixels::Tensors(p) => (patch_embed::Input::F32(p), &m.patch_f32),
        };
        let asked = s.gpu().asked("patch_embed");
        let variant = patch_embed::choose(m.dtype, &s.gpu().into(), &shape, asked.as_deref())?;
        patch_embed::forward(s, patch.types, variant, &out, input, &patch.w, &patch.table, &shape)
    }

    /// One encoder block; its output joins the group that it belongs to, the last one's makes f.
    fn block(&self, s: &Stream, m: &Weights, l: usize) -> Result<()> {
        let (cfg, b) = (&m.config, &m.blocks[l]);
        let c = cfg.channels;
        let rows = self.x.len() / c;
        let stream = || Epilogue {
            residual: Some(&self.x),
            output: Some(self.rounded.output()),
            ..Epilogue::default()
        };
        let only = |y| Epilogue { output: Some(Output { y, stats: None }), ..Epilogue::default() };
        let norm = Some((&self.rounded.stats, EPS.0));
        self.linear(s, m, rows, &self.rounded.x, &b.qkv, norm, only(&self.qkv))?;
        let shape =
            attention::Shape { batch: self.shape.batch, tokens: rows / self.shape.batch, heads: cfg.heads };
        let asked = s.gpu().asked("attention");
        let variant = attention::choose(m.dtype, &s.gpu().into(), &shape, asked.as_deref())?;
        attention::forward(s, m.dtype, variant, &self.attended, &self.qkv, &shape)?;
        self.linear(s, m, rows, &self.attended, &b.proj, None, stream())?;
        let gelu = Epilogue { gelu: true, ..only(&self.hidden) };
        self.linear(s, m, rows, &self.rounded.x, &b.fc1, norm, gelu)?;
        let target = cfg.target_layers.iter().position(|&x| x == l);
        let groups = target.map(|i| {
            let index = cfg.groups.iter().position(|g| g.contains(&i)).expect("groups partition the layers");
            Groups {
                sums: &self.encoded,
                index,
                add: cfg.groups[index].iter().any(|&other| other < i),
                tokens: shape.tokens,
                prefix: cfg.prefix(),
                fused: (i + 1 == cfg.target_layers.len()).then(|| Fused {
                    output: self.fused.output(),
                    f32: None,
                    share: 1.0 / cfg.target_layers.len() as f32,
                }),
            }
        });
        self.linear(s, m, rows, &self.hidden, &b.fc2, None, Epilogue { groups, ..stream() })
    }

    #[allow(clippy::too_many_arguments)]
    fn linear(
        &self,
        s: &Stream,
        m: &Weights,
        rows: usize,
        x: &Buffer<u8>,
        w: &Dense,
        norm: Option<(&Buffer<[f32; 2]>, f32)>,
        epilogue: Epilogue,
    ) -> Result<()> {
        let norm = norm.zip(w.colsum.as_ref()).map(|((stats, eps), colsum)| Norm { stats, colsum, eps });
        let epilogue = Epilogue { norm, bias: Some(&w.bias), ..epilogue };
        let shape = linear::Shape { rows, outputs: w.n, inputs: w.k };
        let asked = s.gpu().asked("linear");
        let variant = linear::choose(m.dtype, &s.gpu().into(), &shape, epilogue.gelu, asked.as_deref())?;
        linear::forward(s, m.dtype, variant, &epilogue, x, &w.w, &shape)
    }

    /// f → I.
    fn extract(&self, s: &Stream, m: &Weights) -> Result<()> {
        let e = &m.extract;
        let weights = inp_extract::Weights {
            query_key: &e.query_key,
            colsum: &e.colsum,
            value: &e.value.w,
            value_bias: &e.value.bias,
            proj: &e.proj.w,
            proj_bias: &e.proj.bias,
            prototypes: &e.prototypes,
            fc1: &e.fc1.w,
            fc1_bias: &e.fc1.bias,
            fc2: &e.fc2.w,
            fc2_bias: &e.fc2.bias,
        };
        let (f, work, shape) = (&self.fused, &self.extract, &self.shape);
        let asked = s.gpu().asked("inp_extract");
        let variant = inp_extract::choose(m.dtype, &s.gpu().into(), shape, asked.as_deref())?;
        inp_extract::forward(s, e.types, variant, &self.inp, work, &f.x, &f.stats, &weights, shape, EPS.1)
    }

    /// I → what every decoder block needs of it.
    fn factors(&self, s: &Stream, m: &Weights) -> Result<()> {
        let f = &m.factors;
        let weights = inp_factors::Weights {
            kv: &f.kv_w,
            kv_bias: &f.kv_b,
            products: &f.products,
            middle: &f.middle,
            cross: &f.cross,
            scale: &f.scale,
        };
        let (shape, asked) = (&self.shape, s.gpu().asked("inp_factors"));
        let variant = inp_factors::choose(m.dtype, &s.gpu().into(), shape, m.decode.len(), asked.as_deref())?;
        inp_factors::forward(s, f.types, variant, &self.factors, &self.inp, &weights, shape, EPS.1)
    }

    /// f → the decoder's stream.
    fn bottleneck(&self, s: &Stream, m: &Weights) -> Result<()> {
        let rows = self.shape.batch * self.shape.tokens;
        let output = Some(Output { y: &self.decoder_hidden, stats: None });
        let hidden = Epilogue { gelu: true, output, ..Epilogue::default() };
        let z = Epilogue { output: Some(self.z.output()), ..Epilogue::default() };
        self.linear(s, m, rows, &self.fused.x, &m.bottleneck.0, None, hidden)?;
        self.linear(s, m, rows, &self.decoder_hidden, &m.bottleneck.1, None, z)
    }

    /// One decoder block; its output joins the group that it belongs to.
    fn decode(&self, s: &Stream, m: &Weights, j: usize) -> Result<()> {
        let (cfg, b, f, shape) = (&m.config, &m.decode[j], &self.factors, &self.shape);
        let (gpu, machine) = (s.gpu(), s.gpu().into());
        let colsum = b.q.colsum.as_ref().expect("the query is behind a LayerNorm");
        let weights = inp_coefficients::Weights { q: &b.q.w, colsum, bias: &b.q.bias };
        let asked = gpu.asked("inp_coefficients");
        let tile = inp_coefficients::choose(m.dtype, &machine, shape, asked.as_deref())?;
        let keys = f.of(&f.keys, j)?;
        let (z, stats) = (&self.z.x, &self.z.stats);
        let coef = &self.coef;
        inp_coefficients::forward(s, m.dtype, tile, coef, z, stats, &keys, &weights, shape, EPS.1)?;
        let weights = inp_decode::Weights {
            va: &f.of(&f.va, j)?,
            vw: &f.of(&f.vw, j)?,
            gram: &f.of(&f.gram, j)?,
            gram_scale: &f.of(&f.gram_scale, j)?,
            bias_variance: b.bias_variance,
            fc1_scaled: &b.fc1_scaled,
            fc1_shift: &b.fc1_shift,
            fc2: &b.fc2.w,
            fc2_bias: &b.fc2.bias,
        };
        let hidden = &self.decoder_hidden;
        let asked = gpu.asked("inp_decode_fc1");
        let split = inp_decode::choose_fc1(m.dtype, &machine, shape, asked.as_deref())?;
        inp_decode::fc1(s, m.dtype, split, hidden, coef, &weights, shape, EPS.1)?;
        // Outputs are taken in reverse, so the last block counts as the first.
        let of = |j: usize| {
            let i = m.decode.len() - 1 - j;
            cfg.decoder_groups.iter().position(|g| g.contains(&i)).expect("groups partition the blocks")
        };
        let g = of(j);
        let accumulate = (0..j).any(|earlier| of(earlier) == g);
        let out = inp_decode::Output { z, stats, sum: &self.decoded_of[g], accumulate };
        let asked = gpu.asked("inp_decode");
        let tile = inp_decode::choose(m.dtype, &machine, shape, asked.as_deref())?;
        inp_decode::fc2(s, m.dtype, tile, &out, hidden, coef, &weights, shape)
    }
}
