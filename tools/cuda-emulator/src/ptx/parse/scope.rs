//! Names within a function: registers, variables and labels of nested `{ }` blocks.

use crate::ptx::ast::{Function, Operand, Space, Type, Variable};
use std::collections::HashMap;

/// What a name stands for.
#[derive(Clone)]
pub enum Bind {
    /// A register.
    Reg(u32),
    /// A vector register.
    Regs(Vec<u32>),
    /// A variable, by its name in [`Function::variables`] or [`Function::params`].
    Variable(String),
}

/// A use of a name that no register or variable has: a label of this block or of one around it, or a function.
pub struct Ref<'a> {
    pub name: &'a str,
    pub line: u32,
    pub place: Place,
}
/// Where a [`Ref`] is.
pub enum Place {
    /// In an instruction.
    Instr(usize),
    /// In a list of [`Function::targets`].
    Target(String, usize),
}

#[derive(Default)]
struct Block<'a> {
    names: Vec<&'a str>,
    ranges: Vec<&'a str>,
    /// Labels and what they are called in the function.
    labels: HashMap<&'a str, String>,
    refs: Vec<Ref<'a>>,
    /// Param variables, which a later block may use again.
    params: Vec<(&'a str, usize)>,
}

/// A function as it is read.
pub struct Body<'a> {
    pub f: Function,
    /// The last `.loc`.
    pub source: Option<(u32, u32)>,
    /// Operands of the present instruction so far.
    pub operands: usize,
    names: HashMap<&'a str, Vec<(usize, Bind)>>,
    ranges: HashMap<&'a str, Vec<(usize, u64, Type)>>,
    blocks: Vec<Block<'a>>,
    /// Depth of the innermost block that declares a range.
    deepest: usize,
    /// How many things have had a name.
    taken: HashMap<&'a str, u32>,
    free: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Body<'a> {
    pub fn new(f: Function) -> Self {
        Self {
            f,
            source: None,
            operands: 0,
            names: HashMap::new(),
            ranges: HashMap::new(),
            blocks: vec![Block::default()],
            deepest: 0,
            taken: HashMap::new(),
            free: HashMap::new(),
        }
    }
    /// Open blocks; 1 in the function's own.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }
    fn block(&mut self) -> &mut Block<'a> {
        self.blocks.last_mut().expect("a block is open while a body is read")
    }
    pub fn open(&mut self) {
        self.blocks.push(Block::default());
    }
    /// Ends a block: its names go, what its labels do not answer is left to the block around it. Returns what is left
    /// after the last.
    pub fn close(&mut self) -> Vec<Ref<'a>> {
        let depth = self.blocks.len();
        let Some(block) = self.blocks.pop() else { return Vec::new() };
        for name in block.names {
            if let Some(all) = self.names.get_mut(name) {
                all.pop_if(|b| b.0 == depth);
            }
        }
        for prefix in block.ranges {
            if let Some(all) = self.ranges.get_mut(prefix) {
                all.pop_if(|r| r.0 == depth);
            }
        }
        if self.deepest == depth {
            self.deepest = self.blocks.iter().rposition(|b| !b.ranges.is_empty()).map_or(0, |n| n + 1);
        }
        for (name, n) in block.params {
            self.free.entry(name).or_default().push(n);
        }
        let mut left = Vec::new();
        for r in block.refs {
            match block.labels.get(r.name) {
                Some(label) if label == r.name => {}
                Some(label) => self.rename(&r, label),
                None => left.push(r),
            }
        }
        match self.blocks.last_mut() {
            Some(outer) => {
                outer.refs.extend(left);
                Vec::new()
            }
            None => left,
        }
    }
    fn rename(&mut self, r: &Ref, label: &str) {
        match &r.place {
            Place::Instr(n) => {
                for o in &mut self.f.body[*n].operands {
                    super::operand::each(o, &mut |o| {
                        if let Operand::Symbol(name, _) = o
                            && name == r.name
                        {
                            *name = label.to_string();
                        }
                    });
                }
            }
            Place::Target(list, n) => {
                if let Some(name) = self.f.targets.get_mut(list).and_then(|t| t.get_mut(*n)) {
                    *name = label.to_string();
                }
            }
        }
    }
    pub fn refer(&mut self, r: Ref<'a>) {
        self.block().refs.push(r);
    }
    /// A name that nothing else in the function has.
    fn unique(&mut self, name: &'a str, outside: bool) -> String {
        let n = self.taken.entry(name).or_insert(0);
        *n += 1;
        if *n == 1 && !outside { name.to_string() } else { format!("{name}@{n}") }
    }
    /// Binds a name in the present block. False: the block has it already.
    pub fn bind(&mut self, name: &'a str, bind: Bind) -> bool {
        let depth = self.blocks.len();
        let all = self.names.entry(name).or_default();
        if all.last().is_some_and(|b| b.0 == depth) {
            return false;
        }
        all.push((depth, bind));
        self.block().names.push(name);
        true
    }
    /// Declares a variable. `outside`: the module has this name too. False: the block has the name already.
    pub fn variable(&mut self, name: &'a str, mut v: Variable, outside: bool) -> bool {
        let same = |o: &Variable| (o.ty, o.bytes, o.align) == (v.ty, v.bytes, v.align);
        let again = (v.space == Space::Param)
            .then(|| self.free.get_mut(name)?.pop_if(|n| same(&self.f.variables[*n])))
            .flatten();
        let n = again.unwrap_or(self.f.variables.len());
        if again.is_none() {
            v.name = self.unique(name, outside);
            self.f.variables.push(v);
        }
        let v = &self.f.variables[n];
        let (param, bind) = (v.space == Space::Param, Bind::Variable(v.name.clone()));
        if param {
            self.block().params.push((name, n));
        }
        self.bind(name, bind)
    }
    /// Declares a parameter, which keeps its name.
    pub fn parameter(&mut self, name: &'a str) -> bool {
        *self.taken.entry(name).or_insert(0) += 1;
        name == "_" || self.bind(name, Bind::Variable(name.to_string()))
    }
    /// A name for a variable that the function keeps in the module.
    pub fn outside(&mut self, name: &'a str, outside: bool) -> Option<String> {
        let unique = if outside { format!("{name}@{}", self.f.name) } else { name.to_string() };
        self.bind(name, Bind::Variable(unique.clone())).then_some(unique)
    }
    fn register(&mut self, name: String, ty: Type) -> u32 {
        self.f.regs.push(ty);
        self.f.names.push(name);
        self.f.regs.len() as u32 - 1
    }
    /// Declares a register or, with `lanes`, a vector of them. False: the block has it already.
    pub fn reg(&mut self, name: &'a str, ty: Type, lanes: u32) -> bool {
        let bind = if lanes == 1 {
            Bind::Reg(self.register(name.to_string(), ty))
        } else {
            Bind::Regs((0..lanes).map(|n| self.register(format!("{name}[{n}]"), ty)).collect())
        };
        self.bind(name, bind)
    }
    /// Declares `name<count>`. False: the block has it already.
    pub fn range(&mut self, prefix: &'a str, count: u64, ty: Type) -> bool {
        let depth = self.blocks.len();
        let all = self.ranges.entry(prefix).or_default();
        if all.last().is_some_and(|r| r.0 == depth) {
            return false;
        }
        all.push((depth, count, ty));
        self.deepest = self.deepest.max(depth);
        self.block().ranges.push(prefix);
        true
    }
    /// What a name stands for here; a register of a range comes into being.
    pub fn find(&mut self, name: &'a str) -> Option<Bind> {
        let bound = self.names.get(name).and_then(|all| all.last());
        let depth = bound.map_or(0, |b| b.0);
        if depth < self.deepest
            && let Some((at, ty)) = self.in_range(name, depth)
        {
            let r = self.register(name.to_string(), ty);
            self.names.entry(name).or_default().push((at, Bind::Reg(r)));
            self.blocks[at - 1].names.push(name);
            return Some(Bind::Reg(r));
        }
        bound.map(|b| b.1.clone())
    }
    /// The innermost range deeper than `depth` that holds `name`.
    fn in_range(&self, name: &str, depth: usize) -> Option<(usize, Type)> {
        let bytes = name.as_bytes();
        let digits = bytes.iter().rev().take(10).take_while(|b| b.is_ascii_digit()).count();
        let mut best: Option<(usize, Type)> = None;
        for n in 1..=digits {
            let (prefix, number) = name.split_at(name.len() - n);
            if n > 1 && number.starts_with('0') {
                continue;
            }
            let (Some(all), Ok(number)) = (self.ranges.get(prefix), number.parse::<u64>()) else { continue };
            let found = all.iter().rev().find(|r| number < r.1).filter(|r| r.0 > depth);
            best = found.map(|r| (r.0, r.2)).into_iter().chain(best).max_by_key(|r| r.0);
        }
        best
    }
    /// Puts a label before the next instruction and says what it is called in the function. `None`: the block has it
    /// already.
    pub fn label(&mut self, name: &'a str) -> Option<String> {
        if self.block().labels.contains_key(name) {
            return None;
        }
        let unique = self.unique(name, false);
        self.block().labels.insert(name, unique.clone());
        Some(unique)
    }
}
