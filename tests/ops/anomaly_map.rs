//! `anomaly_map`: the resizes, the smoothing and the score against naive f64 and goldens.

mod cuda;

use inp_former::Error;
use inp_former::ops::anomaly_map::{self, SIDE};
use inp_former::runtime::Tensor;

use crate::support::{close, cpu, cpus, each_tier, image, random, tiny};

fn bilinear(x: &Tensor, out: usize, at: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let &[b, h, w] = x.shape() else { unreachable!() };
    let tap = |i: usize, n: usize| {
        let at = at(i, n).clamp(0.0, n as f64 - 1.0);
        (at as usize, (at as usize + 1).min(n - 1), at.fract())
    };
    let mut y = Vec::new();
    for (b, i, j) in (0..b).flat_map(|b| (0..out).flat_map(move |i| (0..out).map(move |j| (b, i, j)))) {
        let ((r0, r1, s), (c0, c1, t)) = (tap(i, h), tap(j, w));
        let at = |r: usize, c: usize| x.data[(b * h + r) * w + c] as f64;
        y.push(
            (1.0 - s) * ((1.0 - t) * at(r0, c0) + t * at(r0, c1))
                + s * ((1.0 - t) * at(r1, c0) + t * at(r1, c1)),
        );
    }
    y
}

#[test]
fn resizes_match_f64() {
    for (b, h, w, out) in [(1, 1, 1, 5), (2, 2, 3, 7), (1, 8, 8, 1), (2, 28, 28, 131), (1, 131, 131, 64)] {
        let x = random("map", &[b, h, w]);
        let aligned =
            |i: usize, n: usize| if out > 1 { (n - 1) as f64 * i as f64 / (out - 1) as f64 } else { 0.0 };
        for got in each_tier("aligned", |cpu| anomaly_map::upsample_aligned(cpu, &x, out).unwrap().data) {
            close("aligned", &got, &bilinear(&x, out, aligned), 2e-5);
        }
        let centres = |i: usize, n: usize| (i as f64 + 0.5) * n as f64 / out as f64 - 0.5;
        for got in each_tier("centres", |cpu| anomaly_map::resize(cpu, &x, out).unwrap().data) {
            close("centres", &got, &bilinear(&x, out, centres), 2e-5);
        }
    }
    assert!(anomaly_map::resize(&cpu(), &random("map", &[1, 2, 2]), 0).is_err());
    assert!(anomaly_map::resize(&cpu(), &Tensor::zeros(&[1, 0, 2]), 4).is_err());
}

#[test]
fn smoothing_matches_f64() {
    for (b, h, w) in [(1, 1, 1), (1, 1, 7), (2, 3, 2), (2, 37, 41)] {
        let x = random("map", &[b, h, w]);
        let bell = |d: i64| (-(d * d) as f64 / 32.0).exp();
        let total: f64 = (-2..=2).map(bell).sum();
        let want: Vec<f64> = (0..x.len())
            .map(|at| {
                let (b, r, c) = (at / (h * w), (at / w % h) as i64, (at % w) as i64);
                let mut sum = 0.0;
                for (i, j) in (-2..=2).flat_map(|i| (-2..=2).map(move |j| (i, j))) {
                    let inside = (0..h as i64).contains(&(r + i)) && (0..w as i64).contains(&(c + j));
                    if inside {
                        let v = x.data[(b * h + (r + i) as usize) * w + (c + j) as usize];
                        sum += bell(i) * bell(j) / total / total * v as f64;
                    }
                }
                sum
            })
            .collect();
        for got in each_tier("gauss", |cpu| anomaly_map::gauss(cpu, &x).unwrap().data) {
            close("gauss", &got, &want, 1e-6);
        }
    }
    let flat = anomaly_map::gauss(&cpu(), &Tensor::new(&[1, 9, 9], vec![1.0; 81])).unwrap();
    for (at, want) in [(4 * 9 + 4, 1.0), (4, 0.606), (4 * 9, 0.606), (0, 0.368), (80, 0.368)] {
        assert!((flat.data[at] - want).abs() <= 1e-3, "pixel {at} is {}", flat.data[at]);
    }
}

#[test]
fn one_matrix_an_axis_is_the_whole_chain() {
    for (side, crop) in [(1, 14), (2, 28), (8, 112), (16, 224), (28, 392), (37, 518)] {
        let grid = random("grid", &[1, side * side]);
        let m = anomaly_map::axis_matrix(side, crop);
        assert_eq!(m.len(), SIDE * side);
        // M·grid, then ·Mᵀ.
        let half: Vec<f64> = (0..SIDE * side)
            .map(|e| (0..side).map(|k| m[e / side * side + k] * grid.data[k * side + e % side] as f64).sum())
            .collect();
        let want: Vec<f64> = (0..SIDE * SIDE)
            .map(|e| (0..side).map(|k| half[e / SIDE * side + k] * m[e % SIDE * side + k]).sum())
            .collect();
        for cpu in cpus() {
            let post = anomaly_map::post(&cpu, std::slice::from_ref(&grid), side, crop).unwrap();
            close(&format!("{side} to {crop}"), &post.gauss.data, &want, 3e-5);
        }
    }
}

#[test]
fn score_is_the_mean_of_the_largest() {
    let map = random("map", &[SIDE, SIDE]);
    let mut sorted: Vec<f64> = map.data.iter().map(|&x| x as f64).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    for (ratio, count) in [(0.01, 655), (1.0, 65536), (0.0, 1), (1e-6, 1)] {
        let want = sorted[..count].iter().sum::<f64>() / count as f64;
        let got = anomaly_map::score(&map.data, ratio).unwrap();
        close("score", &[got], &[want], 1e-7);
        let mut turned = map.data.clone();
        turned.rotate_left(4321);
        assert_eq!(anomaly_map::score(&turned, ratio).unwrap(), got);
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let map = [0.0, bad, 1.0];
        assert!(matches!(anomaly_map::score(&map, 0.5), Err(Error::NotFinite(_))));
    }
    for (map, ratio) in [(&[][..], 0.1), (&[1.0], -0.1), (&[1.0], 1.1), (&[1.0], f64::NAN)] {
        assert!(matches!(anomaly_map::score(map, ratio), Err(Error::Usage(_))));
    }
}

#[test]
fn goldens_and_batch() {
    let Some(t) = tiny() else { return };
    let maps = [0, 1].map(|g| t[&format!("amap_native{g}")].clone().reshaped(&[2, 64]));
    for cpu in cpus() {
        let post = anomaly_map::post(&cpu, &maps, 8, 112).unwrap();
        close("amap_crop", post.crop.slab(0), &t["amap_crop"].data, 1e-6);
        close("amap_256_gauss", post.gauss.slab(0), &t["amap_256_gauss"].data, 1e-6);
        let score = |ratio| [0, 1].map(|b| anomaly_map::score(post.gauss.slab(b), ratio).unwrap());
        close("score_top1pct", &score(0.01), &t["score_top1pct"].data, 1e-6);
        close("score_max", &score(0.0), &t["score_max"].data, 1e-6);
        for b in 0..2 {
            let one = anomaly_map::post(&cpu, &maps.each_ref().map(|m| image(m, b)), 8, 112).unwrap();
            assert_eq!((one.crop, one.gauss), (image(&post.crop, b), image(&post.gauss, b)));
        }
    }
    assert!(anomaly_map::post(&cpu(), &maps, 7, 112).is_err());
    assert!(anomaly_map::post(&cpu(), &[], 8, 112).is_err());
}
