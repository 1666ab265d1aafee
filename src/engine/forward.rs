//! One picture through the folded model. Every stage is one parallel pass over tiles; all buffers are made once.
//!
//! Pictures of a batch go one after the other: each gets the same bits as alone, and nothing grows with the batch.

use crate::model::config::{Config, PATCH};
use crate::ops::attention::{self, Softmax};
use crate::ops::linear::pack::Mat;
use crate::ops::linear::packed::factors::{forward_transposed, heads_to_panels};
use crate::ops::linear::packed::{self, Cell, Epilogue, Input, Narrow, Packed, Panels};
use crate::ops::{anomaly_map, layernorm};
use crate::runtime::Cpu;
use crate::runtime::simd::aligned::Aligned;

use super::fold::{Decode, EPS, Encoder, Folded, OFFSET};
use super::kernels::{add, coefficients, column_softmax, cosine, distances, gram, row_scales};
use super::layer::{Inputs, Watch};

/// Where a picture enters.
pub enum Pixels<'a> {
    /// Crop `(X, X, 3)`, RGB.
    U8(&'a [u8]),
    /// `(3, X, X)`, normalised.
    F32(&'a [f32]),
}

/// Every buffer of one pass, for one picture. X is what large products multiply; all else is f32.
#[derive(Clone)]
pub struct Workspace<X: Narrow> {
    /// Tokens `(T, C)`, what layers round, queries-keys-values `(T, 3C)`, attention's output.
    x: Aligned<f32>,
    inputs: Inputs<X>,
    qkv: Aligned<X>,
    out: Aligned<X>,
    /// `(T, 4C)`; also holds the patches' pixels.
    hidden: Aligned<X>,
    attention: attention::Scratch<X>,
    /// Sums of each group's encoder outputs `(T, C)` and decoder outputs `(N, C)`.
    en: Vec<Aligned<f32>>,
    de: Vec<Aligned<f32>>,
    /// f `(N, C)`; its normalisation for the extractor, then the decoder's queries.
    fused: Aligned<f32>,
    wide: Aligned<f32>,
    /// Extractor: scores `(N, H·P)`, packed normalised features, pooled `(H·P, C)`, I and its neighbours `(P, ·)`.
    scores: Aligned<f32>,
    column: Aligned<f32>,
    panels: Aligned<f32>,
    pooled: Aligned<f32>,
    inp: Aligned<f32>,
    inp_norm: Aligned<f32>,
    inp_out: Aligned<f32>,
    inp_hidden: Aligned<f32>,
    /// What the decoder sees of I, `(P, C)`.
    inp_operand: Aligned<X>,
    factors: Vec<Factors<X>>,
    /// Decoder: coefficients and 1 `(N, H·P + 1)`, the former as operands, the product with the Gram matrix, 1/deviation of
    /// each row `(N)`.
    coef: Aligned<f32>,
    coef_operand: Aligned<X>,
    coef_gram: Aligned<f32>,
    rstd: Aligned<f32>,
    /// Native maps of each group `(N)`, their mean, and the mean after one axis `(256, √N)`.
    native: Vec<Vec<f32>>,
    grid: Aligned<f32>,
    half: Aligned<f32>,
}

/// What one decoder block needs of the picture's prototypes.
#[derive(Clone)]
struct Factors<X: Narrow> {
    /// Keys and values `(P, 2C)`; both as operands.
    kv: Aligned<f32>,
    kv_operand: Aligned<X>,
    /// Normalised, scaled keys of each head in panels `[D][NR]`.
    keys: Aligned<f32>,
    /// VW in panels `[H·P/GROUP][NR]`, and VA.
    vw: Aligned<f32>,
    va: Aligned<f32>,
    /// Centred VW and bias `(H·P + 1, C)`, and their Gram matrix / C in panels.
    centred: Aligned<f32>,
    gram: Aligned<f32>,
    gram_panels: Aligned<f32>,
}

/// The product of `rows` rows of `ld = w.k` values with a layer.
fn layer<X: Narrow, Y: Cell<X>>(
    cpu: &Cpu,
    from: &[X],
    w: &Packed<X>,
    to: &mut [Y],
    rows: usize,
    e: Epilogue,
) {
    packed::forward(cpu, rows, Input { data: from, ld: w.k }, w.view(), None, to, w.n, e, None)
}

impl<X: Narrow> Workspace<X> {
    /// For models of this shape; for its encoder alone where it says of no trained part.
    pub fn new(cpu: &Cpu, cfg: &Config) -> Self {
        let (c, h, p) = (cfg.channels, cfg.heads, cfg.prototypes);
        let n = cfg.side() * cfg.side();
        let t = n + cfg.prefix();
        let nr = packed::tile::<f32>(cpu).1;
        let nr_x = packed::tile::<X>(cpu).1;
        let (hp, up) = (h * p, |x: usize| x.next_multiple_of(nr));
        let groups_hp = hp.div_ceil(X::GROUP);
        let hidden = cfg.hidden.max(4 * c);
        let (zeros, operands) = (Aligned::<f32>::zeros, Aligned::<X>::zeros);
        let groups = |rows: usize| cfg.groups.iter().map(|_| zeros(rows * c)).collect::<Vec<_>>();
        let factors = |_: usize| Factors {
            kv: zeros(p * 2 * c),
            kv_operand: operands(p * 2 * c),
            keys: zeros(h * up(p) * (c / h)),
            vw: zeros(groups_hp * c.next_multiple_of(nr_x)),
            va: zeros(groups_hp * (4 * c).next_multiple_of(nr_x)),
            centred: zeros((hp + 1) * c),
            gram: zeros((hp + 1) * (hp + 1)),
            gram_panels: zeros((hp + 1) * up(hp + 1)),
        };
        Self {
            x: zeros(t * c),
            inputs: Inputs::new(t, c, hidden),
            qkv: operands(t * 3 * c),
            out: operands(t * c),
            hidden: operands((t * hidden).max(n * 3 * PATCH * PATCH)),
            attention: attention::Scratch::new(cpu, t, c, h),
            en: groups(t),
            de: groups(n),
            fused: zeros(n * c),
            wide: zeros(n * c),
            scores: zeros(n * hp),
            column: zeros(2 * hp),
            panels: zeros(n * up(c)),
            pooled: zeros(hp * c),
            inp: zeros(p * c),
            inp_norm: zeros(p * c),
            inp_out: zeros(p * c),
            inp_hidden: zeros(p * 4 * c),
            inp_operand: operands(p * c),
            factors: (0..cfg.decoder_blocks).map(factors).collect(),
            coef: zeros(n * (hp + 1)),
            coef_operand: operands(n * groups_hp * X::GROUP),
            coef_gram: zeros(n * (hp + 1)),
            rstd: zeros(n),
            native: vec![vec![0.0; n]; cfg.groups.len()],
            grid: zeros(n),
            half: zeros(anomaly_map::SIDE * cfg.side()),
        }
    }

    /// From now on large layers' inputs are looked at; what was seen until now.
    pub fn watch(&mut self, watch: Option<Watch>) -> Option<Watch> {
        std::mem::replace(&mut self.inputs.watch, watch)
    }
    /// Native maps `(N)` of each group (one for zero-shot), of the last pass.
    pub fn native(&self, zero_shot: bool) -> &[Vec<f32>] {
        if zero_shot { &self.native[..1] } else { &self.native }
    }
    /// Mean of a group of `layers` encoder outputs, of the patches alone `(N, C)`, of the last pass.
    pub fn mean(&mut self, cpu: &Cpu, group: usize, layers: usize) -> &[f32] {
        let sum = &self.en[group];
        let patches = &sum[sum.len() - self.wide.len()..];
        self.wide.fill(0.0);
        add(cpu, &mut self.wide, patches, 1.0 / layers as f32);
        &self.wide
    }
    /// I `(P, C)` of the last pass.
    pub fn inp(&self) -> &[f32] {
        &self.inp
    }

    /// A picture → its pixel map `(256, 256)`. `stage` is called with a name as each stage ends.
    pub fn run(
        &mut self,
        cpu: &Cpu,
        m: &Folded<X>,
        pixels: Pixels,
        zero_shot: bool,
        map: &mut [f32],
        stage: &mut dyn FnMut(&'static str),
    ) {
        self.patches(cpu, &m.encoder, pixels);
        stage("patches");
        self.encode(cpu, &m.encoder, stage);
        self.extract(cpu, m);
        stage("extractor");
        if zero_shot {
            distances(cpu, &self.fused, &self.inp, m.config.channels, &mut self.native[0]);
        } else {
            self.decode(cpu, m, stage);
        }
        self.post(cpu, m, zero_shot, map);
        stage("map");
    }

    /// Pixels → x: patch products added to the table.
    pub fn patches(&mut self, cpu: &Cpu, m: &Encoder<X>, pixels: Pixels) {
        let cfg = &m.config;
        let (c, side, size, k) = (cfg.channels, cfg.side(), cfg.crop, 3 * PATCH * PATCH);
        let cols = &mut self.hidden[..side * side * k];
        let (weights, table) = match pixels {
            Pixels::U8(crop) => {
                let value: [X; 256] = std::array::from_fn(|b| X::round(b as f32 - OFFSET));
                cpu.for_chunks(cols, side * k, |py, rows| {
                    for (px, row) in rows.chunks_exact_mut(k).enumerate() {
                        for (y, line) in row.chunks_exact_mut(3 * PATCH).enumerate() {
                            let from = &crop[((py * PATCH + y) * size + px * PATCH) * 3..][..3 * PATCH];
                            line.iter_mut().zip(from).for_each(|(x, b)| *x = value[*b as usize]);
                        }
                    }
                });
                (&m.patch_u8, &m.table_u8)
            }
            Pixels::F32(img) => {
                cpu.for_chunks(cols, side * k, |py, rows| {
                    for (px, row) in rows.chunks_exact_mut(k).enumerate() {
                        for (i, line) in row.chunks_exact_mut(PATCH).enumerate() {
                            let (ch, y) = (i / PATCH, py * PATCH + i % PATCH);
                            let from = &img[(ch * size + y) * size + px * PATCH..][..PATCH];
                            line.iter_mut().zip(from).for_each(|(x, v)| *x = X::round(*v));
                        }
                    }
                });
                (&m.patch_f32, &m.table_f32)
            }
        };
        self.x.copy_from_slice(table);
        let x = &mut self.x[cfg.prefix() * c..];
        layer(cpu, cols, weights, x, side * side, Epilogue::Residual);
    }

    /// x through the encoder's blocks; the groups' sums of target outputs.
    pub fn encode(&mut self, cpu: &Cpu, m: &Encoder<X>, stage: &mut dyn FnMut(&'static str)) {
        let cfg = &m.config;
        let (c, hidden, heads, prefix) = (cfg.channels, cfg.hidden, cfg.heads, cfg.prefix());
        let t = self.x.len() / c;
        self.en.iter_mut().for_each(|e| e.fill(0.0));
        for (l, b) in m.blocks.iter().enumerate() {
            // Only patches leave the last block: its class and register rows are needed as keys and values alone.
            let first = if l + 1 == m.blocks.len() { prefix } else { 0 };
            let rows = t - first;
            let via = &mut self.inputs;
            b.qkv.on_sums(cpu, &self.x, Some(EPS.0), via, &mut self.qkv[..], Epilogue::Store);
            stage("qkv");
            let shape = [t, c, heads];
            attention::picture(
                cpu,
                &self.qkv,
                shape,
                Softmax::Base2,
                first,
                &mut self.attention,
                &mut self.out,
            );
            stage("attention");
            let (out, x) = (&self.out[first * c..], &mut self.x[first * c..]);
            b.proj.on_operands(cpu, out, None, via, x, Epilogue::Residual, None);
            stage("proj");
            b.fc1.on_sums(cpu, x, Some(EPS.0), via, &mut self.hidden[..], Epilogue::Gelu);
            stage("fc1");
            let group = |i| cfg.groups.iter().position(|g| g.contains(&i));
            let sum = cfg.target_layers.iter().position(|&x| x == l).and_then(group);
            let sum = sum.map(|g| &mut self.en[g][first * c..]);
            let from = &self.hidden[..rows * hidden];
            b.fc2.on_operands(cpu, from, None, via, x, Epilogue::Residual, sum);
            stage("fc2");
        }
        let share = 1.0 / cfg.target_layers.len() as f32;
        self.fused.fill(0.0);
        for e in &self.en {
            add(cpu, &mut self.fused, &e[prefix * c..], share);
        }
    }

    /// f → I.
    fn extract(&mut self, cpu: &Cpu, m: &Folded<X>) {
        let (cfg, e) = (&m.config, &m.extract);
        let (c, h, p) = (cfg.channels, cfg.heads, cfg.prototypes);
        let (n, hp, d) = (self.fused.len() / c, h * p, c / h);
        let norm = &mut self.wide[..];
        layernorm::normalise(cpu, &self.fused, c, EPS.1, norm);
        layer(cpu, norm, &e.query_key, &mut self.scores[..], n, Epilogue::Store);
        column_softmax(cpu, &mut self.scores, hp, &mut self.column);
        packed::pack_into(cpu, &mut self.panels, Mat::plain(norm, c), c, n);
        let b = Panels::new(&self.panels, c, n);
        forward_transposed(cpu, hp, &self.scores, hp, b, &mut self.pooled, c);
        for (head, value) in e.value.iter().enumerate() {
            let input = Input { data: &self.pooled[head * p * c..], ld: c };
            let out = &mut self.inp_out[head * d..];
            packed::forward(cpu, p, input, value.view(), None, out, c, Epilogue::Store, None);
        }
        self.inp.copy_from_slice(&e.prototypes);
        layer(cpu, &self.inp_out, &e.proj, &mut self.inp[..], p, Epilogue::Residual);
        layernorm::normalise(cpu, &self.inp, c, EPS.1, &mut self.inp_norm[..]);
        layer(cpu, &self.inp_norm, &e.fc1, &mut self.inp_hidden[..], p, Epilogue::Gelu);
        layer(cpu, &self.inp_hidden, &e.fc2, &mut self.inp[..], p, Epilogue::Residual);
    }

    /// f and I → the groups' sums of decoder outputs → native maps.
    fn decode(&mut self, cpu: &Cpu, m: &Folded<X>, stage: &mut dyn FnMut(&'static str)) {
        let cfg = &m.config;
        let (c, h, p) = (cfg.channels, cfg.heads, cfg.prototypes);
        let (n, hp, hidden) = (self.fused.len() / c, h * p, 4 * c);
        layernorm::normalise(cpu, &self.inp, c, EPS.1, &mut self.inp_operand[..]);
        for (b, f) in m.decode.iter().zip(&mut self.factors) {
            f.make(cpu, b, &self.inp_operand, h, p, c);
        }
        stage("factors");
        let x = &mut self.x[..n * c];
        let (fc1, fc2) = &m.bottleneck;
        let via = &mut self.inputs;
        fc1.on_sums(cpu, &self.fused, None, via, &mut self.hidden[..], Epilogue::Gelu);
        fc2.on_operands(cpu, &self.hidden[..n * hidden], None, via, x, Epilogue::Store, None);
        stage("bottleneck");
        self.de.iter_mut().for_each(|d| d.fill(0.0));
        let (ld, groups) = (hp + 1, hp.next_multiple_of(X::GROUP));
        for (j, (b, f)) in m.decode.iter().zip(&self.factors).enumerate() {
            b.q.on_sums(cpu, x, Some(EPS.1), via, &mut self.wide[..], Epilogue::Store);
            coefficients(cpu, &self.wide, &f.keys, [h, p], &mut self.coef, &mut self.coef_operand);
            let (coef, gram) = (Input { data: &self.coef[..], ld }, Panels::new(&f.gram_panels, ld, ld));
            packed::forward(cpu, n, coef, gram, None, &mut self.coef_gram[..], ld, Epilogue::Store, None);
            row_scales(cpu, &self.coef, &self.coef_gram, ld, &mut self.rstd);
            stage("decoder q");
            let coef = Input { data: &self.coef_operand[..], ld: groups };
            let va = Panels::new(&f.va, hidden, groups).with_bias(&b.fc1_scaled);
            let gelu = Epilogue::ScaledGelu { scale: &self.rstd, shift: &b.fc1_shift };
            packed::forward(cpu, n, coef, va, None, &mut self.hidden[..], hidden, gelu, None);
            stage("decoder fc1");
            let vw = Panels::new(&f.vw, c, groups);
            let from = &self.hidden[..n * hidden];
            // Outputs are taken in reverse, so the last block counts as the first.
            let i = m.decode.len() - 1 - j;
            let g =
                cfg.decoder_groups.iter().position(|g| g.contains(&i)).expect("groups partition the blocks");
            let (tail, sum) = (Some((coef, vw)), Some(&mut self.de[g][..]));
            b.fc2.on_operands(cpu, from, tail, via, x, Epilogue::Store, sum);
            stage("decoder fc2");
        }
        for ((a, d), map) in self.en.iter().zip(&self.de).zip(&mut self.native) {
            cosine(cpu, &a[cfg.prefix() * c..], d, c, map);
        }
    }

    /// Native maps → pixel map: their mean, then the banded matrix on both axes.
    fn post(&mut self, cpu: &Cpu, m: &Folded<X>, zero_shot: bool, map: &mut [f32]) {
        let side = m.config.side();
        let native = if zero_shot { &self.native[..1] } else { &self.native[..] };
        let share = 1.0 / native.len() as f32;
        for (i, g) in self.grid.iter_mut().enumerate() {
            *g = native.iter().map(|n| n[i]).sum::<f32>() * share;
        }
        let (grid, rows) = (&self.grid, &m.post.rows);
        cpu.for_chunks(&mut self.half, side, |i, out| {
            let (first, weights) = &rows[i];
            out.fill(0.0);
            for (k, w) in weights.iter().enumerate() {
                let line = &grid[(first + k) * side..][..side];
                out.iter_mut().zip(line).for_each(|(o, x)| *o += w * x);
            }
        });
        let half = &self.half;
        cpu.for_chunks(map, anomaly_map::SIDE * 32, |i, lines| {
            for (y, line) in lines.chunks_exact_mut(anomaly_map::SIDE).enumerate() {
                let from = &half[(i * 32 + y) * side..][..side];
                for (o, (first, weights)) in line.iter_mut().zip(rows) {
                    *o = weights.iter().zip(&from[*first..]).map(|(w, x)| w * x).sum();
                }
            }
        });
    }
}

impl<X: Narrow> Factors<X> {
    /// Keys, VW, VA and the Gram matrix of one block from the normalised prototypes `(P, C)`.
    fn make(&mut self, cpu: &Cpu, b: &Decode<X>, norm: &[X], h: usize, p: usize, c: usize) {
        let (d, hp, nr) = (c / h, h * p, packed::tile::<f32>(cpu).1);
        layer(cpu, norm, &b.kv, &mut self.kv[..], p, Epilogue::Store);
        packed::round(cpu, &self.kv, &mut self.kv_operand);
        let (kv, operands) = (&self.kv, &self.kv_operand);
        let width = p.div_ceil(nr) * nr;
        cpu.for_chunks(&mut self.keys, d * width, |head, out| {
            for i in 0..p {
                let k = &kv[i * 2 * c + head * d..][..d];
                let norm = k.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
                let by = b.scale[head] / norm;
                // Panel i / NR, column i % NR.
                let at = i / nr * d * nr + i % nr;
                k.iter().enumerate().for_each(|(k, x)| out[at + k * nr] = x * by);
            }
        });
        // Each head's values times the rows of the weights that belong to it, straight into panels.
        let heads = |out: &mut [f32], w: &Packed<X>| {
            heads_to_panels(cpu, [h, p, d], Input { data: &operands[c..], ld: 2 * c }, w, out);
        };
        heads(&mut self.vw, &b.proj);
        heads(&mut self.va, &b.a);
        for head in 0..h {
            let input = Input { data: &kv[c + head * d..], ld: 2 * c };
            let out = &mut self.centred[head * p * c..];
            packed::forward(
                cpu,
                p,
                input,
                b.centred.slice_k(nr, head * d, d),
                None,
                out,
                c,
                Epilogue::Store,
                None,
            );
        }
        self.centred[hp * c..].copy_from_slice(&b.centred_bias);
        gram(cpu, &self.centred, c, &mut self.gram);
        packed::pack_into(cpu, &mut self.gram_panels, Mat::plain(&self.gram, hp + 1), hp + 1, hp + 1);
    }
}
