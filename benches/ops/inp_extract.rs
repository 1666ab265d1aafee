//! `inp_extract`: ViT-B's prototypes over 28 x 28 tokens, one picture forward, a batch of 16 both ways.

use inp_former::ops::inp_extract::{backward, forward};

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
}
