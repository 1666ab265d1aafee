//! The driver API through an unmodified cudarc, in this process by the switch. Kernels: `data/driver.cu`, compiled to
//! `data/driver.ptx` by nvcc 13.0 (`-ptx -arch=sm_80`).

use cudarc::driver::sys::{self, CUresult, CUstreamCaptureMode as Mode};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, LaunchConfig, PushKernelArg, result,
};
use cudarc::nvrtc::Ptx;
use inp_cuda_emulator::switch;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

mod devices;
mod graphs;
mod memory;
mod modules;
mod streams;
mod symbols;

/// A call of the API that succeeds.
macro_rules! ok {
    ($call:expr) => {
        // SAFETY: handles and pointers are the test's own and live over the call.
        assert_eq!(unsafe { $call }, cudarc::driver::sys::CUresult::CUDA_SUCCESS, stringify!($call))
    };
}
/// A call of the API that fails with a code.
macro_rules! refused {
    ($call:expr, $code:ident) => {
        // SAFETY: as in `ok`; what is wrong on purpose is a number that the emulator looks up.
        assert_eq!(unsafe { $call }, cudarc::driver::sys::CUresult::$code, stringify!($call))
    };
}
pub(crate) use {ok, refused};

/// The emulated driver.
pub(crate) fn library() -> std::path::PathBuf {
    let exe = std::env::current_exe().expect("this program");
    let folder = exe.parent().expect("its folder");
    let file = [folder.to_path_buf(), folder.join("..")].map(|f| f.join("libinp_cuda_emulator.so"));
    file.into_iter().find(|f| f.exists()).expect("the cdylib is built with the tests")
}
/// Tests that share the primary context follow each other; a fault must not meet another test.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static LOAD: Once = Once::new();
    LOAD.call_once(|| switch::load(&library()).expect("loads"));
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
/// For tests that need a driver with other settings: runs one again in a process of its own and says false; says true there.
fn again(test: &str, settings: &[(&str, &str)]) -> bool {
    const INSIDE: &str = "INP_EMULATOR_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        drop(alone());
        return true;
    }
    let report = std::env::temp_dir().join(format!(
        "inp-emulator-{}-{}.json",
        std::process::id(),
        test.replace(':', "-")
    ));
    let exe = std::env::current_exe().expect("this program");
    let out = std::process::Command::new(exe)
        .args(["--exact", test, "--nocapture"])
        .envs(settings.iter().copied())
        .envs([(INSIDE, "1"), ("INP_EMULATED_REPORT", report.to_str().expect("a path in UTF-8"))])
        .output()
        .expect("runs");
    let _ = std::fs::remove_file(report);
    let text = [out.stdout, out.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    false
}
/// The report of this process, which is written whenever it waits for the device.
fn report() -> serde_json::Value {
    let file = std::env::var("INP_EMULATED_REPORT").expect("set by `again`");
    serde_json::from_str(&std::fs::read_to_string(file).expect("a report")).expect("JSON")
}
fn findings() -> u64 {
    report()["findings"].as_u64().expect("a number")
}
/// A copy of nothing between device addresses.
fn box3() -> sys::CUDA_MEMCPY3D {
    let mut b = std::mem::MaybeUninit::<sys::CUDA_MEMCPY3D>::zeroed();
    let p = b.as_mut_ptr();
    // SAFETY: the memory types are the only fields for which zero is no value.
    unsafe {
        (&raw mut (*p).srcMemoryType).write(sys::CUmemorytype::CU_MEMORYTYPE_DEVICE);
        (&raw mut (*p).dstMemoryType).write(sys::CUmemorytype::CU_MEMORYTYPE_DEVICE);
        b.assume_init()
    }
}
fn module(c: &Arc<CudaContext>) -> Arc<CudaModule> {
    c.load_module(Ptx::from_src(include_str!("data/driver.ptx"))).expect("a module")
}
fn add(s: &Arc<CudaStream>, f: &CudaFunction, n: usize) -> Vec<f32> {
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let (a, b) = (s.clone_htod(&x).unwrap(), s.clone_htod(&x).unwrap());
    let mut c = s.alloc_zeros::<f32>(n).unwrap();
    let count = n as i32;
    let mut l = s.launch_builder(f);
    l.arg(&a).arg(&b).arg(&mut c).arg(&count);
    // SAFETY: the arguments are those of `add`, and its grid covers `n` elements.
    unsafe { l.launch(LaunchConfig::for_num_elems(n as u32)) }.unwrap();
    s.clone_dtoh(&c).unwrap()
}

#[test]
fn adds_vectors() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    assert_eq!(c.name().unwrap(), "NVIDIA H100 80GB HBM3");
    assert_eq!(c.compute_capability().unwrap(), (9, 0));
    let f = module(&c).load_function("add").unwrap();
    for s in [c.default_stream(), c.new_stream().unwrap()] {
        let y = add(&s, &f, 1000);
        assert!(y.iter().enumerate().all(|(i, v)| *v == 2.0 * i as f32));
    }
}

#[test]
fn events_order_streams() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    let (a, b) = (c.new_stream().unwrap(), c.new_stream().unwrap());
    let mut x = a.alloc_zeros::<u32>(1 << 20).unwrap();
    for round in 1..20u32 {
        a.memcpy_htod(&vec![round; 1 << 20], &mut x).unwrap();
        let e = a.record_event(None).unwrap();
        b.wait(&e).unwrap();
        let y = b.clone_dtoh(&x).unwrap();
        assert!(y.iter().all(|v| *v == round));
    }
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let (start, end) = (a.record_event(timed).unwrap(), a.record_event(timed).unwrap());
    assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
}

#[test]
fn captures_and_replays() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    // SAFETY: this test orders its streams itself.
    unsafe { c.disable_event_tracking() };
    let f = module(&c).load_function("add").unwrap();
    let (s, side) = (c.new_stream().unwrap(), c.new_stream().unwrap());
    let mut x = s.clone_htod(&vec![1f32; 256]).unwrap();
    let one = s.clone_htod(&vec![1f32; 256]).unwrap();
    s.synchronize().unwrap();
    s.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    side.join(&s).unwrap();
    let n = 256i32;
    let (view, cfg) = (x.as_view_mut(), LaunchConfig::for_num_elems(256));
    let p = {
        use cudarc::driver::DevicePtr;
        view.device_ptr(&side).0
    };
    // SAFETY: the arguments are those of `add`, and the memory outlives the graph.
    unsafe { side.launch_builder(&f).arg(&p).arg(&one).arg(&p).arg(&n).launch(cfg) }.unwrap();
    s.join(&side).unwrap();
    let g = s.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
    for _ in 0..3 {
        g.launch().unwrap();
    }
    assert_eq!(s.clone_dtoh(&x).unwrap(), vec![4f32; 256]);

    // What hardware refuses in a capture.
    s.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    assert_eq!(s.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    let end = s.end_capture(sys::CUgraphInstantiate_flags(0));
    assert_eq!(end.err().unwrap().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    s.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    side.join(&s).unwrap();
    // SAFETY: the arguments are those of `add`, and the memory outlives the graph.
    unsafe { side.launch_builder(&f).arg(&p).arg(&one).arg(&p).arg(&n).launch(cfg) }.unwrap();
    let end = s.end_capture(sys::CUgraphInstantiate_flags(0));
    assert_eq!(end.err().unwrap().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    s.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    assert_eq!(
        // SAFETY: it fails, so that no memory is there to be misused.
        unsafe { result::malloc_sync(16) }.unwrap_err().0,
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    );
    let _ = s.end_capture(sys::CUgraphInstantiate_flags(0));
    let legacy = c.default_stream().begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);
    assert_eq!(legacy.unwrap_err().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

#[test]
fn refuses_what_hardware_refuses() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    let s = c.default_stream();
    let m = module(&c);
    assert_eq!(m.load_function("nothing").err().unwrap().0, CUresult::CUDA_ERROR_NOT_FOUND);
    let f = m.load_function("dynamic").unwrap();
    let n = 20_000i32;
    let mut x = s.alloc_zeros::<f32>(n as usize).unwrap();
    let mut run = |shared_mem_bytes, threads| {
        let cfg = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes };
        // SAFETY: the arguments are those of `dynamic`; what does not fit is refused.
        unsafe { s.launch_builder(&f).arg(&mut x).arg(&n).launch(cfg) }.map(drop).map_err(|e| e.0)
    };
    let bytes = 4 * n as u32;
    assert_eq!(run(bytes, 2048), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(run(bytes, 128), Err(CUresult::CUDA_ERROR_INVALID_VALUE), "not opted in");
    let opt_in = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert!(f.set_attribute(opt_in, 228 << 10).is_err());
    f.set_attribute(opt_in, bytes as i32).unwrap();
    assert_eq!(run(bytes, 128), Ok(()));
    assert_eq!(s.clone_dtoh(&x).unwrap()[0], (n - 1) as f32);
    let newer = include_str!("data/driver.ptx").replace(".target sm_80", ".target sm_100a");
    assert_eq!(c.load_module(Ptx::from_src(newer)).err().unwrap().0, CUresult::CUDA_ERROR_INVALID_PTX);
    let newer = include_str!("data/driver.ptx").replace(".version 9.0", ".version 12.0");
    assert_eq!(
        c.load_module(Ptx::from_src(newer)).err().unwrap().0,
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    );
    // Handles that never were, and memory that is gone.
    let wrong = 0x1234_5670 as *mut std::ffi::c_void;
    // SAFETY: the emulator looks handles and addresses up and follows none of them.
    unsafe {
        assert_eq!(sys::cuStreamSynchronize(wrong.cast()), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(sys::cuModuleUnload(wrong.cast()), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(sys::cuEventQuery(wrong.cast()), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(sys::cuGraphDestroy(wrong.cast()), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemFree_v2(64), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemcpyHtoD_v2(64, wrong, 4), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
}

#[test]
fn a_fault_stays_with_its_context() {
    let _alone = alone();
    let c = CudaContext::new_non_primary(0, 0).unwrap();
    c.bind_to_thread().unwrap();
    let s = c.default_stream();
    let f = module(&c).load_function("fault").unwrap();
    let null = 64u64;
    let cfg = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the argument is that of `fault`; that it points nowhere is what is tested.
    unsafe { s.launch_builder(&f).arg(&null).launch(cfg) }.unwrap();
    assert_eq!(s.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    // SAFETY: it fails, so that no memory is there to be misused.
    let memory = unsafe { result::malloc_sync(16) };
    assert_eq!(memory.unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    drop((f, s, c));
    let c = CudaContext::new(0).unwrap();
    let f = module(&c).load_function("add").unwrap();
    assert_eq!(add(&c.default_stream(), &f, 8)[7], 14.0);
}
