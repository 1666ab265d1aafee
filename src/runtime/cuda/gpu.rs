//! A GPU: its primary context, its limits, its loaded kernels.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::sync::{Arc, Mutex, MutexGuard};

use bytemuck::Pod;
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUjit_option_enum as Jit};

use super::buffer::{Arena, Buffer, Memory, Pinned};
use super::driver::{check, init, is_emulated, load_emulated};
use super::image::{IMAGES, Image, choose};
use super::kernel::{Function, Geometry, Kernel, Work, asked_in};
use super::stream::{Event, Stream};
use crate::error::{Error, Result};

/// A GPU from sm_80 on. Cheap to clone; clones share the context, the first stream and the loaded kernels.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    ordinal: usize,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    name: String,
    machine: Machine,
    emulated: bool,
    blocking: bool,
    /// By the address of their image.
    modules: Mutex<HashMap<usize, sys::CUmodule>>,
    kernels: Mutex<HashMap<(usize, String), Arc<Function>>>,
    /// While [`Gpu::watch`] runs: every launch, its start and its end.
    watched: Mutex<Option<Seen>>,
    /// What [`Gpu::ask`] asks for.
    asked: Mutex<Option<String>>,
}

/// Kernels, how and for what they were launched, and the events around each.
type Seen = Vec<(String, Geometry, Work, [Event; 2])>;

/// A launch that [`Gpu::watch`] saw.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The kernel.
    pub kernel: String,
    /// How it was launched.
    pub geometry: Geometry,
    /// What for.
    pub work: Work,
    /// Microseconds by the GPU's clock from the event before it to the one behind it.
    pub us: f64,
}

// SAFETY: handles of the driver API may be used from any thread.
unsafe impl Send for Inner {}
// SAFETY: as above; what changes lies behind mutexes.
unsafe impl Sync for Inner {}

/// What models of costs know of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Architecture: 80 is sm_80.
    pub arch: u32,
    /// Streaming multiprocessors.
    pub sms: usize,
    /// Most bytes of shared memory of a block; a multiprocessor has 1 KiB more.
    pub shared: usize,
    /// Highest clock.
    pub clock_mhz: u32,
    /// Of device memory.
    pub bandwidth_gbs: u32,
}

impl From<&Gpu> for Machine {
    fn from(gpu: &Gpu) -> Self {
        gpu.0.machine
    }
}

impl Machine {
    /// What is said of a machine without a GPU.
    pub const A100: Self = Self { arch: 80, sms: 108, shared: 166_912, clock_mhz: 1410, bandwidth_gbs: 2039 };

    /// Cycles of an mma of 2048 MAC on a quarter of a multiprocessor.
    pub fn mma(&self) -> f64 {
        match self.arch {
            80 => 8.0,
            90 => 6.5,
            _ => 16.0,
        }
    }
    /// Bytes a cycle that a multiprocessor gets from the second-level cache when all ask.
    pub fn cache(&self) -> f64 {
        match self.arch {
            80 => 35.0,
            90 => 42.0,
            _ => 16.0,
        }
    }
    /// Lanes of a multiprocessor that do f32 arithmetic.
    pub fn lanes(&self) -> f64 {
        if self.arch == 80 { 64.0 } else { 128.0 }
    }
}

/// Number of GPUs that the driver finds.
pub fn count() -> Result<usize> {
    init()?;
    let mut n = 0;
    // SAFETY: the pointer is to a local.
    check(unsafe { sys::cuDeviceGetCount(&mut n) }, || "counting GPUs".into())?;
    Ok(n as usize)
}

impl Gpu {
    /// GPU number `ordinal` of the driver's.
    pub fn open(ordinal: usize) -> Result<Self> {
        let n = count()?;
        if ordinal >= n {
            let there = if n == 1 {
                "the only GPU is cuda:0".into()
            } else {
                format!("there are cuda:0 to cuda:{}", n.max(1) - 1)
            };
            return Err(Error::Device(format!("there is no cuda:{ordinal}: {there}")));
        }
        let what = || format!("opening cuda:{ordinal}");
        let (mut device, mut context) = (0, std::ptr::null_mut());
        let mut name = [0; 128];
        // SAFETY: the pointers are to locals, and the name's length is that of its buffer.
        unsafe {
            check(sys::cuDeviceGet(&mut device, ordinal as i32), what)?;
            check(sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as i32 - 1, device), what)?;
        }
        // SAFETY: the last byte is zero.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let attribute = |a| {
            let mut x = 0;
            // SAFETY: the pointer is to a local.
            check(unsafe { sys::cuDeviceGetAttribute(&mut x, a, device) }, what).map(|()| x as u32)
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let arch = 10 * major + attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if arch < 80 {
            return Err(Error::Device(format!(
                "cuda:{ordinal} ({name}) is too old: it is sm_{arch}, and these kernels need sm_80 (Ampere) or newer"
            )));
        }
        // Thousands of cycles a second; memory moves data twice in a cycle. A driver that does not say is given some value:
        // only predictions differ.
        let [clock, memory, bus] = [
            Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE,
            Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE,
            Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH,
        ]
        .map(|a| attribute(a).unwrap_or(0));
        let or = |value: u64, other: u32| if value == 0 { other } else { value as u32 };
        let machine = Machine {
            arch,
            sms: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
            shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize,
            clock_mhz: or(clock as u64 / 1000, Machine::A100.clock_mhz),
            bandwidth_gbs: or(u64::from(memory) * u64::from(bus) / 4_000_000, Machine::A100.bandwidth_gbs),
        };
        // SAFETY: the pointer is to a local; `Inner::drop` releases what is retained here.
        check(unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) }, what)?;
        let mut inner = Inner {
            ordinal,
            device,
            context,
            stream: std::ptr::null_mut(),
            name,
            machine,
            emulated: is_emulated(),
            blocking: std::env::var_os("INP_CUDA_BLOCKING").is_some_and(|v| v == "1"),
            modules: Mutex::default(),
            kernels: Mutex::default(),
            watched: Mutex::default(),
            asked: Mutex::default(),
        };
        inner.bind()?;
        inner.stream = super::stream::create()?;
        Ok(Self(Arc::new(inner)))
    }
    /// The emulator's GPU (that which `INP_EMULATED_GPU` names, an H100 by default), in this process.
    pub fn emulated() -> Result<Self> {
        load_emulated()?;
        Self::open(0)
    }
    /// Loads the emulator as this process's driver and gives its settings values; then [`Gpu::emulated`] opens its GPU.
    pub fn emulated_with(settings: &[(&str, &str)]) -> Result<Self> {
        load_emulated()?;
        settings.iter().try_for_each(|(name, value)| super::driver::set_emulated(name, value))?;
        Self::emulated()
    }
    /// Does `f` with an event before and behind every launch outside of captures, on whatever thread, and takes their times.
    /// Two at once would share what they see.
    pub fn watch<R>(&self, f: impl FnOnce() -> Result<R>) -> Result<(R, Vec<Watched>)> {
        *self.watched() = Some(Vec::new());
        let done = f();
        let seen = self.watched().take().unwrap_or_default();
        let done = done?;
        self.synchronize()?;
        let timed = |(kernel, geometry, work, [start, end]): (_, _, _, [Event; 2])| {
            Ok(Watched { kernel, geometry, work, us: 1e3 * f64::from(end.since(&start)?) })
        };
        Ok((done, seen.into_iter().map(timed).collect::<Result<_>>()?))
    }
    /// Variants to use from now on instead of those that `INP_KERNEL` asks for, in the same words: for profiles.
    pub fn ask(&self, variants: Option<String>) {
        *self.0.asked.lock().unwrap_or_else(|e| e.into_inner()) = variants;
    }
    /// The variant of this stem that [`Gpu::ask`] or else `INP_KERNEL` asks for.
    pub fn asked(&self, stem: &str) -> Option<String> {
        asked_in(self.0.asked.lock().unwrap_or_else(|e| e.into_inner()).clone(), stem)
    }
    pub(super) fn watched(&self) -> MutexGuard<'_, Option<Seen>> {
        self.0.watched.lock().unwrap_or_else(|e| e.into_inner())
    }
    /// Number of the device: N of `cuda:N`.
    pub fn ordinal(&self) -> usize {
        self.0.ordinal
    }
    /// What the driver calls it.
    pub fn name(&self) -> &str {
        &self.0.name
    }
    /// Architecture: 80 is sm_80.
    pub fn arch(&self) -> u32 {
        self.0.machine.arch
    }
    /// Streaming multiprocessors.
    pub fn sms(&self) -> u32 {
        self.0.machine.sms as u32
    }
    /// Most bytes of shared memory that a block can have.
    pub fn shared_optin(&self) -> u32 {
        self.0.machine.shared as u32
    }
    /// Whether the driver is the emulator.
    pub fn is_emulated(&self) -> bool {
        self.0.emulated
    }
    /// Whether every launch is waited for (`INP_CUDA_BLOCKING=1`), so that an error names its kernel.
    pub fn is_blocking(&self) -> bool {
        self.0.blocking
    }
    /// Bytes of device memory: free, and in all.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the pointers are to locals.
        check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, || "asking for free memory".into())?;
        Ok((free, total))
    }
    /// Makes the context this thread's.
    pub(super) fn bind(&self) -> Result<()> {
        self.0.bind()
    }
    /// The first stream.
    pub fn stream(&self) -> Stream {
        Stream::borrowed(self, self.0.stream)
    }
    /// Another stream.
    pub fn new_stream(&self) -> Result<Stream> {
        self.bind()?;
        Ok(Stream::owned(self, super::stream::create()?))
    }
    /// An event that can take times.
    pub fn event(&self) -> Result<Event> {
        Event::new(self, true)
    }
    /// Waits until the device has done all.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: takes no pointer.
        check(unsafe { sys::cuCtxSynchronize() }, || format!("waiting for cuda:{}", self.ordinal()))
    }
    /// Device memory with what is in `data`.
    pub fn upload<T: Pod>(&self, data: &[T]) -> Result<Buffer<T>> {
        let buffer = self.uninit(data.len())?;
        buffer.upload(&self.stream(), data)?;
        Ok(buffer)
    }
    /// Device memory full of zero bytes.
    pub fn zeros<T: Pod>(&self, len: usize) -> Result<Buffer<T>> {
        let (buffer, stream) = (self.uninit(len)?, self.stream());
        buffer.fill(&stream, 0)?;
        stream.synchronize()?;
        Ok(buffer)
    }
    /// Device memory that nobody wrote.
    pub fn uninit<T: Pod>(&self, len: usize) -> Result<Buffer<T>> {
        let memory = Memory::new(self, len.saturating_mul(size_of::<T>()))?;
        Ok(Buffer::new(Arc::new(memory), 0, len))
    }
    /// Page-locked host memory, zeroed.
    pub fn pinned<T: Pod>(&self, len: usize) -> Result<Pinned<T>> {
        Pinned::new(self, len)
    }
    /// What `f` takes from an arena, all in one allocation. `f` runs twice, first to see how much it takes.
    pub fn arena<R>(&self, f: impl Fn(&mut Arena) -> Result<R>) -> Result<R> {
        let bytes = self.measure(&f)?;
        f(&mut Arena::new(Arc::new(Memory::new(self, bytes)?)))
    }
    /// Bytes that `f` takes from an arena. Its buffers have no memory yet.
    pub fn measure<R>(&self, f: impl Fn(&mut Arena) -> Result<R>) -> Result<usize> {
        let mut dry = Arena::new(Arc::new(Memory::none(self)));
        f(&mut dry)?;
        Ok(dry.used())
    }
    /// An embedded kernel, ready to launch.
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        self.kernel_of(IMAGES, name)
    }
    /// As [`Gpu::kernel`], from any table.
    pub fn kernel_of(&self, images: &'static [Image], name: &str) -> Result<Kernel> {
        let Some((image, _)) = choose(images, name, self.arch()) else {
            return Err(Error::Device(match images.is_empty() {
                true => "this build holds no CUDA kernels, as there was no nvcc: run tools/install-cuda-toolkit and \
                         build again"
                    .into(),
                false => {
                    let (name_of, arch) = (self.name(), self.arch());
                    let has = |i: &&Image| i.kernels.iter().any(|k| k.name == name);
                    match images.iter().filter(has).map(|i| i.arch).min() {
                        None => format!("this build has no kernel {name}"),
                        Some(least) => format!(
                            "this build has kernel {name} from sm_{least} on, and {name_of} is sm_{arch}: build again with \
                             {arch} in INP_CUDA_ARCHS"
                        ),
                    }
                }
            }));
        };
        let key = (image.data.as_ptr() as usize, name.to_owned());
        let mut kernels = self.0.kernels.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(k) = kernels.get(&key) {
            return Ok(Kernel::new(self, k.clone()));
        }
        let module = self.module(image)?;
        let function = Arc::new(Function::load(module, name, self.shared_optin())?);
        kernels.insert(key, function.clone());
        Ok(Kernel::new(self, function))
    }
    /// Loads an image, once. The driver takes its machine code where it fits, the emulator its PTX.
    fn module(&self, image: &'static Image) -> Result<sys::CUmodule> {
        let mut modules = self.0.modules.lock().unwrap_or_else(|e| e.into_inner());
        let key = image.data.as_ptr() as usize;
        if let Some(m) = modules.get(&key) {
            return Ok(*m);
        }
        self.bind()?;
        let mut module = std::ptr::null_mut();
        let mut log = vec![0u8; 8192];
        let mut options = [Jit::CU_JIT_ERROR_LOG_BUFFER, Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let data = image.data.as_ptr().cast();
        // SAFETY: a fat binary says its size, PTX ends with zero; two options with the log's place and size.
        let code = unsafe {
            sys::cuModuleLoadDataEx(&mut module, data, 2, options.as_mut_ptr(), values.as_mut_ptr())
        };
        check(code, || {
            let said = String::from_utf8_lossy(&log);
            let said = said.trim_end_matches('\0').trim();
            let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
            format!("loading {} for sm_{}{said}", image.stem, image.arch)
        })?;
        modules.insert(key, module);
        Ok(module)
    }
}

impl Inner {
    fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained as long as `self` lives.
        check(unsafe { sys::cuCtxSetCurrent(self.context) }, || format!("using cuda:{}", self.ordinal))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            let modules = self.modules.get_mut().unwrap_or_else(|e| e.into_inner());
            // SAFETY: what holds a kernel, a stream or a buffer holds the GPU, so that none is left. Errors of a lost
            // context have been said before.
            unsafe {
                modules.values().for_each(|m| _ = sys::cuModuleUnload(*m));
                if !self.stream.is_null() {
                    sys::cuStreamDestroy_v2(self.stream);
                }
            }
        }
        // SAFETY: retained once in `open`.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}
