//! `convert`: published checkpoints and DINOv2 weights to our safetensors.

use std::path::PathBuf;

use clap::Args;
use inp_former::Result;
use inp_former::model::{Model, naming};
use inp_former::runtime::weights::WeightFile;

use super::{Common, Done};

#[derive(Args)]
pub struct Convert {
    /// A .pth of PyTorch, or safetensors in any naming of DINOv2
    input: PathBuf,
    /// The safetensors file to write
    output: PathBuf,
}

impl Convert {
    pub fn run(self, common: &Common) -> Result<Done> {
        let (file, naming) = naming::normalise(WeightFile::read(&self.input)?)?;
        // Loading checks names and shapes: a file that cannot be used is not written.
        let model = Model::load(file.clone())?;
        let cfg = &model.config;
        let mut file = file;
        file.metadata.insert("inp_former".into(), cfg.to_json().to_string());
        file.write(&self.output)?;
        common.note(format!(
            "{}: {naming:?} naming, {} channels, {} blocks, {} heads, {} registers{}; wrote {}",
            self.input.display(),
            cfg.channels,
            cfg.depth,
            cfg.heads,
            cfg.registers,
            if cfg.trained {
                format!(", a trained INP-Former of {} prototypes", cfg.prototypes)
            } else {
                String::new()
            },
            self.output.display()
        ));
        Ok(Done::All)
    }
}
