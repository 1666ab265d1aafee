//! `inp_factors`: keys, VW, VA and Gram matrices against f64 on the rounded inputs. The CPU's, for training, in `train`.

mod train;

use inp_former::ops::inp_factors::cuda::{Factors, Shape, VARIANTS, Weights, choose, forward};

use crate::ops::inp::{EPS, Held, On, as_good, dense, normal};
use crate::support::{clean, variants};

struct Case {
    s: Shape,
    blocks: usize,
    inp: Held<f32>,
    kv: Held<u8>,
    kv_bias: Held<f32>,
    products: Held<u8>,
    middle: Held<f32>,
    cross: Held<f32>,
    scale: Held<f32>,
}

/// What the kernels give: keys, VW, VA, the Gram matrices with their scales taken in and the linear terms.
type Parts = [Vec<f64>; 5];

impl Case {
    fn new(on: &On, s: Shape, blocks: usize) -> Self {
        let Shape { batch, channels: c, heads, prototypes, .. } = s;
        let j = blocks;
        let root = (3.0 / c as f64).sqrt();
        // Symmetric, as a product of a matrix with itself is.
        let middle = on.elements("m", j * c * c, 0.0, root).host;
        let middle: Vec<f64> =
            middle.chunks_exact(c * c).flat_map(|m| dense(m, m, c, None)).map(|x| x / 64.0).collect();
        Self {
            s,
            blocks,
            inp: on.floats("inp", batch * prototypes * c, 0.2, 1.0),
            kv: on.elements("kv", j * 2 * c * c, 0.0, root),
            kv_bias: on.floats("kv_b", j * 2 * c, 0.0, 0.3),
            products: on.elements("products", j * 5 * c * c, 0.0, 8.0 * root),
            middle: on.hold_floats(&middle),
            cross: on.floats("cross", j * c, 0.0, 0.1),
            scale: on.floats("scale", j * heads, 1.0, 0.25),
        }
    }
    /// The parts' bytes of the images from `first` on.
    fn run(&self, on: &On, variant: &str, first: usize, batch: usize) -> Vec<Vec<u8>> {
        let s = Shape { batch, ..self.s };
        let row = s.prototypes * s.channels;
        let inp = self.inp.on.part(first * row, batch * row).unwrap();
        let (before, out, after) = on
            .gpu
            .arena(|a| {
                let before = a.take::<u8>(4096);
                let out = Factors::new(a, on.dtype, &s, self.blocks);
                Ok((before, out, a.take::<u8>(4096)))
            })
            .unwrap();
        for b in [&before, &after, &out.vw, &out.va, &out.gram] {
            b.fill(&on.stream, 0xff).unwrap();
        }
        out.keys.fill(&on.stream, 0xff).unwrap();
        out.gram_scale.fill(&on.stream, 0xff).unwrap();
        let (kv, kv_bias, products) = (&self.kv.on, &self.kv_bias.on, &self.products.on);
        let (middle, cross, scale) = (&self.middle.on, &self.cross.on, &self.scale.on);
        let w = Weights { kv, kv_bias, products, middle, cross, scale };
        forward(&on.stream, on.types(), variant, &out, &inp, &w, &s, EPS).unwrap();
        for guard in [before, after] {
            let bytes = guard.download(&on.stream).unwrap();
            assert!(bytes.iter().all(|b| *b == 0xff), "a guard band was written");
        }
        let keys = out.keys.download(&on.stream).unwrap();
        let scales = out.gram_scale.download(&on.stream).unwrap();
        let [vw, va, gram] = [&out.vw, &out.va, &out.gram].map(|b| b.download(&on.stream).unwrap());
        vec![bytemuck::cast_slice(&keys).to_vec(), vw, va, gram, bytemuck::cast_slice(&scales).to_vec()]
    }
    fn parts(&self, on: &On, bytes: &[Vec<u8>]) -> Parts {
        let f = |b: &[u8]| {
            b.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect::<Vec<_>>()
        };
        let e = |b: &[u8]| on.outputs.decode(b).iter().map(|x| *x as f64).collect::<Vec<_>>();
        let (hpk, scales) = (self.s.padded(), f(&bytes[4]));
        let gram = e(&bytes[3]);
        let mut whole = Vec::new();
        for (item, g) in gram.chunks_exact(2 * hpk * hpk).enumerate() {
            for s in 0..hpk {
                let at = 32 * (s / 16) + s % 16;
                let scale = scales[2 * (item * hpk + s)];
                whole.extend((0..hpk).map(|r| scale * (g[at * hpk + r] + g[(at + 16) * hpk + r])));
            }
        }
        let bias = scales.iter().skip(1).step_by(2).copied().collect();
        [f(&bytes[0]), e(&bytes[1]), e(&bytes[2]), whole, bias]
    }
    fn reference(&self, round: &dyn Fn(f64) -> f64, round_out: &dyn Fn(f64) -> f64) -> Parts {
        let Shape { batch, channels: c, heads, prototypes: p, .. } = self.s;
        let (hpk, mut out) = (self.s.padded(), Parts::default());
        let norm = normal(&self.inp.host, c, round);
        for j in 0..self.blocks {
            let kv = dense(
                &norm,
                &self.kv.host[j * 2 * c * c..][..2 * c * c],
                c,
                Some(&self.kv_bias.host[j * 2 * c..][..2 * c]),
            );
            let weights = &self.products.host[j * 5 * c * c..][..5 * c * c];
            let middle = &self.middle.host[j * c * c..][..c * c];
            let cross = &self.cross.host[j * c..][..c];
            for b in 0..batch {
                let k = |q: usize, h: usize| &kv[(b * p + q) * 2 * c + h * 64..][..64];
                let v = |q: usize, h: usize| -> Vec<f64> {
                    kv[(b * p + q) * 2 * c + c + h * 64..][..64].iter().map(|x| round(*x)).collect()
                };
                let values: Vec<Vec<f64>> = (0..heads * p).map(|r| v(r % p, r / p)).collect();
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                for (h, q) in (0..heads).flat_map(|h| (0..p).map(move |q| (h, q))) {
                    let by = self.scale.host[j * heads + h] / dot(k(q, h), k(q, h)).sqrt().max(1e-12);
                    out[0].extend(k(q, h).iter().map(|x| x * by));
                }
                for (o, row) in weights.chunks_exact(c).enumerate() {
                    let y = (0..hpk).map(|r| match values.get(r) {
                        Some(v) => round_out(dot(v, &row[r / p * 64..][..64])),
                        None => 0.0,
                    });
                    out[if o < c { 1 } else { 2 }].extend(y);
                }
                for s in 0..hpk {
                    let column = |r: usize| match (values.get(s), values.get(r)) {
                        (Some(y), Some(x)) if r <= s => {
                            let m = |i: usize| &middle[(r / p * 64 + i) * c + s / p * 64..][..64];
                            let g: f64 = (0..64).map(|i| x[i] * dot(m(i), y)).sum();
                            g * if r == s { 1.0 } else { 2.0 }
                        }
                        _ => 0.0,
                    };
                    out[3].extend((0..hpk).map(column));
                    let linear = values.get(s).map_or(0.0, |y| 2.0 * dot(y, &cross[s / p * 64..][..64]));
                    out[4].push(linear);
                }
            }
        }
        out
    }
}

#[test]
fn factors_match_f64_with_the_same_bits_for_every_variant_and_batch() {
    for on in On::all_and_mixed() {
        let (dtype, outputs) = (on.dtype, on.of_outputs());
        for (i, (s, real)) in on.sizes().into_iter().enumerate() {
            // One to three decoder blocks.
            let (case, mut checked) = (Case::new(&on, s, 1 + i % 3), on.checked("inp_factors", &s));
            let chosen = real.map(|s| choose(dtype, &on.machine(), &s, case.blocks, None).unwrap());
            let bytes = case.run(&on, chosen.unwrap_or(VARIANTS[0].0), 0, s.batch);
            let want = case.reference(&|x| x, &|x| x);
            let naive = case.reference(&|x| on.round(x), &|x| outputs.round(x));
            let got = case.parts(&on, &bytes);
            for (i, name) in ["keys", "VW", "VA", "Gram", "linear"].into_iter().enumerate() {
                as_good(&mut checked, name, &on, &got[i], &naive[i], &want[i]);
            }
            for variant in variants(chosen, VARIANTS.map(|v| v.0)) {
                assert!(case.run(&on, variant, 0, s.batch) == bytes, "{s:?} {variant} {}", dtype.name());
                checked.ran(variant);
            }
            for image in 0..if s.batch > 1 { s.batch } else { 0 } {
                for (part, all) in case.run(&on, "x1", image, 1).iter().zip(&bytes) {
                    let one = part.len() / case.blocks;
                    for (j, x) in part.chunks_exact(one).enumerate() {
                        let at = (j * s.batch + image) * one;
                        assert!(x == &all[at..at + one], "{s:?} image {image}");
                    }
                }
            }
        }
        clean(&on.gpu);
    }
}
