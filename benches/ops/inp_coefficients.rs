//! `inp_coefficients`: one decoder block of ViT-S and of ViT-B, one picture and 32. GPU only.

use inp_former::ops::inp_coefficients::cuda::{VARIANTS, Weights, forward};

use crate::gpu;
use crate::ops::{inp::EPS, inp_cases};
use crate::peak::Work;

pub fn all(c: &mut criterion::Criterion) {
    for (on, s) in inp_cases() {
        let (n, rows) = (s.channels, s.batch * s.tokens);
        let (z, stats) = on.features("z", rows, n);
        let (q, colsum) = on.centred("q", n, n, (3.0 / n as f64).sqrt());
        let bias = on.floats("q_b", n, 0.0, 0.3);
        let keys = on.floats("keys", s.batch * s.prototypes * n, 0.0, 0.2).on;
        let weights = Weights { q: &q.on, colsum: &colsum.on, bias: &bias.on };
        let out = on.gpu.zeros::<u8>(rows * s.padded() * on.dtype.bytes()).unwrap();
        let mut first = None;
        for variant in VARIANTS.map(|v| v.name) {
            let run = |stream: &_| {
                forward(stream, on.dtype, variant, &out, &z.on, &stats, &keys, &weights, &s, EPS).unwrap();
            };
            run(&on.stream);
            let got = on.decode(&out);
            assert!(*first.get_or_insert_with(|| got.clone()) == got && got.iter().all(|x| x.is_finite()));
            let flop = Work::Flop((2 * rows * n * (n + s.prototypes + 1)) as f64);
            gpu::time(c, "inp_coefficients", &on.case(&s, variant), &on.gpu, flop, run);
        }
    }
}
