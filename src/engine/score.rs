//! `Scorer`: one in-memory picture in, one score and one anomaly map out.

use std::path::Path;
use std::sync::Arc;

use crate::engine::fold::Folded;
use crate::engine::forward::{Pixels, Workspace};
use crate::error::{Error, Result};
use crate::model::{Config, Model};
use crate::ops::anomaly_map;
use crate::ops::preprocess::{Cropper, ImageView};
use crate::runtime::Cpu;
use crate::runtime::weights::WeightFile;

/// Side of the anomaly map.
pub const MAP_SIDE: usize = 256;
/// Share of the map's largest pixels whose mean is the score.
pub const TOP: f64 = 0.01;

/// How to score.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// CPU threads; `None` takes every core that the process may use.
    pub threads: Option<usize>,
    /// Map each patch's distance to the picture's own prototypes, without bottleneck and decoder.
    pub zero_shot: bool,
    /// A picture is anomalous from this score on; `None` takes the threshold that the model was calibrated
    /// to, if it was, and for the same kind of scoring.
    pub threshold: Option<f32>,
}

/// What is said of one picture. Reuse it: its map keeps its memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Mean of the 655 largest map values; a cosine distance, 0 to 2.
    pub score: f32,
    /// Whether the score reaches the threshold; `None` without one.
    pub anomalous: Option<bool>,
    /// Anomaly map `(256, 256)`, row-major.
    pub map: Vec<f32>,
}

/// Scores pictures with one model. `Send`; clones share the weights and may run on other threads.
///
/// ```
/// use inp_former::engine::{Options, Scorer, Verdict};
/// use inp_former::ops::preprocess::{ImageView, PixelFormat};
/// # use inp_former::{model, train, runtime::weights::WeightFile};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("model.safetensors");
/// # let backbone = model::Model::load(model::embedded()?)?;
/// # let config = train::init::plan(&backbone.config, 6);
/// # let weights = train::init::init(&config, 1)?;
/// # backbone.with_trained(config, weights).to_file().write(&path)?;
///
/// let mut scorer = Scorer::open(&path, &Options { threshold: Some(0.5), ..Options::default() })?;
/// let pixels = vec![127u8; 640 * 480 * 3]; // a camera's frame, BGR
/// let frame = ImageView::new(&pixels, 640, 480, 640 * 3, PixelFormat::Bgr8)?;
/// let mut verdict = Verdict::default();
/// scorer.score_into(&frame, &mut verdict)?;
/// assert!(verdict.score.is_finite() && verdict.map.len() == 256 * 256);
/// assert_eq!(verdict.anomalous, Some(verdict.score >= 0.5));
/// # Ok::<(), inp_former::Error>(())
/// ```
#[derive(Clone)]
pub struct Scorer {
    cpu: Cpu,
    model: Arc<Folded>,
    zero_shot: bool,
    threshold: Option<f32>,
    cropper: Cropper,
    crop: Vec<u8>,
    work: Workspace,
    sorted: Vec<f32>,
}

/// A line of cameras has a scorer on each of its threads: not to be lost by a field that is not `Send`.
const _: () = {
    const fn send<T: Send>() {}
    send::<Scorer>();
};

impl Scorer {
    /// Opens a model file. Errors: the file's, or that it holds no trained INP-Former.
    pub fn open(model: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let model = Model::load_to_score(WeightFile::read(model)?)?;
        Self::new(model, Cpu::new(options.threads)?, options)
    }

    /// Scores with a model in memory, on a given CPU (`options.threads` is not used). The model's weights are folded
    /// into new ones and let go.
    pub fn new(model: Model, cpu: Cpu, options: &Options) -> Result<Self> {
        let folded = Folded::new(&cpu, model)?;
        let cfg = &folded.config;
        Ok(Self {
            zero_shot: options.zero_shot,
            threshold: options.threshold.or_else(|| cfg.threshold(options.zero_shot)),
            cropper: Cropper::new(cfg.resize, cfg.crop)?,
            crop: vec![0; cfg.crop * cfg.crop * 3],
            work: Workspace::new(&cpu, cfg),
            model: Arc::new(folded),
            sorted: Vec::new(),
            cpu,
        })
    }

    /// What the model's file says of it.
    pub fn config(&self) -> &Config {
        &self.model.config
    }
    /// Number of scorers, this one included, that use this model's weights: itself and its clones.
    pub fn sharing(&self) -> usize {
        Arc::strong_count(&self.model)
    }
    /// Score from which a picture is anomalous.
    pub fn threshold(&self) -> Option<f32> {
        self.threshold
    }

    /// Scores one picture. Errors: a map that is not finite.
    pub fn score_into(&mut self, frame: &ImageView, verdict: &mut Verdict) -> Result<()> {
        self.score_timed(frame, verdict, &mut |_| {})
    }

    /// As [`Scorer::score_into`]; `stage` is called with each stage's name as it ends.
    pub fn score_timed(
        &mut self,
        frame: &ImageView,
        verdict: &mut Verdict,
        stage: &mut dyn FnMut(&'static str),
    ) -> Result<()> {
        let mut crop = std::mem::take(&mut self.crop);
        let cropped = self.cropper.run(&self.cpu, frame, &mut crop);
        stage("crop");
        let scored = cropped.and_then(|()| self.score(Pixels::U8(&crop), verdict, stage));
        self.crop = crop;
        scored
    }

    /// Scores a picture that is already a normalised tensor `(3, X, X)`. Errors: another length; a map that is not finite.
    pub fn score_tensor_into(&mut self, input: &[f32], verdict: &mut Verdict) -> Result<()> {
        if input.len() != self.crop.len() {
            let x = self.model.config.crop;
            return Err(Error::usage(format!("{} numbers are not a tensor (3, {x}, {x})", input.len())));
        }
        self.score(Pixels::F32(input), verdict, &mut |_| {})
    }

    /// Maps of the last picture on the patch grid, `(N)` of each group: cosine distances (zero-shot: one, the distance to
    /// the nearest prototype).
    pub fn native_maps(&self) -> &[Vec<f32>] {
        self.work.native(self.zero_shot)
    }
    /// Prototypes I `(P, C)` of the last picture.
    pub fn prototypes(&self) -> &[f32] {
        self.work.inp()
    }

    /// Scores several pictures, one after the other: each gets the same bits as alone. Errors: unless there are as many
    /// verdicts as pictures; a map that is not finite (the verdicts before it are good).
    pub fn score_batch_into(&mut self, frames: &[ImageView], verdicts: &mut [Verdict]) -> Result<()> {
        if frames.len() != verdicts.len() {
            return Err(Error::usage(format!("{} verdicts for {} pictures", verdicts.len(), frames.len())));
        }
        frames.iter().zip(verdicts).try_for_each(|(frame, verdict)| self.score_into(frame, verdict))
    }

    /// As [`Scorer::score_batch_into`], from pictures already resized and cropped: crops `(B, X, X, 3)` RGB.
    pub fn score_crops_into(&mut self, crops: &[u8], verdicts: &mut [Verdict]) -> Result<()> {
        let size = self.crop.len();
        if crops.len() != verdicts.len() * size {
            return Err(Error::usage(format!(
                "{} verdicts for {} bytes of crops",
                verdicts.len(),
                crops.len()
            )));
        }
        crops
            .chunks_exact(size)
            .zip(verdicts)
            .try_for_each(|(crop, v)| self.score(Pixels::U8(crop), v, &mut |_| {}))
    }

    fn score(&mut self, pixels: Pixels, v: &mut Verdict, stage: &mut dyn FnMut(&'static str)) -> Result<()> {
        v.map.resize(MAP_SIDE * MAP_SIDE, 0.0);
        self.work.run(&self.cpu, &self.model, pixels, self.zero_shot, &mut v.map, stage);
        v.score = anomaly_map::score_in(&v.map, TOP, &mut self.sorted)?;
        v.anomalous = self.threshold.map(|t| v.score >= t);
        stage("score");
        Ok(())
    }
}
