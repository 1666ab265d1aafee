//! What `profile` found, as a table and as JSON.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use inp_former::runtime::DType;
use inp_former::runtime::cuda::Gpu;
use inp_former::runtime::cuda::image::{self, IMAGES, KernelInfo};
use serde_json::{Value, json};

use super::variants::{self, Tried};
use super::{Counted, Launch, Modelled, ROUNDS, Row};

/// What is printed of a profile.
pub struct Report {
    pub name: String,
    pub crop: usize,
    pub precision: &'static str,
    pub dtype: DType,
    pub gpu: Gpu,
    /// The modelled GPU, or one of the same architecture as the real one.
    pub limits: Option<Modelled>,
    pub batch: usize,
    pub launches: usize,
    pub rows: Vec<Row>,
    /// With `--variants` in their place.
    pub tried: Vec<Tried>,
    /// Median milliseconds from frame to verdict, measured.
    pub whole: Option<f64>,
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

    /// Microseconds that launches of the work of one would take at most rates, launch by launch.
    fn roofline(&self, l: &Launch) -> Option<(f64, &'static str)> {
        self.limits.as_ref().map(|m| m.roofline(self.dtype, &l.work))
    }
    fn time(&self) -> &'static str {
        if self.gpu.is_emulated() { "predicted_us" } else { "measured_us" }
    }

    pub fn row(&self, Row { calls, sum }: &Row) -> Value {
        let (g, info) = (&sum.geometry, self.embedded(&sum.kernel));
        let mut v = json!({
            "kernel": sum.kernel, "calls": calls, "grid": g.grid, "block": g.block,
            "registers": info.map(|k| k.0.registers), "spills": info.map(|k| k.0.spills),
            "compiled_for": info.map(|k| k.1), "static_shared": info.map(|k| k.0.shared),
            "dynamic_shared": g.shared, "occupancy": self.occupancy(sum),
        });
        let more = match &sum.counted {
            Some(Counted { counters: c, bound, busy, .. }) => json!({
                "instructions": c.instructions, "tensor_macs": c.tensor_macs, "flop": c.flop + 2 * c.macs(),
                "global_bytes": c.global_bytes, "unique_read": c.unique_read, "unique_written": c.unique_written,
                "sectors": c.sectors, "wavefronts": c.wavefronts, "bank_conflicts": c.bank_conflicts,
                "bound": bound, "share_of_roofline": busy / sum.us,
            }),
            None => {
                let roof = self.roofline(sum);
                json!({
                    "flop": sum.work.flop, "bytes": sum.work.bytes, "predicted_us": roof.map(|r| r.0),
                    "bound": roof.map(|r| r.1), "share_of_roofline": roof.map(|r| r.0 / sum.us),
                })
            }
        };
        let more = more.as_object().cloned().unwrap_or_default();
        v.as_object_mut().into_iter().for_each(|v| v.extend(more.clone()));
        v[self.time()] = sum.us.into();
        v
    }

    pub fn json(&self) -> Value {
        let (predicted, time) = (self.gpu.is_emulated(), self.time());
        let mut v = json!({
            "model": self.name, "crop": self.crop, "precision": self.precision, "batch": self.batch,
            "device": self.gpu.name(), "arch": self.gpu.arch(), "predicted": predicted,
        });
        if self.tried.is_empty() {
            v["launches"] = self.launches.into();
            v["kernels"] = self.rows.iter().map(|r| self.row(r)).collect();
            v[time] = self.sum().into();
            if predicted {
                v["predicted_launching_us"] = self.launching().into();
            } else {
                v["measured_ms_frame_to_verdict"] = self.whole.into();
            }
        } else {
            v["variants"] = self.tried.iter().map(|t| t.json(self)).collect();
        }
        if predicted {
            v["inputs"] = self.limits.as_ref().map(Modelled::inputs).into();
        }
        v["version"] = env!("CARGO_PKG_VERSION").into();
        v
    }

    /// Heads of what `cells` gives; most are numbers, those in WORDS are not.
    fn heads(&self) -> Vec<&'static str> {
        let first = ["kernel", "calls", "grid", "block", "registers", "spills", "shared KB", "occupancy %"];
        let counters =
            ["Minstr", "tensor GMAC", "GFLOP", "global MB", "Msectors", "Mwavefronts", "conflicts"];
        let roofline = ["predicted µs", "bound by", "% of roofline"];
        match self.gpu.is_emulated() {
            true => first.into_iter().chain(counters).chain(roofline).collect(),
            false => first.into_iter().chain(["GFLOP", "MB", "measured µs"]).chain(roofline).collect(),
        }
    }

    pub fn cells(&self, Row { calls, sum }: &Row) -> Vec<String> {
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
        let scaled = |x: f64, by: f64| format!("{:.3}", x / by);
        match &sum.counted {
            Some(Counted { counters: c, bound, busy, .. }) => row.extend([
                scaled(c.instructions as f64, 1e6),
                scaled(c.macs() as f64, 1e9),
                scaled((c.flop + 2 * c.macs()) as f64, 1e9),
                scaled(c.global_bytes as f64, 1e6),
                scaled(c.sectors as f64, 1e6),
                scaled(c.wavefronts as f64, 1e6),
                c.bank_conflicts.to_string(),
                us,
                bound.clone(),
                format!("{:.0}", 100.0 * busy / sum.us),
            ]),
            None => {
                let roof = self.roofline(sum);
                row.extend([scaled(sum.work.flop, 1e9), scaled(sum.work.bytes, 1e6), us]);
                row.extend(match roof {
                    Some((busy, bound)) => {
                        [format!("{busy:.1}"), bound.into(), format!("{:.0}", 100.0 * busy / sum.us)]
                    }
                    None => ["?"; 3].map(String::from),
                });
            }
        }
        row
    }

    pub fn table(&self) -> String {
        const WORDS: [&str; 4] = ["kernel", "bound by", "shape", "variant"];
        // What a narrow terminal can do without, the least told first.
        const SPARE: [&str; 17] = [
            "Msectors",
            "Mwavefronts",
            "GFLOP",
            "block",
            "tensor GMAC",
            "Minstr",
            "conflicts",
            "shared KB",
            "global MB",
            "MB",
            "registers",
            "spills",
            "occupancy %",
            "grid",
            "calls",
            "% of roofline",
            "variant",
        ];
        let predicted = self.gpu.is_emulated();
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Disabled);
        let mut heads = self.heads();
        if !self.tried.is_empty() {
            heads.splice(0..0, variants::HEADS);
        }
        table.set_header(&heads);
        self.rows.iter().for_each(|r| _ = table.add_row(self.cells(r)));
        self.tried.iter().for_each(|t| _ = table.add_row(t.cells(self)));
        for (column, head) in table.column_iter_mut().zip(heads) {
            if !WORDS.contains(&head) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let spare = super::super::fit(&mut table, None, &SPARE);
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
        let all = self.rows.iter().chain(self.tried.iter().map(|t| &t.row));
        let compiled = all.filter_map(|r| Some(self.embedded(&r.sum.kernel)?.1)).max();
        let registers = match compiled {
            Some(arch) => format!("registers and spills are ptxas's for sm_{arch}"),
            None => String::new(),
        };
        if !self.tried.is_empty() {
            let how = if predicted { "counted and predicted, not measured" } else { "measured" };
            return format!(
                "{of}, every variant, {how}; * is what the cost model chooses (inp-former info --kernels)\n{table}\n{spare}sums of a pass's \
                 calls; predicted: a roofline of these numbers; {registers}\n"
            );
        }
        match predicted {
            true => format!(
                "{of}: predicted, not measured\n{table}\n{spare}predicted latency {sum:.1} µs, of which {:.1} µs are launches; a \
                 roofline of counted instructions and bytes, launches one after the other, no copies from or to the host: a GPU \
                 is mostly slower; {registers}\n",
                self.launching()
            ),
            false => format!(
                "{of}: measured, launch by launch between events, the shortest of {ROUNDS} passes\n{table}\n{spare}sum {sum:.1} µs, \
                 events included; as one graph, from frame to verdict {:.3} ms (median, measured); {registers}\n",
                self.whole.unwrap_or_default()
            ),
        }
    }
}
