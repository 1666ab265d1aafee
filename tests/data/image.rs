//! Decoding against Pillow, refusals, masks.

use std::path::Path;

use image::ImageEncoder;
use inp_former::Result;
use inp_former::data::image::*;

use super::{pillow, pillow_path};
use crate::support::golden;

fn hex(s: &str) -> Vec<u8> {
    (0..s.len() / 2).map(|i| u8::from_str_radix(&s[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn in_memory(bytes: &[u8]) -> Result<Picture> {
    decode_bytes(Path::new("x"), bytes, &Limits::default())
}

/// The error's sentence, which must be one and name the file.
#[track_caller]
fn refused<T>(r: Result<T>, word: &str) -> String {
    let Err(e) = r else { panic!("not refused: {word}") };
    let text = e.to_string();
    assert!(text.contains(word) && !text.contains('\n') && text.contains(": "), "`{text}` lacks `{word}`");
    text
}

#[test]
fn every_mode_decodes_as_pillow_converts_it() {
    for line in pillow("pictures.txt") {
        let [file, mode, width, rgb, indices] = &line[..] else { panic!("{line:?}") };
        let p = decode(&pillow_path(file), &Limits::default()).unwrap();
        let want = hex(rgb);
        assert_eq!((p.width, p.rgb.len()), (width.parse().unwrap(), want.len()), "{file}");
        let worst = p.rgb.iter().zip(&want).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        if file.ends_with(".jpg") || file == "lossy.webp" {
            println!("{file}: largest difference from Pillow's decoder {worst}");
            assert!(worst <= if file == "lossy.webp" { 4 } else { 3 }, "{file}: {worst}");
        } else {
            assert_eq!(worst, 0, "{file}");
        }
        let mask = decode_mask(&pillow_path(file), &Limits::default()).unwrap();
        // BMP palettes are expanded, for their decoder keeps no indices.
        let expanded = file.ends_with(".bmp") && mode == "P";
        assert_eq!(mask.nearest, matches!(&mode[..], "1" | "P"), "{file}");
        assert_eq!(mask.data.len(), mask.width * mask.height * mask.channels, "{file}");
        if indices != "-" && !expanded {
            let scale = if mask.scaled { 255 } else { 1 };
            assert_eq!(mask.data, hex(indices).iter().map(|v| v * scale).collect::<Vec<_>>(), "{file}");
        }
        assert_eq!(mask.scaled, matches!(&file[..], "ones1.png" | "ones2.png" | "P2.png"), "{file}");
    }
}

#[test]
fn grey_of_two_and_four_bits_spans_the_range() {
    for (depth, step) in [(png::BitDepth::Two, 85), (png::BitDepth::Four, 17)] {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 3, 1);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(depth);
        let packed: &[u8] = if step == 85 { &[0b0001_1000] } else { &[0x01, 0x20] };
        encoder.write_header().unwrap().write_image_data(packed).unwrap();
        assert_eq!(in_memory(&bytes).unwrap().rgb, [0, 0, 0, step, step, step, 2 * step, 2 * step, 2 * step]);
    }
}

#[test]
fn the_content_decides_the_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("really_a_png.jpg");
    std::fs::copy(pillow_path("RGB.png"), &path).unwrap();
    assert_eq!(decode(&path, &Limits::default()).unwrap().width, 7);
    for (name, is) in
        [("a.PNG", true), ("a.Jpeg", true), ("a.b.tif", true), ("a.webp", true), ("a.gif", false)]
    {
        assert_eq!(is_image(Path::new(name)), is, "{name}");
    }
    assert!(!is_image(Path::new("png")) && !is_image(Path::new(".png")));
}

#[test]
fn what_cannot_be_read_is_refused_with_a_sentence() {
    let l = Limits::default();
    for (file, word) in [
        ("bad_16.png", "16 bits"),
        ("bad_16.tif", "16 bits"),
        ("bad_32.tif", "32 bits"),
        ("bad_CMYK.jpg", "CMYK"),
        ("bad_CMYK.tif", "CMYK"),
        ("bad_animated.png", "animated"),
        ("bad_animated.webp", "animated"),
        ("bad_picture.gif", "not a picture"),
        ("make.py", "not a picture"),
        ("missing.png", "cannot open the picture"),
        ("", "folder"),
    ] {
        let path = pillow_path(file);
        assert!(refused(decode(&path, &l), word).contains(file));
        refused(decode_mask(&path, &l), word);
    }
    refused(in_memory(&[]), "empty");
    refused(in_memory(b"\x89PNG\r\n\x1a\n"), "PNG");
    refused(in_memory(b"BM"), "BMP");
    refused(in_memory(&[0xFF, 0xD8, 0xFF]), "JPEG");
    let mut flat = std::fs::read(pillow_path("RGB.bmp")).unwrap();
    flat[18..22].fill(0);
    refused(in_memory(&flat), "no pixels");
}

#[test]
fn large_pictures_are_refused_from_the_header() {
    let path = pillow_path("RGB.png");
    let pixels = |max_pixels| Limits { max_pixels, ..Limits::default() };
    assert!(decode(&path, &pixels(35)).is_ok());
    refused(decode(&path, &pixels(34)), "7 × 5 pixels, more than the limit of 34");
    refused(decode(&path, &Limits { max_bytes: 100, ..Limits::default() }), "100 bytes");
    let bmp = pillow_path("P4.bmp");
    refused(decode(&bmp, &Limits { max_bytes: 109, ..Limits::default() }), "file is larger");
    // Headers that claim much more than the file holds.
    let mut bytes = std::fs::read(pillow_path("RGB.bmp")).unwrap();
    bytes[18..26].copy_from_slice(&[0xFF, 0xFF, 0, 0, 0xFF, 0xFF, 0, 0]);
    refused(in_memory(&bytes), "65535 × 65535 pixels, more than the limit");
    let mut bytes = std::fs::read(pillow_path("444.jpg")).unwrap();
    let frame = bytes.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    bytes[frame + 5..frame + 9].fill(0xFF);
    refused(in_memory(&bytes), "65535 × 65535 pixels, more than the limit");
}

#[test]
fn damaged_files_never_panic_and_cut_ones_are_refused() {
    for line in pillow("pictures.txt") {
        let bytes = std::fs::read(pillow_path(&line[0])).unwrap();
        let whole = in_memory(&bytes).unwrap();
        for n in 0..bytes.len() {
            // A cut-off file may only decode if nothing of its pixels is missing.
            if let Ok(p) = in_memory(&bytes[..n]) {
                assert!(p == whole, "{}: cut at {n} of {} decodes to something else", line[0], bytes.len());
            }
            let mut hurt = bytes.clone();
            for (at, flip) in [(n, 0xFF), (n * 7 % bytes.len(), 1 << (n % 8))] {
                hurt[at] ^= flip;
                let _ = in_memory(&hurt);
            }
        }
    }
}

#[test]
fn golden_mask_becomes_the_published_labels() {
    let (Some(mask), Some(want)) =
        (golden("preprocess/mask_300x220.png"), golden("preprocess/u8_280.safetensors"))
    else {
        return;
    };
    let mask = decode_mask(&mask, &Limits::default()).unwrap();
    let check = |path: &Path, resize, crop| {
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let want = file.tensor("mask.256_binary").unwrap();
        assert!(mask_to_labels(&mask, resize, crop, Binarize::Half).unwrap() == want.data(), "{resize}");
    };
    check(&want, 280, 252);
    if let Some(full) = golden("preprocess/out_448_392.safetensors") {
        check(&full, 448, 392);
    }
}

#[test]
fn labels_of_each_kind_of_mask() {
    let mask = |channels: usize, nearest, at: fn(usize, usize) -> u8| {
        let data = (0..512 * 512).flat_map(|i| (0..channels).map(move |c| at(i, c))).collect();
        Mask { width: 512, height: 512, channels, data, nearest, scaled: false }
    };
    let count =
        |m: &Mask, b| mask_to_labels(m, 256, 256, b).unwrap().iter().map(|&v| v as usize).sum::<usize>();
    // Every second column is white: halves everywhere when filtered, columns when not.
    let columns = |i: usize, _: usize| if i.is_multiple_of(2) { 255 } else { 0 };
    assert_eq!(count(&mask(1, false, columns), Binarize::Any), 65536);
    assert_eq!(count(&mask(1, true, columns), Binarize::Half), 0, "the nearest source column is the odd one");
    // 3 channels: each marks its own third of the rows.
    let thirds = |i: usize, c: usize| if i / 512 * 3 / 512 == c { 255 } else { 0 };
    assert_eq!(count(&mask(3, false, thirds), Binarize::Any), 65536);
    let faint = |i: usize, _: usize| if i / 512 < 256 { 100 } else { 0 };
    assert_eq!(count(&mask(1, false, faint), Binarize::Half), 0);
    assert!((256 * 128..=256 * 129).contains(&count(&mask(1, false, faint), Binarize::Any)));
    assert!(mask_to_labels(&mask(1, false, faint), 100, 200, Binarize::Half).is_err());
}

/// VisA's raw masks hold the kind of each defect, which its official split turns into 255.
#[test]
fn every_kind_of_a_numbered_mask_is_defect() {
    let data: Vec<u8> = (0..64 * 64).map(|i| if i % 64 < 32 { 0 } else { 1 + (i / 64 % 9) as u8 }).collect();
    let mut mask = Mask { width: 64, height: 64, channels: 1, data, nearest: true, scaled: false };
    let labels = |m: &Mask| mask_to_labels(m, 64, 64, Binarize::Half).unwrap();
    assert!(labels(&mask).iter().all(|l| *l == 0));
    mask.mark_all_kinds();
    assert!(!mask.nearest && mask.data.iter().all(|v| [0, 255].contains(v)));
    assert!(labels(&mask).iter().zip(0..).all(|(l, i)| *l == u8::from(i % 256 >= 128)));
}

/// VisA's official split takes a palette mask's indices for the kinds, whatever their colours (a black one included).
#[test]
fn kinds_of_a_palette_mask_are_its_indices() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.png");
    let mut png = png::Encoder::new(std::fs::File::create(&path).unwrap(), 2, 2);
    png.set_color(png::ColorType::Indexed);
    png.set_palette(vec![255, 255, 255, 0, 0, 0, 9, 9, 9]);
    png.write_header().unwrap().write_image_data(&[0, 1, 2, 0]).unwrap();
    let mut mask = decode_mask(&path, &Limits::default()).unwrap();
    assert_eq!((mask.channels, &mask.data[..], mask.nearest), (1, &[0, 1, 2, 0][..], true));
    mask.mark_all_kinds();
    assert_eq!(mask.data, [0, 255, 255, 0]);
}

#[test]
fn alpha_of_a_mask_is_no_label() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.png");
    let file = std::fs::File::create(&path).unwrap();
    let encoder = image::codecs::png::PngEncoder::new(file);
    encoder.write_image(&[0, 0, 0, 255, 9, 0, 0, 255], 2, 1, image::ExtendedColorType::Rgba8).unwrap();
    let mask = decode_mask(&path, &Limits::default()).unwrap();
    assert_eq!((mask.channels, mask.data), (3, vec![0, 0, 0, 9, 0, 0]));
}
