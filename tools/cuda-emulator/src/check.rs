//! The checkers: memcheck, initcheck, racecheck, synccheck.

use crate::error::Site;

/// Which checker speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[allow(missing_docs)]
pub enum Tool {
    Memcheck,
    Initcheck,
    Racecheck,
    Synccheck,
}

/// Something a checker found. The launch goes on where hardware would.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Finding {
    /// Who found it.
    pub tool: Tool,
    /// One sentence.
    pub what: String,
    /// Where.
    pub site: Site,
    /// The other party of a race.
    pub other: Option<Site>,
    /// How often at this instruction (equal findings are counted, not repeated).
    pub times: u64,
}
