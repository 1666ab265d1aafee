//! The embedded kernels by architecture, as build.rs made them.

/// A `.cu` file compiled for an architecture.
#[derive(Debug)]
pub struct Image {
    /// The file's stem.
    pub stem: &'static str,
    /// 80 is sm_80.
    pub arch: u32,
    /// A fat binary with PTX and what ptxas made of exactly that PTX; or PTX alone, ending with a zero byte.
    pub data: &'static [u8],
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
/// compiles its PTX): the newest that the device has, machine code of its own generation before PTX.
pub fn choose<'a>(images: &'a [Image], kernel: &str, arch: u32) -> Option<(&'a Image, bool)> {
    let has = |i: &&Image| i.arch <= arch && i.kernels.iter().any(|k| k.name == kernel);
    let image = images.iter().filter(has).max_by_key(|i| i.arch)?;
    Some((image, image.arch / 10 == arch / 10 && image.data.starts_with(&FATBIN)))
}

/// How a fat binary begins.
const FATBIN: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();
