//! What the checkers find: as the user reads it, and as it is kept until its names are known.

use super::Id;
use crate::error::Site;
use crate::ptx::ast::Space;
use std::collections::HashMap;

/// Which checker speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
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
impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:?}: {} at {}", self.tool, self.what, self.site)?;
        if let Some(o) = &self.other {
            write!(f, "; the other: {o}")?;
        }
        if self.times > 1 { write!(f, " ({} times)", self.times) } else { Ok(()) }
    }
}

/// Where a thread was, as the checkers remember it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub id: Id,
    pub block: [u32; 3],
    pub thread: u32,
}

/// A finding before its names are known: the first of its kind, and how many there were.
pub(super) struct Found {
    pub what: String,
    pub place: Place,
    /// Lane known (a thread) or the whole warp.
    pub lane: bool,
    pub other: Option<Place>,
    pub times: u64,
}
pub(super) type Key = (Tool, Id, Id, &'static str);
pub(super) type Findings = HashMap<Key, Found>;

/// How two writes collide.
pub(super) const TWO_WRITES: &str = "two writes that nothing orders";

/// A race that is none if memory does not change.
pub(super) struct Doubt {
    pub thread: u32,
    pub space: Space,
    pub address: u64,
    pub host: *const u8,
    pub size: usize,
    pub before: [u8; 32],
    pub party: Party,
}
// SAFETY: the pointer is read by whichever worker runs the block, one at a time.
unsafe impl Send for Doubt {}

/// SAFETY: `size` bytes (32 at most) may be read.
pub(super) unsafe fn bytes(host: *const u8, size: usize) -> [u8; 32] {
    let mut b = [0; 32];
    // SAFETY: the caller's; the destination has 32.
    unsafe { std::ptr::copy_nonoverlapping(host, b.as_mut_ptr(), size) };
    b
}

/// A party to a race, found in a shadow. Opaque outside of the checkers.
pub struct Party {
    pub(super) id: Id,
    pub(super) block: u32,
    pub(super) thread: u32,
    /// How the two collide.
    pub(super) how: &'static str,
}
