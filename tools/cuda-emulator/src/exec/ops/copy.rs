//! cp.async and its groups.

/// Copies issued by a block's threads and not landed yet.
#[derive(Default)]
pub struct InFlight;
