//! A block: its memory and what its instructions may ask of it. See [`super::access`] for the door to memory.

use super::{Mask, Warp};
use crate::exec::launch::Launch;
use crate::ptx::ast::Space;

/// Generic addresses of shared memory begin here: `SHARED + rank << 24 + offset`. No host address is that high.
pub const SHARED: u64 = 0x0100_0000_0000_0000;
/// Generic addresses of local memory.
pub const LOCAL: u64 = 0x0200_0000_0000_0000;
/// Generic addresses of kernel parameters (`cvta.param`).
pub const PARAM: u64 = 0x0300_0000_0000_0000;
/// Addresses of functions: `CODE` + index in the program.
pub const CODE: u64 = 0x0400_0000_0000_0000;

/// What an access does, for checkers and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Read,
    Write,
    /// Read-modify-write by atom or red.
    Atomic,
    /// Source of an asynchronous copy, read between issue and completion.
    AsyncRead,
    /// Destination of an asynchronous copy, written between issue and completion.
    AsyncWrite,
    /// mbarrier operations, which order others.
    Barrier,
}
impl Kind {
    /// Whether it reads and whether it writes.
    pub fn does(self) -> (bool, bool) {
        match self {
            Self::Read | Self::AsyncRead => (true, false),
            Self::Write | Self::AsyncWrite => (false, true),
            Self::Atomic | Self::Barrier => (true, true),
        }
    }
}

/// One warp-wide access.
pub struct Access<'a> {
    /// What is done.
    pub kind: Kind,
    /// Space as written; generic addresses are resolved lane by lane.
    pub space: Space,
    /// Addresses by lane, in the space's own terms.
    pub addresses: &'a [u64; 32],
    /// Bytes each lane touches; the address must be a multiple of it (16 for more).
    pub bytes: u32,
    /// Lanes that take part.
    pub mask: Mask,
    /// What it orders.
    pub order: Order,
}

/// Memory order of an access, at any scope wider than a warp. Source: PTX ISA, "Memory Consistency Model".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A plain access: races with any conflicting one that nothing orders.
    Weak,
    /// `.relaxed`, `.volatile`, `.mmio`: does not race with other strong accesses.
    Relaxed,
    /// `.acquire`.
    Acquire,
    /// `.release`.
    Release,
    /// `.acq_rel`; atom and red without an order are [`Order::Relaxed`].
    AcquireRelease,
}

/// A block in flight.
pub struct Cta<'l> {
    /// Everything the blocks of a launch share.
    pub launch: &'l Launch<'l>,
    /// `%ctaid`.
    pub id: [u32; 3],
    /// Shared memory, static part first.
    pub shared: Vec<u8>,
    /// Asynchronous copies of this block's threads that have not landed yet. Empty when a block begins.
    pub copies: super::ops::copy::InFlight,
    /// Checkers of this block; `None` when none is on.
    pub check: Option<Box<crate::check::Block>>,
    /// Counters of this worker; `None` when not counting.
    pub count: Option<Box<crate::count::Counters>>,
    /// Warp instructions that the block has run, `%clock`.
    pub clock: u64,
    /// What was printed.
    pub printed: String,
    /// Local and param memory of every thread, by depth of call.
    pub(super) frames: Vec<[Vec<u8>; 2]>,
    /// What threads have taken by alloca, where the module has any.
    pub(super) stacks: Vec<super::ops::stack::Stack>,
    /// A generator for adversarial choices; `None` in the plain schedule.
    pub random: Option<Random>,
}

/// xorshift64*: choices of the adversarial schedule.
#[derive(Clone)]
pub struct Random(pub u64);
impl Random {
    /// The next 32 bits.
    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }
}

impl Cta<'_> {
    /// Number of the block in the grid.
    pub fn linear(&self) -> u64 {
        let ([x, y, z], [nx, ny, _]) = (self.id.map(u64::from), self.launch.grid.map(u64::from));
        x + nx * (y + ny * z)
    }
    /// Where an instruction of a warp is.
    pub fn site(&self, w: &Warp, lane: Option<u32>) -> crate::error::Site {
        self.launch.site(w.function, w.pc, self.id, w.id, lane)
    }
    /// Bytes of shared memory that an asynchronous copy of a lane wrote, now that a wait (or an mbarrier's phase) says
    /// that they are there: until then the checkers treat every access to them as a race.
    pub fn landed(&mut self, w: &Warp, lane: u32, address: u64, bytes: u32) {
        if let Some(c) = &mut self.check {
            c.landed(w.id * 32 + lane, address, bytes);
        }
    }
    /// Lanes met at `bar.warp.sync` (or what orders a warp's memory like it).
    pub fn warp_barrier(&mut self, w: &Warp, mask: Mask) {
        if let Some(c) = &mut self.check {
            c.warp_barrier(w.id, mask);
        }
    }
    /// A fence at block scope or wider by these lanes.
    pub fn fence(&mut self, w: &Warp, mask: Mask) {
        if let Some(c) = &mut self.check {
            c.fence(w.id, mask);
        }
    }
    /// A misuse of `.sync` instructions, barriers or mbarriers: reported when synccheck is on.
    pub fn misuse(&mut self, w: &Warp, lane: Option<u32>, what: impl FnOnce() -> String) {
        if let Some(c) = &mut self.check {
            c.misuse(w.id, lane, what);
        }
    }
    /// Lanes arrived at the mbarrier at a shared address: what they did is known to whoever waits for it.
    pub fn mbarrier_arrived(&mut self, w: &Warp, mask: Mask, address: u64) {
        if let Some(c) = &mut self.check {
            c.release(w.id, mask, address);
        }
    }
    /// Lanes saw a phase of the mbarrier at a shared address complete.
    pub fn mbarrier_waited(&mut self, w: &Warp, mask: Mask, address: u64) {
        if let Some(c) = &mut self.check {
            c.acquire(w.id, mask, address);
        }
    }
}
