//! One sweep over the anomalous values, highest first, that yields every exact metric.

use super::FPR_LIMIT;

/// All of one sample set's metrics.
pub struct Metrics {
    pub auroc: f64,
    pub ap: f64,
    pub f1max: f64,
    pub aupro: f64,
}

/// `anomalous`: sorted, key in the upper half, region in the lower; `gaps`: good samples a slot (see `Ranks`);
/// `weights`: what a pixel of a region adds to the overlap, summing to 1 over all. `None` if a label is missing.
pub fn sweep(anomalous: &[u64], gaps: &[u32], weights: &[f64]) -> Option<Metrics> {
    let (p, n) = (anomalous.len() as u64, gaps.iter().map(|g| *g as u64).sum::<u64>());
    if p == 0 || n == 0 {
        return None;
    }
    let (mut tp, mut fp) = (0u64, *gaps.last()? as u64);
    let (mut area2, mut ap, mut f1max, mut overlap) = (0u128, 0.0f64, 0.0f64, 0.0f64);
    let mut pro = Partial::from(0.0, 0.0);
    let (mut end, mut slot) = (anomalous.len(), gaps.len() - 1);
    while end > 0 {
        // Between values no anomalous sample falls: the curves run level to here.
        pro.to(fp as f64 / n as f64, overlap);
        let top = anomalous[end - 1] >> 32;
        let before = tp;
        while end > 0 && anomalous[end - 1] >> 32 == top {
            overlap += weights[anomalous[end - 1] as u32 as usize];
            (end, tp) = (end - 1, tp + 1);
        }
        let (tied, below) = (gaps[slot - 1] as u64, gaps[slot - 2] as u64);
        slot -= 2;
        fp += tied;
        area2 += (tied * (before + tp) + 2 * below * tp) as u128;
        let (precision, recall) = (tp as f64 / (tp + fp) as f64, tp as f64 / p as f64);
        ap += (tp - before) as f64 / p as f64 * precision;
        // With the recall fixed F1 grows with the precision, so thresholds between anomalous values never win.
        f1max = f1max.max(2.0 * precision * recall / (precision + recall + 1e-7));
        pro.to(fp as f64 / n as f64, overlap);
        fp += below;
    }
    pro.to(1.0, overlap);
    Some(Metrics {
        auroc: area2 as f64 / (2 * p as u128 * n as u128) as f64,
        ap,
        f1max,
        aupro: pro.area / FPR_LIMIT,
    })
}

/// Area under a polyline up to `x` = [`FPR_LIMIT`], interpolated there.
pub struct Partial {
    x: f64,
    y: f64,
    pub area: f64,
}

impl Partial {
    /// Starts at a point.
    pub fn from(x: f64, y: f64) -> Self {
        Self { x, y, area: 0.0 }
    }
    /// Draws on to a point, `x` not decreasing.
    pub fn to(&mut self, x: f64, y: f64) {
        if x <= FPR_LIMIT {
            self.area += (x - self.x) * (y + self.y) / 2.0;
        } else if self.x < FPR_LIMIT {
            let cut = self.y + (y - self.y) * (FPR_LIMIT - self.x) / (x - self.x);
            self.area += (FPR_LIMIT - self.x) * (cut + self.y) / 2.0;
        }
        (self.x, self.y) = (x, y);
    }
}
