//! What streams and graphs do: kernels, copies, fills, host functions, frees, whole graphs.

use super::context::Context;
use super::event::Event;
use super::function::Function;
use super::graph::Frozen;
use super::state::driver;
use crate::error::Code;
use crate::exec::launch::Launch;
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::Arc;

/// A piece of work.
#[derive(Clone)]
pub(crate) enum Work {
    Kernel(Arc<Kernel>),
    Copy(Copy),
    Fill(Fill),
    Host(HostCall),
    /// Frees memory in stream order.
    Free(u64),
    Graph(Arc<Frozen>),
    /// Records an event where a graph says so.
    Record(Arc<Event>),
    /// Waits for an event where a graph says so.
    Wait(Arc<Event>),
    Callback(Callback),
    /// A place in the order (events, joins).
    Nothing,
}

/// A kernel launch whose geometry was checked.
#[derive(Clone)]
pub(crate) struct Kernel {
    pub function: Arc<Function>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub params: Vec<u8>,
    pub cooperative: bool,
}

/// A copy of `depth` slices of `height` rows of `width` bytes. A linear copy has one row.
#[derive(Clone)]
pub(crate) struct Copy {
    pub to: Place,
    pub from: Place,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
    /// What pageable memory held when the copy was asked for.
    pub staged: Option<Arc<Vec<u8>>>,
}
/// One side of a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub address: u64,
    /// Bytes from row to row and from slice to slice.
    pub pitch: usize,
    pub slice: usize,
    /// Whether it must be memory that the device reaches.
    pub device: bool,
}

/// Rows of equal elements.
#[derive(Clone)]
pub(crate) struct Fill {
    pub address: u64,
    pub pitch: usize,
    pub value: u32,
    /// 1, 2 or 4 bytes.
    pub element: usize,
    /// Elements of a row.
    pub width: usize,
    pub height: usize,
}

/// `cuLaunchHostFunc`.
#[derive(Clone)]
pub(crate) struct HostCall {
    pub function: unsafe extern "C" fn(*mut c_void),
    pub data: *mut c_void,
}
// SAFETY: the caller of cuLaunchHostFunc hands the pointer to another thread on purpose.
unsafe impl Send for HostCall {}
// SAFETY: as above.
unsafe impl Sync for HostCall {}

/// `cuStreamAddCallback`.
#[derive(Clone)]
pub(crate) struct Callback {
    pub function: unsafe extern "C" fn(*mut c_void, u32, *mut c_void),
    pub stream: *mut c_void,
    pub data: *mut c_void,
}
// SAFETY: as of a host function.
unsafe impl Send for Callback {}
// SAFETY: as above.
unsafe impl Sync for Callback {}

thread_local! {
    /// Whether this thread is inside a host function, where API calls are not permitted.
    pub(crate) static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

impl Place {
    /// Bytes from the first to the last that a box of this size touches.
    fn extent(&self, width: usize, height: usize, depth: usize) -> Option<u64> {
        if width == 0 || height == 0 || depth == 0 {
            return Some(0);
        }
        let rows = self.pitch.checked_mul(height - 1)?;
        let slices = self.slice.checked_mul(depth - 1)?;
        u64::try_from(rows.checked_add(slices)?.checked_add(width)?).ok()
    }
}

impl Copy {
    /// One row.
    pub fn linear(to: Place, from: Place, bytes: usize) -> Self {
        Self { to, from, width: bytes, height: 1, depth: 1, staged: None }
    }
    /// Whether both sides are there.
    pub fn check(&self, c: &Context) -> Result<(), Code> {
        for p in [&self.to, &self.from] {
            let bytes = p.extent(self.width, self.height, self.depth).ok_or(Code::InvalidValue)?;
            if bytes > 0 && (p.address == 0 || !c.reaches(p.address, bytes, p.device)) {
                return Err(Code::InvalidValue);
            }
        }
        Ok(())
    }
    /// Keeps what the source holds now.
    pub fn stage(&mut self) {
        let (mut held, mut packed) = (Vec::with_capacity(self.width * self.height * self.depth), self.from);
        (packed.pitch, packed.slice) = (self.width, self.width * self.height);
        for z in 0..self.depth {
            for y in 0..self.height {
                let at = self.from.address as usize + z * self.from.slice + y * self.from.pitch;
                // SAFETY: the caller of the copy says that these host bytes can be read.
                held.extend_from_slice(unsafe { std::slice::from_raw_parts(at as *const u8, self.width) });
            }
        }
        packed.address = held.as_ptr() as u64;
        packed.device = false;
        (self.from, self.staged) = (packed, Some(Arc::new(held)));
    }
    fn run(&self, c: &Context) -> Result<(), Code> {
        self.check(c).map_err(|_| Code::IllegalAddress)?;
        let d = driver()?;
        let memory = |at: usize| d.holding(at as u64).map(|m| &**m);
        for z in 0..self.depth {
            for y in 0..self.height {
                let at = |p: &Place| p.address as usize + z * p.slice + y * p.pitch;
                let (to, from) = (at(&self.to), at(&self.from));
                // SAFETY: device ranges lie inside allocations (checked above); host ranges are the caller's promise.
                unsafe { std::ptr::copy(from as *const u8, to as *mut u8, self.width) };
                crate::memory::copied(memory(to), memory(from), to as u64, from as u64, self.width as u64);
            }
        }
        Ok(())
    }
}

impl Fill {
    /// Whether the memory is there.
    pub fn check(&self, c: &Context) -> Result<(), Code> {
        let width = self.width.checked_mul(self.element).ok_or(Code::InvalidValue)?;
        let bytes = Place { address: self.address, pitch: self.pitch, slice: 0, device: true }
            .extent(width, self.height, 1)
            .ok_or(Code::InvalidValue)?;
        let aligned = self.address.is_multiple_of(self.element as u64)
            && (self.height < 2 || self.pitch.is_multiple_of(self.element) && self.pitch >= width);
        if !aligned || bytes > 0 && !c.reaches(self.address, bytes, true) {
            return Err(Code::InvalidValue);
        }
        Ok(())
    }
    fn run(&self, c: &Context) -> Result<(), Code> {
        self.check(c).map_err(|_| Code::IllegalAddress)?;
        for y in 0..self.height {
            let at = self.address as usize + y * self.pitch;
            // SAFETY: the rows lie inside an allocation (checked above) and are aligned to the element.
            unsafe {
                match self.element {
                    1 => std::ptr::write_bytes(at as *mut u8, self.value as u8, self.width),
                    2 => std::slice::from_raw_parts_mut(at as *mut u16, self.width).fill(self.value as u16),
                    _ => std::slice::from_raw_parts_mut(at as *mut u32, self.width).fill(self.value),
                }
            }
            if let Some(m) = driver()?.holding(at as u64) {
                m.written(at as u64, (self.width * self.element) as u64);
            }
        }
        Ok(())
    }
}

impl Kernel {
    fn run(&self, c: &Context) -> Result<(), Code> {
        let d = driver()?;
        let options = d.options();
        let f = &self.function;
        let launch = Launch {
            program: &f.module.program,
            kernel: f.index,
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            params: self.params.clone(),
            cooperative: self.cooperative,
            workspace: 0,
            memory: &c.memory,
            gpu: &c.device.gpu,
            options: &options,
        };
        let report = launch.run();
        let fault = report.fault.as_ref().map(|(_, f)| f.code);
        d.log.launched(self, report, &c.device.gpu);
        fault.map_or(Ok(()), Err)
    }
}

impl Work {
    /// Does it.
    pub fn run(&self, c: &Context) -> Result<(), Code> {
        match self {
            Self::Kernel(k) => k.run(c),
            Self::Copy(x) => x.run(c),
            Self::Fill(x) => x.run(c),
            Self::Host(h) => {
                IN_HOST_FUNCTION.set(true);
                // SAFETY: the caller of cuLaunchHostFunc says that it may be called with its data.
                unsafe { (h.function)(h.data) };
                IN_HOST_FUNCTION.set(false);
                Ok(())
            }
            Self::Callback(x) => {
                IN_HOST_FUNCTION.set(true);
                // SAFETY: as of a host function.
                unsafe { (x.function)(x.stream, 0, x.data) };
                IN_HOST_FUNCTION.set(false);
                Ok(())
            }
            Self::Record(e) => {
                e.recorded();
                Ok(())
            }
            Self::Wait(e) => {
                e.wait();
                Ok(())
            }
            Self::Free(address) => c.release(*address),
            Self::Graph(g) => g.run(c),
            Self::Nothing => Ok(()),
        }
    }
}
