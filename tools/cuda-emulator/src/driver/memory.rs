//! Allocations: device, stream-ordered, page-locked, managed; what a pointer points to.

use super::capture;
use super::context::{Allocation, Context, Kind};
use super::graph::{Node, Owned};
use super::state::{context, driver, fresh, lock};
use super::stream::{find, submit};
use super::work::Work;
use super::{Handle, api, get_all, put, put_some};
use crate::error::Code;
use std::alloc::Layout;
use std::ffi::c_void;
use std::sync::Arc;

fn remember(c: &Context, address: u64, bytes: u64, kind: Kind, flags: u32) {
    let a = Allocation { bytes, kind, flags, id: fresh() as u64 };
    lock(&c.allocations).insert(address, a);
}
/// Device memory of the context. Fresh memory is poisoned in an adversarial schedule and when reads are checked.
fn allocate(c: &Context, bytes: usize, kind: Kind) -> Result<u64, Code> {
    if bytes == 0 {
        return Err(Code::InvalidValue);
    }
    let o = driver()?.options();
    let address = c.memory.allocate(bytes as u64, o.seed.is_some() || o.initcheck)?;
    if kind == Kind::Managed {
        // The host writes it without a call: nothing is known to be unwritten.
        c.memory.written(address, bytes as u64);
    }
    remember(c, address, bytes as u64, kind, 0);
    Ok(address)
}
/// `cuMemAllocAsync`, also from a pool.
pub(crate) fn allocate_async(out: *mut u64, bytes: usize, stream: Handle) -> Result<(), Code> {
    let (s, c) = find(stream)?;
    if out.is_null() {
        return Err(Code::InvalidValue);
    }
    if let Some(j) = &mut *lock(&s.capture) {
        j.capture.valid()?;
        if bytes == 0 {
            return Err(Code::InvalidValue);
        }
        let address = c.memory.allocate(bytes as u64, driver()?.options().seed.is_some())?;
        lock(&j.capture.graph.owned).push(Arc::new(Owned(address, c.memory.clone())));
        let node = Node { kind: 10, ..Node::new(Work::Nothing, j.after.clone()) };
        j.after = vec![j.capture.graph.add(node)?];
        return put(out, address);
    }
    if s.legacy {
        capture::forbid_legacy(&c)?;
    }
    put(out, allocate(&c, bytes, Kind::Device)?)
}
fn free_async(address: u64, stream: Handle) -> Result<(), Code> {
    let (s, c) = find(stream)?;
    if let Some(j) = &mut *lock(&s.capture) {
        j.capture.valid()?;
        if !lock(&j.capture.graph.owned).iter().any(|o| o.0 == address) {
            return Err(Code::InvalidValue);
        }
        let node = Node { kind: 11, ..Node::new(Work::Nothing, j.after.clone()) };
        j.after = vec![j.capture.graph.add(node)?];
        return Ok(());
    }
    if !lock(&c.allocations).get(&address).is_some_and(|a| a.kind == Kind::Device) {
        return Err(Code::InvalidValue);
    }
    submit(&s, &c, Work::Free(address), &[])?;
    // Out of the table at once: freeing twice is an error, whenever the stream gets there.
    lock(&c.allocations).remove(&address);
    Ok(())
}
fn host(bytes: usize) -> Result<Layout, Code> {
    Layout::from_size_align(bytes, 4096).map_err(|_| Code::OutOfMemory)
}
fn allocate_host(out: *mut *mut c_void, bytes: usize, flags: u32) -> Result<(), Code> {
    let c = context()?;
    capture::forbid_unsafe()?;
    if bytes == 0 || flags > 7 || out.is_null() {
        return Err(Code::InvalidValue);
    }
    // SAFETY: the size is not 0.
    let p = unsafe { std::alloc::alloc_zeroed(host(bytes)?) };
    if p.is_null() {
        return Err(Code::OutOfMemory);
    }
    register(p as u64, bytes as u64)?;
    remember(&c, p as u64, bytes as u64, Kind::Host, flags);
    put(out, p.cast())
}
/// Page-locked memory is reached from every device: addresses are unified.
fn register(address: u64, bytes: u64) -> Result<(), Code> {
    driver()?.devices.iter().try_for_each(|d| d.memory.register_host(address, bytes))
}
/// See [`register`].
pub(crate) fn unregister(address: u64) {
    let devices = driver().map_or(&[][..], |d| &d.devices);
    devices.iter().for_each(|d| _ = d.memory.unregister_host(address));
}
/// Gives page-locked memory back.
pub(crate) fn free_host(address: u64, bytes: u64) {
    unregister(address);
    if let Ok(layout) = host(bytes as usize) {
        // SAFETY: allocated by `allocate_host` with this layout; the table entry was removed by the caller, so once only.
        unsafe { std::alloc::dealloc(address as *mut u8, layout) };
    }
}
/// Whether the device can reach host bytes that only the host knows.
pub(crate) fn pinned(c: &Context, address: u64) -> bool {
    c.holder(address).is_some_and(|(_, a)| matches!(a.kind, Kind::Host | Kind::Registered))
}
fn attribute(attribute: u32, address: u64, out: *mut c_void) -> Result<(), Code> {
    context()?;
    let holder = |c: Arc<Context>| c.holder(address).map(|(first, a)| (first, a, c));
    let (first, a, c) = driver()?.contexts.all().into_iter().find_map(holder).ok_or(Code::InvalidValue)?;
    let host = matches!(a.kind, Kind::Host | Kind::Registered);
    match attribute {
        1 => put(out.cast(), c.id),
        2 => put(out.cast(), if host { 1u32 } else { 2 }),
        3 => put(out.cast(), address),
        4 if host || a.kind == Kind::Managed => put(out.cast(), address),
        6 => put(out.cast(), 0u32),
        7 => put(out.cast(), a.id),
        8 => put(out.cast(), (a.kind == Kind::Managed) as u32),
        9 => put(out.cast(), c.device.ordinal),
        10 | 15 => put(out.cast(), 0u32),
        11 => put(out.cast(), first),
        12 => put(out.cast(), a.bytes as usize),
        13 => put(out.cast(), 1u32),
        14 => put(out.cast(), 0u64),
        16 => put(out.cast(), 3u32),
        17 => put(out.cast(), 0usize),
        _ => Err(Code::InvalidValue),
    }
}

/// Advice and prefetches are for managed memory.
fn managed(c: &Context, address: u64, bytes: usize) -> Result<(), Code> {
    let inside = |(first, a): (u64, Allocation)| {
        a.kind == Kind::Managed && bytes as u64 <= a.bytes - (address - first) && bytes > 0
    };
    c.holder(address).is_some_and(inside).then_some(()).ok_or(Code::InvalidValue)
}
fn advise(address: u64, bytes: usize, advice: u32) -> Result<(), Code> {
    managed(&*context()?, address, bytes)?;
    if (1..=6).contains(&advice) { Ok(()) } else { Err(Code::InvalidValue) }
}
fn prefetch(address: u64, bytes: usize, flags: u32, stream: Handle) -> Result<(), Code> {
    let (s, c) = find(stream)?;
    managed(&c, address, bytes)?;
    if flags != 0 {
        return Err(Code::InvalidValue);
    }
    submit(&s, &c, Work::Nothing, &[]).map(drop)
}
/// What was advised is not kept: nothing is read-mostly, there is no preferred location, nothing was prefetched.
fn range(out: *mut c_void, size: usize, which: u32, address: u64, bytes: usize) -> Result<(), Code> {
    managed(&*context()?, address, bytes)?;
    match which {
        1 | 5 | 7 if size == 4 => put(out.cast(), 0u32),
        2 | 4 | 6 | 8 if size == 4 => put(out.cast(), -2i32),
        3 if size > 0 && size.is_multiple_of(4) => {
            for i in 0..size / 4 {
                // SAFETY: the caller says that `size` bytes can be written.
                unsafe { out.cast::<i32>().add(i).write_unaligned(-2) };
            }
            Ok(())
        }
        _ => Err(Code::InvalidValue),
    }
}

api! {
    fn cuMemAlloc_v2(out: *mut u64, bytes: usize) {
        let c = context()?;
        capture::forbid_unsafe()?;
        if out.is_null() {
            return Err(Code::InvalidValue);
        }
        put(out, allocate(&c, bytes, Kind::Device)?)
    }
    fn cuMemAllocManaged(out: *mut u64, bytes: usize, flags: u32) {
        let c = context()?;
        capture::forbid_unsafe()?;
        if out.is_null() || !matches!(flags, 1 | 2) {
            return Err(Code::InvalidValue);
        }
        put(out, allocate(&c, bytes, Kind::Managed)?)
    }
    fn cuMemAllocPitch_v2(out: *mut u64, pitch: *mut usize, width: usize, height: usize, element: u32) {
        let c = context()?;
        capture::forbid_unsafe()?;
        if !matches!(element, 4 | 8 | 16) || out.is_null() || pitch.is_null() {
            return Err(Code::InvalidValue);
        }
        let row = width.checked_next_multiple_of(512).ok_or(Code::OutOfMemory)?;
        put(out, allocate(&c, row.checked_mul(height).ok_or(Code::OutOfMemory)?, Kind::Device)?)?;
        put(pitch, row)
    }
    fn cuMemFree_v2(address: u64) {
        let c = context()?;
        if address == 0 {
            return Ok(());
        }
        capture::forbid_unsafe()?;
        let kind = lock(&c.allocations).get(&address).map(|a| a.kind);
        if !matches!(kind, Some(Kind::Device | Kind::Managed)) {
            return Err(Code::InvalidValue);
        }
        c.drain();
        c.usable()?;
        c.release(address)
    }
    fn cuMemAllocAsync / "cuMemAllocAsync_ptsz" (out: *mut u64, bytes: usize, stream: Handle) {
        allocate_async(out, bytes, stream)
    }
    fn cuMemFreeAsync / "cuMemFreeAsync_ptsz" (address: u64, stream: Handle) {
        free_async(address, stream)
    }
    fn cuMemHostAlloc(out: *mut *mut c_void, bytes: usize, flags: u32) {
        allocate_host(out, bytes, flags)
    }
    fn cuMemAllocHost_v2(out: *mut *mut c_void, bytes: usize) {
        allocate_host(out, bytes, 0)
    }
    fn cuMemFreeHost(p: *mut c_void) {
        let c = context()?;
        if p.is_null() {
            return Ok(());
        }
        capture::forbid_unsafe()?;
        if !lock(&c.allocations).get(&(p as u64)).is_some_and(|a| a.kind == Kind::Host) {
            return Err(Code::InvalidValue);
        }
        c.drain();
        if let Some(a) = lock(&c.allocations).remove(&(p as u64)) {
            free_host(p as u64, a.bytes);
        }
        c.usable()
    }
    fn cuMemHostRegister_v2(p: *mut c_void, bytes: usize, flags: u32) {
        let c = context()?;
        capture::forbid_unsafe()?;
        if p.is_null() || bytes == 0 || flags > 15 {
            return Err(Code::InvalidValue);
        }
        if c.holder(p as u64).is_some() {
            return Err(Code::HostMemoryAlreadyRegistered);
        }
        register(p as u64, bytes as u64)?;
        remember(&c, p as u64, bytes as u64, Kind::Registered, flags);
        Ok(())
    }
    fn cuMemHostUnregister(p: *mut c_void) {
        let c = context()?;
        capture::forbid_unsafe()?;
        if !lock(&c.allocations).get(&(p as u64)).is_some_and(|a| a.kind == Kind::Registered) {
            return Err(Code::HostMemoryNotRegistered);
        }
        c.drain();
        lock(&c.allocations).remove(&(p as u64));
        unregister(p as u64);
        Ok(())
    }
    fn cuMemHostGetDevicePointer_v2(out: *mut u64, p: *mut c_void, flags: u32) {
        let c = context()?;
        if flags != 0 || !pinned(&c, p as u64) {
            return Err(Code::InvalidValue);
        }
        put(out, p as u64)
    }
    fn cuMemHostGetFlags(out: *mut u32, p: *mut c_void) {
        let c = context()?;
        let (_, a) = c.holder(p as u64).filter(|(_, a)| a.kind == Kind::Host).ok_or(Code::InvalidValue)?;
        put(out, a.flags)
    }
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let (left, all) = context()?.memory.info();
        put(free, left as usize)?;
        put(total, all as usize)
    }
    fn cuMemGetAddressRange_v2(first: *mut u64, bytes: *mut usize, address: u64) {
        let (at, a) = context()?.holder(address).ok_or(Code::NotFound)?;
        put_some(first, at);
        put_some(bytes, a.bytes as usize);
        Ok(())
    }
    fn cuPointerGetAttribute(out: *mut c_void, which: u32, address: u64) {
        attribute(which, address, out)
    }
    fn cuPointerGetAttributes(n: u32, which: *const u32, out: *mut *mut c_void, address: u64) {
        context()?;
        for (w, o) in get_all(which, n as usize)?.into_iter().zip(get_all(out, n as usize)?) {
            if attribute(w, address, o).is_err() && matches!(w, 2 | 7 | 8) {
                put(o.cast(), 0u32)?;
            }
        }
        Ok(())
    }
    fn cuPointerSetAttribute(_value: *const c_void, which: u32, address: u64) {
        context()?.holder(address).ok_or(Code::InvalidValue)?;
        if which == 6 { Ok(()) } else { Err(Code::InvalidValue) }
    }
    fn cuMemAdvise(address: u64, bytes: usize, advice: u32, _device: i32) {
        advise(address, bytes, advice)
    }
    fn cuMemPrefetchAsync / "cuMemPrefetchAsync_ptsz" (address: u64, bytes: usize, _device: i32, stream: Handle) {
        prefetch(address, bytes, 0, stream)
    }
    fn cuMemRangeGetAttribute(out: *mut c_void, size: usize, which: u32, address: u64, bytes: usize) {
        range(out, size, which, address, bytes)
    }
    fn cuMemRangeGetAttributes(
        out: *const *mut c_void, sizes: *const usize, which: *const u32, n: usize, address: u64, bytes: usize,
    ) {
        let (out, sizes, which) = (get_all(out, n)?, get_all(sizes, n)?, get_all(which, n)?);
        (0..n).try_for_each(|i| range(out[i], sizes[i], which[i], address, bytes))
    }
    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: u32, _location: u64) {
        advise(address, bytes, advice)
    }
    fn cuMemPrefetchAsync_v2 / "cuMemPrefetchAsync_v2_ptsz" (address: u64, bytes: usize, _location: u64, flags: u32, stream: Handle) {
        prefetch(address, bytes, flags, stream)
    }
}
