//! `gather_loss`: six prototypes of ViT-B, one picture forward, a training batch both ways.

use inp_former::ops::gather_loss::{backward, forward};

use crate::peak::{Work, cpus, time};
use crate::support::{close, image, random};

pub fn all(c: &mut criterion::Criterion) {
    let (f, inp) = (random("f", &[16, 784, 768]), random("inp", &[16, 6, 768]));
    let (f1, inp1) = (image(&f, 0), image(&inp, 0));
    let bytes = 4.0 * f1.len() as f64;
    for cpu in cpus() {
        let want = forward(&cpu, &f1.cast::<f64>(), &inp1.cast()).unwrap();
        let saved = forward(&cpu, &f, &inp).unwrap();
        close("distance", saved.dist.slab(0), &want.dist.data, 1e-5);
        let mut run = |case: &str, images: f64, g: &dyn Fn()| {
            time(c, "gather_loss", case, &cpu, Work::Bytes(images * bytes), g);
        };
        run("forward/1x784x768", 1.0, &|| drop(forward(&cpu, &f1, &inp1).unwrap()));
        run("forward/16x784x768", 16.0, &|| drop(forward(&cpu, &f, &inp).unwrap()));
        run("backward/16x784x768", 16.0, &|| drop(backward(&cpu, &f, &inp, &saved, 0.2).unwrap()));
    }
}
