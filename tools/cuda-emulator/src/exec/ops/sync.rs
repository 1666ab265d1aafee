//! bar, barrier, membar, fence, nanosleep and hints of scheduling.

use crate::error::{Code, Fault, PtxError};
use crate::exec::decode::{Decoded, Dst, Scope, Src32};
use crate::exec::{Barrier, Class, Exec, Flow, Mask, Reduce, Warp};
use crate::ptx::ast::{Instr, Operand, Type};

/// Decodes block barriers and fences.
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    match i.op.as_str() {
        "bar" if i.has("warp") => warp_barrier(s, i),
        "barrier" if i.has("cluster") => {
            // A cluster of one block: what the barrier waits for is the block.
            let wait = !i.has("arrive");
            let exec: Exec = Box::new(move |w, cta, m| {
                cta.fence(w, m);
                Ok(if wait { Flow::Barrier(whole()) } else { Flow::Next })
            });
            Ok(Some((exec, Class::Barrier)))
        }
        "bar" | "barrier" => barrier(s, i),
        "membar" | "fence" => {
            let exec: Exec = Box::new(|w, cta, m| {
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                cta.fence(w, m);
                Ok(Flow::Next)
            });
            Ok(Some((exec, Class::Fence)))
        }
        "nanosleep" => Ok(Some((Box::new(|_, _, _| Ok(Flow::Yield)), Class::Other))),
        "griddepcontrol" | "setmaxnreg" | "pmevent" => {
            Ok(Some((Box::new(|_, _, _| Ok(Flow::Next)), Class::Other)))
        }
        _ => Ok(None),
    }
}

/// `bar.warp.sync members`: waits until all of them that are left have come here.
fn warp_barrier(s: &Scope, i: &Instr) -> Decoded {
    let members = s.src32(i, s.operand(i, 0)?, Type::B32)?;
    let exec: Exec = Box::new(move |w, cta, m| {
        let masks = members.get(w).0;
        let (mut left, mut missing, mut gone) = (m, 0, 0);
        while left != 0 {
            let lane = left.trailing_zeros();
            let named = masks[lane as usize];
            if named >> lane & 1 == 0 {
                cta.misuse(w, Some(lane), || format!("the members {named:#010x} leave out the lane itself"));
            }
            missing |= named & w.alive & !m;
            gone |= named & w.lanes & !w.alive;
            left &= !named & !(1 << lane);
        }
        if missing != 0 {
            if !w.stuck {
                return Ok(Flow::Converge);
            }
            cta.misuse(w, Some(m.trailing_zeros()), || {
                format!("lanes {missing:#010x} of the members do not come to the warp's barrier")
            });
        }
        if gone != 0 {
            cta.misuse(w, Some(m.trailing_zeros()), || {
                format!("lanes {gone:#010x} of the members have exited before the warp's barrier")
            });
        }
        let mut left = m;
        while left != 0 {
            let lane = left.trailing_zeros();
            let group = (masks[lane as usize] & m) | 1 << lane;
            cta.warp_barrier(w, group);
            left &= !group;
        }
        Ok(Flow::Next)
    });
    Ok(Some((exec, Class::Barrier)))
}

/// An exchange that waits until the lanes of its member mask are here, or those that are not will not come.
pub fn together(members: Src32, exec: Exec) -> Exec {
    Box::new(move |w, cta, m| {
        let want = members.get(w).0[m.trailing_zeros() as usize & 31];
        if want & w.alive & !m != 0 && !w.stuck {
            return Ok(Flow::Converge);
        }
        let gone = want & w.lanes & !w.alive;
        if gone != 0 {
            cta.misuse(w, Some(m.trailing_zeros()), || {
                format!("member mask {want:#010x} names lanes that have exited ({gone:#010x})")
            });
        }
        exec(w, cta, m)
    })
}

/// The barrier that stands for a cluster's: outside of the sixteen that programs name.
fn whole() -> Barrier {
    Barrier { id: 16, threads: None, wait: true, aligned: false, reduce: None }
}

/// A 32-bit operand that must be the same in all lanes.
fn same(x: &[u32; 32], mask: Mask, what: &str) -> Result<u32, Fault> {
    let first = x[mask.trailing_zeros() as usize & 31];
    match (0..32).find(|&l| mask >> l & 1 == 1 && x[l] != first) {
        None => Ok(first),
        Some(l) => Err(Fault {
            lane: Some(l as u32),
            ..Fault::new(
                Code::IllegalInstruction,
                format!("{what} of a barrier differs between lanes: {first} and {}", x[l]),
            )
        }),
    }
}

fn barrier(s: &Scope, i: &Instr) -> Decoded {
    let aligned = i.op == "bar" || i.has("aligned");
    let (red, arrive) = (i.has("red"), i.has("arrive"));
    if !red && !arrive && !i.has("sync") {
        return Err(PtxError::new(i.line, format!("{}: neither sync, arrive nor red", i.spelling())));
    }
    let mut operands = i.operands.iter();
    let target = if red { Some(s.dst(i, s.operand(i, 0)?)?) } else { None };
    if red {
        operands.next();
    }
    let mut operands: Vec<&Operand> = operands.collect();
    let source = if red {
        let o = operands.pop().ok_or_else(|| PtxError::new(i.line, "bar.red: no predicate"))?;
        Some(s.pred(i, o)?)
    } else {
        None
    };
    let id = match operands.first() {
        Some(o) => s.src32(i, o, Type::U32)?,
        None => return Err(PtxError::new(i.line, format!("{}: no barrier", i.spelling()))),
    };
    let threads = operands.get(1).map(|o| s.src32(i, o, Type::U32)).transpose()?;
    if arrive && threads.is_none() {
        return Err(PtxError::new(i.line, format!("{}: arrive wants a number of threads", i.spelling())));
    }
    let (popc, and) = (i.has("popc"), i.has("and"));
    let exec: Exec = Box::new(move |w: &mut Warp, _, mask| {
        let id = same(&id.get(w).0, mask, "the number")?;
        if id > 15 {
            return Err(Fault::new(Code::IllegalInstruction, format!("there is no barrier {id}")));
        }
        let threads = match &threads {
            Some(t) => Some(same(&t.get(w).0, mask, "the number of threads")?),
            None => None,
        };
        if let Some(t) = threads.filter(|t| t % 32 != 0 || *t == 0) {
            let what = format!("a barrier of {t} threads: not a multiple of a warp");
            return Err(Fault::new(Code::IllegalInstruction, what));
        }
        let lanes = source.map_or(0, |p| p.get(w)) & mask;
        let reduce = match target {
            Some(Dst::R32(slot)) if popc => Some(Reduce::Count { lanes, slot }),
            Some(Dst::Pred(slot)) if and => Some(Reduce::And { lanes, slot }),
            Some(Dst::Pred(slot)) => Some(Reduce::Or { lanes, slot }),
            _ => None,
        };
        Ok(Flow::Barrier(Barrier { id, threads, wait: !arrive, aligned, reduce }))
    });
    Ok(Some((exec, Class::Barrier)))
}
