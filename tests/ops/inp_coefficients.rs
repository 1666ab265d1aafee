//! `inp_coefficients` against f64 on the rounded inputs. The CPU's, for training, in `train`.

mod train;

use inp_former::ops::inp_coefficients::cuda::{Shape, VARIANTS, Weights, choose, forward};
use inp_former::runtime::cuda::Buffer;

use crate::ops::inp::{EPS, Held, On, as_good, dense, moments, shape};
use crate::support::{clean, variants};

struct Case {
    s: Shape,
    z: Held<u8>,
    stats: Buffer<[f32; 2]>,
    q: Held<u8>,
    colsum: Held<f32>,
    bias: Held<f32>,
    keys: Held<f32>,
}

impl Case {
    fn new(on: &On, s: Shape) -> Self {
        let c = s.channels;
        let (z, stats) = on.features("z", s.batch * s.tokens, c);
        let (q, colsum) = on.centred("q", c, c, (3.0 / c as f64).sqrt());
        let bias = on.floats("q_b", c, 0.0, 0.3);
        Self { z, stats, q, colsum, bias, keys: on.floats("keys", s.batch * s.prototypes * c, 0.0, 0.2), s }
    }
    fn run(&self, on: &On, variant: &str, first: usize, batch: usize) -> Vec<u8> {
        let Shape { tokens: n, channels: c, prototypes: p, .. } = self.s;
        let (s, e) = (Shape { batch, ..self.s }, on.dtype.bytes());
        let z = self.z.on.part(first * n * c * e, batch * n * c * e).unwrap();
        let stats = on.statistics(&self.z.host[first * n * c..][..batch * n * c], c);
        let keys = self.keys.on.part(first * p * c, batch * p * c).unwrap();
        let out = on.output_elements(batch * n * s.padded());
        let w = Weights { q: &self.q.on, colsum: &self.colsum.on, bias: &self.bias.on };
        forward(&on.stream, on.dtype, variant, &out.inner, &z, &stats, &keys, &w, &s, EPS).unwrap();
        on.bytes(&out)
    }
    fn reference(&self, round: &dyn Fn(f64) -> f64) -> Vec<f64> {
        let Shape { tokens, channels: c, heads, prototypes: p, .. } = self.s;
        let raw = dense(&self.z.host, &self.q.host, c, None);
        let mut out = Vec::new();
        for (row, (z, raw)) in self.z.host.chunks_exact(c).zip(raw.chunks_exact(c)).enumerate() {
            let (mean, rstd) = moments(z);
            let q: Vec<f64> =
                (0..c).map(|i| rstd * (raw[i] - mean * self.colsum.host[i]) + self.bias.host[i]).collect();
            for h in 0..heads {
                let q = &q[h * 64..][..64];
                let length = q.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
                out.extend((0..p).map(|i| {
                    let key = &self.keys.host[((row / tokens * heads + h) * p + i) * 64..][..64];
                    let dot: f64 = q.iter().zip(key).map(|(a, b)| a * b).sum();
                    round(dot.max(0.0) / length)
                }));
            }
            out.resize((row + 1) * self.s.padded(), 0.0);
        }
        out
    }
}

#[test]
fn coefficients_match_f64_with_the_same_bits_for_every_variant_and_batch() {
    for on in On::all() {
        let dtype = on.dtype;
        for (s, real) in on.sizes() {
            let (case, mut checked) = (Case::new(&on, s), on.checked("inp_coefficients", &s));
            let chosen = real.map(|s| choose(dtype, &on.machine(), &s, None).unwrap());
            let got = case.run(&on, chosen.unwrap_or(VARIANTS[0].name), 0, s.batch);
            let values: Vec<f64> = dtype.decode(&got).iter().map(|x| *x as f64).collect();
            let (want, naive) = (case.reference(&|x| x), case.reference(&|x| on.round(x)));
            as_good(&mut checked, "coefficients", &on, &values, &naive, &want);
            for variant in variants(chosen, VARIANTS.map(|v| v.name)) {
                assert!(case.run(&on, variant, 0, s.batch) == got, "{s:?} {variant} {}", dtype.name());
                checked.ran(variant);
            }
            for (i, image) in got.chunks_exact(got.len() / s.batch).enumerate() {
                assert!(s.batch == 1 || case.run(&on, VARIANTS[0].name, i, 1) == image, "{s:?} image {i}");
            }
        }
        clean(&on.gpu);
    }
}

#[test]
fn nan_stays_and_a_query_of_zero_gives_zero() {
    for on in On::all() {
        let dtype = on.dtype;
        let mut case = Case::new(&on, shape([1, 5, 2, 6]));
        let c = case.s.channels;
        case.z.host[c + 7] = f64::NAN;
        let z = on.hold_elements(&case.z.host);
        case.z = z;
        let rows: Vec<_> = dtype.decode(&case.run(&on, VARIANTS[0].name, 0, 1));
        for (i, row) in rows.chunks_exact(case.s.padded()).enumerate() {
            let (used, pads) = row.split_at(12);
            assert!(used.iter().all(|x| x.is_nan() == (i == 1)), "row {i}: {used:?}");
            assert!(pads.iter().all(|x| *x == 0.0), "pads of row {i}");
        }
        case = Case::new(&on, shape([1, 5, 2, 6]));
        case.q = on.hold_elements(&vec![0.0; c * c]);
        case.colsum = on.hold_floats(&vec![0.0; c]);
        case.bias = on.hold_floats(&vec![0.0; c]);
        let rows = dtype.decode(&case.run(&on, VARIANTS[1].name, 0, 1));
        assert!(rows.iter().all(|x| *x == 0.0));
        let message = forward_with(&case, &on, "7x7").to_string();
        assert!(message.contains("no CUDA variant \"7x7\"; there are 64x64x64"), "{message}");
        clean(&on.gpu);
    }
}

fn forward_with(case: &Case, on: &On, variant: &str) -> inp_former::Error {
    let out = on.output_elements(case.s.tokens * case.s.padded());
    let w = Weights { q: &case.q.on, colsum: &case.colsum.on, bias: &case.bias.on };
    let (z, stats, keys) = (&case.z.on, &case.stats, &case.keys.on);
    forward(&on.stream, on.dtype, variant, &out.inner, z, stats, keys, &w, &case.s, EPS).unwrap_err()
}
