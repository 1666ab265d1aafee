//! Memory of the device, and page-locked memory of the host that it copies from and to.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard};

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::{self, CUresult};

use super::driver::check;
use super::gpu::Gpu;
use super::graph;
use super::stream::{Event, Stream};
use crate::error::{Error, Result};

/// Address of a `T` in device memory, as kernels take it.
#[repr(transparent)]
#[derive(Debug, PartialEq, Eq)]
pub struct DevicePtr<T>(u64, PhantomData<T>);

impl<T> Clone for DevicePtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for DevicePtr<T> {}
// SAFETY: a number and nothing else.
unsafe impl<T: Pod> Zeroable for DevicePtr<T> {}
// SAFETY: as above; transparent, without padding.
unsafe impl<T: Pod> Pod for DevicePtr<T> {}

impl<T> DevicePtr<T> {
    /// No address: what a kernel takes for "not there".
    pub const NULL: Self = Self(0, PhantomData);
    /// The address `elements` further.
    pub fn at(self, elements: usize) -> Self {
        Self(self.0 + (elements * size_of::<T>()) as u64, PhantomData)
    }
    /// The address as a number.
    pub fn address(self) -> u64 {
        self.0
    }
}

/// An allocation.
pub(super) struct Memory {
    gpu: Gpu,
    at: u64,
}

impl Memory {
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Self> {
        gpu.bind()?;
        let mut at = 0;
        // SAFETY: the pointer is to a local; `drop` frees what is allocated here.
        match unsafe { sys::cuMemAlloc_v2(&mut at, bytes.max(1)) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = gpu.memory()?;
                let [asked, free, total] = [bytes, free, total].map(size);
                let device = format!("cuda:{} ({})", gpu.ordinal(), gpu.name());
                let hint = "end what else runs on it, or take a smaller batch or model".into();
                Err(Error::DeviceMemory { device, asked, free, total, hint })
            }
            code => {
                check(code, || format!("allocating {}", size(bytes))).map(|()| Self { gpu: gpu.clone(), at })
            }
        }
    }
    /// No memory.
    pub fn none(gpu: &Gpu) -> Self {
        Self { gpu: gpu.clone(), at: 0 }
    }
}

/// Bytes in words.
pub fn size(bytes: usize) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} bytes"),
        10_000..=999_999_999 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.at != 0 && self.gpu.bind().is_ok() {
            // SAFETY: allocated in `new`, freed once; the driver waits for work that uses it.
            unsafe { sys::cuMemFree_v2(self.at) };
        }
    }
}

/// Elements in device memory. Holds its allocation, which an arena shares among many. Clones are the same memory.
#[derive(Clone)]
pub struct Buffer<T> {
    memory: Arc<Memory>,
    ptr: DevicePtr<T>,
    len: usize,
}

impl<T: Pod> Buffer<T> {
    pub(super) fn new(memory: Arc<Memory>, offset: usize, len: usize) -> Self {
        let ptr = DevicePtr(memory.at + offset as u64, PhantomData);
        Self { memory, ptr, len }
    }
    /// Elements.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }
    /// Address of the first.
    pub fn ptr(&self) -> DevicePtr<T> {
        self.ptr
    }
    fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
    /// Errors: another length than an op wants of this tensor.
    pub fn expect(&self, op: &'static str, tensor: &'static str, len: usize) -> Result<()> {
        if self.len == len {
            return Ok(());
        }
        let [wanted, got] = [len, self.len].map(|n| format!("{n} elements of {} bytes", size_of::<T>()));
        Err(Error::Shape { op, tensor, wanted, got })
    }
    /// Elements `from..from + len` as a buffer of their own.
    pub fn part(&self, from: usize, len: usize) -> Result<Self> {
        if from.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::usage(format!(
                "{len} elements from {from} on are not in a buffer of {}",
                self.len
            )));
        }
        Ok(Self { memory: self.memory.clone(), ptr: self.ptr.at(from), len })
    }
    /// The same memory as elements of another type. Errors: bytes that are no whole number of them, or badly aligned.
    pub fn cast<U: Pod>(&self) -> Result<Buffer<U>> {
        let (bytes, to) = (self.bytes(), size_of::<U>());
        if to == 0 || !bytes.is_multiple_of(to) || !self.ptr.0.is_multiple_of(align_of::<U>() as u64) {
            return Err(Error::usage(format!("{bytes} bytes on the device are no elements of {to}")));
        }
        Ok(Buffer { memory: self.memory.clone(), ptr: DevicePtr(self.ptr.0, PhantomData), len: bytes / to })
    }
    /// Copies from `data`, which must be as long, and waits for it.
    pub fn upload(&self, stream: &Stream, data: &[T]) -> Result<()> {
        self.fits(data.len(), "upload")?;
        if self.len == 0 {
            return Ok(());
        }
        self.memory.gpu.bind()?;
        // SAFETY: `data` has this many bytes and lives until the stream has been waited for.
        let code = unsafe {
            sys::cuMemcpyHtoDAsync_v2(self.ptr.0, data.as_ptr().cast(), self.bytes(), stream.raw())
        };
        check(code, || format!("copying {} to the device", size(self.bytes())))?;
        stream.synchronize()
    }
    /// What is in it when the stream gets there. Waits for it.
    pub fn download(&self, stream: &Stream) -> Result<Vec<T>> {
        let mut data = vec![T::zeroed(); self.len];
        if self.len == 0 {
            return Ok(data);
        }
        self.memory.gpu.bind()?;
        // SAFETY: `data` has this many bytes and lives until the stream has been waited for.
        let code = unsafe {
            sys::cuMemcpyDtoHAsync_v2(data.as_mut_ptr().cast(), self.ptr.0, self.bytes(), stream.raw())
        };
        let queued = check(code, || format!("copying {} from the device", size(self.bytes())));
        // Also when queueing failed: `data` may not go while anything writes to it.
        stream.synchronize().and(queued).map(|()| data)
    }
    /// Queues setting every byte.
    pub fn fill(&self, stream: &Stream, byte: u8) -> Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        self.memory.gpu.bind()?;
        // SAFETY: the buffer has this many bytes of device memory.
        let code = unsafe { sys::cuMemsetD8Async(self.ptr.0, byte, self.bytes(), stream.raw()) };
        check(code, || format!("filling {}", size(self.bytes())))
    }
    fn fits(&self, len: usize, what: &str) -> Result<()> {
        match len == self.len {
            true => Ok(()),
            false => Err(Error::usage(format!("{what}: {len} elements and a buffer of {}", self.len))),
        }
    }
}

/// One allocation that buffers are taken from, each aligned to 256 bytes. See [`Gpu::arena`].
pub struct Arena {
    memory: Arc<Memory>,
    used: usize,
}

impl Arena {
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        Self { memory, used: 0 }
    }
    /// `len` elements that nobody wrote.
    pub fn take<T: Pod>(&mut self, len: usize) -> Buffer<T> {
        let buffer = Buffer::new(self.memory.clone(), self.used, len);
        self.used += (len * size_of::<T>()).next_multiple_of(256);
        buffer
    }
    /// Bytes taken so far.
    pub fn used(&self) -> usize {
        self.used
    }
}

/// Page-locked host memory with the copies that are under way.
pub(super) struct HostMemory {
    gpu: Gpu,
    at: *mut u8,
    /// The last copy from or to it.
    busy: Mutex<Option<Arc<Event>>>,
}

// SAFETY: memory that its mutex guards.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Event>>> {
        self.busy.lock().unwrap_or_else(|e| e.into_inner())
    }
    fn key(self: &Arc<Self>) -> *const Self {
        Arc::as_ptr(self)
    }
    /// Runs `queue`, which puts copies from or to all of `memories` into `stream`, after those that are under way.
    pub fn used(memories: &[Arc<Self>], stream: &Stream, queue: impl FnOnce() -> Result<()>) -> Result<()> {
        // In one order everywhere, each once: no two threads wait for each other.
        let mut sorted: Vec<_> = memories.iter().collect();
        sorted.sort_by_key(|m| m.key());
        sorted.dedup_by_key(|m| m.key());
        let mut locked: Vec<_> = sorted.iter().map(|m| m.lock()).collect();
        locked.iter().filter_map(|l| l.as_ref()).try_for_each(|e| stream.wait(e))?;
        queue()?;
        if !locked.is_empty() {
            let event = Arc::new(Event::new(stream.gpu(), false)?);
            stream.record(&event)?;
            locked.iter_mut().for_each(|l| **l = Some(event.clone()));
        }
        Ok(())
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        let idle = self.lock().take().is_none_or(|e| e.synchronize().is_ok());
        if idle && self.gpu.bind().is_ok() {
            // SAFETY: allocated in `Pinned::new`, freed once, and no copy is under way.
            unsafe { sys::cuMemFreeHost(self.at.cast()) };
        }
    }
}

/// Elements in page-locked host memory: copies from and to it go on while the host does something else.
pub struct Pinned<T> {
    memory: Arc<HostMemory>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Pod> Pinned<T> {
    pub(super) fn new(gpu: &Gpu, len: usize) -> Result<Self> {
        gpu.bind()?;
        let bytes = len.saturating_mul(size_of::<T>()).max(1);
        let mut at = std::ptr::null_mut();
        // SAFETY: the pointer is to a local; without flags the memory is cached, so that the host reads it fast.
        let code = unsafe { sys::cuMemHostAlloc(&mut at, bytes, 0) };
        check(code, || format!("page-locking {} of host memory", size(bytes)))?;
        // SAFETY: just allocated, of this size.
        unsafe { at.cast::<u8>().write_bytes(0, bytes) };
        let memory = HostMemory { gpu: gpu.clone(), at: at.cast(), busy: Mutex::default() };
        Ok(Self { memory: Arc::new(memory), len, of: PhantomData })
    }
    /// Elements.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }
    /// Gives its elements to `f`, once no copy is under way; until `f` is done none begins.
    pub fn with<R>(&self, f: impl FnOnce(&mut [T]) -> R) -> Result<R> {
        let mut busy = self.memory.lock();
        if let Some(e) = busy.take() {
            e.synchronize()?;
        }
        // SAFETY: page-aligned memory of `len` elements; no copy is under way, and who would begin one or take another
        // reference waits for the lock.
        Ok(f(unsafe { std::slice::from_raw_parts_mut(self.memory.at.cast(), self.len) }))
    }
    /// Queues a copy to the device.
    pub fn send(&self, stream: &Stream, to: &Buffer<T>) -> Result<()> {
        to.fits(self.len, "send")?;
        self.queue(stream, || {
            // SAFETY: both have this many bytes; the host's live until the copy is done, see `HostMemory::used`.
            let code = unsafe {
                sys::cuMemcpyHtoDAsync_v2(to.ptr.0, self.memory.at.cast(), to.bytes(), stream.raw())
            };
            check(code, || format!("copying {} to the device", size(to.bytes())))
        })
    }
    /// Queues a copy from the device.
    pub fn receive(&self, stream: &Stream, from: &Buffer<T>) -> Result<()> {
        from.fits(self.len, "receive")?;
        self.queue(stream, || {
            // SAFETY: as in `send`.
            let code = unsafe {
                sys::cuMemcpyDtoHAsync_v2(self.memory.at.cast(), from.ptr.0, from.bytes(), stream.raw())
            };
            check(code, || format!("copying {} from the device", size(from.bytes())))
        })
    }
    fn queue(&self, stream: &Stream, copy: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        self.memory.gpu.bind()?;
        if stream.is_capturing()? {
            // The graph's launches will use it.
            graph::captured(&self.memory);
            return copy();
        }
        HostMemory::used(std::slice::from_ref(&self.memory), stream, copy)
    }
}
