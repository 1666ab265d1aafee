//! Launches: geometry, shared memory and parameters are checked as hardware does, then the kernel goes to its stream.

use super::function::{Function, by_handle};
use super::stream::{find, submit};
use super::work::{Kernel, Work};
use super::{Handle, api, get};
use crate::error::Code;
use std::ffi::c_void;
use std::sync::Arc;

/// `CUDA_KERNEL_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct KernelParams {
    pub function: Handle,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub params: *const *const c_void,
    pub extra: *const *const c_void,
    pub kernel: Handle,
    pub context: Handle,
}
/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Config {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub stream: Handle,
    pub attributes: *const Attribute,
    pub count: u32,
}
/// `CUlaunchAttribute`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Attribute {
    id: u32,
    pad: u32,
    value: [u32; 16],
}
/// What launch attributes ask for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extras {
    pub cooperative: bool,
    pub cluster: Option<[u32; 3]>,
}
impl Config {
    /// Attributes that change what is run; the others are hints.
    pub fn extras(&self) -> Result<Extras, Code> {
        let mut e = Extras::default();
        for a in super::get_all(self.attributes, self.count as usize)? {
            match a.id {
                2 => e.cooperative = a.value[0] != 0,
                4 => e.cluster = Some([a.value[0], a.value[1], a.value[2]]),
                0..=16 => (),
                _ => return Err(Code::InvalidValue),
            }
        }
        Ok(e)
    }
}

/// Parameter memory from `kernelParams` or `extra`.
fn parameters(
    f: &Function,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> Result<Vec<u8>, Code> {
    let code = f.code();
    let mut out = vec![0; code.param_bytes as usize];
    if !extra.is_null() {
        if !params.is_null() {
            return Err(Code::InvalidValue);
        }
        let (mut buffer, mut bytes) = (std::ptr::null(), 0);
        for i in (0..16).step_by(2) {
            // SAFETY: `extra` is a list of pairs that ends with CU_LAUNCH_PARAM_END (0).
            match unsafe { extra.add(i).read() } as usize {
                0 => break,
                // SAFETY: every key but the end is followed by its value.
                1 => buffer = unsafe { extra.add(i + 1).read() },
                // SAFETY: as above.
                2 => bytes = get(unsafe { extra.add(i + 1).read() }.cast::<usize>())?,
                _ => return Err(Code::InvalidValue),
            }
        }
        if bytes < out.len() || bytes > 0 && buffer.is_null() {
            return Err(Code::InvalidValue);
        }
        out = super::get_all(buffer.cast::<u8>(), out.len())?;
        return Ok(out);
    }
    if params.is_null() && !code.params.is_empty() {
        return Err(Code::InvalidValue);
    }
    for (i, &(at, bytes)) in code.params.iter().enumerate() {
        // SAFETY: `kernelParams` has a pointer for each parameter.
        let value = super::get_all(unsafe { params.add(i).read() }.cast::<u8>(), bytes as usize)?;
        out[at as usize..][..bytes as usize].copy_from_slice(&value);
    }
    Ok(out)
}

/// Checks a launch.
pub(crate) fn prepare(
    f: &Arc<Function>,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    params: *const *const c_void,
    extra: *const *const c_void,
    extras: Extras,
) -> Result<Kernel, Code> {
    let gpu = f.gpu();
    let within = |x: [u32; 3], most: [u32; 3]| (0..3).all(|i| (1..=most[i]).contains(&x[i]));
    let threads = block.iter().map(|b| *b as u64).product::<u64>();
    if !within(grid, [i32::MAX as u32, 65535, 65535]) || !within(block, [1024, 1024, 64]) || threads > 1024 {
        return Err(Code::InvalidValue);
    }
    if threads > f.code().max_threads as u64 || f.code().required_threads.is_some_and(|r| r != block) {
        return Err(Code::InvalidValue);
    }
    if threads > f.max_threads() as u64 {
        return Err(Code::LaunchOutOfResources);
    }
    if shared > f.max_dynamic.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(Code::InvalidValue);
    }
    if let Some(c) = extras.cluster {
        let size = c.iter().map(|x| *x as u64).product::<u64>();
        let most = if f.non_portable() { 16 } else { 8 };
        if gpu.capability.0 < 9 {
            return Err(Code::NotSupported);
        }
        if size == 0 || size > most || (0..3).any(|i| !grid[i].is_multiple_of(c[i])) {
            return Err(Code::InvalidClusterSize);
        }
        if size > 1 {
            eprintln!("cuda-emulator: {}: clusters of more than one block are not emulated", f.name());
            return Err(Code::NotSupported);
        }
    }
    if extras.cooperative {
        let blocks = grid.iter().map(|g| *g as u64).product::<u64>();
        let resident = super::occupancy::blocks(f, gpu, threads as u32, shared as u64) as u64;
        if blocks > resident * gpu.multiprocessors as u64 {
            return Err(Code::CooperativeLaunchTooLarge);
        }
    }
    let (function, params) = (f.clone(), parameters(f, params, extra)?);
    Ok(Kernel { function, grid, block, dynamic_shared: shared, params, cooperative: extras.cooperative })
}
fn launch(
    f: Handle,
    c: &Config,
    params: *const *const c_void,
    extra: *const *const c_void,
    e: Extras,
) -> Result<(), Code> {
    let (stream, context) = find(c.stream)?;
    let f = by_handle(f)?;
    if f.module.context.as_ptr() != Arc::as_ptr(&context) {
        return Err(Code::InvalidHandle);
    }
    let k = prepare(&f, c.grid, c.block, c.shared, params, extra, e)?;
    submit(&stream, &context, Work::Kernel(Arc::new(k)), &[]).map(drop)
}

api! {
    fn cuLaunchKernel / "cuLaunchKernel_ptsz" (
        f: Handle, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: Handle,
        params: *const *const c_void, extra: *const *const c_void,
    ) {
        let (grid, block) = ([gx, gy, gz], [bx, by, bz]);
        let c = Config { grid, block, shared, stream, attributes: std::ptr::null(), count: 0 };
        launch(f, &c, params, extra, Extras::default())
    }
    fn cuLaunchCooperativeKernel / "cuLaunchCooperativeKernel_ptsz" (
        f: Handle, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: Handle,
        params: *const *const c_void,
    ) {
        let (grid, block) = ([gx, gy, gz], [bx, by, bz]);
        let c = Config { grid, block, shared, stream, attributes: std::ptr::null(), count: 0 };
        launch(f, &c, params, std::ptr::null(), Extras { cooperative: true, cluster: None })
    }
    fn cuLaunchKernelEx / "cuLaunchKernelEx_ptsz" (c: *const Config, f: Handle, params: *const *const c_void, extra: *const *const c_void) {
        let c = get(c)?;
        launch(f, &c, params, extra, c.extras()?)
    }
}
