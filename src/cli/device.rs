//! `--device` and `--precision`: where scoring commands compute, and in what.

use clap::Args;
use inp_former::engine::{Options, Precision, Scorer, score};
use inp_former::model::Model;
use inp_former::runtime::cuda::{self, Gpu};
use inp_former::runtime::{Cpu, DType, Device};
use inp_former::{Error, Result};

use super::Common;

/// How pictures come to the model.
#[derive(Args, Clone, Copy, Default)]
pub struct Flow {
    /// Pictures scored at once [default: 8 on a GPU, 1 on a CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=score::MOST as i64))]
    batch: Option<u8>,
    /// Decoding threads beside the computing ones [default: on a GPU one a core; on a CPU the computing ones decode between
    /// pictures]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
}

impl Flow {
    /// Pictures at once, and decoding threads; of `files` pictures.
    pub fn of(self, scorer: &Scorer, cpu: &Cpu, files: usize) -> (usize, Option<usize>) {
        let asked = self.batch.map(usize::from);
        match scorer.on_gpu() {
            true => (asked.unwrap_or(files.min(8)), self.workers.or(Some(cpu.threads()))),
            false => (asked.unwrap_or(1), self.workers),
        }
    }
}

/// Where a command computes. A CPU is always there: it decodes, folds and measures.
pub struct Place {
    pub cpu: Cpu,
    pub device: Device,
    pub precision: Precision,
    /// `--device auto`: what a GPU's kernels do not take goes to the CPU.
    auto: bool,
}

impl Place {
    /// On a CPU.
    pub fn on_cpu(cpu: Cpu, precision: Precision) -> Self {
        Self { device: cpu.clone().into(), cpu, precision, auto: false }
    }
    /// A scorer there; or, if nobody asked for the GPU and it does not take the model, on the CPU, saying so.
    pub fn scorer(&mut self, common: &Common, model: Model, options: Options) -> Result<Scorer> {
        if self.auto
            && matches!(self.device, Device::Cuda(_))
            && let Err(e) = score::fits_cuda(&model.config, self.precision)
        {
            self.precision.on_cpu(&self.cpu)?;
            common.note(format!("device: cpu after all ({e})"));
            self.device = self.cpu.clone().into();
        }
        let options =
            Options { precision: self.precision, allow_inaccurate: common.allow_inaccurate, ..options };
        Scorer::new(model, self.device.clone(), &options)
    }
    /// Whether the GPU is the emulator's.
    pub fn is_emulated(&self) -> bool {
        matches!(&self.device, Device::Cuda(gpu) if gpu.is_emulated())
    }
    /// As `info`, `bench` and results name it.
    pub fn name(&self) -> String {
        match &self.device {
            Device::Cpu(_) => "cpu".into(),
            Device::Cuda(gpu) if gpu.is_emulated() && gpu.ordinal() == 0 => {
                format!("emulated {}", gpu.name())
            }
            Device::Cuda(gpu) if gpu.is_emulated() => {
                format!("emulated cuda:{} {}", gpu.ordinal(), gpu.name())
            }
            Device::Cuda(gpu) => format!("cuda:{} {}", gpu.ordinal(), gpu.name()),
        }
    }
}

impl Common {
    /// `--precision`.
    pub fn precision(&self) -> Result<Precision> {
        match self.precision.as_str() {
            "auto" => Ok(Precision::Auto),
            "f32" => Ok(Precision::F32),
            "bf16" => Ok(Precision::Of(DType::Bf16)),
            "f16" => Ok(Precision::Of(DType::F16)),
            "tf32" => Ok(Precision::Of(DType::Tf32)),
            "int8" => Ok(Precision::Int8),
            "fp8" => Err(Error::usage(format!(
                "--precision {}: this version has no kernels for it; use f32, bf16 or int8 on a CPU, bf16, f16 or tf32 on a GPU",
                self.precision
            ))),
            p => Err(Error::usage(format!("--precision {p}: choose auto, f32, bf16, f16, tf32 or int8"))),
        }
    }

    /// The CPU, for commands that compute nowhere else, in f32.
    pub fn cpu(&self) -> Result<Cpu> {
        self.cpu_only()?;
        match self.precision()? {
            Precision::Auto | Precision::F32 => Ok(self.on_cpu("", Precision::F32)?.cpu),
            _ => Err(Error::usage(format!(
                "--precision {}: this command computes in f32; leave the option away",
                self.precision
            ))),
        }
    }

    /// The CPU that trains: in f32 unless bf16 is asked for, which rounds the operands of products.
    pub fn training_cpu(&self) -> Result<Cpu> {
        self.cpu_only()?;
        let precision = match self.precision()? {
            Precision::Auto => Precision::F32,
            asked @ (Precision::F32 | Precision::Of(DType::Bf16)) => asked,
            _ => {
                return Err(Error::usage(format!(
                    "--precision {}: training computes in f32 or bf16; choose one of these",
                    self.precision
                )));
            }
        };
        let place = self.on_cpu("", precision)?;
        Ok(match precision {
            Precision::F32 => place.cpu,
            _ => place.cpu.narrowed(),
        })
    }

    fn cpu_only(&self) -> Result<()> {
        match self.device.split(':').next().unwrap_or_default() {
            "auto" | "cpu" if !self.device.contains(':') => {}
            "cuda" | "emulated" => {
                return Err(Error::usage(format!(
                    "--device {}: this command has no CUDA kernels; use --device cpu",
                    self.device
                )));
            }
            _ => return Err(self.unknown_device()),
        }
        Ok(())
    }

    fn on_cpu(&self, why: &str, precision: Precision) -> Result<Place> {
        let cpu = Cpu::new(self.threads.map(usize::from))?;
        let (name, tier) = (precision.on_cpu(&cpu)?.name(), cpu.tier().name());
        self.note(format!("device: cpu{why}, {tier}, {} threads, {name}", cpu.threads()));
        Ok(Place::on_cpu(cpu, precision))
    }

    fn unknown_device(&self) -> Error {
        Error::usage(format!("--device {}: choose auto, cpu, cuda, cuda:N or emulated", self.device))
    }

    /// The GPU that `--device` names.
    pub fn gpu(&self) -> Result<Gpu> {
        match (self.device.as_str(), self.device.strip_prefix("cuda:")) {
            ("cuda", _) => Gpu::open(0),
            ("emulated", _) => Gpu::emulated(),
            (_, Some(n)) => Gpu::open(n.parse().map_err(|_| self.unknown_device())?),
            _ => Err(self.unknown_device()),
        }
    }

    /// The device that a scoring command was asked for; `auto` is the first GPU, or the CPU, and says why.
    pub fn place(&self) -> Result<Place> {
        let precision = self.precision()?;
        let gpu = match self.device.as_str() {
            "cpu" => None,
            "auto" if matches!(precision, Precision::F32 | Precision::Int8) => None,
            "auto" => match Gpu::open(0).and_then(|gpu| cuda::has_kernels().map(|()| gpu)) {
                Ok(gpu) => Some(gpu),
                Err(e) => {
                    let place = self.on_cpu(&format!(" ({e})"), precision);
                    return place.map_err(|refused| Error::usage(format!("{refused} (and for a GPU: {e})")));
                }
            },
            _ => Some(self.gpu()?),
        };
        let Some(gpu) = gpu else { return self.on_cpu("", precision) };
        let (cpu, auto) = (Cpu::new(self.threads.map(usize::from))?, self.device == "auto");
        let place = Place { cpu, device: gpu.into(), precision, auto };
        self.note(format!("device: {}, {}", place.name(), precision.on_cuda()?.name()));
        Ok(place)
    }
}
