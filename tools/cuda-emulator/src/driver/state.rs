//! What the driver keeps: the device, tables of handles, the context of each thread.

use super::Handle;
use super::capture::Capture;
use super::context::Context;
use super::event::Event;
use super::function::Function;
use super::graph::{Exec, Graph, NodeRef};
use super::module::Module;
use super::pool::Pool;
use super::report::Log;
use super::stream::Stream;
use super::user_object::UserObject;
use crate::error::Code;
use crate::gpu::Gpu;
use crate::memory::Memory;
use crate::options::Options;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

/// Locks, whatever happened to the thread that held it: data behind our locks is whole between statements.
pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Objects by handle. Numbers are unique over all tables and never used again.
pub(crate) struct Table<T>(Mutex<HashMap<usize, Arc<T>>>);
impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
static NEXT: AtomicUsize = AtomicUsize::new(1);
/// A number for a handle that no object has had.
pub(crate) fn fresh() -> usize {
    0x10_0000 + 16 * NEXT.fetch_add(1, Ordering::Relaxed)
}
impl<T> Table<T> {
    pub fn insert(&self, id: usize, x: Arc<T>) -> Handle {
        lock(&self.0).insert(id, x);
        id as Handle
    }
    pub fn get(&self, h: Handle) -> Option<Arc<T>> {
        lock(&self.0).get(&(h as usize)).cloned()
    }
    pub fn take(&self, h: Handle) -> Option<Arc<T>> {
        lock(&self.0).remove(&(h as usize))
    }
    pub fn all(&self) -> Vec<Arc<T>> {
        lock(&self.0).values().cloned().collect()
    }
    pub fn retain(&self, keep: impl Fn(&T) -> bool) {
        let gone: Vec<Arc<T>> = {
            let mut t = lock(&self.0);
            let ids: Vec<usize> = t.iter().filter(|(_, x)| !keep(x)).map(|(i, _)| *i).collect();
            ids.iter().filter_map(|i| t.remove(i)).collect()
        };
        drop(gone);
    }
}

static SETTINGS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
/// A setting: what [`set`] gave it, or else the environment.
pub(crate) fn setting(name: &str) -> Option<String> {
    lock(&SETTINGS).get(name).cloned().or_else(|| std::env::var(name).ok())
}
/// Changes a setting for this process: the GPU, the checkers and the report before `cuInit`, the rest at any time.
pub(crate) fn set(name: String, value: String) -> Result<(), Code> {
    let with = |n: &str| if n == name { Some(value.clone()) } else { setting(n) };
    let new = Options::read(with).map_err(|_| Code::InvalidValue)?;
    let d = driver();
    if d.is_ok_and(|d| new.checks() && !d.options().checks()) {
        return Err(Code::IllegalState);
    }
    lock(&SETTINGS).insert(name, value);
    let Ok(d) = d else { return Ok(()) };
    *d.options.write().unwrap_or_else(PoisonError::into_inner) = new;
    Ok(())
}

/// One device.
pub(crate) struct Device {
    pub ordinal: i32,
    pub gpu: Gpu,
    pub memory: Arc<Memory>,
    /// The primary context, how often it is retained, its flags.
    pub primary: Mutex<(Option<Arc<Context>>, u32, u32)>,
}

/// Everything.
pub(crate) struct Driver {
    pub devices: Vec<Device>,
    pub options: RwLock<Options>,
    pub contexts: Table<Context>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub modules: Table<Module>,
    pub functions: Table<Function>,
    pub graphs: Table<Graph>,
    pub nodes: Table<NodeRef>,
    pub execs: Table<Exec>,
    pub pools: Table<Pool>,
    /// Graphs of child nodes, which own them.
    pub children: Table<std::sync::Weak<Graph>>,
    pub objects: Table<UserObject>,
    pub captures: Mutex<Vec<Arc<Capture>>>,
    pub log: Log,
}

static DRIVER: OnceLock<Result<Driver, Code>> = OnceLock::new();

impl Driver {
    fn new() -> Result<Self, (Code, String)> {
        let options = Options::read(setting).map_err(|e| (Code::InvalidValue, e))?;
        let mut devices = Vec::new();
        let less = setting("INP_EMULATED_MEMORY").filter(|v| !v.is_empty()).map(|v| {
            let bytes = v.parse().ok().filter(|b| *b > 0);
            bytes.ok_or_else(|| {
                (Code::InvalidValue, format!("INP_EMULATED_MEMORY: \"{v}\" is no number of bytes"))
            })
        });
        let less = less.transpose()?;
        for (mut gpu, ordinal) in
            Gpu::chosen(setting("INP_EMULATED_GPU")).map_err(|e| (Code::NoDevice, e))?.into_iter().zip(0..)
        {
            gpu.memory = less.unwrap_or(gpu.memory);
            let memory = Memory::new(gpu.memory).map_err(|c| {
                (c, format!("the addresses of {} bytes of device memory cannot be reserved", gpu.memory))
            })?;
            if options.checks() {
                memory.watch().map_err(|c| (c, "the checkers' memory cannot be reserved".to_owned()))?;
            }
            devices.push(Device { ordinal, gpu, memory: Arc::new(memory), primary: Mutex::default() });
        }
        Ok(Self {
            log: Log::new(),
            devices,
            options: RwLock::new(options),
            contexts: Table::default(),
            streams: Table::default(),
            events: Table::default(),
            modules: Table::default(),
            functions: Table::default(),
            graphs: Table::default(),
            nodes: Table::default(),
            execs: Table::default(),
            pools: Table::default(),
            children: Table::default(),
            objects: Table::default(),
            captures: Mutex::default(),
        })
    }
    /// Memory of the device that an address belongs to: addresses are unified.
    pub fn holding(&self, address: u64) -> Option<&Arc<Memory>> {
        self.devices.iter().map(|d| &d.memory).find(|m| m.ours(address))
    }
    /// The options as they are now.
    pub fn options(&self) -> Options {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `cuInit`.
pub(crate) fn init() -> Result<&'static Driver, Code> {
    let made = DRIVER.get_or_init(|| {
        let made = Driver::new();
        made.map_err(|(code, what)| {
            eprintln!("cuda-emulator: {what}");
            code
        })
    });
    made.as_ref().map_err(|c| *c)
}

/// The driver after `cuInit`.
pub(crate) fn driver() -> Result<&'static Driver, Code> {
    DRIVER.get().and_then(|d| d.as_ref().ok()).ok_or(Code::NotInitialized)
}

/// A device by its number.
pub(crate) fn device(ordinal: i32) -> Result<&'static Device, Code> {
    let devices = &driver()?.devices;
    usize::try_from(ordinal).ok().and_then(|i| devices.get(i)).ok_or(Code::InvalidDevice)
}

thread_local! {
    static STACK: RefCell<Vec<Arc<Context>>> = const { RefCell::new(Vec::new()) };
    /// Capture mode of this thread (`cuThreadExchangeStreamCaptureMode`).
    pub(crate) static MODE: Cell<u32> = const { Cell::new(0) };
}

/// The thread's context, whatever its state.
pub(crate) fn current() -> Option<Arc<Context>> {
    STACK.with(|s| s.borrow().last().cloned())
}
/// Puts a context on top of the thread's stack.
pub(crate) fn push(c: Arc<Context>) {
    STACK.with(|s| s.borrow_mut().push(c));
}
/// Takes the top off.
pub(crate) fn pop() -> Option<Arc<Context>> {
    STACK.with(|s| s.borrow_mut().pop())
}

/// The thread's context, alive and without a fault.
pub(crate) fn context() -> Result<Arc<Context>, Code> {
    driver()?;
    if super::work::IN_HOST_FUNCTION.get() {
        return Err(Code::NotPermitted);
    }
    let c = current().ok_or(Code::InvalidContext)?;
    c.usable()?;
    Ok(c)
}
