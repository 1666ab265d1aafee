//! setp, set, selp, slct. Source: PTX ISA, "Comparison and Selection Instructions".

use super::formats::{Brain, Half, flush, flush_half};
use super::lanes::*;
use crate::error::PtxError;
use crate::exec::decode::{Decoded, Dst, Scope, SrcPred};
use crate::exec::{Class, Mask, Warp};
use crate::ptx::ast::{Instr, Operand, Type};

/// See [`super`].
pub fn decode(s: &Scope, i: &Instr) -> Decoded {
    let e = match i.op.as_str() {
        "setp" | "set" => compares(s, i),
        "selp" => {
            let p = s.pred(i, s.operand(i, 3)?)?;
            match ty(i)?.bits() {
                64 => selp::<u64>(s, i, p),
                16 => selp::<u16>(s, i, p),
                _ if i.ty(0) == Some(Type::F32) => selp::<f32>(s, i, p),
                32 => selp::<u32>(s, i, p),
                _ => unsupported(i),
            }
        }
        "slct" => {
            let flushed = i.has("ftz");
            match (ty(i)?.bits(), i.ty(1)) {
                (16, Some(Type::S32)) => ternary(s, i, |a: u16, b: u16, c: i32| if c >= 0 { a } else { b }),
                (32, Some(Type::S32)) => ternary(s, i, |a: u32, b: u32, c: i32| if c >= 0 { a } else { b }),
                (64, Some(Type::S32)) => ternary(s, i, |a: u64, b: u64, c: i32| if c >= 0 { a } else { b }),
                (16, Some(Type::F32)) => {
                    ternary(s, i, move |a: u16, b: u16, c| if at_least_zero(c, flushed) { a } else { b })
                }
                (32, Some(Type::F32)) => {
                    ternary(s, i, move |a: u32, b: u32, c| if at_least_zero(c, flushed) { a } else { b })
                }
                (64, Some(Type::F32)) => {
                    ternary(s, i, move |a: u64, b: u64, c| if at_least_zero(c, flushed) { a } else { b })
                }
                _ => unsupported(i),
            }
        }
        _ => return Ok(None),
    };
    done(i, e, Class::Compare)
}
fn at_least_zero(c: f32, flushed: bool) -> bool {
    (if flushed { flush(c) } else { c }) >= 0.
}

simd! {
    fn selp[T: Scalar](s: &Scope, i: &Instr, p: SrcPred) -> Made {
        let (d, a, b) = (target::<T>(s, i, 0)?, source::<T>(s, i, 1)?, source::<T>(s, i, 2)?);
        Ok(exec(move |w, _, m| {
            let Some(d) = d else { return };
            let (x, y, p) = (values::<T>(&a, w), values::<T>(&b, w), p.get(w));
            let mut r = *y;
            for (l, (r, &x)) in r.iter_mut().zip(x).enumerate() {
                *r = if p >> l & 1 == 1 { x } else { *r };
            }
            T::W::set(w, d, m, r);
        }))
    }
}

/// What becomes of a comparison.
enum Finish {
    /// Two predicates, either may be a sink.
    Preds(Option<u32>, Option<u32>),
    /// This in a register, or zero.
    Word(u32, u32),
    /// This in each half of a register, or zero.
    Halves(u32, u32),
}
/// `.and`, `.or`, `.xor` with a predicate.
type Combine = Option<(fn(Mask, Mask) -> Mask, SrcPred)>;

fn combine(s: &Scope, i: &Instr) -> Result<Combine, PtxError> {
    let f: fn(Mask, Mask) -> Mask = if i.has("and") {
        |t, c| t & c
    } else if i.has("or") {
        |t, c| t | c
    } else if i.has("xor") {
        |t, c| t ^ c
    } else {
        return Ok(None);
    };
    Ok(Some((f, s.pred(i, s.operand(i, 3)?)?)))
}

fn finish(s: &Scope, i: &Instr) -> Result<Finish, PtxError> {
    let d = s.operand(i, 0)?;
    if i.op == "setp" {
        let one = |o: &Operand| match s.dst(i, o)? {
            Dst::Pred(p) => Ok(Some(p)),
            Dst::Sink => Ok(None),
            _ => Err(wrong(i, "the destination must be a predicate")),
        };
        return Ok(match d {
            Operand::Pair(p, q) => Finish::Preds(one(p)?, one(q)?),
            p => Finish::Preds(one(p)?, None),
        });
    }
    let Dst::R32(d) = s.dst(i, d)? else {
        return Err(wrong(i, "the destination must be a 32-bit (or narrower) register"));
    };
    Ok(match ty(i)? {
        Type::U32 | Type::S32 if i.ty(1).is_some_and(|t| matches!(t, Type::F16x2 | Type::Bf16x2)) => {
            Finish::Halves(d, 0xffff)
        }
        Type::U32 | Type::S32 => Finish::Word(d, !0),
        Type::U16 | Type::S16 => Finish::Word(d, 0xffff),
        Type::F32 => Finish::Word(d, 1f32.to_bits()),
        Type::F16 => Finish::Word(d, 0x3c00),
        Type::Bf16 => Finish::Word(d, 0x3f80),
        Type::F16x2 => Finish::Halves(d, 0x3c00),
        Type::Bf16x2 => Finish::Halves(d, 0x3f80),
        _ => return unsupported(i),
    })
}

impl Finish {
    /// `t`: lanes where the comparison holds; `u`: where it holds of the upper halves, of two.
    #[inline(always)]
    fn put(&self, w: &mut Warp, m: Mask, t: Mask, u: Option<Mask>, c: &Combine) {
        let with = |w: &Warp, t: Mask| c.as_ref().map_or(t, |(f, c)| f(t, c.get(w)));
        match *self {
            Self::Preds(p, q) => {
                let (x, y) = (with(w, t), q.map(|q| (q, with(w, u.unwrap_or(!t)))));
                if let Some(p) = p {
                    w.set_pred(p, m, x);
                }
                if let Some((q, y)) = y {
                    w.set_pred(q, m, y);
                }
            }
            Self::Word(d, yes) => {
                let t = with(w, t);
                u32::set(w, d, m, std::array::from_fn(|l| if t >> l & 1 == 1 { yes } else { 0 }));
            }
            Self::Halves(d, yes) => {
                let (t, u) = (with(w, t), with(w, u.unwrap_or(t)));
                let half = |t: Mask, l: usize| if t >> l & 1 == 1 { yes } else { 0 };
                u32::set(w, d, m, std::array::from_fn(|l| half(t, l) | half(u, l) << 16));
            }
        }
    }
}

fn compares(s: &Scope, i: &Instr) -> Made {
    use Type::*;
    let t = if i.op == "set" { i.ty(1) } else { i.ty(0) }.ok_or_else(|| wrong(i, "a type is missing"))?;
    let op = i.mods.first().map(String::as_str).unwrap_or_default();
    let flushed = i.has("ftz");
    match t {
        F32 if flushed => floats::<f32, f32>(s, i, op, flush),
        F32 => floats::<f32, f32>(s, i, op, |x| x),
        F64 => floats::<f64, f64>(s, i, op, |x| x),
        F16 if flushed => floats::<Half, f32>(s, i, op, |x| flush_half(x.0)),
        F16 => floats::<Half, f32>(s, i, op, |x| x.0),
        Bf16 => floats::<Brain, f32>(s, i, op, |x| x.0),
        F16x2 if flushed => pairs(s, i, op, |x| flush_half(Half::from_word(x).0)),
        F16x2 => pairs(s, i, op, |x| Half::from_word(x).0),
        Bf16x2 => pairs(s, i, op, |x| Brain::from_word(x).0),
        _ => by_int!(t, i, T => match op {
            "eq" => build(s, i, |a: T, b: T| a == b),
            "ne" => build(s, i, |a: T, b: T| a != b),
            "lt" | "lo" => build(s, i, |a: T, b: T| a < b),
            "le" | "ls" => build(s, i, |a: T, b: T| a <= b),
            "gt" | "hi" => build(s, i, |a: T, b: T| a > b),
            "ge" | "hs" => build(s, i, |a: T, b: T| a >= b),
            _ => unsupported(i),
        }),
    }
}

/// A float comparison by its name.
macro_rules! float_op {
    ($op:expr, $i:expr, $T:ty, $f:ident => $body:expr) => {{
        macro_rules! go {
            ($c:expr) => {{
                let $f = $c;
                $body
            }};
        }
        match $op {
            "eq" => go!(|a: $T, b: $T| a == b),
            "ne" => go!(|a: $T, b: $T| a < b || a > b),
            "lt" => go!(|a: $T, b: $T| a < b),
            "le" => go!(|a: $T, b: $T| a <= b),
            "gt" => go!(|a: $T, b: $T| a > b),
            "ge" => go!(|a: $T, b: $T| a >= b),
            "equ" => go!(|a: $T, b: $T| !(a < b || a > b)),
            "neu" => go!(|a: $T, b: $T| a != b),
            "ltu" => go!(|a: $T, b: $T| !(a >= b)),
            "leu" => go!(|a: $T, b: $T| !(a > b)),
            "gtu" => go!(|a: $T, b: $T| !(a <= b)),
            "geu" => go!(|a: $T, b: $T| !(a < b)),
            "num" => go!(|a: $T, b: $T| a.partial_cmp(&b).is_some()),
            "nan" => go!(|a: $T, b: $T| a.partial_cmp(&b).is_none()),
            _ => unsupported($i),
        }
    }};
}

fn floats<A: Scalar, V: PartialOrd + 'static>(
    s: &Scope,
    i: &Instr,
    op: &str,
    v: impl Fn(A) -> V + Send + Sync + 'static,
) -> Made {
    float_op!(op, i, V, f => build(s, i, move |a: A, b: A| f(v(a), v(b))))
}

simd! {
    fn build[A: Scalar](s: &Scope, i: &Instr, f: impl Fn(A, A) -> bool + Send + Sync + 'static) -> Made {
        let (finish, c) = (finish(s, i)?, combine(s, i)?);
        let (a, b) = (source::<A>(s, i, 1)?, source::<A>(s, i, 2)?);
        Ok(exec(move |w, _, m| {
            let t = compare::<A>(values::<A>(&a, w), values::<A>(&b, w), &f);
            finish.put(w, m, t, None, &c);
        }))
    }
}

fn pairs(s: &Scope, i: &Instr, op: &str, v: impl Fn(u32) -> f32 + Send + Sync + 'static) -> Made {
    let (finish, c) = (finish(s, i)?, combine(s, i)?);
    let (a, b) = (source::<u32>(s, i, 1)?, source::<u32>(s, i, 2)?);
    float_op!(op, i, f32, f => Ok(exec(move |w, _, m| {
        let (x, y) = (&a.get(w).0, &b.get(w).0);
        let t = compare::<u32>(x, y, |a, b| f(v(a & 0xffff), v(b & 0xffff)));
        let u = compare::<u32>(x, y, |a, b| f(v(a >> 16), v(b >> 16)));
        finish.put(w, m, t, Some(u), &c);
    })))
}
