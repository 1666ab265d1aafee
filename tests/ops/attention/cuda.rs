//! `attention` on a GPU against f64 on the rounded inputs, every variant, around every tile and at the model's size.

use inp_former::ops::attention::cuda::{self, Shape};
use inp_former::runtime::DType;
use inp_former::runtime::cuda::{Gpu, Machine};

use crate::support::*;

/// Values as the device would hold them; q scaled as the model's weights scale it, times `sharp`.
fn inputs(dtype: DType, s: &Shape, sharp: f32) -> Vec<f32> {
    let c = 64 * s.heads;
    let mut qkv = random("attention.cuda", &[s.batch, s.tokens, 3 * c]).data;
    for row in qkv.chunks_exact_mut(3 * c) {
        row[..c].iter_mut().for_each(|x| *x *= sharp * 0.125 * std::f32::consts::LOG2_E);
    }
    qkv.iter().map(|x| dtype.round(*x)).collect()
}

/// Bytes of out, which lay between guards; qkv lies between NaN.
fn run(gpu: &Gpu, dtype: DType, variant: &str, s: &Shape, qkv: &[f32]) -> Vec<u8> {
    let stream = gpu.stream();
    let qkv = dtype.encode(qkv);
    let (input, output) = (Guarded::new(gpu, qkv.len()), Guarded::new(gpu, qkv.len() / 3));
    input.inner.upload(&stream, &qkv).unwrap();
    cuda::forward(&stream, dtype, variant, &output.inner, &input.inner, s).unwrap();
    output.read(&stream)
}

/// f64, and as a plain kernel would do it: f32 sums, probabilities and result rounded.
fn references(dtype: DType, s: &Shape, qkv: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let c = 64 * s.heads;
    let mut exact = vec![0.0; s.batch * s.tokens * c];
    let mut plain = exact.clone();
    for b in 0..s.batch {
        let at = |row, part, h| &qkv[(b * s.tokens + row) * 3 * c + part * c + h * 64..][..64];
        for (h, i) in (0..s.heads).flat_map(|h| (0..s.tokens).map(move |i| (h, i))) {
            let q = at(i, 0, h);
            let scores: Vec<(f64, f32)> = (0..s.tokens)
                .map(|j| {
                    let pairs = || q.iter().zip(at(j, 1, h));
                    (pairs().map(|(x, y)| *x as f64 * *y as f64).sum(), pairs().map(|(x, y)| x * y).sum())
                })
                .collect();
            let top = scores.iter().fold(f64::NEG_INFINITY, |m, x| m.max(x.0));
            let top32 = scores.iter().fold(f32::NEG_INFINITY, |m, x| m.max(x.1));
            let p: Vec<(f64, f32)> =
                scores.iter().map(|x| ((x.0 - top).exp2(), (x.1 - top32).exp2())).collect();
            let sum: f64 = p.iter().map(|p| p.0).sum();
            let sum32: f32 = p.iter().map(|p| p.1).sum();
            let mut y = [(0f64, 0f32); 64];
            for (j, p) in p.iter().enumerate() {
                let rounded = dtype.round(p.1);
                for (y, v) in y.iter_mut().zip(at(j, 2, h)) {
                    *y = (y.0 + p.0 * *v as f64, y.1 + rounded * v);
                }
            }
            let to = (b * s.tokens + i) * c + h * 64;
            for (d, y) in y.iter().enumerate() {
                exact[to + d] = y.0 / sum;
                plain[to + d] = dtype.round(y.1 / sum32) as f64;
            }
        }
    }
    (exact, plain)
}

fn largest(x: &[f64], y: &[f64]) -> f64 {
    let differences = x.iter().zip(y).map(|(x, y)| (x - y).abs());
    differences.fold(0.0, |m, d| if d <= m { m } else { d })
}

/// Every variant: the same bits, at most twice the error of the plain way. Gives the bytes back.
fn check(gpu: &Gpu, dtype: DType, s: &Shape, qkv: &[f32], variants: &[&str]) -> Vec<u8> {
    let what = format!("{}x{}x{} {}", s.batch, s.tokens, s.heads, dtype.name());
    let mut checked = Checked::new("attention", dtype.name(), &what[..what.rfind(' ').unwrap()]);
    let (exact, plain) = references(dtype, s, qkv);
    let mut bits: Option<Vec<u8>> = None;
    for v in variants {
        let y = run(gpu, dtype, v, s, qkv);
        assert!(bits.as_ref().is_none_or(|b| *b == y), "{what}: {v} has other bits than {}", variants[0]);
        checked.ran(v);
        bits = Some(y);
    }
    let bits = bits.unwrap();
    let y: Vec<f64> = dtype.decode(&bits).iter().map(|x| *x as f64).collect();
    checked.within("out", largest(&y, &exact), 2.0 * largest(&plain, &exact) + 1e-6);
    bits
}

fn names(dtype: DType) -> Vec<&'static str> {
    cuda::variants(dtype).iter().map(|v| v.name).collect()
}

#[test]
fn every_variant_has_the_same_bits_and_a_plain_kernels_error() {
    let Some(gpu) = gpu_with_kernels() else { return };
    for dtype in DType::ALL {
        for [batch, tokens, heads] in [
            [1, 1, 1],
            [2, 2, 2],
            [1, 31, 1],
            [1, 33, 2],
            [1, 63, 1],
            [3, 64, 1],
            [1, 65, 2],
            [2, 127, 1],
            [1, 129, 1],
            [1, 197, 1],
            [1, 255, 1],
            [1, 257, 2],
        ] {
            let s = Shape { batch, tokens, heads };
            check(&gpu, dtype, &s, &inputs(dtype, &s, 3.0), &names(dtype));
        }
    }
    clean(&gpu);
}

#[test]
fn the_models_sizes_as_chosen() {
    let Some(gpu) = gpu_with_kernels() else { return };
    for (i, (_, heads)) in MODELS.into_iter().enumerate() {
        for dtype in dtypes(i) {
            let real = Shape { batch: 1, tokens: PATCHES + 5, heads };
            let v = cuda::choose(dtype, &Machine::from(&gpu), &real, None).unwrap();
            let s = Shape { tokens: if heads == 6 { real.tokens } else { rows(261, 131) }, ..real };
            let qkv = inputs(dtype, &s, 3.0);
            check(&gpu, dtype, &s, &qkv, &variants(Some(v), names(dtype)));
        }
    }
    clean(&gpu);
}

#[test]
fn scores_of_any_size() {
    let Some(gpu) = gpu_with_kernels() else { return };
    for dtype in DType::ALL {
        for (tokens, sharp) in [(200, 40.0), (130, 1e4), (70, 0.0)] {
            let s = Shape { batch: 1, tokens, heads: 1 };
            check(&gpu, dtype, &s, &inputs(dtype, &s, sharp), &names(dtype));
            // Every tile's scores above all before: the reference is raised each time. And the other way round.
            for descending in [false, true] {
                let mut qkv = inputs(dtype, &s, sharp);
                for (t, row) in qkv.chunks_exact_mut(3 * 64).enumerate() {
                    let tile = if descending { tokens - t } else { t } / 64;
                    row[..64].iter_mut().for_each(|x| *x = dtype.round(x.abs()));
                    row[64..128].iter_mut().for_each(|x| *x = dtype.round(x.abs() * (1 + 8 * tile) as f32));
                }
                check(&gpu, dtype, &s, &qkv, &names(dtype));
            }
        }
    }
    clean(&gpu);
}

#[test]
fn an_image_has_the_same_bits_alone_and_anywhere_in_a_batch() {
    let Some(gpu) = gpu_with_kernels() else { return };
    for dtype in DType::ALL {
        let s = Shape { batch: 3, tokens: 101, heads: 2 };
        let qkv = inputs(dtype, &s, 5.0);
        for v in cuda::variants(dtype) {
            let all = run(&gpu, dtype, v.name, &s, &qkv);
            for (one, all) in qkv.chunks(qkv.len() / 3).zip(all.chunks(all.len() / 3)) {
                let alone = run(&gpu, dtype, v.name, &Shape { batch: 1, ..s }, one);
                assert!(alone == all, "{} {}", v.name, dtype.name());
            }
        }
    }
    clean(&gpu);
}

#[test]
fn nan_is_never_lost() {
    let Some(gpu) = gpu_with_kernels() else { return };
    let s = Shape { batch: 1, tokens: 90, heads: 2 };
    // Part of qkv, whether an element of out must be NaN; the element spoilt is the second of head 1.
    type Spoilt = fn(usize, usize, usize) -> bool;
    let cases: [(usize, Spoilt); 3] =
        [(0, |row, c, at| row == at && c >= 64), (1, |_, c, _| c >= 64), (2, |_, c, _| c == 65)];
    for dtype in DType::ALL {
        for v in cuda::variants(dtype) {
            for at in [0, 63, 89] {
                for (part, spoilt) in cases {
                    let mut qkv = inputs(dtype, &s, 3.0);
                    qkv[at * 384 + part * 128 + 65] = f32::NAN;
                    let y = dtype.decode(&run(&gpu, dtype, v.name, &s, &qkv));
                    let fits = (0..y.len()).all(|e| y[e].is_nan() == spoilt(e / 128, e % 128, at));
                    assert!(fits, "{} {}: part {part}, row {at}", v.name, dtype.name());
                }
            }
        }
    }
    clean(&gpu);
}

#[test]
fn the_choice_follows_the_machine() {
    let s = Shape { batch: 1, tokens: 789, heads: 6 };
    let chosen = |m: &Machine, s: &Shape| {
        let name = cuda::choose(DType::F16, m, s, None).unwrap();
        *cuda::variants(DType::F16).iter().find(|v| v.name == name).unwrap()
    };
    for m in &MACHINES[1..] {
        // One image fills the GPU with small blocks only; many with such as read least.
        assert!(chosen(m, &s).rows <= 64);
        assert!(chosen(m, &Shape { batch: 64, heads: 16, ..s }).rows >= 128);
        for dtype in DType::ALL {
            let all = cuda::candidates(dtype, m, &s);
            assert!(all.iter().all(|c| c.fits(m) && c.predict(m).us > 0.0), "{all:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(gpu) = gpu_with_kernels() else { return };
    let (stream, small, s) =
        (gpu.stream(), gpu.zeros::<u8>(64).unwrap(), Shape { batch: 1, tokens: 1, heads: 1 });
    let e = cuda::forward(&stream, DType::Tf32, "128x4", &small, &small, &s).unwrap_err();
    assert!(e.to_string().contains("32x2"), "{e}");
    let e = cuda::forward(&stream, DType::F16, "128x4", &small, &small, &s).unwrap_err();
    assert!(e.to_string().contains("`qkv`"), "{e}");
    let none = gpu.zeros::<u8>(0).unwrap();
    let e = cuda::forward(&stream, DType::F16, "128x4", &none, &none, &Shape { tokens: 0, ..s }).unwrap_err();
    assert!(e.to_string().contains("at least one"), "{e}");
}
