//! One warp's lanes: which of them run next, and until when.

use super::ops::{flow, stack::Stack};
use super::{Barrier, Cta, Flow, Mask, Warp, special};
use crate::error::{Code, Fault};

/// Jumps back that a group may make while others of its warp wait for their turn.
const PATIENCE: u32 = 256;
/// Instructions that a group whose turn was forced may run.
const TURN: u32 = 4096;

/// Lanes at one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub mask: Mask,
    pub depth: u32,
    pub function: u32,
    pub pc: u32,
    pub state: State,
}

/// What a group does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Can run.
    Ready,
    /// Waits for something that others do; tried again later.
    Again,
    /// Waits for other lanes of its warp.
    Converge,
    /// Waits at a block barrier; its counter is past it.
    Barrier(u32),
}

/// Why a warp stopped.
pub(super) enum Stop {
    /// Its share of instructions is used up.
    Quantum,
    /// It waits for others, but wants to be asked again.
    Yield,
    /// Lanes (of the group that was running) arrived at a barrier; the block decides.
    Barrier(Barrier, Mask),
    /// Every lane waits at a barrier.
    Blocked,
    /// Lanes exited: barriers may be complete, the warp may be done.
    Exit,
}

/// A warp and where its lanes are.
pub(super) struct Thread32 {
    pub w: Warp,
    pub groups: Vec<Group>,
    /// Return addresses by depth and lane: function, counter.
    returns: Vec<[(u32, u32); 32]>,
    /// Jumps back since the group was chosen with others waiting.
    jumps: u32,
    /// Lanes whose turn is forced, and for how many more instructions.
    forced: (Mask, u32),
    /// Index of the running group.
    running: usize,
}

/// Lanes that have exited.
fn exited(w: &Warp) -> Mask {
    w.lanes & !w.alive
}

impl Thread32 {
    pub fn new(w: Warp) -> Self {
        Self { w, groups: vec![], returns: vec![], jumps: 0, forced: (0, 0), running: 0 }
    }
    /// At the beginning of a kernel.
    pub fn start(&mut self, cta: &Cta, kernel: u32, poison: bool) {
        self.w.reset(poison);
        (self.jumps, self.forced, self.running) = (0, (0, 0), 0);
        self.w.function = kernel;
        special::fill(&mut self.w, cta, !0);
        self.groups.clear();
        self.groups.push(Group {
            mask: self.w.lanes,
            depth: 0,
            function: kernel,
            pc: 0,
            state: State::Ready,
        });
    }
    pub fn done(&self) -> bool {
        self.groups.is_empty()
    }
    /// Whether some lane is not waiting at a barrier.
    pub fn runnable(&self) -> bool {
        self.groups.iter().any(|g| !matches!(g.state, State::Barrier(_)))
    }

    /// Merges groups that met and chooses the one to run: the deepest call, then the lowest counter.
    fn pick(&mut self) -> Option<usize> {
        let gs = &mut self.groups;
        let mut i = 0;
        while gs.len() > 1 && i < gs.len() {
            let mut j = i + 1;
            while j < gs.len() {
                let (a, b) = (gs[i], gs[j]);
                let parked = |g: Group| matches!(g.state, State::Barrier(_));
                if (a.depth, a.function, a.pc) == (b.depth, b.function, b.pc) && !parked(a) && !parked(b) {
                    gs[i].mask |= b.mask;
                    gs[i].state = State::Ready;
                    gs.swap_remove(j);
                } else {
                    j += 1;
                }
            }
            i += 1;
        }
        let ready = |g: &Group| g.state == State::Ready;
        if self.forced.1 > 0 {
            let forced = gs.iter().position(|g| ready(g) && g.mask & self.forced.0 != 0);
            if forced.is_some() {
                return forced;
            }
            self.forced.1 = 0;
        }
        (0..gs.len())
            .filter(|&i| ready(&gs[i]))
            .min_by_key(|&i| (std::cmp::Reverse(gs[i].depth), gs[i].function, gs[i].pc))
    }

    /// The running group has jumped back often: let another that is ready have a turn.
    fn rotate(&mut self, running: usize) {
        self.jumps = 0;
        let others = self.groups.iter().enumerate().filter(|&(i, g)| i != running && g.state == State::Ready);
        // The one farthest on: whoever holds what the others want has come farther than they.
        if let Some((_, g)) = others.max_by_key(|(_, g)| (g.depth, g.function, g.pc)) {
            self.forced = (g.mask, TURN);
        }
    }

    /// Runs up to `quantum` instructions.
    pub fn run(&mut self, cta: &mut Cta, quantum: &mut u32) -> Result<Stop, Fault> {
        let launch = cta.launch;
        let program = launch.program;
        self.groups.iter_mut().filter(|g| g.state == State::Again).for_each(|g| g.state = State::Ready);
        loop {
            let Some(chosen) = self.pick() else {
                return Ok(if self.groups.iter().any(|g| g.state == State::Again) {
                    self.groups
                        .iter_mut()
                        .filter(|g| g.state == State::Again)
                        .for_each(|g| g.state = State::Ready);
                    Stop::Yield
                } else if let Some(g) = self
                    .groups
                    .iter_mut()
                    .filter(|g| g.state == State::Converge)
                    .min_by_key(|g| (std::cmp::Reverse(g.depth), g.function, g.pc))
                {
                    let first = *g;
                    if !self.meet(cta, first) {
                        self.groups
                            .iter_mut()
                            .filter(|g| g.mask & first.mask != 0)
                            .for_each(|g| g.state = State::Ready);
                        self.w.stuck = true;
                    }
                    continue;
                } else {
                    Stop::Blocked
                });
            };
            self.running = chosen;
            let g = self.groups[chosen];
            let code = &program.functions[g.function as usize];
            let alone = self.groups.len() == 1;
            let horizon = if self.w.stuck {
                g.pc + 1
            } else if alone {
                u32::MAX
            } else {
                let same = |o: &&Group| (o.depth, o.function) == (g.depth, g.function) && o.pc > g.pc;
                let waits = |o: &&Group| !matches!(o.state, State::Barrier(_));
                self.groups.iter().filter(same).filter(waits).map(|o| o.pc).min().unwrap_or(u32::MAX)
            };
            let active = g.mask;
            self.w.active = active;
            self.w.function = g.function;
            if self.w.depth != g.depth {
                self.w.enter(g.depth);
            }
            let mut pc = g.pc;
            let body = &code.body[..];
            let start = *quantum;
            // Runs the group to its next event; says what to do about the others.
            let stop = loop {
                if *quantum == 0 {
                    break Some(Stop::Quantum);
                }
                if pc >= horizon {
                    break None;
                }
                *quantum -= 1;
                cta.clock += 1;
                let Some(inst) = body.get(pc as usize) else {
                    return Err(Fault::new(Code::InvalidPc, "past the end of the function"));
                };
                let mask = match inst.guard {
                    None => active,
                    Some((slot, not)) => active & (self.w.pred(slot) ^ if not { !0 } else { 0 }),
                };
                self.w.pc = pc;
                if let Some(c) = &mut cta.count {
                    c.issued(g.function, pc, mask, active, self.w.alive);
                }
                if mask == 0 {
                    pc += 1;
                    continue;
                }
                if let Some(c) = &mut cta.check {
                    c.at(g.function, pc, self.w.id);
                }
                let flow = (inst.exec)(&mut self.w, cta, mask)?;
                if let Some(c) = &mut cta.check {
                    c.done();
                }
                match flow {
                    Flow::Next => pc += 1,
                    Flow::Branch { taken, target } => {
                        let taken = taken & active;
                        let back = target <= pc;
                        if taken == active {
                            let spins = back && code.spins.binary_search(&pc).is_ok();
                            pc = target;
                            if !alone {
                                self.jumps += u32::from(back) + if spins { PATIENCE / 4 } else { 0 };
                                if self.jumps > PATIENCE {
                                    self.rotate(chosen);
                                }
                                self.groups[chosen].pc = pc;
                                if !spins {
                                    break None;
                                }
                            }
                            if spins {
                                break Some(Stop::Yield);
                            }
                        } else if taken == 0 {
                            pc += 1;
                        } else {
                            let (mask, spins) =
                                (active & !taken, back && code.spins.binary_search(&pc).is_ok());
                            self.jumps += if spins { PATIENCE / 4 } else { 0 };
                            self.groups[chosen].mask = taken;
                            self.groups[chosen].pc = target;
                            self.groups.push(Group { mask, pc: pc + 1, ..g });
                            pc = target;
                            break None;
                        }
                    }
                    Flow::Scatter(to) => {
                        self.groups.swap_remove(chosen);
                        self.place(mask, |lane| (g.depth, g.function, to[lane]));
                        if mask != active {
                            self.groups.push(Group { mask: active & !mask, pc: pc + 1, ..g });
                        }
                        self.running = usize::MAX;
                        break None;
                    }
                    Flow::Call { taken, function } => {
                        let mut to = [u32::MAX; 32];
                        (0..32).filter(|l| taken >> l & 1 == 1).for_each(|l| to[l] = function);
                        self.call(cta, g, pc, &to)?;
                        break None;
                    }
                    Flow::Calls(to) => {
                        self.call(cta, g, pc, &to)?;
                        break None;
                    }
                    Flow::Return if g.depth == 0 => {
                        self.leave(chosen, mask, pc);
                        break Some(Stop::Exit);
                    }
                    Flow::Return => {
                        self.ret(cta, chosen, mask, pc)?;
                        break None;
                    }
                    Flow::Exit => {
                        self.leave(chosen, mask, pc);
                        break Some(Stop::Exit);
                    }
                    Flow::Barrier(b) => {
                        let others = self.w.alive & !mask;
                        if b.aligned && others != 0 && !self.w.stuck {
                            self.groups[chosen].state = State::Converge;
                            break None;
                        }
                        if self.w.stuck && b.aligned && others != 0 {
                            cta.misuse(&self.w, None, || {
                                format!(
                                    "barrier {} is met by lanes {mask:#x} of {:#x} only",
                                    b.id, self.w.alive
                                )
                            });
                        }
                        if b.aligned && exited(&self.w) != 0 {
                            cta.misuse(&self.w, None, || {
                                format!(
                                    "barrier {} is met by a warp of which lanes {:#x} have exited",
                                    b.id,
                                    exited(&self.w)
                                )
                            });
                        }
                        pc += 1;
                        if mask != active {
                            // Lanes whose guard does not hold go on.
                            self.groups.push(Group { mask: active & !mask, pc, ..g });
                            self.groups[chosen].mask = mask;
                        }
                        if b.wait {
                            self.groups[chosen].state = State::Barrier(b.id);
                        }
                        break Some(Stop::Barrier(b, mask));
                    }
                    Flow::Yield => {
                        pc += 1;
                        if !alone {
                            self.jumps += PATIENCE / 4;
                            if self.jumps > PATIENCE {
                                self.rotate(chosen);
                            }
                        }
                        break Some(Stop::Yield);
                    }
                    Flow::Again => {
                        self.groups[chosen].state = State::Again;
                        break None;
                    }
                    Flow::Converge => {
                        self.groups[chosen].state = State::Converge;
                        break None;
                    }
                }
            };
            if self.running == chosen
                && let Some(group) = self.groups.get_mut(chosen)
                && group.mask & active != 0
            {
                group.pc = pc;
            }
            self.spend(start - *quantum);
            self.w.stuck = false;
            if let Some(stop) = stop {
                return Ok(stop);
            }
        }
    }

    /// Groups that wait at `bar.warp.sync` in different places meet all the same. Whether the first is one of them.
    fn meet(&mut self, cta: &mut Cta, first: Group) -> bool {
        let program = cta.launch.program;
        let at = |g: &Group| {
            let inst = &program.functions[g.function as usize].body[g.pc as usize];
            g.state == State::Converge && &*inst.spelling == "bar.warp.sync"
        };
        let all = self.groups.iter().filter(|g| at(g)).fold(0, |m, g| m | g.mask);
        if !at(&first) || all == first.mask || all != self.w.alive {
            return false;
        }
        cta.warp_barrier(&self.w, all);
        for g in self.groups.iter_mut().filter(|g| at(g)) {
            (g.pc, g.state) = (g.pc + 1, State::Ready);
        }
        true
    }

    fn spend(&mut self, n: u32) {
        self.forced.1 = self.forced.1.saturating_sub(n);
    }

    /// Puts lanes in groups by where they go.
    fn place(&mut self, mask: Mask, to: impl Fn(usize) -> (u32, u32, u32)) {
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            let (depth, function, pc) = to(lane);
            let here =
                |g: &&mut Group| (g.depth, g.function, g.pc, g.state) == (depth, function, pc, State::Ready);
            match self.groups.iter_mut().find(here) {
                Some(g) => g.mask |= 1 << lane,
                None => self.groups.push(Group { mask: 1 << lane, depth, function, pc, state: State::Ready }),
            }
        }
    }

    /// Takes lanes out of a group; those that stay go on behind `pc`.
    fn remove(&mut self, chosen: usize, mask: Mask, pc: u32) {
        let g = &mut self.groups[chosen];
        g.mask &= !mask;
        g.pc = pc + 1;
        if g.mask == 0 {
            self.groups.swap_remove(chosen);
        }
        self.running = usize::MAX;
    }

    fn call(&mut self, cta: &mut Cta, g: Group, pc: u32, to: &[u32; 32]) -> Result<(), Fault> {
        let mask = (0..32).filter(|&l| to[l] != u32::MAX).fold(0, |m, l| m | 1u32 << l);
        let depth = g.depth + 1;
        cta.grow(depth)?;
        if self.returns.len() < depth as usize {
            self.returns.resize(depth as usize, [(0, 0); 32]);
        }
        (0..32)
            .filter(|l| mask >> l & 1 == 1)
            .for_each(|l| self.returns[g.depth as usize][l] = (g.function, pc + 1));
        self.stacks(cta, mask, Stack::enter);
        self.remove(self.running, mask, pc);
        self.place(mask, |lane| (depth, to[lane], 0));
        self.w.enter(depth);
        let mut left = mask;
        while left != 0 {
            self.w.function = to[left.trailing_zeros() as usize];
            let same = (0..32).filter(|&l| to[l] == self.w.function).fold(0, |m, l| m | 1u32 << l);
            special::fill(&mut self.w, cta, same);
            left &= !same;
        }
        Ok(())
    }

    fn ret(&mut self, cta: &mut Cta, chosen: usize, mask: Mask, pc: u32) -> Result<(), Fault> {
        let depth = self.groups[chosen].depth - 1;
        self.stacks(cta, mask, Stack::leave);
        self.remove(chosen, mask, pc);
        let to = self.returns[depth as usize];
        self.place(mask, |lane| (depth, to[lane].0, to[lane].1));
        self.w.enter(depth);
        let program = cta.launch.program;
        let mut left = mask;
        while left != 0 {
            let at = to[left.trailing_zeros() as usize];
            let same = (0..32).filter(|&l| left >> l & 1 == 1 && to[l] == at).fold(0, |m, l| m | 1u32 << l);
            left &= !same;
            if let Some(results) = program.functions[at.0 as usize].calls.get(&(at.1 - 1)) {
                flow::give(&mut self.w, cta, same, results, depth)?;
            }
        }
        Ok(())
    }

    /// What lanes took by alloca follows their calls.
    fn stacks(&self, cta: &mut Cta, mask: Mask, f: fn(&mut Stack)) {
        let own = cta.stacks.iter_mut().skip(self.w.id as usize * 32).take(32);
        own.enumerate().filter(|(l, _)| mask >> l & 1 == 1).for_each(|(_, s)| f(s));
    }

    fn leave(&mut self, chosen: usize, mask: Mask, pc: u32) {
        self.w.alive &= !mask;
        self.remove(chosen, mask, pc);
    }

    /// Lanes go on behind a barrier.
    pub fn release(&mut self, id: u32, mask: Mask) {
        for g in self.groups.iter_mut().filter(|g| g.state == State::Barrier(id) && g.mask & mask != 0) {
            g.state = State::Ready;
        }
    }
}
