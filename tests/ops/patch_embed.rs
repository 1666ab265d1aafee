//! `patch_embed`: the convolution, the position embedding's resampling and the token order, against naive f64 and goldens.

mod cuda;

use inp_former::ops::patch_embed;
use inp_former::runtime::Tensor;

use crate::support::{close, cpu, each_tier, golden_input, golden_weight, image, random, tiny};

fn convolution(img: &Tensor, w: &Tensor, bias: &Tensor) -> Vec<f64> {
    let &[b, planes, ih, iw] = img.shape() else { unreachable!() };
    let (c, p) = (w.shape()[0], w.shape()[3]);
    let mut y = Vec::new();
    for (b, i, j) in (0..b).flat_map(|b| (0..ih / p).flat_map(move |i| (0..iw / p).map(move |j| (b, i, j)))) {
        for c in 0..c {
            let mut sum = bias.data[c] as f64;
            for k in 0..planes * p * p {
                let (plane, y, x) = (k / (p * p), k / p % p, k % p);
                let pixel = img.data[((b * planes + plane) * ih + i * p + y) * iw + j * p + x];
                sum += pixel as f64 * w.data[c * planes * p * p + k] as f64;
            }
            y.push(sum);
        }
    }
    y
}

#[test]
fn convolution_matches_f64() {
    for (b, h, w, c, p) in [(1, 14, 14, 1, 14), (2, 28, 42, 7, 14), (3, 6, 4, 5, 2), (1, 70, 56, 33, 14)] {
        let (img, weight) = (random("img", &[b, 3, h, w]), random("w", &[c, 3, p, p]));
        let bias = random("bias", &[c]);
        let want = convolution(&img, &weight, &bias);
        let run = |cpu: &_, img: &_| patch_embed::forward(cpu, img, &weight, &bias).unwrap();
        for got in each_tier("patch_embed", |cpu| run(cpu, &img).data) {
            close("patch_embed", &got, &want, 2e-6);
        }
        let all = run(&cpu(), &img);
        (0..b).for_each(|i| assert_eq!(run(&cpu(), &image(&img, i)), image(&all, i)));
    }
    let (weight, bias) = (random("w", &[5, 3, 14, 14]), random("bias", &[5]));
    assert!(patch_embed::forward(&cpu(), &random("img", &[1, 3, 28, 27]), &weight, &bias).is_err());
}

/// Keys' cubic kernel with a = -0.75, in its textbook form.
fn keys(x: f64) -> f64 {
    let (a, x) = (-0.75, x.abs());
    match x {
        x if x <= 1.0 => (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0,
        x if x < 2.0 => a * x.powi(3) - 5.0 * a * x.powi(2) + 8.0 * a * x - 4.0 * a,
        _ => 0.0,
    }
}

#[test]
fn position_embedding_matches_f64() {
    for (g, h, w, c) in [(1, 1, 2, 3), (5, 3, 7, 1), (7, 2, 2, 17), (37, 28, 31, 5)] {
        let pos = random("pos", &[1, 1 + g * g, c]);
        let mut want: Vec<f64> = pos.row(0).iter().map(|&x| x as f64).collect();
        let at = |i: usize, n: usize| (i as f64 + 0.5) * g as f64 / (n as f64 + 0.1) - 0.5;
        for (i, j, c) in (0..h).flat_map(|i| (0..w).flat_map(move |j| (0..c).map(move |c| (i, j, c)))) {
            let (y, x) = (at(i, h), at(j, w));
            let mut sum = 0.0;
            for k in 0..16 {
                let (r, q) = (y.floor() + (k / 4) as f64 - 1.0, x.floor() + (k % 4) as f64 - 1.0);
                let clamp = |v: f64| v.clamp(0.0, g as f64 - 1.0) as usize;
                sum += keys(y - r) * keys(x - q) * pos.row(1 + clamp(r) * g + clamp(q))[c] as f64;
            }
            want.push(sum);
        }
        let name = format!("pos_embed {g} to {h} x {w}");
        for got in each_tier(&name, |cpu| patch_embed::pos_embed(cpu, &pos, (h, w)).unwrap().data) {
            close(&name, &got, &want, 1e-5);
        }
        let got = patch_embed::pos_embed(&cpu(), &pos.cast::<f64>(), (h, w)).unwrap();
        close(&name, &got.data, &want, 1e-12);
        assert_eq!(patch_embed::pos_embed(&cpu(), &pos, (g, g)).unwrap(), pos);
    }
    assert!(patch_embed::pos_embed(&cpu(), &random("pos", &[1, 8, 2]), (2, 2)).is_err());
}

#[test]
fn token_order() {
    let (patches, pos) = (random("patches", &[2, 3, 5]), random("pos", &[1, 4, 5]));
    let (cls, reg) = (random("cls", &[1, 1, 5]), random("reg", &[1, 2, 5]));
    let sum = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
    for registers in [None, Some(&reg)] {
        let y = patch_embed::tokens(&cpu(), &patches, &pos, &cls, registers).unwrap();
        let r = registers.map_or(0, |_| 2);
        assert_eq!(y.shape(), [2, 4 + r, 5]);
        for b in 0..2 {
            assert_eq!(y.row(b * (4 + r)), sum(&cls.data, pos.row(0)));
            (0..r).for_each(|i| assert_eq!(y.row(b * (4 + r) + 1 + i), reg.row(i)));
            for i in 0..3 {
                let want = sum(patches.row(b * 3 + i), pos.row(1 + i));
                assert_eq!(y.row(b * (4 + r) + 1 + r + i), want);
            }
        }
    }
}

#[test]
fn goldens() {
    let Some(t) = tiny() else { return };
    let w = |name: &str, shape: &[usize]| golden_weight(&format!("encoder.{name}"), shape);
    let (weight, bias) = (w("patch_embed.proj.weight", &[64, 3, 14, 14]), w("patch_embed.proj.bias", &[64]));
    let img = golden_input("tiny", 2, 112, 112);
    for cpu in crate::support::cpus() {
        let patches = patch_embed::forward(&cpu, &img, &weight, &bias).unwrap();
        close("enc.patch_embed", &patches.data, &t["enc.patch_embed"].data, 2e-6);
        let pos = patch_embed::pos_embed(&cpu, &w("pos_embed", &[1, 1370, 64]), (8, 8)).unwrap();
        close("pos_embed_interp", &pos.data, &t["pos_embed_interp"].data, 1e-6);
        let (cls, reg) = (w("cls_token", &[1, 1, 64]), w("register_tokens", &[1, 4, 64]));
        let tokens = patch_embed::tokens(&cpu, &patches, &pos, &cls, Some(&reg)).unwrap();
        close("enc.tokens", &tokens.data, &t["enc.tokens"].data, 2e-6);
    }
}
