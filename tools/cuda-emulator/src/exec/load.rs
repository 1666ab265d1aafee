//! From a module to a program: variables are placed, registers get slots, instructions become closures.

use super::cta::CODE;
use super::decode::Scope;
use super::launch::{Code, Program};
use super::{Class, Flow, Inst, ops};
use crate::error::PtxError;
use crate::gpu::Gpu;
use crate::memory::Memory;
use crate::ptx::ast::{Function, Instr, Module, Operand, Space, Type, Variable};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Param memory of one function.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Its name, when it has no body: done by the executor itself.
    pub builtin: Option<String>,
    /// Offset and bytes of each formal parameter.
    pub params: Vec<(u64, u64)>,
    /// Offset and bytes of each return value.
    pub returns: Vec<(u64, u64)>,
    /// Offsets of variables declared in the body, and bytes in all.
    names: HashMap<String, u64>,
    bytes: u64,
    /// Bytes of a kernel's parameters.
    formal: u64,
}

/// What is put into a hidden slot when a function is entered.
#[derive(Clone, Debug)]
pub(super) enum Hidden {
    /// A special register: name, slot.
    Special(String, u32),
    /// `%gridid`, 64 bits wide.
    Grid(u32),
    /// Frame-relative offset in local memory: 32- and 64-bit slot.
    Local(u64, (u32, u32)),
    /// Offset in dynamic shared memory aligned so: 32- and 64-bit slot.
    Dynamic(u64, u64, (u32, u32)),
}

fn place(at: &mut u64, v: &Variable) -> u64 {
    let align = v.align.max(1);
    *at = at.div_ceil(align).saturating_mul(align);
    let here = *at;
    *at = at.saturating_add(v.bytes);
    here
}

impl Layout {
    /// That of a function known by its prototype alone.
    pub(super) fn of(params: &[Variable], returns: &[Variable]) -> Self {
        let (params, returns) = (params.to_vec(), returns.to_vec());
        layout(&Function { params, returns, defined: true, ..Function::default() })
    }
}

fn layout(f: &Function) -> Layout {
    let mut l = Layout::default();
    let mut at = 0;
    for v in &f.params {
        let here = place(&mut at, v);
        l.params.push((here, v.bytes));
        l.names.insert(v.name.clone(), here);
    }
    l.formal = at;
    for v in &f.returns {
        let here = place(&mut at, v);
        l.returns.push((here, v.bytes));
        l.names.insert(v.name.clone(), here);
    }
    at = at.div_ceil(16) * 16;
    // A name may be declared again in another call sequence: the same place serves, as large as the largest.
    let mut largest: HashMap<&str, Variable> = HashMap::new();
    let mut order = vec![];
    for v in f.variables.iter().filter(|v| v.space == Space::Param) {
        let e = largest.entry(&v.name).or_insert_with(|| {
            order.push(&v.name);
            v.clone()
        });
        (e.bytes, e.align) = (e.bytes.max(v.bytes), e.align.max(v.align));
    }
    for name in order {
        let here = place(&mut at, &largest[name.as_str()]);
        l.names.insert(name.clone(), here);
    }
    l.bytes = at.div_ceil(16) * 16;
    l.builtin = (!f.defined).then(|| f.name.clone());
    l
}

/// Every symbol and special register that an instruction names.
fn names(o: &Operand, seen: &mut impl FnMut(&Operand)) {
    match o {
        Operand::Vector(v) | Operand::List(v) => v.iter().for_each(|o| names(o, seen)),
        Operand::Address(a) => {
            names(&a.base, seen);
            a.coordinates.iter().for_each(|o| names(o, seen));
        }
        Operand::Pair(a, b) => {
            names(a, seen);
            names(b, seen);
        }
        o => seen(o),
    }
}
fn all_names(f: &Function, mut seen: impl FnMut(&Operand)) {
    f.body.iter().flat_map(|i| &i.operands).for_each(|o| names(o, &mut seen));
}

/// Names that each function uses, itself or through what it calls (any function, when it calls through a pointer).
fn reached(module: &Module) -> Vec<HashSet<String>> {
    let mut own: Vec<HashSet<String>> = module
        .functions
        .iter()
        .map(|f| {
            let mut s = HashSet::new();
            all_names(f, |o| {
                if let Operand::Symbol(name, _) = o {
                    s.insert(name.clone());
                }
            });
            if f.body
                .iter()
                .any(|i| i.op == "call" && i.operands.iter().any(|o| matches!(o, Operand::Reg(_))))
            {
                s.extend(module.functions.iter().filter(|g| !g.entry).map(|g| g.name.clone()));
            }
            s
        })
        .collect();
    let index: HashMap<&str, usize> =
        module.functions.iter().enumerate().map(|(n, f)| (f.name.as_str(), n)).collect();
    loop {
        let mut more = false;
        for n in 0..own.len() {
            let called: Vec<usize> =
                own[n].iter().filter_map(|c| index.get(c.as_str()).copied()).filter(|&c| c != n).collect();
            for c in called {
                let new: Vec<String> = own[c].difference(&own[n]).cloned().collect();
                more |= !new.is_empty();
                own[n].extend(new);
            }
        }
        if !more {
            return own;
        }
    }
}

/// Local memory of a thread, at most. Source: CUDA C++ Programming Guide, "Compute Capabilities".
const LOCAL_BYTES: u64 = 512 << 10;
/// Param memory of a function, at most: kernels have up to 32,764 bytes, calls within them as much again and more.
const PARAM_BYTES: u64 = 256 << 10;

/// The first error, with up to 20 others behind it.
fn one_error(wrong: &[PtxError]) -> Option<PtxError> {
    let first = wrong.first()?;
    let list: Vec<String> =
        wrong.iter().skip(1).take(20).map(|e| format!("line {}: {}", e.line, e.what)).collect();
    let more = wrong.len().saturating_sub(21);
    let what = std::iter::once(first.what.clone()).chain(list).collect::<Vec<_>>().join("; ");
    let what = if more > 0 { format!("{what}; and {more} more") } else { what };
    Some(PtxError::new(first.line, what))
}

impl Program {
    /// Places the module's variables in device memory and decodes every function. All unknown instructions of the
    /// module are reported in one error.
    pub fn load(module: &Module, memory: &Memory, gpu: &Gpu) -> Result<Self, PtxError> {
        let mut wrong = vec![];
        let mut p = Self::empty(module);
        let filled = p.fill(module, memory, gpu, &mut wrong).and_then(|()| match one_error(&wrong) {
            Some(e) => Err(e),
            None => Ok(()),
        });
        match filled {
            Ok(()) => Ok(p),
            Err(e) => {
                p.unload(memory);
                Err(e)
            }
        }
    }

    /// Every distinct spelling in a module, sorted, and whether all its uses are understood.
    ///
    /// # Errors
    /// The module's variables cannot be placed.
    pub fn spellings(
        module: &Module,
        memory: &Memory,
        gpu: &Gpu,
    ) -> Result<BTreeMap<String, bool>, PtxError> {
        let mut wrong = vec![];
        let mut p = Self::empty(module);
        let filled = p.fill(module, memory, gpu, &mut wrong);
        p.unload(memory);
        filled?;
        let wrong: HashSet<u32> = wrong.iter().map(|e| e.line).collect();
        let mut all = BTreeMap::new();
        for i in module.functions.iter().flat_map(|f| &f.body) {
            *all.entry(i.spelling()).or_insert(true) &= !wrong.contains(&i.line);
        }
        Ok(all)
    }

    fn empty(module: &Module) -> Self {
        Self {
            functions: vec![],
            globals: HashMap::new(),
            files: module.files.clone(),
            frame: [1; 4],
            callee_local: 0,
            param_stride: 0,
            makes_calls: false,
            takes_stack: false,
        }
    }

    /// Instructions that are not understood and functions that are too large go to `wrong`.
    fn fill(
        &mut self,
        module: &Module,
        memory: &Memory,
        gpu: &Gpu,
        wrong: &mut Vec<PtxError>,
    ) -> Result<(), PtxError> {
        let functions: HashMap<String, u32> =
            module.functions.iter().enumerate().map(|(n, f)| (f.name.clone(), n as u32)).collect();
        let mut symbols: HashMap<String, (Space, u64)> = functions
            .iter()
            .map(|(name, n)| (name.clone(), (Space::Generic, CODE + u64::from(*n))))
            .collect();
        self.place_globals(module, memory, &mut symbols)?;
        // Shared variables of the module and of device functions lie first, then those of the kernel.
        let mut common = 0;
        let mut shared = HashSet::new();
        let of_functions = module.functions.iter().filter(|f| !f.entry).flat_map(|f| &f.variables);
        for v in
            module.variables.iter().chain(of_functions).filter(|v| v.space == Space::Shared && !v.external)
        {
            let at = place(&mut common, v);
            symbols.insert(v.name.clone(), (Space::Shared, at));
            shared.insert(v.name.clone());
        }
        let layouts: Vec<Layout> = module.functions.iter().map(layout).collect();
        self.param_stride = layouts.iter().map(|l| l.bytes).max().unwrap_or(0);
        let local = |f: &Function| {
            let mut at = 0;
            f.variables.iter().filter(|v| v.space == Space::Local).for_each(|v| _ = place(&mut at, v));
            at.div_ceil(16) * 16
        };
        self.callee_local = module.functions.iter().filter(|f| !f.entry).map(local).max().unwrap_or(0);
        let reached = reached(module);
        let any = |ops: &[&str]| {
            module.functions.iter().any(|f| f.body.iter().any(|i| ops.contains(&i.op.as_str())))
        };
        self.makes_calls = any(&["call"]);
        self.takes_stack = any(&["alloca", "stacksave", "stackrestore"]);
        for (n, f) in module.functions.iter().enumerate() {
            let start = if reached[n].iter().any(|s| shared.contains(s)) { common } else { 0 };
            let code = self.function_of(module, n, f, start, local(f), &symbols, &functions, &layouts, wrong);
            let limits = [
                // What ptxas allows without the launch's opting in.
                (code.shared_bytes, u64::from(gpu.shared_per_block.min(48 << 10)), "static shared memory"),
                (local(f), LOCAL_BYTES, "local memory a thread"),
                (layouts[n].bytes, PARAM_BYTES, "parameters"),
            ];
            for (bytes, most, what) in limits.into_iter().filter(|l| l.0 > l.1) {
                let what = format!("{} has {bytes} bytes of {what}: at most {most} are possible", f.name);
                wrong.push(PtxError::new(f.line, what));
            }
            self.functions.push(code);
        }
        for f in &self.functions {
            for (a, b) in self.frame.iter_mut().zip(f.registers_by_file) {
                *a = (*a).max(b);
            }
        }
        Ok(())
    }

    fn place_globals(
        &mut self,
        module: &Module,
        memory: &Memory,
        symbols: &mut HashMap<String, (Space, u64)>,
    ) -> Result<(), PtxError> {
        let global = |v: &&Variable| matches!(v.space, Space::Global | Space::Const);
        for v in module.variables.iter().filter(global) {
            if v.external {
                let defined = module.variables.iter().any(|o| o.name == v.name && !o.external);
                if !defined {
                    return Err(PtxError::new(0, format!("{} is extern and defined nowhere", v.name)));
                }
                continue;
            }
            let at = memory.allocate(v.bytes.max(1), false).map_err(|_| {
                PtxError::new(0, format!("no memory for the {} bytes of {}", v.bytes, v.name))
            })?;
            memory.write(at, &v.init);
            memory.written(at, v.bytes);
            symbols.insert(v.name.clone(), (v.space, at));
            self.globals.insert(v.name.clone(), (at, v.bytes));
        }
        for v in module.variables.iter().filter(global).filter(|v| !v.external) {
            for r in &v.relocations {
                let Some(&(_, to)) = symbols.get(&r.symbol) else {
                    return Err(PtxError::new(0, format!("{}: {} is not declared", v.name, r.symbol)));
                };
                let bytes = (to as i64).wrapping_add(r.addend).to_le_bytes();
                let at = symbols[&v.name].1 + r.offset;
                let inside = r.offset.checked_add(u64::from(r.bytes)).is_some_and(|end| end <= v.bytes);
                if !inside || !memory.write(at, &bytes[..(r.bytes as usize).min(8)]) {
                    return Err(PtxError::new(
                        0,
                        format!("{}: an address at {} is outside of it", v.name, r.offset),
                    ));
                }
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn function_of(
        &self,
        module: &Module,
        n: usize,
        f: &Function,
        shared_from: u64,
        local_bytes: u64,
        outer: &HashMap<String, (Space, u64)>,
        functions: &HashMap<String, u32>,
        layouts: &[Layout],
        wrong: &mut Vec<PtxError>,
    ) -> Code {
        let mut symbols = outer.clone();
        symbols.extend(layouts[n].names.iter().map(|(name, &at)| (name.clone(), (Space::Param, at))));
        let (mut shared_bytes, mut local_at) = (shared_from, 0);
        for v in &f.variables {
            match v.space {
                Space::Shared if f.entry && !v.external => {
                    let at = place(&mut shared_bytes, v);
                    symbols.insert(v.name.clone(), (Space::Shared, at));
                }
                Space::Local => {
                    let at = place(&mut local_at, v);
                    symbols.insert(v.name.clone(), (Space::Local, at));
                }
                _ => {}
            }
        }
        let externs: HashMap<&str, u64> = module
            .variables
            .iter()
            .chain(&f.variables)
            .filter(|v| v.space == Space::Shared && v.external)
            .map(|v| (v.name.as_str(), v.align.max(1)))
            .collect();
        for (&name, &align) in &externs {
            symbols.insert(name.into(), (Space::Shared, shared_bytes.div_ceil(align) * align));
        }
        // Slots: predicates, up to 32 bits, 64 bits, 128 bits.
        let (slots, mut count) = super::pressure::places(f, |bits| match bits {
            1 => 3,
            64 => 1,
            128 => 2,
            _ => 0,
        });
        let mut slot = |file: usize| {
            count[file] += 1;
            count[file] - 1
        };
        let (mut specials, mut hidden, mut fills) = (HashMap::new(), HashMap::new(), vec![]);
        all_names(f, |o| match o {
            Operand::Special(name) if super::special::known(name) && !specials.contains_key(name) => {
                let s = slot(0);
                specials.insert(name.clone(), s);
                fills.push(Hidden::Special(name.clone(), s));
                if name == "gridid" {
                    let s = slot(1);
                    specials.insert("gridid:64".into(), s);
                    fills.push(Hidden::Grid(s));
                }
            }
            Operand::Symbol(name, offset) if !f.entry && !hidden.contains_key(&(name.clone(), *offset)) => {
                let base = symbols.get(name).copied();
                let pair = if let Some(&align) = externs.get(name.as_str()) {
                    let pair = (slot(0), slot(1));
                    fills.push(Hidden::Dynamic(align, *offset as u64, pair));
                    pair
                } else if let Some((Space::Local, at)) = base {
                    let pair = (slot(0), slot(1));
                    fills.push(Hidden::Local(at.wrapping_add(*offset as u64), pair));
                    pair
                } else {
                    return;
                };
                hidden.insert((name.clone(), *offset), pair);
            }
            _ => {}
        });
        let scope = Scope {
            module,
            function: f,
            slots: &slots,
            specials: &specials,
            symbols: &symbols,
            functions,
            hidden: &hidden,
            layouts,
        };
        let mut body: Vec<Inst> =
            f.body.iter().filter_map(|i| decode(&scope, i).map_err(|e| wrong.push(e)).ok()).collect();
        body.push(Inst {
            guard: None,
            exec: Box::new(|_, _, _| Ok(Flow::Return)),
            class: Class::Branch,
            line: f.body.last().map_or(f.line, |i| i.line),
            source: None,
            spelling: "ret".into(),
        });
        let spins = (0..f.body.len()).filter(|&n| ops::flow::spins(f, n)).map(|n| n as u32).collect();
        Code {
            name: f.name.clone(),
            body,
            params: layouts[n].params.clone(),
            param_bytes: layouts[n].formal,
            shared_bytes,
            local_bytes,
            entry: f.entry,
            max_threads: f
                .max_threads
                .or(f.required_threads)
                .map_or(1024, |t| t.iter().fold(1u32, |a, &b| a.saturating_mul(b.max(1))).min(1024)),
            registers: super::pressure::registers(f),
            required_threads: f.required_threads,
            registers_by_file: count.map(|n| n as usize),
            hidden: fills,
            dynamic_align: externs.values().copied().max().unwrap_or(16),
            spins,
            calls: f
                .body
                .iter()
                .enumerate()
                .filter_map(|(n, i)| ops::flow::returns(&scope, i).map(|r| (n as u32, r)))
                .collect(),
        }
    }
}

fn decode(s: &Scope, i: &Instr) -> Result<Inst, PtxError> {
    for family in ops::FAMILIES {
        if let Some((exec, class)) = family(s, i)? {
            // Those that exchange between lanes wait for the lanes that they name last.
            let exchanges = matches!(i.op.as_str(), "shfl" | "vote" | "match" | "redux") && i.has("sync");
            let exec = match i.operands.last().filter(|_| exchanges) {
                Some(o) => ops::sync::together(s.src32(i, o, Type::U32)?, exec),
                None => exec,
            };
            let guard = i.guard.map(|(r, not)| (s.slots[r as usize], not));
            return Ok(Inst {
                guard,
                exec,
                class,
                line: i.line,
                source: i.source,
                spelling: i.spelling().into(),
            });
        }
    }
    Err(PtxError::new(i.line, format!("{} is not an instruction that the emulator knows", i.spelling())))
}
