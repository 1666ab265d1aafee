//! Streams: handles, the legacy and per-thread default streams, putting work in order.

use super::capture::{self, Joined};
use super::context::Context;
use super::queue::{Queue, Ticket};
use super::state::{context, driver, fresh, lock};
use super::work::{Callback, HostCall, Work};
use super::{Handle, api, put};
use crate::error::Code;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, Weak};

/// A stream.
pub(crate) struct Stream {
    pub id: usize,
    pub context: Weak<Context>,
    /// Whether it waits for the legacy default stream, and that one for it.
    pub blocking: bool,
    pub priority: i32,
    pub legacy: bool,
    pub queue: Arc<Queue>,
    pub capture: Mutex<Option<Joined>>,
}
impl Stream {
    pub fn new(c: &Arc<Context>, blocking: bool, priority: i32, legacy: bool) -> Arc<Self> {
        let id = fresh();
        let (context, queue) = (Arc::downgrade(c), c.queue(id));
        Arc::new(Self { id, context, blocking, priority, legacy, queue, capture: Mutex::new(None) })
    }
    /// Whether it is part of a capture.
    pub fn captured(&self) -> bool {
        lock(&self.capture).is_some()
    }
}
impl Drop for Stream {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// The stream of a handle: null and 1 the legacy default stream (null the thread's in a per-thread call), 2 the thread's,
/// others by table.
pub(crate) fn find(h: Handle) -> Result<(Arc<Stream>, Arc<Context>), Code> {
    let s = match if h.is_null() && super::PER_THREAD.get() { 2 } else { h as usize } {
        0 | 1 => context()?.legacy.get().cloned().ok_or(Code::InvalidContext)?,
        2 => {
            let c = context()?;
            let mut mine = lock(&c.per_thread);
            mine.entry(std::thread::current().id()).or_insert_with(|| Stream::new(&c, true, 0, false)).clone()
        }
        _ => driver()?.streams.get(h).ok_or(Code::InvalidHandle)?,
    };
    let c = s.context.upgrade().ok_or(Code::ContextIsDestroyed)?;
    c.usable()?;
    Ok((s, c))
}

/// Puts work into a stream after what it must follow, and after `more`; into the graph if the stream is captured (then
/// there is no ticket).
pub(crate) fn submit(
    s: &Arc<Stream>,
    c: &Arc<Context>,
    work: Work,
    more: &[Arc<Ticket>],
) -> Result<Option<Arc<Ticket>>, Code> {
    if let Some(j) = &mut *lock(&s.capture) {
        j.add(work)?;
        return Ok(None);
    }
    if s.legacy {
        capture::forbid_legacy(c)?;
    }
    let _order = lock(&c.order);
    let mut after = more.to_vec();
    if s.legacy {
        after.extend(c.pending(true));
    } else if s.blocking {
        after.extend(c.legacy.get().and_then(|l| l.queue.last()));
    }
    s.queue.push(work, after).map(Some)
}

/// Work in the default stream, done before it returns: the synchronous calls.
pub(crate) fn at_once(work: Work) -> Result<(), Code> {
    let (s, c) = find(std::ptr::null_mut())?;
    if s.legacy {
        capture::forbid_legacy(&c)?;
    }
    capture::forbid_unsafe()?;
    if let Some(t) = submit(&s, &c, work, &[])? {
        t.wait();
    }
    c.usable()
}

fn create(out: *mut Handle, flags: u32, priority: i32) -> Result<(), Code> {
    let c = context()?;
    if flags > 1 {
        return Err(Code::InvalidValue);
    }
    let s = Stream::new(&c, flags == 0, priority.clamp(-5, 0), false);
    put(out, s.id as Handle)?;
    driver()?.streams.insert(s.id, s);
    Ok(())
}

api! {
    fn cuStreamCreate(out: *mut Handle, flags: u32) {
        create(out, flags, 0)
    }
    fn cuStreamCreateWithPriority(out: *mut Handle, flags: u32, priority: i32) {
        create(out, flags, priority)
    }
    fn cuStreamDestroy_v2(h: Handle) {
        if (h as usize) < 3 {
            driver()?;
            return Err(Code::InvalidHandle);
        }
        let s = driver()?.streams.get(h).ok_or(Code::InvalidHandle)?;
        if let Some(j) = &*lock(&s.capture) {
            j.capture.invalidate();
        }
        // The context may be gone already; then so is the work.
        s.context.upgrade().map_or_else(|| s.queue.close(), |c| c.leave(&s));
        driver()?.streams.take(h).map(drop).ok_or(Code::InvalidHandle)
    }
    fn cuStreamSynchronize / "cuStreamSynchronize_ptsz" (h: Handle) {
        let (s, c) = find(h)?;
        capture::forbid_on(&s, Code::StreamCaptureUnsupported)?;
        if s.legacy {
            capture::forbid_legacy(&c)?;
            c.pending(true).iter().for_each(|t| t.wait());
        } else if let Some(t) = s.queue.last() {
            t.wait();
        }
        driver()?.log.synchronized();
        c.usable()
    }
    fn cuStreamQuery / "cuStreamQuery_ptsz" (h: Handle) {
        let (s, c) = find(h)?;
        capture::forbid_on(&s, Code::StreamCaptureUnsupported)?;
        if s.legacy {
            capture::forbid_legacy(&c)?;
        }
        match s.queue.last() {
            Some(t) if !t.poll() => Err(Code::NotReady),
            _ => Ok(()),
        }
    }
    fn cuStreamGetPriority / "cuStreamGetPriority_ptsz" (h: Handle, out: *mut i32) {
        put(out, find(h)?.0.priority)
    }
    fn cuStreamGetFlags / "cuStreamGetFlags_ptsz" (h: Handle, out: *mut u32) {
        put(out, !find(h)?.0.blocking as u32)
    }
    fn cuStreamGetId / "cuStreamGetId_ptsz" (h: Handle, out: *mut u64) {
        put(out, find(h)?.0.id as u64)
    }
    fn cuStreamGetCtx / "cuStreamGetCtx_ptsz" (h: Handle, out: *mut Handle) {
        put(out, find(h)?.1.id as Handle)
    }
    fn cuStreamGetDevice / "cuStreamGetDevice_ptsz" (h: Handle, out: *mut i32) {
        put(out, find(h)?.1.device.ordinal)
    }
    fn cuStreamAttachMemAsync / "cuStreamAttachMemAsync_ptsz" (h: Handle, address: u64, _bytes: usize, _flags: u32) {
        let (s, c) = find(h)?;
        if !c.reaches(address, 1, true) {
            return Err(Code::InvalidValue);
        }
        submit(&s, &c, Work::Nothing, &[]).map(drop)
    }
    fn cuStreamAddCallback / "cuStreamAddCallback_ptsz" (
        h: Handle, f: Option<unsafe extern "C" fn(*mut c_void, u32, *mut c_void)>, data: *mut c_void, flags: u32,
    ) {
        let (s, c) = find(h)?;
        let function = f.filter(|_| flags == 0).ok_or(Code::InvalidValue)?;
        capture::forbid_on(&s, Code::StreamCaptureUnsupported)?;
        submit(&s, &c, Work::Callback(Callback { function, stream: h, data }), &[]).map(drop)
    }
    fn cuStreamCopyAttributes / "cuStreamCopyAttributes_ptsz" (to: Handle, from: Handle) {
        find(to)?;
        find(from).map(drop)
    }
    fn cuStreamGetAttribute / "cuStreamGetAttribute_ptsz" (h: Handle, which: u32, out: *mut [i32; 16]) {
        let (s, _) = find(h)?;
        let mut value = [0; 16];
        match which {
            8 => value[0] = s.priority,
            1 | 3 | 9 | 10 => (),
            _ => return Err(Code::InvalidValue),
        }
        put(out, value)
    }
    fn cuStreamSetAttribute / "cuStreamSetAttribute_ptsz" (h: Handle, which: u32, value: *const u32) {
        find(h)?;
        super::get(value)?;
        // Windows of L2, how to wait, priority, domains: hints.
        if matches!(which, 1 | 3 | 8..=10) { Ok(()) } else { Err(Code::InvalidValue) }
    }
    fn cuLaunchHostFunc_v2 / "cuLaunchHostFunc_v2_ptsz" (
        h: Handle, f: Option<unsafe extern "C" fn(*mut c_void)>, data: *mut c_void, mode: u32,
    ) {
        let (s, c) = find(h)?;
        let function = f.filter(|_| mode < 2).ok_or(Code::InvalidValue)?;
        submit(&s, &c, Work::Host(HostCall { function, data }), &[]).map(drop)
    }
    fn cuLaunchHostFunc / "cuLaunchHostFunc_ptsz" (h: Handle, f: Option<unsafe extern "C" fn(*mut c_void)>, data: *mut c_void) {
        let (s, c) = find(h)?;
        let function = f.ok_or(Code::InvalidValue)?;
        submit(&s, &c, Work::Host(HostCall { function, data }), &[]).map(drop)
    }
}
