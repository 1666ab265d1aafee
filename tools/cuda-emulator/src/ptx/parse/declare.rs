//! Variables, parameters and their initial values.

use super::constant::Const;
use super::{Linkage, Parser, Res};
use crate::ptx::ast::{Relocation, Space, Type, Variable};
use crate::ptx::lex::Tok;

/// Bytes of one variable, at most.
const VARIABLE: u64 = 1 << 40;
/// Bytes of initial values in a module, at most.
const INITIALISED: u64 = 1 << 28;
/// Dimensions of an array, at most.
const DIMENSIONS: usize = 16;

/// What stands before the names of a declaration.
struct Kind {
    space: Space,
    ty: Type,
    lanes: u64,
    align: Option<u64>,
}

/// An element of an initial value.
enum Value {
    Const(Const),
    Address {
        symbol: String,
        addend: i64,
        generic: bool,
    },
    /// Byte `byte` of an address: `0xFF00(x)` is byte 1.
    Byte {
        byte: u32,
        symbol: String,
        addend: i64,
        generic: bool,
    },
}

impl<'a> Parser<'a> {
    /// `.global .align 4 .b8 x[2] = {1, 2}, y;`, from the space on.
    pub(super) fn variables(&mut self, l: &Linkage) -> Res<Vec<(&'a str, Variable)>> {
        let kind = self.kind()?;
        let mut all = Vec::new();
        loop {
            let line = self.line;
            let name = self.name("a variable's name")?;
            let (mut v, dims) = self.shaped(name, &kind)?;
            v.external = l.external;
            v.visible = l.visible;
            let unsized_ = dims.first() == Some(&None);
            if self.tok == Tok::Sym("=") {
                if !matches!(v.space, Space::Global | Space::Const) {
                    return Err(
                        self.error(format!("{name} is in {:?} memory, which has no initial values", v.space))
                    );
                }
                self.advance()?;
                self.initial(&mut v, &dims, kind.lanes)?;
            } else if unsized_ && !(v.external || v.space == Space::Param) {
                return Err(crate::error::PtxError::new(
                    line,
                    format!("{name} has neither a size nor initial values"),
                ));
            }
            all.push((name, v));
            if !self.accept(",")? {
                break;
            }
        }
        self.expect(";")?;
        Ok(all)
    }

    /// `(.param .u64 .ptr .align 1 a, .param .align 8 .b8 b[16])`.
    pub(super) fn parameters(&mut self) -> Res<Vec<(&'a str, Variable)>> {
        self.expect("(")?;
        let mut all = Vec::new();
        while !self.accept(")")? {
            if !all.is_empty() {
                self.expect(",")?;
            }
            if self.tok == Tok::Dot("reg") {
                return Err(self.error("parameters in registers are not supported: use `.param`"));
            }
            if self.tok != Tok::Dot("param") {
                return Err(self.wanted("`.param`"));
            }
            let kind = self.kind()?;
            let name = self.name("a parameter's name")?;
            all.push((name, self.shaped(name, &kind)?.0));
        }
        Ok(all)
    }

    /// Space, alignment, vector and type.
    fn kind(&mut self) -> Res<Kind> {
        let Some(space) = self.space() else { return Err(self.wanted("a state space")) };
        self.advance()?;
        let (mut ty, mut lanes, mut align, mut pointer) = (None, 1, None, false);
        while let Tok::Dot(word) = self.tok {
            self.advance()?;
            match word {
                "align" => {
                    let n = self.count("an alignment", 1 << 20)?;
                    if !n.is_power_of_two() {
                        return Err(self.error(format!("an alignment is {n}, wanted a power of two")));
                    }
                    // Behind `.ptr` it is what the pointer points to.
                    align = if pointer { align } else { Some(n) };
                }
                "ptr" => pointer = true,
                "global" | "const" | "shared" | "local" | "param" if pointer => {}
                "attribute" => self.skip_group()?,
                "v2" => lanes = 2,
                "v4" => lanes = 4,
                "v8" => lanes = 8,
                _ => match Type::named(word) {
                    Some(Type::Pred) | None => {
                        return Err(self.error(format!("{} is not a type of a variable", Tok::Dot(word))));
                    }
                    found => ty = found,
                },
            }
        }
        let Some(ty) = ty else { return Err(self.wanted("a type such as `.b32`")) };
        Ok(Kind { space, ty, lanes, align })
    }

    /// Dimensions behind a name; a size that is not written is `None`.
    fn shaped(&mut self, name: &str, kind: &Kind) -> Res<(Variable, Vec<Option<u64>>)> {
        let mut dims = Vec::new();
        while self.accept("[")? {
            let open = self.tok == Tok::Sym("]");
            if open && !dims.is_empty() || dims.len() == DIMENSIONS {
                return Err(
                    self.wanted("a dimension (only the first may be left out, and there are at most 16)")
                );
            }
            dims.push(if open { None } else { Some(self.count("a dimension", VARIABLE)?) });
            self.expect("]")?;
        }
        let element = u64::from(kind.ty.bytes()) * kind.lanes;
        let size = |n: u64, d: &Option<u64>| n.checked_mul(d.unwrap_or(0)).filter(|n| *n <= VARIABLE);
        let Some(bytes) = dims.iter().try_fold(element, size) else {
            return Err(self.error(format!("{} is larger than {VARIABLE} bytes", Tok::Word(name))));
        };
        let v = Variable {
            name: name.to_string(),
            space: kind.space,
            ty: kind.ty,
            bytes,
            align: kind.align.unwrap_or(element),
            init: Vec::new(),
            relocations: Vec::new(),
            external: false,
            visible: false,
        };
        Ok((v, dims))
    }

    /// What stands behind `=`.
    fn initial(&mut self, v: &mut Variable, dims: &[Option<u64>], lanes: u64) -> Res<()> {
        let element = u64::from(v.ty.bytes());
        let row = |depth: usize| -> u64 {
            dims.iter().skip(depth).map(|d| d.unwrap_or(0)).product::<u64>() * lanes * element
        };
        let unsized_ = dims.first() == Some(&None);
        let whole = if unsized_ { INITIALISED } else { v.bytes };
        // Open braces: where they began and where they must end.
        let mut open: Vec<(u64, u64)> = Vec::new();
        let mut at = 0;
        loop {
            if self.accept("{")? {
                if open.len() > dims.len() {
                    return Err(self.error(format!("{} has {} dimensions", Tok::Word(&v.name), dims.len())));
                }
                let end = if open.is_empty() { whole } else { at + row(open.len()) };
                open.push((at, end));
                if self.tok != Tok::Sym("}") {
                    continue;
                }
            } else {
                let end = open.last().map_or(whole, |o| o.1);
                if at + element > end {
                    return Err(
                        self.error(format!("{} has more initial values than room", Tok::Word(&v.name)))
                    );
                }
                self.initialised += (at + element).saturating_sub(v.init.len() as u64);
                if self.initialised > INITIALISED {
                    return Err(self.error(format!("initial values are more than {INITIALISED} bytes")));
                }
                v.init.resize((at + element) as usize, 0);
                let value = self.value()?;
                self.put(v, at, value)?;
                at += element;
            }
            while !open.is_empty() && self.accept("}")? {
                if let Some((_, end)) = open.pop().filter(|_| !open.is_empty()) {
                    at = end;
                }
            }
            if open.is_empty() {
                break;
            }
            self.expect(",")?;
        }
        if unsized_ {
            let row = row(1).max(1);
            v.bytes = at.div_ceil(row) * row;
        }
        Ok(())
    }

    fn value(&mut self) -> Res<Value> {
        if let Tok::Word(w) = self.tok
            && w != "WARP_SZ"
        {
            let (symbol, addend, generic) = self.address()?;
            return Ok(Value::Address { symbol, addend, generic });
        }
        if let (Tok::Num(s), Tok::Sym("(")) = (self.tok, self.peek()?) {
            let byte = match super::constant::number(s) {
                Some(Const::Int(m, _)) if m != 0 => Some((m as u64).trailing_zeros() / 8),
                _ => None,
            };
            let same = |b: &u32| {
                super::constant::number(s) == Some(Const::Int((0xffu64 << (8 * b)) as i64, *b == 7))
            };
            let Some(byte) = byte.filter(same) else {
                return Err(self.wanted("a mask of one byte such as 0xFF00"));
            };
            self.advance()?;
            self.expect("(")?;
            let (symbol, addend, generic) = self.address()?;
            self.expect(")")?;
            return Ok(Value::Byte { byte, symbol, addend, generic });
        }
        self.constant().map(Value::Const)
    }

    /// `x`, `x+4`, `generic(x)`, `generic(x)+4`, `generic(x+4)`.
    fn address(&mut self) -> Res<(String, i64, bool)> {
        let line = self.line;
        let mut name = self.name("a variable or a function")?;
        let generic = name == "generic" && self.accept("(")?;
        let mut addend = 0;
        if generic {
            name = self.name("a variable or a function")?;
            addend = self.addend()?;
            self.expect(")")?;
        }
        self.pending.push((name, line));
        Ok((name.to_string(), addend.wrapping_add(self.addend()?), generic))
    }

    /// `+4`, `-4` or nothing.
    pub(super) fn addend(&mut self) -> Res<i64> {
        match self.tok {
            Tok::Sym("+") => {
                self.advance()?;
                self.integer()
            }
            Tok::Sym("-") => self.integer(),
            _ => Ok(0),
        }
    }

    fn put(&self, v: &mut Variable, at: u64, value: Value) -> Res<()> {
        use Type::*;
        let n = v.ty.bytes() as usize;
        let integer = !matches!(v.ty, F16 | Bf16 | F32 | F64 | F16x2 | Bf16x2 | Tf32 | F32x2);
        let bits = match value {
            Value::Address { symbol, addend, generic } => {
                v.relocations.push(Relocation { offset: at, symbol, addend, generic, bytes: v.ty.bytes() });
                return Ok(());
            }
            Value::Byte { byte, symbol, addend, generic } => {
                match v.relocations.last_mut() {
                    Some(r)
                        if byte > 0
                            && (r.bytes, r.offset + u64::from(byte)) == (byte, at)
                            && (&r.symbol, r.addend, r.generic) == (&symbol, addend, generic) =>
                    {
                        r.bytes += 1;
                    }
                    _ if byte == 0 && n == 1 => {
                        v.relocations.push(Relocation { offset: at, symbol, addend, generic, bytes: 1 });
                    }
                    _ => {
                        return Err(self.error(
                            "the bytes of a masked address must follow each other from the lowest up",
                        ));
                    }
                }
                return Ok(());
            }
            Value::Const(Const::Int(x, _)) if integer => (x as i128) as u128,
            Value::Const(c) => {
                let x = match c {
                    Const::Int(x, false) => x as f64,
                    Const::Int(x, true) => x as u64 as f64,
                    Const::F32(x) => f64::from(f32::from_bits(x)),
                    Const::F64(x) => f64::from_bits(x),
                };
                match (v.ty, c) {
                    (B32 | F32 | Tf32, Const::F32(x)) => u128::from(x),
                    (B64 | F64, Const::F64(x)) => u128::from(x),
                    (F32 | Tf32, _) => u128::from((x as f32).to_bits()),
                    (F64, _) => u128::from(x.to_bits()),
                    (F16, _) => u128::from(half::f16::from_f64(x).to_bits()),
                    (Bf16, _) => u128::from(half::bf16::from_f64(x).to_bits()),
                    (ty, _) => return Err(self.error(format!("{c:?} cannot be the value of a {ty:?}"))),
                }
            }
        };
        v.init[at as usize..at as usize + n].copy_from_slice(&bits.to_le_bytes()[..n]);
        Ok(())
    }
}
