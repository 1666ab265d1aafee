//! `Scorer`: one in-memory picture in, one score and one anomaly map out. It runs the plain model.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{Model, inp_former};
use crate::ops::anomaly_map;
use crate::ops::preprocess::{self, Cropper, ImageView};
use crate::runtime::weights::WeightFile;
use crate::runtime::{Cpu, Tensor};

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
    model: Arc<Model>,
    zero_shot: bool,
    threshold: Option<f32>,
    cropper: Cropper,
    crops: Vec<u8>,
}

impl Scorer {
    /// Opens a model file. Errors: the file's, or that it holds no trained INP-Former.
    pub fn open(model: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let model = Model::load(WeightFile::read(model)?)?;
        Self::new(Arc::new(model), Cpu::new(options.threads)?, options)
    }

    /// Scores with a model in memory, on a given CPU (`options.threads` is not used).
    pub fn new(model: Arc<Model>, cpu: Cpu, options: &Options) -> Result<Self> {
        model.trained()?;
        let cfg = &model.config;
        let threshold = options.threshold.or_else(|| cfg.threshold(options.zero_shot));
        let cropper = Cropper::new(cfg.resize, cfg.crop)?;
        Ok(Self { cpu, zero_shot: options.zero_shot, threshold, cropper, crops: Vec::new(), model })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }
    /// Score from which a picture is anomalous.
    pub fn threshold(&self) -> Option<f32> {
        self.threshold
    }

    /// Scores one picture. Errors: a map that is not finite.
    pub fn score_into(&mut self, frame: &ImageView, verdict: &mut Verdict) -> Result<()> {
        self.score_batch_into(std::slice::from_ref(frame), std::slice::from_mut(verdict))
    }

    /// As [`Scorer::score_into`]; `stage` is called with a name as each stage ends.
    pub fn score_timed(
        &mut self,
        frame: &ImageView,
        verdict: &mut Verdict,
        stage: &mut dyn FnMut(&'static str),
    ) -> Result<()> {
        self.score_into(frame, verdict)?;
        stage("score");
        Ok(())
    }

    /// Scores several pictures together; each gets the same bits as alone. Errors: as many verdicts as pictures are
    /// needed; a map that is not finite (score the pictures one by one to learn which).
    pub fn score_batch_into(&mut self, frames: &[ImageView], verdicts: &mut [Verdict]) -> Result<()> {
        let size = self.model.config.crop.pow(2) * 3;
        let mut crops = std::mem::take(&mut self.crops);
        crops.resize(size * frames.len(), 0);
        let cropped = frames
            .iter()
            .zip(crops.chunks_mut(size.max(1)))
            .try_for_each(|(frame, crop)| self.cropper.run(&self.cpu, frame, crop));
        let scored = cropped.and_then(|()| self.score_crops_into(&crops, verdicts));
        self.crops = crops;
        scored
    }

    /// As [`Scorer::score_batch_into`], from pictures already resized and cropped: crops `(B, X, X, 3)` RGB.
    pub fn score_crops_into(&mut self, crops: &[u8], verdicts: &mut [Verdict]) -> Result<()> {
        let (x, b) = (self.model.config.crop, verdicts.len());
        if crops.len() != b * x * x * 3 {
            return Err(Error::usage(format!("{} verdicts for {} bytes of {x}x{x} crops", b, crops.len())));
        }
        if b == 0 {
            return Ok(());
        }
        let mut img = Tensor::zeros(&[b, 3, x, x]);
        for (crop, out) in crops.chunks(x * x * 3).zip(img.data.chunks_mut(x * x * 3)) {
            preprocess::normalise_into(crop, out);
        }
        let maps = || inp_former::maps(&self.cpu, &self.model, &img, self.zero_shot, &mut |_, _| {});
        let maps = self.cpu.enter(maps)?;
        for (i, v) in verdicts.iter_mut().enumerate() {
            let map = maps.gauss.slab(i);
            v.score = anomaly_map::score(map, TOP)?;
            v.anomalous = self.threshold.map(|t| v.score >= t);
            v.map.clear();
            v.map.extend_from_slice(map);
        }
        Ok(())
    }
}
