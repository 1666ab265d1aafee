//! The checkers: memcheck, initcheck, racecheck, synccheck.
//!
//! Races are found by vector clocks, not by luck: two accesses conflict when nothing the program said orders them, in
//! whatever order they happened to run. Threads of a block carry full vectors (shared until they differ), so barriers of
//! any subset, `bar.warp.sync`, mbarriers, fences with flags, and acquire/release all order exactly what they promise.
//! Across blocks only fences with strong accesses and acquire/release do.

pub mod clock;
pub mod finding;
pub mod global;
mod order;
pub mod shared;

use crate::error::Site;
use crate::exec::launch::Program;
use crate::exec::{Access, Kind, Mask, Order};
use crate::memory::Memory;
use crate::options::Options;
use crate::ptx::ast::Space;
use clock::{Clocks, Published};
use finding::{Doubt, Findings, Found, Key, Place, TWO_WRITES, bytes};
pub use finding::{Finding, Party, Tool};
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// An instruction of the program: its number over all functions.
pub type Id = u32;

/// What the blocks of a launch share.
pub struct Launch {
    options: Options,
    /// First [`Id`] of each function.
    bases: Vec<Id>,
    grid: [u32; 3],
    threads: u32,
    shared_bytes: u32,
    local_bytes: u64,
    /// Number of this launch in the device's shadow of races.
    number: u16,
    /// What blocks published at global addresses, by address and block.
    published: Mutex<HashMap<u64, HashMap<u32, Arc<Vec<u32>>>>>,
    /// Whether a block is between publishing at a global address and having read or written there: others wait, so that
    /// what a thread learns is what those published whose values it read.
    ordering: AtomicBool,
    findings: Mutex<Findings>,
    /// Shadows of blocks that have ended, for others.
    shadows: Mutex<Vec<shared::Shadow>>,
}

impl Launch {
    /// The checkers of a launch, if any is on. `shared_bytes` and `local_bytes` are what a block and a thread have.
    pub fn new(
        options: &Options,
        memory: &Memory,
        program: &Program,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        local_bytes: u64,
    ) -> Option<Arc<Self>> {
        if !options.checks() {
            return None;
        }
        let mut bases = vec![];
        let mut next = 0;
        for f in &program.functions {
            bases.push(next);
            next += f.body.len() as u32;
        }
        Some(Arc::new(Self {
            options: options.clone(),
            bases,
            grid,
            threads,
            shared_bytes,
            local_bytes,
            number: memory.shadow().map_or(0, global::Shadow::next_launch),
            published: Mutex::default(),
            ordering: AtomicBool::new(false),
            findings: Mutex::default(),
            shadows: Mutex::default(),
        }))
    }
    /// The checkers of one block.
    pub fn block(self: &Arc<Self>, id: [u32; 3]) -> Box<Block> {
        let o = &self.options;
        let spare = lock(&self.shadows).pop();
        let shared = match spare {
            Some(mut s) => {
                s.reset();
                s
            }
            None => shared::Shadow::new(self.shared_bytes, o.racecheck, o.initcheck),
        };
        let local = if o.initcheck { (self.local_bytes * u64::from(self.threads)) as usize } else { 0 };
        Box::new(Block {
            linear: id[0] + self.grid[0] * (id[1] + self.grid[1] * id[2]),
            id,
            now: 0,
            clocks: Clocks::new(self.threads),
            shared,
            local: vec![0; local.div_ceil(8)],
            objects: HashMap::new(),
            known: [(1, 0); 4],
            findings: Findings::new(),
            doubts: vec![],
            ordering: false,
            launch: self.clone(),
        })
    }
    /// What all blocks found, in the order of the program.
    pub fn finish(&self, program: &Program, kernel: &str) -> Vec<Finding> {
        let mut found: Vec<_> = std::mem::take(&mut *lock(&self.findings)).into_iter().collect();
        found.sort_by_key(|&((tool, id, other, what), _)| (id, tool, other, what));
        let site = |p: Place, lane: bool| {
            let f = self.bases.partition_point(|&b| b <= p.id).saturating_sub(1);
            let inst = program.functions.get(f).and_then(|c| c.body.get((p.id - self.bases[f]) as usize));
            Site {
                kernel: kernel.into(),
                line: inst.map_or(0, |i| i.line),
                source: inst
                    .and_then(|i| i.source)
                    .and_then(|(file, line)| program.files.get(&file).map(|name| (name.clone(), line))),
                instruction: inst.map_or(String::new(), |i| i.spelling.to_string()),
                block: p.block,
                warp: p.thread / 32,
                lane: lane.then_some(p.thread % 32),
            }
        };
        let finding = |((tool, ..), f): (Key, Found)| Finding {
            tool,
            what: f.what,
            site: site(f.place, f.lane),
            other: f.other.map(|o| site(o, true)),
            times: f.times,
        };
        found.into_iter().map(finding).collect()
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The checkers of one block. The executor says what happens, in the order in which it happens.
pub struct Block {
    launch: Arc<Launch>,
    id: [u32; 3],
    linear: u32,
    now: Id,
    clocks: Clocks,
    shared: shared::Shadow,
    /// Written bytes of local memory, a bit each, thread after thread.
    local: Vec<u8>,
    /// What was published at shared addresses.
    objects: HashMap<u64, Published>,
    /// Allocations met last: first byte and end.
    known: [(u64, u64); 4],
    findings: Findings,
    doubts: Vec<Doubt>,
    /// Whether the instruction holds [`Launch::ordering`].
    ordering: bool,
}

impl Drop for Block {
    fn drop(&mut self) {
        self.order_done();
        lock(&self.launch.shadows).push(std::mem::take(&mut self.shared));
        let mut all = lock(&self.launch.findings);
        for (key, f) in self.findings.drain() {
            match all.entry(key) {
                std::collections::hash_map::Entry::Vacant(e) => _ = e.insert(f),
                // The first block's place stands, whichever worker came first.
                std::collections::hash_map::Entry::Occupied(mut e) => {
                    let times = e.get().times + f.times;
                    let order = |p: Place| (p.block[2], p.block[1], p.block[0], p.thread);
                    if order(f.place) < order(e.get().place) {
                        e.insert(f);
                    }
                    e.get_mut().times = times;
                }
            }
        }
    }
}

impl Block {
    /// An instruction begins; what follows is its doing. `index` is its place in the function `function`.
    #[inline(always)]
    pub fn at(&mut self, function: u32, index: u32, _warp: u32) {
        self.now = self.launch.bases[function as usize] + index;
    }
    /// The instruction is done.
    #[inline(always)]
    pub fn done(&mut self) {
        if !self.doubts.is_empty() {
            self.settle();
        }
        if self.ordering {
            self.order_done();
        }
    }

    fn report(
        &mut self,
        tool: Tool,
        kind: &'static str,
        thread: u32,
        lane: bool,
        other: Option<Place>,
        what: String,
    ) {
        let place = Place { id: self.now, block: self.id, thread };
        let key = (tool, self.now, other.map_or(Id::MAX, |o| o.id), kind);
        let new = || Found { what, place, lane, other, times: 0 };
        self.findings.entry(key).or_insert_with(new).times += 1;
    }

    /// Writes over writes that nothing orders are harmless when both wrote the same (threads that hold copies of a value
    /// store it more than once): now that the instruction is done, memory tells.
    fn settle(&mut self) {
        for d in std::mem::take(&mut self.doubts) {
            // SAFETY: the bytes passed the checks of the instruction's access; neither the block's shared memory nor an
            // allocation in use goes away in between.
            let now = unsafe { bytes(d.host, d.size) };
            if now != d.before {
                self.race(d.thread, d.space, d.address, d.party);
            }
        }
    }
    /// A race, or the doubt of one.
    fn suspect(
        &mut self,
        thread: u32,
        space: Space,
        a: &Access,
        address: u64,
        host: *const u8,
        party: Party,
    ) {
        if a.kind != Kind::Write || party.how != TWO_WRITES {
            return self.race(thread, space, address, party);
        }
        let size = a.bytes.min(32) as usize;
        // SAFETY: the access passed hardware's checks.
        let before = unsafe { bytes(host, size) };
        self.doubts.push(Doubt { thread, space, address, host, size, before, party });
    }

    fn race(&mut self, thread: u32, space: Space, address: u64, p: Party) {
        let [x, y, _] = self.launch.grid;
        let block = [p.block % x, p.block / x % y, p.block / x / y];
        let other = Place { id: p.id, block, thread: p.thread };
        let what = format!("{} at {space:?} address {address:#x}", p.how);
        self.report(Tool::Racecheck, p.how, thread, true, Some(other), what);
    }

    /// An access that passed hardware's own checks: `resolved[lane]` is the host address of global bytes or the offset in
    /// shared (or local) memory, all in one space (the executor splits generic accesses that are not).
    pub fn access(
        &mut self,
        memory: &Memory,
        shared: &[u8],
        warp: u32,
        a: &Access,
        space: Space,
        resolved: &[u64; 32],
    ) {
        match space {
            Space::Shared => self.shared_access(shared, warp, a, resolved),
            Space::Local => self.local_access(warp, a, resolved),
            Space::Global | Space::Const | Space::Generic => self.global_access(memory, warp, a, resolved),
            Space::Param => {}
        }
    }

    fn shared_access(&mut self, shared: &[u8], warp: u32, a: &Access, resolved: &[u64; 32]) {
        let (mut raced, mut hits) = (0, vec![]);
        for now in self.launch.options.racecheck.then(|| turns(a)).into_iter().flatten() {
            if strong(a) {
                let lane = now.trailing_zeros();
                self.ordered_access(warp * 32 + lane, a, resolved[lane as usize], true);
            }
            if a.kind == Kind::Barrier {
                continue;
            }
            let visit = shared::Visit::new(&self.clocks, warp, self.now, a);
            for lane in lanes(now) {
                if let Some(p) = self.shared.race(&visit, warp * 32 + lane, resolved[lane as usize]) {
                    hits.push((lane, Party { block: self.linear, ..p }));
                }
            }
            for (lane, p) in hits.drain(..) {
                raced |= 1 << lane;
                let at = resolved[lane as usize];
                let host = shared.as_ptr().wrapping_add(at as usize);
                self.suspect(warp * 32 + lane, Space::Shared, a, at, host, p);
            }
        }
        if self.launch.options.initcheck {
            let reads = matches!(a.kind, Kind::Read | Kind::Atomic);
            let writes = !matches!(a.kind, Kind::Read | Kind::AsyncRead | Kind::AsyncWrite);
            for lane in lanes(a.mask) {
                let at = resolved[lane as usize];
                if reads && raced >> lane & 1 == 0 && !self.shared.initialised(at, a.bytes) {
                    let what = format!("{} bytes at shared address {at:#x} were never written", a.bytes);
                    self.report(Tool::Initcheck, "shared", warp * 32 + lane, true, None, what);
                }
                if writes {
                    self.shared.initialise(at, a.bytes);
                }
            }
        }
    }

    fn local_access(&mut self, warp: u32, a: &Access, resolved: &[u64; 32]) {
        if !self.launch.options.initcheck {
            return;
        }
        for lane in lanes(a.mask) {
            let (thread, at) = (warp * 32 + lane, resolved[lane as usize]);
            // Frames further down and what alloca took are not watched.
            if at + u64::from(a.bytes) > self.launch.local_bytes {
                continue;
            }
            let first = u64::from(thread) * self.launch.local_bytes + at;
            let end = self.local.len() as u64 * 8;
            let bits = first.min(end)..(first + u64::from(a.bytes)).min(end);
            if a.kind == Kind::Read {
                if bits.clone().any(|b| self.local[(b / 8) as usize] >> (b % 8) & 1 == 0) {
                    let what = format!("{} bytes at local address {at:#x} were never written", a.bytes);
                    self.report(Tool::Initcheck, "local", thread, true, None, what);
                }
            } else {
                for b in bits {
                    self.local[(b / 8) as usize] |= 1 << (b % 8);
                }
            }
        }
    }

    fn global_access(&mut self, memory: &Memory, warp: u32, a: &Access, resolved: &[u64; 32]) {
        let o = (self.launch.options.memcheck, self.launch.options.initcheck, self.launch.options.racecheck);
        let shadow = memory.shadow();
        let mut watched: Mask = 0;
        for lane in lanes(a.mask) {
            let (thread, at) = (warp * 32 + lane, resolved[lane as usize]);
            if o.0 && !self.allocated(memory, at, a.bytes) {
                let (bytes, verb) = (a.bytes, if a.kind == Kind::Read { "read" } else { "written" });
                let what = match memory.find(at) {
                    Some((first, size)) => {
                        let past = at + u64::from(bytes) - first - size;
                        format!(
                            "{bytes} bytes {verb} at {at:#x} end {past} past the allocation of {size} at {first:#x}"
                        )
                    }
                    None if memory.was_freed(at) => {
                        format!("{bytes} bytes {verb} at {at:#x}, which was freed")
                    }
                    None => format!("{bytes} bytes {verb} at {at:#x}, which is in no allocation"),
                };
                self.report(Tool::Memcheck, "bounds", thread, true, None, what);
                continue;
            }
            let Some(shadow) = shadow.filter(|s| s.covers(at)) else { continue };
            watched |= 1 << lane;
            if o.2 {
                shadow.prefetch(at);
            }
            if o.1 {
                if matches!(a.kind, Kind::Read | Kind::Atomic | Kind::AsyncRead)
                    && !shadow.initialised(at, a.bytes)
                {
                    let what = format!("{} bytes at global address {at:#x} were never written", a.bytes);
                    self.report(Tool::Initcheck, "global", thread, true, None, what);
                }
                if matches!(a.kind, Kind::Write | Kind::Atomic | Kind::AsyncWrite) {
                    shadow.initialise(at, u64::from(a.bytes));
                }
            }
        }
        let Some(shadow) = shadow.filter(|_| o.2) else { return };
        let (mut held, mut hits) = (global::Held::default(), vec![]);
        for now in turns(a).map(|now| now & watched).filter(|&now| now != 0) {
            if strong(a) {
                let lane = now.trailing_zeros();
                self.ordered_access(warp * 32 + lane, a, resolved[lane as usize], false);
            }
            let me = global::Me { launch: self.launch.number, block: self.linear, id: self.now };
            let visit = global::Visit::new(&self.clocks, warp, me, a);
            for lane in lanes(now) {
                if let Some(p) = shadow.race(&mut held, &visit, warp * 32 + lane, resolved[lane as usize]) {
                    hits.push((lane, p));
                }
            }
            for (lane, p) in hits.drain(..) {
                let at = resolved[lane as usize];
                self.suspect(warp * 32 + lane, Space::Global, a, at, at as *const u8, p);
            }
        }
    }

    /// Whether all the bytes are in one live allocation (or, outside of the device's range, in registered host memory).
    fn allocated(&mut self, memory: &Memory, at: u64, bytes: u32) -> bool {
        let end = at + u64::from(bytes);
        if self.known.iter().any(|&(first, last)| first <= at && end <= last) {
            return true;
        }
        match memory.find(at) {
            Some((first, size)) => {
                self.known.rotate_right(1);
                self.known[0] = (first, first + size);
                end <= first + size
            }
            None => false,
        }
    }

    /// See [`crate::exec::Cta::landed`].
    pub fn landed(&mut self, thread: u32, address: u64, bytes: u32) {
        if self.launch.options.racecheck {
            self.shared.landed(&self.clocks, thread, address, bytes);
        }
        if self.launch.options.initcheck {
            self.shared.initialise(address, bytes);
        }
    }
    /// A block barrier completed: lanes that arrived (waiting or not) and, of these, lanes that waited.
    pub fn barrier(&mut self, arrived: &[(u32, Mask)], waited: &[(u32, Mask)]) {
        if self.launch.options.racecheck {
            self.clocks.barrier(arrived, waited);
        }
    }
    /// See [`crate::exec::Cta::warp_barrier`].
    pub fn warp_barrier(&mut self, warp: u32, mask: Mask) {
        self.barrier(&[(warp, mask)], &[(warp, mask)]);
    }
    /// See [`crate::exec::Cta::fence`].
    pub fn fence(&mut self, warp: u32, mask: Mask) {
        if self.launch.options.racecheck {
            lanes(mask).for_each(|lane| self.clocks.fence(warp * 32 + lane));
        }
    }
    /// See [`crate::exec::Cta::misuse`].
    pub fn misuse(&mut self, warp: u32, lane: Option<u32>, what: impl FnOnce() -> String) {
        if self.launch.options.synccheck {
            self.report(
                Tool::Synccheck,
                "misuse",
                warp * 32 + lane.unwrap_or(0),
                lane.is_some(),
                None,
                what(),
            );
        }
    }
    /// What these lanes did is published at a shared address.
    pub fn release(&mut self, warp: u32, mask: Mask, address: u64) {
        if self.launch.options.racecheck {
            for lane in lanes(mask) {
                let p = self.clocks.snapshot(warp * 32 + lane);
                self.objects.entry(address).or_default().join(&p);
                self.clocks.advance(warp * 32 + lane);
            }
        }
    }
    /// What was published at a shared address is known to these lanes.
    pub fn acquire(&mut self, warp: u32, mask: Mask, address: u64) {
        if self.launch.options.racecheck
            && let Some(p) = self.objects.get(&address)
        {
            lanes(mask).for_each(|lane| self.clocks.learn(warp * 32 + lane, p, true));
        }
    }
}

fn strong(a: &Access) -> bool {
    a.order != Order::Weak || matches!(a.kind, Kind::Atomic | Kind::Barrier)
}

/// Lanes of an access that are looked at together: of a strong one each alone, as the next may know what it ordered.
fn turns(a: &Access) -> impl Iterator<Item = Mask> {
    let (alone, mut left) = (strong(a), a.mask);
    std::iter::from_fn(move || {
        let now = if alone { left & left.wrapping_neg() } else { left };
        left &= !now;
        (now != 0).then_some(now)
    })
}

/// The lanes of a mask.
pub(crate) fn lanes(mut mask: Mask) -> impl Iterator<Item = u32> + Clone {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane)
    })
}
