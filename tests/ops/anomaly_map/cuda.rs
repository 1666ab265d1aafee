//! `anomaly_map` on a GPU: distances and maps against f64, scores against the CPU's of the same map.

use inp_former::ops::anomaly_map::cuda::{Bands, GROUPS, Maps, Shape, distances, nearest, post};
use inp_former::ops::anomaly_map::{SIDE, axis_matrix, score};
use inp_former::runtime::cuda::{Buffer, Gpu};

use crate::support::{Checked, Guarded, MODELS, PATCHES, clean, gpu_with_kernels, random};

fn cosine_distance(a: &[f64], d: &[f64]) -> f64 {
    let dot = |a: &[f64], d: &[f64]| a.iter().zip(d).map(|(a, d)| a * d).sum::<f64>();
    let norm = |x| dot(x, x).sqrt().max(1e-8);
    1.0 - dot(a, d) / (norm(a) * norm(d))
}

/// A kernel's results at these sizes are within 1e-6.
fn close(kernel: &str, case: String, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{kernel} {case}");
    let mut checked = Checked::new("anomaly_map", "f32", case);
    checked.ran(kernel);
    let errors = got.iter().zip(want).map(|(got, want)| (*got as f64 - want).abs());
    checked.within(kernel, errors.fold(0.0, |m, e| if e <= m { m } else { e }), 1e-6);
}

/// G groups of features `(B, N, C)`, and others near them.
fn features(s: &Shape, groups: usize) -> [Vec<Vec<f32>>; 2] {
    let all = |name: &str| -> Vec<Vec<f32>> {
        (0..groups).map(|g| random(&format!("{name}{g}"), &[s.batch * s.tokens * s.channels]).data).collect()
    };
    let (e, noise) = (all("e"), all("noise"));
    let near = |(e, n): (&Vec<f32>, &Vec<f32>)| e.iter().zip(n).map(|(e, n)| e + 0.3 * n).collect();
    let d = e.iter().zip(&noise).map(near).collect();
    [e, d]
}

fn upload(gpu: &Gpu, x: &[Vec<f32>]) -> Vec<Buffer<f32>> {
    x.iter().map(|x| gpu.upload(x).unwrap()).collect()
}

/// B, N, C, G, P: around the eight rows of a block, most groups, and the models' sizes.
fn shapes() -> Vec<(usize, usize, usize, usize, usize)> {
    let edges =
        [(1, 1, 64, 1, 1), (2, 7, 64, 2, 6), (1, 8, 128, 2, 3), (1, 17, 192, 3, 16), (3, 3, 64, 8, 2)];
    let models = MODELS.map(|(_, heads)| (1, PATCHES, 64 * heads, 2, 6));
    edges.into_iter().chain(models).collect()
}

#[test]
fn distances_match_f64() {
    let Some(gpu) = gpu_with_kernels() else { return };
    for (batch, tokens, channels, groups, _) in shapes() {
        let s = Shape { batch, tokens, channels };
        let [e, d] = features(&s, groups);
        let native = Guarded::<f32>::new(&gpu, batch * groups * tokens);
        distances(&gpu.stream(), &native.inner, &upload(&gpu, &e), &upload(&gpu, &d), &s).unwrap();
        let wide = |x: &[f32]| x.iter().map(|x| *x as f64).collect::<Vec<_>>();
        let mut want = Vec::new();
        for (b, g, n) in
            (0..batch).flat_map(|b| (0..groups).flat_map(move |g| (0..tokens).map(move |n| (b, g, n))))
        {
            let at = (b * tokens + n) * channels..(b * tokens + n + 1) * channels;
            want.push(cosine_distance(&wide(&e[g][at.clone()]), &wide(&d[g][at])));
        }
        close(
            "distances",
            format!("{batch}x{tokens}x{channels}x{groups}"),
            &native.read(&gpu.stream()),
            &want,
        );
    }
    clean(&gpu);
}

#[test]
fn nearest_prototypes_match_f64() {
    let Some(gpu) = gpu_with_kernels() else { return };
    for (batch, tokens, channels, groups, count) in shapes() {
        let s = Shape { batch, tokens, channels };
        let [e, _] = features(&s, groups);
        let prototypes = random("prototypes", &[batch, count, channels]).data;
        let native = Guarded::<f32>::new(&gpu, batch * tokens);
        let on = gpu.upload(&prototypes).unwrap();
        nearest(&gpu.stream(), &native.inner, &upload(&gpu, &e), &on, count, &s).unwrap();
        let row = |i: usize| -> Vec<f64> {
            (0..channels).map(|c| e.iter().map(|e| e[i * channels + c] as f64).sum()).collect()
        };
        let prototype = |b: usize, p: usize| -> Vec<f64> {
            prototypes[(b * count + p) * channels..][..channels].iter().map(|x| *x as f64).collect()
        };
        let best = |i: usize| {
            let all = (0..count).map(|p| cosine_distance(&row(i), &prototype(i / tokens, p)));
            all.fold(f64::INFINITY, f64::min)
        };
        let want: Vec<f64> = (0..batch * tokens).map(best).collect();
        close("nearest", format!("{batch}x{tokens}x{channels}x{groups}"), &native.read(&gpu.stream()), &want);
    }
    clean(&gpu);
}

#[test]
fn zeros_are_far_from_everything_and_nan_stays_in_its_patch() {
    let Some(gpu) = gpu_with_kernels() else { return };
    let s = Shape { batch: 1, tokens: 3, channels: 64 };
    let [mut e, d] = features(&s, 1);
    e[0][..64].fill(0.0);
    e[0][64 + 9] = f32::NAN;
    let (e, d) = (upload(&gpu, &e), upload(&gpu, &d));
    let native = gpu.zeros(3).unwrap();
    distances(&gpu.stream(), &native, &e, &d, &s).unwrap();
    let got = native.download(&gpu.stream()).unwrap();
    assert!(got[0] == 1.0 && got[1].is_nan() && got[2].is_finite(), "{got:?}");
    let prototypes = random("prototypes", &[3 * 64]).data;
    nearest(&gpu.stream(), &native, &e, &gpu.upload(&prototypes).unwrap(), 3, &s).unwrap();
    let got = native.download(&gpu.stream()).unwrap();
    assert!(got[0] == 1.0 && got[1].is_nan() && got[2].is_finite(), "{got:?}");
}

/// Maps and scores of native maps `(B, G, N)`, twice: the second launch finds what the first left.
fn run(gpu: &Gpu, native: &[f32], groups: usize, side: usize, crop: usize) -> (Vec<f32>, Vec<f32>) {
    let batch = native.len() / (groups * side * side);
    let (stream, bands) = (gpu.stream(), Bands::new(gpu, side, crop).unwrap());
    let native = gpu.upload(native).unwrap();
    let state = gpu.zeros(Maps::state(batch)).unwrap();
    let results = [0, 1].map(|_| {
        let map = Guarded::<f32>::new(gpu, batch * SIDE * SIDE);
        let score = Guarded::<f32>::new(gpu, batch);
        let out = Maps { map: &map.inner, score: &score.inner, state: &state };
        post(&stream, &out, &native, &bands, groups, batch).unwrap();
        (map.read(&stream), score.read(&stream))
    });
    let bits = |r: &(Vec<f32>, Vec<f32>)| r.0.iter().chain(&r.1).map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&results[0]) == bits(&results[1]), "the second launch gives other bits");
    let [first, _] = results;
    first
}

#[test]
fn maps_match_f64() {
    let Some(gpu) = gpu_with_kernels() else { return };
    for (side, crop, groups) in
        [(1, 14, 1), (2, 28, 3), (8, 112, 2), (18, 252, 1), (28, 392, 2), (37, 518, 2)]
    {
        let n = side * side;
        let native: Vec<f32> = random("native", &[2 * groups * n]).data.iter().map(|x| x.abs()).collect();
        let (map, scores) = run(&gpu, &native, groups, side, crop);
        let m = axis_matrix(side, crop);
        for (b, map) in map.chunks_exact(SIDE * SIDE).enumerate() {
            let group = |g: usize, i: usize| native[(b * groups + g) * n + i] as f64;
            let mean: Vec<f64> =
                (0..n).map(|i| (0..groups).map(|g| group(g, i)).sum::<f64>() / groups as f64).collect();
            let row =
                |y: usize, x: usize| (0..side).map(|k| m[y * side + k] * mean[k * side + x]).sum::<f64>();
            let half: Vec<f64> = (0..SIDE * side).map(|i| row(i / side, i % side)).collect();
            let pixel = |y: usize, x: usize| (0..side).map(|k| half[y * side + k] * m[x * side + k]).sum();
            let want: Vec<f64> = (0..SIDE * SIDE).map(|i| pixel(i / SIDE, i % SIDE)).collect();
            close("post", format!("{side} to {crop}"), map, &want);
            assert_eq!(scores[b].to_bits(), score(map, 0.01).unwrap().to_bits(), "{side} to {crop}");
        }
    }
    clean(&gpu);
}

#[test]
fn scores_are_the_cpus_whatever_the_values() {
    let Some(gpu) = gpu_with_kernels() else { return };
    let side = 28;
    let (n, noise) = (side * side, random("native", &[side * side]).data);
    type Make = fn(usize, f32) -> f32;
    let kinds: [(&str, Make); 7] = [
        // All in one bin, so that candidates do not fit; all equal; zeros.
        ("nearly flat", |_, x| 0.5 + 1e-5 * x),
        ("flat", |_, _| 0.25),
        ("zero", |_, _| 0.0),
        ("tiny", |_, x| x * 1e-12),
        ("of both signs", |_, x| x),
        ("a spike", |i, x| if i == 300 { 2.0 } else { 0.01 + 1e-3 * x }),
        ("steps", |i, _| (i % 4) as f32 / 4.0),
    ];
    for (what, f) in kinds {
        let native: Vec<f32> = noise.iter().enumerate().map(|(i, x)| f(i, *x)).collect();
        let (map, got) = run(&gpu, &native, 1, side, 392);
        let want = score(&map, 0.01).unwrap();
        assert!((got[0] - want).abs() <= 1e-12 + want.abs() * 1e-7, "{what}: {} and {want}", got[0]);
    }
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut native = [noise.clone(), noise.clone()].concat();
        native[n / 2] = bad;
        let (map, got) = run(&gpu, &native, 1, side, 392);
        assert!(got[0].is_nan(), "{bad} is scored {}", got[0]);
        assert_eq!(got[1].to_bits(), score(&map[SIDE * SIDE..], 0.01).unwrap().to_bits());
    }
    clean(&gpu);
}

#[test]
fn pictures_have_the_same_bits_at_every_place_of_a_batch() {
    let Some(gpu) = gpu_with_kernels() else { return };
    let (side, groups) = (8, 2);
    let native = random("native", &[3 * groups * side * side]).data;
    let (maps, scores) = run(&gpu, &native, groups, side, 112);
    for (i, native) in native.chunks_exact(groups * side * side).enumerate() {
        let (map, score) = run(&gpu, native, groups, side, 112);
        assert!(map == maps[i * SIDE * SIDE..][..SIDE * SIDE] && score[0].to_bits() == scores[i].to_bits());
    }
    clean(&gpu);
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(gpu) = gpu_with_kernels() else { return };
    let stream = gpu.stream();
    let zeros = |n: usize| gpu.zeros::<f32>(n).unwrap();
    let s = Shape { batch: 1, tokens: 4, channels: 64 };
    let (e, native) = (vec![zeros(256)], zeros(4));
    distances(&stream, &native, &e, &e, &s).unwrap();
    assert!(distances(&stream, &native, &e, &[], &s).is_err());
    assert!(distances(&stream, &native, &[], &[], &s).is_err());
    let many: Vec<_> = (0..=GROUPS).map(|_| zeros(256)).collect();
    assert!(distances(&stream, &zeros(4 * many.len()), &many, &many, &s).is_err());
    assert!(distances(&stream, &zeros(5), &e, &e, &s).is_err());
    assert!(distances(&stream, &native, &e, &e, &Shape { tokens: 3, ..s }).is_err());
    assert!(distances(&stream, &native, &e, &e, &Shape { channels: 66, ..s }).is_err());
    assert!(nearest(&stream, &native, &e, &zeros(64), 0, &s).is_err());
    assert!(nearest(&stream, &native, &e, &zeros(65), 1, &s).is_err());
    assert!(Bands::new(&gpu, 0, 28).is_err());
    let bands = Bands::new(&gpu, 2, 28).unwrap();
    let (map, score, state) = (zeros(SIDE * SIDE), zeros(1), gpu.zeros(Maps::state(1)).unwrap());
    let out = Maps { map: &map, score: &score, state: &state };
    post(&stream, &out, &native, &bands, 1, 1).unwrap();
    for (groups, batch) in [(0, 1), (1, 0), (2, 1), (1, 2), (1, 65_536)] {
        assert!(post(&stream, &out, &native, &bands, groups, batch).is_err(), "{groups} {batch}");
    }
    clean(&gpu);
}
