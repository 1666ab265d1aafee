//! `layernorm`: the rows of one picture of ViT-B.

use inp_former::ops::layernorm;

use crate::peak::{Work, cpus, time};
use crate::support::{close, random};

pub fn all(c: &mut criterion::Criterion) {
    let (rows, width, eps) = (789, 768, 1e-6);
    let (x, dy) = (random("x", &[rows, width]), random("dy", &[rows, width]));
    let (gain, bias) = (random("gain", &[width]), random("bias", &[width]));
    let bytes = 4.0 * x.len() as f64;
    for cpu in cpus() {
        let (y, stats) = layernorm::forward(&cpu, &x, &gain, &bias, eps).unwrap();
        let (want, _) = layernorm::forward(&cpu, &x.cast::<f64>(), &gain.cast(), &bias.cast(), eps).unwrap();
        close("layernorm", &y.data, &want.data, 1e-5);
        time(c, "layernorm", "forward/789x768", &cpu, Work::Bytes(2.0 * bytes), || {
            layernorm::forward(&cpu, &x, &gain, &bias, eps).unwrap()
        });
        let (mut dgain, mut dbias) = (gain.zeros_like(), bias.zeros_like());
        time(c, "layernorm", "backward/789x768", &cpu, Work::Bytes(3.0 * bytes), || {
            layernorm::backward(&cpu, &dy, &x, &gain, &stats, &mut dgain, &mut dbias).unwrap()
        });
    }
}
