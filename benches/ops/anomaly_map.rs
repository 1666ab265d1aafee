//! `anomaly_map`: from two groups on 28 x 28 patches to the pixel map, and the score.

use inp_former::ops::anomaly_map::{cuda, post, score};
use inp_former::runtime::Tensor;

use crate::gpu;
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
    on_gpu(c);
}

/// Both launches on a GPU: features that are equal, so that every distance is 0.
fn on_gpu(c: &mut criterion::Criterion) {
    let Some(gpu) = gpu::gpu() else { return };
    let (side, channels) = if gpu.is_emulated() { (2, 64) } else { (28, 768) };
    let s = cuda::Shape { batch: 1, tokens: side * side, channels };
    let n = s.tokens * channels;
    let e = [0, 1].map(|_| gpu.upload(&random("e", &[n]).data).unwrap());
    let native = gpu.zeros::<f32>(2 * s.tokens).unwrap();
    let bands = cuda::Bands::new(gpu, side, 14 * side).unwrap();
    let (map, score) = (gpu.zeros::<f32>(256 * 256).unwrap(), gpu.zeros::<f32>(1).unwrap());
    let state = gpu.zeros(cuda::Maps::state(1)).unwrap();
    let out = cuda::Maps { map: &map, score: &score, state: &state };
    let distances = |stream: &_| cuda::distances(stream, &native, &e, &e, &s).unwrap();
    let post = |stream: &_| cuda::post(stream, &out, &native, &bands, 2, 1).unwrap();
    distances(&gpu.stream());
    post(&gpu.stream());
    assert!(score.download(&gpu.stream()).unwrap()[0].abs() <= 1e-6, "wrong answer");
    let case = format!("distances/{side}x{side}x{channels}");
    gpu::time(c, "anomaly_map", &case, gpu, Work::Bytes((16 * n) as f64), distances);
    gpu::time(c, "anomaly_map", &format!("post/{side}"), gpu, Work::Bytes(2.0 * 4.0 * 65536.0), post);
}
