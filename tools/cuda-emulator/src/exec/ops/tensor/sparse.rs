//! mma.sp: A has half of its elements, and metadata says where along k they are. Every chunk of four elements (two for tf32;
//! of four pairs for 4-bit integers) keeps two, named by two numbers of two bits, the lower element's first. A thread's 32
//! bits hold the chunks of a row in ascending order: of 8- and 4-bit types eight chunks of row l div 4 in the first thread
//! of a pair and of row l div 4 + 8 in the second; of wider types four chunks of each of these rows. The selector says
//! which threads of a group of four hold them. A's kept elements lie as those of a dense A half as deep.
//! Source: PTX ISA, "Sparse matrix storage" and the metadata figures; CUTLASS's `reorder_meta` orders them so too.

use super::format::{Bf16, E4m3, E5m2, F16, Format, S4, S8, Tf32, U4, U8, to_f16};
use super::mma::{KINDS, results, sources};
use super::whole;
use crate::error::PtxError;
use crate::exec::decode::Scope;
use crate::exec::ops::memory::wrong;
use crate::exec::{Class, Exec, Flow, L32};
use crate::ptx::ast::{Instr, Operand, Type};

pub(super) type Get = fn(u32, usize) -> f32;

/// How to read an element by its type, and elements in a register.
pub(super) fn reader(ty: &str) -> Option<(Get, usize)> {
    Some(match ty {
        "f16" => (F16::get, 2),
        "bf16" => (Bf16::get, 2),
        "tf32" => (Tf32::get, 1),
        "e4m3" => (E4m3::get, 4),
        "e5m2" => (E5m2::get, 4),
        "s8" => (S8::get, 4),
        "u8" => (U8::get, 4),
        "s4" => (S4::get, 8),
        "u4" => (U4::get, 8),
        _ => return None,
    })
}

pub(super) fn decode(s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
    let mods: Vec<&str> = i.mods.iter().map(String::as_str).collect();
    let kinds: Vec<&str> = mods.iter().copied().filter(|m| KINDS.contains(m)).collect();
    let known = |m: &str| m == "satfinite" || KINDS.contains(&m);
    if !matches!(mods[..], ["sp" | "sp::ordered_metadata", "sync", "aligned", _, "row", "col", ..])
        || !mods[6..].iter().all(|m| known(m))
    {
        return Err(wrong(i, "only mma.sp.sync.aligned.SHAPE.row.col of these types is supported"));
    }
    let [td, ta, tb, tc] = kinds[..] else { return Err(wrong(i, "four types are needed")) };
    let integers = matches!(ta, "s8" | "u8" | "s4" | "u4");
    let (Some((get_a, each)), Some((get_b, other))) = (reader(ta), reader(tb)) else {
        return Err(wrong(i, "these types do not go together"));
    };
    let agree = match (td, tc) {
        ("s32", "s32") => integers && each == other,
        ("f32", "f32") => !integers && (ta == tb || each == 4 && other == 4 && matches!(tb, "e4m3" | "e5m2")),
        ("f16", "f16") => ta == "f16" && tb == "f16",
        _ => false,
    };
    if !agree || i.has("satfinite") && !integers || matches!(tb, "s8" | "u8" | "s4" | "u4") != integers {
        return Err(wrong(i, "these types do not go together"));
    }
    // Registers of A and threads that hold metadata, of four.
    let (count, holders) = match (each, mods[3]) {
        (2, "m16n8k16") | (1, "m16n8k8") => (2, 1),
        (2, "m16n8k32") | (1, "m16n8k16") => (4, 2),
        (4, "m16n8k32") | (8, "m16n8k64") if integers => (2, 2),
        (4, "m16n8k64") | (8, "m16n8k128") => (4, 4),
        _ => return Err(wrong(i, "this shape does not exist for the type")),
    };
    let k = each * 4 * count;
    let selector = match s.operand(i, 5)? {
        Operand::Int(n) if (0..4 / holders as i64).contains(n) => *n as usize,
        _ => return Err(wrong(i, "the selector must be a constant that names threads which hold metadata")),
    };
    let (a, b) = (sources(s, i, 1, count)?, sources(s, i, 2, count)?);
    let registers = if td == "f16" { 2 } else { 4 };
    let (ds, cs) = (results(s, i, registers)?, sources(s, i, 3, registers)?);
    let meta = s.src32(i, s.operand(i, 4)?, Type::B32)?;
    let (saturates, half) = (i.has("satfinite"), td == "f16");
    let exec: Exec = Box::new(move |w, cta, mask| {
        if let Some(flow) = whole(w, cta, mask)? {
            return Ok(flow);
        }
        let meta = meta.get(w).0;
        let (mut wide, mut tall) = ([[0f32; 128]; 16], [[0f32; 8]; 128]);
        let mut bad = None;
        for l in 0..32 {
            for r in 0..count {
                let (x, step) = (a[r].get(w).0[l], r / 2);
                let row = l / 4 + r % 2 * 8;
                for e in 0..each {
                    let kept = (4 * step + l % 4) * each + e;
                    // Of tf32, an element is a pair of the numbers that metadata counts; of 4-bit types half of one.
                    let (chunk, first) = match each {
                        1 => (kept, 0),
                        8 => (kept / 4, kept % 4 / 2),
                        _ => (kept / 2, kept % 2),
                    };
                    let (holder, bits) = if each > 2 {
                        (chunk / 8 * 2 + r % 2, meta_bits(chunk % 8))
                    } else {
                        (chunk / 4, meta_bits(chunk % 4) + r as u32 % 2 * 16)
                    };
                    let m = meta[l / 4 * 4 + selector * holders + holder] >> bits & 15;
                    let (p, q) = (m & 3, m >> 2);
                    if p == q || each == 1 && !matches!(m, 0b1110 | 0b0100) {
                        bad = Some((l, m));
                    }
                    let n = if first == 0 { p } else { q } as usize;
                    let at = match each {
                        1 => 2 * chunk + n / 2,
                        8 => 8 * chunk + 2 * n + kept % 2,
                        _ => 4 * chunk + n,
                    };
                    wide[row][at] = get_a(x, e);
                }
            }
            for (r, b) in b.iter().enumerate() {
                for e in 0..each {
                    tall[(4 * r + l % 4) * each + e][l / 4] = get_b(b.get(w).0[l], e);
                }
            }
        }
        if let Some((l, m)) = bad {
            cta.misuse(w, Some(l as u32), || format!("metadata {m:#06b} of a sparse matrix has no meaning"));
        }
        let sum = |l: usize, n: usize, start: f32| {
            let (row, column) = (l / 4 + n / 2 * 8, l % 4 * 2 + n % 2);
            (0..k).fold(start, |t, d| wide[row][d].mul_add(tall[d][column], t))
        };
        let results: Vec<L32> = (0..registers)
            .map(|n| {
                let c = cs[n].get(w).0;
                L32(std::array::from_fn(|l| {
                    if integers {
                        let (c, x) = (c[l] as i32, sum(l, n, 0.) as i32);
                        return (if saturates { c.saturating_add(x) } else { c.wrapping_add(x) }) as u32;
                    }
                    if half {
                        let one = |e: usize| to_f16(sum(l, 2 * n + e, F16::get(c[l], e)));
                        return one(0) | one(1) << 16;
                    }
                    let x = sum(l, n, f32::from_bits(c[l]));
                    if x.is_nan() { 0x7fff_ffff } else { x.to_bits() }
                }))
            })
            .collect();
        for (slot, x) in ds.iter().zip(&results) {
            w.set32(*slot, !0, x);
        }
        Ok(Flow::Next)
    });
    Ok((exec, Class::Matrix))
}

fn meta_bits(chunk: usize) -> u32 {
    4 * chunk as u32
}
