//! `cosine_loss`: one group of ViT-B, the scored distance of one picture and a training batch both ways.

use inp_former::ops::cosine_loss::{backward, distance, forward};

use crate::peak::{Work, cpus, time};
use crate::support::{close, image, random};

pub fn all(c: &mut criterion::Criterion) {
    let (a, d) = (random("a", &[16, 784, 768]), random("d", &[16, 784, 768]));
    let (a1, d1) = (image(&a, 0), image(&d, 0));
    let bytes = 4.0 * a1.len() as f64;
    for cpu in cpus() {
        let want = distance(&cpu, &a1.cast::<f64>(), &d1.cast()).unwrap();
        let saved = forward(&cpu, &a, &d).unwrap();
        close("distance", saved.dist.slab(0), &want.data, 1e-5);
        let mut run = |case: &str, arrays: f64, f: &dyn Fn()| {
            time(c, "cosine_loss", case, &cpu, Work::Bytes(arrays * bytes), f);
        };
        run("distance/1x784x768", 2.0, &|| drop(distance(&cpu, &a1, &d1).unwrap()));
        run("forward/16x784x768", 32.0, &|| drop(forward(&cpu, &a, &d).unwrap()));
        run("backward/16x784x768", 48.0, &|| drop(backward(&cpu, &a, &d, &saved, 0.5).unwrap()));
    }
}
