//! Device memory: one reserved range of addresses, allocations in it, and host memory that the device may reach.
//!
//! A device address is the host address of the byte. Every access is checked against what is mapped, always (as
//! hardware does, by pages); the checkers are exact to the byte.

use crate::error::Code;

/// The memory of one device (and the host memory it may reach). Shared by streams and worker threads.
pub struct Memory {
    _todo: (),
}

impl Memory {
    /// Reserves the addresses of a device with `bytes` of memory; nothing is touched yet.
    pub fn new(bytes: u64) -> Result<Self, Code> {
        let _ = bytes;
        Err(Code::OutOfMemory)
    }
    /// Allocates; 256-byte aligned. With `poison`, filled with bytes that no number is likely to be.
    pub fn allocate(&self, bytes: u64, poison: bool) -> Result<u64, Code> {
        let _ = (bytes, poison);
        Err(Code::OutOfMemory)
    }
    /// Frees an allocation by its first address.
    pub fn free(&self, address: u64) -> Result<(), Code> {
        let _ = address;
        Err(Code::InvalidValue)
    }
    /// The allocation that holds an address: first byte and size.
    pub fn find(&self, address: u64) -> Option<(u64, u64)> {
        let _ = address;
        None
    }
    /// Copies host bytes into mapped device memory; false when some of it is not.
    pub fn write(&self, address: u64, bytes: &[u8]) -> bool {
        let _ = (address, bytes);
        false
    }
    /// Copies mapped device memory to host bytes; false when some of it is not.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        let _ = (address, bytes);
        false
    }
    /// Page-locked host memory becomes (or ceases to be) reachable.
    pub fn register_host(&self, address: u64, bytes: u64) -> Result<(), Code> {
        let _ = (address, bytes);
        Err(Code::InvalidValue)
    }
    /// See [`Self::register_host`].
    pub fn unregister_host(&self, address: u64) -> Result<(), Code> {
        let _ = address;
        Err(Code::InvalidValue)
    }
    /// Whether hardware would let a kernel touch these bytes (mapped pages).
    #[inline(always)]
    pub fn mapped(&self, address: u64, bytes: u32) -> bool {
        let _ = (address, bytes);
        false
    }
    /// What the checkers remember of this memory; `None` until [`Self::watch`].
    pub fn shadow(&self) -> Option<&crate::check::global::Shadow> {
        None
    }
    /// The checkers will want to know what happens here: call it before the first allocation.
    pub fn watch(&self) -> Result<(), Code> {
        Ok(())
    }
    /// The host wrote these bytes (copies and fills).
    pub fn written(&self, address: u64, bytes: u64) {
        let _ = (address, bytes);
    }
    /// Whether an address was in an allocation that was freed.
    pub fn was_freed(&self, address: u64) -> bool {
        let _ = address;
        false
    }
    /// Bytes free and in all.
    pub fn info(&self) -> (u64, u64) {
        (0, 0)
    }
}
