//! `score`: a number and a map for each picture.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use inp_former::data::image::{self, Limits, Picture};
use inp_former::data::prefetch;
use inp_former::engine::score::{MAP_SIDE, Scored};
use inp_former::engine::{Options, Scorer, Verdict};
use inp_former::eval::heatmap;
use inp_former::fs::write_unsynced;
use inp_former::model::Config;
use inp_former::{Error, Result};
use serde::Serialize;
use serde_json::json;

use super::device::Flow;
use super::inputs::{self, Input};
use super::{Common, Done, print};

#[derive(Args)]
pub struct Score {
    /// Model file
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Pictures, folders or patterns; `-` reads names from standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// How to print [default: table on a terminal, jsonl elsewhere]
    #[arg(long)]
    format: Option<Format>,
    /// Write each map as .npy (float32, 256x256) into this folder
    #[arg(long, value_name = "DIR")]
    maps: Option<PathBuf>,
    /// Write each picture with its map over it as .png into this folder
    #[arg(long, value_name = "DIR")]
    heatmaps: Option<PathBuf>,
    /// Map values drawn as the coolest and the hottest colour [default: from the threshold, else from the model]
    #[arg(long, value_name = "LOW,HIGH", value_parser = parse_scale)]
    heatmap_scale: Option<(f32, f32)>,
    /// A picture is anomalous from this score on [default: the model's calibrated threshold]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    threshold: Option<f32>,
    /// Use the distance to the picture's own prototypes: no decoder, any kind of picture
    #[arg(long)]
    zero_shot: bool,
    /// Exit with 3 when a picture is anomalous (needs a threshold)
    #[arg(long)]
    fail_on_anomaly: bool,
    #[command(flatten)]
    flow: Flow,
    /// Largest picture to accept, in megapixels
    #[arg(long, value_name = "MP", default_value_t = 100)]
    max_megapixels: u64,
}

#[derive(ValueEnum, Clone, Copy, PartialEq)]
enum Format {
    Table,
    Jsonl,
    Csv,
}

/// A picture beside its crop.
struct Loaded {
    width: usize,
    height: usize,
    /// Only when it will be drawn.
    picture: Option<Picture>,
}

/// `LOW,HIGH`.
pub fn parse_scale(s: &str) -> std::result::Result<(f32, f32), String> {
    let parse = || {
        let (a, b) = s.split_once(',')?;
        let (a, b): (f32, f32) = (a.trim().parse().ok()?, b.trim().parse().ok()?);
        (a < b && a.is_finite() && b.is_finite()).then_some((a, b))
    };
    parse().ok_or_else(|| format!("`{s}` is not LOW,HIGH with LOW below HIGH"))
}

/// Limits with the pixel limit raised; the byte limit follows.
pub fn limits(megapixels: u64) -> Limits {
    let default = Limits::default();
    let max_pixels = megapixels.saturating_mul(1_000_000);
    Limits { max_pixels, max_bytes: default.max_bytes.max(max_pixels.saturating_mul(4)) }
}

/// The scale that heat maps of a run are drawn on: asked for, around the threshold, the model's, or all of 0 to 1.
pub fn scale(asked: Option<(f32, f32)>, scorer: &Scorer) -> (f32, f32) {
    let around = |t: f32| (t > 0.0).then_some((0.0, 2.0 * t));
    asked.or(scorer.threshold().and_then(around)).or(scorer.config().map_range()).unwrap_or((0.0, 1.0))
}

impl Score {
    pub fn run(self, common: &Common) -> Result<Done> {
        if self.threshold.is_some_and(|t| !t.is_finite()) {
            return Err(Error::usage("--threshold must be a finite number"));
        }
        let mut place = common.place()?;
        let model = common.scoring_model(&self.model)?;
        let options = Options { zero_shot: self.zero_shot, threshold: self.threshold, ..Options::default() };
        let mut scorer = place.scorer(common, model, options)?;
        if scorer.threshold().is_none() && scorer.config().threshold(!self.zero_shot).is_some() {
            common.warn(format!(
                "the model's threshold was calibrated {} --zero-shot and is not used; calibrate again, or give \
                 --threshold",
                if self.zero_shot { "without" } else { "with" }
            ));
        }
        if let (None, Some(p)) = (self.threshold, scorer.config().threshold_precision())
            && p != scorer.precision()
        {
            common.warn(format!(
                "the model's threshold was calibrated in {p}, and this run computes in {}: calibrate again",
                scorer.precision()
            ));
        }
        if self.fail_on_anomaly && scorer.threshold().is_none() {
            return Err(Error::usage(
                "--fail-on-anomaly needs a threshold: give --threshold, or `calibrate` the model first",
            ));
        }
        let inputs = inputs::expand(&self.paths)?;
        let plan =
            |dir: &Option<PathBuf>, ext| dir.as_ref().map(|d| inputs::outputs(d, &inputs, ext)).transpose();
        let (maps, heatmaps) = (plan(&self.maps, "npy")?, plan(&self.heatmaps, "png")?);
        let scale = scale(self.heatmap_scale, &scorer);
        if heatmaps.is_some() {
            common.note(format!("heat maps: {} is the coolest colour, {} the hottest", scale.0, scale.1));
        }
        let format = self.format.unwrap_or(match std::io::stdout().is_terminal() {
            true => Format::Table,
            false => Format::Jsonl,
        });
        let mut out = Output::new(format)?;
        let cfg = scorer.config().clone();
        let limits = limits(self.max_megapixels);
        let (draw, cover) = (heatmaps.is_some(), cfg.crop as f64 / cfg.resize as f64);
        let read = |_: usize, input: Input| image::read(&input.path, &limits);
        let load = |i: usize, bytes: Result<Vec<u8>>| load(&inputs[i].path, &bytes?, &cfg, draw, &limits);
        let bar = common.bar(inputs.len(), "scoring");
        let (mut failures, mut anomalies) = (0, 0);
        let threshold = scorer.threshold();
        let (batch, workers) = self.flow.of(&scorer, &place.cpu, inputs.len());
        let mut batches = scorer.batches(batch, |i, scored: Result<Scored<Loaded>>| {
            let path = &inputs[i].path;
            bar.inc(1);
            match scored.map_err(|e| about(path, e)) {
                Ok(Scored { with: p, verdict, ms }) => {
                    if let Some(maps) = &maps {
                        inputs::make_parent(&maps[i])?;
                        write_unsynced(&maps[i], &heatmap::npy(&verdict.map, &[MAP_SIDE, MAP_SIDE]))?;
                    }
                    if let (Some(heatmaps), Some(pic)) = (&heatmaps, &p.picture) {
                        inputs::make_parent(&heatmaps[i])?;
                        let rgb = heatmap::overlay_centre(
                            &pic.rgb,
                            p.width,
                            p.height,
                            &verdict.map,
                            MAP_SIDE,
                            cover,
                            scale,
                        )?;
                        heatmap::write_png(&heatmaps[i], p.width, p.height, &rgb)?;
                    }
                    anomalies += usize::from(verdict.anomalous == Some(true));
                    bar.suspend(|| out.result(path, &verdict, threshold, &p, ms))
                }
                Err(e) => {
                    failures += 1;
                    bar.suspend(|| {
                        common.failed(&e);
                        out.error(path, &e)
                    })
                }
            }
        });
        prefetch::staged(&place.cpu, inputs.clone(), workers, read, load, |_, loaded| batches.push(loaded))?;
        batches.finish()?;
        bar.finish_and_clear();
        out.finish()?;
        match (failures, anomalies) {
            (f, _) if f == inputs.len() => {
                Err(Error::usage(format!("none of the {f} pictures could be scored")))
            }
            (_, a) if a > 0 && self.fail_on_anomaly => Ok(Done::Anomalous),
            (0, _) => Ok(Done::All),
            _ => Ok(Done::SomeFailed),
        }
    }
}

/// What is said of a picture and its crop.
fn load(path: &Path, bytes: &[u8], cfg: &Config, keep: bool, limits: &Limits) -> Result<(Loaded, Vec<u8>)> {
    let picture = image::decode_bytes(path, bytes, limits)?;
    let (width, height) = (picture.width, picture.height);
    let crop = picture.crop(cfg.resize, cfg.crop)?;
    Ok((Loaded { width, height, picture: keep.then_some(picture) }, crop))
}

/// Puts the picture's name on an error that does not carry one.
pub fn about(path: &Path, e: Error) -> Error {
    match e {
        Error::NotFinite(what) | Error::Usage(what) => Error::file(path, what),
        e => e,
    }
}

/// One line of jsonl. A struct and not a `json!` value, which would widen the f32s: so they print as the shortest
/// decimal that reads back as the same f32.
#[derive(Serialize)]
struct Record<'a> {
    path: &'a str,
    score: f32,
    anomalous: Option<bool>,
    threshold: Option<f32>,
    width: usize,
    height: usize,
    ms: f64,
}

/// Records as they come, or a table at the end.
struct Output {
    format: Format,
    rows: Vec<[String; 4]>,
}

impl Output {
    fn new(format: Format) -> Result<Self> {
        if format == Format::Csv {
            print("path,score,anomalous,threshold,width,height,ms,error\n")?;
        }
        Ok(Self { format, rows: Vec::new() })
    }

    fn result(
        &mut self,
        path: &Path,
        v: &Verdict,
        threshold: Option<f32>,
        p: &Loaded,
        ms: f64,
    ) -> Result<()> {
        let (width, height, ms) = (p.width, p.height, (ms * 1e3).round() / 1e3);
        let path = path.to_string_lossy();
        let optional = |o: Option<String>| o.unwrap_or_default();
        match self.format {
            Format::Jsonl => {
                let (score, anomalous) = (v.score, v.anomalous);
                let record = Record { path: &path, score, anomalous, threshold, width, height, ms };
                print(&format!("{}\n", serde_json::to_string(&record).expect("a record has no odd keys")))
            }
            Format::Csv => csv_line(&[
                path.to_string(),
                v.score.to_string(),
                optional(v.anomalous.map(|a| a.to_string())),
                optional(threshold.map(|t| t.to_string())),
                width.to_string(),
                height.to_string(),
                ms.to_string(),
                String::new(),
            ]),
            Format::Table => {
                let verdict = v.anomalous.map_or("", |a| if a { "ANOMALOUS" } else { "normal" });
                self.rows.push([
                    path.to_string(),
                    format!("{:.4}", v.score),
                    verdict.into(),
                    format!("{ms:.1}"),
                ]);
                Ok(())
            }
        }
    }

    fn error(&mut self, path: &Path, e: &Error) -> Result<()> {
        let path = path.to_string_lossy().to_string();
        match self.format {
            Format::Jsonl => print(&format!("{}\n", json!({ "path": path, "error": e.to_string() }))),
            Format::Csv => {
                let mut fields = vec![String::new(); 8];
                fields[0] = path;
                fields[7] = e.to_string();
                csv_line(&fields)
            }
            Format::Table => {
                self.rows.push([path, "–".into(), "failed".into(), String::new()]);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<()> {
        if self.format != Format::Table {
            return Ok(());
        }
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["picture", "score", "verdict", "ms"]);
        table.add_rows(self.rows);
        for column in [1, 3] {
            if let Some(c) = table.column_mut(column) {
                c.set_cell_alignment(CellAlignment::Right);
            }
        }
        print(&format!("{table}\n"))
    }
}

fn csv_line(fields: &[String]) -> Result<()> {
    let mut w = csv::Writer::from_writer(Vec::new());
    let line = w.write_record(fields).ok().and_then(|()| w.into_inner().ok()).unwrap_or_default();
    print(&String::from_utf8_lossy(&line))
}
