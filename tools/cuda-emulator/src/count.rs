//! Counters of a launch: instructions by class, tensor operations, sectors, wavefronts, barriers, divergence.

/// Sums over warps.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Counters {
    /// Warp instructions issued.
    pub instructions: u64,
}

impl Counters {
    /// An instruction was issued to these lanes of a warp (`active` before its guard).
    #[inline(always)]
    pub fn issued(&mut self, class: crate::exec::Class, active: u32, lanes: u32) {
        let _ = (class, active, lanes);
        self.instructions += 1;
    }
    /// A warp-wide access: 32-byte sectors (global, local), wavefronts (shared).
    pub fn access(&mut self, a: &crate::exec::Access, space: crate::ptx::ast::Space, resolved: &[u64; 32]) {
        let _ = (a, space, resolved);
    }
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.instructions += other.instructions;
    }
}
