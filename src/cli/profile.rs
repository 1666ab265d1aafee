//! `profile`: a pass on a GPU, kernel by kernel: times measured on a real one, counters and predictions on the emulated one.

mod report;
mod variants;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use inp_former::engine::{Options, Scorer, Verdict};
use inp_former::fs::write_atomic;
use inp_former::ops::preprocess::ImageView;
use inp_former::runtime::cuda::{self, Geometry, Gpu, Machine, Watched, Work};
use inp_former::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

use super::modelled::Modelled;
use super::subject::{HEIGHT, Subject, WIDTH, frame};
use super::{Common, Done, info, inputs, print};
use report::Report;

#[derive(Args)]
pub struct Profile {
    #[command(flatten)]
    subject: Subject,
    /// Pictures of the pass
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=32))]
    batch: u16,
    /// GPU that the emulator models: h100, a100, rtx4090, l4 and more [default: $INP_EMULATED_GPU, else h100]
    #[arg(long, value_name = "NAME")]
    gpu: Option<String>,
    /// List every variant of every kernel at the model's shapes
    #[arg(long)]
    variants: bool,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Passes whose shortest time of each launch counts, on a real GPU.
const ROUNDS: usize = 10;

impl Profile {
    pub fn run(self, common: &Common) -> Result<Done> {
        cuda::has_kernels()?;
        let precision = common.precision()?;
        precision.on_cuda()?;
        let gpu = self.open(common)?;
        if let Some(path) = &self.json {
            inputs::make_parent(path)?;
        }
        let model = self.subject.open(common)?;
        let options = Options { precision, threads: common.threads.map(usize::from), ..Options::default() };
        let mut scorer = Scorer::new(model, gpu.clone(), &options)?;
        let (batch, pixels) = (usize::from(self.batch), frame());
        let frames = vec![ImageView::rgb(&pixels, WIDTH, HEIGHT)?; batch];
        let mut verdicts = vec![Verdict::default(); batch];
        // An eager pass and the capture come before what is looked at.
        scorer.launches(&frames[0], batch)?;
        let dtype = precision.on_cuda()?;
        let tried = match self.variants {
            true => variants::tried(&gpu, &scorer, &frames, &info::variants(&Machine::from(&gpu), dtype))?,
            false => Vec::new(),
        };
        let (launches, whole) = match gpu.is_emulated() {
            _ if self.variants => (Vec::new(), None),
            true => {
                cuda::set_emulated("INP_EMULATED_COUNT", "1")?;
                scorer.score_batch_into(&frames, &mut verdicts)?;
                cuda::set_emulated("INP_EMULATED_COUNT", "0")?;
                (counted(&cuda::emulated_report()?)?, None)
            }
            false => {
                let launches = timed(&gpu, &scorer, &frames)?;
                let mut ms = Vec::new();
                for _ in 0..20 {
                    let start = Instant::now();
                    scorer.score_batch_into(&frames, &mut verdicts)?;
                    ms.push(start.elapsed().as_secs_f64() * 1e3);
                }
                ms.sort_unstable_by(f64::total_cmp);
                (launches, Some(ms[ms.len() / 2]))
            }
        };
        let limits = Modelled::like(gpu.name(), gpu.arch());
        let report = Report {
            name: self.subject.name(),
            crop: scorer.config().crop,
            precision: scorer.precision(),
            dtype,
            rows: rows(&launches),
            launches: launches.len(),
            tried,
            gpu,
            limits,
            batch,
            whole,
        };
        if let Some(path) = &self.json {
            write_atomic(path, format!("{:#}\n", report.json()).as_bytes())?;
        }
        print(&if std::io::stdout().is_terminal() {
            report.table()
        } else {
            format!("{:#}\n", report.json())
        })?;
        Ok(Done::All)
    }

    /// The GPU to look at; `auto` is a real one if it is there and `--gpu` names no other.
    fn open(&self, common: &Common) -> Result<Gpu> {
        let modelled = self.gpu.as_deref().map(Modelled::named).transpose()?;
        let emulated = || match &modelled {
            Some(m) => Gpu::emulated_with(&[("INP_EMULATED_GPU", &m.name)]),
            None => Gpu::emulated(),
        };
        let device = common.device.as_str();
        let real = device == "cuda" || device.starts_with("cuda:");
        if real && modelled.is_some() {
            return Err(Error::usage("--gpu names a GPU of the emulator: it goes with --device emulated"));
        }
        let gpu = match device {
            "emulated" => emulated()?,
            "auto" if modelled.is_some() => emulated()?,
            "auto" => match Gpu::open(0) {
                Ok(gpu) => gpu,
                Err(e) => {
                    common.note(format!("no GPU is measured ({e}): what follows is predicted"));
                    emulated()?
                }
            },
            "cpu" => return Err(Error::usage("profile looks at a GPU: use --device cuda or emulated")),
            _ => common.gpu()?,
        };
        let what = if gpu.is_emulated() { "emulated " } else { "" };
        common.note(format!("device: {what}{}", gpu.name()));
        Ok(gpu)
    }
}

/// What is known of one launch.
#[derive(Clone)]
struct Launch {
    kernel: String,
    geometry: Geometry,
    work: Work,
    /// Measured; or predicted, with the launch itself.
    us: f64,
    counted: Option<Counted>,
}

/// What the emulator counted in one or more launches.
#[derive(Clone, Default)]
struct Counted {
    counters: Counters,
    /// What bounds the longest launch, by the roofline, and that launch's time, µs.
    bound: String,
    longest: f64,
    /// Part of the time that this resource would be busy, µs.
    busy: f64,
}

/// Of the emulator's counters, those that are shown (tools/cuda-emulator/README.md, "Counters").
#[derive(Clone, Default, Deserialize)]
struct Counters {
    instructions: u64,
    flop: u64,
    tensor_macs: BTreeMap<String, u64>,
    sectors: u64,
    global_bytes: u64,
    unique_read: u64,
    unique_written: u64,
    wavefronts: u64,
    bank_conflicts: u64,
}

impl Counters {
    fn add(&mut self, o: &Self) {
        o.tensor_macs.iter().for_each(|(k, v)| *self.tensor_macs.entry(k.clone()).or_default() += v);
        self.instructions += o.instructions;
        self.flop += o.flop;
        self.sectors += o.sectors;
        self.global_bytes += o.global_bytes;
        self.unique_read += o.unique_read;
        self.unique_written += o.unique_written;
        self.wavefronts += o.wavefronts;
        self.bank_conflicts += o.bank_conflicts;
    }
    fn macs(&self) -> u64 {
        self.tensor_macs.values().sum()
    }
}

/// The launches of the emulator's report: those that were counted.
fn counted(report: &Value) -> Result<Vec<Launch>> {
    #[derive(Deserialize)]
    struct Reported {
        kernel: String,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        counters: Counters,
        predicted: Predicted,
    }
    #[derive(Deserialize)]
    struct Predicted {
        us: f64,
        bound: String,
        shares: Vec<(String, f64)>,
    }
    let launches = report["launches"].as_array().into_iter().flatten();
    let read = |l: &Value| {
        let l = Reported::deserialize(l)
            .map_err(|e| Error::Device(format!("the emulator's report cannot be read: {e}")))?;
        let Predicted { us, bound, shares } = l.predicted;
        let busy = us * shares.first().map_or(0.0, |s| s.1);
        let geometry = Geometry { grid: l.grid, block: l.block.iter().product(), shared: l.dynamic_shared };
        let counted = Some(Counted { counters: l.counters, bound, longest: us, busy });
        Ok(Launch { kernel: l.kernel, geometry, work: Work::default(), us, counted })
    };
    launches.map(read).collect()
}

/// The launches of a pass on a real GPU, each between events: the shortest time of some passes. A scorer captures its first
/// pass of a kind after running it launch by launch; clones do so anew.
fn timed(gpu: &Gpu, scorer: &Scorer, frames: &[ImageView]) -> Result<Vec<Launch>> {
    let mut launches: Vec<Launch> = Vec::new();
    for _ in 0..ROUNDS {
        let (_, seen) = gpu.watch(|| scorer.clone().launches(&frames[0], frames.len()))?;
        if launches.is_empty() {
            let new = |w: &Watched| Launch {
                kernel: w.kernel.clone(),
                geometry: w.geometry,
                work: w.work.clone(),
                us: w.us,
                counted: None,
            };
            launches = seen.iter().map(new).collect();
        }
        launches.iter_mut().zip(&seen).for_each(|(l, w)| l.us = l.us.min(w.us));
    }
    Ok(launches)
}

impl Launch {
    /// Of the same kernel over as many blocks, with as many multiply-adds: K then is the same, too.
    fn is_like(&self, o: &Self) -> bool {
        let macs = |l: &Self| l.counted.as_ref().map(|c| c.counters.macs());
        self.kernel == o.kernel
            && self.geometry == o.geometry
            && self.work.shape == o.work.shape
            && macs(self) == macs(o)
    }
}

/// Launches that are alike.
struct Row {
    calls: usize,
    /// Sums; the geometry is that of each.
    sum: Launch,
}

/// Equal launches together, the longest first.
fn rows(launches: &[Launch]) -> Vec<Row> {
    let (mut rows, mut like): (Vec<Row>, _) = (Vec::new(), Vec::new());
    for l in launches {
        let Some(i) = like.iter().position(|first: &&Launch| first.is_like(l)) else {
            rows.push(Row { calls: 1, sum: l.clone() });
            like.push(l);
            continue;
        };
        let Row { calls, sum } = &mut rows[i];
        *calls += 1;
        sum.us += l.us;
        sum.work.flop += l.work.flop;
        sum.work.bytes += l.work.bytes;
        if let (Some(sum), Some(new)) = (&mut sum.counted, &l.counted) {
            sum.counters.add(&new.counters);
            sum.busy += new.busy;
            if new.longest > sum.longest {
                (sum.longest, sum.bound) = (new.longest, new.bound.clone());
            }
        }
    }
    rows.sort_by(|a, b| b.sum.us.total_cmp(&a.sum.us));
    rows
}
