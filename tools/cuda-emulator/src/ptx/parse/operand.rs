//! Operands of instructions.

use super::constant::Const;
use super::scope::{Bind, Body, Place, Ref};
use super::{Parser, Res};
use crate::error::PtxError;
use crate::ptx::ast::{Address, Operand, Type};
use crate::ptx::lex::Tok;

/// Operands of one instruction, those in vectors and lists included, at most.
const OPERANDS: usize = 2048;

/// Special registers that are read by component.
const VECTORS: &[&str] =
    &["tid", "ntid", "ctaid", "nctaid", "clusterid", "nclusterid", "cluster_ctaid", "cluster_nctaid"];
/// Other special registers. Numbered ones are in [`special`].
const SCALARS: &[&str] = &[
    "laneid",
    "warpid",
    "nwarpid",
    "smid",
    "nsmid",
    "gridid",
    "is_explicit_cluster",
    "cluster_ctarank",
    "cluster_nctarank",
    "lanemask_eq",
    "lanemask_le",
    "lanemask_lt",
    "lanemask_ge",
    "lanemask_gt",
    "clock",
    "clock_hi",
    "clock64",
    "globaltimer",
    "globaltimer_lo",
    "globaltimer_hi",
    "reserved_smem_offset_begin",
    "reserved_smem_offset_end",
    "reserved_smem_offset_cap",
    "total_smem_size",
    "aggr_smem_size",
    "dynamic_smem_size",
    "current_graph_exec",
];

fn special(name: &str) -> bool {
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix)
            .map(|n| n.strip_suffix("_64").unwrap_or(n))
            .is_some_and(|n| !n.is_empty() && n.len() < 3 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    VECTORS.contains(&name)
        || SCALARS.contains(&name)
        || ["envreg", "pm", "reserved_smem_offset_"].iter().any(|p| numbered(p))
}

/// `b0`, `h10`: elements of a register.
fn selects(part: &str) -> bool {
    let digits = part.strip_prefix(['b', 'h']).unwrap_or_default();
    (1..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Calls `f` on an operand and all inside it.
pub fn each(o: &mut Operand, f: &mut dyn FnMut(&mut Operand)) {
    match o {
        Operand::Vector(all) | Operand::List(all) => all.iter_mut().for_each(|o| each(o, f)),
        Operand::Address(a) => {
            each(&mut a.base, f);
            a.coordinates.iter_mut().for_each(|o| each(o, f));
        }
        Operand::Pair(a, b) => {
            each(a, f);
            each(b, f);
        }
        o => f(o),
    }
}

impl<'a> Parser<'a> {
    /// Operands up to the semicolon.
    pub(super) fn operands(&mut self, b: &mut Body<'a>, call: bool) -> Res<Vec<Operand>> {
        let mut all = Vec::new();
        b.operands = 0;
        while !self.accept(";")? {
            if !all.is_empty() && !self.accept(",")? {
                return Err(self.wanted("`,` or `;` after an operand"));
            }
            all.push(self.operand(b, call)?);
        }
        Ok(all)
    }

    fn operand(&mut self, b: &mut Body<'a>, call: bool) -> Res<Operand> {
        match self.tok {
            Tok::Sym("[") => self.location_operand(b),
            Tok::Sym("{") => Ok(Operand::Vector(self.elements(b, "}")?)),
            Tok::Sym("(") if call => Ok(Operand::List(self.elements(b, ")")?)),
            _ => {
                let first = self.element(b)?;
                if matches!(first, Operand::Reg(_) | Operand::Sink) && self.accept("|")? {
                    let second = self.element(b)?;
                    return Ok(Operand::Pair(Box::new(first), Box::new(second)));
                }
                Ok(first)
            }
        }
    }

    /// `{a, b}` or `(a, b)`.
    fn elements(&mut self, b: &mut Body<'a>, end: &str) -> Res<Vec<Operand>> {
        let mut all = Vec::new();
        self.advance()?;
        while !self.accept(end)? {
            if !all.is_empty() && !self.accept(",")? {
                return Err(self.wanted(&format!("`,` or `{end}`")));
            }
            all.push(self.element(b)?);
        }
        Ok(all)
    }

    /// A register, a symbol or a constant.
    fn element(&mut self, b: &mut Body<'a>) -> Res<Operand> {
        b.operands += 1;
        if b.operands > OPERANDS {
            return Err(self.error(format!("an instruction has more than {OPERANDS} operands")));
        }
        match self.tok {
            Tok::Word("WARP_SZ") => self.constant_operand(),
            Tok::Word(name) => {
                let o = self.word(b, name)?;
                Ok(match o {
                    Operand::Symbol(name, _) => Operand::Symbol(name, self.addend()?),
                    o => o,
                })
            }
            Tok::Sym("!") if matches!(self.peek()?, Tok::Word(_)) => {
                self.advance()?;
                let name = self.name("a predicate")?;
                self.predicate(b, name).map(Operand::Not)
            }
            Tok::Sym("{") => Err(self.wanted("an element, not a vector in a vector")),
            _ => self.constant_operand(),
        }
    }

    fn constant_operand(&mut self) -> Res<Operand> {
        if !matches!(
            self.tok,
            Tok::Num(_) | Tok::Dot(_) | Tok::Word(_) | Tok::Sym("-" | "+" | "~" | "!" | "(")
        ) {
            return Err(self.wanted("an operand"));
        }
        Ok(match self.constant()? {
            Const::Int(x, _) => Operand::Int(x),
            Const::F32(x) => Operand::F32(x),
            Const::F64(x) => Operand::F64(x),
        })
    }

    /// The register that a name stands for, which must be a predicate.
    pub(super) fn predicate(&mut self, b: &mut Body<'a>, name: &'a str) -> Res<u32> {
        match b.find(name) {
            Some(Bind::Reg(r)) if b.f.regs[r as usize] == Type::Pred => Ok(r),
            Some(_) => Err(self.error(format!("{} is not a predicate", Tok::Word(name)))),
            None => Err(self.error(format!("register {} is not declared", Tok::Word(name)))),
        }
    }

    /// What a word stands for, without an offset behind it.
    fn word(&mut self, b: &mut Body<'a>, name: &'a str) -> Res<Operand> {
        let line = self.line;
        self.advance()?;
        if name == "_" {
            return Ok(Operand::Sink);
        }
        match b.find(name) {
            Some(Bind::Reg(r)) => match self.tok {
                Tok::Dot(part) if selects(part) => {
                    self.advance()?;
                    Ok(Operand::Part(r, part.to_string()))
                }
                Tok::Dot(part) => {
                    Err(self.error(format!("{}.{part}: a register has no parts here", b.f.names[r as usize])))
                }
                _ => Ok(Operand::Reg(r)),
            },
            Some(Bind::Regs(all)) => {
                let Tok::Dot(part) = self.tok else {
                    return Ok(Operand::Vector(all.into_iter().map(Operand::Reg).collect()));
                };
                self.advance()?;
                let n = ["x", "y", "z", "w"]
                    .iter()
                    .position(|p| *p == part)
                    .or_else(|| ["r", "g", "b", "a"].iter().position(|p| *p == part));
                n.and_then(|n| all.get(n))
                    .map(|r| Operand::Reg(*r))
                    .ok_or_else(|| self.error(format!("{} has no part {}", Tok::Word(name), Tok::Dot(part))))
            }
            Some(Bind::Variable(name)) => Ok(Operand::Symbol(name, 0)),
            None => match name.strip_prefix('%') {
                Some(s) if special(s) => {
                    if let (true, Tok::Dot(part @ ("x" | "y" | "z" | "w"))) = (VECTORS.contains(&s), self.tok)
                    {
                        self.advance()?;
                        return Ok(Operand::Special(format!("{s}.{part}")));
                    }
                    Ok(Operand::Special(s.to_string()))
                }
                Some(_) => Err(PtxError::new(line, format!("register {} is not declared", Tok::Word(name)))),
                None => {
                    b.refer(Ref { name, line, place: Place::Instr(b.f.body.len()) });
                    Ok(Operand::Symbol(name.to_string(), 0))
                }
            },
        }
    }

    /// `[base]`, `[base + offset]`, `[base, {x, y}]`.
    fn location_operand(&mut self, b: &mut Body<'a>) -> Res<Operand> {
        self.advance()?;
        let (base, offset) = match self.tok {
            Tok::Word(name) if name != "WARP_SZ" => {
                b.operands += 1;
                let base = self.word(b, name)?;
                if !matches!(base, Operand::Reg(_) | Operand::Symbol(..)) {
                    return Err(self.wanted("a register or a variable as the base of an address"));
                }
                (base, self.addend()?)
            }
            _ => (Operand::Int(self.integer()?), 0),
        };
        let mut coordinates = Vec::new();
        while self.accept(",")? {
            if self.tok == Tok::Sym("{") {
                coordinates.append(&mut self.elements(b, "}")?);
            } else {
                coordinates.push(self.element(b)?);
            }
        }
        if self.tok != Tok::Sym("]") {
            return Err(self.wanted("`]` at the end of an address"));
        }
        self.advance()?;
        Ok(Operand::Address(Box::new(Address { base, offset, coordinates })))
    }
}
