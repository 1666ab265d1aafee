//! mma.m8n8k4 of f16: four products, each by two groups of four lanes, l and l + 16. Source: PTX ISA, "Matrix Fragments for
//! mma.m8n8k4 with .f16 floating point type".

use super::format::{F16, Format, to_f16};
use super::mma::{results, sources};
use super::whole;
use crate::error::PtxError;
use crate::exec::decode::Scope;
use crate::exec::ops::memory::wrong;
use crate::exec::{Exec, Flow, L32};
use crate::ptx::ast::Instr;

/// Row and column of element `e` of the accumulator at a lane, by its type.
fn place(half: bool, lane: usize, e: usize) -> (usize, usize) {
    let row = if half { lane % 4 } else { (lane & 1) + (e & 2) };
    (row + lane / 16 * 4, if half { e } else { (e & 4) + (lane & 2) + (e & 1) })
}

pub(super) fn decode(s: &Scope, i: &Instr, [d, c]: [&str; 2]) -> Result<Exec, PtxError> {
    let row = |n: usize| match i.mods.get(n).map(String::as_str) {
        Some("row") => Ok(true),
        Some("col") => Ok(false),
        _ => Err(wrong(i, "a layout is missing")),
    };
    let (a_by_rows, b_by_rows) = (row(3)?, row(4)?);
    let (half_d, half_c) = (d == "f16", c == "f16");
    let count = |half: bool| if half { 4 } else { 8 };
    let (a, b, cs) = (sources(s, i, 1, 2)?, sources(s, i, 2, 2)?, sources(s, i, 3, count(half_c))?);
    let ds = results(s, i, count(half_d))?;
    Ok(Box::new(move |w, cta, mask| {
        if let Some(flow) = whole(w, cta, mask)? {
            return Ok(flow);
        }
        let (mut ma, mut mb, mut t) = ([[[0f32; 4]; 8]; 4], [[[0f32; 8]; 4]; 4], [[[0f32; 8]; 8]; 4]);
        for l in 0..32 {
            let (q, outer, inner) = (l % 16 / 4, l / 16 * 4, l % 4);
            for e in 0..4 {
                let x = F16::get(a[e / 2].get(w).0[l], e % 2);
                let (row, k) = if a_by_rows { (inner + outer, e) } else { (e + outer, inner) };
                ma[q][row][k] = x;
                let x = F16::get(b[e / 2].get(w).0[l], e % 2);
                let (k, column) = if b_by_rows { (inner, e + outer) } else { (e, inner + outer) };
                mb[q][k][column] = x;
            }
            for e in 0..8 {
                let (row, column) = place(half_c, l, e);
                t[q][row][column] = match half_c {
                    true => F16::get(cs[e / 2].get(w).0[l], e % 2),
                    false => f32::from_bits(cs[e].get(w).0[l]),
                };
            }
        }
        for q in 0..4 {
            for row in 0..8 {
                for column in 0..8 {
                    let x = &mut t[q][row][column];
                    *x = (0..4).fold(*x, |x, k| ma[q][row][k].mul_add(mb[q][k][column], x));
                }
            }
        }
        for (r, slot) in ds.iter().enumerate() {
            let x = L32(std::array::from_fn(|l| {
                let element = |e: usize| {
                    let (row, column) = place(half_d, l, e);
                    t[l % 16 / 4][row][column]
                };
                if half_d {
                    return to_f16(element(2 * r)) | to_f16(element(2 * r + 1)) << 16;
                }
                let x = element(r);
                if x.is_nan() { 0x7fff_ffff } else { x.to_bits() }
            }));
            w.set32(*slot, !0, &x);
        }
        Ok(Flow::Next)
    }))
}
