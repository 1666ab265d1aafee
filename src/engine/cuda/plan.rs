//! A captured graph for one number of pictures of one kind, with its buffers on both sides.

use super::forward::{Pixels, Workspace};
use super::weights::Weights;
use crate::engine::score::MAP_SIDE;
use crate::error::Result;
use crate::ops::preprocess::cuda::{Cropper, Frame};
use crate::ops::preprocess::{ImageView, PixelFormat};
use crate::runtime::cuda::{Arena, Buffer, Gpu, Graph, Pinned, Stream};

/// What pictures come as; all of a batch alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Frames to resize and crop, rows without padding.
    Frames { width: usize, height: usize, format: PixelFormat },
    /// `(X, X, 3)`, 8 bits.
    Crops,
    /// `(3, X, X)`, normalised f32.
    Tensors,
}

impl Input {
    /// Of a frame.
    pub fn of(frame: &ImageView) -> Self {
        Self::Frames { width: frame.width(), height: frame.height(), format: frame.format() }
    }
    /// As the kernels see a frame.
    fn frame(self) -> Option<Frame> {
        let Self::Frames { width, height, format } = self else { return None };
        Some(Frame { width, height, stride: width * format.bytes(), format })
    }
    /// Bytes of a picture's pixels, and from picture to picture.
    fn bytes(self, crop: usize) -> [usize; 2] {
        let packed = match self {
            Self::Frames { width, height, format } => width * height * format.bytes(),
            Self::Crops => 3 * crop * crop,
            Self::Tensors => 12 * crop * crop,
        };
        [packed, self.frame().map_or(packed, |f| f.spacing())]
    }
}

/// The kernels from pixels to scores, and what they read and write on the device besides the model.
struct Pass {
    input: Input,
    work: Workspace,
    pictures: Buffer<u8>,
    crops: Buffer<u8>,
    cropper: Cropper,
}

impl Pass {
    fn run(&self, s: &Stream, side: &Stream, weights: &Weights) -> Result<()> {
        let pixels = match self.input {
            Input::Frames { .. } => {
                self.cropper.run(s, &self.crops, &self.pictures)?;
                Pixels::Crops(&self.crops)
            }
            Input::Crops => Pixels::Crops(&self.pictures),
            Input::Tensors => Pixels::Tensors(&self.pictures.cast()?),
        };
        self.work.run(s, side, weights, pixels)
    }
}

/// Buffers of a pass: workspace, pictures, crops.
fn buffers(
    a: &mut Arena,
    weights: &Weights,
    input: Input,
    batch: usize,
    zero_shot: bool,
) -> Result<(Workspace, Buffer<u8>, Buffer<u8>)> {
    let crop = weights.config.crop;
    let crops = a.take(batch * 3 * crop * crop);
    Ok((Workspace::new(a, weights, batch, zero_shot)?, a.take(batch * input.bytes(crop)[1]), crops))
}

/// A graph, ready to launch.
pub struct Plan {
    batch: usize,
    /// Bytes of a picture's pixels.
    pixels: usize,
    pass: Pass,
    /// None where every launch is waited for, so that it can be named.
    graph: Option<Graph>,
    pictures: Pinned<u8>,
    scores: Pinned<f32>,
    maps: Pinned<f32>,
}

impl Plan {
    /// Captures the graph.
    pub fn new(
        stream: &Stream,
        side: &Stream,
        weights: &Weights,
        input: Input,
        batch: usize,
        zero_shot: bool,
    ) -> Result<Self> {
        let (gpu, cfg) = (stream.gpu(), &weights.config);
        let (work, pictures, crops) = gpu.arena(|a| buffers(a, weights, input, batch, zero_shot))?;
        let mut cropper = Cropper::new(gpu, cfg.resize, cfg.crop)?;
        if let Some(frame) = input.frame() {
            cropper.prepare(&frame, batch)?;
        }
        let host = gpu.pinned(pictures.len())?;
        let (scores, maps) = (gpu.pinned(batch)?, gpu.pinned(batch * MAP_SIDE * MAP_SIDE)?);
        let pass = Pass { input, work, pictures, crops, cropper };
        pass.work.prepare(stream)?;
        // Every kernel is found, loaded and tried before the capture, where nothing may be allocated.
        pass.pictures.fill(stream, 0)?;
        pass.run(stream, side, weights)?;
        stream.synchronize()?;
        let pixels = input.bytes(cfg.crop)[0];
        let mut plan = Self { batch, pixels, pass, graph: None, pictures: host, scores, maps };
        if !gpu.is_blocking() {
            plan.graph = Some(stream.capture(|s| plan.queue(s, side, weights))?);
        }
        Ok(plan)
    }
    /// Bytes of device memory for as many pictures.
    pub fn bytes(gpu: &Gpu, weights: &Weights, input: Input, batch: usize, zero_shot: bool) -> Result<usize> {
        gpu.measure(|a| buffers(a, weights, input, batch, zero_shot))
    }
    pub fn is_for(&self, input: Input, batch: usize) -> bool {
        self.pass.input == input && self.batch == batch
    }
    /// Kernels of a launch, if it is a graph.
    pub fn kernels(&self) -> Option<usize> {
        self.graph.as_ref().map(Graph::kernels)
    }
    /// `f(i, to)` writes each picture.
    pub fn fill(&self, f: impl Fn(usize, &mut [u8])) -> Result<()> {
        let size = self.pictures.len() / self.batch;
        let each = |(i, to): (usize, &mut [u8])| f(i, &mut to[..self.pixels]);
        self.pictures.with(|all| all.chunks_exact_mut(size).enumerate().for_each(each))
    }
    /// Queues the pass: as one graph, or kernel by kernel where each is waited for.
    pub fn launch(&self, stream: &Stream, side: &Stream, weights: &Weights) -> Result<()> {
        match &self.graph {
            Some(graph) => graph.launch(stream),
            None => self.queue(stream, side, weights),
        }
    }
    fn queue(&self, s: &Stream, side: &Stream, weights: &Weights) -> Result<()> {
        self.pictures.send(s, &self.pass.pictures)?;
        self.pass.run(s, side, weights)?;
        self.scores.receive(s, &self.pass.work.score)?;
        self.maps.receive(s, &self.pass.work.map)
    }
    /// Scores `(B)` and maps `(B, 256, 256)` of the last launch, which was waited for.
    pub fn results(&self, f: impl FnOnce(&[f32], &[f32])) -> Result<()> {
        self.scores.with(|s| self.maps.with(|m| f(s, m)))?
    }
    /// Native maps and prototypes of the last picture.
    pub fn last(&self, stream: &Stream) -> Result<(Vec<Vec<f32>>, Vec<f32>)> {
        self.pass.work.last(stream)
    }
}
