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

/// Bytes of a granule: while all of it is accessed at once, one cell stands for it.
const GRANULE: usize = 16;
/// Cells of a granule.
const CELLS: usize = GRANULE / 2;

/// The shadow of a block's shared memory.
#[derive(Default)]
pub struct Shadow {
    /// A cell for each granule that is not split.
    whole: Vec<Cell>,
    split: Vec<bool>,
    /// Cells of two bytes, of granules that are.
    cells: Vec<Cell>,
    /// A bit for each byte that was written.
    written: Vec<u8>,
    bytes: u32,
}

/// An access as all its lanes see it.
pub struct Visit<'a> {
    clocks: &'a Clocks,
    /// What all lanes know.
    know: Option<&'a [u32]>,
    id: Id,
    strong: bool,
    flying: bool,
    reads: bool,
    writes: bool,
    bytes: u32,
}
impl<'a> Visit<'a> {
    /// An access of a warp by an instruction.
    #[inline(always)]
    pub fn new(clocks: &'a Clocks, warp: u32, id: Id, a: &Access) -> Self {
        let (reads, writes) = a.kind.does();
        let (strong, flying, know) = (strong(a), a.kind == Kind::AsyncWrite, clocks.common(warp));
        Self { clocks, know, id, strong, flying, reads, writes, bytes: a.bytes }
    }
    #[inline(always)]
    fn knows(&self, thread: u16, r: &Record) -> bool {
        match self.know {
            Some(know) => thread == r.thread || know[usize::from(r.thread)] >= r.clock,
            None => self.clocks.knows(thread.into(), r.thread.into(), r.clock),
        }
    }
    /// Remembers an access of a lane in a cell, `bytes` of it; the first earlier one that it races with, if that is asked.
    #[inline(always)]
    fn cell(&self, cell: &mut Cell, thread: u32, bytes: u8, ask: bool) -> Option<Party> {
        let Self { id, strong, flying, reads, writes, .. } = *self;
        let me = Record { clock: self.clocks.own(thread), id, thread: thread as u16, bytes, strong, flying };
        let clash = |r: &Record| {
            r.bytes & me.bytes != 0
                && !(r.strong && me.strong)
                && (r.flying || !self.knows(me.thread, r))
                // Lanes of one instruction that write the same bytes: one of them wins, nothing is torn.
                && !(r.id == me.id && r.thread / 32 == me.thread / 32 && r.clock == me.clock && writes && !reads)
        };
        let mut found = None;
        if ask {
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
            if first.bytes != 0 && first.thread != me.thread && !self.knows(me.thread, first) {
                *second = *first;
            }
            *first = me;
        }
        found
    }
}

impl Shadow {
    /// Nothing has happened yet.
    pub fn new(bytes: u32, races: bool, writes: bool) -> Self {
        let granules = if races { (bytes as usize).div_ceil(GRANULE) } else { 0 };
        let written = if writes { bytes.div_ceil(8) as usize } else { 0 };
        Self {
            whole: vec![Cell::default(); granules],
            split: vec![false; granules],
            cells: vec![Cell::default(); granules * CELLS],
            written: vec![0; written],
            bytes,
        }
    }
    /// As new, for another block.
    pub fn reset(&mut self) {
        self.whole.fill(Cell::default());
        self.split.fill(false);
        self.written.fill(0);
    }
    /// What says that bytes were written, if they are whole bytes of it.
    #[inline(always)]
    fn eights(&self, at: u64, bytes: u32) -> Option<std::ops::Range<usize>> {
        let (first, end) = (at as usize / 8, (at + u64::from(bytes)) as usize / 8);
        (at.is_multiple_of(8) && bytes.is_multiple_of(8) && end <= self.written.len()).then_some(first..end)
    }
    /// The bytes of a range, as places in `written` and bits there.
    fn bits(&self, at: u64, bytes: u32) -> impl Iterator<Item = (usize, u8)> + use<> {
        let std::ops::Range { mut start, end } = self.range(at, bytes);
        std::iter::from_fn(move || {
            let (place, first) = (start / 8, start % 8);
            let n = (8 - first).min(end.saturating_sub(start));
            start += n;
            (n > 0).then(|| (place, (0xff >> (8 - n) << first) as u8))
        })
    }
    /// Whether all the bytes were written.
    #[inline(always)]
    pub fn initialised(&self, at: u64, bytes: u32) -> bool {
        if let Some(eights) = self.eights(at, bytes) {
            return self.written[eights].iter().all(|&w| w == 0xff);
        }
        self.bits(at, bytes).all(|(place, bits)| self.written[place] & bits == bits)
    }
    /// The bytes are written.
    #[inline(always)]
    pub fn initialise(&mut self, at: u64, bytes: u32) {
        if let Some(eights) = self.eights(at, bytes) {
            return self.written[eights].fill(0xff);
        }
        self.bits(at, bytes).for_each(|(place, bits)| self.written[place] |= bits);
    }
    fn range(&self, at: u64, bytes: u32) -> std::ops::Range<usize> {
        let end = (at + u64::from(bytes)).min(u64::from(self.bytes));
        at.min(end) as usize..end as usize
    }
    /// From now on a granule's cells differ.
    fn split(&mut self, granule: usize) -> &mut [Cell] {
        let cells = &mut self.cells[granule * CELLS..][..CELLS];
        if !self.split[granule] {
            self.split[granule] = true;
            cells.fill(self.whole[granule]);
        }
        cells
    }
    /// Remembers a lane's part of an access; the first earlier one that it races with.
    #[inline(always)]
    pub fn race(&mut self, visit: &Visit, thread: u32, at: u64) -> Option<Party> {
        let granule = at as usize / GRANULE;
        let aligned = visit.bytes as usize == GRANULE && (at as usize).is_multiple_of(GRANULE);
        if aligned && self.split.get(granule) == Some(&false) {
            return visit.cell(&mut self.whole[granule], thread, 3, true);
        }
        self.parts(visit, thread, self.range(at, visit.bytes))
    }
    /// An access that is not one of a whole granule, or of one that is split.
    #[inline(never)]
    fn parts(&mut self, visit: &Visit, thread: u32, range: std::ops::Range<usize>) -> Option<Party> {
        let (reads, writes) = (visit.reads, visit.writes);
        let mut found = None;
        for granule in range.start / GRANULE..range.end.div_ceil(GRANULE) {
            let first = granule * GRANULE;
            let part = range.start.max(first) - first..range.end.min(first + GRANULE) - first;
            if part.len() == GRANULE && !self.split[granule] {
                let hit = visit.cell(&mut self.whole[granule], thread, 3, found.is_none());
                found = found.or(hit);
                continue;
            }
            for (c, cell) in self.split(granule).iter_mut().enumerate() {
                let low = u8::from(part.contains(&(2 * c)));
                let high = u8::from(part.contains(&(2 * c + 1)));
                if low | high != 0 {
                    let hit = visit.cell(cell, thread, low | high << 1, found.is_none());
                    found = found.or(hit);
                }
            }
            if part.len() == GRANULE && writes && !reads {
                self.split[granule] = false;
                self.whole[granule] = self.cells[granule * CELLS];
            }
        }
        found
    }
    /// A lane's asynchronous copy was waited for: from here it is a write of that lane.
    pub fn landed(&mut self, clocks: &Clocks, thread: u32, at: u64, bytes: u32) {
        let clock = clocks.own(thread);
        let granule = at as usize / GRANULE;
        let aligned = bytes as usize == GRANULE && (at as usize).is_multiple_of(GRANULE);
        if aligned && self.split.get(granule) == Some(&false) {
            let write = &mut self.whole[granule].write;
            if write.flying && u32::from(write.thread) == thread {
                (write.flying, write.clock) = (false, clock);
            }
            return;
        }
        let range = self.range(at, bytes);
        for granule in range.start / GRANULE..range.end.div_ceil(GRANULE) {
            let first = granule * GRANULE;
            let part = range.start.max(first) - first..range.end.min(first + GRANULE) - first;
            let cells = if part.len() == GRANULE && !self.split[granule] {
                std::slice::from_mut(&mut self.whole[granule])
            } else {
                &mut self.split(granule)[part.start / 2..part.end.div_ceil(2)]
            };
            for cell in cells.iter_mut().filter(|c| c.write.flying && u32::from(c.write.thread) == thread) {
                cell.write.flying = false;
                cell.write.clock = clock;
            }
        }
    }
}
