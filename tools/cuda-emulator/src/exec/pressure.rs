//! How many registers a kernel needs: an estimate, as PTX has virtual ones and ptxas is not here.

use crate::ptx::ast::{Function, Instr, Operand, Type};

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
/// More words of virtual registers times labels than that are not looked at: the answer is the most there can be.
const MANY: usize = 1 << 22;

/// Registers of 32 bits that are alive at once at most, between 8 and 255 and what `.maxnreg` and `.maxntid` leave; a
/// little more for what ptxas keeps beside them.
pub fn registers(f: &Function) -> u32 {
    let threads = f.max_threads.or(f.required_threads);
    let threads = threads.map_or(256, |t| t.iter().fold(1u32, |a, b| a.saturating_mul((*b).max(1))));
    let most = (65536 / threads.clamp(32, 1024).next_multiple_of(32) / 8 * 8).min(255);
    let most = most.min(f.max_registers.unwrap_or(255)).max(16);
    (alive(f) + 2).clamp(8, most)
}

fn names(o: &Operand, f: &mut impl FnMut(u32)) {
    match o {
        Operand::Reg(r) | Operand::Not(r) => f(*r),
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

/// Most registers of 32 bits alive at once, by the usual backward flow over the labels.
fn alive(f: &Function) -> u32 {
    let words = f.regs.len().div_ceil(64);
    let mut at: Vec<usize> = f.labels.values().copied().collect();
    at.sort_unstable();
    at.dedup();
    if words.saturating_mul(at.len() + 1) > MANY {
        return 255;
    }
    let mut before = vec![vec![0u64; words]; at.len()];
    let label = |name: &str| f.labels.get(name).and_then(|l| at.binary_search(l).ok());
    let free = free(f);
    let mut most;
    loop {
        let (mut changed, mut a) = (false, Alive { f, free: &free, bits: vec![0; words], words: 0 });
        most = 0;
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
                most = most.max(a.words);
                if i.guard.is_none() && i.op != "wgmma" {
                    names(o, &mut |r| a.end(r));
                }
            }
            i.operands.iter().skip(written.is_some() as usize).for_each(|o| names(o, &mut |r| a.begin(r)));
            i.guard.iter().for_each(|g| a.begin(g.0));
            most = most.max(a.words);
            if let Ok(l) = at.binary_search(&n)
                && before[l] != a.bits
            {
                before[l].clone_from(&a.bits);
                changed = true;
            }
        }
        if !changed {
            return most;
        }
    }
}
