//! The binned accumulator of the published evaluation: ADEval 1.1.0, its CUDA path, 200 steps.
//!
//! What makes it differ from the exact metrics: thresholds are the 201 edges of equal steps between the smallest and
//! the largest map value; AP is the trapezoid under precision against recall; a pixel at the largest value is counted
//! twice (in the top step and above it); the curves start at the highest threshold, not at (0, 0).

use super::ranks::value;
use super::sweep::Partial;
use super::{FPR_LIMIT, PixelMetrics};

const STEPS: usize = 200;

/// Histogram: below the range (always empty here), the steps, at or above the largest value.
struct Histogram<T>([T; STEPS + 2]);

impl<T: Copy + Default + std::ops::AddAssign> Histogram<T> {
    fn add(&mut self, x: f32, lo: f32, hi: f32, weight: T) {
        // In f32 and in this order, as the published one: the edges decide where ties go.
        let step = ((x - lo) * STEPS as f32 / (hi - lo)) as usize;
        self.0[step.min(STEPS - 1) + 1] += weight;
        if x >= hi {
            self.0[STEPS + 1] += weight;
        }
    }
    /// Sums from the top: what lies at or above each of the 201 edges, highest edge first.
    fn above(&self) -> impl Iterator<Item = T> {
        self.0[1..].iter().rev().scan(T::default(), |sum, x| {
            *sum += *x;
            Some(*sum)
        })
    }
}

/// AUROC, AP and AUPRO (f1max left `None`). `pixels`, `weights`: as for the exact sweep; `lo`, `hi`: range of `maps`.
pub fn accumulate(
    maps: &[f32],
    masks: &[u8],
    pixels: &[u64],
    weights: &[f64],
    lo: f32,
    hi: f32,
) -> PixelMetrics {
    if lo >= hi {
        return PixelMetrics::default();
    }
    let mut good = Histogram([0u64; STEPS + 2]);
    let mut bad = Histogram([0u64; STEPS + 2]);
    let mut overlap = Histogram([0.0f64; STEPS + 2]);
    maps.iter().zip(masks).filter(|(_, m)| **m == 0).for_each(|(x, _)| good.add(*x, lo, hi, 1));
    for p in pixels {
        let x = value((p >> 32) as u32);
        bad.add(x, lo, hi, 1);
        overlap.add(x, lo, hi, weights[*p as u32 as usize]);
    }
    let fp: Vec<f64> = good.above().map(|x| x as f64).collect();
    let tp: Vec<f64> = bad.above().map(|x| x as f64).collect();
    let pro: Vec<f64> = overlap.above().collect();
    let share = |sums: &[f64]| sums.iter().map(|x| x / sums[STEPS]).collect::<Vec<_>>();
    let (fpr, recall, pro) = (share(&fp), share(&tp), share(&pro));
    let precision: Vec<f64> =
        tp.iter().zip(&fp).map(|(t, f)| if t + f > 0.0 { t / (t + f) } else { 1.0 }).collect();
    let mut partial = Partial::from(fpr[0], pro[0]);
    (1..=STEPS).for_each(|i| partial.to(fpr[i], pro[i]));
    PixelMetrics {
        auroc: Some(trapezoid(&fpr, &recall)),
        ap: Some(trapezoid(&recall, &precision)),
        f1max: None,
        aupro: (fpr[0] <= FPR_LIMIT).then_some(partial.area / FPR_LIMIT),
    }
}

fn trapezoid(x: &[f64], y: &[f64]) -> f64 {
    (1..x.len()).map(|i| (x[i] - x[i - 1]) * (y[i] + y[i - 1]) / 2.0).sum()
}
