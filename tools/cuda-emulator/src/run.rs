//! A device in a few lines, without the driver API: for tests and experiments.
//!
//! ```no_run
//! use inp_cuda_emulator::{options::Options, run::Machine};
//! let mut m = Machine::new("h100", Options::all()).unwrap();
//! m.load(&std::fs::read_to_string("scale.ptx").unwrap()).unwrap();
//! let x = m.upload(&[1f32, 2., 3.]);
//! m.launch("scale", 1, 32, 0, &[x.into(), 3u32.into(), 2f32.into()]).ok();
//! assert_eq!(m.read::<f32>(x, 3), [2., 4., 6.]);
//! ```

use crate::error::PtxError;
use crate::exec::launch::{Launch, Program, Report};
use crate::gpu::Gpu;
use crate::memory::Memory;
use crate::options::Options;

/// A device with at most one module.
pub struct Machine {
    /// The device.
    pub gpu: Gpu,
    /// What to check, count, vary: may be changed between launches.
    pub options: Options,
    /// Its memory.
    pub memory: Memory,
    /// The module.
    pub program: Option<Program>,
}

/// A value that host and device lay out alike.
pub trait Plain: Copy {
    /// Its bytes, little-endian, appended.
    fn put(self, to: &mut Vec<u8>);
    /// From its bytes.
    fn take(from: &[u8]) -> Self;
}
macro_rules! plain {
    ($($t:ty)*) => {$(
        impl Plain for $t {
            fn put(self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }
            fn take(from: &[u8]) -> Self {
                let mut x = [0; size_of::<Self>()];
                x.copy_from_slice(from);
                Self::from_le_bytes(x)
            }
        }
        impl From<$t> for Arg {
            fn from(x: $t) -> Self {
                let mut bytes = Vec::new();
                x.put(&mut bytes);
                Self(bytes)
            }
        }
    )*};
}
plain!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 half::f16 half::bf16);

/// Bytes of one kernel argument. From any [`Plain`] number; `Arg(bytes)` for structures.
#[derive(Clone, Debug)]
pub struct Arg(pub Vec<u8>);

/// Grid or block: from a number, a pair or three numbers.
#[derive(Clone, Copy, Debug)]
pub struct Dim(pub [u32; 3]);
impl From<u32> for Dim {
    fn from(x: u32) -> Self {
        Self([x, 1, 1])
    }
}
impl From<(u32, u32)> for Dim {
    fn from((x, y): (u32, u32)) -> Self {
        Self([x, y, 1])
    }
}
impl From<[u32; 3]> for Dim {
    fn from(x: [u32; 3]) -> Self {
        Self(x)
    }
}

impl Machine {
    /// A device by its short name (`h100`), its memory empty.
    pub fn new(gpu: &str, options: Options) -> Result<Self, String> {
        let gpu = Gpu::named(gpu).ok_or_else(|| format!("no GPU is called \"{gpu}\""))?;
        let memory =
            Memory::new(gpu.memory).map_err(|c| format!("device memory cannot be reserved: {c:?}"))?;
        if options.checks() {
            memory.watch().map_err(|c| format!("memory of the checkers cannot be reserved: {c:?}"))?;
        }
        Ok(Self { gpu, options, memory, program: None })
    }
    /// Parses and decodes a module, which replaces the one before.
    pub fn load(&mut self, ptx: &str) -> Result<(), PtxError> {
        let module = crate::ptx::parse(ptx)?;
        if let Some(p) = self.program.take() {
            p.unload(&self.memory);
        }
        self.program = Some(Program::load(&module, &self.memory, &self.gpu)?);
        Ok(())
    }
    /// Allocates device memory; poisoned when there is a seed.
    ///
    /// # Panics
    /// When the device has no more.
    pub fn alloc(&self, bytes: usize) -> u64 {
        match self.memory.allocate(bytes as u64, self.options.seed.is_some()) {
            Ok(at) => at,
            Err(c) => panic!("{bytes} bytes cannot be allocated: {c:?}"),
        }
    }
    /// Allocates and writes.
    pub fn upload<T: Plain>(&self, data: &[T]) -> u64 {
        let at = self.alloc(size_of_val(data).max(1));
        self.write(at, data);
        at
    }
    /// Writes device memory.
    ///
    /// # Panics
    /// Outside of it.
    pub fn write<T: Plain>(&self, at: u64, data: &[T]) {
        let mut bytes = Vec::with_capacity(size_of_val(data));
        data.iter().for_each(|x| x.put(&mut bytes));
        assert!(self.memory.write(at, &bytes), "{} bytes at {at:#x} are not device memory", bytes.len());
    }
    /// Reads device memory.
    ///
    /// # Panics
    /// Outside of it.
    pub fn read<T: Plain>(&self, at: u64, n: usize) -> Vec<T> {
        let mut bytes = vec![0; n * size_of::<T>()];
        assert!(self.memory.read(at, &mut bytes), "{} bytes at {at:#x} are not device memory", bytes.len());
        bytes.chunks_exact(size_of::<T>()).map(T::take).collect()
    }
    /// Address of a module-scope variable.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.program.as_ref()?.globals.get(name).map(|x| x.0)
    }
    /// Launches a kernel; arguments are placed as its parameters are.
    ///
    /// # Panics
    /// When there is no such kernel, or its parameters are not of these sizes.
    pub fn launch(
        &self,
        name: &str,
        grid: impl Into<Dim>,
        block: impl Into<Dim>,
        shared: u32,
        args: &[Arg],
    ) -> Report {
        self.start(name, grid.into().0, block.into().0, shared, args, false)
    }
    /// As [`Self::launch`], with all blocks resident at once.
    pub fn cooperate(
        &self,
        name: &str,
        grid: impl Into<Dim>,
        block: impl Into<Dim>,
        shared: u32,
        args: &[Arg],
    ) -> Report {
        self.start(name, grid.into().0, block.into().0, shared, args, true)
    }
    fn start(
        &self,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        args: &[Arg],
        cooperative: bool,
    ) -> Report {
        let Some(program) = &self.program else { panic!("no module is loaded") };
        let Some(kernel) = program.function(name) else { panic!("the module has no kernel {name}") };
        let code = &program.functions[kernel];
        assert_eq!(args.len(), code.params.len(), "arguments of {name}");
        let mut params = vec![0; code.param_bytes as usize];
        for (n, (arg, &(at, bytes))) in args.iter().zip(&code.params).enumerate() {
            assert_eq!(arg.0.len() as u64, bytes, "bytes of argument {n} of {name}");
            params[at as usize..(at + bytes) as usize].copy_from_slice(&arg.0);
        }
        Launch {
            program,
            kernel,
            grid,
            block,
            dynamic_shared,
            params,
            cooperative,
            workspace: 0,
            memory: &self.memory,
            gpu: &self.gpu,
            options: &self.options,
        }
        .run()
    }
}

impl Report {
    /// Nothing to complain about.
    ///
    /// # Panics
    /// With what was.
    #[track_caller]
    pub fn ok(&self) {
        if let Some((site, fault)) = &self.fault {
            panic!("{:?}: {fault} in {site}", fault.code);
        }
        if let Some(f) = self.findings.first() {
            panic!("{} findings, the first: {:?}: {} in {}", self.findings.len(), f.tool, f.what, f.site);
        }
    }
}
