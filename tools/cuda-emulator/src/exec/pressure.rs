//! Which registers are alive where: how many a kernel needs (an estimate, as PTX has virtual ones and ptxas is not here),
//! and which of them may lie in the same place.

use crate::ptx::ast::{Function, Instr, Operand, Type};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Instructions whose first operand is not a result (those that begin with an address have none either).
const NO_RESULT: &[&str] = &[
    "bar",
    "barrier",
    "bra",
    "brkpt",
    "brx",
    "cp",
    "exit",
    "fence",
    "membar",
    "nanosleep",
    "pmevent",
    "prefetch",
    "prefetchu",
    "red",
    "ret",
    "setmaxnreg",
    "st",
    "stmatrix",
    "trap",
];
/// Operations that are sure to write all of their first operand, in every lane that they are done for.
const WRITES: &[&str] = &[
    "abs", "add", "addc", "and", "bfe", "bfi", "brev", "clz", "cvt", "cvta", "div", "ex2", "fma", "ld",
    "ldmatrix", "ldu", "lg2", "lop3", "mad", "madc", "max", "min", "mma", "mov", "mul", "neg", "not", "or",
    "popc", "prmt", "rcp", "rem", "rsqrt", "selp", "set", "setp", "shf", "shfl", "shl", "shr", "sqrt", "sub",
    "subc", "tanh", "xor",
];
/// More words of virtual registers times labels than that are not looked at: the answer is the most there can be.
const MANY: usize = 1 << 22;

/// Registers of 32 bits that are alive at once at most, between 8 and 255 and what `.maxnreg` and `.maxntid` leave; a
/// little more for what ptxas keeps beside them.
pub fn registers(f: &Function) -> u32 {
    let threads = f.max_threads.or(f.required_threads);
    let threads = threads.map_or(256, |t| t.iter().fold(1u32, |a, b| a.saturating_mul((*b).max(1))));
    let most = (65536 / threads.clamp(32, 1024).next_multiple_of(32) / 8 * 8).min(255);
    let most = most.min(f.max_registers.unwrap_or(255)).max(16);
    let (free, mut alive) = (free(f), 0);
    let seen = flow(f, &free, |i| i.op != "wgmma", |_, a| alive = alive.max(a.words));
    (if seen { alive } else { 255 } + 2).clamp(8, most)
}

/// A place for each register among those of its file (0 to 3, by number), and how many places each file has. Registers that
/// are never alive at once share one, so that a warp's registers stay in the CPU's nearest cache. Lanes that are apart do
/// not mind: each follows a way of its own through the code, and writes its own lane only. What may be read before it is
/// written is alive from the beginning, and still holds what the warp began with.
pub fn places(f: &Function, file: impl Fn(u32) -> usize) -> (Vec<u32>, [u32; 4]) {
    let mut spans = vec![(u32::MAX, 0); f.regs.len()];
    let sure = |i: &Instr| WRITES.contains(&i.op.as_str());
    // Registers of a device function are written and read by its callers too.
    let shares = f.entry
        && flow(f, &vec![false; f.regs.len()], sure, |n, a| {
            for (word, &bits) in a.bits.iter().enumerate() {
                let mut bits = bits;
                while bits != 0 {
                    let span: &mut (u32, u32) = &mut spans[64 * word + bits.trailing_zeros() as usize];
                    *span = (span.0.min(n as u32), span.1.max(n as u32));
                    bits &= bits - 1;
                }
            }
        });
    let mut order: Vec<usize> = (0..f.regs.len()).collect();
    if shares {
        order.sort_by_key(|&r| spans[r].0);
    } else {
        spans.fill((0, u32::MAX));
    }
    let (mut places, mut count) = (vec![0; f.regs.len()], [0; 4]);
    // Of each file, places that are taken, by their last instruction, and those that are free again.
    let mut taken: [BinaryHeap<Reverse<(u32, u32)>>; 4] = Default::default();
    let mut spare: [Vec<u32>; 4] = Default::default();
    for r in order {
        let (first, last) = spans[r];
        let file = file(f.regs[r].bits());
        while let Some(&Reverse((end, place))) = taken[file].peek()
            && end < first
        {
            taken[file].pop();
            spare[file].push(place);
        }
        places[r] = spare[file].pop().unwrap_or_else(|| {
            count[file] += 1;
            count[file] - 1
        });
        taken[file].push(Reverse((last, places[r])));
    }
    (places, count)
}

fn names(o: &Operand, f: &mut impl FnMut(u32)) {
    match o {
        Operand::Reg(r) | Operand::Not(r) | Operand::Part(r, _) => f(*r),
        Operand::Vector(v) | Operand::List(v) => v.iter().for_each(|o| names(o, f)),
        Operand::Pair(a, b) => [a, b].into_iter().for_each(|o| names(o, f)),
        Operand::Address(a) => {
            names(&a.base, f);
            a.coordinates.iter().for_each(|o| names(o, f));
        }
        _ => (),
    }
}
/// The operand that an instruction writes.
fn result(i: &Instr) -> Option<&Operand> {
    let first = i.operands.first()?;
    let reduces = i.op.starts_with("bar") && i.has("red");
    let call = i.op == "call" && !matches!(first, Operand::List(_));
    let none = NO_RESULT.contains(&i.op.as_str()) && !reduces || call || matches!(first, Operand::Address(_));
    (!none).then_some(first)
}

/// Registers that ptxas need not keep: parameters come from constant memory, constants from the instruction.
fn free(f: &Function) -> Vec<bool> {
    let mut free = vec![true; f.regs.len()];
    for i in &f.body {
        let constant = match i.op.as_str() {
            "ld" => i.has("param"),
            "mov" => !matches!(i.operands.get(1), Some(Operand::Reg(_) | Operand::Vector(_))),
            _ => false,
        };
        if !constant && let Some(o) = result(i) {
            names(o, &mut |r| free[r as usize] = false);
        }
    }
    free
}

/// Registers alive before an instruction, while going backwards.
struct Alive<'f> {
    f: &'f Function,
    free: &'f [bool],
    bits: Vec<u64>,
    words: u32,
}
impl Alive<'_> {
    fn size(&self, r: u32) -> u32 {
        match self.f.regs[r as usize] {
            _ if self.free[r as usize] => 0,
            Type::Pred => 0,
            t => t.bits().div_ceil(32),
        }
    }
    fn begin(&mut self, r: u32) {
        let (word, bit) = (r as usize / 64, 1 << (r % 64));
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.words += self.size(r);
        }
    }
    fn end(&mut self, r: u32) {
        let (word, bit) = (r as usize / 64, 1 << (r % 64));
        if self.bits[word] & bit != 0 {
            self.bits[word] &= !bit;
            self.words -= self.size(r);
        }
    }
    fn join(&mut self, other: &[u64]) {
        for (n, bits) in other.iter().enumerate() {
            let mut new = bits & !self.bits[n];
            while new != 0 {
                self.begin(64 * n as u32 + new.trailing_zeros());
                new &= new - 1;
            }
        }
    }
}

/// The usual backward flow over the labels: `visit` is told which registers are alive before and after each instruction,
/// more of them each time until no more come. `ends` says whether an instruction writes all of its result, where no guard
/// keeps it. False when the function is too large.
fn flow(
    f: &Function,
    free: &[bool],
    ends: impl Fn(&Instr) -> bool,
    mut visit: impl FnMut(usize, &Alive),
) -> bool {
    let words = f.regs.len().div_ceil(64);
    let mut at: Vec<usize> = f.labels.values().copied().collect();
    at.sort_unstable();
    at.dedup();
    if words.saturating_mul(at.len() + 1) > MANY {
        return false;
    }
    let mut before = vec![vec![0u64; words]; at.len()];
    let label = |name: &str| f.labels.get(name).and_then(|l| at.binary_search(l).ok());
    loop {
        let (mut changed, mut a) = (false, Alive { f, free, bits: vec![0; words], words: 0 });
        for (n, i) in f.body.iter().enumerate().rev() {
            // Where it may go on besides the next instruction; without a guard it never goes there.
            let leaves = matches!(i.op.as_str(), "bra" | "brx" | "ret" | "exit" | "trap");
            if leaves && i.guard.is_none() {
                a.bits.iter_mut().for_each(|b| *b = 0);
                a.words = 0;
            }
            if leaves && let Some(Operand::Symbol(name, _)) = i.operands.last() {
                let list = f.targets.get(name).map_or(std::slice::from_ref(name), Vec::as_slice);
                list.iter().filter_map(|l| label(l)).for_each(|l| a.join(&before[l]));
            }
            let written = result(i);
            if let Some(o) = written {
                names(o, &mut |r| a.begin(r));
                visit(n, &a);
                if i.guard.is_none() && ends(i) && !matches!(o, Operand::Part(..)) {
                    names(o, &mut |r| a.end(r));
                }
            }
            i.operands.iter().skip(written.is_some() as usize).for_each(|o| names(o, &mut |r| a.begin(r)));
            i.guard.iter().for_each(|g| a.begin(g.0));
            visit(n, &a);
            if let Ok(l) = at.binary_search(&n)
                && before[l] != a.bits
            {
                before[l].clone_from(&a.bits);
                changed = true;
            }
        }
        if !changed {
            return true;
        }
    }
}
