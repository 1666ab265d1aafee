//! `inp_extract`: ViT-B's prototypes over 28 x 28 tokens, one picture forward, a batch of 16 both ways; on a GPU every
//! variant, also of 32 pictures.

use inp_former::ops::inp_extract::cuda::{self, VARIANTS};
use inp_former::ops::inp_extract::{backward, forward};

use crate::gpu;
use crate::ops::{inp::EPS, inp_cases};
use crate::peak::{Work, cpus, time};
use crate::support::{close, image, random};

pub fn all(c: &mut criterion::Criterion) {
    let (q, kv, dout) =
        (random("q", &[6, 768]), random("kv", &[16, 784, 1536]), random("dout", &[16, 6, 768]));
    let kv1 = image(&kv, 0);
    // Scores and the sum of the values.
    let flop = (4 * 6 * 784 * 768) as f64;
    for cpu in cpus() {
        let (want, _) = forward(&cpu, &q.cast::<f64>(), &kv1.cast(), 12).unwrap();
        let (y, probs) = forward(&cpu, &q, &kv, 12).unwrap();
        close("inp_extract", y.slab(0), &want.data, 1e-5);
        let mut run = |case: &str, flop: f64, f: &dyn Fn()| {
            time(c, "inp_extract", case, &cpu, Work::Flop(flop), f);
        };
        run("forward/1x784x768", flop, &|| drop(forward(&cpu, &q, &kv1, 12).unwrap()));
        run("forward/16x784x768", 16.0 * flop, &|| drop(forward(&cpu, &q, &kv, 12).unwrap()));
        run("backward/16x784x768", 32.0 * flop, &|| {
            drop(backward(&cpu, &dout, &q, &kv, &probs, 12).unwrap())
        });
    }
    for (on, s) in inp_cases() {
        let (n, p) = (s.channels, s.prototypes);
        let (f, stats) = on.features("f", s.batch * s.tokens, n);
        let w = |name: &str, len| on.elements(name, len, 0.0, (3.0 / n as f64).sqrt()).on;
        let b = |name: &str, len| on.floats(name, len, 0.0, 0.3).on;
        let weights = cuda::Weights {
            query_key: &w("qk", s.padded() * n),
            colsum: &b("sums", s.padded()),
            value: &w("value", n * n),
            value_bias: &b("value_b", n),
            proj: &w("proj", n * n),
            proj_bias: &b("proj_b", n),
            prototypes: &b("p0", p * n),
            fc1: &w("fc1", 4 * n * n),
            fc1_bias: &b("fc1_b", 4 * n),
            fc2: &w("fc2", 4 * n * n),
            fc2_bias: &b("fc2_b", n),
        };
        let work = on.gpu.arena(|a| Ok(cuda::Workspace::new(a, on.dtype, &s))).unwrap();
        let out = on.gpu.zeros::<f32>(s.batch * p * n).unwrap();
        let mut first = None;
        for variant in VARIANTS.map(|v| v.0) {
            let run = |stream: &_| {
                cuda::forward(stream, on.dtype, variant, &out, &work, &f.on, &stats, &weights, &s, EPS)
                    .unwrap()
            };
            run(&on.stream);
            let got = on.floats_of(&out);
            assert!(*first.get_or_insert_with(|| got.clone()) == got && got.iter().all(|x| x.is_finite()));
            let bytes = Work::Bytes((10 * n * n * on.dtype.bytes()) as f64);
            gpu::time(c, "inp_extract", &on.case(&s, variant), &on.gpu, bytes, run);
        }
    }
}
