//! The five launches against f64 on the rounded inputs.

use inp_former::ops::inp_extract::cuda::{Shape, VARIANTS, Weights, Workspace, choose, forward};
use inp_former::runtime::DType;

use crate::ops::inp::{EPS, Held, On, as_good, dense, gelu, moments, normal, shape};
use crate::support::{clean, variants};

struct Case {
    s: Shape,
    f: Held<u8>,
    query_key: Held<u8>,
    colsum: Held<f32>,
    elements: [Held<u8>; 4],
    floats: [Held<f32>; 5],
}

impl Case {
    fn new(on: &On, s: Shape) -> Self {
        let (c, hp) = (s.channels, s.heads * s.prototypes);
        let root = (3.0 / c as f64).sqrt();
        let pool = on.of_outputs();
        let (f, _) = pool.features("f", s.batch * s.tokens, c);
        let (query_key, _) = pool.centred("qk", hp, c, 1.5 * root);
        let mut padded = query_key.host;
        padded.resize(s.padded() * c, 0.0);
        let query_key = pool.hold_elements(&padded);
        let colsum: Vec<f64> = query_key.host.chunks_exact(c).map(|r| r.iter().sum()).collect();
        let w = |name: &str, n, k: usize| on.elements(name, n * k, 0.0, (3.0 / k as f64).sqrt());
        let b = |name: &str, n| on.floats(name, n, 0.0, 0.3);
        Self {
            colsum: on.hold_floats(&colsum),
            elements: [w("value", c, c), w("proj", c, c), w("fc1", 4 * c, c), w("fc2", c, 4 * c)],
            floats: [
                b("value_b", c),
                b("proj_b", c),
                on.floats("p0", s.prototypes * c, 0.0, 1.7),
                b("fc1_b", 4 * c),
                b("fc2_b", c),
            ],
            s,
            f,
            query_key,
        }
    }
    fn weights(&self) -> Weights<'_> {
        let ([value, proj, fc1, fc2], [value_bias, proj_bias, prototypes, fc1_bias, fc2_bias]) =
            (self.elements.each_ref().map(|x| &x.on), self.floats.each_ref().map(|x| &x.on));
        let (query_key, colsum) = (&self.query_key.on, &self.colsum.on);
        Weights {
            query_key,
            colsum,
            value,
            value_bias,
            proj,
            proj_bias,
            prototypes,
            fc1,
            fc1_bias,
            fc2,
            fc2_bias,
        }
    }
    /// I of the images from `first` on, as bytes.
    fn run(&self, on: &On, variant: &str, first: usize, batch: usize) -> Vec<u8> {
        let (n, c, e) = (self.s.tokens, self.s.channels, on.dtype.bytes());
        let s = Shape { batch, ..self.s };
        let f = self.f.on.part(first * n * c * e, batch * n * c * e).unwrap();
        let stats = on.statistics(&self.f.host[first * n * c..][..batch * n * c], c);
        let out = on.output::<f32>(batch * s.prototypes * c);
        let work = on.gpu.arena(|a| Ok(Workspace::new(a, on.dtype, &s))).unwrap();
        let w = self.weights();
        forward(&on.stream, on.types(), variant, &out.inner, &work, &f, &stats, &w, &s, EPS).unwrap();
        on.bytes(&out)
    }
    /// `round_share`: of the softmax, as `pool` rounds.
    fn reference(&self, round: &dyn Fn(f64) -> f64, round_share: &dyn Fn(f64) -> f64) -> Vec<f64> {
        let Shape { batch, tokens, channels: c, heads, prototypes: p } = self.s;
        let [value, proj, fc1, fc2] = self.elements.each_ref().map(|x| &x.host[..]);
        let [value_b, proj_b, p0, fc1_b, fc2_b] = self.floats.each_ref().map(|x| &x.host[..]);
        let mut out = Vec::new();
        for image in self.f.host.chunks_exact(tokens * c).take(batch) {
            let norms: Vec<(f64, f64)> = image.chunks_exact(c).map(moments).collect();
            let raw = dense(image, &self.query_key.host, c, None);
            let mut mixed = vec![0.0; p * c];
            for (h, q) in (0..heads).flat_map(|h| (0..p).map(move |q| (h, q))) {
                let hp = h * p + q;
                let score = |n: usize| {
                    let (mean, rstd) = norms[n];
                    rstd * (raw[n * self.s.padded() + hp] - mean * self.colsum.host[hp])
                };
                let top = (0..tokens).map(score).fold(f64::NEG_INFINITY, f64::max);
                let w: Vec<f64> = (0..tokens).map(|n| (score(n) - top).exp2()).collect();
                let total: f64 = w.iter().sum();
                let mut pooled = vec![0.0; c];
                for (n, x) in image.chunks_exact(c).enumerate() {
                    let (mean, rstd) = norms[n];
                    let share = round_share(w[n] * rstd) / total;
                    pooled.iter_mut().zip(x).for_each(|(y, x)| *y += share * (x - mean));
                }
                pooled.iter_mut().for_each(|x| *x = round(*x));
                let v = dense(&pooled, &value[h * 64 * c..][..64 * c], c, Some(&value_b[h * 64..][..64]));
                mixed[q * c + h * 64..][..64].copy_from_slice(&v);
            }
            mixed.iter_mut().for_each(|x| *x = round(*x));
            let mut middle = dense(&mixed, proj, c, Some(proj_b));
            middle.iter_mut().zip(p0).for_each(|(x, p)| *x += p);
            let mut hidden = dense(&normal(&middle, c, round), fc1, c, Some(fc1_b));
            hidden.iter_mut().for_each(|x| *x = round(gelu(*x)));
            let y = dense(&hidden, fc2, 4 * c, Some(fc2_b));
            out.extend(middle.iter().zip(y).map(|(m, y)| m + y));
        }
        out
    }
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f64).collect()
}

#[test]
fn prototypes_match_f64_with_the_same_bits_for_every_variant_and_batch() {
    for on in On::all_and_mixed() {
        let (dtype, pool) = (on.dtype, on.of_outputs());
        for (s, real) in on.sizes() {
            let (case, mut checked) = (Case::new(&on, s), on.checked("inp_extract", &s));
            let chosen = real.map(|s| choose(dtype, &on.machine(), &s, None).unwrap());
            let got = case.run(&on, chosen.unwrap_or(VARIANTS[0].0), 0, s.batch);
            let want = case.reference(&|x| x, &|x| x);
            let naive = case.reference(&|x| on.round(x), &|x| pool.round(x));
            as_good(&mut checked, "prototypes", &on, &floats(&got), &naive, &want);
            for variant in variants(chosen, VARIANTS.map(|v| v.0)) {
                assert!(case.run(&on, variant, 0, s.batch) == got, "{s:?} {variant} {}", dtype.name());
                checked.ran(variant);
            }
            for (i, image) in got.chunks_exact(got.len() / s.batch).enumerate() {
                assert!(s.batch == 1 || case.run(&on, "x1", i, 1) == image, "{s:?} image {i}");
            }
        }
        clean(&on.gpu);
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let s = shape([1, 4, 2, 6]);
    let refused = |s: Shape, dtype| s.check("inp_extract", dtype).unwrap_err().to_string();
    assert!(refused(Shape { channels: 96, ..s }, DType::Bf16).contains("--device cpu"));
    assert!(refused(Shape { prototypes: 17, ..s }, DType::Bf16).contains("17 prototypes"));
    assert!(refused(Shape { batch: 0, ..s }, DType::Bf16).contains("empty"));
    assert!(refused(shape([1, 4, 16, 16]), DType::Tf32).contains("16 heads"));
    assert!(shape([64, 5329, 16, 6]).check("inp_extract", DType::Tf32).is_ok());
}
