//! `profile --variants`: every variant at the shapes of the model's launches.

use inp_former::engine::Scorer;
use inp_former::ops::preprocess::ImageView;
use inp_former::runtime::cuda::{self, Gpu};
use inp_former::{Error, Result};
use serde_json::Value;

use super::{Launch, Report, Row, counted, rows, timed};

/// A variant at a shape.
pub struct Tried {
    stem: &'static str,
    variant: &'static str,
    /// Whether the cost model, or `INP_KERNEL`, chooses it.
    chosen: bool,
    pub row: Row,
}

/// Heads of the columns before those of every profile.
pub const HEADS: [&str; 3] = ["shape", "variant", "*"];

impl Tried {
    pub fn cells(&self, report: &Report) -> Vec<String> {
        let first = [self.row.sum.work.shape.as_str(), self.variant, if self.chosen { "*" } else { "" }];
        first.into_iter().map(String::from).chain(report.cells(&self.row)).collect()
    }
    pub fn json(&self, report: &Report) -> Value {
        let mut v = report.row(&self.row);
        v["stem"] = self.stem.into();
        v["shape"] = self.row.sum.work.shape.clone().into();
        v["variant"] = self.variant.into();
        v["chosen"] = self.chosen.into();
        v
    }
}

/// Passes in which every stem takes its variants in turn. `names`: the variants of each stem.
pub fn tried(
    gpu: &Gpu,
    scorer: &Scorer,
    frames: &[ImageView],
    names: &[(&'static str, Vec<&'static str>)],
) -> Result<Vec<Tried>> {
    let chosen = rows(&pass(gpu, scorer, frames)?);
    let mut all = Vec::new();
    for turn in 0..names.iter().map(|n| n.1.len()).max().unwrap_or(0) {
        let taken: Vec<_> = names.iter().map(|(stem, names)| (*stem, names[turn % names.len()])).collect();
        let words: Vec<_> = taken.iter().map(|(stem, variant)| format!("{stem}={variant}")).collect();
        gpu.ask(Some(words.join(",")));
        let launches = pass(gpu, scorer, frames);
        gpu.ask(None);
        for row in rows(&launches?) {
            let (i, varies) = match row.sum.kernel.split_once("_fwd_") {
                Some(("inp_decode", kernel)) if kernel.starts_with("fc1_") => ("inp_decode_fc1", true),
                Some((stem, kernel)) => (stem, taken.iter().any(|t| t.0 == stem && has(kernel, t.1))),
                None => continue,
            };
            let Some(i) = names.iter().position(|(stem, names)| *stem == i && turn < names.len()) else {
                continue;
            };
            if varies {
                let chosen = chosen.iter().any(|c| c.sum.is_like(&row.sum));
                all.push(Tried { stem: taken[i].0, variant: taken[i].1, chosen, row });
            }
        }
    }
    // Launch by launch, the fastest variant first.
    let stem = |t: &Tried| names.iter().position(|n| n.0 == t.stem);
    let launch = |t: &Tried| (stem(t), t.row.sum.work.shape.clone());
    all.sort_by(|a, b| launch(a).cmp(&launch(b)).then(a.row.sum.us.total_cmp(&b.row.sum.us)));
    Ok(all)
}

/// Whether a kernel's name, which ends in the element type, holds the variant.
fn has(kernel: &str, variant: &str) -> bool {
    kernel.split('_').any(|part| part == variant)
}

/// The launches of a pass with what is known of each.
fn pass(gpu: &Gpu, scorer: &Scorer, frames: &[ImageView]) -> Result<Vec<Launch>> {
    if !gpu.is_emulated() {
        return timed(gpu, scorer, frames);
    }
    let before = counted(&cuda::emulated_report()?)?.len();
    cuda::set_emulated("INP_EMULATED_COUNT", "1")?;
    let seen = gpu.watch(|| scorer.clone().launches(&frames[0], frames.len()));
    cuda::set_emulated("INP_EMULATED_COUNT", "0")?;
    let (_, seen) = seen?;
    let mut launches = counted(&cuda::emulated_report()?)?.split_off(before);
    let same = launches.len() == seen.len() && launches.iter().zip(&seen).all(|(l, w)| l.kernel == w.kernel);
    if !same {
        return Err(Error::Device("the emulator's report holds other launches than the pass had".into()));
    }
    launches.iter_mut().zip(seen).for_each(|(l, w)| l.work = w.work);
    Ok(launches)
}
