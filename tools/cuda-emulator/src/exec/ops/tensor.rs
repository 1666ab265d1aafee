//! Matrix instructions: mma.sync, wmma, ldmatrix, stmatrix, movmatrix.
//! Source: PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions".

mod format;
mod matrix;
mod mma;
mod product;
mod quads;
mod sparse;
mod wmma;

use crate::error::{Code, Fault};
use crate::exec::decode::{Decoded, Scope};
use crate::exec::{Cta, Flow, Mask, Warp};
use crate::ptx::ast::Instr;

/// The families' entry.
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    match i.op.as_str() {
        "mma" => mma::decode(s, i).map(Some),
        "wmma" => wmma::decode(s, i).map(Some),
        "ldmatrix" => matrix::load(s, i).map(Some),
        "stmatrix" => matrix::store(s, i).map(Some),
        "movmatrix" => matrix::transpose(s, i).map(Some),
        _ => Ok(None),
    }
}

/// These instructions are a whole warp's: lanes wait for the others, and without them the result is undefined.
#[inline(always)]
fn whole(w: &Warp, cta: &mut Cta, mask: Mask) -> Result<Option<Flow>, Fault> {
    if mask == !0 { Ok(None) } else { partial(w, cta, mask).map(Some) }
}
#[cold]
fn partial(w: &Warp, cta: &mut Cta, mask: Mask) -> Result<Flow, Fault> {
    if w.active != w.alive && !w.stuck {
        return Ok(Flow::Converge);
    }
    let what = format!("a matrix instruction is reached by lanes {mask:#010x} only, it needs the whole warp");
    cta.misuse(w, None, || what.clone());
    Err(Fault::new(Code::IllegalInstruction, what))
}
