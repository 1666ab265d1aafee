//! Tokens to a module: what stands at module scope. Bodies are in `function.rs`, operands in `operand.rs`.
//!
//! Time is linear in the text: names are looked up in hash tables, nesting and the operands of one instruction are bounded, and
//! registers of a range (`%r<1000>`) exist from their first mention only.

mod constant;
mod declare;
mod function;
mod operand;
mod scope;

use super::ast::{Function, Module, Operand, Space, Variable};
use super::lex::{Lexer, Tok};
use crate::error::PtxError;
use std::collections::HashMap;

type Res<T> = Result<T, PtxError>;

/// Reads PTX text. An error names the line and what was wanted there.
pub fn parse(text: &str) -> Result<Module, PtxError> {
    if text.len() > u32::MAX as usize {
        return Err(PtxError::new(1, "the text is longer than 4 GiB"));
    }
    let mut p = Parser {
        lex: Lexer::new(text),
        tok: Tok::End,
        line: 1,
        module: Module::default(),
        functions: HashMap::new(),
        variables: HashMap::new(),
        pending: Vec::new(),
        aliases: HashMap::new(),
        initialised: 0,
    };
    p.advance()?;
    p.header()?;
    while p.tok != Tok::End {
        p.item()?;
    }
    p.finish()
}

struct Parser<'a> {
    lex: Lexer<'a>,
    /// The next token.
    tok: Tok<'a>,
    /// Its line.
    line: u32,
    module: Module,
    /// Indices in `module.functions`.
    functions: HashMap<String, usize>,
    /// Indices in `module.variables`.
    variables: HashMap<String, usize>,
    /// Names that must be functions or variables of the module in the end, with the line that mentions them.
    pending: Vec<(&'a str, u32)>,
    /// `.alias` names.
    aliases: HashMap<String, String>,
    /// Bytes of initial values so far.
    initialised: u64,
}

/// What may stand before a function or a variable.
#[derive(Default)]
struct Linkage {
    external: bool,
    visible: bool,
    weak: bool,
}

impl<'a> Parser<'a> {
    fn advance(&mut self) -> Res<Tok<'a>> {
        let now = self.tok;
        self.tok = self.lex.next()?;
        self.line = self.lex.line;
        Ok(now)
    }
    /// The token after the next.
    fn peek(&self) -> Res<Tok<'a>> {
        self.lex.clone().next()
    }
    fn error(&self, what: impl Into<String>) -> PtxError {
        PtxError::new(self.line, what)
    }
    fn wanted(&self, what: &str) -> PtxError {
        self.error(format!("wanted {what}, found {}", self.tok))
    }
    fn expect(&mut self, symbol: &str) -> Res<()> {
        if self.tok != Tok::Sym(symbol) {
            return Err(self.wanted(&format!("`{symbol}`")));
        }
        self.advance().map(drop)
    }
    fn accept(&mut self, symbol: &str) -> Res<bool> {
        let there = self.tok == Tok::Sym(symbol);
        if there {
            self.advance()?;
        }
        Ok(there)
    }
    fn name(&mut self, what: &str) -> Res<&'a str> {
        let Tok::Word(name) = self.tok else { return Err(self.wanted(what)) };
        self.advance()?;
        Ok(name)
    }
    fn string(&mut self, what: &str) -> Res<&'a str> {
        let Tok::Str(s) = self.tok else { return Err(self.wanted(what)) };
        self.advance()?;
        Ok(s)
    }
    /// Past a balanced `( … )` or `{ … }` that begins here.
    fn skip_group(&mut self) -> Res<()> {
        let (line, mut depth) = (self.line, 0u32);
        loop {
            match self.advance()? {
                Tok::Sym("(" | "{") => depth += 1,
                Tok::Sym(")" | "}") => depth = depth.saturating_sub(1),
                Tok::End => return Err(PtxError::new(line, "what is opened here is never closed")),
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn header(&mut self) -> Res<()> {
        if self.tok != Tok::Dot("version") {
            return Err(self.wanted("`.version` at the beginning of PTX text"));
        }
        self.advance()?;
        let Tok::Num(v) = self.tok else { return Err(self.wanted("a version such as 8.0")) };
        let parts = v.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        self.module.version = parts.ok_or_else(|| self.wanted("a version such as 8.0"))?;
        self.advance()?;
        if self.tok != Tok::Dot("target") {
            return Err(self.wanted("`.target` after `.version`"));
        }
        self.advance()?;
        let target = self.name("a target such as sm_80")?;
        let digits = target.strip_prefix("sm_").map(|s| s.strip_suffix(['a', 'f']).unwrap_or(s));
        self.module.sm = digits
            .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|d| d.parse().ok())
            .ok_or_else(|| self.error(format!("{} is not a target such as sm_80", Tok::Word(target))))?;
        self.module.suffix = target.chars().last().filter(|c| c.is_ascii_alphabetic());
        while self.accept(",")? {
            self.name("a target option")?;
        }
        Ok(())
    }

    /// One directive at module scope.
    fn item(&mut self) -> Res<()> {
        let Tok::Dot(word) = self.tok else {
            if self.accept(";")? {
                return Ok(());
            }
            return Err(self.wanted("a directive at module scope"));
        };
        match word {
            "address_size" => {
                self.advance()?;
                match self.integer()? {
                    64 => Ok(()),
                    n => Err(self.error(format!("addresses of {n} bits: only 64 are supported"))),
                }
            }
            "file" => self.file(),
            "section" => {
                self.advance()?;
                self.advance()?;
                if self.tok != Tok::Sym("{") {
                    return Err(self.wanted("`{` of a section"));
                }
                self.skip_group()
            }
            "pragma" => self.pragma(),
            "loc" => self.location().map(drop),
            "alias" => {
                self.advance()?;
                let alias = self.name("the alias' name")?.to_string();
                self.expect(",")?;
                let to = self.name("the name of the function it stands for")?;
                self.pending.push((to, self.line));
                self.aliases.insert(alias, to.to_string());
                self.expect(";")
            }
            "extern" | "visible" | "weak" | "common" | "entry" | "func" | "global" | "const" | "shared" => {
                let mut l = Linkage::default();
                loop {
                    match self.tok {
                        Tok::Dot("extern") => l.external = true,
                        Tok::Dot("visible" | "common") => l.visible = true,
                        Tok::Dot("weak") => (l.visible, l.weak) = (true, true),
                        Tok::Dot("entry") => return self.function(true, &l),
                        Tok::Dot("func") => return self.function(false, &l),
                        Tok::Dot("global" | "const" | "shared") => break,
                        _ => return Err(self.wanted("a function or a variable")),
                    }
                    self.advance()?;
                }
                self.variables(&l)?.into_iter().try_for_each(|(_, v)| self.keep_variable(v))
            }
            "texref" | "samplerref" | "surfref" | "tex" => {
                Err(self.error(format!("`.{word}`: textures and surfaces are not supported")))
            }
            _ => Err(self.wanted("a directive of module scope")),
        }
    }

    fn keep_variable(&mut self, v: Variable) -> Res<()> {
        match self.variables.get(&v.name) {
            Some(&n) if self.module.variables[n].external || v.external => {
                if !v.external {
                    self.module.variables[n] = v;
                }
            }
            Some(_) => return Err(self.error(format!("variable {} is defined twice", v.name))),
            None => {
                self.variables.insert(v.name.clone(), self.module.variables.len());
                self.module.variables.push(v);
            }
        }
        Ok(())
    }

    /// A declaration gives way to a definition, in its place.
    fn keep_function(&mut self, f: Function, weak: bool) -> Res<()> {
        match self.functions.get(&f.name) {
            Some(&n) if self.module.functions[n].defined && f.defined => {
                if !weak {
                    return Err(PtxError::new(f.line, format!("function {} is defined twice", f.name)));
                }
            }
            Some(&n) if f.defined => self.module.functions[n] = f,
            Some(_) => {}
            None => {
                self.functions.insert(f.name.clone(), self.module.functions.len());
                self.module.functions.push(f);
            }
        }
        Ok(())
    }

    fn file(&mut self) -> Res<()> {
        self.advance()?;
        let n = self.count("a file number", u64::from(u32::MAX))? as u32;
        let name = self.string("a file's name")?.to_string();
        self.module.files.insert(n, name);
        while self.accept(",")? {
            self.integer()?;
        }
        Ok(())
    }

    fn pragma(&mut self) -> Res<()> {
        self.advance()?;
        self.string("a pragma's text")?;
        while self.accept(",")? {
            self.string("a pragma's text")?;
        }
        self.expect(";")
    }

    /// `.loc file line column [, function_name label [+ n]] [, inlined_at file line column]`: the file and line of the code
    /// itself, not of where it was inlined.
    fn location(&mut self) -> Res<(u32, u32)> {
        self.advance()?;
        let at = self.place()?;
        while self.accept(",")? {
            match self.name("`function_name` or `inlined_at`")? {
                "function_name" => {
                    self.name("a label in the debug strings")?;
                    if self.accept("+")? {
                        self.bare("an offset")?;
                    }
                }
                "inlined_at" => drop(self.place()?),
                word => return Err(self.error(format!("`.loc` has no attribute {}", Tok::Word(word)))),
            }
        }
        self.accept(";")?;
        Ok(at)
    }
    /// `file line column`.
    fn place(&mut self) -> Res<(u32, u32)> {
        let at = (self.bare("a file number")?, self.bare("a line")?);
        self.bare("a column").map(|_| at)
    }
    /// One number without operators: the next number begins the next thing.
    fn bare(&mut self, what: &str) -> Res<u32> {
        let Tok::Num(s) = self.tok else { return Err(self.wanted(what)) };
        let n = s.parse().map_err(|_| self.wanted(what))?;
        self.advance()?;
        Ok(n)
    }

    /// Checks what could only be known in the end.
    fn finish(mut self) -> Res<Module> {
        for (name, line) in &self.pending {
            if !self.functions.contains_key(*name) && !self.variables.contains_key(*name) {
                return Err(PtxError::new(*line, format!("{} is not declared", Tok::Word(name))));
            }
        }
        if !self.aliases.is_empty() {
            self.resolve_aliases();
        }
        Ok(self.module)
    }

    /// Puts the function in the place of its alias wherever a name can stand.
    fn resolve_aliases(&mut self) {
        let aliases = &self.aliases;
        let rename = |name: &mut String| {
            if let Some(to) = aliases.get(name) {
                name.clone_from(to);
            }
        };
        for v in &mut self.module.variables {
            v.relocations.iter_mut().for_each(|r| rename(&mut r.symbol));
        }
        for f in &mut self.module.functions {
            f.targets.values_mut().flatten().for_each(rename);
            for o in f.body.iter_mut().flat_map(|i| &mut i.operands) {
                operand::each(o, &mut |o| {
                    if let Operand::Symbol(name, _) = o {
                        rename(name);
                    }
                });
            }
        }
    }

    fn space(&self) -> Option<Space> {
        Some(match self.tok {
            Tok::Dot("global") => Space::Global,
            Tok::Dot("const") => Space::Const,
            Tok::Dot("shared") => Space::Shared,
            Tok::Dot("local") => Space::Local,
            Tok::Dot("param") => Space::Param,
            _ => return None,
        })
    }
}
