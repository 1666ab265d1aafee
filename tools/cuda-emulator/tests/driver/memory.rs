//! Memory: copies of boxes, fills, pools, page-locked and managed memory, what copies do to initialised bytes.

use super::{alone, box3, module, ok, refused};
use cudarc::driver::sys;
use cudarc::driver::{CudaContext, DevicePtr, LaunchConfig, PushKernelArg};
use std::ffi::c_void;
use std::ptr::null_mut;

fn alloc(bytes: usize) -> u64 {
    let mut p = 0;
    ok!(sys::cuMemAlloc_v2(&mut p, bytes));
    p
}
fn read(at: u64, bytes: usize) -> Vec<u8> {
    let mut v = vec![0xee; bytes];
    ok!(sys::cuMemcpyDtoH_v2(v.as_mut_ptr().cast(), at, bytes));
    v
}

#[test]
fn boxes_are_copied_with_their_pitches() {
    let _alone = alone();
    let _c = CudaContext::new(0).unwrap();
    // Three slices of four rows of sixteen bytes; the middle of it goes to a packed box.
    let (a, b) = (alloc(3 * 4 * 16), alloc(2 * 2 * 8));
    let all: Vec<u8> = (0..192).collect();
    ok!(sys::cuMemcpyHtoD_v2(a, all.as_ptr().cast(), 192));
    let mut c = box3();
    (c.srcDevice, c.srcPitch, c.srcHeight) = (a, 16, 4);
    (c.srcXInBytes, c.srcY, c.srcZ) = (4, 1, 1);
    (c.dstDevice, c.dstPitch, c.dstHeight) = (b, 8, 2);
    (c.WidthInBytes, c.Height, c.Depth) = (8, 2, 2);
    ok!(sys::cuMemcpy3D_v2(&c));
    let at = |z: usize, y: usize, x: usize| all[(z * 4 + y) * 16 + x];
    let expected: Vec<u8> = (0..32).map(|i| at(1 + i / 16, 1 + i / 8 % 2, 4 + i % 8)).collect();
    assert_eq!(read(b, 32), expected);
    // Two dimensions, from the host and back.
    let host: Vec<u8> = (0..60).collect();
    let mut back = vec![0u8; 32];
    let mut d = std::mem::MaybeUninit::<sys::CUDA_MEMCPY2D>::zeroed();
    let p = d.as_mut_ptr();
    // SAFETY: the memory types are the only fields for which zero is no value.
    let mut d = unsafe {
        (&raw mut (*p).srcMemoryType).write(sys::CUmemorytype::CU_MEMORYTYPE_HOST);
        (&raw mut (*p).dstMemoryType).write(sys::CUmemorytype::CU_MEMORYTYPE_DEVICE);
        d.assume_init()
    };
    (d.srcHost, d.srcPitch, d.srcXInBytes, d.srcY) = (host.as_ptr().cast(), 12, 2, 1);
    (d.dstDevice, d.dstPitch, d.WidthInBytes, d.Height) = (b, 8, 8, 4);
    ok!(sys::cuMemcpy2D_v2(&d));
    ok!(sys::cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), b, 32));
    assert!(back.iter().enumerate().all(|(i, v)| *v == host[(1 + i / 8) * 12 + 2 + i % 8]));
    // A row longer than the pitch, and a box that ends past its memory.
    d.dstPitch = 4;
    refused!(sys::cuMemcpy2D_v2(&d), CUDA_ERROR_INVALID_VALUE);
    (d.dstPitch, d.Height) = (512, 5);
    refused!(sys::cuMemcpy2DUnaligned_v2(&d), CUDA_ERROR_INVALID_VALUE);
    c.Depth = 3;
    refused!(sys::cuMemcpy3D_v2(&c), CUDA_ERROR_INVALID_VALUE);
    // Fills of rows; addresses must be aligned to the element.
    ok!(sys::cuMemsetD2D8_v2(a, 16, 9, 4, 12));
    ok!(sys::cuMemsetD2D16_v2(a + 4, 16, 0x0102, 2, 12));
    assert_eq!(read(a, 17), [9, 9, 9, 9, 2, 1, 2, 1, 8, 9, 10, 11, 12, 13, 14, 15, 9]);
    refused!(sys::cuMemsetD32_v2(a + 2, 0, 1), CUDA_ERROR_INVALID_VALUE);
    refused!(sys::cuMemsetD8_v2(a, 0, 1 << 20), CUDA_ERROR_INVALID_VALUE);
    let (mut p, mut pitch) = (0, 0);
    ok!(sys::cuMemAllocPitch_v2(&mut p, &mut pitch, 100, 3, 4));
    assert!(pitch >= 100 && pitch % 512 == 0);
    [a, b, p].into_iter().for_each(|x| ok!(sys::cuMemFree_v2(x)));
    refused!(sys::cuMemFree_v2(a), CUDA_ERROR_INVALID_VALUE);
    refused!(sys::cuMemcpyDtoD_v2(a, b, 4), CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn pools_and_stream_ordered_memory() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    let s = c.new_stream().unwrap();
    let (mut pool, mut x, mut kept) = (null_mut(), 0, 0u64);
    ok!(sys::cuDeviceGetDefaultMemPool(&mut pool, 0));
    refused!(sys::cuMemPoolDestroy(pool), CUDA_ERROR_INVALID_VALUE);
    let (threshold, mut value) = (sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, 1u64 << 20);
    ok!(sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut value).cast()));
    ok!(sys::cuMemPoolGetAttribute(pool, threshold, (&raw mut kept).cast()));
    assert_eq!(kept, value);
    ok!(sys::cuMemAllocAsync(&mut x, 4096, s.cu_stream()));
    ok!(sys::cuMemsetD32Async(x, 5, 1024, s.cu_stream()));
    s.synchronize().unwrap();
    assert_eq!(read(x, 8), [5, 0, 0, 0, 5, 0, 0, 0]);
    ok!(sys::cuMemFreeAsync(x, s.cu_stream()));
    refused!(sys::cuMemFreeAsync(x, s.cu_stream()), CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuMemAllocFromPoolAsync(&mut x, 64, pool, s.cu_stream()));
    ok!(sys::cuMemFree_v2(x));
    refused!(sys::cuMemAllocAsync(&mut x, 1 << 50, s.cu_stream()), CUDA_ERROR_OUT_OF_MEMORY);
    // In a capture memory is the graph's: a node allocates, another one frees.
    s.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    ok!(sys::cuMemAllocAsync(&mut x, 256, s.cu_stream()));
    ok!(sys::cuMemsetD8Async(x, 3, 256, s.cu_stream()));
    ok!(sys::cuMemFreeAsync(x, s.cu_stream()));
    let g = s.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
    g.launch().unwrap();
    g.launch().unwrap();
    s.synchronize().unwrap();
    // Memory info goes back to where it was.
    let info = || {
        let (mut free, mut all) = (0, 0);
        ok!(sys::cuMemGetInfo_v2(&mut free, &mut all));
        (free, all)
    };
    drop(g);
    let before = info();
    let y = alloc(1 << 20);
    assert_eq!(info(), (before.0 - (1 << 20), before.1));
    ok!(sys::cuMemFree_v2(y));
    assert_eq!(info(), before);
}

#[test]
fn host_memory_is_pinned_and_known() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    let s = c.new_stream().unwrap();
    let f = module(&c).load_function("add").unwrap();
    let (mut p, mut device, mut flags) = (null_mut::<c_void>(), 0u64, 0);
    let write_combined = 4;
    ok!(sys::cuMemHostAlloc(&mut p, 256, 2 | write_combined));
    ok!(sys::cuMemHostGetFlags(&mut flags, p));
    assert_eq!(flags, 2 | write_combined);
    refused!(sys::cuMemHostAlloc(&mut p.clone(), 256, 8), CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuMemHostGetDevicePointer_v2(&mut device, p, 0));
    // SAFETY: 256 bytes, not yet used by the device.
    let x = unsafe { std::slice::from_raw_parts_mut(p.cast::<f32>(), 64) };
    x.fill(4.0);
    let n = 64i32;
    // SAFETY: the arguments are those of the kernel; the memory is mapped.
    unsafe {
        s.launch_builder(&f)
            .arg(&device)
            .arg(&device)
            .arg(&device)
            .arg(&n)
            .launch(LaunchConfig::for_num_elems(64))
    }
    .unwrap();
    s.synchronize().unwrap();
    assert!(x.iter().all(|v| *v == 8.0));
    // What a pointer is.
    let (mut kind, mut managed, mut range) = (0u32, 9u32, 0usize);
    use sys::CUpointer_attribute as A;
    ok!(sys::cuPointerGetAttribute((&raw mut kind).cast(), A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p as u64));
    ok!(sys::cuPointerGetAttribute((&raw mut managed).cast(), A::CU_POINTER_ATTRIBUTE_IS_MANAGED, p as u64));
    ok!(sys::cuPointerGetAttribute(
        (&raw mut range).cast(),
        A::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
        p as u64 + 8
    ));
    assert_eq!((kind, managed, range), (1, 0, 256));
    ok!(sys::cuMemFreeHost(p));
    refused!(sys::cuMemFreeHost(p), CUDA_ERROR_INVALID_VALUE);
    refused!(
        sys::cuPointerGetAttribute((&raw mut kind).cast(), A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p as u64),
        CUDA_ERROR_INVALID_VALUE
    );
    // Memory of the program, registered.
    let mut own = vec![1f32; 1024];
    let q: *mut c_void = own.as_mut_ptr().cast();
    ok!(sys::cuMemHostRegister_v2(q, 4096, 0));
    refused!(sys::cuMemHostRegister_v2(q, 4096, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    refused!(sys::cuMemFreeHost(q), CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuMemHostUnregister(q));
    refused!(sys::cuMemHostUnregister(q), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    // Managed memory: host and device use one address.
    let mut m = 0;
    refused!(sys::cuMemAllocManaged(&mut m, 64, 0), CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuMemAllocManaged(&mut m, 256, 1));
    // SAFETY: 256 bytes of managed memory that no kernel uses now.
    unsafe { std::slice::from_raw_parts_mut(m as *mut f32, 64) }.fill(1.0);
    // SAFETY: the arguments are those of the kernel.
    unsafe { s.launch_builder(&f).arg(&m).arg(&m).arg(&m).arg(&n).launch(LaunchConfig::for_num_elems(64)) }
        .unwrap();
    s.synchronize().unwrap();
    // SAFETY: as above.
    assert_eq!(unsafe { *(m as *const f32).add(63) }, 2.0);
    let place = sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: 0 };
    ok!(sys::cuMemPrefetchAsync_v2(m, 256, place, 0, s.cu_stream()));
    ok!(sys::cuMemAdvise_v2(m, 256, sys::CUmem_advise::CU_MEM_ADVISE_SET_READ_MOSTLY, place));
    let plain = s.alloc_zeros::<f32>(64).unwrap();
    let at = plain.device_ptr(&s).0;
    refused!(sys::cuMemPrefetchAsync_v2(at, 256, place, 0, s.cu_stream()), CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuMemFree_v2(m));
}

#[test]
fn copies_carry_what_is_initialised() {
    // The checkers are chosen when the driver starts: in a process of its own.
    if !super::again(
        "driver::memory::copies_carry_what_is_initialised",
        &[("INP_EMULATED_CHECK", "initcheck")],
    ) {
        return;
    }
    let c = CudaContext::new(0).unwrap();
    let s = c.default_stream();
    let f = module(&c).load_function("add").unwrap();
    let (a, b, out) = (alloc(4096), alloc(4096), alloc(4096));
    ok!(sys::cuMemsetD8_v2(a, 0, 2048));
    ok!(sys::cuMemsetD8_v2(b, 0, 4096));
    // The second half of `a` was never written, so that of `b` is not any more.
    ok!(sys::cuMemcpyDtoD_v2(b, a, 4096));
    let run = |at: u64| {
        let n = 32i32;
        // SAFETY: the arguments are those of the kernel.
        unsafe {
            s.launch_builder(&f).arg(&at).arg(&at).arg(&out).arg(&n).launch(LaunchConfig::for_num_elems(32))
        }
        .unwrap();
        s.synchronize().unwrap();
    };
    run(b);
    assert_eq!(super::findings(), 0);
    run(b + 2048);
    assert_eq!(super::findings(), 2, "both operands");
    // From the host all is written.
    ok!(sys::cuMemcpyHtoD_v2(b, vec![0u8; 4096].as_ptr().cast(), 4096));
    run(b + 2048);
    assert_eq!(super::findings(), 2);
}
