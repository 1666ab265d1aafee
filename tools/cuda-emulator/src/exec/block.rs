//! A block as it runs: its warps take turns; barriers hold them.

use super::launch::Launch;
use super::sched::{State, Stop, Thread32};
use super::{Barrier, Cta, L32, Mask, Reduce, Warp, ops};
use crate::check;
use crate::count::Counters;
use crate::error::{Code, Fault, Site};
use crate::exec::cta::Random;
use std::sync::Arc;

/// Barriers of a block: sixteen that programs name, one that stands for the cluster's.
const BARRIERS: usize = 17;
/// Instructions a warp runs before another has its turn.
const QUANTUM: u32 = 1024;

/// One barrier.
#[derive(Default)]
struct State16 {
    /// Threads expected, once a warp that says so has arrived.
    threads: Option<u32>,
    /// Arrivals so far, whole warps counting as 32.
    count: u32,
    /// Lanes that arrived, by warp.
    arrived: Vec<Mask>,
    waiting: Vec<Waiter>,
    /// What a reduction has so far: lanes that hold, lanes in all.
    holds: (u32, u32),
}

struct Waiter {
    warp: u32,
    mask: Mask,
    depth: u32,
    reduce: Option<Reduce>,
}

/// How a slice of a block ended.
pub(super) enum End {
    /// Every thread has exited.
    Done,
    /// It can go on.
    Sliced,
    /// Every warp waits for something that is not of this block.
    Spinning,
    /// It was stopped.
    Fault(Box<(Site, Fault)>),
}

/// A block and its warps.
pub(super) struct Block<'l> {
    pub cta: Cta<'l>,
    warps: Vec<Thread32>,
    barriers: Vec<State16>,
    turn: usize,
    /// Warps that have wanted to wait since the last that did not.
    idle: usize,
}

impl<'l> Block<'l> {
    pub fn new(launch: &'l Launch<'l>, count: Option<Box<Counters>>) -> Self {
        let threads = launch.block.iter().product::<u32>();
        let code = &launch.program.functions[launch.kernel];
        let dynamic = u64::from(launch.dynamic_shared);
        let align = if dynamic > 0 { code.dynamic_align } else { 1 };
        let bytes = code.shared_bytes.div_ceil(align) * align + dynamic;
        let warp = |id: u32| {
            let lanes = if threads - id * 32 >= 32 { !0 } else { (1 << (threads % 32)) - 1 };
            Thread32::new(Warp::new(id, lanes, launch.program.frame))
        };
        Self {
            cta: Cta {
                launch,
                id: [0; 3],
                shared: vec![0; bytes as usize],
                copies: Default::default(),
                check: None,
                count,
                clock: 0,
                printed: String::new(),
                frames: vec![],
                stacks: vec![],
                random: None,
            },
            warps: (0..threads.div_ceil(32)).map(warp).collect(),
            barriers: (0..BARRIERS).map(|_| State16::default()).collect(),
            turn: 0,
            idle: 0,
        }
    }

    /// Begins a block of the grid.
    pub fn start(&mut self, id: [u32; 3], checks: Option<&Arc<check::Launch>>) -> Result<(), Fault> {
        let launch = self.cta.launch;
        self.cta.id = id;
        self.cta.clock = 0;
        self.cta.copies.clear();
        self.cta.check = checks.map(|c| c.block(id));
        let linear = self.cta.linear();
        let seed = launch.options.seed;
        self.cta.random = seed.map(|s| {
            let mixed = (s ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(linear.wrapping_mul(2) | 1);
            Random((mixed ^ mixed >> 29).wrapping_add(linear).max(1))
        });
        let poison = seed.is_some();
        if poison {
            self.cta.shared.fill(ops::copy::POISON);
        }
        self.cta.grow(0)?;
        if launch.program.takes_stack {
            self.cta.stacks = vec![Default::default(); self.warps.len() * 32];
        }
        self.warps.iter_mut().for_each(|w| w.start(&self.cta, launch.kernel as u32, poison));
        let n = self.warps.len();
        for b in &mut self.barriers {
            b.clear(n);
        }
        (self.turn, self.idle) = (0, 0);
        Ok(())
    }

    /// Runs about `slice` instructions.
    pub fn run(&mut self, slice: u64) -> End {
        let until = self.cta.clock.saturating_add(slice);
        let budget = self.cta.launch.options.budget.unwrap_or(u64::MAX);
        let n = self.warps.len();
        let mut moved = false;
        while self.cta.clock < until {
            let mut runnable = self.warps.iter().filter(|w| w.runnable()).count();
            if runnable == 0 {
                return if self.warps.iter().all(Thread32::done) { End::Done } else { self.deadlock() };
            }
            // The next warp in turn, or any by the seed.
            let mut quantum = QUANTUM;
            if let Some(r) = &mut self.cta.random {
                runnable = r.next() as usize % runnable;
                quantum = 1 + (r.next() & 63);
                let nth = (0..n).filter(|&i| self.warps[i].runnable()).nth(runnable);
                self.turn = nth.unwrap_or(self.turn);
            } else {
                while !self.warps[self.turn].runnable() {
                    self.turn = (self.turn + 1) % n;
                }
            }
            let turn = self.turn;
            if let Some(over) = self.cta.clock.checked_sub(budget) {
                let what = format!("the block has run {} instructions, more than its budget", budget + over);
                return self.fault(turn, Fault::new(Code::LaunchTimeout, what));
            }
            match self.warps[turn].run(&mut self.cta, &mut quantum) {
                Err(f) => return self.fault(turn, f),
                Ok(Stop::Quantum) => {
                    self.idle = 0;
                    self.turn = (turn + 1) % n;
                }
                Ok(Stop::Yield) => {
                    self.idle += 1;
                    self.turn = (turn + 1) % n;
                    // Under a seed warps are drawn: give each a fair chance to be drawn before giving up.
                    let rounds = if self.cta.random.is_some() { 4 * n } else { n };
                    if self.idle > rounds {
                        self.idle = 0;
                        // Who came as far as a barrier or its end did not only wait, though the rest does now.
                        return if moved { End::Sliced } else { End::Spinning };
                    }
                }
                Ok(Stop::Barrier(b, mask)) => {
                    (self.idle, moved) = (0, true);
                    self.arrive(turn, b, mask);
                }
                Ok(Stop::Exit) => {
                    (self.idle, moved) = (0, true);
                    (0..BARRIERS).for_each(|id| self.complete(id));
                }
                Ok(Stop::Blocked) => self.turn = (turn + 1) % n,
            }
        }
        End::Sliced
    }

    fn fault(&self, warp: usize, f: Fault) -> End {
        End::Fault(Box::new((self.cta.site(&self.warps[warp].w, f.lane), f)))
    }

    /// What to say of a block that waits for what never comes.
    pub fn hung(&self) -> (Site, Fault) {
        let waits = self.warps.iter().find(|w| w.runnable()).or(self.warps.first());
        let site = |w: &Thread32| self.cta.site(&w.w, None);
        let what = "no progress: every warp that can run waits in a loop for something that nobody does";
        (waits.map(site).unwrap_or_default(), Fault::new(Code::LaunchTimeout, what))
    }

    /// Nobody can run and somebody is left.
    fn deadlock(&mut self) -> End {
        let held = |w: &Thread32| {
            w.groups.iter().find_map(|g| match g.state {
                State::Barrier(id) => Some((*g, id)),
                _ => None,
            })
        };
        let Some((warp, (g, id))) = self.warps.iter().enumerate().find_map(|(i, w)| Some((i, held(w)?)))
        else {
            return End::Done;
        };
        let b = &self.barriers[id as usize];
        let alive: u32 = self.warps.iter().map(|w| w.w.alive.count_ones()).sum();
        let waits: u32 = b.waiting.iter().map(|w| w.mask.count_ones()).sum();
        let expected = b.threads.map_or(format!("all {alive} threads left"), |t| format!("{t} threads"));
        let what = format!(
            "deadlock: {waits} threads wait at barrier {id} for {expected}, of which {} arrived, and nobody can run",
            b.count
        );
        let w = &mut self.warps[warp].w;
        (w.function, w.pc) = (g.function, g.pc.saturating_sub(1));
        self.cta.misuse(&self.warps[warp].w, None, || what.clone());
        self.fault(warp, Fault::new(Code::LaunchTimeout, what))
    }

    fn arrive(&mut self, warp: usize, b: Barrier, mask: Mask) {
        let w = &self.warps[warp].w;
        let s = &mut self.barriers[b.id as usize];
        if s.count > 0 && s.threads != b.threads {
            let (old, id) = (s.threads, b.id);
            let name = |t: Option<u32>| t.map_or("all".into(), |t| t.to_string());
            self.cta.misuse(w, None, || {
                format!(
                    "barrier {id} is met for {} threads by some and for {} by others",
                    name(old),
                    name(b.threads)
                )
            });
        }
        let s = &mut self.barriers[b.id as usize];
        if s.arrived[warp] & mask != 0 && b.wait {
            let id = b.id;
            self.cta.misuse(w, None, || format!("lanes arrive at barrier {id} again before it completes"));
        }
        let s = &mut self.barriers[b.id as usize];
        s.threads = b.threads;
        s.arrived[warp] |= mask;
        s.count += mask.count_ones();
        if mask == w.alive {
            // Lanes that do not exist or have exited count with their warp.
            s.count += (!w.alive).count_ones();
        }
        if let Some(Reduce::Count { lanes, .. } | Reduce::And { lanes, .. } | Reduce::Or { lanes, .. }) =
            &b.reduce
        {
            s.holds.0 += lanes.count_ones();
            s.holds.1 += mask.count_ones();
        }
        if b.wait {
            s.waiting.push(Waiter { warp: warp as u32, mask, depth: w.depth, reduce: b.reduce });
        }
        self.complete(b.id as usize);
    }

    /// Lets a barrier's waiters go if everybody expected has come.
    fn complete(&mut self, id: usize) {
        let s = &mut self.barriers[id];
        if s.count == 0 {
            return;
        }
        let done = match s.threads {
            Some(t) => s.count >= t,
            None => self.warps.iter().zip(&s.arrived).all(|(w, &a)| w.w.alive & !a == 0),
        };
        if !done {
            return;
        }
        let (holds, all) = s.holds;
        if let Some(c) = &mut self.cta.check {
            let arrived: Vec<(u32, Mask)> =
                (0..).zip(s.arrived.iter().copied()).filter(|a| a.1 != 0).collect();
            let waited: Vec<(u32, Mask)> = s.waiting.iter().map(|w| (w.warp, w.mask)).collect();
            c.barrier(&arrived, &waited);
        }
        for waiter in s.waiting.drain(..) {
            let t = &mut self.warps[waiter.warp as usize];
            let w = &mut t.w;
            if let Some(r) = waiter.reduce {
                if w.depth != waiter.depth {
                    w.enter(waiter.depth);
                }
                match r {
                    Reduce::Count { slot, .. } => w.set32(slot, waiter.mask, &L32::splat(holds)),
                    Reduce::And { slot, .. } => {
                        w.set_pred(slot, waiter.mask, if holds == all { !0 } else { 0 })
                    }
                    Reduce::Or { slot, .. } => w.set_pred(slot, waiter.mask, if holds > 0 { !0 } else { 0 }),
                }
            }
            t.release(id as u32, waiter.mask);
        }
        s.clear(self.warps.len());
    }
}

impl State16 {
    fn clear(&mut self, warps: usize) {
        (self.threads, self.count, self.holds) = (None, 0, (0, 0));
        self.arrived.clear();
        self.arrived.resize(warps, 0);
        self.waiting.clear();
    }
}
