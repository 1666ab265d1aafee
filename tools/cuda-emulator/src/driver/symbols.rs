//! `cuGetProcAddress`: functions by unversioned name; the newest version that exists here.

use super::{api, put, put_some, text};
use crate::error::Code;
use std::ffi::{c_char, c_void};

const TABLES: &[&[super::Symbol]] = &[
    super::capture::SYMBOLS,
    super::context::SYMBOLS,
    super::control::SYMBOLS,
    super::copy::SYMBOLS,
    super::device::SYMBOLS,
    super::event::SYMBOLS,
    super::function::SYMBOLS,
    super::graph_api::SYMBOLS,
    super::graph_nodes::SYMBOLS,
    super::launch::SYMBOLS,
    super::memory::SYMBOLS,
    super::module::SYMBOLS,
    super::names::SYMBOLS,
    super::occupancy::SYMBOLS,
    super::pool::SYMBOLS,
    super::refused::SYMBOLS,
    super::stream::SYMBOLS,
    super::user_object::SYMBOLS,
    SYMBOLS,
];
/// The newest version; with `flags` 2 the form with the thread's default stream, where there is one.
fn find(name: &str, flags: u64) -> Option<*const ()> {
    ["_v4", "_v3", "_v2", ""].iter().find_map(|v| {
        let full = format!("{name}{v}");
        let (_, f, twin) = TABLES.iter().flat_map(|t| t.iter()).find(|s| s.0 == full)?;
        Some(twin.filter(|_| flags & 2 != 0).map_or(*f, |t| t.1))
    })
}
fn look(name: *const c_char, out: *mut *mut c_void, flags: u64, status: *mut u32) -> Result<(), Code> {
    if flags > 2 {
        return Err(Code::InvalidValue);
    }
    let f = find(&text(name)?, flags);
    put(out, f.map_or(std::ptr::null_mut(), |f| f as *mut c_void))?;
    put_some(status, if f.is_some() { 0 } else { 1 });
    f.map(drop).ok_or(Code::NotFound)
}

api! {
    fn cuGetProcAddress(name: *const c_char, out: *mut *mut c_void, _version: i32, flags: u64) {
        look(name, out, flags, std::ptr::null_mut())
    }
    fn cuGetProcAddress_v2(name: *const c_char, out: *mut *mut c_void, _version: i32, flags: u64, status: *mut u32) {
        look(name, out, flags, status)
    }
}
