//! `eval`: the seven metrics of each class and their mean.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, ValueEnum};
use inp_former::data::dataset::{Class, Dataset};
use inp_former::data::image::{self, Binarize, Limits};
use inp_former::data::prefetch;
use inp_former::engine::score::MAP_SIDE;
use inp_former::engine::score::Scored;
use inp_former::engine::{Options, Scorer};
use inp_former::eval::metrics::{self, Mode};
use inp_former::eval::report::{self, ClassResult};
use inp_former::fs::write_atomic;
use inp_former::runtime::Cpu;
use inp_former::{Error, Result};
use serde_json::{Value, json};

use super::device::Flow;
use super::score::about;
use super::{Common, DatasetKind, Done, gallery, inputs, print};

#[derive(Args)]
pub struct Eval {
    /// Model file, or the folder that `train --setting single` wrote
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Data set
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Layout of the data set
    #[arg(long, default_value = "auto")]
    dataset: DatasetKind,
    /// Only these classes
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    classes: Vec<String>,
    /// Write the metrics as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the metrics as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write a page with the metrics, score histograms and a contact sheet
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// All distinct thresholds, or what the published evaluation runs (200 steps)
    #[arg(long, default_value = "exact")]
    metrics: Mode,
    /// Which pixels of a down-sampled mask are anomalous: above one half (published code), or any above zero (paper)
    #[arg(long, default_value = "half")]
    gt_binarize: Binarize,
    /// Use the distance to the picture's own prototypes
    #[arg(long)]
    zero_shot: bool,
    #[command(flatten)]
    flow: Flow,
}

/// How an evaluation is done, whoever asks for it.
pub struct Setting {
    pub cpu: Cpu,
    pub mode: Mode,
    pub binarize: Binarize,
    pub flow: Flow,
}

/// A test picture and what was found.
pub struct Tested {
    pub path: PathBuf,
    pub defect: Option<String>,
    pub score: f32,
    pub map: Vec<f32>,
    /// `(256, 256)` of 0 and 1; all 0 for a good picture, `None` for a defective one without a mask.
    pub mask: Option<Vec<u8>>,
}

impl Eval {
    pub fn run(self, common: &Common) -> Result<Done> {
        let mut place = common.place()?;
        let cpu = &place.cpu.clone();
        let data = Dataset::open(&self.data, self.dataset.layout(), &self.classes)?;
        data.notes.iter().for_each(|n| common.note(format!("note: {n}")));
        let (mode, binarize) = (self.metrics, self.gt_binarize);
        let setting = Setting { cpu: cpu.clone(), mode, binarize, flow: self.flow };
        for path in [&self.json, &self.csv, &self.report].into_iter().flatten() {
            inputs::make_parent(path)?;
        }
        let one_each = self.model.is_dir();
        let model_of = |class: &Class| self.model.join(format!("{}.safetensors", class.name));
        if one_each && let Some(lacking) = data.classes.iter().map(model_of).find(|m| !m.exists()) {
            return Err(Error::file(
                lacking,
                "there is no model of this class; train it, or choose --classes",
            ));
        }
        let mut open = |path: &Path| -> Result<Scorer> {
            let options = Options { zero_shot: self.zero_shot, ..Options::default() };
            place.scorer(common, common.scoring_model(path)?, options)
        };
        let mut scorer = if one_each { None } else { Some(open(&self.model)?) };
        let (mut results, mut failures, mut kept) = (Vec::new(), 0, Vec::new());
        for class in &data.classes {
            if class.test.is_empty() {
                common.warn(format!("{}: no test pictures, skipped", class.name));
                continue;
            }
            if one_each {
                scorer = Some(open(&model_of(class))?);
            }
            let scorer = scorer.as_mut().expect("opened above");
            let (tested, failed) = test_class(common, scorer, class, &setting)?;
            failures += failed;
            if tested.is_empty() {
                common.warn(format!("{}: no picture could be scored", class.name));
                continue;
            }
            results.push(measure(cpu, &class.name, &tested, mode)?);
            if self.report.is_some() {
                kept.push((class.name.clone(), tested));
            }
        }
        if results.is_empty() {
            return Err(Error::dataset(&self.data, "no class could be evaluated"));
        }
        let scorer = scorer.expect("a class was evaluated");
        let settings = self.settings(&scorer, &data);
        show(&results, &settings)?;
        if let Some(path) = &self.report {
            let shown: Vec<_> =
                kept.iter().flat_map(|(name, tested)| gallery::choose(name, tested)).collect();
            let scale = super::score::scale(None, &scorer);
            let sheet = gallery::sheet("evaluation", &shown, scorer.config(), scale)?;
            gallery::page(
                "inp-former evaluation",
                &settings,
                &results,
                &kept,
                &sheet,
                scorer.threshold(),
                path,
            )?;
        }
        write_results(&results, settings, self.json.as_deref(), self.csv.as_deref())?;
        Ok(if failures > 0 { Done::SomeFailed } else { Done::All })
    }

    fn settings(&self, scorer: &Scorer, data: &Dataset) -> Value {
        let cfg = scorer.config();
        json!({
            "model": self.model.display().to_string(), "data": self.data.display().to_string(), "dataset": data.layout.name(),
            "metrics": name(&self.metrics),
            "gt_binarize": name(&self.gt_binarize),
            "zero_shot": self.zero_shot, "resize": cfg.resize, "crop": cfg.crop, "precision": scorer.precision(),
            "version": env!("CARGO_PKG_VERSION"),
        })
    }
}

/// What the command line calls a choice.
fn name(choice: &impl ValueEnum) -> String {
    choice.to_possible_value().map_or(String::new(), |v| v.get_name().to_string())
}

/// A table on a terminal, JSON elsewhere.
pub fn show(results: &[ClassResult], settings: &Value) -> Result<()> {
    if std::io::stdout().is_terminal() {
        return print(&format!("{}\n", report::table(results)));
    }
    print(&format!("{:#}\n", report::json(results, settings.clone())))
}

/// Writes what was asked for.
pub fn write_results(
    results: &[ClassResult],
    settings: Value,
    json: Option<&Path>,
    csv: Option<&Path>,
) -> Result<()> {
    if let Some(path) = json {
        write_atomic(path, format!("{:#}\n", report::json(results, settings)).as_bytes())?;
    }
    if let Some(path) = csv {
        write_atomic(path, report::csv(results).as_bytes())?;
    }
    Ok(())
}

/// Scores every test picture of a class. Pictures that cannot be read are named, counted and left out.
pub fn test_class(
    common: &Common,
    scorer: &mut Scorer,
    class: &Class,
    setting: &Setting,
) -> Result<(Vec<Tested>, usize)> {
    let cfg = scorer.config().clone();
    let (resize, crop) = (cfg.resize, cfg.crop);
    let limits = Limits::default();
    let scaled = AtomicBool::new(false);
    let read = |_: usize, path: PathBuf| image::read(&path, &limits);
    let load = |i: usize, bytes: Result<Vec<u8>>| -> Result<(Option<Vec<u8>>, Vec<u8>)> {
        let picture = image::decode_bytes(&class.test[i].path, &bytes?, &limits)?;
        let pixels = picture.crop(resize, crop)?;
        let mask = match (&class.test[i].mask, &class.test[i].defect) {
            (Some(mask), _) => {
                let mut mask = image::decode_mask(mask, &limits)?;
                if class.numbered_masks {
                    mask.mark_all_kinds();
                }
                scaled.fetch_or(mask.scaled, Ordering::Relaxed);
                Some(image::mask_to_labels(&mask, resize, crop, setting.binarize)?)
            }
            (None, None) => Some(vec![0; MAP_SIDE * MAP_SIDE]),
            (None, Some(_)) => None,
        };
        Ok((mask, pixels))
    };
    let paths: Vec<PathBuf> = class.test.iter().map(|s| s.path.clone()).collect();
    let bar = common.bar(paths.len(), &class.name);
    let (mut tested, mut failed) = (Vec::new(), 0);
    let (batch, workers) = setting.flow.of(scorer, &setting.cpu, paths.len());
    let mut batches = scorer.batches(batch, |i, scored| {
        let sample = &class.test[i];
        bar.inc(1);
        match scored.map_err(|e| about(&sample.path, e)) {
            Ok(Scored { with: mask, verdict, .. }) => tested.push(Tested {
                path: sample.path.clone(),
                defect: sample.defect.clone(),
                score: verdict.score,
                map: verdict.map,
                mask,
            }),
            Err(e) => {
                failed += 1;
                bar.suspend(|| common.failed(&e));
            }
        }
        Ok(())
    });
    prefetch::staged(&setting.cpu, paths, workers, read, load, |_, loaded| batches.push(loaded))?;
    batches.finish()?;
    bar.finish_and_clear();
    if scaled.into_inner() {
        common.note(format!("note: {}: masks whose largest value is 1 were scaled to 255", class.name));
    }
    Ok((tested, failed))
}

/// The metrics of one class; pixel metrics only where every defective picture has a mask.
pub fn measure(cpu: &Cpu, name: &str, tested: &[Tested], mode: Mode) -> Result<ClassResult> {
    let scores: Vec<f32> = tested.iter().map(|t| t.score).collect();
    let labels: Vec<bool> = tested.iter().map(|t| t.defect.is_some()).collect();
    let image = metrics::image_metrics(&scores, &labels)?;
    let masked = tested.iter().all(|t| t.mask.is_some()) && tested.iter().any(|t| t.defect.is_some());
    let pixel = if masked {
        let maps: Vec<f32> = tested.iter().flat_map(|t| t.map.iter().copied()).collect();
        let masks: Vec<u8> = tested.iter().filter_map(|t| t.mask.as_ref()).flatten().copied().collect();
        Some(metrics::pixel_metrics(cpu, &maps, &masks, tested.len(), MAP_SIDE, mode)?)
    } else {
        None
    };
    Ok(ClassResult { name: name.to_string(), images: tested.len(), image, pixel })
}
