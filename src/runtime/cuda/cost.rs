//! Which variant of a kernel is the fastest: predicted from shape and device alone. Variants differ in M and N tiles only, so
//! that the choice changes no bit.

use super::gpu::Machine;
use crate::error::{Error, Result};

/// What a launch asks of a GPU. Its blocks are alike: a beginning, a loop of equal steps, an end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Blocks of the grid.
    pub blocks: usize,
    /// Warps of a block.
    pub warps: usize,
    /// Registers of a thread that the model counts with.
    pub registers: usize,
    /// Bytes of shared memory of a block.
    pub shared: usize,
    /// Steps of the loop.
    pub steps: f64,
    /// Of a step: mma, in units of m16n8k16 of 16-bit elements; m16n8k8 of tf32 takes as long.
    pub mma: f64,
    /// Of a step: passes of shared memory.
    pub wavefronts: f64,
    /// Of a step: bytes from the second-level cache.
    pub copied: f64,
    /// Of a step: instructions of a lane outside of the tensor cores.
    pub arithmetic: f64,
    /// Cycles that a block on its own needs for a step.
    pub alone: f64,
    /// Cycles before the loop: the latency of the first copies.
    pub before: f64,
    /// Instructions of a lane behind the loop.
    pub after: f64,
    /// Bytes of weights, which device memory gives once.
    pub bytes: f64,
}

/// A predicted time; never a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Prediction {
    /// Microseconds without the launch itself.
    pub us: f64,
    /// The same, did device memory take no time: of two that wait for it alike, the other hides it better.
    pub computing: f64,
    /// Blocks over those that the GPU holds at once.
    pub waves: f64,
    /// What takes the most of it.
    pub bound: &'static str,
}

/// A variant and its launches.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// As `INP_KERNEL` has it.
    pub name: &'static str,
    /// What differs between variants.
    pub launches: Vec<Cost>,
}

impl Cost {
    /// Blocks that one multiprocessor holds at once.
    pub fn held(&self, m: &Machine) -> usize {
        let registers = 65_536 / (self.registers.next_multiple_of(8) * 32 * self.warps);
        registers.min((m.shared + 1024) / (self.shared + 1024))
    }

    /// A step's cycles on a multiprocessor with this many blocks, and what bounds it: what the blocks together ask of the busiest
    /// unit and a quarter of the rest, but no less than one block needs on its own.
    fn step(&self, m: &Machine, blocks: usize) -> (f64, &'static str) {
        let n = blocks as f64;
        let units = [
            (n * self.mma * m.mma() / 4.0, "tensor cores"),
            (n * self.wavefronts, "shared memory"),
            (n * self.copied / m.cache(), "L2 cache"),
            (n * self.arithmetic / m.lanes(), "arithmetic"),
        ];
        let busiest = units.into_iter().fold(units[0], |a, b| if b.0 > a.0 { b } else { a });
        let all: f64 = units.iter().map(|u| u.0).sum();
        let together = busiest.0 + (all - busiest.0) / 4.0;
        if together > self.alone { (together, busiest.1) } else { (self.alone, "latency") }
    }

    /// Blocks come in rounds of as many as all multiprocessors hold.
    pub fn predict(&self, m: &Machine) -> Prediction {
        let held = self.held(m).max(1);
        let round = |blocks: usize| {
            self.before + self.steps * self.step(m, blocks).0 + blocks as f64 * self.after / m.lanes()
        };
        let (rounds, rest) = (self.blocks / (m.sms * held), self.blocks % (m.sms * held));
        let last = if rest == 0 { 0.0 } else { round(rest.div_ceil(m.sms)) };
        let computing = (rounds as f64 * round(held) + last) / f64::from(m.clock_mhz);
        let reading = self.bytes / (f64::from(m.bandwidth_gbs) * 1e3);
        let busy = if rounds > 0 { held } else { rest.div_ceil(m.sms) };
        let bound = if reading > computing { "device memory" } else { self.step(m, busy).1 };
        Prediction {
            us: computing.max(reading),
            computing,
            waves: self.blocks as f64 / (m.sms * held) as f64,
            bound,
        }
    }
}

impl Candidate {
    /// One launch.
    pub fn new(name: &'static str, cost: Cost) -> Self {
        Self { name, launches: vec![cost] }
    }
    /// All launches together; waves and bound of the longest.
    pub fn predict(&self, m: &Machine) -> Prediction {
        let all = || self.launches.iter().map(|l| l.predict(m));
        let longest = all().max_by(|a, b| a.us.total_cmp(&b.us));
        let longest = longest.unwrap_or(Prediction { us: 0.0, computing: 0.0, waves: 0.0, bound: "nothing" });
        let sum = |of: fn(Prediction) -> f64| all().map(of).sum::<f64>();
        Prediction { us: sum(|p| p.us), computing: sum(|p| p.computing), ..longest }
    }
    /// Whether a multiprocessor can hold a block.
    pub fn fits(&self, m: &Machine) -> bool {
        self.launches.iter().all(|l| l.held(m) > 0)
    }
}

/// Name of the candidate with the shortest prediction among those that the GPU can run, or of the one that is asked for.
///
/// Errors: an unknown one; none that fits.
pub fn pick(op: &str, m: &Machine, candidates: &[Candidate], asked: Option<&str>) -> Result<&'static str> {
    if let Some(name) = asked {
        return named(op, candidates, |c| c.name, name).map(|c| c.name);
    }
    let fits = candidates.iter().filter(|c| c.fits(m));
    let best = fits.min_by(|a, b| {
        let (a, b) = (a.predict(m), b.predict(m));
        a.us.total_cmp(&b.us).then(a.computing.total_cmp(&b.computing))
    });
    let none = || Error::Device(format!("{op}: no CUDA variant fits {} bytes of shared memory", m.shared));
    best.map(|c| c.name).ok_or_else(none)
}

/// The variant of that name. Errors: an unknown one, with those that there are.
pub fn named<'a, T>(op: &str, all: &'a [T], of: impl Fn(&T) -> &'static str, name: &str) -> Result<&'a T> {
    all.iter().find(|v| of(v) == name).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(of).collect();
        Error::usage(format!("{op} has no CUDA variant \"{name}\"; there are {}", names.join(", ")))
    })
}
