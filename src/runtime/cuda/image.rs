//! The embedded kernels: PTX and machine code by architecture, as build.rs made them.

/// A `.cu` file compiled for an architecture.
#[derive(Debug)]
pub struct Image {
    /// The file's stem.
    pub stem: &'static str,
    /// 80 is sm_80.
    pub arch: u32,
    /// PTX.
    pub ptx: &'static str,
    /// What ptxas made of exactly that PTX; may be empty.
    pub cubin: &'static [u8],
    /// Its kernels.
    pub kernels: &'static [KernelInfo],
}

/// What ptxas said of a kernel.
#[derive(Debug)]
pub struct KernelInfo {
    /// Name.
    pub name: &'static str,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of register spills, stored and loaded.
    pub spills: u32,
    /// Bytes of static shared memory.
    pub shared: u32,
}

/// Every kernel of this build; empty when it was built without nvcc.
pub const IMAGES: &[Image] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The image of a kernel that a device of architecture `arch` runs, and whether its machine code does (else the driver
/// compiles its PTX): machine code of the same generation, the newest that the device has; else the newest PTX.
pub fn choose<'a>(images: &'a [Image], kernel: &str, arch: u32) -> Option<(&'a Image, bool)> {
    let has = |i: &&Image| i.arch <= arch && i.kernels.iter().any(|k| k.name == kernel);
    let machine = |i: &&Image| !i.cubin.is_empty() && i.arch / 10 == arch / 10;
    let newest = |machine_only: bool| {
        images.iter().filter(has).filter(|i| !machine_only || machine(i)).max_by_key(|i| i.arch)
    };
    newest(true).map(|i| (i, true)).or_else(|| newest(false).map(|i| (i, false)))
}
