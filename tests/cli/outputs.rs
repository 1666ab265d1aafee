//! `score --maps` and `--heatmaps`: files and their names; nothing is ever written over anything given.

use super::{Place, picture, save};

const SCORE: &str = "score --model model.safetensors";

/// The values of a little-endian f32 `.npy` of shape (256, 256).
fn npy(bytes: &[u8]) -> Vec<f32> {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let end = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let header: String = String::from_utf8_lossy(&bytes[10..end]).split_whitespace().collect();
    assert_eq!(header, "{'descr':'<f4','fortran_order':False,'shape':(256,256,),}");
    assert_eq!((end % 64, bytes[end - 1]), (0, b'\n'));
    bytes[end..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn maps_are_arrays_whose_top_is_the_score() {
    let place = Place::with_model();
    let records = place.run(&format!("{SCORE} data/nut/test --maps new/maps")).ok().records();
    assert_eq!(place.files("new/maps"), ["cut/0.npy", "cut/1.npy", "good/0.npy", "good/1.npy"]);
    for (record, name) in records.iter().zip(place.files("new/maps")) {
        let mut map = npy(&place.bytes(&format!("new/maps/{name}")));
        assert!(map.len() == 256 * 256 && map.iter().all(|x| x.is_finite()));
        map.sort_by(|a, b| b.total_cmp(a));
        let top = map[..655].iter().map(|x| *x as f64).sum::<f64>() / 655.0;
        assert!((top - record["score"].as_f64().unwrap()).abs() <= 1e-6, "{name}: {top} {record}");
    }
}

#[test]
fn heatmaps_are_pictures_of_the_same_size_on_one_scale() {
    let place = Place::with_model();
    image::DynamicImage::from(picture(9, true)).crop_imm(0, 0, 64, 48).save(place.path("wide.png")).unwrap();
    let draw = |args: &str| place.run(&format!("{SCORE} data/nut/test wide.png --heatmaps hot {args}")).ok();
    draw("");
    assert_eq!(place.files("hot"), ["cut/0.png", "cut/1.png", "good/0.png", "good/1.png", "wide.png"]);
    let read = |name: &str| image::open(place.path(name)).unwrap().to_rgb8();
    assert_eq!(read("hot/wide.png").dimensions(), (64, 48));
    let (drawn, given) = (read("hot/cut/0.png"), read("data/nut/test/cut/0.png"));
    assert!(drawn.dimensions() == (64, 64) && drawn != given);
    // Outside the crop the model saw nothing.
    assert_eq!(drawn.get_pixel(1, 1), given.get_pixel(1, 1));
    // At the bottom of the scale a picture stays as it was.
    draw("--heatmap-scale 5,6 --quiet");
    assert_eq!(read("hot/cut/0.png"), given);
    // The threshold sets the scale when nothing else does.
    let scale = |args: &str| place.run(&format!("{SCORE} data/nut/test --heatmaps hot {args}")).ok().err;
    assert!(scale("--threshold 0.25").contains("heat maps: 0 is the coolest colour, 0.5 the hottest"));
    assert!(scale("--threshold 0.25 --heatmap-scale 0.125,2").contains("0.125 is the coolest colour, 2 the"));
}

#[test]
fn names_mirror_the_path_below_the_argument() {
    let place = Place::with_model();
    let cases = [
        ("data/nut/test/cut/1.png", vec!["1.npy"]),
        ("data/nut/test/*/1.png", vec!["cut/1.npy", "good/1.npy"]),
        ("data/*/test/cut/1.png", vec!["bolt/test/cut/1.npy", "nut/test/cut/1.npy"]),
        ("./data/nut/test/cut/../good", vec!["0.npy", "1.npy"]),
        ("data/bolt/test/good data/nut/test/cut/1.jpg", vec!["0.npy", "1.npy"]),
    ];
    for (i, (args, names)) in cases.into_iter().enumerate() {
        let code = if args.contains("jpg") { 2 } else { 0 };
        let ran = place.run(&format!("{SCORE} {args} --maps maps{i}"));
        if code == 2 {
            // The missing picture would have had a name that another has: that is known before any work.
            assert!(ran.ended(2, "would both be written to").out.is_empty());
        } else {
            ran.ok();
            assert_eq!(place.files(&format!("maps{i}")), names, "{args}");
        }
    }
    place.feed(&format!("{SCORE} - --maps piped"), "data/nut/test/../test/cut/1.png\n").ok();
    assert_eq!(place.files("piped"), ["data/nut/test/test/cut/1.npy"]);
}

#[test]
fn collisions_are_refused_before_work() {
    let place = Place::with_model();
    save(&place.path("two/a.png"), &picture(1, false));
    save(&place.path("two/a.bmp"), &picture(2, false));
    for args in ["two --maps out", "two --heatmaps out", "data/nut/test/good data/bolt/test/good --maps out"]
    {
        let ran = place.run(&format!("{SCORE} {args}")).ended(2, "score them in separate runs");
        assert!(ran.out.is_empty() && !place.path("out").exists(), "{args}");
    }
    // Heat maps beside the pictures would replace them.
    let before = place.bytes("two/a.png");
    let ran = place.run(&format!("{SCORE} two/a.png --heatmaps two"));
    assert!(ran.ended(2, "two/a.png: this is one of the pictures to score").out.is_empty());
    place.run(&format!("{SCORE} two/a.png --maps two")).ok();
    assert!(place.bytes("two/a.png") == before && place.path("two/a.npy").exists());
}

#[test]
fn a_picture_that_fails_leaves_no_file() {
    let place = Place::with_model();
    std::fs::write(place.path("data/nut/test/cut/0.png"), "no picture").unwrap();
    place.run(&format!("{SCORE} data/nut/test --maps maps --heatmaps hot")).ended(1, "cut/0.png");
    assert_eq!(place.files("maps"), ["cut/1.npy", "good/0.npy", "good/1.npy"]);
    assert_eq!(place.files("hot"), ["cut/1.png", "good/0.png", "good/1.png"]);
}
