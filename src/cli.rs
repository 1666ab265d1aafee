//! The command line: one file a subcommand. Results go to stdout, everything else to stderr.

mod bench;
mod calibrate;
mod convert;
mod demo;
mod device;
mod eval;
mod gallery;
mod info;
mod inputs;
mod modelled;
mod profile;
mod quantise;
mod score;
mod subject;
mod trace;
mod train;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use comfy_table::{Cell, ColumnConstraint, Row, Table, Width};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use inp_former::data::dataset::Layout;
use inp_former::model::{Model, embedded};
use inp_former::runtime::weights::WeightFile;
use inp_former::{Error, Result};

/// Universal visual anomaly detection (INP-Former, CVPR 2025): train, evaluate, score.
#[derive(Parser)]
#[command(name = "inp-former", version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Command {
    /// Make a small inspection data set, train on it, evaluate, draw: the whole job in a few minutes
    Demo(demo::Demo),
    /// Train a model on good images
    Train(train::Train),
    /// Measure a model on a test set: the seven metrics of each class and their mean
    Eval(eval::Eval),
    /// Score pictures: a number and a map each
    Score(score::Score),
    /// Set thresholds from good images alone and store them in the model file
    Calibrate(calibrate::Calibrate),
    /// Calibrate a model for int8 with good images; store it in the model file, tell how close int8 is to f32
    Quantise(quantise::Quantise),
    /// Measure the time that a frame takes, stage by stage
    Bench(bench::Bench),
    /// Take a pass on a GPU apart, kernel by kernel: measured on a real one, predicted on the emulated one
    Profile(profile::Profile),
    /// Convert PyTorch checkpoints and DINOv2 weights to our safetensors
    Convert(convert::Convert),
    /// Write every activation, gradient or optimiser step to a safetensors file
    Trace(trace::Trace),
    /// Show devices, instruction sets and what was chosen
    Info(info::Info),
}

/// Options of every command.
#[derive(Args, Clone)]
pub struct Common {
    /// Where to compute
    #[arg(long, global = true, default_value = "auto", value_name = "auto|cpu|cuda[:N]|emulated")]
    device: String,
    /// Number format to compute in
    #[arg(long, global = true, default_value = "auto", value_name = "auto|f32|bf16|f16|int8|fp8|tf32")]
    precision: String,
    /// Compute in int8 even if the model's calibration found it too far from f32
    #[arg(long, global = true)]
    allow_inaccurate: bool,
    /// CPU threads [default: every core]
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Say nothing but results and errors
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Say more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// How a command ended, when it did not fail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Done {
    All,
    /// Some inputs failed; each was named.
    SomeFailed,
    /// `--fail-on-anomaly`, and something was anomalous.
    Anomalous,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let common = &cli.common;
    let result = match cli.command {
        Command::Demo(c) => c.run(common),
        Command::Train(c) => c.run(common),
        Command::Eval(c) => c.run(common),
        Command::Score(c) => c.run(common),
        Command::Calibrate(c) => c.run(common),
        Command::Quantise(c) => c.run(common),
        Command::Bench(c) => c.run(common),
        Command::Profile(c) => c.run(common),
        Command::Convert(c) => c.run(common),
        Command::Trace(c) => c.run(common),
        Command::Info(c) => c.run(common),
    };
    match result {
        Ok(Done::All) => ExitCode::from(0),
        Ok(Done::SomeFailed) => ExitCode::from(1),
        Ok(Done::Anomalous) => ExitCode::from(3),
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "error: {e}");
            ExitCode::from(2)
        }
    }
}

impl Common {
    /// A sentence for the user, unless quiet.
    pub fn note(&self, what: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{}", what.as_ref());
        }
    }

    /// A warning: shown even when quiet.
    pub fn warn(&self, what: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr(), "warning: {}", what.as_ref());
    }

    /// Names an input that failed: shown even when quiet.
    pub fn failed(&self, e: &Error) {
        let _ = writeln!(std::io::stderr(), "error: {e}");
    }

    /// A progress bar with rate and time left; on something other than a terminal, or when quiet, it draws nothing.
    pub fn bar(&self, total: usize, what: &str) -> ProgressBar {
        let target = match self.quiet || !std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr_with_hz(5),
        };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        let style = "{prefix:10} {bar:30} {pos}/{len} {per_sec} {elapsed} left {eta} {msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("a fixed template"));
        bar.set_prefix(what.to_string());
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }

    /// Opens a trained model and says what it is.
    pub fn model(&self, path: &Path) -> Result<Model> {
        self.trained(Model::load(WeightFile::read(path)?)?)
    }

    /// As [`Common::model`], for a model that will only score.
    pub fn scoring_model(&self, path: &Path) -> Result<Model> {
        self.trained(Model::load_to_score(WeightFile::read(path)?)?)
    }

    fn trained(&self, model: Model) -> Result<Model> {
        model.trained()?;
        self.about_backbone(&model);
        Ok(model)
    }

    /// `--backbone`: the embedded one, a name, or a file in any naming (a model of ours gives its encoder).
    pub fn backbone(&self, asked: Option<&str>) -> Result<Model> {
        let model = match asked {
            None | Some("inp-proc-d192-b8") => Model::load(embedded()?)?,
            Some(name) if is_published(name) => {
                let folder = std::env::var_os("INP_BACKBONES").map(PathBuf::from);
                let path = folder.map(|f| f.join(format!("{name}.safetensors"))).filter(|p| p.exists());
                Model::load(WeightFile::read(path.ok_or_else(|| missing_backbone(name))?)?)?
            }
            Some(path) => Model::load(WeightFile::read(path)?)?,
        };
        self.about_backbone(&model);
        Ok(model)
    }

    fn about_backbone(&self, model: &Model) {
        if model.config.is_demonstration() {
            self.note(
                "note: this runs on the small demonstration backbone inp-proc-d192-b8; for real work train with \
                 --backbone and DINOv2-reg weights (README: \"Weights\")",
            );
        }
    }
}

/// Short names of the published encoders.
fn is_published(name: &str) -> bool {
    ["dinov2reg_vit_small_14", "dinov2reg_vit_base_14", "dinov2reg_vit_large_14"].contains(&name)
}

fn missing_backbone(name: &str) -> Error {
    Error::usage(format!(
        "--backbone {name}: put the weights at $INP_BACKBONES/{name}.safetensors, or give a file; Hugging Face has them \
         as facebook/dinov2-with-registers-{{small,base,large}} (model.safetensors, taken as it is)"
    ))
}

/// `--dataset`.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum DatasetKind {
    Auto,
    Mvtec,
    Visa,
    RealIad,
    Folder,
}

impl DatasetKind {
    pub fn layout(self) -> Option<Layout> {
        match self {
            Self::Auto => None,
            Self::Mvtec => Some(Layout::Mvtec),
            Self::Visa => Some(Layout::Visa),
            Self::RealIad => Some(Layout::RealIad),
            Self::Folder => Some(Layout::Folder),
        }
    }
}

/// Makes a table no wider than the terminal, if there is one: of the columns of `spare` those stay that fit, the last named
/// first; column `wraps`, one of them, may wrap its words. Gives back a line that says what was left out, or nothing.
pub fn fit(table: &mut Table, wraps: Option<&str>, spare: &[&'static str]) -> String {
    /// Characters that a column is not wrapped below.
    const FEWEST: u16 = 26;
    let Some(room) = table.width() else { return String::new() };
    let heads: Vec<_> = table.header().into_iter().flat_map(Row::cell_iter).map(Cell::content).collect();
    let full = table.column_max_content_widths();
    let there = |head: &&'static str| Some((heads.iter().position(|h| h == head)?, *head));
    let spare: Vec<_> = spare.iter().filter_map(there).collect();
    // A space on both sides of a column and one between; borders outside.
    let fixed = (0..full.len()).filter(|i| spare.iter().all(|s| s.0 != *i));
    let mut taken = 1 + fixed.map(|i| full[i] + 3).sum::<u16>();
    let mut gone = Vec::new();
    for &(i, head) in spare.iter().rev() {
        let left = room.saturating_sub(taken + 3);
        let column = table.column_mut(i).expect("every column has a head");
        if full[i] <= left {
            taken += full[i] + 3;
        } else if wraps == Some(head) && FEWEST <= left {
            column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(left)));
            taken += left + 3;
        } else {
            column.set_constraint(ColumnConstraint::Hidden);
            gone.insert(0, head);
        }
    }
    match gone.as_slice() {
        [] => String::new(),
        gone => format!("left out, as the terminal is narrow: {}\n", gone.join(", ")),
    }
}

/// Prints to stdout; a closed pipe ends the program quietly, as it does for any filter.
pub fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        r => r.map_err(|e| Error::file("stdout", format!("cannot write the results: {e}"))),
    }
}
