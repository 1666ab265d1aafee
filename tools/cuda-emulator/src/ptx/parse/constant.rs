//! Constant expressions. Source: PTX ISA, "Constants" and "Constant Expressions".

use super::{Parser, Res};
use crate::ptx::lex::Tok;

/// Parentheses, conditionals and signs inside each other, at most.
const DEPTH: u32 = 64;

/// A constant's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Const {
    /// An integer, and whether it is unsigned.
    Int(i64, bool),
    /// Bits of an f32.
    F32(u32),
    /// Bits of an f64.
    F64(u64),
}

/// The value of a number as written.
pub fn number(s: &str) -> Option<Const> {
    let bits = |n: usize| {
        let hex = &s[2..];
        (hex.len() == n).then(|| u64::from_str_radix(hex, 16).ok()).flatten()
    };
    let (body, unsigned) = match s.strip_suffix(['U', 'u']) {
        Some(body) => (body, true),
        None => (s, false),
    };
    let radix = |digits: &str, radix| {
        let x = u64::from_str_radix(digits, radix).ok()?;
        Some(Const::Int(x as i64, unsigned || x > i64::MAX as u64))
    };
    match s.as_bytes() {
        [b'0', b'f' | b'F', ..] => bits(8).map(|x| Const::F32(x as u32)),
        [b'0', b'd' | b'D', ..] => bits(16).map(Const::F64),
        [b'0', b'x' | b'X', ..] => radix(&body[2..], 16),
        [b'0', b'b' | b'B', ..] => radix(&body[2..], 2),
        _ if s.contains(['.', 'e', 'E']) => s.parse().ok().map(|x: f64| Const::F64(x.to_bits())),
        [b'0', _, ..] if body.len() > 1 => radix(&body[1..], 8),
        _ => radix(body, 10),
    }
}

/// Precedence of a binary operator; higher binds tighter.
fn precedence(op: &str) -> Option<u32> {
    Some(match op {
        "||" => 1,
        "&&" => 2,
        "|" => 3,
        "^" => 4,
        "&" => 5,
        "==" | "!=" => 6,
        "<" | "<=" | ">" | ">=" => 7,
        "<<" | ">>" => 8,
        "+" | "-" => 9,
        "*" | "/" | "%" => 10,
        _ => return None,
    })
}

/// `a op b` in 64 bits; unsigned if either side is. `None`: division by zero.
fn apply(op: &str, a: (i64, bool), b: (i64, bool)) -> Option<(i64, bool)> {
    let unsigned = a.1 || b.1;
    let ((a, own), b) = (a, b.0);
    let (ua, ub) = (a as u64, b as u64);
    let less = if unsigned { ua < ub } else { a < b };
    let truth = |t: bool| (i64::from(t), false);
    let shift = ub.min(64) as u32;
    Some(match op {
        "||" => truth(a != 0 || b != 0),
        "&&" => truth(a != 0 && b != 0),
        "|" => (a | b, unsigned),
        "^" => (a ^ b, unsigned),
        "&" => (a & b, unsigned),
        "==" => truth(a == b),
        "!=" => truth(a != b),
        "<" => truth(less),
        "<=" => truth(less || a == b),
        ">" => truth(!less && a != b),
        ">=" => truth(!less),
        "<<" => (a.checked_shl(shift).unwrap_or(0), own),
        ">>" if own => (ua.checked_shr(shift).unwrap_or(0) as i64, own),
        ">>" => (a >> shift.min(63), own),
        "+" => (a.wrapping_add(b), unsigned),
        "-" => (a.wrapping_sub(b), unsigned),
        "*" => (a.wrapping_mul(b), unsigned),
        "/" if unsigned => (ua.checked_div(ub)? as i64, true),
        "/" if b != 0 => (a.wrapping_div(b), false),
        "%" if unsigned => (ua.checked_rem(ub)? as i64, true),
        "%" if b != 0 => (a.wrapping_rem(b), false),
        _ => return None,
    })
}

impl Parser<'_> {
    /// A constant expression.
    pub(super) fn constant(&mut self) -> Res<Const> {
        self.conditional(0)
    }
    /// A constant expression that is an integer, wrapped to 64 bits.
    pub(super) fn integer(&mut self) -> Res<i64> {
        match self.constant()? {
            Const::Int(x, _) => Ok(x),
            _ => Err(self.error("an integer is wanted, not a floating-point number")),
        }
    }
    /// A constant expression between 0 and `most`.
    pub(super) fn count(&mut self, what: &str, most: u64) -> Res<u64> {
        let n = self.integer()?;
        u64::try_from(n)
            .ok()
            .filter(|n| *n <= most)
            .ok_or_else(|| self.error(format!("{what} is {n}, wanted 0 to {most}")))
    }
    fn deeper(&self, depth: u32) -> Res<u32> {
        if depth == DEPTH {
            return Err(self.error(format!("a constant expression is nested more than {DEPTH} deep")));
        }
        Ok(depth + 1)
    }
    fn conditional(&mut self, depth: u32) -> Res<Const> {
        let c = self.binary(0, depth)?;
        if self.tok != Tok::Sym("?") {
            return Ok(c);
        }
        let depth = self.deeper(depth)?;
        self.advance()?;
        let Const::Int(c, _) = c else { return Err(self.error("a condition must be an integer")) };
        let yes = self.conditional(depth)?;
        self.expect(":")?;
        let no = self.conditional(depth)?;
        Ok(if c != 0 { yes } else { no })
    }
    fn binary(&mut self, least: u32, depth: u32) -> Res<Const> {
        let mut a = self.unary(depth)?;
        // `%` begins a word for the lexer (`%r1`): a remainder is only seen with a blank behind it.
        while let Tok::Sym(op) | Tok::Word(op @ "%") = self.tok {
            let Some(p) = precedence(op).filter(|p| *p >= least) else { break };
            self.advance()?;
            let b = self.binary(p + 1, depth)?;
            let (Const::Int(x, xu), Const::Int(y, yu)) = (a, b) else {
                return Err(self.error(format!("`{op}` in a constant expression wants integers")));
            };
            a = match apply(op, (x, xu), (y, yu)) {
                Some((z, zu)) => Const::Int(z, zu),
                None => return Err(self.error("a constant expression divides by zero")),
            };
        }
        Ok(a)
    }
    fn unary(&mut self, depth: u32) -> Res<Const> {
        let tok = self.tok;
        match tok {
            Tok::Num(s) => {
                let Some(c) = number(s) else { return Err(self.error(format!("{tok} is not a number"))) };
                self.advance()?;
                Ok(c)
            }
            // `.5`
            Tok::Dot(s) if s.starts_with(|c: char| c.is_ascii_digit()) => {
                let Ok(x) = format!("0.{s}").parse::<f64>() else { return Err(self.wanted("a constant")) };
                self.advance()?;
                Ok(Const::F64(x.to_bits()))
            }
            Tok::Word("WARP_SZ") => {
                self.advance()?;
                Ok(Const::Int(32, false))
            }
            Tok::Sym("(") => {
                let depth = self.deeper(depth)?;
                self.advance()?;
                if let Tok::Dot(ty @ ("s64" | "u64")) = self.tok {
                    self.advance()?;
                    self.expect(")")?;
                    return match self.unary(depth)? {
                        Const::Int(x, _) => Ok(Const::Int(x, ty == "u64")),
                        Const::F32(x) => Ok(cast(f64::from(f32::from_bits(x)), ty)),
                        Const::F64(x) => Ok(cast(f64::from_bits(x), ty)),
                    };
                }
                let c = self.conditional(depth)?;
                self.expect(")")?;
                Ok(c)
            }
            Tok::Sym(op @ ("-" | "+" | "~" | "!")) => {
                let depth = self.deeper(depth)?;
                self.advance()?;
                Ok(match (op, self.unary(depth)?) {
                    ("+", c) => c,
                    ("-", Const::Int(x, u)) => Const::Int(x.wrapping_neg(), u),
                    ("-", Const::F32(x)) => Const::F32(x ^ 1 << 31),
                    ("-", Const::F64(x)) => Const::F64(x ^ 1 << 63),
                    ("~", Const::Int(x, u)) => Const::Int(!x, u),
                    ("!", Const::Int(x, _)) => Const::Int(i64::from(x == 0), false),
                    _ => return Err(self.error(format!("`{op}` wants an integer"))),
                })
            }
            _ => Err(self.wanted("a constant")),
        }
    }
}

fn cast(x: f64, ty: &str) -> Const {
    if ty == "u64" { Const::Int(x as u64 as i64, true) } else { Const::Int(x as i64, false) }
}
