//! ldmatrix, stmatrix, movmatrix: 8×8 matrices of 16-bit elements. Lane l holds elements 2(l mod 4) and the next of row
//! l div 4, so a register of the warp, as it lies in memory, is the matrix row by row.

use super::whole;
use crate::error::PtxError;
use crate::exec::cta::{Access, Kind, Order};
use crate::exec::decode::{Dst, Scope, Src32};
use crate::exec::ops::copy;
use crate::exec::ops::memory::{Form, elements, wrong};
use crate::exec::{Class, Exec, Flow, L32, Mask};
use crate::ptx::ast::{Instr, Space, Type};

const WORDS: &[&str] = &["sync", "aligned", "m8n8", "x1", "x2", "x4", "trans"];

fn transposed(m: &L32) -> L32 {
    let mut t = L32::splat(0);
    for l in 0..32 {
        let (row, column) = (l / 4, l % 4 * 2);
        let at = |r: usize| m.0[r * 4 + row / 2] >> (row % 2 * 16) & 0xffff;
        t.0[l] = at(column) | at(column + 1) << 16;
    }
    t
}

/// Modifiers that both directions share: space, matrices, transposed.
fn form(i: &Instr) -> Result<(Space, usize, bool), PtxError> {
    let f = Form::of(i, WORDS)?;
    if f.ty != Type::B16 || !i.has("m8n8") || !matches!(f.space, Space::Shared | Space::Generic) {
        return Err(wrong(i, "only .m8n8 matrices of .b16 in shared memory are supported"));
    }
    let count = if i.has("x4") {
        4
    } else if i.has("x2") {
        2
    } else {
        1
    };
    Ok((f.space, count, i.has("trans")))
}

fn rows(count: usize) -> Mask {
    if count == 4 { !0 } else { (1 << (8 * count)) - 1 }
}

pub(super) fn load(s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
    let (space, count, trans) = form(i)?;
    let mut dsts = [None; 4];
    for (d, o) in dsts.iter_mut().zip(elements(i, s.operand(i, 0)?, count)?) {
        *d = match s.dst(i, o)? {
            Dst::R32(slot) => Some(slot),
            Dst::Sink => None,
            _ => return Err(wrong(i, "a fragment is in 32-bit registers")),
        };
    }
    let addr = s.addr(i, s.operand(i, 1)?)?;
    let exec: Exec = Box::new(move |w, cta, mask| {
        if let Some(flow) = whole(w, cta, mask)? {
            return Ok(flow);
        }
        copy::drift(cta);
        let (kind, order, mask) = (Kind::Read, Order::Weak, rows(count));
        let p = cta.access(w, &Access { kind, space, addresses: &addr.get(w), bytes: 16, mask, order })?;
        for (m, d) in dsts[..count].iter().enumerate() {
            let mut x = L32::splat(0);
            for (row, p) in x.0.chunks_exact_mut(4).zip(&p[8 * m..]) {
                // SAFETY: `access` vouches for 16 bytes at each pointer of the mask.
                row.copy_from_slice(&unsafe { p.cast::<[u32; 4]>().read_unaligned() });
            }
            if let Some(slot) = d {
                w.set32(*slot, !0, &if trans { transposed(&x) } else { x });
            }
        }
        Ok(Flow::Next)
    });
    Ok((exec, Class::MatrixLoad))
}

pub(super) fn store(s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
    let (space, count, trans) = form(i)?;
    let addr = s.addr(i, s.operand(i, 0)?)?;
    let sources = elements(i, s.operand(i, 1)?, count)?;
    let sources: Vec<Src32> = sources.iter().map(|o| s.src32(i, o, Type::B32)).collect::<Result<_, _>>()?;
    let exec: Exec = Box::new(move |w, cta, mask| {
        if let Some(flow) = whole(w, cta, mask)? {
            return Ok(flow);
        }
        copy::drift(cta);
        let (kind, order, mask) = (Kind::Write, Order::Weak, rows(sources.len()));
        let p = cta.access(w, &Access { kind, space, addresses: &addr.get(w), bytes: 16, mask, order })?;
        for (m, x) in sources.iter().enumerate() {
            let x = if trans { transposed(x.get(w)) } else { *x.get(w) };
            for (row, p) in x.0.as_chunks::<4>().0.iter().zip(&p[8 * m..]) {
                // SAFETY: `access` vouches for 16 bytes at each pointer of the mask.
                unsafe { p.cast::<[u32; 4]>().write_unaligned(*row) };
            }
        }
        Ok(Flow::Next)
    });
    Ok((exec, Class::MatrixLoad))
}

pub(super) fn transpose(s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
    let expected = ["sync", "aligned", "m8n8", "trans", "b16"];
    if i.mods != expected {
        return Err(wrong(i, "only movmatrix.sync.aligned.m8n8.trans.b16 exists"));
    }
    let Dst::R32(d) = s.dst(i, s.operand(i, 0)?)? else {
        return Err(wrong(i, "a fragment is in a 32-bit register"));
    };
    let a = s.src32(i, s.operand(i, 1)?, Type::B32)?;
    let exec: Exec = Box::new(move |w, cta, mask| {
        if let Some(flow) = whole(w, cta, mask)? {
            return Ok(flow);
        }
        let x = transposed(a.get(w));
        w.set32(d, !0, &x);
        Ok(Flow::Next)
    });
    Ok((exec, Class::WarpExchange))
}
