//! What a PTX module says, names resolved as far as one module can: registers are numbers, labels are positions.

use std::collections::HashMap;

/// A parsed module.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// `.version` (major, minor).
    pub version: (u32, u32),
    /// `.target`: 80 of `sm_80`.
    pub sm: u32,
    /// `a` or `f` of `sm_90a`, `sm_100f`.
    pub suffix: Option<char>,
    /// Variables at module scope (global, const, and extern or static shared).
    pub variables: Vec<Variable>,
    /// Kernels and functions, in order.
    pub functions: Vec<Function>,
    /// `.file` numbers to names.
    pub files: HashMap<u32, String>,
}

/// A state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// No space written: an address of any of the others.
    Generic,
    /// Device memory.
    Global,
    /// Read-only device memory.
    Const,
    /// A block's (or with `::cluster` a cluster's) memory.
    Shared,
    /// A thread's own memory.
    Local,
    /// Parameters of kernels and functions.
    Param,
}

/// A fundamental type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F32x2,
    F64,
    E4m3,
    E5m2,
    E4m3x2,
    E5m2x2,
    U16x2,
    S16x2,
}
impl Type {
    /// The type that a modifier such as `u32` names.
    pub fn named(s: &str) -> Option<Self> {
        use Type::*;
        Some(match s {
            "pred" => Pred,
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "b128" => B128,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => Bf16,
            "bf16x2" => Bf16x2,
            "tf32" => Tf32,
            "f32" => F32,
            "f32x2" => F32x2,
            "f64" => F64,
            "e4m3" => E4m3,
            "e5m2" => E5m2,
            "e4m3x2" => E4m3x2,
            "e5m2x2" => E5m2x2,
            "u16x2" => U16x2,
            "s16x2" => S16x2,
            _ => return None,
        })
    }
    /// Bits of a value; 1 for a predicate.
    pub fn bits(self) -> u32 {
        use Type::*;
        match self {
            Pred => 1,
            B8 | U8 | S8 | E4m3 | E5m2 => 8,
            B16 | U16 | S16 | F16 | Bf16 | E4m3x2 | E5m2x2 => 16,
            B32 | U32 | S32 | F32 | Tf32 | F16x2 | Bf16x2 | U16x2 | S16x2 => 32,
            B64 | U64 | S64 | F64 | F32x2 => 64,
            B128 => 128,
        }
    }
    /// Bytes of a value in memory.
    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }
    /// Whether it is a signed integer.
    pub fn signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64 | Type::S16x2)
    }
}

/// A variable or a parameter.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Type of an element.
    pub ty: Type,
    /// Bytes; 0 for `extern .shared` arrays without a size.
    pub bytes: u64,
    /// Alignment in bytes.
    pub align: u64,
    /// Initial bytes; the rest of `bytes` is zero. Empty without an initial value.
    pub init: Vec<u8>,
    /// Addresses within `init`: at `offset`, the address of `symbol` plus `addend`, as a generic address if asked.
    pub relocations: Vec<Relocation>,
    /// `.extern`: defined elsewhere (for shared memory: the block's dynamic part).
    pub external: bool,
    /// Declared `.visible` or `.weak`.
    pub visible: bool,
}

/// See [`Variable::relocations`].
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Relocation {
    pub offset: u64,
    pub symbol: String,
    pub addend: i64,
    pub generic: bool,
    pub bytes: u32,
}

/// A kernel (`.entry`) or a device function (`.func`).
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Whether a host may launch it.
    pub entry: bool,
    /// Whether it has a body here.
    pub defined: bool,
    /// Parameters, in order.
    pub params: Vec<Variable>,
    /// Return values of a `.func`.
    pub returns: Vec<Variable>,
    /// Type of each register; [`Operand::Reg`] indexes it.
    pub regs: Vec<Type>,
    /// Name of each register.
    pub names: Vec<String>,
    /// Shared, local and param variables declared in its body (and its blocks).
    pub variables: Vec<Variable>,
    /// Instructions in order.
    pub body: Vec<Instr>,
    /// Labels: index of the instruction that follows.
    pub labels: HashMap<String, usize>,
    /// `.branchtargets` and `.calltargets` lists by name.
    pub targets: HashMap<String, Vec<String>>,
    /// `.callprototype` by name.
    pub prototypes: HashMap<String, Prototype>,
    /// `.maxntid`.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub min_blocks: Option<u32>,
    /// `.maxnreg`.
    pub max_registers: Option<u32>,
    /// `.reqnctapercluster`.
    pub cluster: Option<[u32; 3]>,
    /// Line of its name in the PTX text.
    pub line: u32,
}

/// A `.callprototype`.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Prototype {
    pub params: Vec<Variable>,
    pub returns: Vec<Variable>,
}

/// One instruction: `@!%p1 mad.lo.s32 %r1, %r2, 3, %r4;`.
#[derive(Clone, Debug)]
pub struct Instr {
    /// Predicate register and whether it is negated.
    pub guard: Option<(u32, bool)>,
    /// The word before the first dot: `mad`, `cp`, `mma`.
    pub op: String,
    /// The words after it: `lo`, `s32`; `::` stays inside a word (`shared::cta`).
    pub mods: Vec<String>,
    /// Operands in order as written.
    pub operands: Vec<Operand>,
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// The last `.loc` before it: file number, line.
    pub source: Option<(u32, u32)>,
}
impl Instr {
    /// Whether a modifier is there.
    pub fn has(&self, modifier: &str) -> bool {
        self.mods.iter().any(|m| m == modifier)
    }
    /// The `n`-th modifier that names a type.
    pub fn ty(&self, n: usize) -> Option<Type> {
        self.mods.iter().filter_map(|m| Type::named(m)).nth(n)
    }
    /// As written, without guard and operands: `mad.lo.s32`.
    pub fn spelling(&self) -> String {
        std::iter::once(&self.op).chain(&self.mods).map(String::as_str).collect::<Vec<_>>().join(".")
    }
}

/// What stands where an instruction wants an operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// Register, an index into [`Function::regs`].
    Reg(u32),
    /// `%r.b1`, `%r.h10`: some bytes or halves of a register; video instructions have these.
    Part(u32, String),
    /// `!%p`: a negated predicate.
    Not(u32),
    /// `-%r` or `-imm` stays in [`Operand::Int`]; integer constants, wrapped to 64 bits.
    Int(i64),
    /// `0f3F800000`: bits of an f32.
    F32(u32),
    /// `0d3FF0000000000000` or a decimal constant: bits of an f64.
    F64(u64),
    /// `%tid.x` and its kind, without the `%`: `tid.x`, `laneid`, `clock64`, `envreg3`.
    Special(String),
    /// `_`: the result is not wanted.
    Sink,
    /// `{a, b, c, d}`; one-element vectors are kept as vectors.
    Vector(Vec<Operand>),
    /// `[base + offset]`.
    Address(Box<Address>),
    /// Name of a variable, parameter, function or label, plus an offset (`name+4`). A label stays a name:
    /// see [`Function::labels`].
    Symbol(String, i64),
    /// `p|q`: two destinations.
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)`: arguments of a call.
    List(Vec<Operand>),
}

/// `[base + offset]`; tensor copies have coordinates too: `[base, {x, y}]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// A register, a symbol or an integer.
    pub base: Operand,
    /// Bytes added.
    pub offset: i64,
    /// Coordinates; empty for plain addresses.
    pub coordinates: Vec<Operand>,
}
