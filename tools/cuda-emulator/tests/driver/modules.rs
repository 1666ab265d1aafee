//! Modules and launches: libraries, JIT messages, targets, occupancy, cooperative launches, forms of parameters.

use super::{alone, ok, refused};
use cudarc::driver::sys::{self, CUmodule, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};
use std::sync::Arc;

const MORE: &str = include_str!("../data/more.ptx");

fn more(c: &Arc<CudaContext>) -> Arc<CudaModule> {
    c.load_module(Ptx::from_src(MORE)).expect("a module")
}
/// Loads text; the result and what the JIT said.
fn load(ptx: &str) -> (CUresult, String) {
    let (c, mut m, mut log) = (CString::new(ptx).unwrap(), null_mut(), vec![0u8; 512]);
    let mut names =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), log.len() as _];
    // SAFETY: the text ends with NUL; the log is as long as its option says.
    let r = unsafe {
        sys::cuModuleLoadDataEx(&mut m, c.as_ptr().cast(), 2, names.as_mut_ptr(), values.as_mut_ptr())
    };
    if r == CUresult::CUDA_SUCCESS {
        ok!(sys::cuModuleUnload(m));
    }
    (r, String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned())
}

#[test]
fn targets_and_versions_are_checked() {
    let _alone = alone();
    let _c = CudaContext::new(0).unwrap();
    let with = |version: &str, target: &str| {
        let v = MORE.lines().find(|l| l.starts_with(".version")).unwrap();
        load(
            &MORE
                .replace(v, &format!(".version {version}"))
                .replace(".target sm_80", &format!(".target {target}")),
        )
    };
    for (version, target) in
        [("9.0", "sm_80"), ("9.0", "sm_90"), ("9.0", "sm_90a"), ("7.0", "sm_80"), ("9.4", "sm_75")]
    {
        assert_eq!(with(version, target).0, CUresult::CUDA_SUCCESS, "{version} {target}");
    }
    for (version, target, what) in [
        ("9.0", "sm_100", "does not run on"),
        ("9.0", "sm_89a", "does not run on"),
        ("9.0", "sm_100a", "does not run on"),
        ("9.0", "sm_120f", "does not run on"),
        ("7.4", "sm_90", "came with 7.8"),
        ("7.8", "sm_90a", "came with 8.0"),
    ] {
        let (r, log) = with(version, target);
        assert_eq!(r, CUresult::CUDA_ERROR_INVALID_PTX, "{version} {target}");
        assert!(log.contains(what), "{log}");
    }
    let (r, log) = with("12.0", "sm_80");
    assert_eq!(r, CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    assert!(log.contains("PTX ISA 12.0"), "{log}");
    // Static shared memory is 48 KiB at most, whatever the device has.
    let shared = |bytes: u32| {
        load(&format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{\n.shared .b8 a[{bytes}];\n.reg .b32 %r<2>;\nmov.u32 %r1, a;\nst.shared.u32 [%r1], %r1;\nret;\n}}\n"
        ))
    };
    assert_eq!(shared(48 << 10).0, CUresult::CUDA_SUCCESS);
    let (r, log) = shared((48 << 10) + 4);
    assert_eq!(r, CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(log.contains("49156 bytes of static shared memory"), "{log}");
    let (r, log) = load(&MORE.replace("cvta.to.global.u64", "frobnicate.u64"));
    assert_eq!(r, CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(log.contains("line") && log.contains("frobnicate"), "{log}");
    // A message that does not fit is cut; an option that does not exist is an error.
    refused!(sys::cuModuleLoadData(&mut null_mut(), null()), CUDA_ERROR_INVALID_VALUE);
    refused!(sys::cuModuleLoadData(&mut null_mut(), [0u8; 16].as_ptr().cast()), CUDA_ERROR_INVALID_PTX);
    refused!(sys::cuModuleLoad(&mut null_mut(), c"no-such-file".as_ptr()), CUDA_ERROR_FILE_NOT_FOUND);
}

#[test]
fn libraries_modules_and_variables() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    let text = CString::new(MORE).unwrap();
    let mut lib = null_mut();
    let p = text.as_ptr().cast();
    ok!(sys::cuLibraryLoadData(&mut lib, p, null_mut(), null_mut(), 0, null_mut(), null_mut(), 0));
    let (mut n, mut kernel, mut f, mut m): (u32, _, _, CUmodule) = (0, null_mut(), null_mut(), null_mut());
    ok!(sys::cuLibraryGetKernelCount(&mut n, lib));
    assert_eq!(n, 4);
    let mut all = [null_mut(); 4];
    ok!(sys::cuLibraryEnumerateKernels(all.as_mut_ptr(), 4, lib));
    ok!(sys::cuLibraryGetKernel(&mut kernel, lib, c"scale".as_ptr()));
    assert!(all.contains(&kernel));
    refused!(sys::cuLibraryGetKernel(&mut kernel.clone(), lib, c"no".as_ptr()), CUDA_ERROR_NOT_FOUND);
    ok!(sys::cuKernelGetFunction(&mut f, kernel));
    ok!(sys::cuLibraryGetModule(&mut m, lib));
    let (mut name, mut offset, mut size) = (null(), 9, 9);
    ok!(sys::cuKernelGetName(&mut name, kernel));
    // SAFETY: the name lives as long as the library.
    assert_eq!(unsafe { std::ffi::CStr::from_ptr(name) }, c"scale");
    ok!(sys::cuFuncGetParamInfo(f, 1, &mut offset, &mut size));
    assert_eq!((offset, size), (8, 4));
    refused!(sys::cuFuncGetParamInfo(f, 2, &mut offset, &mut size), CUDA_ERROR_INVALID_VALUE);
    // Variables can be read and written; kernels see it.
    let (mut at, mut bytes) = (0, 0);
    ok!(sys::cuLibraryGetGlobal(&mut at, &mut bytes, lib, c"offset".as_ptr()));
    assert_eq!(bytes, 16);
    ok!(sys::cuModuleGetGlobal_v2(&mut at, &mut bytes, m, c"factor".as_ptr()));
    ok!(sys::cuMemsetD32_v2(at, 10f32.to_bits(), 1));
    let s = c.default_stream();
    let mut x = s.clone_htod(&[1f32; 8]).unwrap();
    let (mut px, n) = (cudarc::driver::DevicePtrMut::device_ptr_mut(&mut x, &s).0, 8i32);
    let mut args: [*mut c_void; 2] = [(&raw mut px).cast(), std::ptr::from_ref(&n).cast_mut().cast()];
    ok!(sys::cuLaunchKernel(f, 1, 1, 1, 8, 1, 1, 0, null_mut(), args.as_mut_ptr(), null_mut()));
    assert_eq!(s.clone_dtoh(&x).unwrap(), vec![11.; 8]);
    // A kernel handle is launched as a function is.
    ok!(sys::cuLaunchKernel(kernel.cast(), 1, 1, 1, 8, 1, 1, 0, null_mut(), args.as_mut_ptr(), null_mut()));
    assert_eq!(s.clone_dtoh(&x).unwrap(), vec![111.; 8]);
    ok!(sys::cuLibraryUnload(lib));
    let launch = || unsafe {
        // SAFETY: the handle is stale on purpose: the emulator looks it up.
        sys::cuLaunchKernel(f, 1, 1, 1, 8, 1, 1, 0, null_mut(), args.as_ptr().cast_mut(), null_mut())
    };
    assert_eq!(launch(), CUresult::CUDA_ERROR_INVALID_HANDLE);
    refused!(sys::cuLibraryUnload(lib), CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn launches_beyond_a_limit_are_refused() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    let s = c.default_stream();
    let bounded = more(&c).load_function("bounded").unwrap();
    let mut x = s.alloc_zeros::<f32>(1024).unwrap();
    let mut run = |f: &CudaFunction, grid: (u32, u32, u32), block: (u32, u32, u32)| {
        let cfg = LaunchConfig { grid_dim: grid, block_dim: block, shared_mem_bytes: 0 };
        // SAFETY: the argument is the kernel's, and the memory is long enough for its threads.
        unsafe { s.launch_builder(f).arg(&mut x).launch(cfg) }.map(drop).map_err(|e| e.0)
    };
    let invalid = Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(run(&bounded, (1, 1, 1), (128, 1, 1)), Ok(()));
    // `.maxntid`, the block's and the grid's limits, nothing at all.
    assert_eq!(run(&bounded, (1, 1, 1), (129, 1, 1)), invalid);
    assert_eq!(run(&bounded, (1, 1, 1), (1, 1, 65)), invalid);
    assert_eq!(run(&bounded, (1, 65536, 1), (1, 1, 1)), invalid);
    assert_eq!(run(&bounded, (0, 1, 1), (1, 1, 1)), invalid);
    let exact = MORE.replace(".maxntid 128, 1, 1", ".reqntid 64, 2, 1");
    let exact = c.load_module(Ptx::from_src(exact)).unwrap().load_function("bounded").unwrap();
    assert_eq!(run(&exact, (1, 1, 1), (64, 2, 1)), Ok(()));
    assert_eq!(run(&exact, (1, 1, 1), (128, 1, 1)), invalid);
    s.synchronize().unwrap();
}

#[test]
fn occupancy_follows_threads_registers_and_shared_memory() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    let m = more(&c);
    let (scale, bounded) = (m.load_function("scale").unwrap(), m.load_function("bounded").unwrap());
    let active = |f: &CudaFunction, threads, shared| {
        f.occupancy_max_active_blocks_per_multiprocessor(threads, shared, None).unwrap()
    };
    // 2048 threads and 32 blocks on a multiprocessor; 228 KiB of shared memory, of which each block costs one more.
    assert_eq!(active(&scale, 1024, 0), 2);
    assert_eq!(active(&scale, 256, 0), 8);
    assert_eq!(active(&scale, 32, 0), 32);
    assert_eq!(active(&scale, 128, 40 << 10), 5);
    assert_eq!(active(&bounded, 256, 0), 0, "more threads than the kernel allows");
    extern "C" fn none(_: std::ffi::c_int) -> usize {
        0
    }
    let (grid, block) = scale.occupancy_max_potential_block_size(none, 0, 0, None).unwrap();
    assert_eq!((grid, block), (132 * 2, 1024));
    assert_eq!(scale.occupancy_max_potential_block_size(none, 0, 200, None).unwrap().1 % 32, 0);
    assert_eq!(scale.occupancy_available_dynamic_smem_per_block(2, 128).unwrap(), (114 << 10) - 1024);
    let mut n = 0;
    refused!(
        sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut n, scale.cu_function(), 0, 0),
        CUDA_ERROR_INVALID_VALUE
    );
    refused!(
        sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut n, 0x12340 as _, 32, 0),
        CUDA_ERROR_INVALID_HANDLE
    );
}

#[test]
fn all_blocks_of_a_cooperative_launch_meet() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    let s = c.default_stream();
    let f = more(&c).load_function("everyone").unwrap();
    let (mut count, mut seen) = (s.alloc_zeros::<i32>(1).unwrap(), s.alloc_zeros::<i32>(40).unwrap());
    let cfg = |blocks| LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the arguments are those of the kernel.
    unsafe { s.launch_builder(&f).arg(&mut count).arg(&mut seen).launch_cooperative(cfg(40)) }.unwrap();
    assert_eq!(s.clone_dtoh(&seen).unwrap(), vec![40; 40]);
    // 32 blocks on each of 132 multiprocessors can be resident.
    // SAFETY: as above; it is refused.
    let most =
        unsafe { s.launch_builder(&f).arg(&mut count).arg(&mut seen).launch_cooperative(cfg(132 * 32 + 1)) };
    assert_eq!(most.err().unwrap().0, CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
}

#[test]
fn parameters_come_as_pointers_or_as_bytes() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    let s = c.default_stream();
    let f = more(&c).load_function("mixed").unwrap();
    let mut out = s.alloc_zeros::<f32>(1).unwrap();
    let place = cudarc::driver::DevicePtrMut::device_ptr_mut(&mut out, &s).0;
    // char at 0, double at 8, short at 16, pointer at 24.
    let mut bytes = [0u8; 32];
    bytes[0] = 3;
    bytes[8..16].copy_from_slice(&0.5f64.to_le_bytes());
    bytes[16..18].copy_from_slice(&(-2i16).to_le_bytes());
    bytes[24..].copy_from_slice(&place.to_le_bytes());
    let launch = |size: usize, end: usize| {
        let mut extra: [*mut c_void; 5] = [
            1 as _,
            bytes.as_ptr().cast_mut().cast(),
            2 as _,
            std::ptr::from_ref(&size).cast_mut().cast(),
            end as _,
        ];
        // SAFETY: the buffer is as long as it says at least.
        unsafe {
            sys::cuLaunchKernel(
                f.cu_function(),
                1,
                1,
                1,
                1,
                1,
                1,
                0,
                null_mut(),
                null_mut(),
                extra.as_mut_ptr(),
            )
        }
    };
    assert_eq!(launch(32, 0), CUresult::CUDA_SUCCESS);
    assert_eq!(s.clone_dtoh(&out).unwrap(), [1.5]);
    assert_eq!(launch(31, 0), CUresult::CUDA_ERROR_INVALID_VALUE, "too short");
    assert_eq!(launch(32, 77), CUresult::CUDA_ERROR_INVALID_VALUE, "an unknown key");
    refused!(
        sys::cuLaunchKernel(f.cu_function(), 1, 1, 1, 1, 1, 1, 0, null_mut(), null_mut(), null_mut()),
        CUDA_ERROR_INVALID_VALUE
    );
}
