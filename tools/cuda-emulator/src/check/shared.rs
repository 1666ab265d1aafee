//! What happened to each two bytes of a block's shared memory.

use super::clock::Clocks;
use super::{Id, Party, strong};
use crate::exec::{Access, Kind};

/// The last write and the last readers (two different threads) of two bytes.
#[derive(Clone, Copy, Default)]
struct Cell {
    write: Record,
    reads: [Record; 2],
}

/// An access remembered; `bytes` 0 for none.
#[derive(Clone, Copy, Default)]
struct Record {
    clock: u32,
    id: Id,
    thread: u16,
    /// Which of the cell's bytes.
    bytes: u8,
    strong: bool,
    /// An asynchronous copy that nobody has waited for.
    flying: bool,
}

/// The shadow of a block's shared memory.
pub struct Shadow {
    cells: Vec<Cell>,
    /// A bit for each byte that was written.
    written: Vec<u8>,
    bytes: u32,
}

impl Shadow {
    /// Nothing has happened yet.
    pub fn new(bytes: u32, races: bool, writes: bool) -> Self {
        let cells = if races { bytes.div_ceil(2) as usize } else { 0 };
        let written = if writes { bytes.div_ceil(8) as usize } else { 0 };
        Self { cells: vec![Cell::default(); cells], written: vec![0; written], bytes }
    }
    /// Whether all the bytes were written.
    pub fn initialised(&self, at: u64, bytes: u32) -> bool {
        self.range(at, bytes).all(|b| self.written[b / 8] >> (b % 8) & 1 == 1)
    }
    /// The bytes are written.
    pub fn initialise(&mut self, at: u64, bytes: u32) {
        for b in self.range(at, bytes) {
            self.written[b / 8] |= 1 << (b % 8);
        }
    }
    fn range(&self, at: u64, bytes: u32) -> std::ops::Range<usize> {
        let end = (at + u64::from(bytes)).min(u64::from(self.bytes));
        at.min(end) as usize..end as usize
    }
    /// Remembers an access; the first earlier one that it races with.
    pub fn race(&mut self, clocks: &Clocks, id: Id, thread: u32, a: &Access, at: u64) -> Option<Party> {
        let range = self.range(at, a.bytes);
        let clock = clocks.own(thread);
        let (reads, writes) = match a.kind {
            Kind::Read | Kind::AsyncRead => (true, false),
            Kind::Write | Kind::AsyncWrite => (false, true),
            Kind::Atomic | Kind::Barrier => (true, true),
        };
        let flying = a.kind == Kind::AsyncWrite;
        let mut me = Record { clock, id, thread: thread as u16, bytes: 0, strong: strong(a), flying };
        let mut found = None;
        for c in range.start / 2..range.end.div_ceil(2) {
            let cell = &mut self.cells[c];
            me.bytes = 3 << range.start.saturating_sub(2 * c).min(1) & 3;
            if range.end < 2 * c + 2 {
                me.bytes &= 1;
            }
            let clash = |r: &Record| {
                r.bytes & me.bytes != 0
                    && !(r.strong && me.strong)
                    && (r.flying || !clocks.knows(thread, u32::from(r.thread), r.clock))
                    // Lanes of one instruction that write the same bytes: one of them wins, nothing is torn.
                    && !(r.id == id && r.thread / 32 == me.thread / 32 && r.clock == clock && writes && !reads)
            };
            if found.is_none() {
                let hit = |r: &Record, how| Party { id: r.id, block: 0, thread: u32::from(r.thread), how };
                if clash(&cell.write) {
                    let how = match (cell.write.flying, writes) {
                        (true, _) => "an asynchronous copy has not been waited for",
                        (_, true) => super::TWO_WRITES,
                        _ => "a read and an earlier write that nothing orders",
                    };
                    found = Some(hit(&cell.write, how));
                } else if writes && let Some(r) = cell.reads.iter().find(|r| clash(r)) {
                    found = Some(hit(r, "a write and an earlier read that nothing orders"));
                }
            }
            if writes {
                cell.write = me;
                if !reads {
                    cell.reads = [Record::default(); 2];
                }
            } else {
                let [first, second] = &mut cell.reads;
                if first.bytes != 0
                    && first.thread != me.thread
                    && !clocks.knows(thread, u32::from(first.thread), first.clock)
                {
                    *second = *first;
                }
                *first = me;
            }
        }
        found
    }
    /// A lane's asynchronous copy was waited for: from here it is a write of that lane.
    pub fn landed(&mut self, clocks: &Clocks, thread: u32, at: u64, bytes: u32) {
        let range = self.range(at, bytes);
        let clock = clocks.own(thread);
        for cell in &mut self.cells[range.start / 2..range.end.div_ceil(2)] {
            if cell.write.flying && u32::from(cell.write.thread) == thread {
                cell.write.flying = false;
                cell.write.clock = clock;
            }
        }
    }
}
