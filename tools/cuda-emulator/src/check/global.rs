//! What happened to the device's memory: which bytes were written (ever), and who touched each word in this launch.
//!
//! Both shadows are ranges of addresses parallel to the device's own, of which only what is touched costs memory.

use super::clock::Clocks;
use super::{Id, Party, strong};
use crate::error::Code;
use crate::exec::Access;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Words of four bytes; a cell for each: last write, two last readers, and their instructions with the launch's number.
const WORDS: usize = 4;
/// Words of a granule: while all of it is accessed at once, its first cell stands for all.
const GRANULE: u64 = 4;
/// In a granule's first write: that cell stands for all.
const WHOLE: u64 = 1;

/// Words of a page of cells, which one worker at a time visits.
const PAGE: u64 = 256;
/// Locks of the pages, shared by page number.
const LOCKS: usize = 64;

/// The shadows of one device.
pub struct Shadow {
    base: u64,
    bytes: u64,
    written: Region,
    cells: Region,
    locks: [Lock; LOCKS],
    launches: AtomicU16,
}

/// A lock in a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Lock(Mutex<()>);

/// The page of cells that a worker holds: lanes mostly follow one another into the same.
#[derive(Default)]
pub struct Held<'a>(Option<(u64, MutexGuard<'a, ()>)>);

/// Zeroed memory that is there when touched.
struct Region(*mut u8, usize);
// SAFETY: plain memory, reached through atomics only.
unsafe impl Send for Region {}
unsafe impl Sync for Region {}
impl Region {
    fn new(bytes: usize) -> Result<Self, Code> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping; nothing else is touched.
        let p = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if p == libc::MAP_FAILED { Err(Code::OutOfMemory) } else { Ok(Self(p.cast(), bytes)) }
    }
    /// All zero again.
    fn clear(&self) {
        self.drop_pages(0, self.1);
    }
    /// Whole pages are zero again and cost nothing.
    fn drop_pages(&self, from: usize, bytes: usize) {
        let bytes = bytes.min(self.1.saturating_sub(from));
        // SAFETY: of what `new` mapped; these pages are zero from here on, which atomics may meet at any time.
        unsafe { libc::madvise(self.0.add(from.min(self.1)).cast(), bytes, libc::MADV_DONTNEED) };
    }
}
impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped.
        unsafe { libc::munmap(self.0.cast(), self.1) };
    }
}

/// Who accesses.
#[derive(Clone, Copy)]
pub struct Me {
    /// The launch's number.
    pub launch: u16,
    /// The block, linear.
    pub block: u32,
    /// The instruction.
    pub id: Id,
}

impl Shadow {
    /// Shadows of the device addresses `base..base + bytes`.
    pub fn new(base: u64, bytes: u64) -> Result<Self, Code> {
        Ok(Self {
            base,
            bytes,
            written: Region::new(bytes.div_ceil(8) as usize)?,
            cells: Region::new(bytes as usize / 4 * 8 * WORDS)?,
            locks: std::array::from_fn(|_| Lock::default()),
            launches: AtomicU16::new(0),
        })
    }
    /// Whether an address is the device's.
    #[inline(always)]
    pub fn covers(&self, at: u64) -> bool {
        at.wrapping_sub(self.base) < self.bytes
    }
    /// A number for a launch; 0 is never given. When numbers begin anew, what earlier launches left is forgotten.
    pub fn next_launch(&self) -> u16 {
        loop {
            let n = self.launches.fetch_add(1, Relaxed).wrapping_add(1);
            if n != 0 {
                return n;
            }
            self.cells.clear();
        }
    }
    fn hold<'a>(&'a self, held: &mut Held<'a>, word: u64) {
        let page = word / PAGE;
        if held.0.as_ref().is_none_or(|h| h.0 != page) {
            held.0 = None; // before the next: two workers must not wait for each other
            let lock = &self.locks[page as usize % LOCKS].0;
            held.0 = Some((page, lock.lock().unwrap_or_else(PoisonError::into_inner)));
        }
    }
    fn bits(&self, byte: u64) -> &AtomicU8 {
        let at = (byte / 8).min(self.written.1 as u64 - 1);
        // SAFETY: within the region; bytes are reached as atomics only.
        unsafe { &*self.written.0.add(at as usize).cast::<AtomicU8>() }
    }
    fn each(&self, at: u64, bytes: u64, mut f: impl FnMut(&AtomicU8, u8)) {
        let (mut b, end) = (at - self.base, (at - self.base + bytes).min(self.bytes));
        while b < end {
            let n = (8 - b % 8).min(end - b);
            f(self.bits(b), ((0xffu16 >> (8 - n)) << (b % 8)) as u8);
            b += n;
        }
    }
    /// Whether all the bytes were written since they were allocated.
    #[inline(always)]
    pub fn initialised(&self, at: u64, bytes: u32) -> bool {
        let (first, mut all) = (at - self.base, true);
        if first.is_multiple_of(8) && bytes.is_multiple_of(8) {
            let ends = (first..(first + u64::from(bytes)).min(self.bytes)).step_by(8);
            return ends.fold(true, |all, b| all & (self.bits(b).load(Relaxed) == 0xff));
        }
        self.each(at, u64::from(bytes), |b, m| all &= b.load(Relaxed) & m == m);
        all
    }
    /// The bytes are written, by a kernel or by the host.
    pub fn initialise(&self, at: u64, bytes: u64) {
        self.each(at, bytes, |b, m| {
            if b.load(Relaxed) & m != m {
                b.fetch_or(m, Relaxed);
            }
        });
    }
    /// The bytes at `to` are now as initialised as those of another device (or this one) at `from`.
    pub fn copy(&self, source: &Self, to: u64, from: u64, bytes: u64) {
        for at in (0..bytes).step_by(4096) {
            let n = (bytes - at).min(4096);
            if source.initialised(from + at, n as u32) {
                self.initialise(to + at, n);
                continue;
            }
            for i in at..at + n {
                if source.initialised(from + i, 1) {
                    self.initialise(to + i, 1)
                } else {
                    self.forget(to + i, 1)
                }
            }
        }
    }
    /// These pages were freed, and their addresses are not soon given again: who touched them costs memory no more.
    pub fn freed(&self, at: u64, bytes: u64) {
        let cells = |bytes: u64| bytes as usize / 4 * 8 * WORDS;
        if let Some(from) = at.checked_sub(self.base) {
            self.cells.drop_pages(cells(from), cells(bytes));
        }
    }
    /// The bytes were just allocated: nobody has written them.
    pub fn forget(&self, at: u64, bytes: u64) {
        self.each(at, bytes, |b, m| _ = b.fetch_and(!m, Relaxed));
    }
    fn cell(&self, word: u64) -> [&AtomicU64; WORDS] {
        let last = self.cells.1 / (8 * WORDS) - 1;
        // SAFETY: within the region and aligned to 8; words are reached as atomics only.
        let p = unsafe { self.cells.0.cast::<AtomicU64>().add((word as usize).min(last) * WORDS) };
        // SAFETY: as above, four words of one cell.
        std::array::from_fn(|i| unsafe { &*p.add(i) })
    }
    /// Whether a granule's first cell stands for all, or may from now on: nobody has touched it in this launch.
    fn whole(&self, launch: u16, first: u64) -> bool {
        let fresh = |c: &[&AtomicU64; WORDS]| (c[3].load(Relaxed) >> 48) as u16 != launch;
        let cell = self.cell(first);
        if !fresh(&cell) {
            return cell[0].load(Relaxed) & WHOLE != 0;
        }
        (1..GRANULE).all(|i| fresh(&self.cell(first + i)))
    }
    /// From now on a granule's cells differ.
    fn split(&self, launch: u16, first: u64) {
        let from = self.cell(first);
        if (from[3].load(Relaxed) >> 48) as u16 != launch {
            return; // nobody has touched any
        }
        from[0].fetch_and(!WHOLE, Relaxed);
        for i in 1..GRANULE {
            self.cell(first + i).iter().zip(from).for_each(|(to, x)| to.store(x.load(Relaxed), Relaxed));
        }
    }
    /// Asks the CPU for what [`Self::race`] will look at.
    #[inline(always)]
    pub fn prefetch(&self, at: u64) {
        let cell = self.cell((at - self.base) / 4 / GRANULE * GRANULE);
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint; the cell is there.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(cell[0]).cast()) };
        }
        let _ = cell;
    }
    /// Remembers a lane's part of an access; the first earlier one of this launch that it races with.
    pub fn race<'a>(&'a self, held: &mut Held<'a>, visit: &Visit, thread: u32, at: u64) -> Option<Party> {
        let Visit { me: Me { launch, block, .. }, bytes, strong, reads, writes, .. } = *visit;
        let (begin, end) = (at - self.base, (at - self.base + u64::from(bytes)).min(self.bytes));
        let mine = Record { block, thread, clock: visit.clocks.own(thread), bytes: 0xf, strong };
        let mut found = None;
        let mut word = begin / 4;
        while word < end.div_ceil(4) {
            let first = word / GRANULE * GRANULE;
            self.hold(held, first);
            let all = begin <= first * 4 && (first + GRANULE) * 4 <= end;
            let whole = self.whole(launch, first);
            if all && whole {
                let hit = visit.cell(self.cell(first), mine, WHOLE, found.is_none());
                found = found.or(hit);
                word = first + GRANULE;
                continue;
            }
            if whole {
                self.split(launch, first);
            }
            let last = (first + GRANULE).min(end.div_ceil(4));
            for word in word..last {
                let from = begin.saturating_sub(word * 4).min(3);
                let to = (end - word * 4).min(4);
                let bytes = (0xf << from & ((1 << to) - 1)) as u8;
                let hit = visit.cell(self.cell(word), Record { bytes, ..mine }, 0, found.is_none());
                found = found.or(hit);
            }
            if all && writes && !reads {
                self.cell(first)[0].fetch_or(WHOLE, Relaxed);
            }
            word = last;
        }
        found
    }
}

/// An access as all its lanes see it.
pub struct Visit<'a> {
    clocks: &'a Clocks,
    /// What all lanes know of their own block.
    know: Option<&'a [u32]>,
    me: Me,
    bytes: u32,
    strong: bool,
    reads: bool,
    writes: bool,
}
impl<'a> Visit<'a> {
    /// An access of a warp.
    pub fn new(clocks: &'a Clocks, warp: u32, me: Me, a: &Access) -> Self {
        let (reads, writes) = a.kind.does();
        Self { clocks, know: clocks.common(warp), me, bytes: a.bytes, strong: strong(a), reads, writes }
    }
    #[inline(always)]
    fn knows(&self, thread: u32, r: &Record) -> bool {
        if r.block != self.me.block & Record::BLOCK {
            return self.clocks.knows_foreign(thread, r.block, r.thread, r.clock);
        }
        // A clock too large to be kept counts as known: no false alarm.
        r.clock >= Record::CLOCK
            || match self.know {
                Some(know) => thread == r.thread || know[r.thread as usize] >= r.clock,
                None => self.clocks.knows(thread, r.thread, r.clock),
            }
    }
    /// Remembers a lane's access in a cell; the first earlier one that it races with, if that is asked. `whole` is what the
    /// cell's write is marked with.
    #[inline(always)]
    fn cell(&self, cell: [&AtomicU64; WORDS], mine: Record, whole: u64, ask: bool) -> Option<Party> {
        let Self { me, reads, writes, .. } = *self;
        let [w, r1, r2, info] = cell;
        let old = info.load(Relaxed);
        let fresh = (old >> 48) as u16 != me.launch;
        let load = |x: &AtomicU64| if fresh { Record::default() } else { Record::unpack(x.load(Relaxed)) };
        let (mut by_write, mut by_read) = ((old >> 24 & 0xff_ffff) as Id, (old & 0xff_ffff) as Id);
        let written = load(w);
        let read = [load(r1), load(r2)];
        let clash = |r: &Record| {
            r.bytes & mine.bytes != 0
                && !(r.strong && mine.strong)
                && !self.knows(mine.thread, r)
                && !(by_write == me.id && writes && !reads && r.same_warp(&mine) && r.clock == mine.clock)
        };
        let mut found = None;
        if ask {
            if clash(&written) {
                let how = if writes {
                    super::TWO_WRITES
                } else {
                    "a read and an earlier write that nothing orders"
                };
                found = Some(Party { id: by_write, block: written.block, thread: written.thread, how });
            } else if writes && let Some(r) = read.iter().find(|r| clash(r)) {
                let how = "a write and an earlier read that nothing orders";
                found = Some(Party { id: by_read, block: r.block, thread: r.thread, how });
            }
        }
        if writes {
            w.store(mine.pack() | whole, Relaxed);
            by_write = me.id;
            if fresh || !reads {
                r1.store(0, Relaxed);
                r2.store(0, Relaxed);
            }
        } else {
            if fresh {
                w.store(whole, Relaxed);
                r2.store(0, Relaxed);
            } else if read[0].bytes != 0 && !self.knows(mine.thread, &read[0]) {
                r2.store(read[0].pack(), Relaxed);
            }
            r1.store(mine.pack(), Relaxed);
            by_read = me.id;
        }
        let ids = u64::from(by_write & 0xff_ffff) << 24 | u64::from(by_read & 0xff_ffff);
        info.store(u64::from(me.launch) << 48 | ids, Relaxed);
        found
    }
}

/// An access remembered in 64 bits: clock 24, block 24, thread 10, bytes 4, strong 1, and one for [`WHOLE`].
#[derive(Clone, Copy, Default)]
struct Record {
    block: u32,
    thread: u32,
    clock: u32,
    bytes: u8,
    strong: bool,
}
impl Record {
    const BLOCK: u32 = 0xff_ffff;
    const CLOCK: u32 = 0xff_ffff;
    fn pack(self) -> u64 {
        u64::from(self.clock.min(Self::CLOCK)) << 40
            | u64::from(self.block & Self::BLOCK) << 16
            | u64::from(self.thread & 0x3ff) << 6
            | u64::from(self.bytes) << 2
            | u64::from(self.strong) << 1
    }
    fn unpack(x: u64) -> Self {
        Self {
            clock: (x >> 40) as u32,
            block: (x >> 16) as u32 & Self::BLOCK,
            thread: (x >> 6) as u32 & 0x3ff,
            bytes: (x >> 2) as u8 & 0xf,
            strong: x >> 1 & 1 == 1,
        }
    }
    fn same_warp(&self, other: &Self) -> bool {
        self.block == other.block & Self::BLOCK && self.thread / 32 == other.thread / 32
    }
}
