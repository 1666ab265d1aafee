//! alloca, stacksave, stackrestore: local memory that a thread takes while it runs. Source: PTX ISA, "Stack Manipulation
//! Instructions".

use super::lanes::{Made, Scalar, Word, done, source, target, ty, unsupported, values, wrong};
use crate::error::{Code, Fault};
use crate::exec::decode::{Decoded, Scope};
use crate::exec::{Class, Flow};
use crate::memory::POISON;
use crate::ptx::ast::{Instr, Operand, Type};

/// Local addresses of it begin here, beyond those of every frame.
pub const BASE: u64 = 1 << 20;
/// Bytes a thread may have of it.
const MOST: u64 = 512 << 10;

/// What a thread has taken.
#[derive(Clone, Default)]
pub struct Stack {
    bytes: Vec<u8>,
    /// Bytes when each function that has not returned was called.
    calls: Vec<usize>,
}
impl Stack {
    /// A function is called.
    pub fn enter(&mut self) {
        self.calls.push(self.bytes.len());
    }
    /// It returns: what it took is gone.
    pub fn leave(&mut self) {
        self.bytes.truncate(self.calls.pop().unwrap_or(0));
    }
    /// Memory at a local address.
    pub fn find(&mut self, at: u64, bytes: u64) -> Option<*mut u8> {
        let from = usize::try_from(at.checked_sub(BASE)?).ok()?;
        Some(self.bytes.get_mut(from..from.checked_add(bytes as usize)?)?.as_mut_ptr())
    }
    fn take(&mut self, bytes: u64, align: u64) -> Option<u64> {
        let from = (self.bytes.len() as u64).next_multiple_of(align);
        let end = from.checked_add(bytes).filter(|&end| end <= MOST)?;
        self.bytes.resize(end as usize, POISON);
        Some(BASE + from)
    }
}

/// See [`super`].
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    if !matches!(i.op.as_str(), "alloca" | "stacksave" | "stackrestore") {
        return Ok(None);
    }
    let e = match ty(i)? {
        Type::U32 => work::<u32>(s, i, u64::from, |x| x as u32),
        Type::U64 => work::<u64>(s, i, |x| x, |x| x),
        _ => unsupported(i),
    };
    done(i, e, Class::Other)
}

fn work<T: Scalar<W = T> + Word>(s: &Scope, i: &Instr, widen: fn(T) -> u64, narrow: fn(u64) -> T) -> Made {
    let (take, save) = (i.op == "alloca", i.op == "stacksave");
    let from = if save { None } else { Some(source::<T>(s, i, usize::from(take))?) };
    let to = if take || save { target::<T>(s, i, 0)? } else { None };
    let align = match i.operands.get(2) {
        None => 8,
        Some(Operand::Int(n)) if *n > 0 && (*n as u64).is_power_of_two() => *n as u64,
        Some(_) => return Err(wrong(i, "the alignment must be a power of two")),
    };
    Ok(Box::new(move |w, c, m| {
        let x = from.as_ref().map_or([0; 32], |f| values::<T>(f, w).map(widen));
        let mut r = [T::default(); 32];
        for lane in (0..32).filter(|l| m >> l & 1 == 1) {
            let (x, stack) = (x[lane], &mut c.stacks[(w.id * 32) as usize + lane]);
            let top = BASE + stack.bytes.len() as u64;
            let at = if save {
                Ok(top)
            } else if take {
                stack.take(x, align).ok_or_else(|| format!("{x} bytes more are not left on the stack"))
            } else if (BASE..=top).contains(&x) {
                stack.bytes.truncate((x - BASE) as usize);
                Ok(x)
            } else {
                Err(format!("no stack was saved as {x:#x}"))
            };
            let fault =
                |what| Fault { lane: Some(lane as u32), ..Fault::new(Code::HardwareStackError, what) };
            r[lane] = narrow(at.map_err(fault)?);
        }
        if let Some(d) = to {
            T::set(w, d, m, r);
        }
        Ok(Flow::Next)
    }))
}
