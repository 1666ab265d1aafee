//! Copies and fills.

use super::context::Context;
use super::memory::pinned;
use super::state::context;
use super::stream::{at_once, find, submit};
use super::work::{Copy, Fill, Place, Work};
use super::{Handle, api, get, get_all};
use crate::error::Code;
use std::ffi::c_void;

fn device(address: u64) -> Place {
    Place { address, pitch: 0, slice: 0, device: true }
}
fn host<T>(p: *const T) -> Place {
    Place { address: p as u64, pitch: 0, slice: 0, device: false }
}
/// `cuMemcpy`: what a pointer is follows from its value.
fn any(address: u64) -> Place {
    let memory = super::state::driver().ok().and_then(|d| d.holding(address));
    if memory.is_some() { device(address) } else { host(address as *const u8) }
}
fn now(c: Copy) -> Result<(), Code> {
    c.check(&*context()?)?;
    at_once(Work::Copy(c))
}
/// In stream order. From pageable memory the bytes are taken before the call returns; into it the call waits.
fn later(mut copy: Copy, stream: Handle) -> Result<(), Code> {
    let (s, c) = find(stream)?;
    copy.check(&c)?;
    let pageable = |p: &Place| !p.device && !pinned(&c, p.address);
    let bytes = copy.width * copy.height * copy.depth;
    let wait = pageable(&copy.to) && !s.captured();
    if pageable(&copy.from) && !s.captured() && bytes > 0 {
        copy.stage();
    }
    if let Some(t) = submit(&s, &c, Work::Copy(copy), &[])?
        && wait
    {
        t.wait();
        c.usable()?;
    }
    Ok(())
}
/// Several copies; the null stream is refused, as is an empty list.
fn batch(
    to: *const u64,
    from: *const u64,
    bytes: *const usize,
    n: usize,
    stream: Handle,
) -> Result<(), Code> {
    if n == 0 || stream.is_null() {
        return Err(Code::InvalidValue);
    }
    let (to, from, bytes) = (get_all(to, n)?, get_all(from, n)?, get_all(bytes, n)?);
    (0..n).try_for_each(|i| later(Copy::linear(any(to[i]), any(from[i]), bytes[i]), stream))
}
fn row(address: u64, value: u32, element: usize, n: usize) -> Fill {
    Fill { address, pitch: 0, value, element, width: n, height: 1 }
}
fn fill_now(f: Fill) -> Result<(), Code> {
    f.check(&*context()?)?;
    at_once(Work::Fill(f))
}
fn fill_later(f: Fill, stream: Handle) -> Result<(), Code> {
    let (s, c) = find(stream)?;
    f.check(&c)?;
    submit(&s, &c, Work::Fill(f), &[]).map(drop)
}

/// One side of a `CUDA_MEMCPY2D`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Side2 {
    x: usize,
    y: usize,
    kind: u32,
    host: *mut c_void,
    device: u64,
    array: Handle,
    pitch: usize,
}
/// `CUDA_MEMCPY2D`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Box2 {
    from: Side2,
    to: Side2,
    width: usize,
    height: usize,
}
/// One side of a `CUDA_MEMCPY3D`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Side3 {
    x: usize,
    y: usize,
    z: usize,
    lod: usize,
    kind: u32,
    host: *mut c_void,
    device: u64,
    array: Handle,
    reserved: *mut c_void,
    pitch: usize,
    height: usize,
}
/// `CUDA_MEMCPY3D`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Box3 {
    from: Side3,
    to: Side3,
    width: usize,
    height: usize,
    depth: usize,
}
impl Box3 {
    /// What a copy says, as one would have asked for it.
    pub fn of(c: &Copy) -> Self {
        let side = |p: &Place| Side3 {
            x: 0,
            y: 0,
            z: 0,
            lod: 0,
            kind: if p.device { 2 } else { 1 },
            host: if p.device { std::ptr::null_mut() } else { p.address as *mut c_void },
            device: if p.device { p.address } else { 0 },
            array: std::ptr::null_mut(),
            reserved: std::ptr::null_mut(),
            pitch: p.pitch,
            height: p.slice.checked_div(p.pitch).unwrap_or(0),
        };
        Self { from: side(&c.from), to: side(&c.to), width: c.width, height: c.height, depth: c.depth }
    }
    /// Both sides as places.
    pub fn copy(&self, c: &Context) -> Result<Copy, Code> {
        let place = |s: &Side3| -> Result<Place, Code> {
            let mut p = match s.kind {
                1 => host(s.host),
                2 => device(s.device),
                4 => any(s.device),
                _ => return Err(Code::NotSupported),
            };
            p.pitch = if s.pitch == 0 { self.width } else { s.pitch };
            p.slice = p
                .pitch
                .checked_mul(if s.height == 0 { self.height } else { s.height })
                .ok_or(Code::InvalidValue)?;
            if p.pitch < self.width && self.height > 1 || p.pitch > (1 << 31) - 1 && self.height > 1 {
                return Err(Code::InvalidValue);
            }
            let start = s.z.checked_mul(p.slice).and_then(|z| Some(z + s.y.checked_mul(p.pitch)? + s.x));
            p.address =
                p.address.checked_add(start.ok_or(Code::InvalidValue)? as u64).ok_or(Code::InvalidValue)?;
            Ok(p)
        };
        let copy = Copy {
            to: place(&self.to)?,
            from: place(&self.from)?,
            width: self.width,
            height: self.height,
            depth: self.depth,
            staged: None,
        };
        copy.check(c)?;
        Ok(copy)
    }
}
impl Box2 {
    fn copy(&self, c: &Context) -> Result<Copy, Code> {
        let side = |s: &Side2| Side3 {
            x: s.x,
            y: s.y,
            z: 0,
            lod: 0,
            kind: s.kind,
            host: s.host,
            device: s.device,
            array: s.array,
            reserved: std::ptr::null_mut(),
            pitch: s.pitch,
            height: 0,
        };
        let (from, to) = (side(&self.from), side(&self.to));
        Box3 { from, to, width: self.width, height: self.height, depth: 1 }.copy(c)
    }
}

api! {
    fn cuMemcpy / "cuMemcpy_ptds" (to: u64, from: u64, n: usize) {
        now(Copy::linear(any(to), any(from), n))
    }
    fn cuMemcpyAsync / "cuMemcpyAsync_ptsz" (to: u64, from: u64, n: usize, stream: Handle) {
        later(Copy::linear(any(to), any(from), n), stream)
    }
    fn cuMemcpyHtoD_v2 / "cuMemcpyHtoD_v2_ptds" (to: u64, from: *const c_void, n: usize) {
        now(Copy::linear(device(to), host(from), n))
    }
    fn cuMemcpyDtoH_v2 / "cuMemcpyDtoH_v2_ptds" (to: *mut c_void, from: u64, n: usize) {
        now(Copy::linear(host(to), device(from), n))
    }
    fn cuMemcpyDtoD_v2 / "cuMemcpyDtoD_v2_ptds" (to: u64, from: u64, n: usize) {
        now(Copy::linear(device(to), device(from), n))
    }
    fn cuMemcpyHtoDAsync_v2 / "cuMemcpyHtoDAsync_v2_ptsz" (to: u64, from: *const c_void, n: usize, stream: Handle) {
        later(Copy::linear(device(to), host(from), n), stream)
    }
    fn cuMemcpyDtoHAsync_v2 / "cuMemcpyDtoHAsync_v2_ptsz" (to: *mut c_void, from: u64, n: usize, stream: Handle) {
        later(Copy::linear(host(to), device(from), n), stream)
    }
    fn cuMemcpyDtoDAsync_v2 / "cuMemcpyDtoDAsync_v2_ptsz" (to: u64, from: u64, n: usize, stream: Handle) {
        later(Copy::linear(device(to), device(from), n), stream)
    }
    fn cuMemcpyPeer / "cuMemcpyPeer_ptds" (to: u64, to_context: Handle, from: u64, from_context: Handle, n: usize) {
        super::context::by_handle(to_context)?;
        super::context::by_handle(from_context)?;
        now(Copy::linear(device(to), device(from), n))
    }
    fn cuMemcpyPeerAsync / "cuMemcpyPeerAsync_ptsz" (to: u64, to_context: Handle, from: u64, from_context: Handle, n: usize, stream: Handle) {
        super::context::by_handle(to_context)?;
        super::context::by_handle(from_context)?;
        later(Copy::linear(device(to), device(from), n), stream)
    }
    fn cuMemcpy2D_v2 / "cuMemcpy2D_v2_ptds" (p: *const Box2) {
        now(get(p)?.copy(&*context()?)?)
    }
    fn cuMemcpy2DUnaligned_v2 / "cuMemcpy2DUnaligned_v2_ptds" (p: *const Box2) {
        now(get(p)?.copy(&*context()?)?)
    }
    fn cuMemcpy2DAsync_v2 / "cuMemcpy2DAsync_v2_ptsz" (p: *const Box2, stream: Handle) {
        later(get(p)?.copy(&*context()?)?, stream)
    }
    fn cuMemcpy3D_v2 / "cuMemcpy3D_v2_ptds" (p: *const Box3) {
        now(get(p)?.copy(&*context()?)?)
    }
    fn cuMemcpy3DAsync_v2 / "cuMemcpy3DAsync_v2_ptsz" (p: *const Box3, stream: Handle) {
        later(get(p)?.copy(&*context()?)?, stream)
    }
    fn cuMemcpy3DPeer / "cuMemcpy3DPeer_ptds" (p: *const Box3) {
        now(get(p)?.copy(&*context()?)?)
    }
    fn cuMemcpy3DPeerAsync / "cuMemcpy3DPeerAsync_ptsz" (p: *const Box3, stream: Handle) {
        later(get(p)?.copy(&*context()?)?, stream)
    }
    fn cuMemcpyBatchAsync / "cuMemcpyBatchAsync_ptsz" (
        to: *const u64, from: *const u64, bytes: *const usize, n: usize, _attributes: Handle, _of: *const usize,
        _kinds: usize, failed: *mut usize, stream: Handle,
    ) {
        super::put_some(failed, usize::MAX);
        batch(to, from, bytes, n, stream)
    }
    fn cuMemcpyBatchAsync_v2 / "cuMemcpyBatchAsync_v2_ptsz" (
        to: *const u64, from: *const u64, bytes: *const usize, n: usize, _attributes: Handle, _of: *const usize,
        _kinds: usize, stream: Handle,
    ) {
        batch(to, from, bytes, n, stream)
    }
    fn cuMemsetD2D16_v2 / "cuMemsetD2D16_v2_ptds" (at: u64, pitch: usize, value: u16, width: usize, height: usize) {
        fill_now(Fill { address: at, pitch, value: value as u32, element: 2, width, height })
    }
    fn cuMemsetD2D16Async / "cuMemsetD2D16Async_ptsz" (
        at: u64, pitch: usize, value: u16, width: usize, height: usize, stream: Handle,
    ) {
        fill_later(Fill { address: at, pitch, value: value as u32, element: 2, width, height }, stream)
    }
    fn cuMemsetD8_v2 / "cuMemsetD8_v2_ptds" (at: u64, value: u8, n: usize) {
        fill_now(row(at, value as u32, 1, n))
    }
    fn cuMemsetD16_v2 / "cuMemsetD16_v2_ptds" (at: u64, value: u16, n: usize) {
        fill_now(row(at, value as u32, 2, n))
    }
    fn cuMemsetD32_v2 / "cuMemsetD32_v2_ptds" (at: u64, value: u32, n: usize) {
        fill_now(row(at, value, 4, n))
    }
    fn cuMemsetD8Async / "cuMemsetD8Async_ptsz" (at: u64, value: u8, n: usize, stream: Handle) {
        fill_later(row(at, value as u32, 1, n), stream)
    }
    fn cuMemsetD16Async / "cuMemsetD16Async_ptsz" (at: u64, value: u16, n: usize, stream: Handle) {
        fill_later(row(at, value as u32, 2, n), stream)
    }
    fn cuMemsetD32Async / "cuMemsetD32Async_ptsz" (at: u64, value: u32, n: usize, stream: Handle) {
        fill_later(row(at, value, 4, n), stream)
    }
    fn cuMemsetD2D8_v2 / "cuMemsetD2D8_v2_ptds" (at: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill_now(Fill { address: at, pitch, value: value as u32, element: 1, width, height })
    }
    fn cuMemsetD2D32_v2 / "cuMemsetD2D32_v2_ptds" (at: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill_now(Fill { address: at, pitch, value, element: 4, width, height })
    }
    fn cuMemsetD2D8Async / "cuMemsetD2D8Async_ptsz" (at: u64, pitch: usize, value: u8, width: usize, height: usize, stream: Handle) {
        fill_later(Fill { address: at, pitch, value: value as u32, element: 1, width, height }, stream)
    }
    fn cuMemsetD2D32Async / "cuMemsetD2D32Async_ptsz" (at: u64, pitch: usize, value: u32, width: usize, height: usize, stream: Handle) {
        fill_later(Fill { address: at, pitch, value, element: 4, width, height }, stream)
    }
}
