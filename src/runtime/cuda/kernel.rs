//! Kernels and their launches.

use std::ffi::CString;
use std::fmt;
use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::sys::{self, CUfunction_attribute_enum as Attribute, CUresult};

use super::driver::{check, reason, reason_of_kernel};
use super::gpu::Gpu;
use super::stream::{Event, Stream};
use crate::error::{Error, Result};

/// How a kernel is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.grid;
        write!(f, "<{x}x{y}x{z} blocks, {} threads, {} bytes of shared memory>", self.block, self.shared)
    }
}

/// What a launch is for: profiles tell launches apart by it and hold their times beside a roofline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Sizes in words.
    pub shape: String,
    /// Multiply-adds count twice.
    pub flop: f64,
    /// Bytes of operands and results.
    pub bytes: f64,
}

impl Work {
    /// Sizes are written with × between them.
    pub fn new(sizes: &[usize], flop: usize, bytes: usize) -> Self {
        let shape = sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        Self { shape, flop: flop as f64, bytes: bytes as f64 }
    }
}

/// The variant of this stem that `INP_KERNEL=stem=variant,stem=variant…` asks for; `instead`, if given, is read in its place.
pub(super) fn asked_in(instead: Option<String>, stem: &str) -> Option<String> {
    let text = instead.or_else(|| std::env::var("INP_KERNEL").ok())?;
    let mut pairs = text.split(',').filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == stem).map(|(_, variant)| variant.into())
}

/// The variant of this stem that `INP_KERNEL` asks for.
pub fn asked(stem: &str) -> Option<String> {
    asked_in(None, stem)
}

/// Errors: `INP_KERNEL` is not a list of `stem=variant` of these stems.
pub fn check_asked(stems: &[&str]) -> Result<()> {
    let text = std::env::var("INP_KERNEL").unwrap_or_default();
    let known = |pair: &&str| pair.split_once('=').is_some_and(|(stem, _)| stems.contains(&stem));
    match text.split(',').map(str::trim).find(|pair| !pair.is_empty() && !known(pair)) {
        None => Ok(()),
        Some(pair) => Err(Error::usage(format!(
            "INP_KERNEL: \"{pair}\" is no stem=variant; stems with variants are {}",
            stems.join(", ")
        ))),
    }
}

/// A loaded kernel, of a module that its GPU holds.
pub(super) struct Function {
    raw: sys::CUfunction,
    name: String,
    /// Bytes of its one parameter.
    params: usize,
    max_threads: u32,
    /// Most bytes of dynamic shared memory.
    max_shared: u32,
    registers: u32,
    ptx: u32,
}

// SAFETY: handles of the driver API may be used from any thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    pub fn load(module: sys::CUmodule, name: &str, shared_optin: u32) -> Result<Self> {
        let what = || format!("loading kernel {name}");
        let symbol = CString::new(name).map_err(|_| Error::usage(format!("{name:?} is no kernel's name")))?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the module is loaded, the name ends with zero, and the pointer is to a local.
        check(unsafe { sys::cuModuleGetFunction(&mut raw, module, symbol.as_ptr()) }, what)?;
        let (mut at, mut params) = (0, 0);
        // SAFETY: the function is loaded, and the pointers are to locals; every driver that `init` lets pass has the call.
        check(unsafe { sys::cuFuncGetParamInfo(raw, 0, &mut at, &mut params) }, what)?;
        // SAFETY: as above. There is no second parameter.
        if unsafe { sys::cuFuncGetParamInfo(raw, 1, &mut at, &mut 0) } == CUresult::CUDA_SUCCESS {
            return Err(Error::Device(format!("kernel {name} takes more than one structure of parameters")));
        }
        let attribute = |a| {
            let mut x = 0;
            // SAFETY: the function is loaded, and the pointer is to a local.
            check(unsafe { sys::cuFuncGetAttribute(&mut x, a, raw) }, what).map(|()| x as u32)
        };
        let max_threads = attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
        let registers = attribute(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?;
        let ptx = attribute(Attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION)?;
        let max_shared =
            shared_optin - attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?.min(shared_optin);
        let dynamic = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is loaded.
        check(unsafe { sys::cuFuncSetAttribute(raw, dynamic, max_shared as i32) }, what)?;
        Ok(Self { raw, name: name.into(), params, max_threads, max_shared, registers, ptx })
    }
}

/// A kernel, ready to launch.
#[derive(Clone)]
pub struct Kernel {
    gpu: Gpu,
    function: Arc<Function>,
    work: Work,
}

impl Kernel {
    pub(super) fn new(gpu: &Gpu, function: Arc<Function>) -> Self {
        Self { gpu: gpu.clone(), function, work: Work::default() }
    }
    /// The same with what its launches are for.
    pub fn doing(self, work: Work) -> Self {
        Self { work, ..self }
    }
    /// Its name.
    pub fn name(&self) -> &str {
        &self.function.name
    }
    /// Registers of a thread, as the driver says.
    pub fn registers(&self) -> u32 {
        self.function.registers
    }
    /// Architecture of the PTX that it was made from.
    pub fn arch(&self) -> u32 {
        self.function.ptx
    }
    /// Blocks that one multiprocessor holds at a time.
    pub fn occupancy(&self, block: u32, shared: u32) -> Result<u32> {
        self.gpu.bind()?;
        let mut n = 0;
        // SAFETY: the function is loaded, and the pointer is to a local.
        let code = unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut n,
                self.function.raw,
                block as i32,
                shared as usize,
            )
        };
        check(code, || format!("asking for the occupancy of {}", self.name())).map(|()| n as u32)
    }
    /// Queues a launch. `params` is the kernel's one parameter: of another size it is refused.
    pub fn launch<P: Pod>(&self, stream: &Stream, geometry: Geometry, params: &P) -> Result<()> {
        let f = &*self.function;
        let failed =
            |why: String| Error::Launch { kernel: f.name.clone(), geometry: geometry.to_string(), why };
        let Geometry { grid: [x, y, z], block, shared } = geometry;
        let why = if size_of::<P>() != f.params {
            format!("its parameters are {} bytes, but {} were given", f.params, size_of::<P>())
        } else if [x, y, z, block].contains(&0) {
            "nothing to launch".into()
        } else if x > i32::MAX as u32 || y > 65_535 || z > 65_535 {
            "a grid has at most 2147483647 x 65535 x 65535 blocks".into()
        } else if block > f.max_threads {
            format!("its blocks have at most {} threads", f.max_threads)
        } else if shared > f.max_shared {
            format!(
                "a block has at most {} bytes of dynamic shared memory on {}",
                f.max_shared,
                self.gpu.name()
            )
        } else {
            self.gpu.bind()?;
            let timed = self.timed(stream)?;
            // Asked before the launch: afterwards the question would be answered with the kernel's fault.
            let waits = self.gpu.is_blocking() && !stream.is_capturing()?;
            let mut list = [std::ptr::from_ref(params).cast_mut().cast()];
            let none = std::ptr::null_mut();
            // SAFETY: the function is loaded and takes one parameter of the size of `P`, which the driver copies; limits
            // were checked. That its addresses are device memory is what the op that launches it has checked.
            let code = unsafe {
                sys::cuLaunchKernel(
                    f.raw,
                    x,
                    y,
                    z,
                    block,
                    1,
                    1,
                    shared,
                    stream.raw(),
                    list.as_mut_ptr(),
                    none,
                )
            };
            let watched = timed.is_some();
            if let (Some(events), CUresult::CUDA_SUCCESS) = (timed, code) {
                stream.record(&events[1])?;
                if let Some(seen) = &mut *self.gpu.watched() {
                    seen.push((f.name.clone(), geometry, self.work.clone(), events));
                }
            }
            if code != CUresult::CUDA_SUCCESS {
                reason(code)
            } else if waits || watched && self.gpu.is_emulated() {
                // The emulator's report then has the launches in the order that they are watched in.
                match stream.wait_code() {
                    CUresult::CUDA_SUCCESS => return Ok(()),
                    code => reason_of_kernel(code),
                }
            } else {
                return Ok(());
            }
        };
        Err(failed(why))
    }
    /// While launches are watched: the event before this one, recorded, and the one to record behind it.
    fn timed(&self, stream: &Stream) -> Result<Option<[Event; 2]>> {
        if self.gpu.watched().is_none() || stream.is_capturing()? {
            return Ok(None);
        }
        let events = [self.gpu.event()?, self.gpu.event()?];
        stream.record(&events[0])?;
        Ok(Some(events))
    }
}
