//! Heat maps, contact sheets, PNG and `.npy` bytes.

use inp_former::Error;
use inp_former::eval::heatmap::{Rgb, Sheet, SheetRow, colour, contact_sheet, npy, overlay, write_png};

use crate::support::random;

fn picture(width: usize, height: usize) -> Rgb {
    let data = random("heatmap.picture", &[height, width, 3]).data;
    Rgb::new(width, height, data.iter().map(|x| (x * 127.0 + 128.0) as u8).collect()).unwrap()
}

#[test]
fn png_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    for (w, h) in [(1, 1), (7, 3), (64, 65)] {
        let p = picture(w, h);
        write_png(&path, w, h, &p.data).unwrap();
        let back = image::open(&path).unwrap().into_rgb8();
        assert_eq!(back.dimensions(), (w as u32, h as u32));
        assert_eq!(back.into_raw(), p.data);
    }
    assert!(matches!(write_png(&path, 2, 2, &[0; 11]), Err(Error::Shape { .. })));
    assert!(matches!(write_png(&path, 0, 0, &[]), Err(Error::Shape { .. })));
}

#[test]
fn colours_grow_lighter_evenly() {
    // CIE lightness from sRGB, by its definition.
    let lightness = |c: [u8; 3]| {
        let linear = c.map(|x| {
            let x = x as f64 / 255.0;
            if x <= 0.04045 { x / 12.92 } else { ((x + 0.055) / 1.055).powf(2.4) }
        });
        let y: f64 = linear.iter().zip([0.2126, 0.7152, 0.0722]).map(|(x, w)| x * w).sum();
        if y > 0.008856 { 116.0 * y.cbrt() - 16.0 } else { 903.3 * y }
    };
    let steps: Vec<f64> = (0..=16).map(|i| lightness(colour(i as f32 / 16.0))).collect();
    assert!(steps.windows(2).all(|w| w[1] - w[0] > 2.0 && w[1] - w[0] < 9.0), "{steps:?}");
    assert_eq!((colour(-1.0), colour(2.0)), (colour(0.0), colour(1.0)));
}

#[test]
fn the_scale_is_the_callers() {
    let map = [0.0, 0.25, 0.5, 1.0];
    let drawn = |map: &[f32], scale| overlay(&[0; 12], 2, 2, map, 2, scale);
    let on_black = |levels: [f32; 4]| -> Vec<u8> {
        let faded = |t: f32| colour(t).map(|c| (c as f32 * 0.75 * t * (2.0 - t)).round() as u8);
        levels.into_iter().flat_map(faded).collect()
    };
    assert_eq!(drawn(&map, (0.25, 0.75)).unwrap(), on_black([0.0, 0.0, 0.5, 1.0]));
    assert_eq!(drawn(&map, (0.5, 0.5)).unwrap(), on_black([0.0, 0.0, 0.0, 1.0]));
    for scale in [(1.0, 0.0), (f32::NAN, 1.0), (0.0, f32::INFINITY)] {
        assert!(matches!(drawn(&map, scale), Err(Error::Usage(_))));
    }
    assert!(matches!(drawn(&[0.0, f32::NAN, 0.0, 0.0], (0.0, 1.0)), Err(Error::NotFinite(_))));
}

#[test]
fn overlay_leaves_the_normal_as_it_is_and_resizes_bilinearly() {
    let (w, h, side) = (13, 5, 4);
    let p = picture(w, h);
    let same = overlay(&p.data, w, h, &[0.1; 16], side, (0.1, 0.5)).unwrap();
    assert_eq!(same, p.data);
    // Against the definition: half-pixel centres, clamped at the border, opacity 3/4·t·(2 - t).
    let map = random("heatmap.map", &[side, side]).data;
    let got = overlay(&p.data, w, h, &map, side, (-0.5, 0.8)).unwrap();
    let at = |x: usize, len: usize| ((x as f64 + 0.5) * side as f64 / len as f64 - 0.5).clamp(0.0, 3.0);
    for (i, pixel) in got.chunks_exact(3).enumerate() {
        let (x, y) = (at(i % w, w), at(i / w, h));
        let value = (0..16).fold(0.0, |sum, k| {
            let near =
                (1.0 - (x - (k % 4) as f64).abs()).max(0.0) * (1.0 - (y - (k / 4) as f64).abs()).max(0.0);
            sum + near * map[k] as f64
        });
        let t = ((value + 0.5) / 1.3).clamp(0.0, 1.0);
        let opacity = 0.75 * t * (2.0 - t);
        for (k, got) in pixel.iter().enumerate() {
            let want = p.data[i * 3 + k] as f64 * (1.0 - opacity) + colour(t as f32)[k] as f64 * opacity;
            assert!((*got as f64 - want).abs() <= 1.0, "pixel {i}: {got} instead of {want}");
        }
    }
    assert!(matches!(overlay(&p.data, w, h, &[f32::NAN; 16], side, (0.0, 1.0)), Err(Error::NotFinite(_))));
    assert!(matches!(overlay(&p.data, w, h, &[0.0; 15], side, (0.0, 1.0)), Err(Error::Shape { .. })));
    assert!(matches!(overlay(&p.data, w, h + 1, &map, side, (0.0, 1.0)), Err(Error::Shape { .. })));
}

#[test]
fn npy_header_is_numpys() {
    let values = random("heatmap.npy", &[6, 4]).data;
    for shape in [&[6, 4][..], &[24], &[1, 2, 3, 4]] {
        let bytes = npy(&values, shape);
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        let len = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
        assert_eq!((10 + len) % 64, 0);
        let header = std::str::from_utf8(&bytes[10..10 + len]).unwrap();
        assert!(
            header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (")
                && header.ends_with('\n')
        );
        let dims = header.split(['(', ')']).nth(1).unwrap();
        let dims: Vec<usize> = dims.split_terminator(',').map(|d| d.trim().parse().unwrap()).collect();
        assert_eq!(dims, shape);
        let back: Vec<f32> =
            bytes[10 + len..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(back, values);
    }
}

/// Every kind of row on one sheet; set `INP_LOOK` to a PNG's path to look at it.
#[test]
fn contact_sheet_holds_every_panel() {
    let side = 64;
    let ground = [90, 140, 120];
    let wide = Rgb::filled(320, 200, ground);
    let tall = Rgb::filled(40, 90, ground);
    let distance = |i: usize| (i % side).abs_diff(30).pow(2) + (i / side).abs_diff(20).pow(2);
    let map: Vec<f32> = (0..side * side).map(|i| 0.1 + 0.4 * (-(distance(i) as f32) / 90.0).exp()).collect();
    let mask: Vec<u8> = (0..side * side).map(|i| (distance(i) < 80) as u8).collect();
    let title = "bottle/broken_large/000.png: gjpqy {|}~ and a name that is much too long for the room that there is here";
    let row = |picture, mask| SheetRow { picture, map: &map, mask, title, score: 0.4321 };
    let sheet = Sheet { title: "bottle", side, scale: (0.1, 0.5), cell: 128, columns: 2 };
    let rows = [row(&wide, Some(&mask[..])), row(&tall, Some(&mask)), row(&wide, None)];
    let out = contact_sheet(&rows, &sheet).unwrap();
    assert_eq!(out.data.len(), out.width * out.height * 3);
    let has = |c: [u8; 3]| out.data.chunks_exact(3).filter(|p| **p == c).count();
    assert!(has(ground) > 3 * 128 * 60 && has([0, 235, 120]) > 100 && has(colour(1.0)) > 0);
    if let Some(path) = std::env::var_os("INP_LOOK") {
        write_png(path.as_ref(), out.width, out.height, &out.data).unwrap();
    }
    let two = contact_sheet(&rows[2..], &sheet).unwrap();
    assert!(two.width < out.width / 2, "one column without outlines");
    assert!(contact_sheet(&[], &sheet).is_err());
    assert!(matches!(contact_sheet(&[row(&wide, Some(&mask[1..]))], &sheet), Err(Error::Shape { .. })));
    assert!(matches!(contact_sheet(&rows, &Sheet { scale: (1.0, 0.0), ..sheet }), Err(Error::Usage(_))));
}
