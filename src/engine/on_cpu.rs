//! The scorer's CPU half: crop, one pass through the folded model, score.

use std::sync::Arc;

use half::bf16;

use crate::engine::fold::Folded;
use crate::engine::forward::{Pixels, Workspace};
use crate::engine::score::{CpuPrecision, MAP_SIDE, TOP, Verdict};
use crate::error::Result;
use crate::model::{Config, Model};
use crate::ops::anomaly_map;
use crate::ops::preprocess::{Cropper, ImageView};
use crate::runtime::Cpu;

/// A model and its buffers; clones share the weights.
#[derive(Clone)]
pub struct OnCpu {
    cpu: Cpu,
    pass: Pass,
    zero_shot: bool,
    cropper: Cropper,
    crop: Vec<u8>,
    sorted: Vec<f32>,
}

/// Weights and buffers for what products multiply.
#[derive(Clone)]
enum Pass {
    F32(Arc<Folded<f32>>, Workspace<f32>),
    Bf16(Arc<Folded<bf16>>, Workspace<bf16>),
}

/// The same expression with the weights and buffers of any kind.
macro_rules! each {
    ($pass:expr, $model:pat, $work:pat => $e:expr) => {
        match $pass {
            Pass::F32($model, $work) => $e,
            Pass::Bf16($model, $work) => $e,
        }
    };
}

/// Called with a stage's name as it ends.
pub type Stage<'a> = &'a mut dyn FnMut(&'static str);

impl OnCpu {
    /// The model's weights are folded into new ones and let go.
    pub fn new(model: Model, cpu: Cpu, precision: CpuPrecision, zero_shot: bool) -> Result<Self> {
        let (cropper, crop) = (Cropper::new(model.config.resize, model.config.crop)?, model.config.crop);
        let work = model.config.clone();
        let pass = match precision {
            CpuPrecision::F32 => Pass::F32(Arc::new(Folded::new(&cpu, model)?), Workspace::new(&cpu, &work)),
            CpuPrecision::Bf16 => {
                Pass::Bf16(Arc::new(Folded::new(&cpu, model)?), Workspace::new(&cpu, &work))
            }
        };
        Ok(Self { zero_shot, cropper, crop: vec![0; crop * crop * 3], pass, sorted: Vec::new(), cpu })
    }
    /// What the model's file says of it.
    pub fn config(&self) -> &Config {
        each!(&self.pass, m, _ => &m.config)
    }
    /// What products are computed in.
    pub fn precision(&self) -> CpuPrecision {
        match self.pass {
            Pass::F32(..) => CpuPrecision::F32,
            Pass::Bf16(..) => CpuPrecision::Bf16,
        }
    }
    /// Scorers that use these weights.
    pub fn sharing(&self) -> usize {
        each!(&self.pass, m, _ => Arc::strong_count(m))
    }
    /// Maps of the last picture on the patch grid.
    pub fn native_maps(&self) -> &[Vec<f32>] {
        each!(&self.pass, _, w => w.native(self.zero_shot))
    }
    /// Prototypes of the last picture.
    pub fn prototypes(&self) -> &[f32] {
        each!(&self.pass, _, w => w.inp())
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
        each!(&mut self.pass, m, w => w.run(&self.cpu, m, pixels, self.zero_shot, &mut v.map, stage));
        v.score = anomaly_map::score_in(&v.map, TOP, &mut self.sorted)?;
        stage("score");
        Ok(())
    }
}
