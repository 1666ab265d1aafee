//! mbarrier. Source: PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier".

use super::copy;
use super::memory::{Form, lanes, wrong};
use crate::error::{Code, Fault, PtxError};
use crate::exec::cta::{Access, Cta, Kind, Order};
use crate::exec::decode::{Decoded, Dst, Scope, Src32, Src64};
use crate::exec::{Class, Exec, Flow, L32, L64, Mask, Warp};
use crate::ptx::ast::{Instr, Operand, Space, Type};

const WORDS: &[&str] = &[
    "init",
    "inval",
    "arrive",
    "arrive_drop",
    "test_wait",
    "try_wait",
    "expect_tx",
    "complete_tx",
    "noComplete",
    "parity",
    "pending_count",
];
const MAX: i64 = (1 << 20) - 1;

/// The 64 bits of an mbarrier: arrivals expected in a phase (20), arrivals pending (20), transactions pending (21,
/// signed), parity of the phase (1), a mark that it is one (2).
#[derive(Clone, Copy)]
struct State {
    expected: i64,
    pending: i64,
    transactions: i64,
    parity: u64,
}
impl State {
    fn read(bits: u64) -> Option<Self> {
        let (expected, pending) = ((bits & 0xf_ffff) as i64, (bits >> 20 & 0xf_ffff) as i64);
        let transactions = (bits << 3) as i64 >> 43;
        (bits >> 62 == 2).then_some(Self { expected, pending, transactions, parity: bits >> 61 & 1 })
    }
    fn bits(self) -> u64 {
        let t = self.transactions as u64 & 0x1f_ffff;
        self.expected as u64 | (self.pending as u64) << 20 | t << 40 | self.parity << 61 | 2 << 62
    }
    fn arrive(&mut self, count: i64, drop: bool) -> Result<(), &'static str> {
        if count < 1 || count > self.pending {
            return Err("more arrivals at an mbarrier than its phase expects");
        }
        self.pending -= count;
        if drop {
            self.expected -= count;
        }
        self.settle();
        Ok(())
    }
    fn expect(&mut self, bytes: i64) -> Result<(), &'static str> {
        self.transactions += bytes;
        if self.transactions.abs() > MAX {
            return Err("an mbarrier's transaction count leaves its range");
        }
        Ok(())
    }
    /// Begins the next phase when nothing is pending in this one.
    fn settle(&mut self) {
        if self.pending == 0 && self.transactions == 0 {
            self.parity ^= 1;
            self.pending = self.expected;
        }
    }
}

fn bits(shared: &mut [u8], at: usize) -> Option<&mut [u8; 8]> {
    shared.get_mut(at..)?.first_chunk_mut()
}

fn misuse(w: &Warp, cta: &mut Cta, lane: u32, what: &str) -> Fault {
    cta.misuse(w, Some(lane), || what.to_owned());
    Fault { code: Code::LaunchFailed, what: what.to_owned(), lane: Some(lane) }
}

/// Works on the mbarrier at an offset in shared memory.
fn with<T>(
    w: &Warp,
    cta: &mut Cta,
    at: usize,
    lane: u32,
    f: impl FnOnce(&mut State) -> Result<T, &'static str>,
) -> Result<T, Fault> {
    let bits = bits(&mut cta.shared, at);
    let state = bits.and_then(|b| Some((State::read(u64::from_le_bytes(*b))?, b)));
    let done = match state {
        Some((mut state, b)) => f(&mut state).inspect(|_| *b = state.bits().to_le_bytes()),
        None => Err("an mbarrier is used that was not initialised"),
    };
    done.map_err(|what| misuse(w, cta, lane, what))
}

/// Offsets in shared memory of the mbarriers that the lanes name.
pub(super) fn locate(
    w: &Warp,
    cta: &mut Cta,
    mask: Mask,
    space: Space,
    addresses: &[u64; 32],
) -> Result<[usize; 32], Fault> {
    let order = Order::Relaxed;
    let p = cta.access(w, &Access { kind: Kind::Barrier, space, addresses, bytes: 8, mask, order })?;
    let base = cta.shared.as_ptr() as usize;
    let at = p.map(|p| (p as usize).wrapping_sub(base));
    match lanes(mask).find(|&l| at[l] >= cta.shared.len()) {
        Some(l) => Err(Fault::address(Code::InvalidAddressSpace, space, addresses[l], 8, l as u32)),
        None => Ok(at),
    }
}

/// One more arrival is pending in this phase, for a lane that will arrive when its copies have landed.
pub(super) fn expect_one(w: &Warp, cta: &mut Cta, at: usize, lane: u32) -> Result<(), Fault> {
    with(w, cta, at, lane, |b| {
        b.pending += 1;
        if b.pending > MAX { Err("an mbarrier's count leaves its range") } else { Ok(()) }
    })
}

/// The arrival of a lane whose copies have landed.
pub(super) fn arrive_later(shared: &mut [u8], at: usize) {
    if let Some(b) = bits(shared, at)
        && let Some(mut state) = State::read(u64::from_le_bytes(*b))
        && state.arrive(1, false).is_ok()
    {
        *b = state.bits().to_le_bytes();
    }
}

/// The family's entry.
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    if i.op != "mbarrier" {
        return Ok(None);
    }
    let f = Form::of(i, WORDS)?;
    if !matches!(f.space, Space::Shared | Space::Generic) || f.ty != Type::B64 {
        return Err(wrong(i, "an mbarrier is a .b64 in shared memory"));
    }
    let word = |m: &str| i.has(m);
    let exec = if word("pending_count") {
        pending_count(s, i)?
    } else if word("test_wait") || word("try_wait") {
        wait(s, i, &f)?
    } else if word("arrive") || word("arrive_drop") {
        arrive(s, i, &f)?
    } else {
        manage(s, i, &f)?
    };
    Ok(Some((exec, Class::Barrier)))
}

fn pending_count(s: &Scope, i: &Instr) -> Result<Exec, PtxError> {
    let d = s.dst(i, s.operand(i, 0)?)?;
    let state = s.src64(i, s.operand(i, 1)?, Type::B64)?;
    let Dst::R32(d) = d else { return Err(wrong(i, "the count is 32 bits wide")) };
    Ok(Box::new(move |w, _, mask| {
        let x = L32(state.get(w).0.map(|s| (s >> 20 & 0xf_ffff) as u32));
        w.set32(d, mask, &x);
        Ok(Flow::Next)
    }))
}

/// init, inval, expect_tx, complete_tx.
fn manage(s: &Scope, i: &Instr, f: &Form) -> Result<Exec, PtxError> {
    let addr = s.addr(i, s.operand(i, 0)?)?;
    let space = f.space;
    if i.has("inval") {
        return Ok(Box::new(move |w, cta, mask| {
            let at = locate(w, cta, mask, space, &addr.get(w))?;
            for l in lanes(mask) {
                with(w, cta, at[l], l as u32, |_| Ok(()))?;
                if let Some(b) = bits(&mut cta.shared, at[l]) {
                    *b = [0; 8];
                }
            }
            Ok(Flow::Next)
        }));
    }
    let n = s.src32(i, s.operand(i, 1)?, Type::U32)?;
    let (init, complete) = (i.has("init"), i.has("complete_tx"));
    if !init && !complete && !i.has("expect_tx") {
        return Err(wrong(i, "the operation is missing"));
    }
    Ok(Box::new(move |w, cta, mask| {
        let at = locate(w, cta, mask, space, &addr.get(w))?;
        for l in lanes(mask) {
            let n = i64::from(n.get(w).0[l]);
            if init {
                if !(1..=MAX).contains(&n) {
                    return Err(misuse(w, cta, l as u32, "an mbarrier's count must be 1 to 1048575"));
                }
                if let Some(b) = bits(&mut cta.shared, at[l]) {
                    *b = State { expected: n, pending: n, transactions: 0, parity: 0 }.bits().to_le_bytes();
                }
                continue;
            }
            with(w, cta, at[l], l as u32, |b| {
                b.expect(if complete { -n } else { n })?;
                b.settle();
                Ok(())
            })?;
        }
        Ok(Flow::Next)
    }))
}

/// arrive and arrive_drop.
fn arrive(s: &Scope, i: &Instr, f: &Form) -> Result<Exec, PtxError> {
    let d = s.dst(i, s.operand(i, 0)?)?;
    if !matches!(d, Dst::R64(_) | Dst::Sink) {
        return Err(wrong(i, "the state is 64 bits wide"));
    }
    let addr = s.addr(i, s.operand(i, 1)?)?;
    let n = match i.operands.get(2) {
        Some(o) => s.src32(i, o, Type::U32)?,
        None if i.has("expect_tx") || i.has("noComplete") => return Err(wrong(i, "the count is missing")),
        None => Src32::Const(Box::new(L32::splat(1))),
    };
    let (drop, expect, open) = (i.has("arrive_drop"), i.has("expect_tx"), i.has("noComplete"));
    let publishes = !i.has("relaxed");
    let space = f.space;
    Ok(Box::new(move |w, cta, mask| {
        copy::drift(cta);
        let at = locate(w, cta, mask, space, &addr.get(w))?;
        let mut old = L64::splat(0);
        for l in lanes(mask) {
            let n = i64::from(n.get(w).0[l]);
            if publishes {
                cta.mbarrier_arrived(w, 1 << l, at[l] as u64);
            }
            old.0[l] = with(w, cta, at[l], l as u32, |b| {
                let before = *b;
                if expect {
                    b.expect(n)?;
                }
                b.arrive(if expect { 1 } else { n }, drop)?;
                if open && b.parity != before.parity {
                    return Err("an mbarrier.arrive.noComplete completes the phase");
                }
                Ok(before.bits())
            })?;
        }
        if let Dst::R64(d) = d {
            w.set64(d, mask, &old);
        }
        Ok(Flow::Next)
    }))
}

enum Phase {
    Token(Src64),
    Parity(Src32),
}

/// test_wait and try_wait. A try that fails lets other warps run.
fn wait(s: &Scope, i: &Instr, f: &Form) -> Result<Exec, PtxError> {
    let d = match s.dst(i, s.operand(i, 0)?)? {
        Dst::Pred(d) => d,
        _ => return Err(wrong(i, "the result is a predicate")),
    };
    let addr = s.addr(i, s.operand(i, 1)?)?;
    let o = s.operand(i, 2)?;
    let phase = match (i.has("parity"), o) {
        (true, o) => Phase::Parity(s.src32(i, o, Type::U32)?),
        (false, Operand::Sink) => return Err(wrong(i, "a state is needed")),
        (false, o) => Phase::Token(s.src64(i, o, Type::B64)?),
    };
    if let (Some(o), true) = (i.operands.get(3), i.has("try_wait")) {
        s.src32(i, o, Type::U32)?;
    }
    let learns = !i.has("relaxed");
    let space = f.space;
    Ok(Box::new(move |w, cta, mask| {
        copy::drift(cta);
        let at = locate(w, cta, mask, space, &addr.get(w))?;
        let asked: [u64; 32] = match &phase {
            Phase::Token(x) => x.get(w).0.map(|x| x >> 61 & 1),
            Phase::Parity(x) => x.get(w).0.map(|x| u64::from(x & 1)),
        };
        let test = |w: &Warp, cta: &mut Cta| -> Result<Mask, Fault> {
            let mut done = 0;
            for l in lanes(mask) {
                done |= Mask::from(with(w, cta, at[l], l as u32, |b| Ok(b.parity != asked[l]))?) << l;
            }
            Ok(done)
        };
        let mut done = test(w, cta)?;
        if done != mask && copy::settle(cta) {
            done = test(w, cta)?;
        }
        w.set_pred(d, mask, done);
        if learns {
            lanes(done).for_each(|l| cta.mbarrier_waited(w, 1 << l, at[l] as u64));
        }
        Ok(if done == mask { Flow::Next } else { Flow::Yield })
    }))
}
