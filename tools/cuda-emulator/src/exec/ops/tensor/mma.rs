//! mma.sync: decoding and the parts around the product.

use super::format::{Bf16, E4m3, E5m2, F16, Format, S4, S8, Tf32, U4, U8, to_f16};
use super::product::{Accumulator, Operands, Product, product};
use super::{quads, sparse, whole};
use crate::error::PtxError;
use crate::exec::decode::{Dst, Scope, Src32, Src64};
use crate::exec::ops::formats::Round;
use crate::exec::ops::memory::{elements, wrong};
use crate::exec::ops::round;
use crate::exec::{Class, Exec, Flow, L32, L64, Warp};
use crate::ptx::ast::{Instr, Operand, Type};

pub(super) const KINDS: &[&str] =
    &["f16", "bf16", "tf32", "f32", "f64", "e4m3", "e5m2", "s8", "u8", "s4", "u4", "b1", "s32"];

pub(super) fn decode(s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
    if i.mods.first().is_some_and(|m| m.starts_with("sp")) {
        return sparse::decode(s, i);
    }
    let mods: Vec<&str> = i.mods.iter().map(String::as_str).collect();
    let kinds: Vec<&str> = mods.iter().copied().filter(|m| KINDS.contains(m)).collect();
    let known = |m: &&str| {
        matches!(
            *m,
            "sync"
                | "aligned"
                | "row"
                | "col"
                | "satfinite"
                | "xor"
                | "and"
                | "popc"
                | "rn"
                | "rz"
                | "rm"
                | "rp"
        ) || KINDS.contains(m)
    };
    let quads = mods.get(2) == Some(&"m8n8k4") && kinds.get(1) == Some(&"f16");
    if !matches!(mods[..], ["sync", "aligned", _, "row", "col", ..])
        && !(quads && matches!(mods[..], ["sync", "aligned", _, "row" | "col", "row" | "col", ..]))
        || mods.iter().enumerate().any(|(n, m)| n != 2 && !known(m))
    {
        return Err(wrong(i, "only mma.sync.aligned.SHAPE.row.col of these types is supported"));
    }
    let [d, a, b, c] = kinds[..] else { return Err(wrong(i, "four types are needed")) };
    let shape = mods[2];
    let exec = match (d, a) {
        ("f64", "f64") if b == "f64" && c == "f64" => double(s, i, shape)?,
        ("s32", "b1") if b == "b1" && c == "s32" => binary(s, i, shape)?,
        ("s32", "s8" | "u8" | "s4" | "u4") if c == "s32" => integer(s, i, shape, a, b)?,
        ("f16", "f16") | ("f32", "f16") if quads && b == "f16" && (c == "f16" || c == d) => {
            quads::decode(s, i, [d, c])?
        }
        ("f16" | "f32", _) if matches!(c, "f16" | "f32") => float(s, i, shape, [d, a, b, c])?,
        _ => return Err(wrong(i, "these types do not go together")),
    };
    Ok((exec, Class::Matrix))
}

pub(super) fn sources(s: &Scope, i: &Instr, n: usize, count: usize) -> Result<Vec<Src32>, PtxError> {
    elements(i, s.operand(i, n)?, count)?.iter().map(|o| s.src32(i, o, Type::B32)).collect()
}

pub(super) fn results(s: &Scope, i: &Instr, count: usize) -> Result<Vec<u32>, PtxError> {
    let slot = |o: &Operand| match s.dst(i, o)? {
        Dst::R32(slot) => Ok(slot),
        _ => Err(wrong(i, "the result is in 32-bit registers")),
    };
    elements(i, s.operand(i, 0)?, count)?.iter().map(slot).collect()
}

/// Fragments of A and B in 32-bit registers.
struct Sources {
    a: [Src32; 4],
    b: [Src32; 2],
}
impl Sources {
    fn of(s: &Scope, i: &Instr, halves: usize, steps: usize) -> Result<Self, PtxError> {
        let (a, b) = (sources(s, i, 1, halves * steps)?, sources(s, i, 2, steps)?);
        // Those that do not exist are the last once more.
        let nth = |of: &[Src32], n: usize| of[n.min(of.len() - 1)].clone();
        Ok(Self { a: std::array::from_fn(|n| nth(&a, n)), b: std::array::from_fn(|n| nth(&b, n)) })
    }
    #[inline(always)]
    fn get<'w>(&'w self, w: &'w Warp) -> Operands<'w> {
        Operands { a: self.a.each_ref().map(|a| &a.get(w).0), b: self.b.each_ref().map(|b| &b.get(w).0) }
    }
}

/// The product for sixteen rows and a number of k-steps.
fn choose<A: Format, B: Format>(halves: usize, steps: usize) -> Option<Product> {
    Some(match (halves, steps) {
        (1, 1) => product::<A, B, 1, 1>(),
        (2, 1) => product::<A, B, 2, 1>(),
        (2, 2) => product::<A, B, 2, 2>(),
        _ => return None,
    })
}

fn float(s: &Scope, i: &Instr, shape: &str, [d, a, b, c]: [&str; 4]) -> Result<Exec, PtxError> {
    let steps = match (a, shape) {
        ("f16" | "bf16", "m16n8k8") | ("tf32", "m16n8k4") | ("e4m3" | "e5m2", "m16n8k16") => 1,
        ("f16" | "bf16", "m16n8k16") | ("tf32", "m16n8k8") | ("e4m3" | "e5m2", "m16n8k32") => 2,
        _ => return Err(wrong(i, "this shape does not exist for the type")),
    };
    let product = match (a, b) {
        ("f16", "f16") => choose::<F16, F16>(2, steps),
        ("bf16", "bf16") if d == "f32" => choose::<Bf16, Bf16>(2, steps),
        ("tf32", "tf32") if d == "f32" => choose::<Tf32, Tf32>(2, steps),
        ("e4m3", "e4m3") => choose::<E4m3, E4m3>(2, steps),
        ("e4m3", "e5m2") => choose::<E4m3, E5m2>(2, steps),
        ("e5m2", "e4m3") => choose::<E5m2, E4m3>(2, steps),
        ("e5m2", "e5m2") => choose::<E5m2, E5m2>(2, steps),
        _ => None,
    };
    let Some(product) = product else { return Err(wrong(i, "these types do not go together")) };
    let registers = |t: &str| if t == "f16" { 2 } else { 4 };
    let ab = Sources::of(s, i, 2, steps)?;
    let (ds, cs) = (results(s, i, registers(d))?, sources(s, i, 3, registers(c))?);
    Ok(Box::new(move |w, cta, mask| {
        if let Some(flow) = whole(w, cta, mask)? {
            return Ok(flow);
        }
        // Whole registers of f32 are read and written where they are.
        let mut t: Accumulator = [L32::splat(0); 4];
        let c: [*const L32; 4] = if cs.len() == 4 {
            std::array::from_fn(|n| std::ptr::from_ref(cs[n].get(w)))
        } else {
            for (n, t) in t.iter_mut().enumerate() {
                t.0 = cs[n / 2].get(w).0.map(|x| F16::get(x, n % 2).to_bits());
            }
            t.each_ref().map(std::ptr::from_ref)
        };
        let d: [*mut L32; 4] = if ds.len() == 4 {
            std::array::from_fn(|n| w.r32_at(ds[n]))
        } else {
            t.each_mut().map(std::ptr::from_mut)
        };
        // SAFETY: `product` was chosen for this machine; the pointers are to registers of `w` and to `t`.
        unsafe { product(&ab.get(w), c, d) };
        if ds.len() == 2 {
            for (h, d) in ds.iter().enumerate() {
                let half = |n: usize, l: usize| to_f16(f32::from_bits(t[n].0[l]));
                w.set32(*d, !0, &L32(std::array::from_fn(|l| half(2 * h, l) | half(2 * h + 1, l) << 16)));
            }
        }
        Ok(Flow::Next)
    }))
}

/// Integer products are exact in f32: 64 products of 8 bits by 8 stay below 2^24. Also wmma's of 4 bits.
pub(super) fn integer(s: &Scope, i: &Instr, shape: &str, a: &str, b: &str) -> Result<Exec, PtxError> {
    let (halves, steps) = match (a, shape) {
        ("s8" | "u8", "m8n8k16") | ("s4" | "u4", "m8n8k32") => (1, 1),
        ("s8" | "u8", "m16n8k16") | ("s4" | "u4", "m16n8k32") => (2, 1),
        ("s8" | "u8", "m16n8k32") | ("s4" | "u4", "m16n8k64") => (2, 2),
        _ => return Err(wrong(i, "this shape does not exist for the type")),
    };
    let product = match (a, b) {
        ("s8", "s8") => choose::<S8, S8>(halves, steps),
        ("s8", "u8") => choose::<S8, U8>(halves, steps),
        ("u8", "s8") => choose::<U8, S8>(halves, steps),
        ("u8", "u8") => choose::<U8, U8>(halves, steps),
        ("s4", "s4") => choose::<S4, S4>(halves, steps),
        ("s4", "u4") => choose::<S4, U4>(halves, steps),
        ("u4", "s4") => choose::<U4, S4>(halves, steps),
        ("u4", "u4") => choose::<U4, U4>(halves, steps),
        _ => None,
    };
    let Some(product) = product else { return Err(wrong(i, "these types do not go together")) };
    let ab = Sources::of(s, i, halves, steps)?;
    let (ds, cs) = (results(s, i, 2 * halves)?, sources(s, i, 3, 2 * halves)?);
    let saturates = i.has("satfinite");
    Ok(Box::new(move |w, cta, mask| {
        if let Some(flow) = whole(w, cta, mask)? {
            return Ok(flow);
        }
        let mut t: Accumulator = [L32::splat(0); 4];
        let d = t.each_mut().map(std::ptr::from_mut);
        // SAFETY: `product` was chosen for this machine; the pointers are to `t`.
        unsafe { product(&ab.get(w), d.map(|d| d.cast_const()), d) };
        let add = if saturates { i32::saturating_add } else { i32::wrapping_add };
        let d: [L32; 4] = std::array::from_fn(|n| {
            let Some(c) = cs.get(n) else { return L32::splat(0) };
            let c = c.get(w);
            L32(std::array::from_fn(|l| add(c.0[l] as i32, f32::from_bits(t[n].0[l]) as i32) as u32))
        });
        for (slot, d) in ds.iter().zip(&d) {
            w.set32(*slot, !0, d);
        }
        Ok(Flow::Next)
    }))
}

/// One-bit elements: the number of ones in a xor b, or a and b. Also wmma's.
pub(super) fn binary(s: &Scope, i: &Instr, shape: &str) -> Result<Exec, PtxError> {
    let (halves, steps) = match shape {
        "m8n8k128" => (1, 1),
        "m16n8k128" => (2, 1),
        "m16n8k256" => (2, 2),
        _ => return Err(wrong(i, "this shape does not exist for the type")),
    };
    let and = i.has("and");
    if !i.has("popc") || and == i.has("xor") {
        return Err(wrong(i, "the operation must be .xor.popc or .and.popc"));
    }
    let ab = Sources::of(s, i, halves, steps)?;
    let (ds, cs) = (results(s, i, 2 * halves)?, sources(s, i, 3, 2 * halves)?);
    Ok(Box::new(move |w, cta, mask| {
        if let Some(flow) = whole(w, cta, mask)? {
            return Ok(flow);
        }
        let mut t: [L32; 4] = [L32::splat(0); 4];
        let o = ab.get(w);
        for (n, t) in t[..2 * halves].iter_mut().enumerate() {
            let c = cs[n].get(w);
            for l in 0..32 {
                let (row, column) = (l / 4, l % 4 * 2 + n % 2);
                t.0[l] = c.0[l];
                for k in 0..4 * steps {
                    let a = o.a[k / 4 * halves + n / 2][row * 4 + k % 4];
                    let b = o.b[k / 4][column * 4 + k % 4];
                    t.0[l] = t.0[l].wrapping_add(if and { a & b } else { a ^ b }.count_ones());
                }
            }
        }
        for (slot, t) in ds.iter().zip(&t) {
            w.set32(*slot, !0, t);
        }
        Ok(Flow::Next)
    }))
}

/// f64, also wmma's: its fragments are the same.
pub(super) fn double(s: &Scope, i: &Instr, shape: &str) -> Result<Exec, PtxError> {
    let (halves, steps) = match shape {
        "m8n8k4" => (1, 1),
        "m16n8k4" => (2, 1),
        "m16n8k8" => (2, 2),
        "m16n8k16" => (2, 4),
        _ => return Err(wrong(i, "this shape does not exist for the type")),
    };
    let wide = |n: usize, count: usize| -> Result<Vec<Src64>, PtxError> {
        elements(i, s.operand(i, n)?, count)?.iter().map(|o| s.src64(i, o, Type::F64)).collect()
    };
    let round = Round::of(i);
    let (a, b, c) = (wide(1, halves * steps)?, wide(2, steps)?, wide(3, 2 * halves)?);
    let slot = |o: &Operand| match s.dst(i, o)? {
        Dst::R64(slot) => Ok(slot),
        _ => Err(wrong(i, "the result is in 64-bit registers")),
    };
    let ds: Vec<u32> =
        elements(i, s.operand(i, 0)?, 2 * halves)?.iter().map(slot).collect::<Result<_, _>>()?;
    Ok(Box::new(move |w, cta, mask| {
        if let Some(flow) = whole(w, cta, mask)? {
            return Ok(flow);
        }
        let mut t = [L64::splat(0); 4];
        for (n, t) in t[..2 * halves].iter_mut().enumerate() {
            let c = c[n].get(w);
            for l in 0..32 {
                let (row, column) = (l / 4, l % 4 * 2 + n % 2);
                let mut x = f64::from_bits(c.0[l]);
                for k in 0..4 * steps {
                    let a = a[k / 4 * halves + n / 2].get(w).0[row * 4 + k % 4];
                    let b = b[k / 4].get(w).0[column * 4 + k % 4];
                    x = round::fma64(f64::from_bits(a), f64::from_bits(b), x, round);
                }
                t.0[l] = x.to_bits();
            }
        }
        for (slot, t) in ds.iter().zip(&t) {
            w.set64(*slot, !0, t);
        }
        Ok(Flow::Next)
    }))
}
