//! The devices, as `gpus.json` describes them.

use super::state::{device, driver, setting};
use super::{api, put, text};
use crate::error::Code;
use crate::gpu::Gpu;

/// What the driver says it is, unless `INP_EMULATED_DRIVER` says otherwise: CUDA 13.0.
const VERSION: i32 = 13000;

fn gpu(dev: i32) -> Result<&'static Gpu, Code> {
    Ok(&device(dev)?.gpu)
}
/// An attribute by its number in `CUdevice_attribute`; those that say nothing about a compute kernel are 0.
fn attribute(g: &Gpu, a: u32) -> Result<i32, Code> {
    Ok(match a {
        1..=3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65535,
        8 => 48 << 10,
        9 => 64 << 10,
        10 => 32,
        11 => i32::MAX,
        12 | 82 => g.registers as i32,
        13 => g.clock as i32,
        14 | 30 => 512,
        16 => g.multiprocessors as i32,
        18 => g.integrated as i32,
        // Overlap, mapped host memory, concurrent kernels, unified addressing, priorities, L1, managed, preemption, host
        // registration, cooperative launch, pools.
        15 | 19 | 31 | 41 | 78 | 79 | 80 | 83 | 89 | 90 | 91 | 95 | 99 | 115 => 1,
        36 => g.memory_clock as i32,
        37 => g.bus as i32,
        38 => g.l2 as i32,
        39 => g.threads as i32,
        40 => 3,
        51 => 32,
        75 => g.capability.0 as i32,
        76 => g.capability.1 as i32,
        81 => g.shared_per_multiprocessor as i32,
        87 => {
            if g.capability.0 == 9 || g.capability == (8, 0) {
                2
            } else {
                64
            }
        }
        97 => g.shared_per_block as i32,
        106 => g.blocks as i32,
        111 => crate::roofline::RESERVED_SHARED as i32,
        120 => (g.capability.0 >= 9) as i32,
        1..=160 => 0,
        _ => return Err(Code::InvalidValue),
    })
}
fn uuid(out: *mut [u8; 16], dev: i32) -> Result<(), Code> {
    let mut id = *b"emulated\0\0\0\0\0\0\0\0";
    for (to, from) in id[8..].iter_mut().zip(gpu(dev)?.name.bytes()) {
        *to = from;
    }
    // Two equal ones differ in the last byte.
    id[15] ^= dev as u8;
    put(out, id)
}

api! {
    fn cuDriverGetVersion(out: *mut i32) {
        let asked = setting("INP_EMULATED_DRIVER").filter(|v| !v.is_empty());
        put(out, asked.map_or(Ok(VERSION), |v| v.parse().map_err(|_| Code::InvalidValue))?)
    }
    fn cuDeviceGet(out: *mut i32, ordinal: i32) {
        gpu(ordinal)?;
        put(out, ordinal)
    }
    fn cuDeviceGetCount(out: *mut i32) {
        put(out, driver()?.devices.len() as i32)
    }
    fn cuDeviceGetName(out: *mut std::ffi::c_char, room: i32, dev: i32) {
        let name = gpu(dev)?.product.as_bytes();
        if out.is_null() || room < 1 {
            return Err(Code::InvalidValue);
        }
        let n = name.len().min(room as usize - 1);
        // SAFETY: the caller says that `room` bytes can be written.
        unsafe {
            std::ptr::copy_nonoverlapping(name.as_ptr(), out.cast(), n);
            out.add(n).write(0);
        }
        Ok(())
    }
    fn cuDeviceGetUuid(out: *mut [u8; 16], dev: i32) {
        uuid(out, dev)
    }
    fn cuDeviceGetUuid_v2(out: *mut [u8; 16], dev: i32) {
        uuid(out, dev)
    }
    fn cuDeviceTotalMem_v2(out: *mut usize, dev: i32) {
        put(out, gpu(dev)?.memory as usize)
    }
    fn cuDeviceGetAttribute(out: *mut i32, which: u32, dev: i32) {
        put(out, attribute(gpu(dev)?, which)?)
    }
    fn cuDeviceComputeCapability(major: *mut i32, minor: *mut i32, dev: i32) {
        let g = gpu(dev)?;
        put(major, g.capability.0 as i32)?;
        put(minor, g.capability.1 as i32)
    }
    fn cuDeviceGetPCIBusId(out: *mut std::ffi::c_char, room: i32, dev: i32) {
        gpu(dev)?;
        if room < 13 {
            return Err(Code::InvalidValue);
        }
        let mut id = *b"0000:00:00.0\0";
        id[6] = b"0123456789ABCDEF"[dev as usize % 16];
        put(out.cast(), id)
    }
    fn cuDeviceGetByPCIBusId(out: *mut i32, id: *const std::ffi::c_char) {
        let id = text(id)?;
        let place = id.strip_prefix("0000:").unwrap_or(&id);
        let ordinal = place.strip_suffix(":00.0").and_then(|n| i32::from_str_radix(n, 16).ok());
        let ordinal = ordinal.ok_or(Code::InvalidValue)?;
        gpu(ordinal)?;
        put(out, ordinal)
    }
    fn cuDeviceGetP2PAttribute(out: *mut i32, which: u32, from: i32, to: i32) {
        gpu(from)?;
        gpu(to)?;
        if from == to || !(1..=5).contains(&which) {
            return Err(Code::InvalidValue);
        }
        put(out, 0)
    }
    fn cuDeviceGetExecAffinitySupport(out: *mut i32, _kind: u32, dev: i32) {
        gpu(dev)?;
        put(out, 0)
    }
    fn cuDeviceGetProperties(out: *mut [i32; 14], dev: i32) {
        let g = gpu(dev)?;
        let [most, x, y] = [1024, i32::MAX, 65535];
        let (shared, registers, clock) = (48 << 10, g.registers as i32, g.clock as i32);
        put(out, [most, most, most, 64, x, y, y, shared, 64 << 10, 32, x, registers, clock, 512])
    }
    fn cuDeviceCanAccessPeer(out: *mut i32, dev: i32, peer: i32) {
        gpu(dev)?;
        gpu(peer)?;
        put(out, 0)
    }
}
