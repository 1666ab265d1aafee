//! `calibrate`: thresholds from good images alone, stored in the model file.

use std::path::PathBuf;

use clap::Args;
use inp_former::data::dataset::Class;
use inp_former::data::image::Binarize;
use inp_former::engine::Options;
use inp_former::eval::metrics::Mode;
use inp_former::fs::expect_writable;
use inp_former::model::Model;
use inp_former::runtime::weights::WeightFile;
use inp_former::{Error, Result};
use serde_json::json;

use super::device::Flow;
use super::eval::{Setting, test_class};
use super::{Common, Done, inputs, print};

#[derive(Args)]
pub struct Calibrate {
    /// Model file; the threshold is written into it
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Good pictures that the model was not trained on
    #[arg(long, value_name = "DIR")]
    good: PathBuf,
    /// Share of good pictures that may be called anomalous
    #[arg(long, default_value_t = 0.01)]
    false_alarm_rate: f64,
    /// Calibrate for zero-shot scoring
    #[arg(long)]
    zero_shot: bool,
    #[command(flatten)]
    flow: Flow,
}

impl Calibrate {
    pub fn run(self, common: &Common) -> Result<Done> {
        let rate = self.false_alarm_rate;
        if !(0.0..1.0).contains(&rate) {
            return Err(Error::usage("--false-alarm-rate must be at least 0 and below 1"));
        }
        let mut place = common.place()?;
        let cpu = &place.cpu.clone();
        let mut model: Model = common.model(&self.model)?;
        expect_writable(&self.model)?;
        let options = Options { zero_shot: self.zero_shot, ..Options::default() };
        let mut scorer = place.scorer(common, model.clone(), options)?;
        let test = inputs::expand(&[self.good.to_string_lossy().into_owned()])?
            .into_iter()
            .map(|i| inp_former::data::dataset::Sample { path: i.path, defect: None, mask: None })
            .collect();
        let class = Class { name: "calibrating".into(), test, ..Class::default() };
        let setting =
            Setting { cpu: cpu.clone(), mode: Mode::Exact, binarize: Binarize::Half, flow: self.flow };
        let (tested, failed) = test_class(common, &mut scorer, &class, &setting)?;
        let mut scores: Vec<f32> = tested.iter().map(|t| t.score).collect();
        if scores.is_empty() {
            return Err(Error::usage("none of the good pictures could be scored"));
        }
        scores.sort_by(f32::total_cmp);
        // A score is anomalous from the threshold on: the smallest f32 above the last score that must pass.
        let allowed = (rate * scores.len() as f64).floor() as usize;
        let threshold = scores[scores.len() - 1 - allowed].next_up();
        if rate > 0.0 && allowed == 0 {
            common.warn(format!(
                "{} pictures are too few for a rate of {rate}: the threshold is just above the highest score",
                scores.len()
            ));
        }
        model.config.other.insert(
            "threshold".into(),
            json!({
                "image": threshold as f64, "false_alarm_rate": rate, "images": scores.len(),
                "precision": scorer.precision(), "device": place.name(), "simd": cpu.tier().name(), "zero_shot": self.zero_shot,
            }),
        );
        let file: WeightFile = model.to_file();
        file.write(&self.model)?;
        print(&format!("{threshold}\n"))?;
        common.note(format!(
            "threshold {threshold} from {} good pictures (scores {} to {}), stored in {}",
            scores.len(),
            scores[0],
            scores[scores.len() - 1],
            self.model.display()
        ));
        Ok(if failed > 0 { Done::SomeFailed } else { Done::All })
    }
}
