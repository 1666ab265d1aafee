//! wmma: matrices of a warp in an arrangement that programs must not know. Here, for an element at place e of lane l:
//! A is counted by rows and B by columns, element 32e + l; C and D by rows in pairs, element 64(e div 2) + 2l + e mod 2.
//! Where the ISA's fragments have more room than elements (f16), they hold the elements again.

use super::format::{Bf16, F16, Format, S8, Tf32, U8, to_f16};
use super::{mma, whole};
use crate::error::{Fault, PtxError};
use crate::exec::cta::{Access, Cta, Kind, Order};
use crate::exec::decode::{Addr, Dst, Scope, Src32};
use crate::exec::ops::memory::{elements, wrong};
use crate::exec::{Class, Exec, Flow, L32, L64, Warp};
use crate::ptx::ast::{Instr, Operand, Space, Type};

/// Rows, columns and depth of a shape.
fn shape(i: &Instr) -> Result<[usize; 3], PtxError> {
    Ok(match i.mods.iter().find(|m| m.starts_with('m') && m.contains('k')).map(String::as_str) {
        Some("m16n16k16") => [16, 16, 16],
        Some("m8n32k16") => [8, 32, 16],
        Some("m32n8k16") => [32, 8, 16],
        Some("m16n16k8") => [16, 16, 8],
        Some("m8n8k4") => [8, 8, 4],
        Some("m8n8k32") => [8, 8, 32],
        Some("m8n8k128") => [8, 8, 128],
        _ => return Err(wrong(i, "this shape is not supported")),
    })
}

/// A matrix in registers.
struct Fragment {
    rows: usize,
    columns: usize,
    which: char,
    /// Elements in a register.
    each: usize,
    /// Bytes of an element in memory.
    bytes: usize,
    /// Numbers in an element: of less than 8 bits, those in 32 bits are taken as one.
    packed: usize,
    /// Registers.
    count: usize,
}
impl Fragment {
    fn of(i: &Instr, which: char, ty: &str) -> Result<Self, PtxError> {
        let [m, n, k] = shape(i)?;
        let (rows, columns) = match which {
            'a' => (m, k),
            'b' => (k, n),
            _ => (m, n),
        };
        let packed = match ty {
            "s4" | "u4" => 8,
            "b1" => 32,
            _ => 1,
        };
        let (rows, columns) = match which {
            'a' => (rows, columns / packed),
            'b' => (rows / packed, columns),
            _ => (rows, columns),
        };
        if packed > 1 && (which == 'a' && i.has("col") || which == 'b' && i.has("row")) && i.has("load") {
            return Err(wrong(i, "of this type A is by rows and B by columns"));
        }
        let fits = match ty {
            "s4" | "u4" => k == 32,
            "b1" => k == 128,
            "f16" | "bf16" | "s8" | "u8" => k == 16,
            "tf32" => k == 8,
            "f64" => k == 4,
            _ => k >= 8,
        };
        let known = if "ab".contains(which) {
            matches!(ty, "f16" | "bf16" | "s8" | "u8" | "s4" | "u4" | "b1" | "tf32" | "f64")
        } else {
            matches!(ty, "f16" | "f32" | "s32" | "f64")
        };
        if !fits || !known {
            return Err(wrong(i, "this type does not exist for the matrix and the shape"));
        }
        let (each, bytes) = match ty {
            "f16" | "bf16" => (2, 2),
            "s8" | "u8" => (4, 1),
            "f64" => (1, 8),
            _ => (1, 4),
        };
        let own = rows * columns / 32 / each;
        let count = if ty == "f16" && "ab".contains(which) { 8 } else { own };
        Ok(Self { rows, columns, which, each, bytes, packed, count })
    }
    /// Row and column of the element at a place of a lane.
    fn at(&self, lane: usize, place: usize) -> (usize, usize) {
        let own = self.rows * self.columns / 32;
        let e = place % own;
        match self.which {
            'a' => ((32 * e + lane) / self.columns, (32 * e + lane) % self.columns),
            'b' => ((32 * e + lane) % self.rows, (32 * e + lane) / self.rows),
            _ => {
                let q = e / 2 * 64 + 2 * lane + e % 2;
                (q / self.columns, q % self.columns)
            }
        }
    }
}

/// Where a matrix lies in memory.
struct Placed {
    fragment: Fragment,
    space: Space,
    by_rows: bool,
    addr: Addr,
    stride: Src32,
}
impl Placed {
    fn of(s: &Scope, i: &Instr, which: char, address: usize, stride: usize) -> Result<Self, PtxError> {
        let ty = i.mods.last().map_or("", String::as_str);
        let fragment = Fragment::of(i, which, ty)?;
        let space = match i.mods.iter().find(|m| matches!(m.split(':').next(), Some("global" | "shared"))) {
            Some(m) if m == "global" => Space::Global,
            Some(_) => Space::Shared,
            None => Space::Generic,
        };
        let by_rows = i.has("row");
        if by_rows == i.has("col") {
            return Err(wrong(i, "the layout must be .row or .col"));
        }
        let stride = match i.operands.get(stride) {
            Some(o) => s.src32(i, o, Type::U32)?,
            None => {
                let n = if by_rows { fragment.columns } else { fragment.rows };
                Src32::Const(Box::new(L32::splat((n * fragment.packed) as u32)))
            }
        };
        Ok(Self { fragment, space, by_rows, addr: s.addr(i, s.operand(i, address)?)?, stride })
    }
    /// Addresses of the elements at a place.
    fn access(&self, w: &Warp, cta: &mut Cta, place: usize, kind: Kind) -> Result<[*mut u8; 32], Fault> {
        let stride = self.stride.get(w);
        let mut addresses = self.addr.get(w);
        for (l, a) in addresses.iter_mut().enumerate() {
            let (row, column) = self.fragment.at(l, place);
            let (major, minor) = if self.by_rows { (row, column) } else { (column, row) };
            let element = major as u64 * u64::from(stride.0[l]) / self.fragment.packed as u64 + minor as u64;
            *a = a.wrapping_add(element * self.fragment.bytes as u64);
        }
        let (bytes, order) = (self.fragment.bytes as u32, Order::Weak);
        cta.access(w, &Access { kind, space: self.space, addresses: &addresses, bytes, mask: !0, order })
    }
}

pub(super) fn decode(s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
    match i.mods.first().map(String::as_str) {
        Some("load") => load(s, i),
        Some("store") => store(s, i),
        Some("mma") => multiply(s, i),
        _ => Err(wrong(i, "it is neither load, store nor mma")),
    }
}

fn load(s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
    let which = i.mods.get(1).and_then(|m| m.chars().next()).filter(|c| "abc".contains(*c));
    let which = which.ok_or_else(|| wrong(i, "the matrix must be .a, .b or .c"))?;
    let from = Placed::of(s, i, which, 1, 2)?;
    let ds = elements(i, s.operand(i, 0)?, from.fragment.count)?;
    let ds: Vec<Dst> = ds.iter().map(|o| s.dst(i, o)).collect::<Result<_, _>>()?;
    let exec: Exec = Box::new(move |w, cta, mask| {
        if let Some(flow) = whole(w, cta, mask)? {
            return Ok(flow);
        }
        let Fragment { each, bytes, .. } = from.fragment;
        for (r, d) in ds.iter().enumerate() {
            let mut x = [0u64; 32];
            for e in 0..each {
                let p = from.access(w, cta, r * each + e, Kind::Read)?;
                for (x, p) in x.iter_mut().zip(p) {
                    let mut b = [0; 8];
                    // SAFETY: `access` vouches for `bytes` bytes, at most 8.
                    unsafe { p.copy_to_nonoverlapping(b.as_mut_ptr(), bytes) };
                    *x |= u64::from_le_bytes(b) << (8 * bytes * e);
                }
            }
            match *d {
                Dst::R32(slot) => w.set32(slot, !0, &L32(x.map(|x| x as u32))),
                Dst::R64(slot) => w.set64(slot, !0, &L64(x)),
                _ => {}
            }
        }
        Ok(Flow::Next)
    });
    Ok((exec, Class::MatrixLoad))
}

fn store(s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
    let to = Placed::of(s, i, 'd', 0, 2)?;
    let sources = elements(i, s.operand(i, 1)?, to.fragment.count)?;
    let wide = to.fragment.bytes == 8;
    let narrow = if wide { &[] } else { sources };
    let narrow: Vec<Src32> = narrow.iter().map(|o| s.src32(i, o, Type::B32)).collect::<Result<_, _>>()?;
    let doubles = if wide { sources } else { &[] };
    let doubles: Vec<_> = doubles.iter().map(|o| s.src64(i, o, Type::F64)).collect::<Result<_, _>>()?;
    let exec: Exec = Box::new(move |w, cta, mask| {
        if let Some(flow) = whole(w, cta, mask)? {
            return Ok(flow);
        }
        let Fragment { each, bytes, count, .. } = to.fragment;
        for place in 0..count * each {
            let (r, e) = (place / each, place % each);
            let p = to.access(w, cta, place, Kind::Write)?;
            for (l, p) in p.into_iter().enumerate() {
                let x = if wide { doubles[r].get(w).0[l] } else { narrow[r].get(w).0[l].into() };
                let b = (x >> (8 * bytes * e)).to_le_bytes();
                // SAFETY: `access` vouches for `bytes` bytes, at most 8.
                unsafe { p.copy_from_nonoverlapping(b.as_ptr(), bytes) };
            }
        }
        Ok(Flow::Next)
    });
    Ok((exec, Class::MatrixLoad))
}

/// c += a b, all by rows, in ascending order of k, fused.
#[inline(always)]
fn product([m, n, k]: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
    for row in 0..m {
        let c = &mut c[row * n..][..n];
        for d in 0..k {
            let x = a[row * k + d];
            for (c, b) in c.iter_mut().zip(&b[d * n..][..n]) {
                *c = x.mul_add(*b, *c);
            }
        }
    }
}
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn fused(shape: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
    product(shape, a, b, c);
}
fn run(shape: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the features are there.
        return unsafe { fused(shape, a, b, c) };
    }
    product(shape, a, b, c);
}

fn multiply(s: &Scope, i: &Instr) -> Result<(Exec, Class), PtxError> {
    let types: Vec<&str> = i.mods.iter().map(String::as_str).filter(|m| mma::KINDS.contains(m)).collect();
    let [d, a, b, c] = match types[..] {
        [d, c] => [d, "f16", "f16", c],
        [d, a, b, c] => [d, a, b, c],
        _ => return Err(wrong(i, "two or four types are needed")),
    };
    if a == "s4" || a == "u4" || a == "b1" {
        let layouts: Vec<_> = i.mods.iter().filter(|m| *m == "row" || *m == "col").collect();
        if layouts != ["row", "col"] || d != "s32" || c != "s32" || b != a {
            return Err(wrong(i, "these types and layouts do not go together"));
        }
        let exec = match a {
            "b1" => mma::binary(s, i, "m8n8k128")?,
            _ => mma::integer(s, i, "m8n8k32", a, b)?,
        };
        return Ok((exec, Class::Matrix));
    }
    if a == "f64" {
        return Ok((mma::double(s, i, "m8n8k4")?, Class::Matrix));
    }
    type Get = fn(u32, usize) -> f32;
    let get: [Option<Get>; 2] = [a, b].map(|t| {
        Some(match t {
            "f16" => F16::get as Get,
            "bf16" => Bf16::get,
            "tf32" => Tf32::get,
            "s8" => S8::get,
            "u8" => U8::get,
            _ => return None,
        })
    });
    let integers = matches!(a, "s8" | "u8");
    let agree = match (d, c) {
        ("f16" | "f32", "f16" | "f32") if a == "f16" => b == a,
        ("f32", "f32") => a == b && matches!(a, "bf16" | "tf32"),
        ("s32", "s32") => integers && matches!(b, "s8" | "u8"),
        _ => false,
    };
    let ([Some(get_a), Some(get_b)], true) = (get, agree) else {
        return Err(wrong(i, "these types do not go together"));
    };
    let mnk = shape(i)?;
    let fragments = [
        Fragment::of(i, 'd', d)?,
        Fragment::of(i, 'a', a)?,
        Fragment::of(i, 'b', b)?,
        Fragment::of(i, 'c', c)?,
    ];
    let sources = |n: usize| -> Result<Vec<Src32>, PtxError> {
        let o: &Operand = s.operand(i, n)?;
        elements(i, o, fragments[n].count)?.iter().map(|o| s.src32(i, o, Type::B32)).collect()
    };
    let (sa, sb, sc) = (sources(1)?, sources(2)?, sources(3)?);
    let slot = |o: &Operand| match s.dst(i, o)? {
        Dst::R32(slot) => Ok(slot),
        _ => Err(wrong(i, "the result is in 32-bit registers")),
    };
    let ds = elements(i, s.operand(i, 0)?, fragments[0].count)?;
    let ds: Vec<u32> = ds.iter().map(slot).collect::<Result<_, _>>()?;
    let saturates = i.has("satfinite");
    let halves = [d == "f16", c == "f16"];
    let exec: Exec = Box::new(move |w, cta, mask| {
        if let Some(flow) = whole(w, cta, mask)? {
            return Ok(flow);
        }
        let fill = |to: &mut [f32], f: &Fragment, from: &[Src32], get: Get| {
            for (r, x) in from.iter().enumerate() {
                for l in 0..32 {
                    for e in 0..f.each {
                        let (row, column) = f.at(l, r * f.each + e);
                        to[row * f.columns + column] = get(x.get(w).0[l], e);
                    }
                }
            }
        };
        let (mut ma, mut mb, mut mc) = ([0.; 512], [0.; 512], [0.; 256]);
        fill(&mut ma, &fragments[1], &sa, get_a);
        fill(&mut mb, &fragments[2], &sb, get_b);
        if !integers {
            fill(&mut mc, &fragments[3], &sc, if halves[1] { F16::get } else { |x, _| f32::from_bits(x) });
        }
        run(mnk, &ma, &mb, &mut mc);
        let f = &fragments[0];
        for (r, slot) in ds.iter().enumerate() {
            let element = |l: usize, e: usize| {
                let (row, column) = f.at(l, r * f.each + e);
                mc[row * f.columns + column]
            };
            let x: [u32; 32] = std::array::from_fn(|l| {
                if integers {
                    let (c, x) = (sc[r].get(w).0[l] as i32, element(l, 0) as i32);
                    return (if saturates { c.saturating_add(x) } else { c.wrapping_add(x) }) as u32;
                }
                if halves[0] {
                    return to_f16(element(l, 0)) | to_f16(element(l, 1)) << 16;
                }
                let x = element(l, 0);
                if x.is_nan() { 0x7fff_ffff } else { x.to_bits() }
            });
            w.set32(*slot, !0, &L32(x));
        }
        Ok(Flow::Next)
    });
    Ok((exec, Class::Matrix))
}
