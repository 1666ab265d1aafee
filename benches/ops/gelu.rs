//! `gelu`: the hidden layer of one picture of ViT-B, element-wise.

use inp_former::ops::gelu;

use crate::peak::{Work, cpus, time};
use crate::support::{close, uniform};

pub fn all(c: &mut criterion::Criterion) {
    let shape = [789, 3072];
    let x = uniform("x", &shape, 0.0, 4.0);
    let bytes = 4.0 * x.len() as f64;
    for cpu in cpus() {
        let want = gelu::forward(&cpu, &x.cast::<f64>()).unwrap();
        close("gelu", &gelu::forward(&cpu, &x).unwrap().data, &want.data, 1e-6);
        time(c, "gelu", "forward/789x3072", &cpu, Work::Bytes(2.0 * bytes), || {
            gelu::forward(&cpu, &x).unwrap()
        });
    }
}
