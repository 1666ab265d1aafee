//! `inp_attention`: ViT-B's decoder attention over 28 x 28 tokens, one picture forward, a batch of 16 both ways.

use inp_former::ops::inp_attention::{backward, forward};

use crate::peak::{Work, cpus, time};
use crate::support::{close, image, random};

pub fn all(c: &mut criterion::Criterion) {
    let (q, kv, scale) =
        (random("q", &[16, 784, 768]), random("kv", &[16, 6, 1536]), random("scale", &[12, 1, 1]));
    let (q1, kv1, dout) = (image(&q, 0), image(&kv, 0), random("dout", &[16, 784, 768]));
    // Similarities and the sum of the values.
    let flop = (4 * 6 * 784 * 768) as f64;
    for cpu in cpus() {
        let (want, _) = forward(&cpu, &q1.cast::<f64>(), &kv1.cast(), &scale.cast(), 12).unwrap();
        let (y, saved) = forward(&cpu, &q, &kv, &scale, 12).unwrap();
        close("inp_attention", y.slab(0), &want.data, 1e-5);
        let mut run = |case: &str, flop: f64, f: &mut dyn FnMut()| {
            time(c, "inp_attention", case, &cpu, Work::Flop(flop), f);
        };
        run("forward/1x784x768", flop, &mut || drop(forward(&cpu, &q1, &kv1, &scale, 12).unwrap()));
        run("forward/16x784x768", 16.0 * flop, &mut || drop(forward(&cpu, &q, &kv, &scale, 12).unwrap()));
        let mut ds = scale.zeros_like();
        run("backward/16x784x768", 32.0 * flop, &mut || {
            drop(backward(&cpu, &dout, &q, &kv, &scale, &saved, &mut ds, 12).unwrap())
        });
    }
}
