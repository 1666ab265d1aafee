//! What the emulator has and a real driver lacks: for a program that loaded it knowingly.

use super::state::{driver, set};
use super::{api, put, text};
use crate::error::Code;
use std::ffi::c_char;

api! {
    // Gives an `INP_EMULATED_…` variable a value for this process: see `state::set` for when it counts.
    fn inpEmulatedSet(name: *const c_char, value: *const c_char) {
        set(text(name)?, text(value)?)
    }
    // The report as JSON, into a buffer of `size` bytes; its bytes go to `needed`, and nothing is written when they do
    // not fit.
    fn inpEmulatedReport(out: *mut u8, size: usize, needed: *mut usize) {
        let json = driver()?.log.json().to_string();
        put(needed, json.len())?;
        if size < json.len() {
            return Ok(());
        }
        if out.is_null() {
            return Err(Code::InvalidValue);
        }
        // SAFETY: the caller says that `size` bytes can be written.
        unsafe { out.copy_from_nonoverlapping(json.as_ptr(), json.len()) };
        Ok(())
    }
}
