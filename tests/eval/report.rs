//! Tables, JSON, CSV and the HTML page.

use inp_former::Error;
use inp_former::eval::heatmap::{Rgb, png};
use inp_former::eval::metrics::{ImageMetrics, PixelMetrics};
use inp_former::eval::report::{self, ClassResult, Page, Picture, Scores};
use serde_json::json;

fn results() -> Vec<ClassResult> {
    let image = |x| ImageMetrics { auroc: Some(x), ap: Some(x / 2.0), f1max: Some(0.5) };
    let pixel = PixelMetrics { auroc: Some(0.9), ap: Some(0.1), f1max: Some(0.2), aupro: None };
    vec![
        ClassResult { name: "bottle".into(), images: 83, image: image(0.75), pixel: Some(pixel) },
        ClassResult { name: "<own>, \"x\"".into(), images: 10, image: image(0.25), pixel: None },
        ClassResult { name: "good only".into(), images: 7, image: ImageMetrics::default(), pixel: None },
    ]
}

#[test]
fn the_mean_skips_what_is_not_defined() {
    let m = report::mean(&results());
    assert_eq!((m.name.as_str(), m.images), ("mean", 100));
    assert_eq!(m.image, ImageMetrics { auroc: Some(0.5), ap: Some(0.25), f1max: Some(0.5) });
    assert_eq!(m.pixel.unwrap(), results()[0].pixel.unwrap());
    assert_eq!(report::mean(&results()[1..]).pixel, None);
    assert_eq!(report::mean(&[]).image.auroc, None);
}

#[test]
fn json_has_the_documented_shape() {
    let got = report::json(&results(), json!({"metrics": "exact"}));
    let nothing = json!({"auroc": null, "ap": null, "f1max": null, "aupro": null});
    let pixel = json!({"auroc": 0.9, "ap": 0.1, "f1max": 0.2, "aupro": null});
    assert_eq!(
        got,
        json!({
            "classes": {
                "bottle": {"image": {"auroc": 0.75, "ap": 0.375, "f1max": 0.5}, "pixel": pixel, "images": 83},
                "<own>, \"x\"": {"image": {"auroc": 0.25, "ap": 0.125, "f1max": 0.5}, "pixel": nothing, "images": 10},
                "good only": {"image": {"auroc": null, "ap": null, "f1max": null}, "pixel": nothing, "images": 7},
            },
            "mean": {"image": {"auroc": 0.5, "ap": 0.25, "f1max": 0.5}, "pixel": pixel, "images": 100},
            "settings": {"metrics": "exact"},
        })
    );
}

#[test]
fn csv_reads_back() {
    let text = report::csv(&results());
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header: Vec<_> = reader.headers().unwrap().iter().map(String::from).collect();
    assert_eq!(header[..3], ["class", "images", "image_auroc"]);
    let rows: Vec<Vec<String>> =
        reader.records().map(|r| r.unwrap().iter().map(String::from).collect()).collect();
    assert_eq!(rows[0], ["bottle", "83", "0.75", "0.375", "0.5", "0.9", "0.1", "0.2", ""]);
    assert_eq!(rows[1][..3], ["<own>, \"x\"", "10", "0.25"]);
    assert_eq!(rows[2][2..], [""; 7]);
    assert_eq!(rows[3][..3], ["mean", "100", "0.5"]);
}

#[test]
fn the_table_prints_percent_and_dashes_with_the_mean_last() {
    let text = report::table(&results());
    println!("{text}");
    let line = |name: &str| {
        let line = text.lines().find(|l| l.trim_start().starts_with(name)).unwrap();
        line.trim_start()[name.len()..].split_whitespace().map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(
        line("class"),
        "images I-AUROC I-AP I-F1max P-AUROC P-AP P-F1max AUPRO".split(' ').collect::<Vec<_>>()
    );
    assert_eq!(line("bottle"), ["83", "75.0", "37.5", "50.0", "90.0", "10.0", "20.0", "–"]);
    assert_eq!(line("good only"), ["7", "–", "–", "–", "–", "–", "–", "–"]);
    assert!(text.lines().rev().nth(1).unwrap().trim_start().starts_with("mean"));
}

#[test]
fn the_page_is_whole_escaped_and_holds_its_pictures() {
    let picture = Rgb::filled(5, 3, [10, 200, 30]);
    let scores: Vec<f32> = (0..40).map(|i| 0.01 * i as f32 + if i % 3 == 0 { 0.3 } else { 0.0 }).collect();
    let labels: Vec<bool> = (0..40).map(|i| i % 3 == 0).collect();
    let settings = json!({"model": "a<b>.safetensors", "resize": 448});
    let scores = [Scores { name: "bottle", scores: &scores, labels: &labels, threshold: Some(0.35) }];
    let pictures = [Picture { caption: "worst", picture: &picture }];
    let page = Page {
        title: "A & B",
        settings: &settings,
        results: &results(),
        scores: &scores,
        pictures: &pictures,
    };
    let html = report::html(&page).unwrap();
    for part in
        ["<title>A &amp; B</title>", "a&lt;b&gt;.safetensors", "&lt;own&gt;, &quot;x&quot;", "</html>"]
    {
        assert!(html.contains(part), "{part}");
    }
    assert!(!html.contains("NaN") && !html.contains("http"), "the page fetches nothing");
    assert_eq!(html.matches("<tr>").count(), 5);
    let encoded = html.split("base64,").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(decode(encoded), png(5, 3, &picture.data).unwrap());

    let bad = [Scores { name: "x", scores: &[f32::NAN], labels: &[true], threshold: None }];
    assert!(matches!(report::html(&Page { scores: &bad, ..page }), Err(Error::NotFinite(_))));
    let bad = [Scores { name: "x", scores: &[1.0], labels: &[], threshold: None }];
    assert!(matches!(report::html(&Page { scores: &bad, ..page }), Err(Error::Shape { .. })));
    let one = [Scores { name: "x", scores: &[1.0, 1.0], labels: &[true, false], threshold: None }];
    assert!(report::html(&Page { scores: &one, ..page }).is_ok());
}

/// Base64 read the other way, from its definition.
fn decode(text: &str) -> Vec<u8> {
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<bool> = text
        .trim_end_matches('=')
        .chars()
        .map(|c| digits.find(c).unwrap())
        .flat_map(|n| (0..6).rev().map(move |b| n >> b & 1 == 1))
        .collect();
    assert_eq!(text.len() % 4, 0);
    bits.chunks_exact(8).map(|b| b.iter().fold(0, |n, b| n << 1 | *b as u8)).collect()
}
