//! `inp_factors`: eight decoder blocks at once, ViT-S and ViT-B, one picture and 32. GPU only.

use inp_former::ops::inp_factors::cuda::{Factors, VARIANTS, Weights, forward};

use crate::gpu;
use crate::ops::{inp::EPS, inp_cases};
use crate::peak::Work;

pub fn all(c: &mut criterion::Criterion) {
    for (on, s) in inp_cases() {
        let (n, j) = (s.channels, if on.gpu.is_emulated() { 1 } else { 8 });
        let root = (3.0 / n as f64).sqrt();
        let weights = Weights {
            kv: &on.elements("kv", j * 2 * n * n, 0.0, root).on,
            kv_bias: &on.floats("kv_b", j * 2 * n, 0.0, 0.3).on,
            products: &on.elements("products", j * 5 * n * n, 0.0, root).on,
            middle: &on.floats("middle", j * n * n, 0.0, root).on,
            cross: &on.floats("cross", j * n, 0.0, 0.1).on,
            scale: &on.floats("scale", j * s.heads, 1.0, 0.2).on,
        };
        let inp = on.floats("inp", s.batch * s.prototypes * n, 0.0, 1.0).on;
        let out = on.gpu.arena(|a| Ok(Factors::new(a, on.dtype, &s, j))).unwrap();
        let mut first = None;
        for variant in VARIANTS.map(|v| v.0) {
            let run = |stream: &_| {
                forward(stream, on.dtype, variant, &out, &inp, &weights, &s, EPS).unwrap();
            };
            run(&on.stream);
            let got = on.decode(&out.va);
            assert!(*first.get_or_insert_with(|| got.clone()) == got && got.iter().all(|x| x.is_finite()));
            let bytes = Work::Bytes((j * n * n * (7 * on.dtype.bytes() + 2)) as f64);
            gpu::time(c, "inp_factors", &on.case(&s, variant), &on.gpu, bytes, run);
        }
    }
}
