//! Kernels as the host sees them: attributes, parameters, limits.

use super::module::Module;
use super::state::{context, device, driver};
use super::{Handle, api, put, put_some};
use crate::error::Code;
use crate::exec::launch;
use crate::gpu::Gpu;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// Shared memory that a block has without opting in.
pub(crate) const DEFAULT_SHARED: u32 = 48 << 10;

/// A kernel of a loaded module.
pub(crate) struct Function {
    pub id: usize,
    pub module: Arc<Module>,
    pub index: usize,
    /// Dynamic shared memory that a launch may ask for.
    pub max_dynamic: AtomicU32,
    carveout: AtomicI32,
    cluster: [AtomicI32; 5],
}
impl Function {
    pub fn new(id: usize, module: Arc<Module>, index: usize) -> Arc<Self> {
        let still = module.program.functions[index].shared_bytes.min(DEFAULT_SHARED as u64) as u32;
        let (max_dynamic, carveout) = (AtomicU32::new(DEFAULT_SHARED - still), AtomicI32::new(-1));
        Arc::new(Self { id, module, index, max_dynamic, carveout, cluster: Default::default() })
    }
    pub fn code(&self) -> &launch::Code {
        &self.module.program.functions[self.index]
    }
    pub fn gpu(&self) -> &'static Gpu {
        &self.module.device.gpu
    }
    pub fn name(&self) -> &str {
        &self.code().name
    }
    /// Threads of a block, by `.maxntid` and registers. Those are an estimate, of which ptxas has been seen to need as
    /// little as two fifths: only what would not fit then is refused.
    pub fn max_threads(&self) -> u32 {
        let registers = (self.code().registers * 2 / 5).max(1).next_multiple_of(8);
        self.code().max_threads.min(self.gpu().registers / registers / 32 * 32).min(1024)
    }
    fn attribute(&self, a: u32) -> Result<i32, Code> {
        let code = self.code();
        let m = &self.module;
        Ok(match a {
            0 => self.max_threads() as i32,
            1 => code.shared_bytes as i32,
            2 => m.const_bytes as i32,
            3 => code.local_bytes as i32,
            4 => code.registers as i32,
            5 => m.sm as i32,
            6 => {
                let (major, minor) = self.gpu().capability;
                (major * 10 + minor) as i32
            }
            7 => 0,
            8 => self.max_dynamic.load(Ordering::Relaxed) as i32,
            9 => self.carveout.load(Ordering::Relaxed),
            10 => 0,
            11..=15 => self.cluster[a as usize - 11].load(Ordering::Relaxed),
            _ => return Err(Code::InvalidValue),
        })
    }
    fn set(&self, a: u32, value: i32) -> Result<(), Code> {
        let gpu = self.gpu();
        match a {
            8 => {
                if value < 0 || value as u64 + self.code().shared_bytes > gpu.shared_per_block as u64 {
                    return Err(Code::InvalidValue);
                }
                self.max_dynamic.store(value as u32, Ordering::Relaxed);
            }
            9 if (-1..=100).contains(&value) => self.carveout.store(value, Ordering::Relaxed),
            11..=15 if value >= 0 && gpu.capability.0 >= 9 => {
                self.cluster[a as usize - 11].store(value, Ordering::Relaxed)
            }
            _ => return Err(Code::InvalidValue),
        }
        Ok(())
    }
    /// Whether clusters of more than 8 blocks are allowed.
    pub fn non_portable(&self) -> bool {
        self.cluster[3].load(Ordering::Relaxed) != 0
    }
}

/// A function by handle; kernels of libraries share the table.
pub(crate) fn by_handle(h: Handle) -> Result<Arc<Function>, Code> {
    let f = driver()?.functions.get(h).ok_or(Code::InvalidHandle)?;
    if let Some(c) = f.module.context.upgrade() {
        c.usable()?;
    }
    Ok(f)
}
fn param_info(f: Handle, i: usize, offset: *mut usize, size: *mut usize) -> Result<(), Code> {
    let f = by_handle(f)?;
    let (at, bytes) = *f.code().params.get(i).ok_or(Code::InvalidValue)?;
    put(offset, at as usize)?;
    put_some(size, bytes as usize);
    Ok(())
}
/// A pointer to the name that lives as long as the process: names are few, and leaked once for each request.
fn name(h: Handle, out: *mut *const std::ffi::c_char) -> Result<(), Code> {
    let f = by_handle(h)?;
    put(out, f.module.c_name(f.index).ok_or(Code::InvalidHandle)?)
}

api! {
    fn cuFuncGetAttribute(out: *mut i32, attribute: u32, f: Handle) {
        put(out, by_handle(f)?.attribute(attribute)?)
    }
    fn cuFuncSetAttribute(f: Handle, attribute: u32, value: i32) {
        by_handle(f)?.set(attribute, value)
    }
    fn cuFuncSetCacheConfig(f: Handle, config: u32) {
        by_handle(f)?;
        if config > 3 { Err(Code::InvalidValue) } else { Ok(()) }
    }
    fn cuFuncSetSharedMemConfig(f: Handle, config: u32) {
        by_handle(f)?;
        if config > 2 { Err(Code::InvalidValue) } else { Ok(()) }
    }
    fn cuFuncGetParamInfo(f: Handle, i: usize, offset: *mut usize, size: *mut usize) {
        param_info(f, i, offset, size)
    }
    fn cuKernelGetParamInfo(f: Handle, i: usize, offset: *mut usize, size: *mut usize) {
        param_info(f, i, offset, size)
    }
    fn cuFuncGetParamCount(f: Handle, out: *mut usize) {
        put(out, by_handle(f)?.code().params.len())
    }
    fn cuKernelGetParamCount(f: Handle, out: *mut usize) {
        put(out, by_handle(f)?.code().params.len())
    }
    fn cuFuncGetModule(out: *mut Handle, f: Handle) {
        put(out, by_handle(f)?.module.id as Handle)
    }
    fn cuFuncGetName(out: *mut *const std::ffi::c_char, f: Handle) {
        name(f, out)
    }
    fn cuKernelGetName(out: *mut *const std::ffi::c_char, f: Handle) {
        name(f, out)
    }
    fn cuFuncIsLoaded(out: *mut u32, f: Handle) {
        by_handle(f)?;
        put(out, 1)
    }
    fn cuFuncLoad(f: Handle) {
        by_handle(f).map(drop)
    }
    fn cuKernelGetFunction(out: *mut Handle, kernel: Handle) {
        context()?;
        put(out, by_handle(kernel)?.id as Handle)
    }
    fn cuKernelGetLibrary(out: *mut Handle, kernel: Handle) {
        put(out, by_handle(kernel)?.module.id as Handle)
    }
    fn cuKernelGetAttribute(out: *mut i32, attribute: u32, kernel: Handle, dev: i32) {
        device(dev)?;
        put(out, by_handle(kernel)?.attribute(attribute)?)
    }
    fn cuKernelSetAttribute(attribute: u32, value: i32, kernel: Handle, dev: i32) {
        device(dev)?;
        by_handle(kernel)?.set(attribute, value)
    }
    fn cuKernelSetCacheConfig(kernel: Handle, config: u32, dev: i32) {
        by_handle(kernel)?;
        device(dev)?;
        if config > 3 { Err(Code::InvalidValue) } else { Ok(()) }
    }
}
