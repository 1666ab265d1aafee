//! `fuse`: the mean of ViT-B's eight target layers, one picture at 392 px.

use inp_former::ops::fuse;
use inp_former::runtime::Tensor;

use crate::peak::{Work, cpus, time};
use crate::support::{close, random};

pub fn all(c: &mut criterion::Criterion) {
    let parts: Vec<Tensor> = (0..8).map(|i| random(&format!("part{i}"), &[1, 784, 768])).collect();
    let wide: Vec<Tensor<f64>> = parts.iter().map(Tensor::cast).collect();
    let (parts, wide): (Vec<_>, Vec<_>) = (parts.iter().collect(), wide.iter().collect());
    let bytes = (9 * 4 * 784 * 768) as f64;
    for cpu in cpus() {
        let mean = || fuse::mean(&cpu, &parts).unwrap();
        close("mean", &mean().data, &fuse::mean(&cpu, &wide).unwrap().data, 1e-6);
        time(c, "fuse", "mean/8x784x768", &cpu, Work::Bytes(bytes), mean);
    }
}
