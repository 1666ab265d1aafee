//! The seven metrics of anomaly detection: image AUROC, AP, F1max; pixel AUROC, AP, F1max, AUPRO.
//!
//! Definitions: AUROC, AP and the precision-recall curve as scikit-learn has them, over all distinct thresholds;
//! F1 = 2PR/(P+R+1e-7) over that curve without its last point; AUPRO = area under the mean overlap of the 8-connected
//! ground-truth regions against the false positive rate over all good pixels, up to 0.3 (interpolated), divided by 0.3.
//!
//! Method: every one of these curves turns only where an anomalous sample lies, so the good samples (nearly all of
//! them) are never sorted: each is counted into the gap between, or the tie with, two neighbouring anomalous values
//! (`ranks`), and one sweep over the anomalous values yields all the metrics (`sweep`). Memory is a few bytes a
//! pixel at worst, a few an anomalous pixel as a rule. Counts are integers, so threads change nothing.

mod official;
mod ranks;
pub mod regions;
mod sweep;

use crate::error::{Error, Result};
use crate::runtime::Cpu;
use ranks::{Ranks, key};

/// How pixel AUROC, AP and AUPRO are computed; pixel F1max and the image metrics are exact in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Over all distinct thresholds.
    Exact,
    /// As the published evaluation: 200 equal steps between the class's smallest and largest map value.
    Official,
}

/// Image-level metrics, as fractions. `None` unless both good and anomalous images are there: AUROC is undefined
/// then, and AP and F1max would be 0 or 1 whatever the scores.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct ImageMetrics {
    /// Area under the ROC curve.
    pub auroc: Option<f64>,
    /// Average precision.
    pub ap: Option<f64>,
    /// Largest F1 over the thresholds.
    pub f1max: Option<f64>,
}

/// Pixel-level metrics, as fractions. `None` unless both good and anomalous pixels are there; with [`Mode::Official`]
/// also `auroc`, `ap` and `aupro` where all map values are equal (no range to divide into steps), and `aupro` where
/// more than 30 % of the good pixels lie in the top step.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct PixelMetrics {
    /// Area under the ROC curve.
    pub auroc: Option<f64>,
    /// Average precision.
    pub ap: Option<f64>,
    /// Largest F1 over the thresholds.
    pub f1max: Option<f64>,
    /// Area under the per-region-overlap curve up to a false positive rate of 0.3.
    pub aupro: Option<f64>,
}

/// False positive rate that AUPRO integrates to.
const FPR_LIMIT: f64 = 0.3;

/// Metrics of the image scores `(n)` against `labels` `(n)`, true meaning anomalous.
///
/// Errors: another number of labels; a score that is not finite.
pub fn image_metrics(scores: &[f32], labels: &[bool]) -> Result<ImageMetrics> {
    if scores.len() != labels.len() {
        return Err(shape("labels", format!("({})", scores.len()), format!("({})", labels.len())));
    }
    if let Some(i) = scores.iter().position(|s| !s.is_finite()) {
        return Err(Error::NotFinite(format!(
            "the score of test image {i} is {}: no metric is defined",
            scores[i]
        )));
    }
    let mut anomalous: Vec<u64> =
        scores.iter().zip(labels).filter(|(_, l)| **l).map(|(s, _)| (key(*s) as u64) << 32).collect();
    anomalous.sort_unstable();
    let Some(ranks) = Ranks::new(&anomalous) else { return Ok(ImageMetrics::default()) };
    let mut gaps = ranks.zeros();
    scores.iter().zip(labels).filter(|(_, l)| !**l).for_each(|(s, _)| ranks.count(&mut gaps, *s));
    let Some(m) = sweep::sweep(&anomalous, &gaps, &[0.0]) else { return Ok(ImageMetrics::default()) };
    Ok(ImageMetrics { auroc: Some(m.auroc), ap: Some(m.ap), f1max: Some(m.f1max) })
}

/// Metrics of one class's anomaly maps `(n, side, side)` against its masks `(n, side, side)`, non-zero meaning
/// anomalous; good images have masks of zeros.
///
/// Errors: lengths that do not fit; a map value that is not finite; more than 2^32 - 1 pixels.
pub fn pixel_metrics(
    cpu: &Cpu,
    maps: &[f32],
    masks: &[u8],
    n: usize,
    side: usize,
    mode: Mode,
) -> Result<PixelMetrics> {
    let area = side * side;
    for (tensor, len) in [("maps", maps.len()), ("masks", masks.len())] {
        if len != n * area {
            return Err(shape(tensor, format!("({n}, {side}, {side})"), format!("{len} values")));
        }
    }
    if maps.len() > u32::MAX as usize {
        return Err(Error::usage(format!("{n} maps of {side}x{side} are too many pixels for one class")));
    }
    let mut images = vec![Anomalous::default(); n];
    cpu.for_chunks(&mut images, 1, |i, out| {
        out[0] = Anomalous::of(&maps[i * area..(i + 1) * area], &masks[i * area..(i + 1) * area], side)
    });
    if let Some(i) = images.iter().position(|a| !a.finite) {
        return Err(Error::NotFinite(format!("the anomaly map of test image {i} holds NaN or infinity")));
    }
    let (lo, hi) = images.iter().fold((f32::MAX, f32::MIN), |(lo, hi), a| (lo.min(a.lo), hi.max(a.hi)));
    let (mut pixels, mut weights) = (Vec::<u64>::new(), Vec::<f64>::new());
    for a in images {
        pixels.extend(a.pixels.iter().map(|p| p + weights.len() as u64));
        weights.extend(a.areas.iter().map(|&area| 1.0 / area as f64));
    }
    let regions = weights.len() as f64;
    weights.iter_mut().for_each(|w| *w /= regions);
    // The stable sort finds the sorted runs and merges them; the order is total, so chunks leave no trace.
    let chunk = pixels.len().div_ceil(cpu.threads()).max(1);
    cpu.for_chunks(&mut pixels, chunk, |_, c| c.sort_unstable());
    pixels.sort();

    let Some(ranks) = Ranks::new(&pixels) else { return Ok(PixelMetrics::default()) };
    let mut parts = vec![Vec::new(); cpu.threads().min(1 + maps.len() / ranks.slots()).min(n)];
    let share = n.div_ceil(parts.len()) * area;
    cpu.for_chunks(&mut parts, 1, |i, out| {
        let range = (i * share).min(maps.len())..((i + 1) * share).min(maps.len());
        out[0] = ranks.zeros();
        for (x, m) in maps[range.clone()].iter().zip(&masks[range]) {
            if *m == 0 {
                ranks.count(&mut out[0], *x);
            }
        }
    });
    let mut gaps = parts.swap_remove(0);
    for part in parts {
        gaps.iter_mut().zip(part).for_each(|(g, p)| *g += p);
    }
    let Some(m) = sweep::sweep(&pixels, &gaps, &weights) else { return Ok(PixelMetrics::default()) };
    let exact =
        PixelMetrics { auroc: Some(m.auroc), ap: Some(m.ap), f1max: Some(m.f1max), aupro: Some(m.aupro) };
    Ok(match mode {
        Mode::Exact => exact,
        Mode::Official => PixelMetrics {
            f1max: exact.f1max,
            ..official::accumulate(maps, masks, &pixels, &weights, lo, hi)
        },
    })
}

fn shape(tensor: &'static str, wanted: String, got: String) -> Error {
    Error::Shape { op: "metrics", tensor, wanted, got }
}

/// What one image contributes: its anomalous pixels and the range of its map.
#[derive(Clone, Default)]
struct Anomalous {
    /// Key in the upper half, region (from 0) in the lower.
    pixels: Vec<u64>,
    areas: Vec<u32>,
    lo: f32,
    hi: f32,
    finite: bool,
}

impl Anomalous {
    fn of(map: &[f32], mask: &[u8], side: usize) -> Self {
        let (lo, hi) = map.iter().fold((f32::MAX, f32::MIN), |(lo, hi), x| (lo.min(*x), hi.max(*x)));
        let mut out = Self { lo, hi, finite: map.iter().all(|x| x.is_finite()), ..Self::default() };
        if mask.iter().any(|&m| m != 0) {
            let (labels, areas) = regions::label(mask, side);
            out.areas = areas;
            out.pixels = map
                .iter()
                .zip(labels)
                .filter(|(_, l)| *l > 0)
                .map(|(x, l)| (key(*x) as u64) << 32 | (l - 1) as u64)
                .collect();
        }
        out
    }
}
