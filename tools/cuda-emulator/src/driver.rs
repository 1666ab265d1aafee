//! The CUDA driver API: every symbol is `extern "C"`, answers a `CUresult` and lets no panic out.
//!
//! Handles are numbers of a table ([`state::Table`]), so that a wrong or stale one is an error and never a crash. Source of
//! names, signatures and error codes: NVIDIA's CUDA Driver API reference, 13.0.

mod capture;
mod context;
mod control;
mod copy;
mod device;
mod event;
mod function;
mod graph;
mod graph_api;
mod graph_nodes;
mod launch;
mod memory;
mod module;
mod names;
mod occupancy;
mod pool;
mod queue;
mod refused;
pub mod report;
mod state;
mod stream;
mod symbols;
mod user_object;
mod work;

use crate::error::Code;
use std::ffi::c_void;

/// An opaque handle as C sees it.
pub(crate) type Handle = *mut c_void;

/// Runs the body of an API function: a panic becomes `CUDA_ERROR_UNKNOWN`.
pub(crate) fn guard(f: impl FnOnce() -> Result<(), Code>) -> i32 {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code as i32,
        Err(_) => Code::Unknown as i32,
    }
}

/// Writes a result through a pointer of the caller.
pub(crate) fn put<T>(p: *mut T, x: T) -> Result<(), Code> {
    if p.is_null() {
        return Err(Code::InvalidValue);
    }
    // SAFETY: the caller of the C function says that a non-null result pointer can be written; unaligned ones are fine.
    unsafe { p.write_unaligned(x) };
    Ok(())
}

/// As [`put`]; null means that the caller does not want it.
pub(crate) fn put_some<T>(p: *mut T, x: T) {
    if !p.is_null() {
        let _ = put(p, x);
    }
}

/// Copies a structure or value that the caller points to.
pub(crate) fn get<T: Copy>(p: *const T) -> Result<T, Code> {
    if p.is_null() {
        return Err(Code::InvalidValue);
    }
    // SAFETY: the caller of the C function says that it points to a `T`.
    Ok(unsafe { p.read_unaligned() })
}

/// `n` values that the caller points to.
pub(crate) fn get_all<T: Copy>(p: *const T, n: usize) -> Result<Vec<T>, Code> {
    if n > 1 << 20 || (n > 0 && p.is_null()) {
        return Err(Code::InvalidValue);
    }
    // SAFETY: as in `get`, for each of `n` consecutive values.
    Ok((0..n).map(|i| unsafe { p.add(i).read_unaligned() }).collect())
}

/// A C string of the caller.
pub(crate) fn text(p: *const std::ffi::c_char) -> Result<String, Code> {
    if p.is_null() {
        return Err(Code::InvalidValue);
    }
    // SAFETY: the caller says that it is NUL-terminated.
    Ok(unsafe { std::ffi::CStr::from_ptr(p) }.to_string_lossy().into_owned())
}

thread_local! {
    /// Whether the null stream is the thread's own, as in the `_ptsz` and `_ptds` forms of the API.
    pub(crate) static PER_THREAD: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}
/// As [`guard`], with the null stream being the thread's own.
pub(crate) fn per_thread(f: impl FnOnce() -> Result<(), Code>) -> i32 {
    let before = PER_THREAD.replace(true);
    let code = guard(f);
    PER_THREAD.set(before);
    code
}

/// Declares functions of the C API and lists them for `cuGetProcAddress`; a string after a name exports the same with the
/// thread's default stream.
macro_rules! api {
    ($(fn $name:ident $(/ $per_thread:literal)? ($($a:ident: $t:ty),* $(,)?) $body:block)*) => {
        $(
            #[doc = "Driver API function of this name; see NVIDIA's reference."]
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub unsafe extern "C" fn $name($($a: $t),*) -> i32 {
                $crate::driver::guard(|| $body)
            }
        )*
        /// Functions of this file by name, with their per-thread forms.
        pub(crate) const SYMBOLS: &[$crate::driver::Symbol] = &[
            $((stringify!($name), $name as *const (), $crate::driver::twin!([$($per_thread)?] ($($a: $t),*) $body))),*
        ];
    };
}
/// A function's per-thread form, if it has one.
macro_rules! twin {
    ([] ($($a:ident: $t:ty),*) $body:block) => {
        None
    };
    ([$name:literal] ($($a:ident: $t:ty),*) $body:block) => {{
        #[unsafe(export_name = $name)]
        unsafe extern "C" fn twin($($a: $t),*) -> i32 {
            $crate::driver::per_thread(|| $body)
        }
        Some(($name, twin as *const ()))
    }};
}
/// A function by name, and its per-thread form.
pub(crate) type Symbol = (&'static str, *const (), Option<(&'static str, *const ())>);
pub(crate) use {api, twin};
