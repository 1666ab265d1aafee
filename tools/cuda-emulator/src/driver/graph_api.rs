//! `cuGraph*`.

use super::capture;
use super::context::{Context, by_handle as context_of};
use super::copy::Box3;
use super::function;
use super::graph::{Exec, Graph, Node};
use super::launch::{self, KernelParams};
use super::state::{context, driver, fresh, lock};
use super::stream::{find, submit};
use super::work::{Fill, HostCall, Work};
use super::{Handle, api, get, get_all, put};
use crate::error::Code;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

pub(crate) fn graph(h: Handle) -> Result<Arc<Graph>, Code> {
    let child = || driver().ok()?.children.get(h)?.upgrade();
    driver()?.graphs.get(h).or_else(child).ok_or(Code::InvalidValue)
}
pub(crate) fn exec(h: Handle) -> Result<Arc<Exec>, Code> {
    driver()?.execs.get(h).ok_or(Code::InvalidValue)
}
pub(crate) fn node(h: Handle) -> Result<(Arc<Graph>, Node), Code> {
    let r = driver()?.nodes.get(h).ok_or(Code::InvalidValue)?;
    let g = r.graph.upgrade().ok_or(Code::InvalidValue)?;
    let n = lock(&g.nodes).iter().find(|n| n.id == r.id).cloned().ok_or(Code::InvalidValue)?;
    Ok((g, n))
}
pub(crate) fn change(h: Handle, f: impl FnOnce(&mut Node) -> Result<(), Code>) -> Result<(), Code> {
    let (g, n) = node(h)?;
    let mut nodes = lock(&g.nodes);
    f(nodes.iter_mut().find(|x| x.id == n.id).ok_or(Code::InvalidValue)?)
}
pub(crate) fn add(
    out: *mut Handle,
    g: Handle,
    after: *const Handle,
    n: usize,
    make: impl FnOnce() -> Result<Node, Code>,
) -> Result<(), Code> {
    let g = graph(g)?;
    let after: Vec<usize> = get_all(after, n)?.into_iter().map(|h| h as usize).collect();
    if out.is_null() || !after.iter().all(|id| g.has(*id)) {
        return Err(Code::InvalidValue);
    }
    let mut node = make()?;
    node.after = after;
    put(out, g.add(node)? as Handle)
}
pub(crate) fn in_context(h: Handle) -> Result<Arc<Context>, Code> {
    if h.is_null() { context() } else { context_of(h) }
}
/// Fills an array of the caller and says how many there are.
pub(crate) fn list<T: Copy>(out: *mut T, n: *mut usize, all: &[T], none: T) -> Result<(), Code> {
    if out.is_null() {
        return put(n, all.len());
    }
    let room = get(n)?;
    for i in 0..room {
        // SAFETY: the caller says that `*n` elements can be written.
        unsafe { out.add(i).write_unaligned(all.get(i).copied().unwrap_or(none)) };
    }
    put(n, all.len().min(room))
}
pub(crate) fn instantiate(out: *mut Handle, g: Handle, flags: u64) -> Result<(), Code> {
    let g = graph(g)?;
    // Auto free on launch, upload, device launch, use node priority; device launch excludes auto free.
    if flags & !15 != 0 || flags & 5 == 5 {
        return Err(Code::InvalidValue);
    }
    let (id, frozen) = (fresh(), Arc::new(g.freeze()?));
    put(out, id as Handle)?;
    let e = Exec { flags, frozen: Mutex::new(frozen), last: Mutex::new(None) };
    driver()?.execs.insert(id, Arc::new(e));
    Ok(())
}
/// Writes the verdict of an update (`CUgraphExecUpdateResultInfo`: result, node, from node).
fn verdict(out: *mut u32, result: u32, node: usize) -> Result<(), Code> {
    if !out.is_null() {
        put(out, result)?;
        // SAFETY: the structure holds two handles after the 8-byte aligned result.
        unsafe {
            out.cast::<usize>().add(1).write_unaligned(node);
            out.cast::<usize>().add(2).write_unaligned(0);
        }
    }
    if result == 0 { Ok(()) } else { Err(Code::GraphExecUpdateFailure) }
}
pub(crate) fn update(e: Handle, g: Handle, out: *mut u32) -> Result<(), Code> {
    const TOPOLOGY: u32 = 2;
    const TYPE: u32 = 3;
    let (e, new) = (exec(e)?, graph(g)?.freeze()?);
    let mut frozen = lock(&e.frozen);
    if new.work.len() != frozen.work.len() {
        return verdict(out, TOPOLOGY, 0);
    }
    for i in 0..new.work.len() {
        if new.kinds[i] != frozen.kinds[i] {
            return verdict(out, TYPE, new.ids[i]);
        }
        if new.after[i] != frozen.after[i] {
            return verdict(out, TOPOLOGY, new.ids[i]);
        }
    }
    // Nodes keep their first numbers: cuGraphExecKernelNodeSetParams names them by these.
    Arc::make_mut(&mut frozen).replace(new);
    verdict(out, 0, 0)
}
pub(crate) fn set_exec(e: Handle, n: Handle, kind: u32, work: Work) -> Result<(), Code> {
    let e = exec(e)?;
    let mut frozen = lock(&e.frozen);
    let i = frozen.ids.iter().position(|id| *id == n as usize).ok_or(Code::InvalidValue)?;
    if frozen.kinds[i] != kind {
        return Err(Code::InvalidValue);
    }
    Arc::make_mut(&mut frozen).work[i] = work;
    Ok(())
}
/// `CUDA_MEMSET_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct MemsetParams {
    to: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}
impl MemsetParams {
    pub fn of(f: &Fill) -> Self {
        let (value, element) = (f.value, f.element as u32);
        Self { to: f.address, pitch: f.pitch, value, element, width: f.width, height: f.height }
    }
}
pub(crate) fn fill(p: *const MemsetParams, c: Handle) -> Result<Work, Code> {
    let p = get(p)?;
    let f = Fill {
        address: p.to,
        pitch: p.pitch,
        value: p.value,
        element: p.element as usize,
        width: p.width,
        height: p.height,
    };
    if !matches!(p.element, 1 | 2 | 4) {
        return Err(Code::InvalidValue);
    }
    f.check(&*in_context(c)?)?;
    Ok(Work::Fill(f))
}
/// `CUDA_HOST_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct HostParams {
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
}
impl HostParams {
    pub fn of(h: &HostCall) -> Self {
        Self { function: Some(h.function), data: h.data }
    }
}
pub(crate) fn host(p: *const HostParams) -> Result<Work, Code> {
    let p = get(p)?;
    Ok(Work::Host(HostCall { function: p.function.ok_or(Code::InvalidValue)?, data: p.data }))
}
pub(crate) fn kernel(p: *const KernelParams) -> Result<Work, Code> {
    let p = get(p)?;
    let f = function::by_handle(if p.function.is_null() { p.kernel } else { p.function })?;
    launch::prepare(&f, p.grid, p.block, p.shared, p.params, p.extra, launch::Extras::default())
        .map(|k| Work::Kernel(Arc::new(k)))
}
fn edges(g: Handle, from: *mut Handle, to: *mut Handle, n: *mut usize) -> Result<(), Code> {
    let g = graph(g)?;
    let nodes = lock(&g.nodes);
    let all: Vec<(usize, usize)> = nodes.iter().flat_map(|x| x.after.iter().map(|a| (*a, x.id))).collect();
    if from.is_null() || to.is_null() {
        return put(n, all.len());
    }
    let room = get(n)?;
    list(from, n, &all.iter().map(|e| e.0 as Handle).collect::<Vec<_>>(), std::ptr::null_mut())?;
    put(n, room)?;
    list(to, n, &all.iter().map(|e| e.1 as Handle).collect::<Vec<_>>(), std::ptr::null_mut())
}
fn add_edges(g: Handle, from: *const Handle, to: *const Handle, n: usize) -> Result<(), Code> {
    let g = graph(g)?;
    let (from, to) = (get_all(from, n)?, get_all(to, n)?);
    if !from.iter().chain(&to).all(|h| g.has(*h as usize)) {
        return Err(Code::InvalidValue);
    }
    for (f, t) in from.into_iter().zip(to) {
        change(t, |x| {
            if x.id == f as usize || x.after.contains(&(f as usize)) {
                return Err(Code::InvalidValue);
            }
            x.after.push(f as usize);
            Ok(())
        })?;
    }
    Ok(())
}
fn remove_edges(g: Handle, from: *const Handle, to: *const Handle, n: usize) -> Result<(), Code> {
    let g = graph(g)?;
    for (f, t) in get_all(from, n)?.into_iter().zip(get_all(to, n)?) {
        if !g.has(f as usize) || !g.has(t as usize) {
            return Err(Code::InvalidValue);
        }
        change(t, |x| {
            let i = x.after.iter().position(|a| *a == f as usize).ok_or(Code::InvalidValue)?;
            x.after.swap_remove(i);
            Ok(())
        })?;
    }
    Ok(())
}
fn dependencies(n: Handle, out: *mut Handle, count: *mut usize) -> Result<(), Code> {
    let all: Vec<Handle> = node(n)?.1.after.iter().map(|a| *a as Handle).collect();
    list(out, count, &all, std::ptr::null_mut())
}

api! {
    fn cuGraphCreate(out: *mut Handle, flags: u32) {
        if flags != 0 {
            return Err(Code::InvalidValue);
        }
        let g = Graph::new();
        put(out, g.id as Handle)?;
        driver()?.graphs.insert(g.id, g);
        Ok(())
    }
    fn cuGraphDestroy(h: Handle) {
        driver()?.graphs.take(h).map(drop).ok_or(Code::InvalidValue)
    }
    fn cuGraphClone(out: *mut Handle, h: Handle) {
        if graph(h)?.has_memory() {
            return Err(Code::NotSupported);
        }
        let g = graph(h)?.copy(&mut HashMap::new())?;
        put(out, g.id as Handle)?;
        driver()?.graphs.insert(g.id, g);
        Ok(())
    }
    fn cuGraphInstantiateWithFlags(out: *mut Handle, g: Handle, flags: u64) {
        instantiate(out, g, flags)
    }
    fn cuGraphInstantiateWithParams(out: *mut Handle, g: Handle, params: *mut u64) {
        instantiate(out, g, get(params)?)?;
        // SAFETY: CUDA_GRAPH_INSTANTIATE_PARAMS ends with the failing node and the result, after flags and a stream.
        unsafe {
            params.add(2).write_unaligned(0);
            params.add(3).cast::<u32>().write_unaligned(0);
        }
        Ok(())
    }
    fn cuGraphExecGetFlags(e: Handle, out: *mut u64) {
        put(out, exec(e)?.flags)
    }
    fn cuGraphExecDestroy(h: Handle) {
        driver()?.execs.take(h).map(drop).ok_or(Code::InvalidValue)
    }
    fn cuGraphUpload / "cuGraphUpload_ptsz" (e: Handle, stream: Handle) {
        exec(e)?;
        let (s, _) = find(stream)?;
        capture::forbid_on(&s, Code::StreamCaptureUnsupported)
    }
    fn cuGraphLaunch / "cuGraphLaunch_ptsz" (e: Handle, stream: Handle) {
        let (e, (s, c)) = (exec(e)?, find(stream)?);
        let frozen = lock(&e.frozen).clone();
        let mut last = lock(&e.last);
        let now = std::time::Instant::now();
        let events = frozen.events();
        let before: Vec<_> = last.iter().filter(|t| !t.done()).cloned().collect();
        if let Some(t) = submit(&s, &c, Work::Graph(frozen), &before)? {
            events.iter().for_each(|e| e.pending(&t, now));
            *last = Some(t);
        }
        Ok(())
    }
    fn cuGraphExecUpdate_v2(e: Handle, g: Handle, out: *mut u32) {
        update(e, g, out)
    }
    fn cuGraphGetNodes(g: Handle, out: *mut Handle, n: *mut usize) {
        let all: Vec<Handle> = lock(&graph(g)?.nodes).iter().map(|n| n.id as Handle).collect();
        list(out, n, &all, std::ptr::null_mut())
    }
    fn cuGraphGetRootNodes(g: Handle, out: *mut Handle, n: *mut usize) {
        let g = graph(g)?;
        let roots: Vec<Handle> =
            lock(&g.nodes).iter().filter(|n| n.after.is_empty()).map(|n| n.id as Handle).collect();
        list(out, n, &roots, std::ptr::null_mut())
    }
    fn cuGraphGetEdges(g: Handle, from: *mut Handle, to: *mut Handle, n: *mut usize) {
        edges(g, from, to, n)
    }
    fn cuGraphGetEdges_v2(g: Handle, from: *mut Handle, to: *mut Handle, _data: *mut u64, n: *mut usize) {
        edges(g, from, to, n)
    }
    fn cuGraphAddDependencies(g: Handle, from: *const Handle, to: *const Handle, n: usize) {
        add_edges(g, from, to, n)
    }
    fn cuGraphAddDependencies_v2(g: Handle, from: *const Handle, to: *const Handle, _data: *const u64, n: usize) {
        add_edges(g, from, to, n)
    }
    fn cuGraphRemoveDependencies(g: Handle, from: *const Handle, to: *const Handle, n: usize) {
        remove_edges(g, from, to, n)
    }
    fn cuGraphRemoveDependencies_v2(
        g: Handle, from: *const Handle, to: *const Handle, _data: *const u64, n: usize,
    ) {
        remove_edges(g, from, to, n)
    }
    fn cuGraphNodeGetDependencies(n: Handle, out: *mut Handle, count: *mut usize) {
        dependencies(n, out, count)
    }
    fn cuGraphNodeGetDependencies_v2(n: Handle, out: *mut Handle, _data: *mut u64, count: *mut usize) {
        dependencies(n, out, count)
    }
    fn cuGraphNodeGetType(n: Handle, out: *mut u32) {
        put(out, node(n)?.1.kind)
    }
    fn cuGraphDestroyNode(n: Handle) {
        let (g, x) = node(n)?;
        let mut nodes = lock(&g.nodes);
        nodes.retain(|y| y.id != x.id);
        nodes.iter_mut().for_each(|y| y.after.retain(|a| *a != x.id));
        driver()?.nodes.take(n);
        Ok(())
    }
    fn cuGraphAddEmptyNode(out: *mut Handle, g: Handle, after: *const Handle, n: usize) {
        add(out, g, after, n, || Ok(Node::new(Work::Nothing, Vec::new())))
    }
    fn cuGraphAddKernelNode_v2(out: *mut Handle, g: Handle, after: *const Handle, n: usize, p: *const KernelParams) {
        add(out, g, after, n, || Ok(Node::new(kernel(p)?, Vec::new())))
    }
    fn cuGraphAddMemcpyNode(out: *mut Handle, g: Handle, after: *const Handle, n: usize, p: *const Box3, c: Handle) {
        add(out, g, after, n, || Ok(Node::new(Work::Copy(get(p)?.copy(&*in_context(c)?)?), Vec::new())))
    }
    fn cuGraphAddMemsetNode(out: *mut Handle, g: Handle, after: *const Handle, n: usize, p: *const MemsetParams, c: Handle) {
        add(out, g, after, n, || Ok(Node::new(fill(p, c)?, Vec::new())))
    }
    fn cuGraphAddHostNode(out: *mut Handle, g: Handle, after: *const Handle, n: usize, p: *const HostParams) {
        add(out, g, after, n, || Ok(Node::new(host(p)?, Vec::new())))
    }
    fn cuGraphAddChildGraphNode(out: *mut Handle, g: Handle, after: *const Handle, n: usize, child: Handle) {
        add(out, g, after, n, || super::graph_nodes::child_node(child))
    }
    fn cuGraphKernelNodeGetParams_v2(n: Handle, out: *mut KernelParams) {
        put(out, super::graph_nodes::kernel_params(n)?)
    }
    fn cuGraphKernelNodeSetParams_v2(n: Handle, p: *const KernelParams) {
        let work = kernel(p)?;
        change(n, |x| if x.kind == 0 { x.work = work; Ok(()) } else { Err(Code::InvalidValue) })
    }
    fn cuGraphExecKernelNodeSetParams_v2(e: Handle, n: Handle, p: *const KernelParams) {
        set_exec(e, n, 0, kernel(p)?)
    }
    fn cuGraphExecMemcpyNodeSetParams(e: Handle, n: Handle, p: *const Box3, c: Handle) {
        set_exec(e, n, 1, Work::Copy(get(p)?.copy(&*in_context(c)?)?))
    }
    fn cuGraphExecMemsetNodeSetParams(e: Handle, n: Handle, p: *const MemsetParams, c: Handle) {
        set_exec(e, n, 2, fill(p, c)?)
    }
    fn cuGraphExecHostNodeSetParams(e: Handle, n: Handle, p: *const HostParams) {
        set_exec(e, n, 3, host(p)?)
    }
    fn cuGraphDebugDotPrint(g: Handle, path: *const std::ffi::c_char, _flags: u32) {
        let g = graph(g)?;
        let mut out = String::from("digraph {\n");
        for n in lock(&g.nodes).iter() {
            let label = match &n.work {
                Work::Kernel(k) => k.function.name().to_owned(),
                _ => ["kernel", "copy", "fill", "host", "graph", "empty"].get(n.kind as usize).unwrap_or(&"memory").to_string(),
            };
            out += &format!("  n{} [label=\"{label}\"];\n", n.id);
            n.after.iter().for_each(|a| out += &format!("  n{a} -> n{};\n", n.id));
        }
        std::fs::write(super::text(path)?, out + "}\n").map_err(|_| Code::Unknown)
    }
}
