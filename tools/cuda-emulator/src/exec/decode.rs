//! From an instruction of the syntax tree to a closure: operands become slots, the op's family builds the work.

use super::{Class, Exec, L32, L64, Mask, Warp};
use crate::error::PtxError;
use crate::ptx::ast::{Function, Instr, Module, Operand, Space, Type};
use std::collections::HashMap;

/// Where names and registers of a function are.
pub struct Scope<'a> {
    /// The module.
    pub module: &'a Module,
    /// The function.
    pub function: &'a Function,
    /// Slot of each register in its file (predicates, ≤32, 64, 128 bits), by [`Function::regs`] index.
    pub slots: &'a [u32],
    /// Hidden 32-bit (or, for 64-bit specials, 64-bit) slots that hold special registers that do not change in a launch.
    pub specials: &'a HashMap<String, u32>,
    /// Address of each variable in its own space: device addresses, offsets in shared, local, param memory.
    pub symbols: &'a HashMap<String, (Space, u64)>,
    /// Index of each function in the program.
    pub functions: &'a HashMap<String, u32>,
    /// 32- and 64-bit slots of symbols (plus an offset) whose address depends on who calls: local variables and dynamic
    /// shared memory of device functions.
    pub hidden: &'a HashMap<(String, i64), (u32, u32)>,
    /// Param memory of every function, by index.
    pub layouts: &'a [super::load::Layout],
}

/// A 32-bit (or narrower) source.
#[derive(Clone)]
pub enum Src32 {
    /// A register's slot.
    Slot(u32),
    /// A constant in every lane.
    Const(Box<L32>),
}
impl Src32 {
    /// Its values.
    #[inline(always)]
    pub fn get<'a>(&'a self, w: &'a Warp) -> &'a L32 {
        match self {
            Self::Slot(s) => w.r32(*s),
            Self::Const(x) => x,
        }
    }
}

/// A 64-bit source.
#[derive(Clone)]
pub enum Src64 {
    /// A register's slot.
    Slot(u32),
    /// A constant in every lane.
    Const(Box<L64>),
}
impl Src64 {
    /// Its values.
    #[inline(always)]
    pub fn get<'a>(&'a self, w: &'a Warp) -> &'a L64 {
        match self {
            Self::Slot(s) => w.r64(*s),
            Self::Const(x) => x,
        }
    }
}

/// A predicate source.
#[derive(Clone, Copy)]
pub enum SrcPred {
    /// A register's slot, negated or not.
    Slot(u32, bool),
    /// A constant.
    Const(bool),
}
impl SrcPred {
    /// Lanes in which it holds.
    #[inline(always)]
    pub fn get(self, w: &Warp) -> Mask {
        match self {
            Self::Slot(s, not) => w.pred(s) ^ if not { !0 } else { 0 },
            Self::Const(x) => {
                if x {
                    !0
                } else {
                    0
                }
            }
        }
    }
}

/// An address operand: base plus offset.
#[derive(Clone)]
pub struct Addr {
    /// Base register (32- or 64-bit), or none for a constant address.
    pub base: Base,
    /// Added.
    pub offset: i64,
}
/// See [`Addr::base`].
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub enum Base {
    None,
    R32(u32),
    R64(u32),
}
impl Addr {
    /// Addresses of every lane (32-bit bases are zero-extended, the sum wraps in the base's width).
    #[inline(always)]
    pub fn get(&self, w: &Warp) -> [u64; 32] {
        match self.base {
            Base::None => [self.offset as u64; 32],
            Base::R32(s) => {
                let mut r = [0; 32];
                for (r, x) in r.iter_mut().zip(&w.r32(s).0) {
                    *r = u64::from(x.wrapping_add(self.offset as u32));
                }
                r
            }
            Base::R64(s) => {
                let mut r = w.r64(s).0;
                r.iter_mut().for_each(|x| *x = x.wrapping_add(self.offset as u64));
                r
            }
        }
    }
}

/// A destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dst {
    R32(u32),
    R64(u32),
    R128(u32),
    Pred(u32),
    Sink,
}

impl Scope<'_> {
    fn wrong(&self, i: &Instr, what: &str) -> PtxError {
        PtxError::new(i.line, format!("{}: {what}", i.spelling()))
    }
    /// Operand `n`.
    pub fn operand<'i>(&self, i: &'i Instr, n: usize) -> Result<&'i Operand, PtxError> {
        i.operands.get(n).ok_or_else(|| self.wrong(i, &format!("operand {n} is missing")))
    }
    /// A source of up to 32 bits; constants are taken as `ty` (a float constant is narrowed to it, an integer wrapped).
    pub fn src32(&self, i: &Instr, o: &Operand, ty: Type) -> Result<Src32, PtxError> {
        let bits = if ty.bits() >= 32 { !0 } else { (1u32 << ty.bits()) - 1 };
        Ok(match o {
            Operand::Reg(r) if (2..=32).contains(&self.function.regs[*r as usize].bits()) => {
                Src32::Slot(self.slots[*r as usize])
            }
            Operand::Vector(v) if v.len() == 1 => self.src32(i, &v[0], ty)?,
            Operand::Special(name) => match self.specials.get(name) {
                Some(&s) => Src32::Slot(s),
                None => return Err(self.wrong(i, &format!("%{name} cannot be an operand here"))),
            },
            Operand::Int(x) => Src32::Const(Box::new(L32::splat(*x as u32 & bits))),
            Operand::F32(x) => Src32::Const(Box::new(L32::splat(*x))),
            Operand::F64(x) if ty == Type::F32 => {
                Src32::Const(Box::new(L32::splat((f64::from_bits(*x) as f32).to_bits())))
            }
            Operand::Symbol(name, offset) if self.hidden.contains_key(&(name.clone(), *offset)) => {
                Src32::Slot(self.hidden[&(name.clone(), *offset)].0)
            }
            Operand::Symbol(name, offset) => match self.symbols.get(name) {
                Some(&(_, at)) => Src32::Const(Box::new(L32::splat((at as i64 + offset) as u32))),
                None => return Err(self.wrong(i, &format!("{name} is not declared"))),
            },
            o => return Err(self.wrong(i, &format!("{o:?} is not a {ty:?}"))),
        })
    }
    /// A 64-bit source.
    pub fn src64(&self, i: &Instr, o: &Operand, ty: Type) -> Result<Src64, PtxError> {
        let _ = ty;
        Ok(match o {
            Operand::Reg(r) if self.function.regs[*r as usize].bits() == 64 => {
                Src64::Slot(self.slots[*r as usize])
            }
            Operand::Vector(v) if v.len() == 1 => self.src64(i, &v[0], ty)?,
            Operand::Special(name) => match self.specials.get(&format!("{name}:64")) {
                Some(&s) => Src64::Slot(s),
                None => return Err(self.wrong(i, &format!("%{name} cannot be an operand here"))),
            },
            Operand::Int(x) => Src64::Const(Box::new(L64::splat(*x as u64))),
            Operand::F64(x) => Src64::Const(Box::new(L64::splat(*x))),
            Operand::F32(x) if ty == Type::F64 => {
                Src64::Const(Box::new(L64::splat(f64::from(f32::from_bits(*x)).to_bits())))
            }
            Operand::Symbol(name, offset) if self.hidden.contains_key(&(name.clone(), *offset)) => {
                Src64::Slot(self.hidden[&(name.clone(), *offset)].1)
            }
            Operand::Symbol(name, offset) => match self.symbols.get(name) {
                Some(&(_, at)) => Src64::Const(Box::new(L64::splat((at as i64 + offset) as u64))),
                None => return Err(self.wrong(i, &format!("{name} is not declared"))),
            },
            o => return Err(self.wrong(i, &format!("{o:?} is not a {ty:?}"))),
        })
    }
    /// A predicate source.
    pub fn pred(&self, i: &Instr, o: &Operand) -> Result<SrcPred, PtxError> {
        let is = |r: u32| self.function.regs[r as usize] == Type::Pred;
        Ok(match o {
            Operand::Reg(r) if is(*r) => SrcPred::Slot(self.slots[*r as usize], false),
            Operand::Not(r) if is(*r) => SrcPred::Slot(self.slots[*r as usize], true),
            Operand::Int(x) => SrcPred::Const(*x != 0),
            Operand::Special(name) if name == "is_explicit_cluster" => SrcPred::Const(false),
            o => return Err(self.wrong(i, &format!("{o:?} is not a predicate"))),
        })
    }
    /// A destination register, or a sink.
    pub fn dst(&self, i: &Instr, o: &Operand) -> Result<Dst, PtxError> {
        Ok(match o {
            Operand::Reg(r) => {
                let slot = self.slots[*r as usize];
                match self.function.regs[*r as usize].bits() {
                    1 => Dst::Pred(slot),
                    64 => Dst::R64(slot),
                    128 => Dst::R128(slot),
                    _ => Dst::R32(slot),
                }
            }
            Operand::Sink => Dst::Sink,
            Operand::Vector(v) if v.len() == 1 => self.dst(i, &v[0])?,
            o => return Err(self.wrong(i, &format!("{o:?} cannot be written"))),
        })
    }
    /// An address `[…]`. Symbols are already addresses in their own space; [`Self::space_of`] says which.
    pub fn addr(&self, i: &Instr, o: &Operand) -> Result<Addr, PtxError> {
        let Operand::Address(a) = o else { return Err(self.wrong(i, &format!("{o:?} is not an address"))) };
        let base = match &a.base {
            Operand::Reg(r) => match self.function.regs[*r as usize].bits() {
                64 => Base::R64(self.slots[*r as usize]),
                32 => Base::R32(self.slots[*r as usize]),
                _ => return Err(self.wrong(i, "an address must be in a 32- or 64-bit register")),
            },
            Operand::Int(x) => return Ok(Addr { base: Base::None, offset: x.wrapping_add(a.offset) }),
            Operand::Symbol(name, offset) if self.hidden.contains_key(&(name.clone(), *offset)) => {
                Base::R64(self.hidden[&(name.clone(), *offset)].1)
            }
            Operand::Symbol(name, offset) => match self.symbols.get(name) {
                Some(&(_, at)) => {
                    let offset = (at as i64).wrapping_add(*offset).wrapping_add(a.offset);
                    return Ok(Addr { base: Base::None, offset });
                }
                None => return Err(self.wrong(i, &format!("{name} is not declared"))),
            },
            o => return Err(self.wrong(i, &format!("{o:?} cannot be an address"))),
        };
        Ok(Addr { base, offset: a.offset })
    }
    /// The instruction index of a label.
    pub fn label(&self, i: &Instr, o: &Operand) -> Result<u32, PtxError> {
        match o {
            Operand::Symbol(name, 0) => self.function.labels.get(name).map(|&x| x as u32),
            _ => None,
        }
        .ok_or_else(|| self.wrong(i, &format!("{o:?} is not a label of {}", self.function.name)))
    }
}

/// What a family returns for an instruction that is its own: the work and what it counts as. `None`: not one of this
/// family's. An error: one of this family's in a form that is not supported or not legal.
pub type Decoded = Result<Option<(Exec, Class)>, PtxError>;
