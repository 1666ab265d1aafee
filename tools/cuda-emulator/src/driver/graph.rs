//! Graphs: nodes with dependencies, and their frozen, runnable form.

use super::context::Context;
use super::event::Event;
use super::queue::Ticket;
use super::state::{driver, fresh, lock};
use super::user_object::Held;
use super::work::Work;
use crate::error::Code;
use crate::memory::Memory;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};

/// Device memory that a graph's allocation nodes stand for; freed with the last graph or executable that knows it.
pub(crate) struct Owned(pub u64, pub Arc<Memory>);
impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.1.free(self.0);
    }
}

/// A node.
#[derive(Clone)]
pub(crate) struct Node {
    pub id: usize,
    /// `CUgraphNodeType`.
    pub kind: u32,
    pub work: Work,
    pub after: Vec<usize>,
    /// The graph of a child node.
    pub child: Option<Arc<Graph>>,
    /// The node of another graph that it was cloned from, or 0.
    pub origin: usize,
    /// Address and bytes of allocation and free nodes.
    pub memory: (u64, u64),
}
impl Node {
    /// A node of the kind that the work is.
    pub fn new(work: Work, after: Vec<usize>) -> Self {
        let kind = match &work {
            Work::Kernel(_) => 0,
            Work::Copy(_) => 1,
            Work::Fill(_) => 2,
            Work::Host(_) => 3,
            Work::Graph(_) => 4,
            Work::Wait(_) => 6,
            Work::Record(_) => 7,
            Work::Nothing | Work::Free(_) | Work::Callback(_) => 5,
        };
        Self { id: fresh(), kind, work, after, child: None, origin: 0, memory: (0, 0) }
    }
}

/// Where a node handle leads.
pub(crate) struct NodeRef {
    pub graph: Weak<Graph>,
    pub id: usize,
}

/// A graph.
pub(crate) struct Graph {
    pub id: usize,
    pub nodes: Mutex<Vec<Node>>,
    pub owned: Mutex<Vec<Arc<Owned>>>,
    pub objects: Mutex<Vec<Arc<Held>>>,
    me: Weak<Graph>,
}
impl Graph {
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            id: fresh(),
            nodes: Mutex::default(),
            owned: Mutex::default(),
            objects: Mutex::default(),
            me: me.clone(),
        })
    }
    /// Appends a node.
    pub fn add(&self, node: Node) -> Result<usize, Code> {
        let id = node.id;
        driver()?.nodes.insert(id, Arc::new(NodeRef { graph: self.me.clone(), id }));
        lock(&self.nodes).push(node);
        Ok(id)
    }
    /// Whether it allocates or frees: then it can be neither cloned nor another's child.
    pub fn has_memory(&self) -> bool {
        lock(&self.nodes).iter().any(|n| matches!(n.kind, 10 | 11))
    }
    pub fn has(&self, id: usize) -> bool {
        lock(&self.nodes).iter().any(|n| n.id == id)
    }
    /// These nodes and all that they follow.
    pub fn ancestors(&self, of: &[usize]) -> HashSet<usize> {
        let nodes = lock(&self.nodes);
        let after: HashMap<usize, &Vec<usize>> = nodes.iter().map(|n| (n.id, &n.after)).collect();
        let (mut seen, mut left) = (HashSet::new(), of.to_vec());
        while let Some(id) = left.pop() {
            if seen.insert(id) {
                left.extend(after.get(&id).into_iter().flat_map(|a| a.iter()));
            }
        }
        seen
    }
    /// A copy with nodes of its own; `map` is filled with old and new numbers.
    pub fn copy(&self, map: &mut HashMap<usize, usize>) -> Result<Arc<Self>, Code> {
        let new = Self::new();
        let nodes = lock(&self.nodes).clone();
        map.extend(nodes.iter().map(|n| (n.id, fresh())));
        for n in nodes {
            let after = n.after.iter().filter_map(|a| map.get(a).copied()).collect();
            new.add(Node { id: map[&n.id], origin: n.id, after, ..n })?;
        }
        lock(&new.owned).clone_from(&lock(&self.owned));
        lock(&new.objects).clone_from(&lock(&self.objects));
        Ok(new)
    }
    /// The runnable form: nodes in an order that follows every dependency.
    pub fn freeze(&self) -> Result<Frozen, Code> {
        let nodes = lock(&self.nodes);
        let place: HashMap<usize, usize> = nodes.iter().enumerate().map(|(i, n)| (n.id, i)).collect();
        let after: Vec<Vec<usize>> =
            nodes.iter().map(|n| n.after.iter().filter_map(|a| place.get(a).copied()).collect()).collect();
        let mut work = Vec::with_capacity(nodes.len());
        for n in nodes.iter() {
            work.push(match &n.child {
                Some(child) => Work::Graph(Arc::new(child.freeze()?)),
                None => n.work.clone(),
            });
        }
        let frozen = Frozen {
            ids: nodes.iter().map(|n| n.id).collect(),
            kinds: nodes.iter().map(|n| n.kind).collect(),
            enabled: vec![true; work.len()],
            work,
            after,
            _owned: lock(&self.owned).clone(),
            _objects: lock(&self.objects).clone(),
        };
        if frozen.order(None).len() == nodes.len() { Ok(frozen) } else { Err(Code::InvalidValue) }
    }
}
impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(d) = driver() {
            for n in self.nodes.get_mut().map(std::mem::take).unwrap_or_default() {
                d.nodes.take(n.id as super::Handle);
            }
        }
    }
}

/// A graph that can run and no longer changes.
#[derive(Clone)]
pub(crate) struct Frozen {
    pub ids: Vec<usize>,
    pub kinds: Vec<u32>,
    pub work: Vec<Work>,
    /// A node that is not enabled does nothing.
    pub enabled: Vec<bool>,
    pub after: Vec<Vec<usize>>,
    /// Kept as long as it can run.
    _owned: Vec<Arc<Owned>>,
    _objects: Vec<Arc<Held>>,
}
impl Frozen {
    /// An order of the nodes; with a generator, any that the dependencies allow.
    fn order(&self, mut random: Option<crate::exec::cta::Random>) -> Vec<usize> {
        let n = self.work.len();
        let mut waits: Vec<usize> = self.after.iter().map(Vec::len).collect();
        let mut then: Vec<Vec<usize>> = vec![Vec::new(); n];
        for (i, a) in self.after.iter().enumerate() {
            a.iter().for_each(|&d| then[d].push(i));
        }
        let mut ready: Vec<usize> = (0..n).rev().filter(|&i| waits[i] == 0).collect();
        let mut order = Vec::with_capacity(n);
        while !ready.is_empty() {
            let pick = random.as_mut().map_or(ready.len() - 1, |r| r.next() as usize % ready.len());
            let i = ready.swap_remove(pick);
            order.push(i);
            for &t in &then[i] {
                waits[t] -= 1;
                if waits[t] == 0 {
                    ready.push(t);
                }
            }
        }
        order
    }
    /// Index of a node by its number.
    pub fn place(&self, id: usize) -> Option<usize> {
        self.ids.iter().position(|x| *x == id)
    }
    /// Events that it records.
    pub fn events(&self) -> Vec<Arc<Event>> {
        let of = |w: &Work| match w {
            Work::Record(e) => vec![e.clone()],
            Work::Graph(g) => g.events(),
            _ => Vec::new(),
        };
        self.work.iter().flat_map(of).collect()
    }
    /// Takes what another says, under its own numbers.
    pub fn replace(&mut self, new: Self) {
        let (ids, enabled) = (std::mem::take(&mut self.ids), std::mem::take(&mut self.enabled));
        *self = Self { ids, enabled, ..new };
    }
    /// Runs all nodes.
    pub fn run(&self, c: &Context) -> Result<(), Code> {
        let seed = driver()?.options().seed;
        for i in self.order(seed.map(|s| crate::exec::cta::Random(s.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)))
        {
            if self.enabled[i] {
                self.work[i].run(c)?;
            }
        }
        Ok(())
    }
}

/// An executable graph.
pub(crate) struct Exec {
    pub flags: u64,
    pub frozen: Mutex<Arc<Frozen>>,
    /// Its last launch: launches of one executable follow each other.
    pub last: Mutex<Option<Arc<Ticket>>>,
}
