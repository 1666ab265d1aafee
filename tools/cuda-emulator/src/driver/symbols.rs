//! `cuGetProcAddress`: functions by unversioned name; the newest version that exists here.

use super::{api, put, put_some, text};
use crate::error::Code;
use std::ffi::{c_char, c_void};

const TABLES: &[&[(&str, *const ())]] = &[
    super::capture::SYMBOLS,
    super::context::SYMBOLS,
    super::control::SYMBOLS,
    super::copy::SYMBOLS,
    super::device::SYMBOLS,
    super::event::SYMBOLS,
    super::function::SYMBOLS,
    super::graph_api::SYMBOLS,
    super::launch::SYMBOLS,
    super::memory::SYMBOLS,
    super::module::SYMBOLS,
    super::names::SYMBOLS,
    super::occupancy::SYMBOLS,
    super::pool::SYMBOLS,
    super::stream::SYMBOLS,
    SYMBOLS,
];
fn find(name: &str) -> Option<*const ()> {
    ["_v4", "_v3", "_v2", ""].iter().find_map(|v| {
        let full = format!("{name}{v}");
        TABLES.iter().flat_map(|t| t.iter()).find(|(n, _)| *n == full).map(|(_, f)| *f)
    })
}
fn look(name: *const c_char, out: *mut *mut c_void, status: *mut u32) -> Result<(), Code> {
    let f = find(&text(name)?);
    put(out, f.map_or(std::ptr::null_mut(), |f| f as *mut c_void))?;
    put_some(status, if f.is_some() { 0 } else { 1 });
    f.map(drop).ok_or(Code::NotFound)
}

api! {
    fn cuGetProcAddress(name: *const c_char, out: *mut *mut c_void, _version: i32, _flags: u64) {
        look(name, out, std::ptr::null_mut())
    }
    fn cuGetProcAddress_v2(name: *const c_char, out: *mut *mut c_void, _version: i32, _flags: u64, status: *mut u32) {
        look(name, out, status)
    }
}
