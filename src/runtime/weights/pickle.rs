//! The part of Python's pickle that a state dict needs, as data: nothing is imported, called or executed.
//!
//! Values live in one list and refer to each other by index, so that no nesting or cycle in a file, however deep, costs
//! stack; a file of n bytes makes at most n values. Source: CPython's `pickletools`, `torch/serialization.py`.

use std::collections::HashMap;

use super::Dtype;

/// More axes than any layer's weight has.
const RANK_MAX: usize = 8;

type Result<T> = std::result::Result<T, String>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// Something that cannot be part of a tensor: None, a float, bytes, an integer beyond 64 bits.
    Other,
    Int(i64),
    /// Index into [`Pickle::nodes`].
    Node(usize),
}

#[derive(Debug)]
pub(super) enum Node {
    Str(String),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Global(Global),
    Storage(Storage),
    Tensor(View),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

/// A stored block of elements, its key a [`Node::Str`]. Like [`View`], it refers and never copies: a few bytes of
/// pickle can ask for the same thing again and again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    dtype: Dtype,
    key: Value,
    numel: usize,
}

/// A tensor as the pickle has it: a storage, and tuples of sizes and strides.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    storage: Storage,
    offset: usize,
    shape: Value,
    strides: Value,
}

/// A tensor: a strided view of `data/{key}` in the archive, of `numel` elements. Offset and strides in elements.
pub(super) struct Tensor<'a> {
    pub dtype: Dtype,
    pub key: &'a str,
    pub numel: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// A pickle's values and the one it stands for.
pub(super) struct Pickle {
    pub nodes: Vec<Node>,
    pub top: Value,
}

impl Pickle {
    pub fn node(&self, v: Value) -> Option<&Node> {
        match v {
            Value::Node(i) => self.nodes.get(i),
            _ => None,
        }
    }
    pub fn str(&self, v: Value) -> Option<&str> {
        match self.node(v) {
            Some(Node::Str(s)) => Some(s),
            _ => None,
        }
    }
    pub fn dict(&self, v: Value) -> Option<&[(Value, Value)]> {
        match self.node(v) {
            Some(Node::Dict(d)) => Some(d),
            _ => None,
        }
    }
    fn tuple(&self, v: Value) -> Option<&[Value]> {
        match self.node(v) {
            Some(Node::Tuple(t)) => Some(t),
            _ => None,
        }
    }
    /// The tensor that `v` is, if it is one and describes itself with sizes.
    pub fn tensor(&self, v: Value) -> Option<Tensor<'_>> {
        let Some(&Node::Tensor(View { storage: Storage { dtype, key, numel }, offset, shape, strides })) =
            self.node(v)
        else {
            return None;
        };
        let sizes = |v| -> Option<Vec<usize>> {
            self.tuple(v).filter(|t| t.len() <= RANK_MAX)?.iter().map(|v| size(*v)).collect()
        };
        Some(Tensor {
            dtype,
            key: self.str(key)?,
            numel,
            offset,
            shape: sizes(shape)?,
            strides: sizes(strides)?,
        })
    }
}

fn size(v: Value) -> Option<usize> {
    match v {
        Value::Int(i) => usize::try_from(i).ok(),
        _ => None,
    }
}

fn global(module: &str, name: &str) -> Result<Global> {
    Ok(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch", "FloatStorage") => Global::Storage(Dtype::F32),
        ("torch", "HalfStorage") => Global::Storage(Dtype::F16),
        ("torch", "BFloat16Storage") => Global::Storage(Dtype::Bf16),
        ("torch", "DoubleStorage") => Global::Storage(Dtype::F64),
        ("torch", "LongStorage") => Global::Storage(Dtype::I64),
        ("torch", "IntStorage") => Global::Storage(Dtype::I32),
        ("torch", "ShortStorage") => Global::Storage(Dtype::I16),
        ("torch", "CharStorage") => Global::Storage(Dtype::I8),
        ("torch", "ByteStorage") => Global::Storage(Dtype::U8),
        ("torch", "BoolStorage") => Global::Storage(Dtype::Bool),
        _ => {
            return Err(format!(
                "it asks for the Python object {:?}, which no state dict needs, so it is refused (nothing was \
                 executed); save the weights alone, with torch.save(model.state_dict(), PATH)",
                format!("{module}.{name}")
            ));
        }
    })
}

/// Reads a pickle of protocol 2 to 5. Errors are sentences that go on from "the checkpoint cannot be read: ".
pub(super) fn load(bytes: &[u8]) -> Result<Pickle> {
    let mut m = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        pickle: Pickle { nodes: Vec::new(), top: Value::Other },
    };
    while m.step()? {}
    m.pickle.top = m.pop()?;
    Ok(m.pickle)
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack at the marks; nothing below the last one may be popped.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    pickle: Pickle,
}

impl<'a> Machine<'a> {
    /// One instruction; false after the last.
    fn step(&mut self) -> Result<bool> {
        let at = self.at;
        match self.take(1)?[0] {
            b'.' => return Ok(false),
            0x80 => drop(self.take(1)?), // PROTO
            0x95 => drop(self.take(8)?), // FRAME
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'N' => self.stack.push(Value::Other),
            0x88 => self.stack.push(Value::Int(1)), // True
            0x89 => self.stack.push(Value::Int(0)), // False
            b'K' => self.int(1, false)?,
            b'M' => self.int(2, false)?,
            b'J' => self.int(4, true)?,
            0x8a => {
                let n = self.uint(1)?; // LONG1
                self.int(n, true)?;
            }
            b'G' => {
                self.take(8)?; // BINFLOAT
                self.stack.push(Value::Other);
            }
            0x8c => self.string(1)?,
            b'X' => self.string(4)?,
            0x8d => self.string(8)?,
            b'C' => self.skip(1)?,
            b'B' => self.skip(4)?,
            0x8e => self.skip(8)?,
            b')' => self.push(Node::Tuple(Vec::new())),
            0x85 => self.tuple_of(1)?,
            0x86 => self.tuple_of(2)?,
            0x87 => self.tuple_of(3)?,
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items));
            }
            b']' => self.push(Node::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b'}' => self.push(Node::Dict(Vec::new())),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            0x94 => {
                let (n, top) = (self.memo.len() as u64, self.top()?); // MEMOIZE
                self.memo.insert(n, top);
            }
            b'h' => self.get(1)?,
            b'j' => self.get(4)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let g = global(module, name)?;
                self.push(Node::Global(g));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?); // STACK_GLOBAL
                let names = self.pickle.str(module).zip(self.pickle.str(name));
                let (module, name) = names.ok_or("a Python object's name is not a string")?;
                let g = global(module, name)?;
                self.push(Node::Global(g));
            }
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            b'b' => {
                self.pop()?; // BUILD: a state dict's versions, which change nothing here
                if !matches!(self.pickle.node(self.top()?), Some(Node::Dict(_))) {
                    return Err(format!("the pickle changes an object that is no state dict, at byte {at}"));
                }
            }
            op => {
                return Err(format!(
                    "the pickle has the instruction 0x{op:02x} at byte {at}, which no state dict needs; save the \
                     weights alone, with torch.save(model.state_dict(), PATH)"
                ));
            }
        }
        Ok(true)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.bytes.len());
        let end = end.ok_or_else(|| format!("the pickle ends within the instruction at byte {}", self.at))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
    fn uint(&mut self, n: usize) -> Result<usize> {
        let value = self.take(n)?.iter().rev().fold(0u64, |v, b| v << 8 | *b as u64);
        usize::try_from(value).map_err(|_| "the pickle has a length beyond this machine".into())
    }
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|b| *b == b'\n').ok_or("the pickle ends within a name")?;
        self.at += n + 1;
        std::str::from_utf8(&rest[..n]).map_err(|_| "a Python object's name is not UTF-8".into())
    }
    fn int(&mut self, n: usize, signed: bool) -> Result<()> {
        let bytes = self.take(n)?;
        let negative = signed && bytes.last().is_some_and(|b| *b >= 0x80);
        let start = if negative { -1 } else { 0 };
        let value = bytes.iter().rev().fold(start, |v: i64, b| v << 8 | *b as i64);
        self.stack.push(if n <= 8 { Value::Int(value) } else { Value::Other });
        Ok(())
    }
    fn string(&mut self, width: usize) -> Result<()> {
        let n = self.uint(width)?;
        let at = self.at;
        let s = std::str::from_utf8(self.take(n)?)
            .map_err(|_| format!("the string at byte {at} is not UTF-8"))?;
        self.push(Node::Str(s.to_string()));
        Ok(())
    }
    fn skip(&mut self, width: usize) -> Result<()> {
        let n = self.uint(width)?;
        self.take(n)?;
        self.stack.push(Value::Other);
        Ok(())
    }
    fn push(&mut self, node: Node) {
        self.stack.push(Value::Node(self.pickle.nodes.len()));
        self.pickle.nodes.push(node);
    }
    fn top(&self) -> Result<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(format!("the pickle uses a value that is not there, before byte {}", self.at));
        }
        Ok(self.stack[self.stack.len() - 1])
    }
    fn pop(&mut self) -> Result<Value> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }
    fn pop_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop();
        let mark = mark.ok_or_else(|| format!("the pickle lacks a mark before byte {}", self.at))?;
        Ok(self.stack.split_off(mark))
    }
    fn tuple_of(&mut self, n: usize) -> Result<()> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        self.push(Node::Tuple(items));
        Ok(())
    }
    fn top_node(&mut self) -> Result<Option<&mut Node>> {
        Ok(match self.top()? {
            Value::Node(i) => self.pickle.nodes.get_mut(i),
            _ => None,
        })
    }
    fn append(&mut self, items: Vec<Value>) -> Result<()> {
        match self.top_node()? {
            Some(Node::List(list)) => list.extend(items),
            _ => return Err(format!("the pickle appends to what is no list, before byte {}", self.at)),
        }
        Ok(())
    }
    fn set_items(&mut self, items: &[Value]) -> Result<()> {
        let at = self.at;
        match self.top_node()? {
            Some(Node::Dict(dict)) if items.len().is_multiple_of(2) => {
                dict.extend(items.chunks_exact(2).map(|p| (p[0], p[1])));
                Ok(())
            }
            _ => Err(format!("the pickle fills what is no dict, before byte {at}")),
        }
    }
    fn put(&mut self, width: usize) -> Result<()> {
        let (n, top) = (self.uint(width)?, self.top()?);
        self.memo.insert(n as u64, top);
        Ok(())
    }
    fn get(&mut self, width: usize) -> Result<()> {
        let n = self.uint(width)? as u64;
        let value =
            self.memo.get(&n).ok_or_else(|| format!("the pickle recalls the value {n}, never stored"))?;
        self.stack.push(*value);
        Ok(())
    }
    /// `("storage", class, key, location, numel)`.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let p = &self.pickle;
        let storage = match p.tuple(id) {
            Some(&[kind, class, key, _, numel]) if p.str(kind) == Some("storage") && p.str(key).is_some() => {
                match (p.node(class), size(numel)) {
                    (Some(&Node::Global(Global::Storage(dtype))), Some(numel)) => {
                        Some(Storage { dtype, key, numel })
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        self.push(Node::Storage(storage.ok_or("a tensor's storage is not described as torch.save does it")?));
        Ok(())
    }
    fn reduce(&mut self) -> Result<()> {
        let (args, callee) = (self.pop()?, self.pop()?);
        let p = &self.pickle;
        let made = match (p.node(callee), p.tuple(args)) {
            (Some(Node::Global(Global::OrderedDict)), Some([])) => Some(Node::Dict(Vec::new())),
            (Some(Node::Global(Global::RebuildTensor)), Some(&[storage, offset, shape, strides, ..])) => {
                match (p.node(storage), size(offset)) {
                    (Some(&Node::Storage(storage)), Some(offset)) => {
                        Some(Node::Tensor(View { storage, offset, shape, strides }))
                    }
                    _ => None,
                }
            }
            (Some(Node::Global(Global::RebuildParameter)), Some(&[tensor, ..])) => match p.node(tensor) {
                Some(Node::Tensor(view)) => Some(Node::Tensor(*view)),
                _ => None,
            },
            _ => None,
        };
        let made = made.ok_or_else(|| {
            format!(
                "an object is not built as torch.save does it (a tensor or a dict), before byte {}",
                self.at
            )
        })?;
        self.push(made);
        Ok(())
    }
}
