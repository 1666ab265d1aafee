//! `inp_decode`: the MLP of one decoder block of ViT-S and of ViT-B, one picture and 32. GPU only.

use inp_former::ops::inp_decode::cuda::{Output, VARIANTS, Weights, choose_fc1, fc1, fc2};
use inp_former::ops::linear::cuda as linear;

use crate::gpu;
use crate::ops::{inp::EPS, inp_cases};
use crate::peak::Work;

pub fn all(c: &mut criterion::Criterion) {
    for (on, s) in inp_cases() {
        let (n, hpk, rows) = (s.channels, s.padded(), s.batch * s.tokens);
        let root = (3.0 / n as f64).sqrt();
        let (coef, hidden) =
            (on.elements("coef", rows * hpk, 0.5, 0.5).on, on.elements("h", rows * 4 * n, 0.0, 1.0));
        let weights = Weights {
            va: &on.elements("va", s.batch * 4 * n * hpk, 0.0, root).on,
            vw: &on.elements("vw", s.batch * n * hpk, 0.0, root).on,
            gram: &on.elements("gram", s.batch * 2 * hpk * hpk, 0.0, 0.1).on,
            gram_scale: &on.gpu.upload(&vec![[1.0, 0.0]; s.batch * hpk]).unwrap(),
            bias_variance: 0.5,
            fc1_scaled: &on.floats("scaled", 4 * n, 0.0, 0.3).on,
            fc1_shift: &on.floats("shift", 4 * n, 0.0, 0.3).on,
            fc2: &on.elements("fc2", 4 * n * n, 0.0, root).on,
            fc2_bias: &on.floats("fc2_b", n, 0.0, 0.3).on,
        };
        let split = choose_fc1(on.dtype, &on.machine(), &s, None).unwrap();
        let first = |stream: &_| {
            fc1(stream, on.dtype, split, &hidden.on, &coef, &weights, &s, EPS).unwrap();
        };
        first(&on.stream);
        assert!(on.decode(&hidden.on).iter().all(|x| x.is_finite()));
        let flop = Work::Flop((8 * rows * n * hpk) as f64);
        gpu::time(c, "inp_decode", &on.case(&s, &format!("fc1 {split}")), &on.gpu, flop, first);
        let z = on.gpu.zeros::<u8>(rows * n * on.dtype.bytes()).unwrap();
        let (stats, sum) =
            (on.gpu.zeros(linear::statistics(rows, n)).unwrap(), on.gpu.zeros::<f32>(rows * n).unwrap());
        let out = Output { z: &z, stats: &stats, sum: &sum, accumulate: false };
        let mut same = None;
        for variant in VARIANTS.map(|v| v.name) {
            let run = |stream: &_| {
                fc2(stream, on.dtype, variant, &out, &hidden.on, &coef, &weights, &s).unwrap();
            };
            run(&on.stream);
            let got = on.floats_of(&sum);
            assert!(*same.get_or_insert_with(|| got.clone()) == got && got.iter().all(|x| x.is_finite()));
            let flop = Work::Flop((2 * rows * n * (4 * n + hpk)) as f64);
            gpu::time(c, "inp_decode", &on.case(&s, &format!("fc2 {variant}")), &on.gpu, flop, run);
        }
    }
}
