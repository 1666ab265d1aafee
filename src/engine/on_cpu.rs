//! The scorer's CPU half: crop, one pass through the folded model, score.

use std::sync::Arc;

use half::bf16;

use crate::engine::fold::Folded;
use crate::engine::forward::{Pixels, Workspace};
use crate::engine::layer::{Decide, Watch};
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
    precision: CpuPrecision,
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
    pub fn new(mut model: Model, cpu: Cpu, precision: CpuPrecision, zero_shot: bool) -> Result<Self> {
        let smoothing = std::mem::take(&mut model.int8);
        Self::deciding(model, cpu, precision, zero_shot, &mut |name, _| smoothing.get(name).cloned())
    }
    /// As [`OnCpu::new`], with `decide` asked about each large layer where the precision is int8.
    pub fn deciding(
        model: Model,
        cpu: Cpu,
        precision: CpuPrecision,
        zero_shot: bool,
        decide: Decide,
    ) -> Result<Self> {
        let (cropper, crop) = (Cropper::new(model.config.resize, model.config.crop)?, model.config.crop);
        let work = model.config.clone();
        let decide: Decide = if precision == CpuPrecision::Int8 { decide } else { &mut |_, _| None };
        // What is not in int8 is in the best that there is.
        let pass = if precision == CpuPrecision::F32 || precision == CpuPrecision::Int8 && !cpu.has_bf16() {
            Pass::F32(Arc::new(Folded::new(&cpu, model, decide)?), Workspace::new(&cpu, &work))
        } else {
            Pass::Bf16(Arc::new(Folded::new(&cpu, model, decide)?), Workspace::new(&cpu, &work))
        };
        let crop = vec![0; crop * crop * 3];
        Ok(Self { zero_shot, cropper, crop, precision, pass, sorted: Vec::new(), cpu })
    }
    /// What the model's file says of it.
    pub fn config(&self) -> &Config {
        each!(&self.pass, m, _ => &m.config)
    }
    /// What products are computed in.
    pub fn precision(&self) -> CpuPrecision {
        self.precision
    }
    /// From now on large layers' inputs are looked at; what was seen until now.
    pub fn watch(&mut self, watch: Option<Watch>) -> Option<Watch> {
        each!(&mut self.pass, _, w => w.watch(watch))
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
