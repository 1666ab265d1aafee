//! ldmatrix, stmatrix, movmatrix: 8×8 matrices of 16-bit elements. Lane l holds elements 2(l mod 4) and the next of row
//! l div 4, so a register of the warp, as it lies in memory, is the matrix row by row.

use super::whole;
use crate::error::PtxError;
use crate::exec::cta::{Kind, Order};
use crate::exec::decode::{Dst, Scope, Src32};
use crate::exec::ops::copy;
use crate::exec::ops::lanes::simd;
use crate::exec::ops::memory::{Form, elements, wrong};
use crate::exec::{Class, Exec, Flow, L32, Mask, Warp};
use crate::ptx::ast::{Instr, Space, Type};

const WORDS: &[&str] = &["sync", "aligned", "m8n8", "x1", "x2", "x4", "trans"];

#[cfg(not(target_arch = "x86_64"))]
fn transposed(m: &L32) -> L32 {
    let at = |r: usize, c: usize| m.0[r * 4 + c / 2] >> (c % 2 * 16) & 0xffff;
    L32(std::array::from_fn(|l| at(l % 4 * 2, l / 4) | at(l % 4 * 2 + 1, l / 4) << 16))
}
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transposed(m: &L32) -> L32 {
    use std::arch::x86_64::*;
    let mut t = L32::splat(0);
    // SAFETY: every x86-64 has SSE2; each load and store is of a row, eight of 16 bits, within its array.
    unsafe {
        let rows: [__m128i; 8] = std::array::from_fn(|r| _mm_loadu_si128(m.0.as_ptr().add(4 * r).cast()));
        // Pairs, fours, eights of a column come together.
        let two = |r: usize, high: bool| match high {
            false => _mm_unpacklo_epi16(rows[r], rows[r + 1]),
            true => _mm_unpackhi_epi16(rows[r], rows[r + 1]),
        };
        for (n, high) in [false, true].into_iter().enumerate() {
            let [a, b, c, d] = [two(0, high), two(2, high), two(4, high), two(6, high)];
            let low = [_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d)];
            let up = [_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d)];
            for (k, [x, y]) in [low, up].into_iter().enumerate() {
                let to = t.0.as_mut_ptr().add(16 * n + 8 * k);
                _mm_storeu_si128(to.cast(), _mm_unpacklo_epi64(x, y));
                _mm_storeu_si128(to.add(4).cast(), _mm_unpackhi_epi64(x, y));
            }
        }
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

/// Loads matrices row by row. SAFETY: 16 bytes must be readable at each of their rows.
#[inline(always)]
unsafe fn fill(w: &mut Warp, dsts: &[Option<u32>], trans: bool, row: impl Fn(usize) -> *const u8) {
    for (m, d) in dsts.iter().enumerate() {
        let Some(slot) = d else { continue };
        let d = w.r32_mut(*slot);
        for (r, to) in d.0.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *to = unsafe { row(8 * m + r).cast::<[u32; 4]>().read_unaligned() };
        }
        if trans {
            *d = transposed(d);
        }
    }
}

simd! {
    pub(super) fn load[](s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
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
            let mask = rows(count);
            if let Some(at) = cta.offsets(w, &addr, space, 16, mask) {
                let shared = cta.shared.as_ptr();
                // SAFETY: `offsets` vouches for 16 bytes at each.
                unsafe { fill(w, &dsts, trans, |row| shared.add(at[row] as usize)) };
                return Ok(Flow::Next);
            }
            let p = cta.reach(w, &addr, (Kind::Read, space, Order::Weak), 16, mask)?;
            // SAFETY: `reach` vouches for 16 bytes at each pointer of the mask.
            unsafe { fill(w, &dsts[..count], trans, |row| p[row].cast_const()) };
            Ok(Flow::Next)
        });
        Ok((exec, Class::MatrixLoad))
    }
}

simd! {
    pub(super) fn store[](s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
        let (space, count, trans) = form(i)?;
        let addr = s.addr(i, s.operand(i, 0)?)?;
        let sources = elements(i, s.operand(i, 1)?, count)?;
        let sources: Vec<Src32> = sources.iter().map(|o| s.src32(i, o, Type::B32)).collect::<Result<_, _>>()?;
        let exec: Exec = Box::new(move |w, cta, mask| {
            if let Some(flow) = whole(w, cta, mask)? {
                return Ok(flow);
            }
            copy::drift(cta);
            let p = cta.reach(w, &addr, (Kind::Write, space, Order::Weak), 16, rows(sources.len()))?;
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
