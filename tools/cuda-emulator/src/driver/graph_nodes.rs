//! `cuGraph*` of nodes: every kind by one call, their parameters, events, memory.

use super::capture::publish;
use super::copy::Box3;
use super::event;
use super::graph::{Graph, Node, Owned};
use super::graph_api::{
    HostParams, MemsetParams, add, change, exec, fill, graph, host, in_context, kernel, list, node, set_exec,
};
use super::launch::KernelParams;
use super::state::{context, device, driver, lock};
use super::work::Work;
use super::{Handle, api, get, put};
use crate::error::Code;
use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// `CUDA_MEM_ALLOC_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct AllocParams {
    kind: u32,
    handles: u32,
    location: [i32; 2],
    reserved: [u64; 9],
    access: *const c_void,
    accesses: usize,
    bytes: usize,
    address: u64,
}
/// `CUDA_KERNEL_NODE_PARAMS_v1`: without the last two fields of the newer one.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct OldKernelParams([u64; 7]);
impl OldKernelParams {
    fn wide(p: *const Self) -> Result<KernelParams, Code> {
        let old = get(p)?;
        let mut new = [0; 9];
        new[..7].copy_from_slice(&old.0);
        get(new.as_ptr().cast())
    }
}

fn record_node(e: Handle) -> Result<Node, Code> {
    Ok(Node::new(Work::Record(event::by_handle(e)?), Vec::new()))
}
fn wait_node(e: Handle) -> Result<Node, Code> {
    Ok(Node::new(Work::Wait(event::by_handle(e)?), Vec::new()))
}
pub(crate) fn child_node(child: Handle) -> Result<Node, Code> {
    let child = graph(child)?;
    if child.has_memory() {
        return Err(Code::NotSupported);
    }
    let child = child.copy(&mut HashMap::new())?;
    Ok(Node { kind: 4, child: Some(child), ..Node::new(Work::Nothing, Vec::new()) })
}
/// Memory that is the graph's from now on; its address goes to the caller's parameters.
fn alloc_node(g: &Graph, p: *mut AllocParams) -> Result<Node, Code> {
    let given = get(p)?;
    if given.kind != 1 || given.location[0] != 1 || given.bytes == 0 {
        return Err(Code::InvalidValue);
    }
    let memory = &device(given.location[1])?.memory;
    let address = memory.allocate(given.bytes as u64, driver()?.options().seed.is_some())?;
    lock(&g.owned).push(Arc::new(Owned(address, memory.clone())));
    put(p, AllocParams { address, ..given })?;
    Ok(Node { kind: 10, memory: (address, given.bytes as u64), ..Node::new(Work::Nothing, Vec::new()) })
}
fn free_node(g: &Graph, address: u64) -> Result<Node, Code> {
    if !lock(&g.owned).iter().any(|o| o.0 == address) {
        return Err(Code::InvalidValue);
    }
    Ok(Node { kind: 11, memory: (address, 0), ..Node::new(Work::Nothing, Vec::new()) })
}
/// What `CUgraphNodeParams` describes: a kind and, 16 bytes later, the parameters of that kind.
fn described(g: Option<&Graph>, p: *mut u8) -> Result<Node, Code> {
    let kind = get(p.cast::<u32>())?;
    // SAFETY: the structure is 256 bytes.
    let (body, eight) = unsafe { (p.add(16), p.add(24)) };
    let plain = |w: Work| Ok(Node::new(w, Vec::new()));
    match (kind, g) {
        (0, _) => plain(kernel(body.cast())?),
        (1, _) => {
            let c = in_context(get(eight.cast())?)?;
            // SAFETY: as above; the copy follows flags and a context.
            plain(Work::Copy(get(unsafe { body.add(16) }.cast::<Box3>())?.copy(&c)?))
        }
        // SAFETY: as above; the context follows the parameters.
        (2, _) => plain(fill(body.cast(), get(unsafe { body.add(size_of::<MemsetParams>()) }.cast())?)?),
        (3, _) => plain(host(body.cast())?),
        (4, _) => child_node(get(body.cast())?),
        (5, _) => plain(Work::Nothing),
        (6, _) => wait_node(get(body.cast())?),
        (7, _) => record_node(get(body.cast())?),
        (10, Some(g)) => alloc_node(g, body.cast()),
        (11, Some(g)) => free_node(g, get(body.cast())?),
        (8 | 9 | 12 | 13, _) => Err(Code::NotSupported),
        _ => Err(Code::InvalidValue),
    }
}
fn add_described(
    out: *mut Handle,
    g: Handle,
    after: *const Handle,
    n: usize,
    p: *mut u8,
) -> Result<(), Code> {
    let owner = graph(g)?;
    add(out, g, after, n, || described(Some(&owner), p))
}
/// Gives a node what another says; only of its own kind.
fn set(n: Handle, new: Node) -> Result<(), Code> {
    change(n, |x| {
        if x.kind != new.kind {
            return Err(Code::InvalidValue);
        }
        (x.work, x.child) = (new.work, new.child);
        Ok(())
    })
}
/// A node's work in an executable; child graphs are frozen for it.
fn set_frozen(e: Handle, n: Handle, new: Node) -> Result<(), Code> {
    let work = match &new.child {
        Some(child) => Work::Graph(Arc::new(child.freeze()?)),
        None => new.work,
    };
    set_exec(e, n, new.kind, work)
}
fn event_of(n: Handle, kind: u32, out: *mut Handle) -> Result<(), Code> {
    match node(n)?.1.work {
        Work::Record(e) if kind == 7 => put(out, e.id as Handle),
        Work::Wait(e) if kind == 6 => put(out, e.id as Handle),
        _ => Err(Code::InvalidValue),
    }
}
/// What a kernel node was given; the arrays live until the thread asks for another.
pub(crate) fn kernel_params(n: Handle) -> Result<KernelParams, Code> {
    let Work::Kernel(k) = node(n)?.1.work else { return Err(Code::InvalidValue) };
    let places = k.function.code().params.iter();
    let params = publish(places.map(|(at, _)| k.params.as_ptr() as usize + *at as usize).collect());
    Ok(KernelParams {
        function: k.function.id as Handle,
        grid: k.grid,
        block: k.block,
        shared: k.dynamic_shared,
        params: params.cast(),
        extra: std::ptr::null(),
        kernel: std::ptr::null_mut(),
        context: std::ptr::null_mut(),
    })
}
fn dependents(n: Handle, out: *mut Handle, count: *mut usize) -> Result<(), Code> {
    let (g, x) = node(n)?;
    let nodes = lock(&g.nodes);
    let all: Vec<Handle> = nodes.iter().filter(|y| y.after.contains(&x.id)).map(|y| y.id as Handle).collect();
    list(out, count, &all, std::ptr::null_mut())
}

api! {
    fn cuGraphAddNode(out: *mut Handle, g: Handle, after: *const Handle, n: usize, p: *mut u8) {
        add_described(out, g, after, n, p)
    }
    fn cuGraphAddNode_v2(out: *mut Handle, g: Handle, after: *const Handle, _edges: *const u64, n: usize, p: *mut u8) {
        add_described(out, g, after, n, p)
    }
    fn cuGraphAddNode_v3(out: *mut Handle, g: Handle, after: *const Handle, _edges: *const u64, n: usize, p: *mut u8) {
        add_described(out, g, after, n, p)
    }
    fn cuGraphNodeSetParams(n: Handle, p: *mut u8) {
        set(n, described(None, p)?)
    }
    fn cuGraphNodeSetParams_v2(n: Handle, p: *mut u8) {
        set(n, described(None, p)?)
    }
    fn cuGraphExecNodeSetParams(e: Handle, n: Handle, p: *mut u8) {
        set_frozen(e, n, described(None, p)?)
    }
    fn cuGraphNodeGetParams(n: Handle, out: *mut [u64; 32]) {
        let (_, x) = node(n)?;
        let mut all = [0u64; 32];
        all[0] = u64::from(x.kind);
        // SAFETY: the parameters begin 16 bytes into the structure and are smaller than the rest of it.
        let body: Handle = unsafe { all.as_mut_ptr().add(2) }.cast();
        match &x.work {
            Work::Kernel(_) => put(body.cast(), kernel_params(n)?)?,
            // SAFETY: as above; the copy follows flags and a context.
            Work::Copy(c) => put(unsafe { body.add(16) }.cast(), Box3::of(c))?,
            Work::Fill(f) => put(body.cast(), MemsetParams::of(f))?,
            Work::Host(h) => put(body.cast(), HostParams::of(h))?,
            Work::Record(e) | Work::Wait(e) => put(body.cast(), e.id)?,
            _ => put(body.cast(), x.child.map_or(x.memory.0, |c| c.id as u64))?,
        }
        put(out, all)
    }
    fn cuGraphAddKernelNode(out: *mut Handle, g: Handle, after: *const Handle, n: usize, p: *const OldKernelParams) {
        let p = OldKernelParams::wide(p)?;
        add(out, g, after, n, || Ok(Node::new(kernel(&p)?, Vec::new())))
    }
    fn cuGraphKernelNodeGetParams(n: Handle, out: *mut OldKernelParams) {
        let p = kernel_params(n)?;
        put(out, get((&raw const p).cast())?)
    }
    fn cuGraphKernelNodeSetParams(n: Handle, p: *const OldKernelParams) {
        set(n, Node::new(kernel(&OldKernelParams::wide(p)?)?, Vec::new()))
    }
    fn cuGraphExecKernelNodeSetParams(e: Handle, n: Handle, p: *const OldKernelParams) {
        set_exec(e, n, 0, kernel(&OldKernelParams::wide(p)?)?)
    }
    fn cuGraphAddEventRecordNode(out: *mut Handle, g: Handle, after: *const Handle, n: usize, event: Handle) {
        add(out, g, after, n, || record_node(event))
    }
    fn cuGraphAddEventWaitNode(out: *mut Handle, g: Handle, after: *const Handle, n: usize, event: Handle) {
        add(out, g, after, n, || wait_node(event))
    }
    fn cuGraphEventRecordNodeGetEvent(n: Handle, out: *mut Handle) {
        event_of(n, 7, out)
    }
    fn cuGraphEventRecordNodeSetEvent(n: Handle, event: Handle) {
        set(n, record_node(event)?)
    }
    fn cuGraphEventWaitNodeGetEvent(n: Handle, out: *mut Handle) {
        event_of(n, 6, out)
    }
    fn cuGraphEventWaitNodeSetEvent(n: Handle, event: Handle) {
        set(n, wait_node(event)?)
    }
    fn cuGraphExecEventRecordNodeSetEvent(e: Handle, n: Handle, event: Handle) {
        set_frozen(e, n, record_node(event)?)
    }
    fn cuGraphExecEventWaitNodeSetEvent(e: Handle, n: Handle, event: Handle) {
        set_frozen(e, n, wait_node(event)?)
    }
    fn cuGraphAddMemAllocNode(out: *mut Handle, g: Handle, after: *const Handle, n: usize, p: *mut AllocParams) {
        let owner = graph(g)?;
        add(out, g, after, n, || alloc_node(&owner, p))
    }
    fn cuGraphMemAllocNodeGetParams(n: Handle, out: *mut AllocParams) {
        let (_, n) = node(n)?;
        if n.kind != 10 {
            return Err(Code::InvalidValue);
        }
        put(out, AllocParams {
            kind: 1,
            handles: 0,
            location: [1, context()?.device.ordinal],
            reserved: [0; 9],
            access: std::ptr::null(),
            accesses: 0,
            bytes: n.memory.1 as usize,
            address: n.memory.0,
        })
    }
    fn cuGraphAddMemFreeNode(out: *mut Handle, g: Handle, after: *const Handle, n: usize, address: u64) {
        let owner = graph(g)?;
        add(out, g, after, n, || free_node(&owner, address))
    }
    fn cuGraphMemFreeNodeGetParams(n: Handle, out: *mut u64) {
        let (_, n) = node(n)?;
        if n.kind == 11 { put(out, n.memory.0) } else { Err(Code::InvalidValue) }
    }
    fn cuGraphMemcpyNodeGetParams(n: Handle, out: *mut Box3) {
        let Work::Copy(c) = node(n)?.1.work else { return Err(Code::InvalidValue) };
        put(out, Box3::of(&c))
    }
    fn cuGraphMemcpyNodeSetParams(n: Handle, p: *const Box3) {
        set(n, Node::new(Work::Copy(get(p)?.copy(&*context()?)?), Vec::new()))
    }
    fn cuGraphMemsetNodeGetParams(n: Handle, out: *mut MemsetParams) {
        let Work::Fill(f) = node(n)?.1.work else { return Err(Code::InvalidValue) };
        put(out, MemsetParams::of(&f))
    }
    fn cuGraphMemsetNodeSetParams(n: Handle, p: *const MemsetParams) {
        set(n, Node::new(fill(p, std::ptr::null_mut())?, Vec::new()))
    }
    fn cuGraphHostNodeGetParams(n: Handle, out: *mut HostParams) {
        let Work::Host(h) = node(n)?.1.work else { return Err(Code::InvalidValue) };
        put(out, HostParams::of(&h))
    }
    fn cuGraphHostNodeSetParams(n: Handle, p: *const HostParams) {
        set(n, Node::new(host(p)?, Vec::new()))
    }
    fn cuGraphChildGraphNodeGetGraph(n: Handle, out: *mut Handle) {
        let child = node(n)?.1.child.ok_or(Code::InvalidValue)?;
        put(out, child.id as Handle)?;
        // The node owns it; its handle is known as long as the node lives.
        driver()?.children.insert(child.id, Arc::new(Arc::downgrade(&child)));
        Ok(())
    }
    fn cuGraphExecChildGraphNodeSetParams(e: Handle, n: Handle, child: Handle) {
        set_frozen(e, n, child_node(child)?)
    }
    fn cuGraphNodeFindInClone(out: *mut Handle, original: Handle, clone: Handle) {
        let (g, id) = (graph(clone)?, original as usize);
        let found = lock(&g.nodes).iter().find(|n| n.origin == id).map(|n| n.id);
        put(out, found.ok_or(Code::InvalidValue)? as Handle)
    }
    fn cuGraphNodeGetDependentNodes(n: Handle, out: *mut Handle, count: *mut usize) {
        dependents(n, out, count)
    }
    fn cuGraphNodeGetDependentNodes_v2(n: Handle, out: *mut Handle, _data: *mut u64, count: *mut usize) {
        dependents(n, out, count)
    }
    fn cuGraphNodeGetContainingGraph(n: Handle, out: *mut Handle) {
        put(out, node(n)?.0.id as Handle)
    }
    fn cuGraphNodeGetLocalId(n: Handle, out: *mut u32) {
        let (g, x) = node(n)?;
        let place = lock(&g.nodes).iter().position(|y| y.id == x.id);
        put(out, place.ok_or(Code::InvalidValue)? as u32)
    }
    fn cuGraphNodeGetToolsId(n: Handle, out: *mut u64) {
        put(out, node(n)?.1.id as u64)
    }
    fn cuGraphGetId(g: Handle, out: *mut u32) {
        put(out, graph(g)?.id as u32)
    }
    fn cuGraphExecGetId(e: Handle, out: *mut u32) {
        exec(e)?;
        put(out, e as usize as u32)
    }
    fn cuGraphNodeSetEnabled(e: Handle, n: Handle, on: u32) {
        let e = exec(e)?;
        let mut frozen = lock(&e.frozen);
        let i = frozen.place(n as usize).filter(|i| frozen.kinds[*i] < 3).ok_or(Code::InvalidValue)?;
        Arc::make_mut(&mut frozen).enabled[i] = on != 0;
        Ok(())
    }
    fn cuGraphNodeGetEnabled(e: Handle, n: Handle, out: *mut u32) {
        let e = exec(e)?;
        let frozen = lock(&e.frozen);
        put(out, frozen.enabled[frozen.place(n as usize).ok_or(Code::InvalidValue)?] as u32)
    }
    fn cuGraphKernelNodeSetAttribute(n: Handle, which: u32, value: *const u32) {
        let on = get(value)? != 0;
        change(n, |x| {
            let Work::Kernel(k) = &mut x.work else { return Err(Code::InvalidValue) };
            match which {
                2 => Arc::make_mut(k).cooperative = on,
                // Hints: windows, priorities, domains, carve-out.
                1 | 8..=10 | 14 => (),
                _ => return Err(Code::InvalidValue),
            }
            Ok(())
        })
    }
    fn cuGraphKernelNodeGetAttribute(n: Handle, which: u32, out: *mut [u32; 16]) {
        let Work::Kernel(k) = node(n)?.1.work else { return Err(Code::InvalidValue) };
        let mut value = [0; 16];
        match which {
            2 => value[0] = k.cooperative as u32,
            1 | 8..=10 | 14 => (),
            _ => return Err(Code::InvalidValue),
        }
        put(out, value)
    }
    fn cuGraphKernelNodeCopyAttributes(to: Handle, from: Handle) {
        let Work::Kernel(k) = node(from)?.1.work else { return Err(Code::InvalidValue) };
        change(to, |x| {
            let Work::Kernel(mine) = &mut x.work else { return Err(Code::InvalidValue) };
            Arc::make_mut(mine).cooperative = k.cooperative;
            Ok(())
        })
    }
    fn cuGraphInstantiate_v2(out: *mut Handle, g: Handle, failed: *mut Handle, _log: *mut c_char, _room: usize) {
        super::put_some(failed, std::ptr::null_mut());
        super::graph_api::instantiate(out, g, 0)
    }
    fn cuGraphExecUpdate(e: Handle, g: Handle, failed: *mut Handle, result: *mut u32) {
        let mut info = [0u64; 3];
        let done = super::graph_api::update(e, g, info.as_mut_ptr().cast());
        super::put_some(failed, info[1] as Handle);
        super::put_some(result, info[0] as u32);
        done
    }
    fn cuDeviceGraphMemTrim(dev: i32) {
        device(dev).map(drop)
    }
    fn cuDeviceGetGraphMemAttribute(dev: i32, which: u32, out: *mut u64) {
        device(dev)?;
        if which > 3 { Err(Code::InvalidValue) } else { put(out, 0) }
    }
    fn cuDeviceSetGraphMemAttribute(dev: i32, which: u32, value: *mut u64) {
        device(dev)?;
        // High-water marks can be reset only.
        if matches!(which, 1 | 3) && get(value)? == 0 { Ok(()) } else { Err(Code::InvalidValue) }
    }
}
