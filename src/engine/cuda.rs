//! The scorer's CUDA half: a captured graph takes a batch from page-locked pixels to page-locked scores and maps.
//!
//! A graph is captured for each number of pictures and kind of input, once; a call then copies pixels in, launches it and
//! waits. Long batches are cut in pieces that two streams work at in turn, so that copies hide behind kernels.

mod forward;
mod plan;
mod weights;

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::engine::score::{MAP_SIDE, Verdict};
use crate::error::{Error, Result};
use crate::model::{Config, Model};
use crate::ops::anomaly_map::cuda::GROUPS;
use crate::ops::inp_extract::cuda::Shape;
use crate::ops::preprocess::ImageView;
use crate::runtime::cuda::{Gpu, Stream, check_asked, size};
use crate::runtime::{Cpu, DType};

use plan::{Input, Plan};
use weights::Weights;

/// Pictures of one graph at most.
pub const PIECE: usize = 32;
/// Graphs that a stream keeps.
const KEPT: usize = 4;

/// A model on a GPU, its streams and graphs; clones share the weights.
pub struct OnCuda {
    gpu: Gpu,
    weights: Arc<Weights>,
    zero_shot: bool,
    /// Two, made by the first pass.
    lanes: Vec<Lane>,
    /// Lanes with a batch that nobody has collected, oldest first.
    under_way: VecDeque<usize>,
    /// The lane of the last picture, and that one's native maps and prototypes once they were asked for.
    last_lane: usize,
    last: OnceCell<(Vec<Vec<f32>>, Vec<f32>)>,
}

/// A stream and its graphs, the last used first.
struct Lane {
    stream: Stream,
    side: Stream,
    plans: Vec<Plan>,
}

impl Lane {
    fn new(gpu: &Gpu) -> Result<Self> {
        Ok(Self { stream: gpu.new_stream()?, side: gpu.new_stream()?, plans: Vec::new() })
    }
    /// The graph for this input, captured now if it was not.
    fn plan(&mut self, weights: &Weights, input: Input, batch: usize, zero_shot: bool) -> Result<&Plan> {
        match self.plans.iter().position(|p| p.is_for(input, batch)) {
            Some(i) => self.plans[..=i].rotate_right(1),
            None => {
                self.plans.truncate(KEPT - 1);
                let plan = Plan::new(&self.stream, &self.side, weights, input, batch, zero_shot)?;
                self.plans.insert(0, plan);
            }
        }
        Ok(&self.plans[0])
    }
}

/// Errors: a model of a shape that the kernels do not take.
pub fn takes(cfg: &Config, dtype: DType) -> Result<()> {
    if cfg.groups.len() > GROUPS {
        return Err(Error::usage(format!(
            "this model has {} groups of layers, and the CUDA kernels take {GROUPS}; use --device cpu",
            cfg.groups.len()
        )));
    }
    let (tokens, channels) = (cfg.side().pow(2), cfg.channels);
    let (heads, prototypes) = (cfg.heads, cfg.prototypes);
    Shape { batch: 1, tokens, channels, heads, prototypes }.check("this model", dtype)
}

/// What takes less memory than this type, in words.
fn smaller(dtype: DType) -> &'static str {
    if dtype.bytes() > 2 { "--precision bf16, " } else { "" }
}

/// Puts what would fit on an error of memory while a model is loaded.
fn too_big(mut e: Error, cfg: &Config, dtype: DType) -> Error {
    if let Error::DeviceMemory { hint, .. } = &mut e {
        let bytes = size(weights::bytes(cfg, dtype));
        *hint = format!(
            "this model's weights take about {bytes} in {}: take {}a smaller model, another GPU or --device cpu",
            dtype.name(),
            smaller(dtype)
        );
    }
    e
}

impl Clone for OnCuda {
    fn clone(&self) -> Self {
        let (gpu, weights) = (self.gpu.clone(), self.weights.clone());
        let (lanes, under_way) = (Vec::new(), VecDeque::new());
        Self { gpu, weights, lanes, under_way, last: OnceCell::new(), ..*self }
    }
}

impl OnCuda {
    /// Folds the model on the CPU and uploads it. Errors: a shape that the kernels do not take, weights that the element
    /// type cannot hold, a device without the memory.
    pub fn new(model: Model, cpu: &Cpu, gpu: &Gpu, dtype: DType, zero_shot: bool) -> Result<Self> {
        check_asked(&forward::STEMS)?;
        takes(&model.config, dtype)?;
        let config = model.config.clone();
        let weights = Weights::new(cpu, gpu, dtype, model).map_err(|e| too_big(e, &config, dtype))?;
        Ok(Self {
            gpu: gpu.clone(),
            weights: Arc::new(weights),
            zero_shot,
            lanes: Vec::new(),
            under_way: VecDeque::new(),
            last_lane: 0,
            last: OnceCell::new(),
        })
    }
    fn lane(&mut self, i: usize) -> Result<&mut Lane> {
        while self.lanes.len() <= i {
            self.lanes.push(Lane::new(&self.gpu)?);
        }
        Ok(&mut self.lanes[i])
    }
    /// What the model's file says of it.
    pub fn config(&self) -> &Config {
        &self.weights.config
    }
    /// What products are made in.
    pub fn dtype(&self) -> DType {
        self.weights.dtype
    }
    /// Scorers that use these weights.
    pub fn sharing(&self) -> usize {
        Arc::strong_count(&self.weights)
    }
    /// Maps of the last picture on the patch grid, and its prototypes; empty before the first.
    pub fn last(&self) -> Result<&(Vec<Vec<f32>>, Vec<f32>)> {
        if let Some(last) = self.last.get() {
            return Ok(last);
        }
        let lane = self.lanes.get(self.last_lane);
        let last = lane.and_then(|l| Some(l.plans.first()?.last(&l.stream))).transpose()?;
        Ok(self.last.get_or_init(|| last.unwrap_or_default()))
    }
    /// Kernels of one launch for as many frames like this one.
    pub fn launches(&mut self, frame: &ImageView, batch: usize) -> Result<Option<usize>> {
        let (weights, zero_shot) = (self.weights.clone(), self.zero_shot);
        Ok(self.lane(0)?.plan(&weights, Input::of(frame), batch.min(PIECE), zero_shot)?.kernels())
    }

    /// Scores frames, which may be of several sizes: those of one size that follow one another go together.
    pub fn frames(&mut self, frames: &[ImageView], verdicts: &mut [Verdict]) -> Result<()> {
        let mut at = 0;
        for group in frames.chunk_by(|a, b| Input::of(a) == Input::of(b)) {
            let fill = |i: usize, to: &mut [u8]| group[i].copy_to(to);
            self.run(Input::of(&group[0]), &fill, &mut verdicts[at..at + group.len()])?;
            at += group.len();
        }
        Ok(())
    }
    /// Scores crops `(B, X, X, 3)`.
    pub fn crops(&mut self, crops: &[u8], verdicts: &mut [Verdict]) -> Result<()> {
        let size = 3 * self.config().crop.pow(2);
        let fill = |i: usize, to: &mut [u8]| to.copy_from_slice(&crops[i * size..(i + 1) * size]);
        self.run(Input::Crops, &fill, verdicts)
    }
    /// Scores a normalised picture `(3, X, X)`.
    pub fn tensor(&mut self, input: &[f32], verdict: &mut Verdict) -> Result<()> {
        let fill = |_: usize, to: &mut [u8]| to.copy_from_slice(bytemuck::cast_slice(input));
        self.run(Input::Tensors, &fill, std::slice::from_mut(verdict))
    }

    /// `fill(i, to)` writes picture `i` into page-locked memory. Pieces alternate between the lanes: while one's kernels run,
    /// the other's pictures are copied.
    fn run(&mut self, input: Input, fill: &dyn Fn(usize, &mut [u8]), verdicts: &mut [Verdict]) -> Result<()> {
        self.forget();
        let n = verdicts.len();
        let mut pieces = verdicts.chunks_mut(PIECE);
        for first in (0..n).step_by(PIECE) {
            if self.under_way.len() == 2 {
                self.collect(pieces.next().expect("a piece was sent"))?;
            }
            self.send(input, PIECE.min(n - first), &|i, to| fill(first + i, to))?;
        }
        pieces.try_for_each(|piece| self.collect(piece))?;
        verdicts.iter().try_for_each(|v| self.check(v))
    }
    /// Queues a batch of crops, 1 to [`PIECE`]; two may be under way.
    pub fn send_crops(&mut self, crops: &[&[u8]]) -> Result<()> {
        self.send(Input::Crops, crops.len(), &|i, to| to.copy_from_slice(crops[i]))
    }
    /// What is under way will not be collected.
    pub fn forget(&mut self) {
        self.under_way.clear();
    }
    fn send(&mut self, input: Input, n: usize, fill: &dyn Fn(usize, &mut [u8])) -> Result<()> {
        let i = self.under_way.back().map_or(0, |busy| 1 - busy);
        self.last = OnceCell::new();
        let (weights, zero_shot) = (self.weights.clone(), self.zero_shot);
        let lane = self.lane(i)?;
        if let Err(e) = lane.plan(&weights, input, n, zero_shot) {
            return Err(self.what_fits(e, input, n));
        }
        let plan = &lane.plans[0];
        plan.fill(fill)?;
        plan.launch(&lane.stream, &lane.side, &weights)?;
        self.under_way.push_back(i);
        Ok(())
    }
    /// Puts how many pictures would fit on an error of memory.
    fn what_fits(&mut self, mut e: Error, input: Input, n: usize) -> Error {
        if let Error::DeviceMemory { hint, .. } = &mut e {
            self.lanes.clear();
            let free = self.gpu.memory().map_or(0, |m| m.0);
            // Each lane has buffers of its own.
            let fits = |b: &usize| {
                let bytes = Plan::bytes(&self.gpu, &self.weights, input, *b, self.zero_shot);
                bytes.is_ok_and(|bytes| 2 * bytes <= free)
            };
            *hint = match (1..n).rev().find(fits) {
                Some(b) => format!("of {n} pictures at once {b} would fit: give --batch {b}"),
                None => format!(
                    "beside the weights there is no room for a picture: take {}a smaller crop or model, or --device cpu",
                    smaller(self.dtype())
                ),
            };
        }
        e
    }
    /// The verdicts of the oldest batch under way, not yet checked.
    pub fn collect(&mut self, verdicts: &mut [Verdict]) -> Result<()> {
        let lane = self.under_way.pop_front().expect("a batch is under way");
        let Lane { stream, plans, .. } = &self.lanes[lane];
        stream.synchronize()?;
        let size = MAP_SIDE * MAP_SIDE;
        plans[0].results(|scores, maps| {
            for (v, (score, map)) in verdicts.iter_mut().zip(scores.iter().zip(maps.chunks_exact(size))) {
                v.map.resize(size, 0.0);
                v.map.copy_from_slice(map);
                v.score = *score;
            }
        })?;
        self.last_lane = lane;
        Ok(())
    }
    /// Errors: a score that is not finite.
    pub fn check(&self, v: &Verdict) -> Result<()> {
        match v.score.is_finite() {
            true => Ok(()),
            false => Err(Error::NotFinite(format!(
                "the score is {}: the model's numbers do not fit {}, or its weights are not finite; try --precision bf16 or \
                 --device cpu",
                v.score,
                self.dtype().name()
            ))),
        }
    }
}
