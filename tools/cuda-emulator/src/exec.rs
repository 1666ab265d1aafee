//! The executor: decoded kernels, warps, blocks, grids.
//!
//! An instruction is decoded once to a closure over register slots. A warp keeps a program counter for each lane; lanes at
//! the deepest call and the lowest counter run together. A block interleaves its warps; blocks spread over threads.

mod access;
pub mod block;
pub mod builtin;
pub mod cta;
pub mod decode;
pub mod launch;
pub mod load;
pub mod ops;
mod pressure;
mod run;
mod sched;
pub mod special;
pub mod warp;

use crate::error::Fault;
pub use cta::{Access, Cta, Kind, Order};
pub use warp::{L32, L64, Mask, Warp};

/// What an instruction does to control.
pub enum Flow {
    /// The next instruction.
    Next,
    /// Lanes of `taken` go to `target`, the others on.
    Branch {
        /// Lanes that jump.
        taken: Mask,
        /// Instruction index.
        target: u32,
    },
    /// Each lane to its own target (`brx.idx`).
    Scatter(Box<[u32; 32]>),
    /// Lanes of the mask call a function; their arguments are in its param memory, one call deeper.
    Call {
        /// Lanes that call.
        taken: Mask,
        /// Function index in the program.
        function: u32,
    },
    /// As [`Flow::Call`], each lane its own function (`u32::MAX` for lanes that do not).
    Calls(Box<[u32; 32]>),
    /// Lanes return to their callers (from a kernel: they exit).
    Return,
    /// Lanes end.
    Exit,
    /// Lanes arrived at a barrier and wait (or, for `arrive`, go on).
    Barrier(Barrier),
    /// Done, and another warp may run now (a failed try_wait, nanosleep).
    Yield,
    /// Could not be done yet: run the same instruction again later.
    Again,
    /// Wants lanes of its warp that are not here: run it again when they have come. It must not be returned when
    /// [`Warp::stuck`] says that they will not.
    Converge,
}

/// A `bar`/`barrier` instruction as met by some lanes.
#[derive(Clone, Debug)]
pub struct Barrier {
    /// Barrier 0–15.
    pub id: u32,
    /// Threads expected; `None` for all of the block.
    pub threads: Option<u32>,
    /// Whether the lanes wait.
    pub wait: bool,
    /// `.aligned`: the whole warp must meet it together.
    pub aligned: bool,
    /// `red`: operation, lanes whose predicate holds, and where the result goes.
    pub reduce: Option<Reduce>,
}

/// Reduction of a `bar.red`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Reduce {
    /// `.popc` into a 32-bit slot.
    Count { lanes: Mask, slot: u32 },
    /// `.and` into a predicate slot.
    And { lanes: Mask, slot: u32 },
    /// `.or` into a predicate slot.
    Or { lanes: Mask, slot: u32 },
}

/// A decoded instruction's work on the lanes of the mask (active, guard held).
pub type Exec = Box<dyn Fn(&mut Warp, &mut Cta, Mask) -> Result<Flow, Fault> + Send + Sync>;

/// What an instruction counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[allow(missing_docs)]
pub enum Class {
    Integer,
    Float,
    Half,
    Double,
    Special,
    Convert,
    Compare,
    Move,
    LoadGlobal,
    StoreGlobal,
    LoadShared,
    StoreShared,
    LoadLocal,
    StoreLocal,
    LoadConst,
    LoadGeneric,
    StoreGeneric,
    Atomic,
    AsyncCopy,
    Matrix,
    MatrixLoad,
    WarpExchange,
    Barrier,
    Fence,
    Branch,
    Other,
}

/// A decoded instruction.
pub struct Inst {
    /// Guard predicate slot and negation.
    pub guard: Option<(u32, bool)>,
    /// Its work.
    pub exec: Exec,
    /// What it counts as.
    pub class: Class,
    /// PTX line.
    pub line: u32,
    /// `.file` number and line of the source.
    pub source: Option<(u32, u32)>,
    /// As spelled.
    pub spelling: Box<str>,
}
