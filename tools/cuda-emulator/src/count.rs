//! Counters of a launch: instructions by class, tensor operations, sectors, wavefronts, barriers, divergence.

/// Sums over warps.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Counters {
    /// Warp instructions issued.
    pub instructions: u64,
}
