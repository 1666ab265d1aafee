//! A grid over worker threads. Blocks start in order; one that only waits gives way to others.

use super::block::{Block, End};
use super::cta::Random;
use super::launch::{Launch, Report};
use crate::check;
use crate::count::Counters;
use crate::error::{Code, Fault, Site};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Instructions a block runs before another resident block has its turn.
const SLICE: u64 = 1 << 20;
/// Blocks that a worker interleaves when a seed asks for it.
const TOGETHER: usize = 4;
/// How long every worker's blocks may all wait before the launch is said to make no progress.
const PATIENCE: Duration = Duration::from_secs(1);
/// What counts of that between two looks at most: a process that was stopped, or got no processor, did not wait.
const LOOK: Duration = Duration::from_millis(10);

/// Bytes of a cooperative launch's workspace, zero when it begins.
const WORKSPACE: u64 = 4096;

/// What the workers share.
struct Grid<'l> {
    launch: &'l Launch<'l>,
    /// Blocks that nobody has taken.
    left: Mutex<Range<u64>>,
    blocks: u64,
    /// Blocks resident on one worker at most.
    resident: usize,
    stop: AtomicBool,
    /// Workers that have done something else than wait, lately; and how often any has.
    busy: AtomicUsize,
    progress: AtomicU64,
    checks: Option<Arc<check::Launch>>,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    counters: Option<Counters>,
    /// Of the first block that had one.
    fault: Option<(u64, Site, Fault)>,
    printed: Vec<(u64, String)>,
}

impl Launch<'_> {
    /// Where an instruction is.
    pub fn site(&self, function: u32, index: u32, block: [u32; 3], warp: u32, lane: Option<u32>) -> Site {
        let inst = self.program.functions.get(function as usize).and_then(|f| f.body.get(index as usize));
        let source = inst.and_then(|i| i.source);
        Site {
            kernel: self.program.functions[self.kernel].name.clone(),
            line: inst.map_or(0, |i| i.line),
            source: source.and_then(|(f, line)| Some((self.program.files.get(&f)?.clone(), line))),
            instruction: inst.map_or(String::new(), |i| i.spelling.to_string()),
            block,
            warp,
            lane,
        }
    }

    /// Runs every block, over worker threads. The geometry was checked by the caller (`driver/launch.rs`).
    pub fn run(&self) -> Report {
        if !self.cooperative || self.workspace != 0 {
            return self.start();
        }
        match self.memory.allocate(WORKSPACE, false) {
            Ok(workspace) => {
                self.memory.written(workspace, WORKSPACE);
                let report = Self { workspace, params: self.params.clone(), ..*self }.start();
                let _ = self.memory.free(workspace);
                report
            }
            Err(code) => {
                let what = "there is no device memory left for the grid's barrier";
                let fault = Some((self.site(self.kernel as u32, 0, [0; 3], 0, None), Fault::new(code, what)));
                Report { fault, ..Report::default() }
            }
        }
    }

    fn start(&self) -> Report {
        let blocks = self.grid.iter().map(|&n| u64::from(n)).product::<u64>();
        let threads = self.block.iter().map(|&n| u64::from(n)).product::<u64>();
        if blocks == 0 || threads == 0 {
            return Report::default();
        }
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = (self.options.threads.unwrap_or_else(cores) as u64).min(blocks).max(1) as usize;
        let code = &self.program.functions[self.kernel];
        let on_device =
            u64::from(self.gpu.multiprocessors.max(1)) * (u64::from(self.gpu.threads) / threads).max(1);
        let shared = code.shared_bytes as u32 + self.dynamic_shared;
        let grid = Grid {
            launch: self,
            left: Mutex::new(0..blocks),
            blocks,
            resident: if self.cooperative { blocks } else { on_device.div_ceil(workers as u64) }.max(1)
                as usize,
            stop: AtomicBool::new(false),
            busy: AtomicUsize::new(workers),
            progress: AtomicU64::new(0),
            checks: check::Launch::new(
                self.options,
                self.memory,
                self.program,
                self.grid,
                threads as u32,
                shared,
                code.local_bytes + self.program.callee_local,
            ),
            done: Mutex::new(Done::default()),
        };
        std::thread::scope(|s| {
            let grid = &grid;
            (1..workers).for_each(|n| _ = s.spawn(move || grid.work(n)));
            grid.work(0);
        });
        let mut done = grid.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.printed.sort_by_key(|p| p.0);
        let printed: String = done.printed.into_iter().map(|p| p.1).collect();
        if !printed.is_empty() {
            print!("{printed}");
        }
        let mut findings = grid.checks.map_or(vec![], |c| c.finish(self.program, &code.name));
        if self.options.memcheck
            && let Some((_, site, f)) = &done.fault
            && matches!(f.code, Code::IllegalAddress | Code::MisalignedAddress)
        {
            let (tool, what) = (check::Tool::Memcheck, f.what.clone());
            findings.push(check::Finding { tool, what, site: site.clone(), other: None, times: 1 });
        }
        Report {
            counters: done.counters,
            findings,
            fault: done.fault.map(|(_, site, fault)| (site, fault)),
            printed,
        }
    }
}

impl<'l> Grid<'l> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next block to start; by a seed, neighbours in another order. With checkers every second worker begins at the
    /// end: neighbours read the same memory, and workers would wait for each other to note that they did.
    fn take(&self, worker: usize) -> Option<[u32; 3]> {
        let back = self.checks.is_some() && worker % 2 == 1;
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let n = if back { left.next_back() } else { left.next() }?;
        drop(left);
        let window = 8.min(self.resident as u64);
        let whole = n / window * window + window <= self.blocks;
        let n = match self.launch.options.seed {
            Some(seed) if whole && window > 1 => {
                let turn = (seed ^ (n / window).wrapping_mul(0x9E37_79B9)) % window;
                n / window * window + (n % window + turn) % window
            }
            _ => n,
        };
        let [x, y, _] = self.launch.grid.map(u64::from);
        Some([(n % x) as u32, (n / x % y) as u32, (n / x / y) as u32])
    }

    fn work(&self, worker: usize) {
        let count = || {
            let on = self.launch.options.count;
            on.then(|| Box::new(Counters::new(self.launch.program)))
        };
        let mut running: Vec<Block<'l>> = vec![];
        let mut spare: Vec<Block<'l>> = vec![];
        let mut turn = 0;
        let mut more = true;
        // Instructions since a block finished or went on without waiting.
        let mut idle = 0;
        // By a seed, some blocks run beside one another, a random while each: they meet in memory as on a GPU.
        let mut random = self.launch.options.seed.map(|s| Random(s.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
        let together = if random.is_some() { self.resident.min(TOGETHER) } else { 1 };
        // Its last look at the others' progress, what that was, how long it has not changed.
        let mut waits: Option<(Instant, u64, Duration)> = None;
        while !self.stop.load(Ordering::Relaxed) {
            let round = running.len() as u64 * SLICE;
            let wants = running.len() < together || idle >= round && running.len() < self.resident;
            if wants && more {
                match self.take(worker) {
                    Some(id) => {
                        let mut b = spare.pop().unwrap_or_else(|| Block::new(self.launch, count()));
                        if let Err(f) = b.start(id, self.checks.as_ref()) {
                            let site = self.launch.site(self.launch.kernel as u32, 0, id, 0, None);
                            self.failed(b.cta.linear(), site, f);
                        }
                        turn = running.len();
                        running.push(b);
                        idle = 0;
                    }
                    None => more = false,
                }
            }
            if running.is_empty() {
                break;
            }
            turn %= running.len();
            let slice = random.as_mut().map_or(SLICE, |r| 64 + u64::from(r.next() % 1024));
            let end = running[turn].run(slice);
            if !matches!(end, End::Spinning) {
                self.progress.fetch_add(1, Ordering::Relaxed);
                if waits.take().is_some() {
                    self.busy.fetch_add(1, Ordering::Relaxed);
                }
            }
            match end {
                End::Done => {
                    let mut b = running.swap_remove(turn);
                    idle = 0;
                    self.finish(&mut b);
                    spare.push(b);
                }
                End::Sliced => {
                    // It may well be waiting in a way that cannot be told from work: others must come to run too.
                    idle += slice;
                    turn += 1;
                }
                End::Spinning => {
                    idle += SLICE;
                    turn += 1;
                    if idle > running.len() as u64 * SLICE && (!more || running.len() >= self.resident) {
                        let now = (Instant::now(), self.progress.load(Ordering::Relaxed));
                        let (looked, then, waited) = waits.get_or_insert_with(|| {
                            self.busy.fetch_sub(1, Ordering::Relaxed);
                            (now.0, now.1, Duration::ZERO)
                        });
                        *waited = if now.1 == *then {
                            *waited + (now.0 - *looked).min(LOOK)
                        } else {
                            Duration::ZERO
                        };
                        (*looked, *then) = now;
                        if *waited > PATIENCE && self.busy.load(Ordering::Relaxed) == 0 {
                            let b = &running[turn % running.len()];
                            let (site, fault) = b.hung();
                            self.failed(b.cta.linear(), site, fault);
                        }
                        std::thread::yield_now();
                    }
                }
                End::Fault(f) => {
                    let mut b = running.swap_remove(turn);
                    self.failed(b.cta.linear(), f.0, f.1);
                    self.finish(&mut b);
                    spare.push(b);
                }
            }
        }
        if waits.is_none() {
            self.busy.fetch_sub(1, Ordering::Relaxed);
        }
        running.iter_mut().for_each(|b| self.finish(b));
        let mut done = self.lock();
        for b in running.iter().chain(&spare) {
            if let Some(c) = &b.cta.count {
                done.counters.get_or_insert_default().add(c);
            }
        }
    }

    fn finish(&self, b: &mut Block) {
        b.cta.check = None;
        if !b.cta.printed.is_empty() {
            self.lock().printed.push((b.cta.linear(), std::mem::take(&mut b.cta.printed)));
        }
    }

    fn failed(&self, block: u64, site: Site, fault: Fault) {
        let mut done = self.lock();
        if done.fault.as_ref().is_none_or(|f| block < f.0) {
            done.fault = Some((block, site, fault));
        }
        self.stop.store(true, Ordering::Relaxed);
    }
}
