//! Pictures for people: contact sheets, heat maps and the report page of an evaluation.

use std::path::{Path, PathBuf};

use inp_former::Result;
use inp_former::data::image::{self, Limits};
use inp_former::engine::score::MAP_SIDE;
use inp_former::eval::heatmap::{self, Rgb, Sheet, SheetRow, contact_sheet};
use inp_former::eval::report::{self, ClassResult, Page, Picture, Scores};
use inp_former::fs::write_atomic;
use inp_former::model::Config;
use serde_json::Value;

use super::eval::Tested;
use super::inputs;

/// One row of a contact sheet.
pub struct Shown<'a> {
    title: String,
    tested: &'a Tested,
}

/// A good picture and one of each defect of a class.
pub fn choose<'a>(class: &str, tested: &'a [Tested]) -> Vec<Shown<'a>> {
    let mut kinds: Vec<&Option<String>> = tested.iter().map(|t| &t.defect).collect();
    kinds.sort();
    kinds.dedup();
    let first = |kind: &&Option<String>| {
        let tested = tested.iter().find(|t| &t.defect == *kind)?;
        Some(Shown { title: format!("{class}: {}", kind.as_deref().unwrap_or("good")), tested })
    };
    kinds.iter().filter_map(first).collect()
}

/// The sheet: what the model saw, its map over it, the true defect.
pub fn sheet(title: &str, shown: &[Shown], cfg: &Config, scale: (f32, f32)) -> Result<Rgb> {
    let seen = |s: &Shown| -> Result<Rgb> {
        let p = image::decode(&s.tested.path, &Limits::default())?;
        Rgb::new(cfg.crop, cfg.crop, p.crop(cfg.resize, cfg.crop)?)
    };
    let pictures: Vec<Rgb> = shown.iter().map(seen).collect::<Result<_>>()?;
    let rows: Vec<SheetRow> = shown
        .iter()
        .zip(&pictures)
        .map(|(s, picture)| SheetRow {
            picture,
            map: &s.tested.map,
            mask: s.tested.mask.as_deref(),
            title: &s.title,
            score: s.tested.score,
        })
        .collect();
    contact_sheet(&rows, &Sheet { title, side: MAP_SIDE, scale, cell: 200, columns: 3 })
}

/// A heat map of every test picture, under its path below `root`.
pub fn heatmaps(
    folder: &Path,
    root: &Path,
    classes: &[(String, Vec<Tested>)],
    cover: f64,
    scale: (f32, f32),
) -> Result<()> {
    for t in classes.iter().flat_map(|c| &c.1) {
        let p = image::decode(&t.path, &Limits::default())?;
        let below: PathBuf = t.path.strip_prefix(root).unwrap_or(&t.path).with_extension("png");
        let out = folder.join(below);
        inputs::make_parent(&out)?;
        let rgb = heatmap::overlay_centre(&p.rgb, p.width, p.height, &t.map, MAP_SIDE, cover, scale)?;
        heatmap::write_png(&out, p.width, p.height, &rgb)?;
    }
    Ok(())
}

/// The self-contained report page.
pub fn page(
    title: &str,
    settings: &Value,
    results: &[ClassResult],
    classes: &[(String, Vec<Tested>)],
    sheet: &Rgb,
    threshold: Option<f32>,
    path: &Path,
) -> Result<()> {
    let columns: Vec<(Vec<f32>, Vec<bool>)> = classes
        .iter()
        .map(|(_, t)| (t.iter().map(|t| t.score).collect(), t.iter().map(|t| t.defect.is_some()).collect()))
        .collect();
    let scores: Vec<Scores> = classes
        .iter()
        .zip(&columns)
        .map(|((name, _), (scores, labels))| Scores { name, scores, labels, threshold })
        .collect();
    let pictures =
        [Picture { caption: "What the model saw, its anomaly map, the true defect", picture: sheet }];
    let html = report::html(&Page { title, settings, results, scores: &scores, pictures: &pictures })?;
    write_atomic(path, html.as_bytes())
}
