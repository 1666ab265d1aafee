//! The learning rate: linear warm-up from 0, then a cosine down to a tenth (docs/spec.md, section 6).

/// Warm-up of the published runs, in iterations.
pub const WARMUP: u64 = 100;

/// Learning rate at each iteration of a run of `total`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Rate at the peak.
    pub base: f64,
    /// Iterations of the run.
    pub total: u64,
    /// Iterations of the warm-up.
    pub warmup: u64,
}

impl Schedule {
    /// Rate of iteration `i`, 0-based: `linspace(0, base, warmup)[i]`, then a cosine from `base` to `base/10`.
    pub fn lr(&self, i: u64) -> f64 {
        let low = self.base * 0.1;
        if i < self.warmup {
            return if self.warmup == 1 { 0.0 } else { self.base * i as f64 / (self.warmup - 1) as f64 };
        }
        if i >= self.total {
            return low;
        }
        let x = (i - self.warmup) as f64 / (self.total - self.warmup) as f64;
        low + 0.5 * (self.base - low) * (1.0 + (std::f64::consts::PI * x).cos())
    }
}
