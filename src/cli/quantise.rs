//! `quantise`: calibrates a model for int8 with good images and stores the calibration in the model file.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use comfy_table::{CellAlignment, Table, TableComponent, presets};
use inp_former::data::dataset::Dataset;
use inp_former::data::image::{self, Binarize, Limits};
use inp_former::engine::int8::{self, AUROC_BOUND, CORRELATION_BOUND, Calibration, MAP_BOUND, SCORE_BOUND};
use inp_former::engine::{Options, Precision, Scorer};
use inp_former::eval::metrics::{Mode, image_metrics};
use inp_former::fs::expect_writable;
use inp_former::model::Model;
use inp_former::runtime::Cpu;
use inp_former::{Error, Result};

use super::device::Flow;
use super::eval::{Setting, test_class};
use super::{Common, DatasetKind, Done, inputs, print};

#[derive(Args)]
pub struct Quantise {
    /// Model file; the calibration is written into it
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Good pictures
    #[arg(long, value_name = "DIR")]
    good: PathBuf,
    /// Use this many of them, spread over all
    #[arg(long, default_value = "32", value_name = "N")]
    pictures: NonZeroUsize,
    /// Labelled data set: the change of its image AUROC is measured and bounded
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Layout of the data set
    #[arg(long, default_value = "auto")]
    dataset: DatasetKind,
}

impl Quantise {
    pub fn run(self, common: &Common) -> Result<Done> {
        let cpu = common.cpu()?;
        let mut model: Model = common.model(&self.model)?;
        let (resize, crop) = (model.config.resize, model.config.crop);
        // What may be wrong is said before the work.
        expect_writable(&self.model)?;
        let data =
            self.data.as_ref().map(|dir| Dataset::open(dir, self.dataset.layout(), &[])).transpose()?;
        let all = inputs::expand(&[self.good.to_string_lossy().into_owned()])?;
        let step = all.len().div_ceil(self.pictures.get());
        let (mut crops, mut failed) = (Vec::new(), false);
        for input in all.iter().step_by(step) {
            match image::decode(&input.path, &Limits::default()).and_then(|p| p.crop(resize, crop)) {
                Ok(pixels) => crops.push(pixels),
                Err(e) => {
                    failed = true;
                    common.failed(&e);
                }
            }
        }
        if crops.is_empty() {
            return Err(Error::usage("none of the good pictures could be read"));
        }
        let bar = common.bar(int8::steps(&model, crops.len()), "calibrating");
        let mut found = int8::calibrate(&cpu, &model, &crops, &mut || bar.inc(1))?;
        bar.finish_and_clear();
        model.int8 = found.smoothing.clone();
        model.config.other.insert("int8".into(), found.to_json());
        if let Some(data) = &data {
            found.auroc_shift = auroc_shift(common, &cpu, &model, data)?;
            model.config.other.insert("int8".into(), found.to_json());
        }
        model.to_file().write(&self.model)?;
        match std::io::stdout().is_terminal() {
            true => print(&format!("{}\n", table(&found)))?,
            false => print(&format!("{:#}\n", found.to_json()))?,
        }
        let path = self.model.display();
        if found.is_accurate() {
            common.note(format!("calibration for int8 stored in {path}; use it with --precision int8"));
        } else {
            common.warn(format!(
                "in int8 this model strays too far from f32 (map error {:.2e}, correlation {:.4}, score error {:.2e}, \
                 AUROC shift {}): stored in {path}, but --precision int8 will need --allow-inaccurate",
                found.map_error,
                found.correlation,
                found.score_error,
                shift(&found)
            ));
        }
        Ok(if failed { Done::SomeFailed } else { Done::All })
    }
}

/// Largest change of a class's image AUROC from f32 to int8; `None` where no class has good and bad pictures.
fn auroc_shift(common: &Common, cpu: &Cpu, model: &Model, data: &Dataset) -> Result<Option<f64>> {
    let (mode, binarize) = (Mode::Exact, Binarize::Half);
    let setting = Setting { cpu: cpu.clone(), mode, binarize, flow: Flow::default() };
    let each = [Precision::F32, Precision::Int8].map(|precision| {
        let options = Options { precision, allow_inaccurate: true, ..Options::default() };
        let mut scorer = Scorer::new(model.clone(), cpu.clone(), &options)?;
        let auroc = |class| {
            let (tested, _) = test_class(common, &mut scorer, class, &setting)?;
            let scores: Vec<f32> = tested.iter().map(|t| t.score).collect();
            let labels: Vec<bool> = tested.iter().map(|t| t.defect.is_some()).collect();
            Ok(image_metrics(&scores, &labels)?.auroc)
        };
        data.classes.iter().map(auroc).collect::<Result<Vec<_>>>()
    });
    let [exact, int8] = each;
    let shifts = exact?.into_iter().zip(int8?).filter_map(|(a, b)| Some((a? - b?).abs()));
    Ok(shifts.max_by(f64::total_cmp))
}

/// The change of the AUROC as it is said.
fn shift(c: &Calibration) -> String {
    c.auroc_shift.map_or("not measured".into(), |s| format!("{s:.4}"))
}

/// A row a layer, then what they make together.
fn table(c: &Calibration) -> String {
    let mut layers = Table::new();
    layers.set_header(["layer", "N × K", "alpha", "error", "int8"]);
    for l in &c.layers {
        let alpha = l.alpha.map_or("–".into(), |a| a.to_string());
        let int8 = l.not_int8.map_or("yes".into(), |why| format!("no: {why}"));
        let shape = format!("{} × {}", l.shape[0], l.shape[1]);
        layers.add_row([l.name.clone(), shape, alpha, format!("{:.4}", l.error), int8]);
    }
    let mut whole = Table::new();
    whole.set_header(["against f32", "found", "bound"]);
    let most = "map error, 99.9 % of patches";
    whole.add_row([most.into(), format!("{:.1e}", c.map_error), format!("≤ {MAP_BOUND:e}")]);
    whole.add_row(["map error, all patches".into(), format!("{:.1e}", c.largest_map_error), "–".into()]);
    let correlation = format!("{:.5}", c.correlation);
    whole.add_row(["map correlation".into(), correlation, format!("≥ {CORRELATION_BOUND}")]);
    whole.add_row(["score error".into(), format!("{:.1e}", c.score_error), format!("≤ {SCORE_BOUND:e}")]);
    whole.add_row(["AUROC shift".into(), shift(c), format!("≤ {AUROC_BOUND:e}")]);
    for (table, numbers) in [(&mut layers, 3), (&mut whole, 2)] {
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).remove_style(TableComponent::HorizontalLines);
        table.remove_style(TableComponent::MiddleIntersections);
        let numbers = table.column_iter_mut().skip(1).take(numbers);
        numbers.for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    }
    format!("{layers}\n{} pictures\n{whole}", c.images)
}
