//! `convert`: published checkpoints and DINOv2 weights to our safetensors.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use inp_former::Result;
use inp_former::error::IoContext;
use inp_former::model::{Model, naming};
use inp_former::runtime::pth;
use inp_former::runtime::weights::WeightFile;

use super::{Common, Done};

#[derive(Args)]
pub struct Convert {
    /// A .pth of PyTorch, or safetensors in any naming of DINOv2
    input: PathBuf,
    /// The safetensors file to write
    output: PathBuf,
}

/// Reads safetensors or, told by its first bytes, a PyTorch file.
pub fn read_any(path: &Path) -> Result<WeightFile> {
    let mut magic = [0; 4];
    let mut file = std::fs::File::open(path).at(path, "open the weights")?;
    let n = file.read(&mut magic).at(path, "read the weights")?;
    if &magic[..n] == b"PK\x03\x04" { pth::read(path) } else { WeightFile::read(path) }
}

impl Convert {
    pub fn run(self, common: &Common) -> Result<Done> {
        let (file, naming) = naming::normalise(read_any(&self.input)?)?;
        // Loading checks names and shapes: a file that cannot be used is not written.
        let model = Model::load(file.clone())?;
        let cfg = &model.config;
        let mut file = file;
        file.metadata.insert("inp_former".into(), cfg.to_json().to_string());
        file.write(&self.output)?;
        common.note(format!(
            "{}: {naming} naming, {} channels, {} blocks, {} heads, {} registers{}; wrote {}",
            self.input.display(),
            cfg.channels,
            cfg.depth,
            cfg.heads,
            cfg.registers,
            if cfg.trained { format!(", a trained INP-Former of {} prototypes", cfg.prototypes) } else { String::new() },
            self.output.display()
        ));
        Ok(Done::All)
    }
}
