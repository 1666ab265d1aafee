//! cp.async and its groups. A copy lands as late as the program allows, or, under a seed, at a random moment before;
//! from issue to landing its destination is poisoned when a seed or a checker is on.
//! Source: PTX ISA, "Data Movement and Conversion Instructions: Asynchronous copy".

use super::lanes::simd;
use super::mbarrier;
use super::memory::{lanes, wrong};
use crate::error::{Code, Fault, PtxError};
use crate::exec::cta::{Access, Cta, Kind, Order};
use crate::exec::decode::{Addr, Decoded, Scope, Src32, SrcPred};
use crate::exec::{Class, Exec, Flow, Mask, Warp};
use crate::ptx::ast::{Instr, Operand, Space, Type};
use std::collections::VecDeque;

/// A byte of a destination whose copy has not landed: NaN in every float format, -1 as an integer.
pub const POISON: u8 = 0xff;

/// One instruction's copies.
struct Copy {
    /// Place in the order of the warp's copies.
    serial: u64,
    /// Lanes whose wait has not come yet.
    waiting: Mask,
    /// Lanes whose bytes have not landed yet.
    flying: Mask,
    /// Group of each lane: how many the lane had committed before.
    group: [u32; 32],
    /// Whether all lanes are in the same group.
    together: bool,
    /// Host addresses.
    from: [u64; 32],
    /// Offsets in shared memory.
    to: [u32; 32],
    /// Bytes of each lane.
    bytes: u32,
    /// Of these, bytes that come from the source; the others are zero.
    live: [u8; 32],
    /// Lanes of which all do.
    whole: Mask,
}
impl Copy {
    fn land(&mut self, mask: Mask, shared: &mut [u8]) {
        let now = self.flying & mask;
        self.flying &= !now;
        // As most are.
        let sixteen = self.bytes == 16 && now & !self.whole == 0;
        for l in lanes(now) {
            let (at, live) = (self.to[l] as usize, if sixteen { 16 } else { self.live[l] as usize });
            let Some(to) = shared.get_mut(at..at + self.bytes as usize) else { continue };
            let (from, to) = (self.from[l] as *const u8, to.as_mut_ptr());
            // SAFETY: `access` vouched for `live` bytes of the source at issue, and device memory stays mapped while a
            // kernel runs; the destination is a slice of `bytes` bytes.
            unsafe {
                match live {
                    16 => to.cast::<[u64; 2]>().write_unaligned(from.cast::<[u64; 2]>().read_unaligned()),
                    8 => to.cast::<u64>().write_unaligned(from.cast::<u64>().read_unaligned()),
                    4 => to.cast::<u32>().write_unaligned(from.cast::<u32>().read_unaligned()),
                    n => to.copy_from_nonoverlapping(from, n),
                }
                if !sixteen {
                    to.add(live).write_bytes(0, self.bytes as usize - live);
                }
            }
        }
    }
}

/// The copies of a warp.
#[derive(Default)]
struct Issued {
    /// In order.
    copies: VecDeque<Box<Copy>>,
    /// Groups that each lane committed.
    committed: [u32; 32],
    /// Copies issued so far.
    serial: u64,
}

/// An arrival of one lane at an mbarrier that follows the copies which the lane had issued.
struct Arrival {
    warp: usize,
    lane: u32,
    /// Copies issued by the warp before it.
    serial: u64,
    /// Offset of the mbarrier in shared memory.
    barrier: usize,
}

/// Copies issued by a block's threads and not landed yet.
#[derive(Default)]
pub struct InFlight {
    warps: Vec<Issued>,
    arrivals: VecDeque<Arrival>,
    spare: Vec<Box<Copy>>,
}
impl InFlight {
    /// Forgets everything: a block begins.
    pub fn clear(&mut self) {
        for w in &mut self.warps {
            self.spare.extend(w.copies.drain(..));
            w.committed = [0; 32];
        }
        self.arrivals.clear();
    }
    fn warp(&mut self, id: usize) -> &mut Issued {
        if self.warps.len() <= id {
            self.warps.resize_with(id + 1, Issued::default);
        }
        &mut self.warps[id]
    }
}

/// Whether bytes that hold nothing yet are poisoned.
pub fn poisons(cta: &Cta) -> bool {
    cta.random.is_some() || cta.launch.options.checks()
}

/// A moment at which, under a seed, a copy in flight may land or an mbarrier hear of it.
#[inline(always)]
pub fn drift(cta: &mut Cta) {
    if cta.random.is_some() {
        chance(cta);
    }
}

#[cold]
fn chance(cta: &mut Cta) {
    let Some(random) = &mut cta.random else { return };
    let InFlight { warps, arrivals, .. } = &mut cta.copies;
    if warps.is_empty() {
        return;
    }
    let dice = random.next();
    if dice & 7 == 0 {
        let n = (dice >> 8) as usize % warps.len();
        let w = &mut warps[n];
        if !w.copies.is_empty() {
            let k = (dice >> 16) as usize % w.copies.len();
            let mask = if dice & 8 == 0 { !0 } else { random.next() };
            w.copies[k].land(mask, &mut cta.shared);
        }
    }
    if dice & 0x70 == 0 && !arrivals.is_empty() {
        settle(cta);
    }
}

/// Lets copies that an mbarrier waits for land: all, or under a seed one of them. Whether there were any.
pub(super) fn settle(cta: &mut Cta) -> bool {
    let InFlight { warps, arrivals, .. } = &mut cta.copies;
    let seeded = cta.random.is_some();
    if seeded && let Some(random) = &mut cta.random {
        let n = arrivals.len().max(1);
        arrivals.rotate_left(random.next() as usize % n);
    }
    let mut any = false;
    while let Some(a) = arrivals.pop_front() {
        any = true;
        if let Some(w) = warps.get_mut(a.warp) {
            for c in w.copies.iter_mut().filter(|c| c.serial < a.serial) {
                c.land(1 << a.lane, &mut cta.shared);
            }
        }
        mbarrier::arrive_later(&mut cta.shared, a.barrier);
        if seeded {
            break;
        }
    }
    any
}

/// The family's entry.
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    if i.op != "cp" || !i.has("async") || i.has("bulk") {
        return Ok(None);
    }
    if i.has("mbarrier") {
        return arrive(s, i).map(Some);
    }
    let exec: Exec = if i.has("commit_group") {
        Box::new(|w, cta, mask| {
            drift(cta);
            commit(w, cta, mask);
            Ok(Flow::Next)
        })
    } else if i.has("wait_all") {
        Box::new(|w, cta, mask| {
            commit(w, cta, mask);
            wait(w, cta, mask, 0);
            Ok(Flow::Next)
        })
    } else if i.has("wait_group") {
        let Operand::Int(n) = *s.operand(i, 0)? else { return Err(wrong(i, "the count must be a constant")) };
        let n = u32::try_from(n).map_err(|_| wrong(i, "the count must not be negative"))?;
        Box::new(move |w, cta, mask| {
            wait(w, cta, mask, n);
            Ok(Flow::Next)
        })
    } else {
        return issue(s, i).map(Some);
    };
    Ok(Some((exec, Class::AsyncCopy)))
}

fn commit(w: &Warp, cta: &mut Cta, mask: Mask) {
    let c = &mut cta.copies.warp(w.id as usize).committed;
    lanes(mask).for_each(|l| c[l] += 1);
}

/// Lands the groups of these lanes except the newest `keep`.
fn wait(w: &Warp, cta: &mut Cta, mask: Mask, keep: u32) {
    let id = w.id as usize;
    cta.copies.warp(id);
    let InFlight { warps, spare, .. } = &mut cta.copies;
    let Issued { copies, committed, .. } = &mut warps[id];
    let together = committed.iter().all(|c| *c == committed[0]);
    let check = &mut cta.check;
    let shared = &mut cta.shared;
    for _ in 0..copies.len() {
        let Some(mut c) = copies.pop_front() else { return };
        let over = |l: usize| c.group[l].saturating_add(keep) < committed[l];
        let mut due = if over(0) { !0 } else { 0 };
        if !(together && c.together) {
            due = (0..32).fold(0, |due, l| due | Mask::from(over(l)) << l);
        }
        due &= c.waiting & mask;
        c.land(due, shared);
        c.waiting &= !due;
        if let Some(k) = check {
            lanes(due).for_each(|l| k.landed(w.id * 32 + l as u32, c.to[l].into(), c.bytes));
        }
        // Its memory is used again.
        if c.waiting == 0 { spare.push(c) } else { copies.push_back(c) }
    }
}

/// How much of a lane's copy comes from the source.
enum Live {
    All,
    Bytes(Src32),
    Unless(SrcPred),
}

simd! {
    fn issue[](s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
        let known = |m: &str| {
            matches!(m, "async" | "ca" | "cg" | "shared" | "shared::cta" | "global") || m.starts_with("L2::")
        };
        if let Some(m) = i.mods.iter().find(|m| !known(m)) {
            return Err(wrong(i, &format!(".{m} is not known here")));
        }
        let to = s.addr(i, s.operand(i, 0)?)?;
        let from = s.addr(i, s.operand(i, 1)?)?;
        let bytes = match s.operand(i, 2)? {
            Operand::Int(n @ (4 | 8 | 16)) if *n == 16 || i.has("ca") => *n as u32,
            _ => return Err(wrong(i, "the size must be 4, 8 or 16 (with .cg 16)")),
        };
        let extra = i.operands.len() - usize::from(i.has("L2::cache_hint"));
        let live = match i.operands.get(3).filter(|_| extra > 3) {
            None => Live::All,
            Some(Operand::Int(n)) if *n == i64::from(bytes) => Live::All,
            Some(o @ Operand::Reg(r)) if s.function.regs[*r as usize] == Type::Pred => {
                Live::Unless(s.pred(i, o)?)
            }
            Some(o @ Operand::Not(_)) => Live::Unless(s.pred(i, o)?),
            Some(o) => Live::Bytes(s.src32(i, o, Type::U32)?),
        };
        let exec: Exec = Box::new(move |w, cta, mask| {
            if mask != 0 {
                start(w, cta, mask, &to, &from, bytes, &live)?;
            }
            Ok(Flow::Next)
        });
        Ok((exec, Class::AsyncCopy))
    }
}

#[inline(always)]
fn start(
    w: &Warp,
    cta: &mut Cta,
    mask: Mask,
    to: &Addr,
    from: &Addr,
    bytes: u32,
    live: &Live,
) -> Result<(), Fault> {
    let mut sizes = [bytes as u8; 32];
    let mut whole = mask;
    match live {
        Live::All => {}
        Live::Unless(p) => {
            let none = p.get(w) & mask;
            lanes(none).for_each(|l| sizes[l] = 0);
            whole &= !none;
        }
        Live::Bytes(n) => {
            let n = n.get(w);
            let mut same = 0;
            for (l, n) in n.0.iter().enumerate() {
                same |= Mask::from(*n == bytes) << l;
            }
            whole &= same;
            for l in lanes(mask & !same) {
                if n.0[l] > bytes {
                    let what = format!("a source of {} bytes for a copy of {bytes}", n.0[l]);
                    return Err(Fault { code: Code::IllegalInstruction, what, lane: Some(l as u32) });
                }
                sizes[l] = n.0[l] as u8;
            }
        }
    }
    let order = Order::Weak;
    let mut addresses = from.get(w);
    let (kind, space) = (Kind::AsyncRead, Space::Global);
    let mut sources = [std::ptr::null_mut(); 32];
    if whole != 0 {
        sources = cta.access(w, &Access { kind, space, addresses: &addresses, bytes, mask: whole, order })?;
    }
    // Shorter sources are touched byte by byte; they are rare.
    for l in lanes(mask & !whole).filter(|&l| sizes[l] > 0) {
        if !addresses[l].is_multiple_of(u64::from(bytes)) {
            return Err(Fault::address(Code::MisalignedAddress, space, addresses[l], bytes, l as u32));
        }
        let first = addresses[l];
        for k in (0..u64::from(sizes[l])).rev() {
            addresses[l] = first + k;
            let a = Access { kind, space, addresses: &addresses, bytes: 1, mask: 1 << l, order };
            sources[l] = cta.access(w, &a)?[l];
        }
    }
    let destinations = cta.reach(w, to, (Kind::AsyncWrite, Space::Shared, order), bytes, mask)?;
    let poison = poisons(cta);
    let base = cta.shared.as_ptr() as usize;
    let id = w.id as usize;
    cta.copies.warp(id);
    let InFlight { warps, spare, .. } = &mut cta.copies;
    let issued = &mut warps[id];
    let mut c = spare.pop().unwrap_or_else(|| {
        let (group, from, to, live) = ([0; 32], [0; 32], [0; 32], [0; 32]);
        let (serial, waiting, flying, bytes, whole, together) = (0, 0, 0, 0, 0, true);
        Box::new(Copy { serial, waiting, flying, group, together, from, to, bytes, live, whole })
    });
    c.serial = issued.serial;
    issued.serial += 1;
    (c.waiting, c.flying, c.bytes, c.live, c.whole, c.group) =
        (mask, mask, bytes, sizes, whole, issued.committed);
    c.together = c.group.iter().all(|g| *g == c.group[0]);
    for l in 0..32 {
        c.from[l] = sources[l] as u64;
        c.to[l] = (destinations[l] as usize).wrapping_sub(base) as u32;
    }
    if poison {
        for l in lanes(mask) {
            let at = c.to[l] as usize;
            if let Some(to) = cta.shared.get_mut(at..at + bytes as usize) {
                to.fill(POISON);
            }
        }
    }
    // Under a seed a third lands at once, the rest as it comes.
    if let Some(random) = &mut cta.random
        && random.next() % 3 == 0
    {
        c.land(!0, &mut cta.shared);
    }
    issued.copies.push_back(c);
    drift(cta);
    Ok(())
}

/// `cp.async.mbarrier.arrive`: the lane arrives when its copies so far have landed. To the checkers they land here,
/// published to whoever waits for the mbarrier.
fn arrive(s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
    let known = ["async", "mbarrier", "arrive", "noinc", "shared", "shared::cta", "b64"];
    if let Some(m) = i.mods.iter().find(|m| !known.contains(&m.as_str())) {
        return Err(wrong(i, &format!(".{m} is not known here")));
    }
    let increments = !i.has("noinc");
    let space = if i.mods.iter().any(|m| m.starts_with("shared")) { Space::Shared } else { Space::Generic };
    let addr = s.addr(i, s.operand(i, 0)?)?;
    let exec: Exec = Box::new(move |w, cta, mask| {
        let barriers = mbarrier::locate(w, cta, mask, space, &addr.get(w))?;
        for l in lanes(mask) {
            if increments {
                mbarrier::expect_one(w, cta, barriers[l], l as u32)?;
            }
            let issued = cta.copies.warp(w.id as usize);
            let serial = issued.serial;
            for c in issued.copies.iter_mut().filter(|c| c.waiting >> l & 1 == 1) {
                if let Some(k) = &mut cta.check {
                    k.landed(w.id * 32 + l as u32, c.to[l].into(), c.bytes);
                }
            }
            cta.mbarrier_arrived(w, 1 << l, barriers[l] as u64);
            let (warp, lane, barrier) = (w.id as usize, l as u32, barriers[l]);
            cta.copies.arrivals.push_back(Arrival { warp, lane, serial, barrier });
        }
        drift(cta);
        Ok(Flow::Next)
    });
    Ok((exec, Class::AsyncCopy))
}
