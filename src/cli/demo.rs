//! `demo`: the whole job on a data set that is drawn here: make, train, evaluate, look.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use inp_former::data::dataset::Dataset;
use inp_former::data::image::Binarize;
use inp_former::data::synthetic::{self, Plan};
use inp_former::engine::Options;
use inp_former::eval::metrics::Mode;
use inp_former::model::Model;
use inp_former::runtime::weights::WeightFile;
use inp_former::train::Backbone;
use inp_former::train::features::{CacheMode, Item};
use inp_former::train::run;
use inp_former::{Error, Result};
use serde_json::json;

use super::device::Flow;
use super::eval::{Setting, measure, show, test_class, write_results};
use super::gallery::{self, Shown};
use super::train::{Job, catch_interrupt, checkpoint_of};
use super::{Common, Done, inputs};

#[derive(Args)]
pub struct Demo {
    /// Folder to write everything into
    #[arg(long, default_value = "demo", value_name = "DIR")]
    out: PathBuf,
    // 250 published batches of 16: a bit over a minute on two free cores, and every class is told apart by then.
    /// Training iterations
    #[arg(long, default_value_t = 250)]
    iterations: u64,
    /// Seed of the pictures and of the training
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Demo {
    pub fn run(self, common: &Common) -> Result<Done> {
        let start = Instant::now();
        let mut place = common.place()?;
        let cpu = place.cpu.clone();
        catch_interrupt();
        let data = self.out.join("data");
        let plan = Plan { seed: self.seed, ..Plan::default() };
        let bar = common.bar(0, "drawing");
        let summary = synthetic::generate(&data, &plan, |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        common.note(format!(
            "data: {} classes, {} good training pictures, {} good and {} defective test pictures: {}",
            summary.classes.len(),
            summary.train,
            summary.test.0,
            summary.test.1,
            data.display()
        ));
        let model_path = self.out.join("model.safetensors");
        let set = Dataset::open(&data, None, &[])?;
        self.train(common, &cpu, &set, &model_path)?;
        let model = Model::load_to_score(WeightFile::read(&model_path)?)?;
        let (resize, crop, name) =
            (model.config.resize, model.config.crop, model.config.other.get("name").cloned());
        let mut scorer = place.scorer(common, model, Options::default())?;
        let settings = json!({
            "data": "drawn by `inp-former demo`", "seed": self.seed, "iterations": self.iterations,
            "backbone": name, "resize": resize, "crop": crop,
            "metrics": "exact", "gt_binarize": "half", "precision": scorer.precision(),
        });
        let scale = super::score::scale(None, &scorer);
        let setting =
            Setting { cpu: cpu.clone(), mode: Mode::Exact, binarize: Binarize::Half, flow: Flow::default() };
        let (mut results, mut classes, mut failures) = (Vec::new(), Vec::new(), 0);
        for class in &set.classes {
            let (tested, failed) = test_class(common, &mut scorer, class, &setting)?;
            failures += failed;
            results.push(measure(&cpu, &class.name, &tested, setting.mode)?);
            classes.push((class.name.clone(), tested));
        }
        let shown: Vec<Shown> =
            classes.iter().flat_map(|(name, tested)| gallery::choose(name, tested)).collect();
        let cover = scorer.config().crop as f64 / scorer.config().resize as f64;
        gallery::heatmaps(&self.out.join("heatmaps"), &data, &classes, cover, scale)?;
        let sheet = gallery::sheet("inp-former demo", &shown, scorer.config(), scale)?;
        let path = |name: &str| self.out.join(name);
        inp_former::eval::heatmap::write_png(
            &path("contact_sheet.png"),
            sheet.width,
            sheet.height,
            &sheet.data,
        )?;
        write_results(&results, settings.clone(), Some(&path("metrics.json")), Some(&path("metrics.csv")))?;
        gallery::page("inp-former demo", &settings, &results, &classes, &sheet, None, &path("report.html"))?;
        show(&results, &settings)?;
        common.note(format!(
            "done in {:.0} s. Look at {} and {}",
            start.elapsed().as_secs_f64(),
            path("contact_sheet.png").display(),
            path("report.html").display()
        ));
        common.note(format!("model: {}, metrics: {}", model_path.display(), path("metrics.json").display()));
        match failures {
            0 => Ok(Done::All),
            _ => Ok(Done::SomeFailed),
        }
    }

    fn train(
        &self,
        common: &Common,
        cpu: &inp_former::runtime::Cpu,
        set: &Dataset,
        out: &Path,
    ) -> Result<()> {
        inputs::make_parent(out)?;
        let ckpt = checkpoint_of(out);
        let options = run::Options {
            iterations: Some(self.iterations),
            short_warmup: true,
            seed: self.seed,
            resume: ckpt.exists().then(|| ckpt.clone()),
            checkpoint: Some(ckpt),
            ..run::Options::default()
        };
        let job = Job {
            items: set
                .classes
                .iter()
                .flat_map(|c| &c.train)
                .map(|p| Item { path: p.clone(), view: None })
                .collect(),
            cache: CacheMode::Ram { limit: 4_000_000_000 },
            workers: None,
            out,
            log: Some(&self.out.join("training.csv")),
            options,
        };
        match job.run(common, cpu, &Backbone::new(cpu, common.backbone(None)?)?)? {
            Done::All => Ok(()),
            _ => Err(Error::usage(
                "some pictures of the demo set could not be read; delete its folder and run again",
            )),
        }
    }
}
