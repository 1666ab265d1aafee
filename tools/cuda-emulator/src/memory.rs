//! Device memory: one reserved range of addresses, allocations in it, and host memory that the device may reach.
//!
//! A device address is the host address of the byte. Every access is checked against what is mapped, always (as
//! hardware does, by pages); the checkers are exact to the byte.

use crate::check::global::Shadow;
use crate::error::Code;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

/// Bytes of a page: allocations begin on one, and at least one that is not mapped follows each.
pub const PAGE: u64 = 4096;
const SHIFT: u32 = PAGE.trailing_zeros();
/// What fresh memory holds when it is poisoned: a NaN in every float format, −1 in every integer.
pub const POISON: u8 = 0xff;

/// The memory of one device (and the host memory it may reach). Shared by streams and worker threads.
pub struct Memory {
    base: u64,
    /// Bytes of the range: more than the device has, so that freed addresses are not soon given again.
    range: u64,
    capacity: u64,
    /// One for each page of the range: whether it is mapped.
    pages: Region,
    inner: RwLock<Inner>,
    hosts: AtomicBool,
    shadow: OnceLock<Shadow>,
}

#[derive(Default)]
struct Inner {
    /// First address to size.
    live: BTreeMap<u64, u64>,
    freed: BTreeMap<u64, u64>,
    /// Registered host memory.
    hosts: BTreeMap<u64, u64>,
    next: u64,
    used: u64,
}

/// An anonymous mapping.
struct Region(*mut u8, usize);
// SAFETY: plain memory that outlives its users; `pages` is reached as atomics, the arena's bytes as a GPU's memory is.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}
impl Region {
    fn new(bytes: u64, protection: i32) -> Option<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping; nothing else is touched.
        let p = unsafe { libc::mmap(std::ptr::null_mut(), bytes as usize, protection, flags, -1, 0) };
        (p != libc::MAP_FAILED).then(|| Self(p.cast(), bytes as usize))
    }
}
impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped.
        unsafe { libc::munmap(self.0.cast(), self.1) };
    }
}

fn pages(bytes: u64) -> u64 {
    bytes.max(1).div_ceil(PAGE) * PAGE
}

impl Memory {
    /// Reserves the addresses of a device with `bytes` of memory; nothing is touched yet.
    pub fn new(bytes: u64) -> Result<Self, Code> {
        let protection = libc::PROT_NONE;
        let sizes = [bytes.saturating_mul(2), bytes];
        let arena = sizes.iter().find_map(|&b| Region::new(pages(b), protection)).ok_or(Code::OutOfMemory)?;
        let range = arena.1 as u64;
        let table =
            Region::new(range >> SHIFT, libc::PROT_READ | libc::PROT_WRITE).ok_or(Code::OutOfMemory)?;
        let base = arena.0 as u64;
        std::mem::forget(arena); // unmapped by Drop of Memory
        Ok(Self {
            base,
            range,
            capacity: bytes,
            pages: table,
            inner: RwLock::new(Inner { next: base + PAGE, ..Inner::default() }),
            hosts: AtomicBool::new(false),
            shadow: OnceLock::new(),
        })
    }
    fn lock(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
    fn look(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
    #[inline(always)]
    fn page(&self, index: u64) -> &AtomicU8 {
        debug_assert!(index < self.pages.1 as u64);
        // SAFETY: callers pass the index of a page of the range; the table's bytes are reached as atomics only.
        unsafe { &*self.pages.0.add(index as usize).cast::<AtomicU8>() }
    }
    fn map(&self, at: u64, bytes: u64, on: bool) -> Result<(), Code> {
        let (p, n) = (at as *mut libc::c_void, bytes as usize);
        let set = |on: bool| {
            let first = (at - self.base) >> SHIFT;
            (first..first + (bytes >> SHIFT))
                .for_each(|i| self.page(i).store(u8::from(on), Ordering::Release));
        };
        if on {
            // SAFETY: whole pages of the arena that no allocation holds.
            if unsafe { libc::mprotect(p, n, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
                return Err(Code::OutOfMemory);
            }
            set(true);
        } else {
            set(false);
            // SAFETY: whole pages of the arena that were one allocation; what they held is lost on purpose.
            unsafe {
                libc::madvise(p, n, libc::MADV_DONTNEED);
                libc::mprotect(p, n, libc::PROT_NONE);
            }
        }
        Ok(())
    }
    /// Allocates; begins on a page, zeroed. With `poison`, filled with [`POISON`].
    pub fn allocate(&self, bytes: u64, poison: bool) -> Result<u64, Code> {
        if bytes == 0 {
            return Err(Code::InvalidValue);
        }
        if bytes > self.capacity {
            return Err(Code::OutOfMemory);
        }
        let size = pages(bytes);
        let mut inner = self.lock();
        if inner.used + size > self.capacity {
            return Err(Code::OutOfMemory);
        }
        let end = self.base + self.range;
        // Next fit with a page between neighbours; from the start again when the range is used up.
        let fit = |from: u64| {
            let mut at = from;
            let before = inner.live.range(..from).next_back().map_or(at, |(&a, &b)| a + pages(b) + PAGE);
            at = at.max(before);
            for (&a, &b) in inner.live.range(from..) {
                if at + size + PAGE <= a {
                    break;
                }
                at = a + pages(b) + PAGE;
            }
            (at + size + PAGE <= end).then_some(at)
        };
        let at = fit(inner.next).or_else(|| fit(self.base + PAGE)).ok_or(Code::OutOfMemory)?;
        self.map(at, size, true)?;
        inner.next = at + size + PAGE;
        inner.used += size;
        inner.live.insert(at, bytes);
        let stale: Vec<u64> =
            inner.freed.range(..at + size).rev().map_while(|(&a, &b)| (a + b > at).then_some(a)).collect();
        stale.iter().for_each(|a| _ = inner.freed.remove(a));
        if let Some(s) = self.shadow.get() {
            s.forget(at, bytes);
        }
        if poison {
            // SAFETY: these pages were just mapped and nobody else knows them.
            unsafe { std::ptr::write_bytes(at as *mut u8, POISON, bytes as usize) };
        }
        Ok(at)
    }
    /// Frees an allocation by its first address.
    pub fn free(&self, address: u64) -> Result<(), Code> {
        let mut inner = self.lock();
        let bytes = inner.live.remove(&address).ok_or(Code::InvalidValue)?;
        inner.used -= pages(bytes);
        inner.freed.insert(address, bytes);
        if let Some(s) = self.shadow.get() {
            s.freed(address, pages(bytes));
        }
        self.map(address, pages(bytes), false)
    }
    /// The allocation (or registered host range) that holds an address: first byte and size.
    pub fn find(&self, address: u64) -> Option<(u64, u64)> {
        let inner = self.look();
        let map = if self.ours(address) { &inner.live } else { &inner.hosts };
        map.range(..=address).next_back().map(|(&a, &b)| (a, b)).filter(|&(a, b)| address - a < b)
    }
    /// Whether an address is of the device's range.
    #[inline(always)]
    pub fn ours(&self, address: u64) -> bool {
        address.wrapping_sub(self.base) < self.range
    }
    /// Whether an address was in an allocation that was freed.
    pub fn was_freed(&self, address: u64) -> bool {
        let inner = self.look();
        inner.freed.range(..=address).next_back().is_some_and(|(&a, &b)| address - a < b)
    }
    /// What the checkers remember of this memory; `None` until [`Self::watch`].
    pub fn shadow(&self) -> Option<&Shadow> {
        self.shadow.get()
    }
    /// The checkers will want to know what happens here: call it before the first allocation.
    pub fn watch(&self) -> Result<(), Code> {
        if self.shadow.get().is_none() {
            let _ = self.shadow.set(Shadow::new(self.base, self.range)?);
        }
        Ok(())
    }
    /// The host wrote these bytes (copies and fills).
    pub fn written(&self, address: u64, bytes: u64) {
        if let Some(s) = self.shadow.get().filter(|s| s.covers(address)) {
            s.initialise(address, bytes);
        }
    }
    /// Copies host bytes into mapped memory; false when some of it is not.
    pub fn write(&self, address: u64, bytes: &[u8]) -> bool {
        let ok = self.covers(address, bytes.len() as u64);
        if ok {
            // SAFETY: the bytes are mapped; the host's copies race with kernels only as they would on a device.
            unsafe { std::ptr::copy(bytes.as_ptr(), address as *mut u8, bytes.len()) };
            self.written(address, bytes.len() as u64);
        }
        ok
    }
    /// Copies mapped memory to host bytes; false when some of it is not.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        let ok = self.covers(address, bytes.len() as u64);
        if ok {
            // SAFETY: as in `write`.
            unsafe { std::ptr::copy(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        }
        ok
    }
    /// Page-locked host memory becomes (or ceases to be) reachable.
    pub fn register_host(&self, address: u64, bytes: u64) -> Result<(), Code> {
        let end = address.checked_add(bytes).ok_or(Code::InvalidValue)?;
        let mut inner = self.lock();
        let overlaps = inner.hosts.range(..end).next_back().is_some_and(|(&a, &b)| a + b > address);
        if address == 0 || bytes == 0 || overlaps || end > self.base && address < self.base + self.range {
            return Err(Code::InvalidValue);
        }
        inner.hosts.insert(address, bytes);
        self.hosts.store(true, Ordering::Release);
        Ok(())
    }
    /// See [`Self::register_host`].
    pub fn unregister_host(&self, address: u64) -> Result<(), Code> {
        self.lock().hosts.remove(&address).map(|_| ()).ok_or(Code::InvalidValue)
    }
    /// Whether hardware would let a kernel touch these bytes (mapped pages).
    #[inline(always)]
    pub fn mapped(&self, address: u64, bytes: u32) -> bool {
        let from = address.wrapping_sub(self.base);
        if from < self.range {
            let last = from + u64::from(bytes.max(1)) - 1;
            let on = |i: u64| self.page(i).load(Ordering::Relaxed) != 0;
            last < self.range && on(from >> SHIFT) && (from >> SHIFT == last >> SHIFT || on(last >> SHIFT))
        } else {
            self.hosts.load(Ordering::Relaxed) && self.host(address, u64::from(bytes))
        }
    }
    #[cold]
    fn host(&self, address: u64, bytes: u64) -> bool {
        let inner = self.look();
        let held = inner.hosts.range(..=address).next_back();
        held.is_some_and(|(&a, &b)| address - a < b && bytes <= b - (address - a))
    }
    /// As [`Self::mapped`], for any length.
    pub fn covers(&self, address: u64, bytes: u64) -> bool {
        if !self.ours(address) {
            return self.host(address, bytes);
        }
        let from = address - self.base;
        bytes == 0
            || from.checked_add(bytes - 1).is_some_and(|last| {
                last < self.range
                    && (from >> SHIFT..=last >> SHIFT).all(|i| self.page(i).load(Ordering::Relaxed) != 0)
            })
    }
    /// Bytes free and in all.
    pub fn info(&self) -> (u64, u64) {
        (self.capacity - self.look().used, self.capacity)
    }
}

/// A copy of `bytes` happened: what nobody wrote in the source is as good as unwritten in the target. Bytes that belong to
/// no device are the host's, which has written them.
pub fn copied(to: Option<&Memory>, from: Option<&Memory>, target: u64, source: u64, bytes: u64) {
    let Some(to) = to.and_then(Memory::shadow) else { return };
    match from.and_then(Memory::shadow) {
        Some(from) => to.copy(from, target, source, bytes),
        None => to.initialise(target, bytes),
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the range that `new` reserved; nobody holds the memory any more.
        unsafe { libc::munmap(self.base as *mut libc::c_void, self.range as usize) };
    }
}
