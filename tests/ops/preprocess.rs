//! `preprocess` against Pillow and torchvision.

mod cuda;

use inp_former::data::image::{Limits, decode};
use inp_former::ops::preprocess::*;
use inp_former::runtime::{Cpu, Tier};

use crate::data::pillow;
use crate::support::{close, cpus, golden, read_f32, s_value};

/// The bytes that tests/data/pillow/make.py resizes.
fn noise(name: &str, n: usize) -> Vec<u8> {
    (0..n).map(|i| ((s_value(name, i) + (1 << 24) - 1) / 2) as u8).collect()
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |h, &b| (h ^ b as u64).wrapping_mul(0x100_0000_01B3))
}

/// A u8 tensor of a safetensors file.
fn read_u8(path: &std::path::Path, name: &str) -> (Vec<usize>, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let t = file.tensor(name).unwrap();
    (t.shape().to_vec(), t.data().to_vec())
}

#[test]
fn resize_equals_pillow_at_many_sizes() {
    let cpus = cpus();
    for line in pillow("resize.txt") {
        let n: Vec<usize> = line[..6].iter().map(|v| v.parse().unwrap()).collect();
        let src = noise(&format!("resize{}", n[0]), n[1] * n[2] * n[3]);
        let want = u64::from_str_radix(&line[7], 16).unwrap();
        if line[6] == "NEAREST" {
            assert_eq!(fnv(&resize_nearest(&src, n[1], n[2], n[3], n[4], n[5])), want, "{line:?}");
            continue;
        }
        for cpu in &cpus {
            assert_eq!(
                fnv(&resize(cpu, &src, n[1], n[2], n[3], n[4], n[5])),
                want,
                "{line:?} {:?}",
                cpu.tier()
            );
        }
    }
}

#[test]
fn golden_picture_resizes_to_the_same_bytes() {
    let (Some(a), Some(want)) = (golden("preprocess/a_300x220.png"), golden("preprocess/u8_280.safetensors"))
    else {
        return;
    };
    let p = decode(&a, &Limits::default()).unwrap();
    let (_, want) = read_u8(&want, "a.resized_u8");
    for cpu in cpus() {
        assert!(resize(&cpu, &p.rgb, p.width, p.height, 3, 280, 280) == want);
    }
}

#[test]
fn input_equals_torchvision() {
    let cpu = Cpu::new(Some(2)).unwrap();
    for (s, x) in [(448, 392), (280, 252)] {
        let Some(out) = golden(&format!("preprocess/out_{s}_{x}.safetensors")) else { continue };
        let (Some(a), Some(b)) =
            (golden("preprocess/a_300x220.png"), golden("preprocess/b_decoded.safetensors"))
        else {
            continue;
        };
        let p = decode(&a, &Limits::default()).unwrap();
        let (shape, b) = read_u8(&b, "b.decoded_u8");
        for (name, rgb, w, h) in [("a", &p.rgb, p.width, p.height), ("b", &b, shape[1], shape[0])] {
            let (_, resized) = read_u8(&out, &format!("{name}.resized_u8"));
            assert!(resize(&cpu, rgb, w, h, 3, s, s) == resized, "{name}: resized bytes differ");
            let crop = crop_u8(&cpu, &ImageView::rgb(rgb, w, h).unwrap(), s, x).unwrap();
            let got = normalise(&crop, x, x);
            let want = &read_f32(&out)[&format!("{name}.out")];
            let differ = got.data.iter().zip(&want.data).filter(|(a, b)| a != b).count();
            assert_eq!(differ, 0, "{name} {s}: normalised values differ");
        }
    }
}

#[test]
fn jpeg_decoder_is_near_pillows() {
    let (Some(jpg), Some(want)) =
        (golden("preprocess/b_517x640.jpg"), golden("preprocess/b_decoded.safetensors"))
    else {
        return;
    };
    let p = decode(&jpg, &Limits::default()).unwrap();
    let (shape, want) = read_u8(&want, "b.decoded_u8");
    assert_eq!(shape, [p.height, p.width, 3]);
    let mut counts = [0usize; 256];
    p.rgb.iter().zip(&want).for_each(|(a, b)| counts[a.abs_diff(*b) as usize] += 1);
    let worst = counts.iter().rposition(|&n| n > 0).unwrap();
    let mean = counts.iter().enumerate().map(|(d, n)| d * n).sum::<usize>() as f64 / want.len() as f64;
    let equal = counts[0] as f64 / want.len() as f64;
    println!(
        "JPEG against libjpeg-turbo: {:.2} % equal, mean difference {mean:.4}, worst {worst}",
        equal * 100.0
    );
    assert!(mean <= 0.5 && worst <= 12);
}

#[test]
fn crops_of_every_format_are_the_centre_of_the_resized_frame() {
    let cpu = Cpu::with_tier(Some(2), Tier::detect()).unwrap();
    let (w, h, s, x) = (61, 47, 40, 27);
    let o = crop_offset(s, x).unwrap();
    for (format, n) in
        [(PixelFormat::Mono8, 1), (PixelFormat::Rgb8, 3), (PixelFormat::Bgr8, 3), (PixelFormat::Rgba8, 4)]
    {
        let stride = w * n + 5;
        let frame = noise("frame", stride * (h - 1) + w * n);
        let pixel = |p: &[u8]| match format {
            PixelFormat::Mono8 => [p[0]; 3],
            PixelFormat::Bgr8 => [p[2], p[1], p[0]],
            _ => [p[0], p[1], p[2]],
        };
        let rgb: Vec<u8> = frame.chunks(stride).flat_map(|r| r[..w * n].chunks(n).flat_map(pixel)).collect();
        let whole = resize(&cpu, &rgb, w, h, 3, s, s);
        let want: Vec<u8> = (o..o + x).flat_map(|y| &whole[(y * s + o) * 3..][..x * 3]).copied().collect();
        let view = ImageView::new(&frame, w, h, stride, format).unwrap();
        assert!(crop_u8(&cpu, &view, s, x).unwrap() == want, "{format:?}");
    }
}

#[test]
fn a_cropper_serves_frames_of_changing_size() {
    let cpu = Cpu::new(Some(1)).unwrap();
    let mut cropper = Cropper::new(32, 28).unwrap();
    let mut out = vec![0; 28 * 28 * 3];
    for (w, h) in [(50, 40), (50, 40), (9, 70), (50, 40)] {
        let frame = noise("frame", w * h * 3);
        let view = ImageView::rgb(&frame, w, h).unwrap();
        out.fill(7);
        cropper.run(&cpu, &view, &mut out).unwrap();
        assert!(out == crop_u8(&cpu, &view, 32, 28).unwrap());
    }
    assert!(cropper.run(&cpu, &ImageView::rgb(&[0; 3], 1, 1).unwrap(), &mut out[1..]).is_err());
}

#[test]
fn offsets_round_half_to_even() {
    let offsets =
        [(448, 392, 28), (280, 252, 14), (9, 8, 0), (11, 8, 2), (13, 8, 2), (15, 8, 4), (5, 5, 0), (7, 4, 2)];
    for (s, x, want) in offsets {
        assert_eq!(crop_offset(s, x).unwrap(), want, "{s} {x}");
    }
    for (s, x) in [(391, 392), (0, 0), (5, 0), (MAX_SIDE + 1, 5), (usize::MAX, usize::MAX)] {
        let e = crop_offset(s, x).unwrap_err().to_string();
        assert!(e.contains("crop"), "{e}");
    }
}

#[test]
fn frames_that_do_not_fit_their_buffer_are_refused() {
    let b = [0u8; 100];
    for (w, h, stride, f) in [
        (0, 1, 10, PixelFormat::Mono8),
        (1, 0, 10, PixelFormat::Mono8),
        (5, 2, 14, PixelFormat::Rgb8),
        (10, 11, 10, PixelFormat::Mono8),
        (usize::MAX, 2, 10, PixelFormat::Rgba8),
        (2, usize::MAX, usize::MAX, PixelFormat::Mono8),
    ] {
        assert!(ImageView::new(&b, w, h, stride, f).is_err(), "{w} {h} {stride} {f:?}");
    }
    assert!(ImageView::new(&b, 10, 10, 10, PixelFormat::Mono8).is_ok());
}

#[test]
fn normalised_planes_follow_the_channels() {
    let got = normalise(&[0, 255, 51, 255, 0, 102], 1, 2);
    assert_eq!(got.shape(), [3, 1, 2]);
    let exact = |v: f64, c: usize| (v - [0.485, 0.456, 0.406][c]) / [0.229, 0.224, 0.225][c];
    let want = [exact(0.0, 0), exact(1.0, 0), exact(1.0, 1), exact(0.0, 1), exact(0.2, 2), exact(0.4, 2)];
    close("normalise", &got.data, &want, 1e-6);
}
