//! The checkers: memcheck, initcheck, racecheck, synccheck.

use crate::error::Site;
use crate::exec::{Access, Mask};

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

/// The checkers of one block. The executor says what happens, in the order in which it happens.
pub struct Block {
    _todo: (),
}

impl Block {
    /// An instruction begins; what follows is its doing. `index` is its place in the function `function`.
    #[inline(always)]
    pub fn at(&mut self, function: u32, index: u32, warp: u32) {
        let _ = (function, index, warp);
    }
    /// An access that passed hardware's own checks: `resolved[lane]` is the host address of global bytes or the offset in
    /// shared (or local) memory, all in one space (the executor splits generic accesses that are not).
    pub fn access(&mut self, warp: u32, a: &Access, space: crate::ptx::ast::Space, resolved: &[u64; 32]) {
        let _ = (warp, a, space, resolved);
    }
    /// See [`crate::exec::Cta::landed`].
    pub fn landed(&mut self, thread: u32, address: u64, bytes: u32) {
        let _ = (thread, address, bytes);
    }
    /// A block barrier completed: lanes that arrived (waiting or not) and, of these, lanes that waited.
    pub fn barrier(&mut self, arrived: &[(u32, Mask)], waited: &[(u32, Mask)]) {
        let _ = (arrived, waited);
    }
    /// See [`crate::exec::Cta::warp_barrier`].
    pub fn warp_barrier(&mut self, warp: u32, mask: Mask) {
        let _ = (warp, mask);
    }
    /// See [`crate::exec::Cta::fence`].
    pub fn fence(&mut self, warp: u32, mask: Mask) {
        let _ = (warp, mask);
    }
    /// See [`crate::exec::Cta::misuse`].
    pub fn misuse(&mut self, warp: u32, lane: Option<u32>, what: impl FnOnce() -> String) {
        let _ = (warp, lane, what());
    }
    /// What these lanes did is published at a shared address.
    pub fn release(&mut self, warp: u32, mask: Mask, address: u64) {
        let _ = (warp, mask, address);
    }
    /// What was published at a shared address is known to these lanes.
    pub fn acquire(&mut self, warp: u32, mask: Mask, address: u64) {
        let _ = (warp, mask, address);
    }
}
