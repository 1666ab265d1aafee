//! The scorer's CPU half: crop, one pass through the folded model, score.

use std::sync::Arc;

use crate::engine::fold::Folded;
use crate::engine::forward::{Pixels, Workspace};
use crate::engine::score::{MAP_SIDE, TOP, Verdict};
use crate::error::Result;
use crate::model::{Config, Model};
use crate::ops::anomaly_map;
use crate::ops::preprocess::{Cropper, ImageView};
use crate::runtime::Cpu;

/// A model and its buffers; clones share the weights.
#[derive(Clone)]
pub struct OnCpu {
    cpu: Cpu,
    model: Arc<Folded>,
    zero_shot: bool,
    cropper: Cropper,
    crop: Vec<u8>,
    work: Workspace,
    sorted: Vec<f32>,
}

/// Called with a stage's name as it ends.
pub type Stage<'a> = &'a mut dyn FnMut(&'static str);

impl OnCpu {
    /// The model's weights are folded into new ones and let go.
    pub fn new(model: Model, cpu: Cpu, zero_shot: bool) -> Result<Self> {
        let folded = Folded::new(&cpu, model)?;
        let cfg = &folded.config;
        Ok(Self {
            zero_shot,
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
    /// Scorers that use these weights.
    pub fn sharing(&self) -> usize {
        Arc::strong_count(&self.model)
    }
    /// Maps of the last picture on the patch grid.
    pub fn native_maps(&self) -> &[Vec<f32>] {
        self.work.native(self.zero_shot)
    }
    /// Prototypes of the last picture.
    pub fn prototypes(&self) -> &[f32] {
        self.work.inp()
    }
    /// Resizes, crops and scores a frame.
    pub fn frame(&mut self, frame: &ImageView, verdict: &mut Verdict, stage: Stage) -> Result<()> {
        let mut crop = std::mem::take(&mut self.crop);
        let cropped = self.cropper.run(&self.cpu, frame, &mut crop);
        stage("crop");
        let scored = cropped.and_then(|()| self.score(Pixels::U8(&crop), verdict, stage));
        self.crop = crop;
        scored
    }
    /// Scores a crop or a tensor.
    pub fn score(&mut self, pixels: Pixels, v: &mut Verdict, stage: Stage) -> Result<()> {
        v.map.resize(MAP_SIDE * MAP_SIDE, 0.0);
        self.work.run(&self.cpu, &self.model, pixels, self.zero_shot, &mut v.map, stage);
        v.score = anomaly_map::score_in(&v.map, TOP, &mut self.sorted)?;
        stage("score");
        Ok(())
    }
}
