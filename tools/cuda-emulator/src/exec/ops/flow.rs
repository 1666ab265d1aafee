//! bra, brx, call, ret, exit, trap, brkpt.

use crate::error::{Code, Fault, PtxError};
use crate::exec::builtin;
use crate::exec::cta::CODE;
use crate::exec::decode::{Decoded, Dst, Scope, Src32, Src64};
use crate::exec::load::Layout;
use crate::exec::{Class, Cta, Exec, Flow, L32, L64, Mask, Warp};
use crate::ptx::ast::{Function, Instr, Operand, Type};

/// Where a returned value goes.
#[derive(Clone, Copy, Debug)]
pub enum To {
    /// An offset in the caller's param memory.
    Param(u64),
    /// A register.
    Reg(Dst),
}
/// What a call's return values do: where each is in the callee's param memory, its bytes, where it goes.
pub type Returns = Vec<(u64, u64, To)>;

/// What an argument is.
enum From {
    Param(u64),
    Narrow(Src32),
    Wide(Src64),
}

/// Decodes control flow.
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    let done = |exec: Exec| Ok(Some((exec, Class::Branch)));
    match i.op.as_str() {
        "bra" => {
            let target = s.label(i, s.operand(i, 0)?)?;
            done(Box::new(move |_, _, taken| Ok(Flow::Branch { taken, target })))
        }
        "brx" => brx(s, i),
        "ret" => done(Box::new(|_, _, _| Ok(Flow::Return))),
        "exit" => done(Box::new(|_, _, _| Ok(Flow::Exit))),
        "trap" => done(Box::new(|_, _, m| {
            let lane = Some(m.trailing_zeros());
            Err(Fault { lane, ..Fault::new(Code::LaunchFailed, "the kernel executed trap") })
        })),
        "brkpt" => done(Box::new(|_, _, _| Ok(Flow::Next))),
        "call" => call(s, i),
        _ => Ok(None),
    }
}

fn brx(s: &Scope, i: &Instr) -> Decoded {
    let index = s.src32(i, s.operand(i, 0)?, Type::U32)?;
    let Operand::Symbol(list, _) = s.operand(i, 1)? else {
        return Err(PtxError::new(i.line, "brx.idx: the second operand must name a list of targets"));
    };
    let names = s.function.targets.get(list);
    let names = names.ok_or_else(|| PtxError::new(i.line, format!("{list} is not a list of targets")))?;
    let targets =
        names.iter().map(|n| s.label(i, &Operand::Symbol(n.clone(), 0))).collect::<Result<Vec<u32>, _>>()?;
    let exec: Exec = Box::new(move |w, _, mask| {
        let index = index.get(w);
        let mut to = Box::new([0; 32]);
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            to[lane] = *targets.get(index.0[lane] as usize).ok_or_else(|| Fault {
                lane: Some(lane as u32),
                ..Fault::new(Code::InvalidPc, format!("index {} has no branch target", index.0[lane]))
            })?;
        }
        Ok(Flow::Scatter(to))
    });
    Ok(Some((exec, Class::Branch)))
}

/// Operands of a call: return list, callee, arguments, prototype or targets.
fn parts(i: &Instr) -> Option<(&[Operand], &Operand, &[Operand], Option<&str>)> {
    let mut rest = i.operands.as_slice();
    let list = |o: Option<&Operand>| matches!(o, Some(Operand::List(_)));
    let mut returns: &[Operand] = &[];
    if list(rest.first()) {
        let Some(Operand::List(l)) = rest.first() else { return None };
        returns = l;
        rest = &rest[1..];
    }
    let callee = rest.first()?;
    rest = &rest[1..];
    let mut args: &[Operand] = &[];
    if let Some(Operand::List(l)) = rest.first() {
        args = l;
        rest = &rest[1..];
    }
    let proto = match rest.first() {
        Some(Operand::Symbol(name, _)) => Some(name.as_str()),
        _ => None,
    };
    Some((returns, callee, args, proto))
}

/// Offsets and bytes of a list of variables, as a function with them has.
fn target_layout<'a>(s: &'a Scope, i: &Instr) -> Option<std::borrow::Cow<'a, Layout>> {
    use std::borrow::Cow;
    let (_, callee, _, proto) = parts(i)?;
    match callee {
        Operand::Symbol(name, _) => s.functions.get(name).map(|&f| Cow::Borrowed(&s.layouts[f as usize])),
        _ => {
            let name = proto?;
            if let Some(p) = s.function.prototypes.get(name) {
                return Some(Cow::Owned(Layout::of(&p.params, &p.returns)));
            }
            let first = s.function.targets.get(name)?.first()?;
            s.functions.get(first).map(|&f| Cow::Borrowed(&s.layouts[f as usize]))
        }
    }
}

/// What to do when this call returns; `None` when it is no call of a function with a body.
pub fn returns(s: &Scope, i: &Instr) -> Option<Returns> {
    if i.op != "call" {
        return None;
    }
    let (to, ..) = parts(i)?;
    let layout = target_layout(s, i)?;
    to.iter()
        .zip(&layout.returns)
        .map(|(o, &(at, bytes))| {
            let to = match o {
                Operand::Symbol(name, offset) => {
                    To::Param(s.symbols.get(name)?.1.wrapping_add(*offset as u64))
                }
                o => To::Reg(s.dst(i, o).ok()?),
            };
            Some((at, bytes, to))
        })
        .collect()
}

fn call(s: &Scope, i: &Instr) -> Decoded {
    let wrong = |what: String| PtxError::new(i.line, format!("call: {what}"));
    let (to, callee, args, _) = parts(i).ok_or_else(|| wrong("no callee".into()))?;
    let layout = target_layout(s, i).ok_or_else(|| wrong("the callee is not declared".into()))?.into_owned();
    if args.len() != layout.params.len() || to.len() != layout.returns.len() {
        return Err(wrong(format!(
            "{} arguments and {} results where the callee has {} and {}",
            args.len(),
            to.len(),
            layout.params.len(),
            layout.returns.len()
        )));
    }
    returns(s, i).ok_or_else(|| wrong("a result goes nowhere".into()))?;
    let mut moves = vec![];
    for (o, &(at, bytes)) in args.iter().zip(&layout.params) {
        let from = match o {
            Operand::Symbol(name, offset) => match s.symbols.get(name) {
                Some(&(_, from)) => From::Param(from.wrapping_add(*offset as u64)),
                None => return Err(wrong(format!("{name} is not declared"))),
            },
            o if bytes > 4 => From::Wide(s.src64(i, o, Type::B64)?),
            o => From::Narrow(s.src32(i, o, Type::B32)?),
        };
        moves.push((from, at, bytes));
    }
    let done = |exec: Exec| Ok(Some((exec, Class::Branch)));
    if let Some(name) = &layout.builtin {
        let run = builtin::named(name).ok_or_else(|| wrong(format!("{name} has no body")))?;
        let results = returns(s, i).unwrap_or_default();
        return done(Box::new(move |w, cta, mask| {
            pass(w, cta, mask, &moves)?;
            run(w, cta, mask)?;
            // A builtin leaves its result where its parameters were.
            let depth = w.depth;
            give(w, cta, mask, &results.iter().map(|&(_, b, to)| (0, b, to)).collect::<Vec<_>>(), depth)?;
            Ok(Flow::Next)
        }));
    }
    match callee {
        Operand::Symbol(name, _) => {
            let function = *s.functions.get(name).ok_or_else(|| wrong(format!("{name} is not declared")))?;
            done(Box::new(move |w, cta, taken| {
                pass(w, cta, taken, &moves)?;
                Ok(Flow::Call { taken, function })
            }))
        }
        o => {
            let pointer = s.src64(i, o, Type::U64)?;
            let bodies: Vec<bool> = s.layouts.iter().map(|l| l.builtin.is_none()).collect();
            done(Box::new(move |w, cta, mask| {
                pass(w, cta, mask, &moves)?;
                let mut to = Box::new([u32::MAX; 32]);
                for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
                    let at = pointer.get(w).0[lane];
                    let f = at.wrapping_sub(CODE);
                    if !bodies.get(f as usize).copied().unwrap_or(false) {
                        let what = format!("a call to {at:#x}, where no function is");
                        return Err(Fault { lane: Some(lane as u32), ..Fault::new(Code::InvalidPc, what) });
                    }
                    to[lane] = f as u32;
                }
                Ok(Flow::Calls(to))
            }))
        }
    }
}

fn lost() -> Fault {
    Fault::new(Code::HardwareStackError, "arguments of a call are outside of param memory")
}

/// Copies arguments into the param memory of the next frame.
fn pass(w: &Warp, cta: &mut Cta, mask: Mask, moves: &[(From, u64, u64)]) -> Result<(), Fault> {
    cta.grow(w.depth + 1)?;
    let mut bytes = vec![];
    for (from, at, n) in moves {
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            let thread = w.id as usize * 32 + lane;
            bytes.clear();
            match from {
                From::Param(offset) => {
                    bytes.extend_from_slice(cta.param_bytes(w.depth, thread, *offset, *n).ok_or_else(lost)?)
                }
                From::Narrow(x) => bytes.extend_from_slice(&x.get(w).0[lane].to_le_bytes()),
                From::Wide(x) => bytes.extend_from_slice(&x.get(w).0[lane].to_le_bytes()),
            }
            bytes.resize(*n as usize, 0);
            cta.param_bytes(w.depth + 1, thread, *at, *n).ok_or_else(lost)?.copy_from_slice(&bytes);
        }
    }
    Ok(())
}

/// Copies results from the param memory of the frame below `depth` to where the caller, at `depth`, wants them. The
/// warp's registers are the caller's.
pub fn give(w: &mut Warp, cta: &mut Cta, mask: Mask, results: &Returns, depth: u32) -> Result<(), Fault> {
    for &(from, n, to) in results {
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            let thread = w.id as usize * 32 + lane;
            let bytes = cta.param_bytes(depth + 1, thread, from, n).ok_or_else(lost)?.to_vec();
            let number = bytes.iter().take(8).rev().fold(0u64, |x, &b| x << 8 | u64::from(b));
            match to {
                To::Param(at) => {
                    cta.param_bytes(depth, thread, at, n).ok_or_else(lost)?.copy_from_slice(&bytes)
                }
                To::Reg(Dst::R32(slot)) => w.set32(slot, 1 << lane, &L32::splat(number as u32)),
                To::Reg(Dst::R64(slot)) => w.set64(slot, 1 << lane, &L64::splat(number)),
                To::Reg(Dst::Pred(slot)) => w.set_pred(slot, 1 << lane, if number == 0 { 0 } else { !0 }),
                To::Reg(_) => {}
            }
        }
    }
    Ok(())
}

/// Whether a branch closes a loop that waits for another thread: short, back, with a load or an atomic that may see what
/// others wrote, and without a store. To add anything but 0 is to work, not to wait.
pub fn spins(f: &Function, n: usize) -> bool {
    let i = &f.body[n];
    let Some(Operand::Symbol(name, _)) = i.operands.first().filter(|_| i.op == "bra") else { return false };
    let Some(&from) = f.labels.get(name).filter(|&&t| t <= n && n - t < 48) else { return false };
    let body = &f.body[from..n];
    let strong = ["volatile", "relaxed", "acquire", "acq_rel", "mmio"];
    let looks = |i: &Instr| match i.op.as_str() {
        "ld" => strong.iter().any(|m| i.has(m)),
        "atom" if i.has("add") => matches!(i.operands.last(), Some(Operand::Int(0))),
        "atom" => i.has("cas") || i.has("exch") || i.has("or"),
        _ => false,
    };
    body.iter().any(looks)
        && !body.iter().any(|i| matches!(i.op.as_str(), "st" | "red" | "mma" | "bar" | "barrier"))
}
