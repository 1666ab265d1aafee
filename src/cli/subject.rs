//! What `bench` and `profile` look at: a model and a camera's frame.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use inp_former::Result;
use inp_former::engine::{Precision, int8};
use inp_former::model::params::{Encoder, Trained};
use inp_former::model::{Config, Model};
use inp_former::ops::preprocess::{ImageView, crop_u8};
use inp_former::runtime::weights::{RawTensor, WeightFile};
use inp_former::runtime::{Cpu, Tensor};
use inp_former::train::init::{self, Rng};
use serde_json::Map;

use super::Common;

/// A model: a file or a size.
#[derive(Args)]
pub struct Subject {
    /// Model file
    #[arg(long, value_name = "FILE", conflicts_with = "arch")]
    model: Option<PathBuf>,
    /// A model of this size with random weights; `demo` is the embedded backbone with a new trained part
    #[arg(long, value_enum, default_value = "demo")]
    arch: Arch,
}

#[derive(ValueEnum, Clone, Copy)]
enum Arch {
    Small,
    Base,
    Large,
    Demo,
}

impl Subject {
    /// Its name in results.
    pub fn name(&self) -> String {
        self.model.as_ref().map_or_else(|| self.arch.name().into(), |p| p.display().to_string())
    }
    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        self.model.as_deref()
    }
    /// The model.
    pub fn open(&self, common: &Common) -> Result<Model> {
        match (&self.model, self.arch) {
            (Some(path), _) => common.scoring_model(path),
            (None, Arch::Demo) => {
                let backbone = common.backbone(None)?;
                let config = init::plan(&backbone.config, 6);
                let trained = init::init(&config, 1)?;
                Ok(backbone.with_trained(config, trained))
            }
            (None, arch) => Model::load_to_score(random(arch)?),
        }
        .and_then(|model| self.calibrated(common, model))
    }
}

impl Subject {
    /// For int8, a model without a file is calibrated with the very frame.
    fn calibrated(&self, common: &Common, mut model: Model) -> Result<Model> {
        if self.model.is_some() || common.precision()? != Precision::Int8 {
            return Ok(model);
        }
        let cpu = Cpu::new(common.threads.map(usize::from))?;
        let pixels = frame();
        let view = ImageView::rgb(&pixels, WIDTH, HEIGHT)?;
        let crop = crop_u8(&cpu, &view, model.config.resize, model.config.crop)?;
        let bar = common.bar(int8::steps(&model, 1), "calibrating");
        let found = int8::calibrate(&cpu, &model, &[crop], &mut || bar.inc(1))?;
        bar.finish_and_clear();
        common.note(format!("calibrated for int8 with the frame: map error {:.2e}", found.map_error));
        model.config.other.insert("int8".into(), found.to_json());
        model.int8 = found.smoothing;
        Ok(model)
    }
}

impl Arch {
    fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Base => "base",
            Self::Large => "large",
            Self::Demo => "demo",
        }
    }
}

/// Size of the frame.
pub const WIDTH: usize = 640;
pub const HEIGHT: usize = 480;

/// A camera's frame, RGB: a slope under noise, the same every time.
pub fn frame() -> Vec<u8> {
    let mut rng = Rng(1);
    let slope = |i: usize| 40 + i / 3 % WIDTH * 80 / WIDTH + i / 3 / WIDTH * 60 / HEIGHT + i % 3 * 10;
    (0..WIDTH * HEIGHT * 3).map(|i| (slope(i) + (rng.next_u64() >> 59) as usize) as u8).collect()
}

/// A model of a published size under the published names, weights drawn so that activations keep their size.
fn random(arch: Arch) -> Result<WeightFile> {
    let (channels, depth, layers): (_, _, Vec<usize>) = match arch {
        Arch::Small | Arch::Demo => (384, 12, (2..10).collect()),
        Arch::Base => (768, 12, (2..10).collect()),
        Arch::Large => (1024, 24, (4..19).step_by(2).collect()),
    };
    let groups = vec![vec![0, 1, 2, 3], vec![4, 5, 6, 7]];
    let cfg = Config {
        channels,
        heads: channels / 64,
        hidden: 4 * channels,
        depth,
        registers: 4,
        pos_grid: 37,
        decoder_blocks: layers.len(),
        target_layers: layers,
        decoder_groups: groups.clone(),
        groups,
        prototypes: 6,
        resize: 448,
        crop: 392,
        trained: true,
        other: Map::new(),
    };
    let mut file = WeightFile { path: "random weights".into(), ..WeightFile::default() };
    let mut rng = Rng(1);
    let mut put = |name: &str, shape: &[usize]| -> Result<Tensor> {
        let inputs: usize = shape.iter().skip(1).product();
        let (mean, half) = match name.rsplit('.').next() {
            Some("bias") => (0.0, 0.05),
            Some("gamma") => (0.275, 0.225),
            Some("learn_scale") => (1.0, 0.25),
            Some("weight") if shape.len() == 1 => (1.0, 0.25),
            Some("weight") => (0.0, (3.0 / inputs as f64).sqrt()),
            _ => (0.0, 1.0),
        };
        let count = shape.iter().product();
        let t = Tensor::new(
            shape,
            (0..count).map(|_| (mean + half * (2.0 * rng.uniform() - 1.0)) as f32).collect(),
        );
        file.tensors.insert(name.into(), RawTensor::from_f32(&t));
        // Only the file is wanted.
        Ok(Tensor::zeros(&vec![0; shape.len()]))
    };
    Encoder::build(&cfg, &mut put)?;
    Trained::build(&cfg, &mut put)?;
    file.metadata.insert("inp_former".into(), cfg.to_json().to_string());
    Ok(file)
}
