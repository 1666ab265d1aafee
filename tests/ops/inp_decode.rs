//! `inp_decode`: both layers against f64 on the rounded inputs. The CPU's, for training, in `train`.

mod train;

use inp_former::ops::inp_decode::cuda::{
    Output, SPLITS, Shape, VARIANTS, Weights, choose, choose_fc1, fc1, fc2,
};
use inp_former::ops::linear::cuda as linear;
use inp_former::runtime::DType;
use inp_former::runtime::cuda::Buffer;

use crate::ops::inp::{EPS, Held, On, as_good, dense, gelu, shape, statistics};
use crate::support::{MACHINES, clean, close, from_panels, uniform, variants};

struct Case {
    s: Shape,
    coef: Held<u8>,
    hidden: Held<u8>,
    va: Held<u8>,
    vw: Held<u8>,
    gram: Held<u8>,
    gram_scale: Buffer<[f32; 2]>,
    scales: Vec<[f32; 2]>,
    variance: f32,
    fc2: Held<u8>,
    /// Before the row's scale and after it, the second layer's bias.
    floats: [Held<f32>; 3],
}

impl Case {
    fn new(on: &On, s: Shape) -> Self {
        let Shape { batch, tokens, channels: c, .. } = s;
        let (hp, hpk, rows) = (s.heads * s.prototypes, s.padded(), batch * tokens);
        // Columns past H·P are zero everywhere.
        let padded = |name: &str, rows: usize, half: f64, positive: bool| {
            let mut x = uniform(name, &[rows, hpk], 0.0, half).cast::<f64>().data;
            for (i, x) in x.iter_mut().enumerate() {
                *x = if i % hpk >= hp || (positive && *x < 0.0) { 0.0 } else { *x };
            }
            x
        };
        let (mut gram, mut scales) = (vec![0.0; batch * 2 * hpk * hpk], vec![[0.0, 0.0]; batch * hpk]);
        let mut variance = 0.0;
        for b in 0..batch {
            // Rows of which the Gram matrix is, the bias's the last, the same in every image.
            let m = uniform(&format!("m{b}"), &[hp, 40], 0.0, 1.0).cast::<f64>().data;
            let bias = uniform("bias", &[40], 0.0, 0.5).cast::<f64>().data;
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / 40.0;
            let row = |i: usize| &m[i * 40..][..40];
            variance = dot(&bias, &bias);
            for s in 0..hp {
                let scale = [1.0f32, 0.25, 4.0][s % 3];
                scales[b * hpk + s] = [scale, 2.0 * dot(row(s), &bias) as f32];
                for r in 0..=s {
                    let x = dot(row(r), row(s)) * if r == s { 1.0 } else { 2.0 } / scale as f64;
                    let at = (b * 2 * hpk + 32 * (s / 16) + s % 16) * hpk + r;
                    gram[at] = on.round(x);
                    gram[at + 16 * hpk] = x - gram[at];
                }
            }
        }
        let b = |name: &str, n| on.floats(name, n, 0.0, 0.3);
        Self {
            coef: on.hold_elements(&padded("coef", rows, 1.0, true)),
            hidden: on.elements("hidden", rows * 4 * c, 0.1, 1.0),
            va: on.hold_elements(&padded("va", batch * 4 * c, 1.0, false)),
            vw: on.hold_elements(&padded("vw", batch * c, 1.0, false)),
            gram: on.hold_elements(&gram),
            gram_scale: on.gpu.upload(&scales).unwrap(),
            scales,
            variance: variance as f32,
            fc2: on.elements("fc2", 4 * c * c, 0.0, (0.75 / c as f64).sqrt()),
            floats: [b("scaled", 4 * c), b("shift", 4 * c), b("fc2_b", c)],
            s,
        }
    }
    fn weights(&self) -> Weights<'_> {
        Weights {
            va: &self.va.on,
            vw: &self.vw.on,
            gram: &self.gram.on,
            gram_scale: &self.gram_scale,
            bias_variance: self.variance,
            fc1_scaled: &self.floats[0].on,
            fc1_shift: &self.floats[1].on,
            fc2: &self.fc2.on,
            fc2_bias: &self.floats[2].on,
        }
    }
    /// One image of the batch as a case of its own.
    fn image(&self, on: &On, i: usize) -> Self {
        let b = self.s.batch;
        let cut = |x: &Held<u8>| {
            let n = x.host.len() / b;
            let bytes = n * on.dtype.bytes();
            Held { host: x.host[i * n..][..n].to_vec(), on: x.on.part(i * bytes, bytes).unwrap() }
        };
        let hpk = self.s.padded();
        Self {
            s: Shape { batch: 1, ..self.s },
            coef: cut(&self.coef),
            hidden: cut(&self.hidden),
            va: cut(&self.va),
            vw: cut(&self.vw),
            gram: cut(&self.gram),
            gram_scale: self.gram_scale.part(i * hpk, hpk).unwrap(),
            scales: self.scales[i * hpk..][..hpk].to_vec(),
            variance: self.variance,
            fc2: on.hold_elements(&self.fc2.host),
            floats: self.floats.each_ref().map(|f| on.hold_floats(&f.host)),
        }
    }
    fn fc1(&self, on: &On, split: &str) -> Vec<u8> {
        let s = &self.s;
        let out = on.output_elements(s.batch * s.tokens * 4 * s.channels);
        let w = self.weights();
        fc1(&on.stream, on.dtype, split, &out.inner, &self.coef.on, &w, s, EPS).unwrap();
        on.bytes(&out)
    }
    /// z, statistics, sum.
    fn fc2(&self, on: &On, variant: &str, sum: Option<&[f32]>) -> [Vec<u8>; 3] {
        let s = &self.s;
        let n = s.batch * s.tokens * s.channels;
        let (z, stats, group) = (
            on.output_elements(n),
            on.output(linear::statistics(s.batch * s.tokens, s.channels)),
            on.output(n),
        );
        if let Some(x) = sum {
            group.inner.upload(&on.stream, x).unwrap();
        }
        let out = Output { z: &z.inner, stats: &stats.inner, sum: &group.inner, accumulate: sum.is_some() };
        let w = self.weights();
        fc2(&on.stream, on.dtype, variant, &out, &self.hidden.on, &self.coef.on, &w, s).unwrap();
        let stats = from_panels(&stats.read(&on.stream), s.batch * s.tokens);
        [on.bytes(&z), bytemuck::cast_slice(&stats).to_vec(), on.bytes(&group)]
    }
    fn fc1_reference(&self, round: &dyn Fn(f64) -> f64) -> Vec<f64> {
        let (s, hpk, width) = (&self.s, self.s.padded(), 4 * self.s.channels);
        let mut out = Vec::new();
        for b in 0..s.batch {
            let coef = &self.coef.host[b * s.tokens * hpk..][..s.tokens * hpk];
            let gram = &self.gram.host[b * 2 * hpk * hpk..][..2 * hpk * hpk];
            let y = dense(coef, &self.va.host[b * width * hpk..][..width * hpk], hpk, None);
            for (c, y) in coef.chunks_exact(hpk).zip(y.chunks_exact(width)) {
                let mut var = self.variance as f64;
                for (s, of) in c.iter().enumerate() {
                    let at = (32 * (s / 16) + s % 16) * hpk;
                    let through: f64 =
                        (0..hpk).map(|r| c[r] * (gram[at + r] + gram[at + 16 * hpk + r])).sum();
                    let [scale, bias] = self.scales[b * hpk + s].map(|x| x as f64);
                    var += of * (scale * through + bias);
                }
                let rstd = 1.0 / (var.max(0.0) + EPS as f64).sqrt();
                let [scaled, shift] = [0, 1].map(|i| &self.floats[i].host);
                out.extend((0..width).map(|i| round(gelu(rstd * (y[i] + scaled[i]) + shift[i]))));
            }
        }
        out
    }
    fn fc2_reference(&self) -> Vec<f64> {
        let (s, hpk, c) = (&self.s, self.s.padded(), self.s.channels);
        let mut out = dense(&self.hidden.host, &self.fc2.host, 4 * c, Some(&self.floats[2].host));
        for b in 0..s.batch {
            let coef = &self.coef.host[b * s.tokens * hpk..][..s.tokens * hpk];
            let y = dense(coef, &self.vw.host[b * c * hpk..][..c * hpk], hpk, None);
            out[b * s.tokens * c..][..s.tokens * c].iter_mut().zip(y).for_each(|(z, y)| *z += y);
        }
        out
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn fc1_matches_f64_with_the_same_bits_for_every_split_and_batch() {
    for on in On::all() {
        let dtype = on.dtype;
        for (s, real) in on.sizes() {
            let (case, mut checked) = (Case::new(&on, s), on.checked("inp_decode fc1", &s));
            let chosen = real.map(|s| choose_fc1(dtype, &on.machine(), &s, None).unwrap());
            let got = case.fc1(&on, chosen.unwrap_or("x1"));
            let values: Vec<f64> = dtype.decode(&got).iter().map(|x| *x as f64).collect();
            let (want, naive) = (case.fc1_reference(&|x| x), case.fc1_reference(&|x| on.round(x)));
            as_good(&mut checked, "hidden", &on, &values, &naive, &want);
            for split in variants(chosen, SPLITS.map(|v| v.0)) {
                assert!(case.fc1(&on, split) == got, "{s:?} {split} {}", dtype.name());
                checked.ran(split);
            }
            for (i, image) in got.chunks_exact(got.len() / s.batch).enumerate() {
                assert!(s.batch == 1 || case.image(&on, i).fc1(&on, "x1") == image, "{s:?} image {i}");
            }
        }
        clean(&on.gpu);
    }
}

#[test]
fn fc2_matches_f64_with_the_same_bits_for_every_variant_and_batch() {
    for on in On::all() {
        let dtype = on.dtype;
        for (s, real) in on.sizes() {
            let (case, mut checked) = (Case::new(&on, s), on.checked("inp_decode fc2", &s));
            let chosen = real.map(|s| choose(dtype, &on.machine(), &s, None).unwrap());
            let got = case.fc2(&on, chosen.unwrap_or(VARIANTS[0].name), None);
            let what = format!("{s:?} {}", dtype.name());
            let want = case.fc2_reference();
            let naive: Vec<f64> = want.iter().map(|x| on.round(*x)).collect();
            let z: Vec<f64> = dtype.decode(&got[0]).iter().map(|x| *x as f64).collect();
            as_good(&mut checked, "z", &on, &z, &naive, &want);
            close(&what, &floats(&got[2]), &want, 2e-6);
            let (mean, m2): (Vec<f32>, Vec<f32>) =
                z.chunks_exact(32).map(statistics).map(|[a, b]| (a, b)).unzip();
            let part = |i: usize| floats(&got[1]).into_iter().skip(i).step_by(2).collect::<Vec<_>>();
            close(&format!("{what} mean"), &part(0), &mean, 1e-6);
            close(&format!("{what} M2"), &part(1), &m2, 1e-5);
            let sum = floats(&got[2]);
            let other = uniform("other", &[sum.len()], 0.0, 1.0).data;
            for variant in variants(chosen, VARIANTS.map(|v| v.name)) {
                assert!(case.fc2(&on, variant, None) == got, "{what} {variant}");
                checked.ran(variant);
                let added = case.fc2(&on, variant, Some(&other));
                let both: Vec<f32> = other.iter().zip(&sum).map(|(a, b)| a + b).collect();
                assert!(floats(&added[2]) == both && added[..2] == got[..2], "{what} {variant}, added");
            }
            for i in 0..if s.batch > 1 { s.batch } else { 0 } {
                let one = case.image(&on, i).fc2(&on, VARIANTS[0].name, None);
                for (one, all) in one.iter().zip(&got) {
                    assert!(one == &all[i * one.len()..][..one.len()], "{what} image {i}");
                }
            }
        }
        clean(&on.gpu);
    }
}

#[test]
fn columns_are_split_so_that_the_gpu_is_full() {
    let base = |batch| shape([batch, 784, 12, 6]);
    let dtype = DType::Bf16;
    for m in MACHINES {
        let columns = |batch| {
            let name = choose_fc1(dtype, &m, &base(batch), None).unwrap();
            SPLITS.iter().find(|v| v.0 == name).unwrap().1
        };
        assert!((2..=6).contains(&columns(1)) && columns(32) >= 8, "{m:?}: {} {}", columns(1), columns(32));
        let tiles = [1, 32].map(|b| choose(dtype, &m, &base(b), None).unwrap());
        assert_eq!(tiles, ["64x128x64", "128x128x32"], "{m:?}");
    }
    let m = &MACHINES[0];
    assert_eq!(choose_fc1(dtype, m, &base(1), Some("x12")).unwrap(), "x12");
    let e = choose_fc1(dtype, m, &base(1), Some("x5")).unwrap_err().to_string();
    assert!(e.contains("inp_decode_fc1 has no CUDA variant \"x5\"; there are x1, x2"), "{e}");
}
