//! Stream capture: calls become nodes of a graph, under hardware's rules. What the rules forbid invalidates the capture.

use super::context::Context;
use super::graph::{Graph, Node};
use super::state::{MODE, driver, fresh, lock};
use super::stream::{Stream, find};
use super::work::Work;
use super::{Handle, api, put, put_some};
use crate::error::Code;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::ThreadId;

const GLOBAL: u32 = 0;
const RELAXED: u32 = 2;

/// A capture from begin to end.
pub(crate) struct Capture {
    id: usize,
    mode: u32,
    thread: ThreadId,
    origin: usize,
    context: Weak<Context>,
    pub graph: Arc<Graph>,
    streams: Mutex<Vec<Weak<Stream>>>,
    invalid: AtomicBool,
    ended: AtomicBool,
}
impl Capture {
    pub fn invalidate(&self) {
        self.invalid.store(true, Ordering::Release);
    }
    pub fn valid(&self) -> Result<(), Code> {
        if self.invalid.load(Ordering::Acquire) { Err(Code::StreamCaptureInvalidated) } else { Ok(()) }
    }
    /// Whether it has not ended.
    pub fn open(&self) -> bool {
        !self.ended.load(Ordering::Acquire)
    }
    /// A stream becomes part of it.
    pub fn join(&self, s: &Arc<Stream>) {
        lock(&self.streams).push(Arc::downgrade(s));
    }
}

/// A stream's part in a capture: its next node follows `after`.
pub(crate) struct Joined {
    pub capture: Arc<Capture>,
    pub after: Vec<usize>,
}
impl Joined {
    /// Appends a node.
    pub fn add(&mut self, work: Work) -> Result<(), Code> {
        self.capture.valid()?;
        let id = self.capture.graph.add(Node::new(work, self.after.clone()))?;
        self.after = vec![id];
        Ok(())
    }
    /// The next node follows these too.
    pub fn follow(&mut self, after: &[usize]) {
        self.after.extend_from_slice(after);
        self.after.sort_unstable();
        self.after.dedup();
    }
}

fn active() -> Vec<Arc<Capture>> {
    driver().map(|d| lock(&d.captures).clone()).unwrap_or_default()
}
fn refuse(found: &[Arc<Capture>], code: Code) -> Result<(), Code> {
    found.iter().for_each(|c| c.invalidate());
    if found.is_empty() { Ok(()) } else { Err(code) }
}
/// Calls that might hide a synchronisation (allocations, module loads): depends on the modes of thread and captures.
pub(crate) fn forbid_unsafe() -> Result<(), Code> {
    let (mode, me) = (MODE.get(), std::thread::current().id());
    let met = |c: &Arc<Capture>| {
        mode != RELAXED && c.mode != RELAXED && (c.thread == me || (c.mode == GLOBAL && mode == GLOBAL))
    };
    refuse(&active().into_iter().filter(met).collect::<Vec<_>>(), Code::StreamCaptureUnsupported)
}
/// Use of the legacy stream while a blocking stream of its context is captured.
pub(crate) fn forbid_legacy(c: &Arc<Context>) -> Result<(), Code> {
    let blocking = |x: &Arc<Capture>| {
        x.context.as_ptr() == Arc::as_ptr(c)
            && lock(&x.streams).iter().filter_map(Weak::upgrade).any(|s| s.blocking)
    };
    refuse(&active().into_iter().filter(blocking).collect::<Vec<_>>(), Code::StreamCaptureImplicit)
}
/// Waiting for a context that is captured.
pub(crate) fn forbid_sync(c: &Arc<Context>) -> Result<(), Code> {
    let mine = |x: &Arc<Capture>| x.context.as_ptr() == Arc::as_ptr(c);
    refuse(&active().into_iter().filter(mine).collect::<Vec<_>>(), Code::StreamCaptureUnsupported)
}
/// A call that a captured stream does not allow.
pub(crate) fn forbid_on(s: &Stream, code: Code) -> Result<(), Code> {
    match &*lock(&s.capture) {
        Some(j) => {
            j.capture.valid()?;
            j.capture.invalidate();
            Err(code)
        }
        None => Ok(()),
    }
}

/// `cuStreamBeginCapture`.
pub(crate) fn begin(
    s: &Arc<Stream>,
    c: &Arc<Context>,
    mode: u32,
    graph: Arc<Graph>,
    after: Vec<usize>,
) -> Result<(), Code> {
    if mode > RELAXED {
        return Err(Code::InvalidValue);
    }
    if s.legacy {
        return Err(Code::StreamCaptureUnsupported);
    }
    let mut joined = lock(&s.capture);
    if let Some(j) = &*joined {
        j.capture.invalidate();
        return Err(Code::IllegalState);
    }
    let capture = Arc::new(Capture {
        id: fresh(),
        mode,
        thread: std::thread::current().id(),
        origin: s.id,
        context: Arc::downgrade(c),
        graph,
        streams: Mutex::default(),
        invalid: AtomicBool::new(false),
        ended: AtomicBool::new(false),
    });
    capture.join(s);
    lock(&driver()?.captures).push(capture.clone());
    *joined = Some(Joined { capture, after });
    Ok(())
}

fn end(s: &Arc<Stream>) -> Result<Arc<Graph>, Code> {
    let Some((capture, last)) = lock(&s.capture).as_ref().map(|j| (j.capture.clone(), j.after.clone()))
    else {
        return Err(Code::IllegalState);
    };
    if capture.origin != s.id {
        capture.invalidate();
        return Err(Code::StreamCaptureUnmatched);
    }
    if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
        return Err(Code::StreamCaptureWrongThread);
    }
    capture.ended.store(true, Ordering::Release);
    lock(&driver()?.captures).retain(|c| c.id != capture.id);
    let joined = capture.graph.ancestors(&last);
    let mut all_joined = true;
    for other in lock(&capture.streams).iter().filter_map(Weak::upgrade) {
        let mut part = lock(&other.capture);
        if let Some(j) = part.as_ref().filter(|j| j.capture.id == capture.id) {
            all_joined &= j.after.iter().all(|n| joined.contains(n));
            *part = None;
        }
    }
    capture.valid()?;
    if !all_joined {
        return Err(Code::StreamCaptureUnjoined);
    }
    Ok(capture.graph.clone())
}

#[derive(Default)]
struct Info {
    status: u32,
    id: u64,
    graph: usize,
    after: Vec<usize>,
}
fn info(h: Handle) -> Result<Info, Code> {
    let (s, c) = find(h)?;
    if s.legacy {
        let ours = |x: &&Arc<Capture>| x.context.as_ptr() == Arc::as_ptr(&c);
        let blocking =
            |x: &&Arc<Capture>| lock(&x.streams).iter().filter_map(Weak::upgrade).any(|s| s.blocking);
        if active().iter().filter(ours).any(|x| blocking(&x)) {
            return Err(Code::StreamCaptureImplicit);
        }
    }
    let j = lock(&s.capture);
    Ok(j.as_ref().map_or_else(Info::default, |j| Info {
        status: 1 + j.capture.valid().is_err() as u32,
        id: j.capture.id as u64,
        graph: j.capture.graph.id,
        after: j.after.clone(),
    }))
}
/// A list of numbers for the caller: kept until the thread asks again.
pub(crate) fn publish(after: Vec<usize>) -> *const Handle {
    thread_local!(static KEPT: std::cell::RefCell<Vec<usize>> = const { std::cell::RefCell::new(Vec::new()) });
    KEPT.with(|k| {
        k.replace(after);
        k.borrow().as_ptr().cast()
    })
}

fn follow(stream: Handle, nodes: *const Handle, n: usize, flags: u32) -> Result<(), Code> {
    let (s, _) = find(stream)?;
    let mut joined = lock(&s.capture);
    let j = joined.as_mut().ok_or(Code::IllegalState)?;
    j.capture.valid()?;
    let new: Vec<usize> = super::get_all(nodes, n)?.into_iter().map(|h| h as usize).collect();
    if flags > 1 || !new.iter().all(|id| j.capture.graph.has(*id)) {
        return Err(Code::InvalidValue);
    }
    if flags == 1 {
        j.after.clear();
    }
    j.follow(&new);
    Ok(())
}

api! {
    fn cuStreamEndCapture / "cuStreamEndCapture_ptsz" (stream: Handle, out: *mut Handle) {
        let (s, _) = find(stream)?;
        put(out, std::ptr::null_mut())?;
        let graph = end(&s)?;
        driver()?.graphs.insert(graph.id, graph.clone());
        put(out, graph.id as Handle)
    }
    fn cuStreamIsCapturing / "cuStreamIsCapturing_ptsz" (stream: Handle, out: *mut u32) {
        put(out, info(stream)?.status)
    }
    fn cuStreamGetCaptureInfo_v2 / "cuStreamGetCaptureInfo_v2_ptsz" (
        stream: Handle, status: *mut u32, id: *mut u64, graph: *mut Handle, after: *mut *const Handle, n: *mut usize,
    ) {
        let i = info(stream)?;
        put(status, i.status)?;
        put_some(id, i.id);
        put_some(graph, i.graph as Handle);
        put_some(n, i.after.len());
        put_some(after, publish(i.after));
        Ok(())
    }
    fn cuStreamGetCaptureInfo_v3 / "cuStreamGetCaptureInfo_v3_ptsz" (
        stream: Handle, status: *mut u32, id: *mut u64, graph: *mut Handle, after: *mut *const Handle,
        edges: *mut *const u8, n: *mut usize,
    ) {
        let i = info(stream)?;
        put(status, i.status)?;
        put_some(id, i.id);
        put_some(graph, i.graph as Handle);
        put_some(edges, std::ptr::null());
        put_some(n, i.after.len());
        put_some(after, publish(i.after));
        Ok(())
    }
    fn cuStreamGetCaptureInfo / "cuStreamGetCaptureInfo_ptsz" (stream: Handle, status: *mut u32, id: *mut u64) {
        let i = info(stream)?;
        put(status, i.status)?;
        put_some(id, i.id);
        Ok(())
    }
    fn cuStreamBeginCaptureToGraph / "cuStreamBeginCaptureToGraph_ptsz" (
        stream: Handle, g: Handle, nodes: *const Handle, _edges: *const u8, n: usize, mode: u32,
    ) {
        let ((s, c), g) = (find(stream)?, super::graph_api::graph(g)?);
        let after: Vec<usize> = super::get_all(nodes, n)?.into_iter().map(|h| h as usize).collect();
        if !after.iter().all(|id| g.has(*id)) {
            return Err(Code::InvalidValue);
        }
        begin(&s, &c, mode, g, after)
    }
    fn cuStreamUpdateCaptureDependencies / "cuStreamUpdateCaptureDependencies_ptsz" (
        stream: Handle, nodes: *const Handle, n: usize, flags: u32,
    ) {
        follow(stream, nodes, n, flags)
    }
    fn cuStreamUpdateCaptureDependencies_v2 / "cuStreamUpdateCaptureDependencies_v2_ptsz" (
        stream: Handle, nodes: *const Handle, _edges: *const u8, n: usize, flags: u32,
    ) {
        follow(stream, nodes, n, flags)
    }
}
