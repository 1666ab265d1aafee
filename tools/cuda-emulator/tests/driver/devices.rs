//! Devices and contexts: several devices, primary contexts, current contexts, faults, the predicted time of a launch.

use super::{add, again, alone, module, ok, refused, report};
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DevicePtr, LaunchConfig, PushKernelArg, result};
use inp_cuda_emulator::gpu::Gpu;
use std::ptr::null_mut;

#[test]
fn several_devices_have_their_own_memory() {
    if !again(
        "driver::devices::several_devices_have_their_own_memory",
        &[("INP_EMULATED_GPU", "h100*2,rtx4090")],
    ) {
        return;
    }
    assert_eq!(CudaContext::device_count().unwrap(), 3);
    refused!(sys::cuDeviceGet(&mut 0, 3), CUDA_ERROR_INVALID_DEVICE);
    refused!(sys::cuDeviceGet(&mut 0, -1), CUDA_ERROR_INVALID_DEVICE);
    let all: Vec<_> = (0..3).map(|i| CudaContext::new(i).unwrap()).collect();
    assert_eq!(all[1].name().unwrap(), "NVIDIA H100 80GB HBM3");
    assert_eq!(all[2].compute_capability().unwrap(), (8, 9));
    assert_ne!(all[0].uuid().unwrap().bytes, all[1].uuid().unwrap().bytes);
    for (i, c) in all.iter().enumerate() {
        let s = c.default_stream();
        let f = module(c).load_function("add").unwrap();
        assert_eq!(add(&s, &f, 100)[99], 198.0);
        c.bind_to_thread().unwrap();
        let mut device = -1;
        ok!(sys::cuCtxGetDevice(&mut device));
        assert_eq!(device, i as i32);
    }
    // Memory of one device is copied to another, but its kernels do not reach it.
    let (s0, s1) = (all[0].default_stream(), all[1].default_stream());
    let x = s0.clone_htod(&[3f32; 32]).unwrap();
    let y = s1.alloc_zeros::<f32>(32).unwrap();
    s0.synchronize().unwrap();
    s1.synchronize().unwrap();
    let (px, py) = (x.device_ptr(&s0).0, y.device_ptr(&s1).0);
    ok!(sys::cuMemcpyPeer(py, all[1].cu_ctx(), px, all[0].cu_ctx(), 128));
    assert_eq!(s1.clone_dtoh(&y).unwrap(), vec![3f32; 32]);
    let mut can = 1;
    ok!(sys::cuDeviceCanAccessPeer(&mut can, 0, 1));
    assert_eq!(can, 0);
    let mut ordinal = -1i32;
    let which = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
    ok!(sys::cuPointerGetAttribute((&raw mut ordinal).cast(), which, py));
    assert_eq!(ordinal, 1);
    // A kernel of one context is not launched in a stream of another.
    let f = module(&all[1]).load_function("add").unwrap();
    let n = 32i32;
    let cfg = LaunchConfig::for_num_elems(32);
    // SAFETY: the arguments are those of the kernel.
    let wrong = unsafe { s0.launch_builder(&f).arg(&px).arg(&px).arg(&px).arg(&n).launch(cfg) };
    assert_eq!(wrong.err().unwrap().0, CUresult::CUDA_ERROR_INVALID_HANDLE);
    // SAFETY: as above; that the first operand is out of reach is what is tested.
    unsafe { s1.launch_builder(&f).arg(&px).arg(&py).arg(&py).arg(&n).launch(cfg) }.unwrap();
    assert_eq!(s1.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    // The fault stays with its device.
    assert_eq!(s0.clone_dtoh(&x).unwrap(), vec![3f32; 32]);
}

#[test]
fn machines_are_described_in_a_word() {
    let names = |text: &str| Gpu::list(text).map(|l| l.into_iter().map(|g| g.name).collect::<Vec<_>>());
    assert_eq!(names("h100"), Ok(vec!["h100".into()]));
    assert_eq!(names("h100*2,a100"), Ok(vec!["h100".into(), "h100".into(), "a100".into()]));
    assert!(names("b300").unwrap_err().contains("known are a100, h100"));
    for wrong in ["h100*0", "h100*x", "h100*17", "h100*9,h100*9", ""] {
        assert!(names(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn primary_contexts_are_counted() {
    let _alone = alone();
    ok!(sys::cuInit(0));
    refused!(sys::cuInit(1), CUDA_ERROR_INVALID_VALUE);
    let (mut a, mut b, mut flags, mut active) = (null_mut(), null_mut(), 0, 0);
    ok!(sys::cuDevicePrimaryCtxRetain(&mut a, 0));
    ok!(sys::cuDevicePrimaryCtxRetain(&mut b, 0));
    assert_eq!(a, b);
    ok!(sys::cuDevicePrimaryCtxSetFlags_v2(0, 4));
    ok!(sys::cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
    assert_eq!((flags, active), (4, 1));
    ok!(sys::cuDevicePrimaryCtxSetFlags_v2(0, 0));
    refused!(sys::cuDevicePrimaryCtxSetFlags_v2(0, 1 << 20), CUDA_ERROR_INVALID_VALUE);
    refused!(sys::cuCtxDestroy_v2(a), CUDA_ERROR_INVALID_CONTEXT);
    ok!(sys::cuCtxPushCurrent_v2(a));
    let mut x = 0;
    ok!(sys::cuMemAlloc_v2(&mut x, 64));
    ok!(sys::cuDevicePrimaryCtxRelease_v2(0));
    ok!(sys::cuMemsetD8_v2(x, 0, 64));
    // A reset takes everything with it; the stale context says so.
    ok!(sys::cuDevicePrimaryCtxReset_v2(0));
    refused!(sys::cuMemsetD8_v2(x, 0, 64), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    ok!(sys::cuCtxPopCurrent_v2(&mut b));
    refused!(sys::cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
    refused!(sys::cuDevicePrimaryCtxRetain(&mut a, 7), CUDA_ERROR_INVALID_DEVICE);
    // Contexts of one's own stack up.
    let (mut own, mut now) = (null_mut(), null_mut());
    ok!(sys::cuCtxCreate_v4(&mut own, null_mut(), 0, 0));
    ok!(sys::cuCtxGetCurrent(&mut now));
    assert_eq!(now, own);
    let mut limit = 0;
    ok!(sys::cuCtxSetLimit(sys::CUlimit::CU_LIMIT_STACK_SIZE, 4096));
    ok!(sys::cuCtxGetLimit(&mut limit, sys::CUlimit::CU_LIMIT_STACK_SIZE));
    assert_eq!(limit, 4096);
    ok!(sys::cuCtxDestroy_v2(own));
    refused!(sys::cuCtxPushCurrent_v2(own), CUDA_ERROR_INVALID_CONTEXT);
    refused!(sys::cuCtxSetCurrent(own), CUDA_ERROR_INVALID_CONTEXT);
}

#[test]
fn a_fault_is_sticky_until_the_context_goes() {
    let _alone = alone();
    let c = CudaContext::new_non_primary(0, 0).unwrap();
    c.bind_to_thread().unwrap();
    let (s, t) = (c.new_stream().unwrap(), c.new_stream().unwrap());
    let f = module(&c).load_function("fault").unwrap();
    let null = 0u64;
    let cfg = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the argument is the kernel's; that it points nowhere is what is tested.
    unsafe { s.launch_builder(&f).arg(&null).launch(cfg) }.unwrap();
    let _ = s.synchronize();
    let (mut event, mut x) = (null_mut(), 0);
    for _ in 0..2 {
        refused!(sys::cuStreamSynchronize(t.cu_stream()), CUDA_ERROR_ILLEGAL_ADDRESS);
        refused!(sys::cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
        refused!(sys::cuEventCreate(&mut event, 0), CUDA_ERROR_ILLEGAL_ADDRESS);
        refused!(sys::cuMemAllocAsync(&mut x, 16, t.cu_stream()), CUDA_ERROR_ILLEGAL_ADDRESS);
    }
    // SAFETY: no memory is used when it fails.
    assert_eq!(unsafe { result::malloc_sync(16) }.unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}

#[test]
fn a_counted_launch_has_an_occupancy_and_a_predicted_time() {
    if !again(
        "driver::devices::a_counted_launch_has_an_occupancy_and_a_predicted_time",
        &[("INP_EMULATED_COUNT", "1")],
    ) {
        return;
    }
    let c = CudaContext::new(0).unwrap();
    let f = module(&c).load_function("add").unwrap();
    let n = 1 << 20;
    add(&c.default_stream(), &f, n);
    c.synchronize().unwrap();
    let r = report();
    let l = &r["launches"][0];
    let number = |v: &serde_json::Value| v.as_f64().expect("a number");
    assert_eq!(l["counters"]["flop"], n as u64);
    assert_eq!(number(&l["occupancy"]), 1.0);
    assert!((8.0..32.0).contains(&number(&l["registers"])));
    assert_eq!(l["predicted"]["bound"], "device memory");
    // Twelve bytes an element at 3350 GB/s, and the launch.
    let us = 12.0 * n as f64 / 3350e3 + 1.5;
    assert!((number(&l["predicted"]["us"]) - us).abs() < 1e-6 * us, "{l}");
    assert_eq!(number(&r["sums"][0]["predicted_us"]), number(&l["predicted"]["us"]));
}

#[test]
fn an_older_driver_and_less_memory() {
    let settings = [("INP_EMULATED_DRIVER", "12080"), ("INP_EMULATED_MEMORY", "1048576")];
    if !again("driver::devices::an_older_driver_and_less_memory", &settings) {
        return;
    }
    let mut version = 0;
    ok!(sys::cuDriverGetVersion(&mut version));
    assert_eq!(version, 12080);
    let c = CudaContext::new(0).unwrap();
    let (free, total) = result::mem_get_info().unwrap();
    assert_eq!((free, total), (1 << 20, 1 << 20));
    let s = c.default_stream();
    assert!(s.alloc_zeros::<u8>(1 << 19).is_ok());
    let mut at = 0;
    refused!(sys::cuMemAlloc_v2(&mut at, (1 << 20) + 1), CUDA_ERROR_OUT_OF_MEMORY);
}
