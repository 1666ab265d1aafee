//! Results as a table, JSON, CSV and one HTML page. A value that is not defined prints as a dash, in JSON as null, in
//! CSV as nothing; none is ever shown as 0.

mod html;

use comfy_table::{CellAlignment, Table, TableComponent, presets};
use serde_json::{Map, Value, json};

use super::metrics::{ImageMetrics, PixelMetrics};
pub use html::{Page, Picture, Scores, html};

/// Metrics of one class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassResult {
    /// Name of the class.
    pub name: String,
    /// Test images.
    pub images: usize,
    /// Of the image scores.
    pub image: ImageMetrics,
    /// `None` where the class has no masks.
    pub pixel: Option<PixelMetrics>,
}

impl ClassResult {
    /// The seven values, in the order of [`COLUMNS`].
    fn values(&self) -> [Option<f64>; 7] {
        let (i, p) = (&self.image, self.pixel.unwrap_or_default());
        [i.auroc, i.ap, i.f1max, p.auroc, p.ap, p.f1max, p.aupro]
    }
}

/// What the seven values are called in tables and in CSV.
const COLUMNS: [(&str, &str); 7] = [
    ("I-AUROC", "image_auroc"),
    ("I-AP", "image_ap"),
    ("I-F1max", "image_f1max"),
    ("P-AUROC", "pixel_auroc"),
    ("P-AP", "pixel_ap"),
    ("P-F1max", "pixel_f1max"),
    ("AUPRO", "pixel_aupro"),
];

/// Each metric's mean over the classes that have it, named `mean`; `images` is the sum.
pub fn mean(results: &[ClassResult]) -> ClassResult {
    let values: Vec<_> = results.iter().map(ClassResult::values).collect();
    let of = |k: usize| {
        let there: Vec<f64> = values.iter().filter_map(|v| v[k]).collect();
        (!there.is_empty()).then(|| there.iter().sum::<f64>() / there.len() as f64)
    };
    ClassResult {
        name: "mean".into(),
        images: results.iter().map(|r| r.images).sum(),
        image: ImageMetrics { auroc: of(0), ap: of(1), f1max: of(2) },
        pixel: results.iter().any(|r| r.pixel.is_some()).then(|| PixelMetrics {
            auroc: of(3),
            ap: of(4),
            f1max: of(5),
            aupro: of(6),
        }),
    }
}

/// Header and rows as printed: percent with one decimal, the mean last.
fn cells(results: &[ClassResult]) -> Vec<Vec<String>> {
    let mut out =
        vec![["class", "images"].into_iter().chain(COLUMNS.map(|c| c.0)).map(String::from).collect()];
    for r in results.iter().chain([&mean(results)]) {
        let percent = |v: Option<f64>| v.map_or("–".to_string(), |v| format!("{:.1}", 100.0 * v));
        out.push([r.name.clone(), r.images.to_string()].into_iter().chain(r.values().map(percent)).collect());
    }
    out
}

/// A table for the terminal: percent with one decimal, a row a class, the mean last.
pub fn table(results: &[ClassResult]) -> String {
    let mut rows = cells(results).into_iter();
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(rows.next().unwrap_or_default())
        .add_rows(rows);
    table.remove_style(TableComponent::HorizontalLines).remove_style(TableComponent::MiddleIntersections);
    table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    table.to_string()
}

/// `{"classes": {NAME: {"image", "pixel", "images"}}, "mean": {…}, "settings"}`, fractions in full precision; the
/// pixel values are null where there are no masks.
pub fn json(results: &[ClassResult], settings: Value) -> Value {
    let one = |r: &ClassResult| {
        let (i, p) = (&r.image, r.pixel.unwrap_or_default());
        json!({
            "image": {"auroc": i.auroc, "ap": i.ap, "f1max": i.f1max},
            "pixel": {"auroc": p.auroc, "ap": p.ap, "f1max": p.f1max, "aupro": p.aupro},
            "images": r.images,
        })
    };
    let classes: Map<String, Value> = results.iter().map(|r| (r.name.clone(), one(r))).collect();
    json!({"classes": classes, "mean": one(&mean(results)), "settings": settings})
}

/// A header, a line a class, the mean last; fractions in full precision.
pub fn csv(results: &[ClassResult]) -> String {
    let mut out = csv::Writer::from_writer(Vec::new());
    let header = ["class", "images"].into_iter().chain(COLUMNS.map(|c| c.1));
    // Writing to memory cannot fail, and every record has nine fields.
    let _ = out.write_record(header);
    for r in results.iter().chain([&mean(results)]) {
        let values = r.values().map(|v| v.map_or(String::new(), |v| v.to_string()));
        let _ = out.write_record([r.name.clone(), r.images.to_string()].into_iter().chain(values));
    }
    out.into_inner().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
