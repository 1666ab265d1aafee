//! `Scorer`: one in-memory picture in, one score and one anomaly map out.

mod batches;

use std::path::Path;

use crate::engine::cuda::{self, OnCuda};
use crate::engine::forward::Pixels;
use crate::engine::int8;
use crate::engine::on_cpu::OnCpu;
use crate::error::{Error, Result};
use crate::model::{Config, Model};
use crate::ops::preprocess::ImageView;
use crate::runtime::weights::WeightFile;
use crate::runtime::{Cpu, DType, Device, Tier};

pub use batches::{Batches, MOST, Scored};

/// Side of the anomaly map.
pub const MAP_SIDE: usize = 256;
/// Share of the map's largest pixels whose mean is the score.
pub const TOP: f64 = 0.01;

/// What products are computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// On a CPU bf16 if it has instructions for it, else f32; on a GPU bf16.
    #[default]
    Auto,
    /// f32, on a CPU.
    F32,
    /// One of the element types of a GPU's kernels, bf16 also on a CPU; sums are f32.
    Of(DType),
    /// int8, on a CPU, with a model that was calibrated for it; sums are exact.
    Int8,
}

/// What a CPU multiplies; sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuPrecision {
    /// f32.
    F32,
    /// bf16.
    Bf16,
    /// int8 in the large layers that calibration chose, in the others bf16, or f32 where it has no instructions for that.
    Int8,
}

impl CpuPrecision {
    /// As `--precision` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl Precision {
    /// The element type on a GPU. Errors: f32, which its kernels do not have.
    pub fn on_cuda(self) -> Result<DType> {
        match self {
            Self::Auto => Ok(DType::Bf16),
            Self::Of(dtype) => Ok(dtype),
            Self::Int8 => {
                Err(Error::usage("there are no int8 CUDA kernels; choose bf16, f16 or tf32, or --device cpu"))
            }
            Self::F32 => Err(Error::usage(
                "the CUDA kernels compute in bf16, f16 or tf32, not f32; choose one of these or --device cpu",
            )),
        }
    }
    /// What `cpu` multiplies. Errors: anything that it has no kernels or no instructions for. The scalar tier, which is for
    /// checks, emulates bf16.
    pub fn on_cpu(self, cpu: &Cpu) -> Result<CpuPrecision> {
        match self {
            Self::Auto if cpu.has_bf16() => Ok(CpuPrecision::Bf16),
            Self::Auto | Self::F32 => Ok(CpuPrecision::F32),
            Self::Int8 => Ok(CpuPrecision::Int8),
            Self::Of(DType::Bf16) if cpu.has_bf16() || cpu.tier() == Tier::Scalar => Ok(CpuPrecision::Bf16),
            Self::Of(DType::Bf16) => Err(Error::usage(format!(
                "--precision bf16: {} has no instructions for it (they are avx512_bf16); use --precision f32",
                match std::env::var_os("INP_SIMD") {
                    Some(_) => format!("the instruction set {}, which INP_SIMD chose,", cpu.tier().name()),
                    None => "this processor".into(),
                }
            ))),
            Self::Of(dtype) => Err(Error::usage(format!(
                "--precision {}: on a CPU this version computes in f32, bf16 or int8; use one of these",
                dtype.name()
            ))),
        }
    }
}

/// How to score.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What products are computed in.
    pub precision: Precision,
    /// CPU threads; `None` takes every core that the process may use.
    pub threads: Option<usize>,
    /// Map each patch's distance to the picture's own prototypes, without bottleneck and decoder.
    pub zero_shot: bool,
    /// A picture is anomalous from this score on; `None` takes the threshold that the model was calibrated
    /// to, if it was, and for the same kind of scoring.
    pub threshold: Option<f32>,
    /// Score in int8 even if calibration found that it strays too far from f32.
    pub allow_inaccurate: bool,
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
    on: On,
    threshold: Option<f32>,
}

/// The half that belongs to a device.
#[derive(Clone)]
enum On {
    Cpu(Box<OnCpu>),
    Cuda(Box<OnCuda>),
}

/// A line of cameras has a scorer on each of its threads: not to be lost by a field that is not `Send`.
const _: () = {
    const fn send<T: Send>() {}
    send::<Scorer>();
};

/// Errors: the model has a shape that the CUDA kernels do not take; a CPU takes any.
pub fn fits_cuda(config: &Config, precision: Precision) -> Result<()> {
    cuda::takes(config, precision.on_cuda()?)
}

impl Scorer {
    /// Opens a model file. Errors: the file's, or that it holds no trained INP-Former.
    pub fn open(model: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let model = Model::load_to_score(WeightFile::read(model)?)?;
        Self::new(model, Cpu::new(options.threads)?, options)
    }

    /// Scores with a model in memory, on a given device (`options.threads` counts for folding only, and only where the
    /// device is no CPU). The model's weights are folded into new ones and let go.
    pub fn new(model: Model, device: impl Into<Device>, options: &Options) -> Result<Self> {
        let on = match device.into() {
            Device::Cpu(cpu) => {
                let precision = options.precision.on_cpu(&cpu)?;
                if precision == CpuPrecision::Int8 {
                    int8::check(&model, options.allow_inaccurate)?;
                }
                On::Cpu(Box::new(OnCpu::new(model, cpu, precision, options.zero_shot)?))
            }
            Device::Cuda(gpu) => {
                let (cpu, dtype) = (Cpu::new(options.threads)?, options.precision.on_cuda()?);
                On::Cuda(Box::new(OnCuda::new(model, &cpu, &gpu, dtype, options.zero_shot)?))
            }
        };
        let mut scorer = Self { on, threshold: options.threshold };
        scorer.threshold = scorer.threshold.or_else(|| scorer.config().threshold(options.zero_shot));
        Ok(scorer)
    }

    /// What the model's file says of it.
    pub fn config(&self) -> &Config {
        match &self.on {
            On::Cpu(on) => on.config(),
            On::Cuda(on) => on.config(),
        }
    }
    /// What products are computed in.
    pub fn precision(&self) -> &'static str {
        match &self.on {
            On::Cpu(on) => on.precision().name(),
            On::Cuda(on) => on.dtype().name(),
        }
    }
    /// Whether a GPU computes.
    pub fn on_gpu(&self) -> bool {
        matches!(self.on, On::Cuda(_))
    }
    /// Number of scorers, this one included, that use this model's weights: itself and its clones.
    pub fn sharing(&self) -> usize {
        match &self.on {
            On::Cpu(on) => on.sharing(),
            On::Cuda(on) => on.sharing(),
        }
    }
    /// Score from which a picture is anomalous.
    pub fn threshold(&self) -> Option<f32> {
        self.threshold
    }

    /// Kernels that a GPU launches, as one graph, for a batch of frames like this one; `None` on a CPU, and where each launch
    /// is waited for. Captures the graph if it was not. Errors: the device's.
    pub fn launches(&mut self, frame: &ImageView, batch: usize) -> Result<Option<usize>> {
        match &mut self.on {
            On::Cpu(_) => Ok(None),
            On::Cuda(on) => on.launches(frame, batch),
        }
    }

    /// Scores one picture. Errors: a map that is not finite.
    pub fn score_into(&mut self, frame: &ImageView, verdict: &mut Verdict) -> Result<()> {
        self.score_batch_into(std::slice::from_ref(frame), std::slice::from_mut(verdict))
    }

    /// Scores a picture that is already a normalised tensor `(3, X, X)`. Errors: another length; a map that is not finite.
    pub fn score_tensor_into(&mut self, input: &[f32], verdict: &mut Verdict) -> Result<()> {
        let x = self.config().crop;
        if input.len() != 3 * x * x {
            return Err(Error::usage(format!("{} numbers are not a tensor (3, {x}, {x})", input.len())));
        }
        match &mut self.on {
            On::Cpu(on) => on.score(Pixels::F32(input), verdict, &mut |_| {})?,
            On::Cuda(on) => on.tensor(input, verdict)?,
        }
        self.judge(verdict);
        Ok(())
    }

    /// Maps of the last picture on the patch grid, `(N)` of each group: cosine distances (zero-shot: one, the distance to
    /// the nearest prototype). Errors: on a GPU, those of its copies.
    pub fn native_maps(&self) -> Result<&[Vec<f32>]> {
        match &self.on {
            On::Cpu(on) => Ok(on.native_maps()),
            On::Cuda(on) => Ok(&on.last()?.0),
        }
    }
    /// Prototypes I `(P, C)` of the last picture. Errors: on a GPU, those of its copies.
    pub fn prototypes(&self) -> Result<&[f32]> {
        match &self.on {
            On::Cpu(on) => Ok(on.prototypes()),
            On::Cuda(on) => Ok(&on.last()?.1),
        }
    }

    /// Scores several pictures: each gets the same bits as alone. A CPU does one after the other, a GPU those of one size
    /// together. Errors: unless there are as many verdicts as pictures; a map that is not finite (the verdicts before it are
    /// good).
    pub fn score_batch_into(&mut self, frames: &[ImageView], verdicts: &mut [Verdict]) -> Result<()> {
        self.score_batch_timed(frames, verdicts, &mut |_| {})
    }

    /// As [`Scorer::score_batch_into`]; `stage` is called with each stage's name as it ends, for each picture anew; on a GPU
    /// all is one stage.
    pub fn score_batch_timed(
        &mut self,
        frames: &[ImageView],
        verdicts: &mut [Verdict],
        stage: &mut dyn FnMut(&'static str),
    ) -> Result<()> {
        if frames.len() != verdicts.len() {
            return Err(Error::usage(format!("{} verdicts for {} pictures", verdicts.len(), frames.len())));
        }
        match &mut self.on {
            On::Cpu(on) => {
                frames.iter().zip(verdicts.iter_mut()).try_for_each(|(f, v)| on.frame(f, v, stage))?
            }
            On::Cuda(on) => {
                on.frames(frames, verdicts)?;
                stage("frame to score");
            }
        }
        verdicts.iter_mut().for_each(|v| self.judge(v));
        Ok(())
    }

    /// As [`Scorer::score_batch_into`], from pictures already resized and cropped: crops `(B, X, X, 3)` RGB.
    pub fn score_crops_into(&mut self, crops: &[u8], verdicts: &mut [Verdict]) -> Result<()> {
        let size = 3 * self.config().crop.pow(2);
        if crops.len() != verdicts.len() * size {
            return Err(Error::usage(format!(
                "{} verdicts for {} bytes of crops",
                verdicts.len(),
                crops.len()
            )));
        }
        match &mut self.on {
            On::Cpu(on) => {
                let mut each = crops.chunks_exact(size).zip(verdicts.iter_mut());
                each.try_for_each(|(c, v)| on.score(Pixels::U8(c), v, &mut |_| {}))?
            }
            On::Cuda(on) => on.crops(crops, verdicts)?,
        }
        verdicts.iter_mut().for_each(|v| self.judge(v));
        Ok(())
    }

    /// Errors: a score that is not finite (a CPU has said so before).
    fn check(&self, v: &Verdict) -> Result<()> {
        match &self.on {
            On::Cpu(_) => Ok(()),
            On::Cuda(on) => on.check(v),
        }
    }
    fn judge(&self, v: &mut Verdict) {
        v.anomalous = self.threshold.map(|t| v.score >= t);
    }
}
