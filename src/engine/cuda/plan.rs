//! A captured graph for one number of pictures of one kind, with its buffers on both sides.

use super::forward::{Pixels, Workspace};
use super::weights::Weights;
use crate::engine::score::MAP_SIDE;
use crate::error::Result;
use crate::ops::preprocess::cuda::{Cropper, Frame};
use crate::ops::preprocess::{ImageView, PixelFormat};
use crate::runtime::cuda::{Arena, Buffer, Graph, Pinned, Stream};

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

/// A graph, ready to launch.
pub struct Plan {
    input: Input,
    batch: usize,
    /// Bytes of a picture's pixels.
    pixels: usize,
    work: Workspace,
    graph: Graph,
    pictures: Pinned<u8>,
    scores: Pinned<f32>,
    maps: Pinned<f32>,
    /// What the graph reads besides the workspace and the model.
    _device: (Buffer<u8>, Buffer<u8>, Cropper),
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
        let [pixels, spacing] = input.bytes(cfg.crop);
        let bytes = batch * spacing;
        let (work, device) = gpu.arena(|a: &mut Arena| {
            let crops = a.take::<u8>(batch * 3 * cfg.crop * cfg.crop);
            Ok((Workspace::new(a, weights, batch, zero_shot)?, (a.take::<u8>(bytes), crops)))
        })?;
        let (device, crops) = device;
        let mut cropper = Cropper::new(gpu, cfg.resize, cfg.crop)?;
        if let Some(frame) = input.frame() {
            cropper.prepare(&frame, batch)?;
        }
        let pictures = gpu.pinned(bytes)?;
        let (scores, maps) = (gpu.pinned(batch)?, gpu.pinned(batch * MAP_SIDE * MAP_SIDE)?);
        let pass = |s: &Stream| -> Result<()> {
            match input {
                Input::Frames { .. } => {
                    cropper.run(s, &crops, &device)?;
                    work.run(s, side, weights, Pixels::Crops(&crops))
                }
                Input::Crops => work.run(s, side, weights, Pixels::Crops(&device)),
                Input::Tensors => work.run(s, side, weights, Pixels::Tensors(&device.cast()?)),
            }
        };
        work.prepare(stream)?;
        // Every kernel is found, loaded and tried before the capture, where nothing may be allocated.
        device.fill(stream, 0)?;
        pass(stream)?;
        stream.synchronize()?;
        let graph = stream.capture(|s| {
            pictures.send(s, &device)?;
            pass(s)?;
            scores.receive(s, &work.score)?;
            maps.receive(s, &work.map)
        })?;
        Ok(Self {
            input,
            batch,
            pixels,
            work,
            graph,
            pictures,
            scores,
            maps,
            _device: (device, crops, cropper),
        })
    }
    pub fn is_for(&self, input: Input, batch: usize) -> bool {
        self.input == input && self.batch == batch
    }
    /// Kernels of a launch.
    pub fn kernels(&self) -> usize {
        self.graph.kernels()
    }
    /// `f(i, to)` writes each picture.
    pub fn fill(&self, f: impl Fn(usize, &mut [u8])) -> Result<()> {
        let size = self.pictures.len() / self.batch;
        let each = |(i, to): (usize, &mut [u8])| f(i, &mut to[..self.pixels]);
        self.pictures.with(|all| all.chunks_exact_mut(size).enumerate().for_each(each))
    }
    /// Queues the pass.
    pub fn launch(&self, stream: &Stream) -> Result<()> {
        self.graph.launch(stream)
    }
    /// Scores `(B)` and maps `(B, 256, 256)` of the last launch, which was waited for.
    pub fn results(&self, f: impl FnOnce(&[f32], &[f32])) -> Result<()> {
        self.scores.with(|s| self.maps.with(|m| f(s, m)))?
    }
    /// Native maps and prototypes of the last picture.
    pub fn last(&self, stream: &Stream) -> Result<(Vec<Vec<f32>>, Vec<f32>)> {
        self.work.last(stream)
    }
}
