//! Contexts: what a thread works in. A fault of a kernel stays with its context.

use super::queue::{Queue, Ticket};
use super::state::{Device, Table, context, current, device, driver, fresh, init, lock, pop, push};
use super::stream::Stream;
use super::work::Work;
use super::{Handle, api, put, put_some};
use crate::error::Code;
use crate::memory::Memory;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::ThreadId;

/// What an allocation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Device,
    /// `cuMemHostAlloc`.
    Host,
    /// `cuMemHostRegister`.
    Registered,
    Managed,
    /// A variable of a module.
    Variable,
}
/// An allocation of a context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allocation {
    pub bytes: u64,
    pub kind: Kind,
    pub flags: u32,
    pub id: u64,
}

/// A context.
pub(crate) struct Context {
    pub id: usize,
    pub primary: bool,
    pub device: &'static Device,
    pub flags: AtomicU32,
    pub memory: Arc<Memory>,
    pub allocations: Mutex<BTreeMap<u64, Allocation>>,
    /// Held while work is put in order.
    pub order: Mutex<()>,
    pub legacy: OnceLock<Arc<Stream>>,
    pub per_thread: Mutex<HashMap<ThreadId, Arc<Stream>>>,
    /// The last work of streams that were destroyed before it was done, and whether they were blocking ones.
    leaving: Mutex<Vec<(bool, Arc<Ticket>)>>,
    pub limits: Mutex<[usize; 7]>,
    pub cache: AtomicU32,
    destroyed: AtomicBool,
    fault: AtomicI32,
    fault_code: OnceLock<Code>,
}

impl Context {
    fn new(device: &'static Device, flags: u32, primary: bool) -> Result<Arc<Self>, Code> {
        let d = driver()?;
        let c = Arc::new(Self {
            id: fresh(),
            primary,
            device,
            flags: AtomicU32::new(flags),
            memory: device.memory.clone(),
            allocations: Mutex::default(),
            order: Mutex::new(()),
            legacy: OnceLock::new(),
            per_thread: Mutex::default(),
            leaving: Mutex::default(),
            limits: Mutex::new([1024, 1 << 20, 8 << 20, 2, 2048, 128, 0]),
            cache: AtomicU32::new(0),
            destroyed: AtomicBool::new(false),
            fault: AtomicI32::new(0),
            fault_code: OnceLock::new(),
        });
        let _ = c.legacy.set(Stream::new(&c, true, 0, true));
        d.contexts.insert(c.id, c.clone());
        Ok(c)
    }
    /// Error unless it may be used.
    pub fn usable(&self) -> Result<(), Code> {
        if self.destroyed.load(Ordering::Acquire) {
            return Err(Code::ContextIsDestroyed);
        }
        self.fault_code.get().map_or(Ok(()), |c| Err(*c))
    }
    /// A fault: every later call fails with it.
    pub fn fail(&self, code: Code) {
        let _ = self.fault_code.set(code);
        self.fault.store(code as i32, Ordering::Release);
    }
    /// Does a piece of work, unless the context is lost.
    pub fn run(&self, work: &Work) {
        if self.fault.load(Ordering::Acquire) != 0 {
            return;
        }
        if let Err(code) = work.run(self) {
            self.fail(code);
        }
    }
    /// Whether a range lies in one allocation. Host memory that is not known to us counts unless `device`.
    pub fn reaches(&self, address: u64, bytes: u64, device: bool) -> bool {
        let memory = driver().ok().and_then(|d| d.holding(address));
        if let Some((first, size)) = memory.unwrap_or(&self.memory).find(address) {
            return bytes <= size - (address - first);
        }
        match self.holder(address) {
            Some((first, a)) => bytes <= a.bytes - (address - first),
            None => !device && memory.is_none(),
        }
    }
    /// The allocation of this context that holds an address.
    pub fn holder(&self, address: u64) -> Option<(u64, Allocation)> {
        let t = lock(&self.allocations);
        let (first, a) = t.range(..=address).next_back()?;
        (address - first < a.bytes.max(1)).then_some((*first, *a))
    }
    /// Frees device memory.
    pub fn release(&self, address: u64) -> Result<(), Code> {
        lock(&self.allocations).remove(&address);
        self.memory.free(address)
    }
    /// Streams of this context, the default ones too.
    pub fn streams(self: &Arc<Self>) -> Vec<Arc<Stream>> {
        let mine = driver().map(|d| d.streams.all()).unwrap_or_default();
        let mut all: Vec<_> = mine.into_iter().filter(|s| s.context.as_ptr() == Arc::as_ptr(self)).collect();
        all.extend(self.legacy.get().cloned());
        all.extend(lock(&self.per_thread).values().cloned());
        all
    }
    /// Takes leave of a stream: what is queued is still done, and waited for with the rest.
    pub fn leave(&self, stream: &Stream) {
        let mut leaving = lock(&self.leaving);
        leaving.retain(|(_, t)| !t.done());
        leaving.extend(stream.queue.last().map(|t| (stream.blocking, t)));
        stream.queue.close();
    }
    /// The last work of every stream, destroyed ones included; only of blocking streams if asked.
    pub fn pending(self: &Arc<Self>, blocking: bool) -> Vec<Arc<Ticket>> {
        // Streams first: one that leaves in between is then seen twice, not missed.
        let streams = self.streams();
        let mut last: Vec<_> =
            streams.iter().filter(|s| s.blocking || !blocking).filter_map(|s| s.queue.last()).collect();
        last.extend(lock(&self.leaving).iter().filter(|(b, _)| *b || !blocking).map(|(_, t)| t.clone()));
        last
    }
    /// Waits until everything that was asked for is done.
    pub fn drain(self: &Arc<Self>) {
        self.pending(false).iter().for_each(|t| t.wait());
    }
    fn destroy(self: &Arc<Self>) {
        self.drain();
        self.destroyed.store(true, Ordering::Release);
        let Ok(d) = driver() else { return };
        for s in self.streams() {
            s.queue.close();
        }
        let mine = |c: &Weak<Context>| c.as_ptr() == Arc::as_ptr(self);
        d.streams.retain(|s| !mine(&s.context));
        d.events.retain(|e| !mine(&e.context));
        d.functions.retain(|f| !mine(&f.module.context));
        d.modules.retain(|m| !mine(&m.context));
        d.contexts.take(self.id as Handle);
        let left = std::mem::take(&mut *lock(&self.allocations));
        for (address, a) in left {
            match a.kind {
                Kind::Registered => super::memory::unregister(address),
                Kind::Variable => (),
                Kind::Host => super::memory::free_host(address, a.bytes),
                Kind::Device | Kind::Managed => drop(self.memory.free(address)),
            }
        }
    }
    /// The queue of a new stream.
    pub fn queue(self: &Arc<Self>, salt: usize) -> Arc<Queue> {
        Queue::new(Arc::downgrade(self), salt as u64)
    }
}

/// A context by handle.
pub(crate) fn by_handle(h: Handle) -> Result<Arc<Context>, Code> {
    let table: &Table<Context> = &driver()?.contexts;
    table.get(h).ok_or(Code::InvalidContext)
}
/// The handle's context, or the current one for null.
fn or_current(h: Handle) -> Result<Arc<Context>, Code> {
    if h.is_null() { context() } else { by_handle(h) }
}
fn create(out: *mut Handle, flags: u32, ordinal: i32) -> Result<(), Code> {
    let d = device(ordinal)?;
    if flags & !0x1ff != 0 {
        return Err(Code::InvalidValue);
    }
    let c = Context::new(d, flags, false)?;
    put(out, c.id as Handle)?;
    push(c);
    Ok(())
}

api! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Code::InvalidValue);
        }
        init().map(drop)
    }
    fn cuDevicePrimaryCtxRetain(out: *mut Handle, dev: i32) {
        let d = device(dev)?;
        let mut p = lock(&d.primary);
        if p.0.is_none() {
            p.0 = Some(Context::new(d, p.2, true)?);
        }
        p.1 += 1;
        put(out, p.0.as_ref().map_or(0, |c| c.id) as Handle)
    }
    fn cuDevicePrimaryCtxRelease_v2(dev: i32) {
        let mut p = lock(&device(dev)?.primary);
        if p.1 == 0 {
            return Err(Code::InvalidContext);
        }
        p.1 -= 1;
        let gone = if p.1 == 0 { p.0.take() } else { None };
        drop(p);
        if let Some(c) = gone {
            c.destroy();
        }
        Ok(())
    }
    fn cuDevicePrimaryCtxReset_v2(dev: i32) {
        let gone = lock(&device(dev)?.primary).0.take();
        if let Some(c) = gone {
            c.destroy();
        }
        lock(&device(dev)?.primary).1 = 0;
        Ok(())
    }
    fn cuDevicePrimaryCtxSetFlags_v2(dev: i32, flags: u32) {
        let d = device(dev)?;
        if flags & !0x1ff != 0 {
            return Err(Code::InvalidValue);
        }
        let mut p = lock(&d.primary);
        p.2 = flags;
        if let Some(c) = &p.0 {
            c.flags.store(flags, Ordering::Relaxed);
        }
        Ok(())
    }
    fn cuDevicePrimaryCtxGetState(dev: i32, flags: *mut u32, active: *mut i32) {
        let p = lock(&device(dev)?.primary);
        put(flags, p.2)?;
        put(active, p.0.is_some() as i32)
    }
    fn cuCtxCreate_v2(out: *mut Handle, flags: u32, dev: i32) {
        create(out, flags, dev)
    }
    fn cuCtxCreate_v3(out: *mut Handle, _affinity: Handle, n: i32, flags: u32, dev: i32) {
        if n != 0 {
            return Err(Code::NotSupported);
        }
        create(out, flags, dev)
    }
    fn cuCtxCreate_v4(out: *mut Handle, params: Handle, flags: u32, dev: i32) {
        if !params.is_null() {
            return Err(Code::NotSupported);
        }
        create(out, flags, dev)
    }
    fn cuCtxDestroy_v2(h: Handle) {
        let c = by_handle(h)?;
        if c.primary {
            return Err(Code::InvalidContext);
        }
        c.destroy();
        if current().is_some_and(|x| Arc::ptr_eq(&x, &c)) {
            pop();
        }
        Ok(())
    }
    fn cuCtxPushCurrent_v2(h: Handle) {
        push(by_handle(h)?);
        Ok(())
    }
    fn cuCtxPopCurrent_v2(out: *mut Handle) {
        driver()?;
        let c = pop().ok_or(Code::InvalidContext)?;
        put_some(out, c.id as Handle);
        Ok(())
    }
    fn cuCtxSetCurrent(h: Handle) {
        driver()?;
        let c = if h.is_null() { None } else { Some(by_handle(h)?) };
        pop();
        if let Some(_c) = c { push(_c) }
        Ok(())
    }
    fn cuCtxGetCurrent(out: *mut Handle) {
        driver()?;
        put(out, current().map_or(0, |c| c.id) as Handle)
    }
    fn cuCtxGetDevice(out: *mut i32) {
        put(out, context()?.device.ordinal)
    }
    fn cuCtxGetDevice_v2(out: *mut i32, h: Handle) {
        put(out, or_current(h)?.device.ordinal)
    }
    fn cuCtxGetId(h: Handle, out: *mut u64) {
        put(out, or_current(h)?.id as u64)
    }
    fn cuCtxGetApiVersion(h: Handle, out: *mut u32) {
        or_current(h)?;
        put(out, 4)
    }
    fn cuCtxGetFlags(out: *mut u32) {
        put(out, context()?.flags.load(Ordering::Relaxed))
    }
    fn cuCtxSetFlags(flags: u32) {
        if flags & !0x1ff != 0 {
            return Err(Code::InvalidValue);
        }
        context()?.flags.store(flags, Ordering::Relaxed);
        Ok(())
    }
    fn cuCtxSynchronize() {
        let c = context()?;
        super::capture::forbid_sync(&c)?;
        c.drain();
        driver()?.log.synchronized();
        c.usable()
    }
    fn cuCtxSynchronize_v2(h: Handle) {
        let c = or_current(h)?;
        super::capture::forbid_sync(&c)?;
        c.drain();
        driver()?.log.synchronized();
        c.usable()
    }
    fn cuCtxGetLimit(out: *mut usize, limit: u32) {
        let c = context()?;
        let l = lock(&c.limits);
        put(out, *l.get(limit as usize).ok_or(Code::UnsupportedLimit)?)
    }
    fn cuCtxSetLimit(limit: u32, value: usize) {
        let c = context()?;
        *lock(&c.limits).get_mut(limit as usize).ok_or(Code::UnsupportedLimit)? = value;
        Ok(())
    }
    fn cuCtxGetCacheConfig(out: *mut u32) {
        put(out, context()?.cache.load(Ordering::Relaxed))
    }
    fn cuCtxSetCacheConfig(config: u32) {
        if config > 3 {
            return Err(Code::InvalidValue);
        }
        context()?.cache.store(config, Ordering::Relaxed);
        Ok(())
    }
    fn cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) {
        context()?;
        put_some(least, 0);
        put_some(greatest, -5);
        Ok(())
    }
    fn cuCtxResetPersistingL2Cache() {
        context().map(drop)
    }
    fn cuCtxEnablePeerAccess(peer: Handle, _flags: u32) {
        context()?;
        by_handle(peer)?;
        Err(Code::PeerAccessUnsupported)
    }
    fn cuCtxDisablePeerAccess(peer: Handle) {
        context()?;
        by_handle(peer)?;
        Err(Code::PeerAccessUnsupported)
    }
    fn cuCtxGetSharedMemConfig(out: *mut u32) {
        context()?;
        // Banks of four bytes, whatever is asked for.
        put(out, 1)
    }
    fn cuCtxSetSharedMemConfig(config: u32) {
        context()?;
        if config > 2 { Err(Code::InvalidValue) } else { Ok(()) }
    }
    fn cuProfilerStart() {
        context().map(drop)
    }
    fn cuProfilerStop() {
        context().map(drop)
    }
}
