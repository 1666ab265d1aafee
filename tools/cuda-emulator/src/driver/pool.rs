//! Memory pools: attributes are kept; the memory itself comes from the device.

use super::state::{context, device, driver, fresh, lock};
use super::{Handle, api, get, put};
use crate::error::Code;
use std::sync::{Arc, Mutex};

/// A pool: its eight attributes.
#[derive(Default)]
pub(crate) struct Pool(Mutex<[u64; 9]>);

const DEFAULT: usize = 16;
fn pool(h: Handle) -> Result<Arc<Pool>, Code> {
    let t = &driver()?.pools;
    let default =
        (h as usize).checked_sub(DEFAULT).is_some_and(|i| i < driver().map_or(0, |d| d.devices.len()));
    if default && t.get(h).is_none() {
        t.insert(h as usize, Arc::default());
    }
    t.get(h).ok_or(Code::InvalidValue)
}
/// The device of a `CUmemLocation`.
fn located(place: *const [i32; 2]) -> Result<i32, Code> {
    let [kind, id] = get(place)?;
    if kind == 1 { Ok(id) } else { Err(Code::InvalidValue) }
}
/// The default pool of a device: handles below those of objects.
fn default(dev: i32) -> Result<Handle, Code> {
    Ok((DEFAULT + device(dev)?.ordinal as usize) as Handle)
}

api! {
    fn cuDeviceGetDefaultMemPool(out: *mut Handle, dev: i32) {
        put(out, default(dev)?)
    }
    fn cuDeviceGetMemPool(out: *mut Handle, dev: i32) {
        put(out, default(dev)?)
    }
    fn cuDeviceSetMemPool(dev: i32, p: Handle) {
        device(dev)?;
        pool(p).map(drop)
    }
    fn cuMemGetDefaultMemPool(out: *mut Handle, place: *const [i32; 2], _kind: u32) {
        put(out, default(located(place)?)?)
    }
    fn cuMemGetMemPool(out: *mut Handle, place: *const [i32; 2], _kind: u32) {
        put(out, default(located(place)?)?)
    }
    fn cuMemSetMemPool(place: *const [i32; 2], _kind: u32, p: Handle) {
        device(located(place)?)?;
        pool(p).map(drop)
    }
    fn cuMemPoolSetAccess(p: Handle, _descriptions: *const [i32; 3], _n: usize) {
        pool(p).map(drop)
    }
    fn cuMemPoolGetAccess(out: *mut u32, p: Handle, place: *const [i32; 2]) {
        pool(p)?;
        device(located(place)?)?;
        put(out, 3)
    }
    fn cuMemPoolCreate(out: *mut Handle, properties: *const u32) {
        context()?;
        get(properties)?;
        let id = fresh();
        put(out, id as Handle)?;
        driver()?.pools.insert(id, Arc::default());
        Ok(())
    }
    fn cuMemPoolDestroy(p: Handle) {
        pool(p)?;
        if (p as usize) < DEFAULT + driver()?.devices.len() {
            return Err(Code::InvalidValue);
        }
        driver()?.pools.take(p);
        Ok(())
    }
    fn cuMemPoolTrimTo(p: Handle, _bytes: usize) {
        pool(p).map(drop)
    }
    fn cuMemPoolGetAttribute(p: Handle, which: u32, out: *mut std::ffi::c_void) {
        let p = pool(p)?;
        let value = *lock(&p.0).get(which as usize).ok_or(Code::InvalidValue)?;
        if which < 4 { put(out.cast(), value as u32) } else { put(out.cast(), value) }
    }
    fn cuMemPoolSetAttribute(p: Handle, which: u32, value: *const std::ffi::c_void) {
        let p = pool(p)?;
        let value = if which < 4 { get(value.cast::<u32>())? as u64 } else { get(value.cast::<u64>())? };
        *lock(&p.0).get_mut(which as usize).ok_or(Code::InvalidValue)? = value;
        Ok(())
    }
    fn cuMemAllocFromPoolAsync / "cuMemAllocFromPoolAsync_ptsz" (out: *mut u64, bytes: usize, p: Handle, stream: Handle) {
        pool(p)?;
        super::memory::allocate_async(out, bytes, stream)
    }
}
