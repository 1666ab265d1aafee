//! Counters of a launch: instructions by class, tensor operations by type, sectors and unique bytes of device memory,
//! wavefronts and bank conflicts of shared memory, barriers, divergence.
//!
//! Everything is counted at its instruction and summed when asked, so a table by PTX line comes for nothing.

use crate::check::lanes;
use crate::exec::launch::Program;
use crate::exec::{Access, Class, Kind, Mask};
use crate::ptx::ast::Space;
use std::collections::{BTreeMap, HashMap};

/// What one instruction did, summed over warps.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Warps that it was issued to (its guard may have held for no lane).
    pub issued: u64,
    /// Lanes for which it was done.
    pub lanes: u64,
    /// Times it was issued to fewer lanes than the warp had left.
    pub divergent: u64,
    /// Warp-wide accesses of device memory, and distinct 32-byte sectors in each, summed.
    pub requests: u64,
    /// See `requests`.
    pub sectors: u64,
    /// Bytes that the lanes asked for, in device or shared memory.
    pub bytes: u64,
    /// Passes that shared memory needs: 32 banks of 4 bytes, each serving one word a pass; 8-byte accesses go by half
    /// warps, 16-byte ones (and each matrix of ldmatrix) by quarters.
    pub wavefronts: u64,
    /// Passes that it would need without bank conflicts.
    pub ideal: u64,
}
impl Counts {
    fn add(&mut self, o: &Self) {
        self.issued += o.issued;
        self.lanes += o.lanes;
        self.divergent += o.divergent;
        self.requests += o.requests;
        self.sectors += o.sectors;
        self.bytes += o.bytes;
        self.wavefronts += o.wavefronts;
        self.ideal += o.ideal;
    }
}

/// Counters of one worker, or of a launch.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    bases: Vec<u32>,
    counts: Vec<Counts>,
    now: usize,
    /// Sectors of device memory that were read and written: by page of 4 KiB, a bit each.
    read: HashMap<u64, u128>,
    written: HashMap<u64, u128>,
}

impl Counters {
    /// Zeros for every instruction of a program.
    pub fn new(program: &Program) -> Self {
        let mut bases = vec![];
        let mut n = 0;
        for f in &program.functions {
            bases.push(n);
            n += f.body.len() as u32;
        }
        Self { bases, counts: vec![Counts::default(); n as usize], ..Self::default() }
    }
    /// An instruction is issued: to lanes `active`, for which its guard holds in `mask`, of the `alive` ones.
    #[inline(always)]
    pub fn issued(&mut self, function: u32, index: u32, mask: Mask, active: Mask, alive: Mask) {
        self.now = (self.bases[function as usize] + index) as usize;
        let c = &mut self.counts[self.now];
        c.issued += 1;
        c.lanes += u64::from(mask.count_ones());
        c.divergent += u64::from(active != alive);
    }
    /// A warp-wide access of the instruction issued last; `resolved` as in [`crate::check::Block::access`].
    pub fn access(&mut self, a: &Access, space: Space, resolved: &[u64; 32]) {
        let c = &mut self.counts[self.now];
        c.bytes += u64::from(a.mask.count_ones() * a.bytes);
        match space {
            Space::Shared => {
                let (wavefronts, ideal) = wavefronts(a.mask, a.bytes, resolved);
                c.wavefronts += wavefronts;
                c.ideal += ideal;
            }
            Space::Global | Space::Const | Space::Generic => {
                let mut sectors = [0u64; 64];
                let mut n = 0;
                for lane in lanes(a.mask) {
                    let first = resolved[lane as usize] / 32;
                    let last = (resolved[lane as usize] + u64::from(a.bytes) - 1) / 32;
                    for s in first..=last {
                        // Neighbours mostly share: look back from the end.
                        if !sectors[..n].iter().rev().any(|&x| x == s) && n < sectors.len() {
                            sectors[n] = s;
                            n += 1;
                        }
                    }
                }
                c.requests += 1;
                c.sectors += n as u64;
                let reads = !matches!(a.kind, Kind::Write | Kind::AsyncWrite);
                let writes = !matches!(a.kind, Kind::Read | Kind::AsyncRead);
                for page in sectors[..n].chunk_by(|a, b| a / 128 == b / 128) {
                    let bits = page.iter().fold(0, |bits, s| bits | 1 << (s % 128));
                    if reads {
                        *self.read.entry(page[0] / 128).or_default() |= bits;
                    }
                    if writes {
                        *self.written.entry(page[0] / 128).or_default() |= bits;
                    }
                }
            }
            Space::Local | Space::Param => {}
        }
    }
    /// Adds another worker's counters of the same program.
    pub fn add(&mut self, other: &Self) {
        if self.counts.is_empty() {
            *self = other.clone();
            return;
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| a.add(b));
        for (mine, theirs) in [(&mut self.read, &other.read), (&mut self.written, &other.written)] {
            theirs.iter().for_each(|(page, bits)| *mine.entry(*page).or_default() |= bits);
        }
    }
    /// The sums, named.
    pub fn summary(&self, program: &Program) -> Summary {
        let mut s = Summary::default();
        let all = program.functions.iter().flat_map(|f| &f.body);
        for (inst, c) in all.zip(&self.counts).filter(|(_, c)| c.issued > 0) {
            s.instructions += c.issued;
            s.lane_instructions += c.lanes;
            s.divergent += c.divergent;
            *s.classes.entry(format!("{:?}", inst.class)).or_default() += c.issued;
            match inst.class {
                Class::Barrier => s.barriers += c.issued,
                Class::Matrix => {
                    if let Some((ty, macs)) = tensor(&inst.spelling) {
                        *s.tensor_macs.entry(ty).or_default() += macs * c.issued;
                    }
                }
                _ => {}
            }
            s.flop += flop(inst.class, &inst.spelling) * c.lanes;
            s.requests += c.requests;
            s.sectors += c.sectors;
            if c.wavefronts > 0 {
                s.shared_bytes += c.bytes;
            } else if c.requests > 0 {
                s.global_bytes += c.bytes;
            }
            s.wavefronts += c.wavefronts;
            s.bank_conflicts += c.wavefronts - c.ideal;
            let class = format!("{:?}", inst.class);
            s.lines.push(Line { line: inst.line, instruction: inst.spelling.to_string(), class, counts: *c });
        }
        let unique = |m: &HashMap<u64, u128>| m.values().map(|b| u64::from(b.count_ones())).sum::<u64>() * 32;
        (s.unique_read, s.unique_written) = (unique(&self.read), unique(&self.written));
        s
    }
}

/// Counters of one or more launches of a kernel.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Warp instructions issued.
    pub instructions: u64,
    /// Lanes for which they were done.
    pub lane_instructions: u64,
    /// Warp instructions issued to fewer lanes than were left in the warp.
    pub divergent: u64,
    /// Warp instructions by class.
    pub classes: BTreeMap<String, u64>,
    /// Floating-point operations outside of the tensor cores, of f16 to f64; a multiply-add is two.
    pub flop: u64,
    /// Multiply-adds of mma by the type of its operands.
    pub tensor_macs: BTreeMap<String, u64>,
    /// Warp-wide accesses of device memory.
    pub requests: u64,
    /// Sectors of 32 bytes that they touched, each access by itself.
    pub sectors: u64,
    /// Bytes that the lanes asked for in device memory.
    pub global_bytes: u64,
    /// Bytes of distinct sectors read over the launch.
    pub unique_read: u64,
    /// Bytes of distinct sectors written over the launch.
    pub unique_written: u64,
    /// Bytes that the lanes asked for in shared memory.
    pub shared_bytes: u64,
    /// Passes of shared memory.
    pub wavefronts: u64,
    /// Passes beyond those that the same accesses need without bank conflicts.
    pub bank_conflicts: u64,
    /// Barrier instructions issued to warps.
    pub barriers: u64,
    /// Each instruction that was issued, in the order of the program.
    pub lines: Vec<Line>,
}

/// An instruction's counts.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Line {
    /// PTX line.
    pub line: u32,
    /// As spelled.
    pub instruction: String,
    /// Its class, as in [`Summary::classes`].
    pub class: String,
    /// Its counts.
    pub counts: Counts,
}

impl Summary {
    /// Adds another launch of the same kernel. Unique bytes add up: each launch begins anew.
    pub fn add(&mut self, o: &Self) {
        for (a, b) in [
            (&mut self.instructions, o.instructions),
            (&mut self.lane_instructions, o.lane_instructions),
            (&mut self.divergent, o.divergent),
            (&mut self.flop, o.flop),
            (&mut self.requests, o.requests),
            (&mut self.sectors, o.sectors),
            (&mut self.global_bytes, o.global_bytes),
            (&mut self.unique_read, o.unique_read),
            (&mut self.unique_written, o.unique_written),
            (&mut self.shared_bytes, o.shared_bytes),
            (&mut self.wavefronts, o.wavefronts),
            (&mut self.bank_conflicts, o.bank_conflicts),
            (&mut self.barriers, o.barriers),
        ] {
            *a += b;
        }
        o.classes.iter().for_each(|(k, v)| *self.classes.entry(k.clone()).or_default() += v);
        o.tensor_macs.iter().for_each(|(k, v)| *self.tensor_macs.entry(k.clone()).or_default() += v);
        for l in &o.lines {
            match self.lines.iter_mut().find(|m| m.line == l.line && m.instruction == l.instruction) {
                Some(m) => m.counts.add(&l.counts),
                None => self.lines.push(l.clone()),
            }
        }
    }
}

/// Passes that shared memory needs for an access, with and without bank conflicts.
pub fn wavefronts(mask: Mask, bytes: u32, at: &[u64; 32]) -> (u64, u64) {
    let group = match bytes {
        ..=4 => 32,
        5..=8 => 16,
        _ => 8,
    };
    let (mut sum, mut ideal) = (0, 0);
    for first in (0..32).step_by(group) {
        let part = mask & (!0 >> (32 - group)) << first;
        if part == 0 {
            continue;
        }
        // Distinct words, each with its forerunner in the bank (from 1 on), and how many a bank has and its last.
        let (mut words, mut n) = ([(0u64, 0u8); 64], 0);
        let (mut banks, mut last) = ([0u8; 32], [0u8; 32]);
        for lane in lanes(part) {
            let a = at[lane as usize];
            for word in a / 4..(a + u64::from(bytes)).div_ceil(4) {
                let bank = (word % 32) as usize;
                let mut seen = last[bank];
                while seen != 0 && words[usize::from(seen) - 1].0 != word {
                    seen = words[usize::from(seen) - 1].1;
                }
                if seen == 0 && n < words.len() {
                    words[n] = (word, last[bank]);
                    n += 1;
                    last[bank] = n as u8;
                    banks[bank] += 1;
                }
            }
        }
        sum += u64::from(*banks.iter().max().unwrap_or(&1));
        ideal += (n as u64).div_ceil(32).max(1);
    }
    (sum, ideal)
}

/// Floating-point operations of an instruction for one lane.
fn flop(class: Class, spelling: &str) -> u64 {
    if !matches!(class, Class::Float | Class::Half | Class::Double) {
        return 0;
    }
    let op = spelling.split('.').next().unwrap_or_default();
    let each = match op {
        "fma" | "mad" => 2,
        "add" | "sub" | "mul" | "div" | "sqrt" | "rcp" | "min" | "max" => 1,
        _ => 0,
    };
    let pair = spelling.split('.').any(|w| matches!(w, "f16x2" | "bf16x2" | "f32x2"));
    each * (1 + u64::from(pair))
}

/// Type of the operands and multiply-adds of an `mma` by its spelling.
pub fn tensor(spelling: &str) -> Option<(String, u64)> {
    let shape = spelling.split('.').find(|w| w.starts_with('m') && w.contains('n') && w.contains('k'))?;
    let (m, rest) = shape[1..].split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    let macs = m.parse::<u64>().ok()? * n.parse::<u64>().ok()? * k.parse::<u64>().ok()?;
    let types: Vec<_> = spelling.split('.').filter(|w| crate::ptx::ast::Type::named(w).is_some()).collect();
    // d, a, b, c; some old forms name fewer.
    let (d, a) = (types.first()?, types.get(1).or(types.first())?);
    Some((format!("{a}, accumulating in {d}"), macs))
}
