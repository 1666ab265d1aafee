//! `anomaly_map`: from two groups on 28 x 28 patches to the pixel map, and the score.

use inp_former::ops::anomaly_map::{post, score};
use inp_former::runtime::Tensor;

use crate::peak::{Work, cpus, time};
use crate::support::{close, random};

pub fn all(c: &mut criterion::Criterion) {
    let maps = ["a", "b"].map(|name| random(name, &[1, 784]));
    let flat = [0.25, 0.75].map(|x| Tensor::new(&[1, 784], vec![x; 784]));
    for cpu in cpus() {
        // Flat maps keep their mean, but for the two pixels at the edge that the smoothing darkens.
        let inner = post(&cpu, &flat, 28, 392).unwrap().gauss.row(128)[2..254].to_vec();
        close("post", &inner, &[0.5; 252], 1e-6);
        let map = post(&cpu, &maps, 28, 392).unwrap().gauss;
        // Written: the map at 392, at 256, and smoothed.
        let bytes = (4 * (392 * 392 + 2 * 256 * 256)) as f64;
        time(c, "anomaly_map", "post/28_392_256", &cpu, Work::Bytes(bytes), || {
            post(&cpu, &maps, 28, 392).unwrap()
        });
        let bytes = 4.0 * map.len() as f64;
        time(c, "anomaly_map", "score/256x256", &cpu, Work::Bytes(bytes), || score(&map.data, 0.01).unwrap());
    }
}
