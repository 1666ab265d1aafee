//! `profile`: a pass on a GPU, kernel by kernel: times measured on a real one, counters and predictions on the emulated one.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use inp_former::engine::{Options, Scorer, Verdict};
use inp_former::fs::write_atomic;
use inp_former::ops::preprocess::ImageView;
use inp_former::runtime::cuda::image::{self, IMAGES, KernelInfo};
use inp_former::runtime::cuda::{self, Geometry, Gpu, Watched};
use inp_former::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::modelled::Modelled;
use super::subject::{HEIGHT, Subject, WIDTH, frame};
use super::{Common, Done, inputs, print};

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
        let (launches, whole) = match gpu.is_emulated() {
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
            rows: rows(&launches),
            launches: launches.len(),
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
        Ok(Launch { kernel: l.kernel, geometry, us, counted })
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
                us: w.us,
                counted: None,
            };
            launches = seen.iter().map(new).collect();
        }
        launches.iter_mut().zip(&seen).for_each(|(l, w)| l.us = l.us.min(w.us));
    }
    Ok(launches)
}

/// Launches of one kernel of one geometry; their depths K may differ.
struct Row {
    calls: usize,
    /// Sums; the geometry is that of each.
    sum: Launch,
}

/// Equal launches together, the longest first.
fn rows(launches: &[Launch]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for l in launches {
        let same = |r: &&mut Row| r.sum.kernel == l.kernel && r.sum.geometry == l.geometry;
        let Some(Row { calls, sum }) = rows.iter_mut().find(same) else {
            rows.push(Row { calls: 1, sum: l.clone() });
            continue;
        };
        *calls += 1;
        sum.us += l.us;
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

struct Report {
    name: String,
    crop: usize,
    precision: &'static str,
    gpu: Gpu,
    /// The modelled GPU, or one of the same architecture as the real one.
    limits: Option<Modelled>,
    batch: usize,
    launches: usize,
    rows: Vec<Row>,
    /// Median milliseconds from frame to verdict, measured.
    whole: Option<f64>,
}

impl Report {
    /// A kernel as ptxas made it, and for which architecture.
    fn embedded(&self, kernel: &str) -> Option<(&'static KernelInfo, u32)> {
        let (image, _) = image::choose(IMAGES, kernel, self.gpu.arch())?;
        Some((image.kernels.iter().find(|k| k.name == kernel)?, image.arch))
    }
    fn occupancy(&self, l: &Launch) -> Option<f64> {
        let (kernel, _) = self.embedded(&l.kernel)?;
        Some(self.limits.as_ref()?.occupancy(kernel, &l.geometry))
    }
    fn sum(&self) -> f64 {
        self.rows.iter().map(|r| r.sum.us).sum()
    }
    /// Of the predicted time, what launches take whatever they do.
    fn launching(&self) -> f64 {
        let busy = self.rows.iter().filter_map(|r| Some(r.sum.counted.as_ref()?.busy)).sum::<f64>();
        self.sum() - busy
    }

    fn json(&self) -> Value {
        let predicted = self.gpu.is_emulated();
        let time = if predicted { "predicted_us" } else { "measured_us" };
        let row = |Row { calls, sum }: &Row| {
            let (g, info) = (&sum.geometry, self.embedded(&sum.kernel));
            let mut v = json!({
                "kernel": sum.kernel, "calls": calls, "grid": g.grid, "block": g.block,
                "registers": info.map(|k| k.0.registers), "spills": info.map(|k| k.0.spills),
                "compiled_for": info.map(|k| k.1), "static_shared": info.map(|k| k.0.shared),
                "dynamic_shared": g.shared, "occupancy": self.occupancy(sum),
            });
            if let Some(Counted { counters: c, bound, busy, .. }) = &sum.counted {
                let more = json!({
                    "instructions": c.instructions, "tensor_macs": c.tensor_macs, "flop": c.flop + 2 * c.macs(),
                    "global_bytes": c.global_bytes, "unique_read": c.unique_read,
                    "unique_written": c.unique_written, "sectors": c.sectors, "wavefronts": c.wavefronts,
                    "bank_conflicts": c.bank_conflicts, "bound": bound, "share_of_roofline": busy / sum.us,
                });
                v.as_object_mut()
                    .into_iter()
                    .for_each(|v| v.extend(more.as_object().cloned().unwrap_or_default()));
            }
            v[time] = sum.us.into();
            v
        };
        let mut v = json!({
            "model": self.name, "crop": self.crop, "precision": self.precision, "batch": self.batch,
            "device": self.gpu.name(), "arch": self.gpu.arch(), "predicted": predicted, "launches": self.launches,
            "kernels": self.rows.iter().map(row).collect::<Vec<_>>(),
        });
        v[time] = self.sum().into();
        if predicted {
            v["predicted_launching_us"] = self.launching().into();
            v["inputs"] = self.limits.as_ref().map(Modelled::inputs).into();
        } else {
            v["measured_ms_frame_to_verdict"] = self.whole.into();
        }
        v["version"] = env!("CARGO_PKG_VERSION").into();
        v
    }

    fn table(&self) -> String {
        let predicted = self.gpu.is_emulated();
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Disabled);
        let head = ["kernel", "calls", "grid", "block", "registers", "spills", "shared KB", "occupancy %"];
        let counters =
            ["Minstr", "tensor GMAC", "GFLOP", "global MB", "Msectors", "Mwavefronts", "conflicts"];
        let roofline = ["predicted µs", "bound by", "% of roofline"];
        let head = head.into_iter();
        table.set_header(match predicted {
            true => head.chain(counters).chain(roofline).collect::<Vec<_>>(),
            false => head.chain(["measured µs", "%"]).collect(),
        });
        for Row { calls, sum } in &self.rows {
            let (g, info) = (&sum.geometry, self.embedded(&sum.kernel).map(|k| k.0));
            let known = |x: Option<u32>| x.map_or("?".into(), |x| x.to_string());
            let mut row = vec![
                sum.kernel.clone(),
                calls.to_string(),
                g.grid.map(|x| x.to_string()).join("x"),
                g.block.to_string(),
                known(info.map(|k| k.registers)),
                known(info.map(|k| k.spills)),
                format!("{:.1}", f64::from(g.shared + info.map_or(0, |k| k.shared)) / 1024.0),
                self.occupancy(sum).map_or("?".into(), |x| format!("{:.0}", 100.0 * x)),
            ];
            let us = format!("{:.1}", sum.us);
            match &sum.counted {
                Some(Counted { counters: c, bound, busy, .. }) => {
                    let flop = c.flop + 2 * c.macs();
                    let scaled = |x: u64, by: f64| format!("{:.3}", x as f64 / by);
                    row.extend([
                        scaled(c.instructions, 1e6),
                        scaled(c.macs(), 1e9),
                        scaled(flop, 1e9),
                        scaled(c.global_bytes, 1e6),
                        scaled(c.sectors, 1e6),
                        scaled(c.wavefronts, 1e6),
                        c.bank_conflicts.to_string(),
                        us,
                        bound.clone(),
                        format!("{:.0}", 100.0 * busy / sum.us),
                    ]);
                }
                None => row.extend([us, format!("{:.1}", 100.0 * sum.us / self.sum())]),
            }
            table.add_row(row);
        }
        for (i, column) in table.column_iter_mut().enumerate() {
            if i > 0 && i != 16 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let of = format!(
            "{} ({} px), {}, {}, {}, {} launches",
            self.name,
            self.crop,
            if self.batch == 1 { "one picture".into() } else { format!("{} pictures", self.batch) },
            self.gpu.name(),
            self.precision,
            self.launches
        );
        let sum = self.sum();
        let compiled = self.rows.iter().filter_map(|r| Some(self.embedded(&r.sum.kernel)?.1)).max();
        let registers = match compiled {
            Some(arch) => format!("registers and spills are ptxas's for sm_{arch}"),
            None => String::new(),
        };
        match predicted {
            true => format!(
                "{of}: predicted, not measured\n{table}\npredicted latency {sum:.1} µs, of which {:.1} µs are launches; a \
                 roofline of counted instructions and bytes, launches one after the other, no copies from or to the host: a GPU \
                 is mostly slower; {registers}\n",
                self.launching()
            ),
            false => format!(
                "{of}: measured, launch by launch between events, the shortest of {ROUNDS} passes\n{table}\nsum {sum:.1} µs, \
                 events included; as one graph, from frame to verdict {:.3} ms (median, measured); {registers}\n",
                self.whole.unwrap_or_default()
            ),
        }
    }
}
