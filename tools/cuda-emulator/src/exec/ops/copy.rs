//! cp.async and its groups.

/// Copies issued by a warp's lanes and not landed yet.
#[derive(Default)]
pub struct InFlight;
