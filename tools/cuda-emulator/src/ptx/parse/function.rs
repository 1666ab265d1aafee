//! Kernels, functions and the statements of their bodies.

use super::scope::{Body, Place, Ref};
use super::{Linkage, Parser, Res};
use crate::error::PtxError;
use crate::ptx::ast::{Function, Instr, Prototype, Space, Type, Variable};
use crate::ptx::lex::Tok;

/// Blocks inside each other, at most.
const DEPTH: usize = 128;
/// Modifiers of an instruction, at most.
const MODIFIERS: usize = 64;

fn plain(all: &[(&str, Variable)]) -> Vec<Variable> {
    all.iter().map(|(_, v)| v.clone()).collect()
}

impl<'a> Parser<'a> {
    /// `.entry` or `.func`, from that word on.
    pub(super) fn function(&mut self, entry: bool, l: &Linkage) -> Res<()> {
        self.advance()?;
        while self.tok == Tok::Dot("attribute") {
            self.advance()?;
            self.skip_group()?;
        }
        let returns = if self.tok == Tok::Sym("(") { self.parameters()? } else { Vec::new() };
        let line = self.line;
        let name = self.name("a function's name")?;
        let params = if self.tok == Tok::Sym("(") { self.parameters()? } else { Vec::new() };
        let mut f = Function {
            name: name.to_string(),
            entry,
            params: plain(&params),
            returns: plain(&returns),
            line,
            ..Function::default()
        };
        self.directives(&mut f)?;
        if self.accept(";")? {
            return self.keep_function(f, l.weak);
        }
        if self.tok != Tok::Sym("{") {
            return Err(self.wanted("`{` or `;` after a function's head"));
        }
        if l.external {
            return Err(self.error(format!("{} is .extern and has a body", Tok::Word(name))));
        }
        f.defined = true;
        let mut body = Body::new(f);
        for (name, _) in returns.iter().chain(&params) {
            if !body.parameter(name) {
                return Err(PtxError::new(line, format!("parameter {} is declared twice", Tok::Word(name))));
            }
        }
        self.body(&mut body)?;
        self.keep_function(body.f, l.weak)
    }

    /// Up to three numbers; those that are not written are 1.
    fn extent(&mut self) -> Res<[u32; 3]> {
        let mut n = [1; 3];
        for (i, n) in n.iter_mut().enumerate() {
            if i > 0 && !self.accept(",")? {
                break;
            }
            *n = self.count("an extent", u64::from(u32::MAX))? as u32;
        }
        Ok(n)
    }

    /// Directives between head and body.
    fn directives(&mut self, f: &mut Function) -> Res<()> {
        while let Tok::Dot(word) = self.tok {
            if word == "pragma" {
                self.pragma()?;
                continue;
            }
            self.advance()?;
            let most = u64::from(u32::MAX);
            match word {
                "maxntid" => f.max_threads = Some(self.extent()?),
                "reqntid" => f.required_threads = Some(self.extent()?),
                "reqnctapercluster" => f.cluster = Some(self.extent()?),
                "minnctapersm" | "maxnctapersm" => {
                    let n = self.count("a number of blocks", most)? as u32;
                    f.min_blocks = if word == "minnctapersm" { Some(n) } else { f.min_blocks };
                }
                "maxnreg" => f.max_registers = Some(self.count("a number of registers", most)? as u32),
                "maxclusterrank" | "abi_preserve" | "abi_preserve_control" => {
                    _ = self.count("a number", most)?;
                }
                "explicitcluster" | "blocksareclusters" | "noreturn" | "unique" => {}
                "attribute" => self.skip_group()?,
                _ => return Err(self.error(format!("a function has no directive {}", Tok::Dot(word)))),
            }
        }
        Ok(())
    }

    /// Statements up to the closing brace.
    fn body(&mut self, b: &mut Body<'a>) -> Res<()> {
        let line = self.line;
        self.expect("{")?;
        loop {
            match self.tok {
                Tok::Sym("{") => {
                    if b.depth() == DEPTH {
                        return Err(self.error(format!("blocks are nested more than {DEPTH} deep")));
                    }
                    b.open();
                    self.advance()?;
                }
                Tok::Sym("}") => {
                    let last = b.depth() == 1;
                    let left = b.close();
                    self.advance()?;
                    if last {
                        self.pending.extend(left.iter().map(|r| (r.name, r.line)));
                        return Ok(());
                    }
                }
                Tok::Sym(";") => drop(self.advance()?),
                Tok::Sym("@") => {
                    let line = self.line;
                    self.advance()?;
                    let not = self.accept("!")?;
                    let name = self.name("a predicate")?;
                    let guard = Some((self.predicate(b, name)?, not));
                    let op = self.name("an instruction behind its guard")?;
                    self.instruction(b, op, guard, line)?;
                }
                Tok::Word(word) => {
                    let line = self.line;
                    self.advance()?;
                    if self.accept(":")? {
                        self.label(b, word, line)?;
                    } else {
                        self.instruction(b, word, None, line)?;
                    }
                }
                Tok::Dot("loc") => b.source = Some(self.location()?),
                Tok::Dot("pragma") => self.pragma()?,
                Tok::Dot("file") => self.file()?,
                Tok::Dot("reg") => self.registers(b)?,
                Tok::Dot(_) => self.local(b)?,
                Tok::End => return Err(PtxError::new(line, "a body has no closing `}`")),
                _ => return Err(self.wanted("a statement")),
            }
        }
    }

    /// `.reg .b32 %r<10>, %x;`
    fn registers(&mut self, b: &mut Body<'a>) -> Res<()> {
        self.advance()?;
        let (mut ty, mut lanes) = (None, 1);
        while let Tok::Dot(word) = self.tok {
            match word {
                "v2" => lanes = 2,
                "v4" => lanes = 4,
                _ => match Type::named(word) {
                    Some(t) => ty = Some(t),
                    None => return Err(self.wanted("a type of a register")),
                },
            }
            self.advance()?;
        }
        let Some(ty) = ty else { return Err(self.wanted("a type of a register")) };
        loop {
            let name = self.name("a register's name")?;
            let fresh = if self.accept("<")? {
                // Not an expression: `>` would be an operator.
                let n = self.bare("a number of registers")?;
                self.expect(">")?;
                b.range(name, u64::from(n), ty)
            } else {
                b.reg(name, ty, lanes)
            };
            if !fresh {
                return Err(self.error(format!("register {} is declared twice", Tok::Word(name))));
            }
            if !self.accept(",")? {
                return self.expect(";");
            }
        }
    }

    /// Variables declared in a body; global and const ones go to the module.
    fn local(&mut self, b: &mut Body<'a>) -> Res<()> {
        let mut l = Linkage::default();
        while let Tok::Dot(word @ ("extern" | "visible" | "weak" | "common")) = self.tok {
            l.external |= word == "extern";
            self.advance()?;
        }
        if self.space().is_none() {
            return Err(self.wanted("a statement"));
        }
        for (name, mut v) in self.variables(&l)? {
            let outside = self.variables.contains_key(name) || self.functions.contains_key(name);
            let fresh = if matches!(v.space, Space::Global | Space::Const) || v.external {
                let unique = b.outside(name, outside && !v.external);
                v.name = unique.clone().unwrap_or_default();
                if unique.is_some() {
                    self.keep_variable(v)?;
                }
                unique.is_some()
            } else {
                b.variable(name, v, outside)
            };
            if !fresh {
                return Err(self.error(format!("{} is declared twice", Tok::Word(name))));
            }
        }
        Ok(())
    }

    fn label(&mut self, b: &mut Body<'a>, name: &'a str, line: u32) -> Res<()> {
        let Some(label) = b.label(name) else {
            return Err(PtxError::new(line, format!("label {} is defined twice", Tok::Word(name))));
        };
        match self.tok {
            Tok::Dot("branchtargets" | "calltargets") => {
                self.advance()?;
                let mut all = Vec::new();
                loop {
                    let line = self.line;
                    let name = self.name("a label or a function")?;
                    b.refer(Ref { name, line, place: Place::Target(label.clone(), all.len()) });
                    all.push(name.to_string());
                    if !self.accept(",")? {
                        break;
                    }
                }
                b.f.targets.insert(label, all);
                self.expect(";")
            }
            Tok::Dot("callprototype") => {
                self.advance()?;
                let returns = if self.tok == Tok::Sym("(") { plain(&self.parameters()?) } else { Vec::new() };
                self.name("`_`")?;
                let params = if self.tok == Tok::Sym("(") { plain(&self.parameters()?) } else { Vec::new() };
                self.directives(&mut Function::default())?;
                b.f.prototypes.insert(label, Prototype { params, returns });
                self.expect(";")
            }
            _ => {
                b.f.labels.insert(label, b.f.body.len());
                Ok(())
            }
        }
    }

    /// An instruction behind its first word.
    fn instruction(&mut self, b: &mut Body<'a>, op: &str, guard: Option<(u32, bool)>, line: u32) -> Res<()> {
        let mut mods = Vec::new();
        while let Tok::Dot(word) = self.tok {
            if mods.len() == MODIFIERS {
                return Err(self.error(format!("an instruction has more than {MODIFIERS} modifiers")));
            }
            mods.push(word.to_string());
            self.advance()?;
        }
        let operands = self.operands(b, op == "call")?;
        let i = Instr { guard, op: op.to_string(), mods, operands, line, source: b.source };
        b.f.body.push(i);
        Ok(())
    }
}
