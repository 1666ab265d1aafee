//! PTX text to tokens, one at a time.

use crate::error::PtxError;

/// A token; every one is a slice of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tok<'a> {
    /// `mad`, `%r1`, `$L__BB0_1`, `_`.
    Word(&'a str),
    /// A word after a dot, without the dot: `global`, `shared::cta`, `16x64b`.
    Dot(&'a str),
    /// A number as written: `12`, `0x1F`, `0f3F800000`, `1.5e-3`, `7U`.
    Num(&'a str),
    /// The inside of `"…"`.
    Str(&'a str),
    /// Punctuation or an operator of one or two characters.
    Sym(&'a str),
    /// The end of the text.
    End,
}
impl std::fmt::Display for Tok<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        // A hostile text has tokens of any length.
        let cut = |s: &str| s.chars().take(60).collect::<String>();
        match self {
            Tok::Word(s) | Tok::Num(s) | Tok::Sym(s) => write!(f, "`{}`", cut(s)),
            Tok::Dot(s) => write!(f, "`.{}`", cut(s)),
            Tok::Str(s) => write!(f, "\"{}\"", cut(s)),
            Tok::End => write!(f, "the end of the text"),
        }
    }
}

/// Where reading goes on.
#[derive(Clone, Copy)]
pub struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// Line of the last token, from 1.
    pub line: u32,
}

fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'%')
}

impl<'a> Lexer<'a> {
    /// At the beginning of a text.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, line: 1 }
    }
    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }
    /// Past blanks and comments.
    fn skip(&mut self) -> Result<(), PtxError> {
        loop {
            match (self.byte(0), self.byte(1)) {
                (b'\n', _) => {
                    self.line += 1;
                    self.at += 1;
                }
                (b' ' | b'\t' | b'\r' | 0x0b | 0x0c, _) => self.at += 1,
                (b'/', b'/') => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
                (b'/', b'*') => {
                    let Some(n) = self.rest()[2..].find("*/") else {
                        return Err(PtxError::new(self.line, "a comment `/*` has no end"));
                    };
                    self.line += self.rest()[..n + 2].matches('\n').count() as u32;
                    self.at += n + 4;
                }
                _ => return Ok(()),
            }
        }
    }
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }
    fn take(&mut self, n: usize) -> &'a str {
        let s = &self.rest()[..n];
        self.at += n;
        s
    }
    fn while_(&self, from: usize, f: impl Fn(u8) -> bool) -> usize {
        from + self.rest().as_bytes()[from..].iter().take_while(|&&b| f(b)).count()
    }
    /// The next token.
    pub fn next(&mut self) -> Result<Tok<'a>, PtxError> {
        self.skip()?;
        let b = self.byte(0);
        if self.at >= self.text.len() {
            return Ok(Tok::End);
        }
        Ok(match b {
            b'0'..=b'9' => self.number(),
            b if word(b) => Tok::Word(self.take(self.while_(0, word))),
            b'.' if self.byte(1).is_ascii_alphanumeric() || self.byte(1) == b'_' => {
                let mut n = self.while_(1, |b| b.is_ascii_alphanumeric() || b == b'_');
                while self.byte(n) == b':' && self.byte(n + 1) == b':' && word(self.byte(n + 2)) {
                    n = self.while_(n + 2, |b| b.is_ascii_alphanumeric() || b == b'_');
                }
                Tok::Dot(&self.take(n)[1..])
            }
            b'"' => {
                let bytes = self.rest().as_bytes();
                let mut n = 1;
                while n < bytes.len() && bytes[n] != b'"' && bytes[n] != b'\n' {
                    n += if bytes[n] == b'\\' && bytes.get(n + 1).is_some_and(|&b| b != b'\n') {
                        2
                    } else {
                        1
                    };
                }
                if bytes.get(n) != Some(&b'"') {
                    return Err(PtxError::new(self.line, "a string has no closing `\"` on its line"));
                }
                Tok::Str(&self.take(n + 1)[1..n])
            }
            b'(' | b')' | b'{' | b'}' | b'[' | b']' | b',' | b';' | b':' | b'@' | b'+' | b'-' | b'*'
            | b'/' | b'~' | b'?' | b'^' | b'!' | b'<' | b'>' | b'=' | b'&' | b'|' | b'.' => {
                let two = matches!(
                    &[b, self.byte(1)],
                    b"<<" | b">>" | b"<=" | b">=" | b"==" | b"!=" | b"&&" | b"||"
                );
                Tok::Sym(self.take(1 + usize::from(two)))
            }
            _ => {
                let c = self.rest().chars().next().unwrap_or_default();
                return Err(PtxError::new(self.line, format!("{c:?} is not a character of PTX")));
            }
        })
    }
    fn number(&mut self) -> Tok<'a> {
        let alnum = |b: u8| b.is_ascii_alphanumeric();
        let coded = self.byte(0) == b'0' && matches!(self.byte(1), b'x' | b'X' | b'f' | b'F' | b'd' | b'D');
        if coded {
            return Tok::Num(self.take(self.while_(0, alnum)));
        }
        let digits = |from| self.while_(from, |b| b.is_ascii_digit());
        let mut n = digits(0);
        if self.byte(n) == b'.' && !self.byte(n + 1).is_ascii_alphabetic() && self.byte(n + 1) != b'_' {
            n = digits(n + 1);
        }
        if matches!(self.byte(n), b'e' | b'E') {
            let sign = usize::from(matches!(self.byte(n + 1), b'+' | b'-'));
            if self.byte(n + 1 + sign).is_ascii_digit() {
                n = digits(n + 1 + sign);
            }
        }
        Tok::Num(self.take(self.while_(n, alnum)))
    }
}
