//! Streams and events: default streams, priorities, flags, callbacks, what a capture forbids.

use super::{alone, module, ok, refused};
use cudarc::driver::sys::{self, CUresult, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const LEGACY: usize = 1;
const PER_THREAD: usize = 2;

unsafe extern "C" fn hold(data: *mut c_void) {
    // SAFETY: the test passes an `AtomicBool` that outlives the stream's work.
    let go = unsafe { &*data.cast::<AtomicBool>() };
    while !go.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
}

#[test]
fn the_legacy_stream_waits_for_blocking_ones_only() {
    let _alone = alone();
    let _c = CudaContext::new(0).unwrap();
    let (mut blocking, mut free) = (null_mut(), null_mut());
    ok!(sys::cuStreamCreate(&mut blocking, 0));
    ok!(sys::cuStreamCreate(&mut free, 1));
    for (s, waits) in [(blocking, true), (free, false), (PER_THREAD as _, true)] {
        let go = AtomicBool::new(false);
        let data: *mut c_void = (&raw const go).cast_mut().cast();
        ok!(sys::cuLaunchHostFunc(s, Some(hold), data));
        let mut event = null_mut();
        ok!(sys::cuEventCreate(&mut event, 2));
        ok!(sys::cuEventRecord(event, LEGACY as _));
        std::thread::sleep(std::time::Duration::from_millis(60));
        // SAFETY: the event is alive.
        let ready = unsafe { sys::cuEventQuery(event) } == CUresult::CUDA_SUCCESS;
        assert_eq!(ready, !waits, "a stream's work holds the legacy stream");
        refused!(sys::cuStreamQuery(s), CUDA_ERROR_NOT_READY);
        go.store(true, Ordering::SeqCst);
        ok!(sys::cuStreamSynchronize(s));
        ok!(sys::cuEventSynchronize(event));
        ok!(sys::cuEventDestroy_v2(event));
    }
    // Each thread has a default stream of its own.
    let id = || {
        let mut id = 0;
        ok!(sys::cuStreamGetId(PER_THREAD as _, &mut id));
        id
    };
    let mine = id();
    let c = CudaContext::new(0).unwrap();
    let other = std::thread::spawn(move || {
        c.bind_to_thread().unwrap();
        id()
    });
    assert_ne!(mine, other.join().unwrap());
    assert_eq!(mine, id());
    [blocking, free].into_iter().for_each(|s| ok!(sys::cuStreamDestroy_v2(s)));
}

/// As on hardware: freed memory is not taken from under kernels whose stream has no name any more.
#[test]
fn work_of_a_destroyed_stream_is_waited_for() {
    unsafe extern "C" fn slow(data: *mut c_void) {
        std::thread::sleep(std::time::Duration::from_millis(60));
        // SAFETY: the test passes an `AtomicBool` that outlives the stream's work.
        unsafe { &*data.cast::<AtomicBool>() }.store(true, Ordering::SeqCst);
    }
    let _alone = alone();
    let _c = CudaContext::new(0).unwrap();
    let free = |at: u64| ok!(sys::cuMemFree_v2(at));
    let synchronize = |_| ok!(sys::cuCtxSynchronize());
    let legacy = |_| ok!(sys::cuStreamSynchronize(LEGACY as _));
    let waits: [(u32, &dyn Fn(u64)); 5] =
        [(0, &free), (1, &free), (0, &synchronize), (1, &synchronize), (0, &legacy)];
    for (flags, wait) in waits {
        let done = AtomicBool::new(false);
        let (mut s, mut at) = (null_mut(), 0);
        ok!(sys::cuStreamCreate(&mut s, flags));
        ok!(sys::cuMemAlloc_v2(&mut at, 4));
        ok!(sys::cuLaunchHostFunc(s, Some(slow), (&raw const done).cast_mut().cast()));
        ok!(sys::cuStreamDestroy_v2(s));
        assert!(!done.load(Ordering::SeqCst), "destroying a stream does not wait for it");
        wait(at);
        assert!(done.load(Ordering::SeqCst));
    }
}

#[test]
fn per_thread_forms_use_the_threads_stream() {
    let _alone = alone();
    let _c = CudaContext::new(0).unwrap();
    // SAFETY: the function has this signature.
    let f: unsafe extern "C" fn(sys::CUstream, *mut u64) -> CUresult =
        unsafe { std::mem::transmute(super::symbols::symbol("cuStreamGetId_ptsz")) };
    let (mut a, mut b, mut legacy) = (0, 0, 0);
    ok!(f(null_mut(), &mut a));
    ok!(sys::cuStreamGetId(PER_THREAD as _, &mut b));
    ok!(sys::cuStreamGetId(null_mut(), &mut legacy));
    assert_eq!(a, b);
    assert_ne!(a, legacy);
}

#[test]
fn priorities_flags_and_callbacks() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    let (mut least, mut greatest, mut s, mut p, mut flags) = (0, 0, null_mut(), 1, 9);
    ok!(sys::cuCtxGetStreamPriorityRange(&mut least, &mut greatest));
    assert_eq!((least, greatest), (0, -5));
    ok!(sys::cuStreamCreateWithPriority(&mut s, 1, -100));
    ok!(sys::cuStreamGetPriority(s, &mut p));
    ok!(sys::cuStreamGetFlags(s, &mut flags));
    assert_eq!((p, flags), (greatest, 1), "priorities are clamped");
    let mut ctx = null_mut();
    ok!(sys::cuStreamGetCtx(s, &mut ctx));
    assert_eq!(ctx, c.cu_ctx());
    static CALLS: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn called(_: sys::CUstream, status: CUresult, _: *mut c_void) {
        CALLS.fetch_add(1 + 100 * status as u32, Ordering::SeqCst);
    }
    ok!(sys::cuStreamAddCallback(s, Some(called), null_mut(), 0));
    ok!(sys::cuStreamSynchronize(s));
    assert_eq!(CALLS.load(Ordering::SeqCst), 1);
    refused!(sys::cuStreamAddCallback(s, Some(called), null_mut(), 1), CUDA_ERROR_INVALID_VALUE);
    refused!(sys::cuStreamCreate(&mut ctx.cast(), 2), CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuStreamDestroy_v2(s));
    refused!(sys::cuStreamDestroy_v2(s), CUDA_ERROR_INVALID_HANDLE);
    refused!(sys::cuStreamDestroy_v2(LEGACY as _), CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn events_are_timed_or_not() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    let s = c.new_stream().unwrap();
    let create = |flags| {
        let mut e = null_mut();
        ok!(sys::cuEventCreate(&mut e, flags));
        e
    };
    let (a, b, untimed) = (create(0), create(1), create(2));
    let mut ms = 0.0;
    refused!(sys::cuEventCreate(&mut null_mut(), 4), CUDA_ERROR_INVALID_VALUE);
    refused!(sys::cuEventCreate(&mut null_mut(), 16), CUDA_ERROR_INVALID_VALUE);
    refused!(sys::cuEventElapsedTime_v2(&mut ms, a, b), CUDA_ERROR_INVALID_HANDLE);
    // Never recorded: done, and no reason to wait.
    ok!(sys::cuEventQuery(a));
    ok!(sys::cuEventSynchronize(a));
    ok!(sys::cuStreamWaitEvent(s.cu_stream(), a, 0));
    let go = AtomicBool::new(false);
    ok!(sys::cuEventRecord(a, s.cu_stream()));
    ok!(sys::cuLaunchHostFunc(s.cu_stream(), Some(hold), (&raw const go).cast_mut().cast()));
    ok!(sys::cuEventRecord(b, s.cu_stream()));
    ok!(sys::cuEventRecord(untimed, s.cu_stream()));
    refused!(sys::cuEventElapsedTime_v2(&mut ms, a, b), CUDA_ERROR_NOT_READY);
    std::thread::sleep(std::time::Duration::from_millis(5));
    go.store(true, Ordering::SeqCst);
    s.synchronize().unwrap();
    ok!(sys::cuEventElapsedTime_v2(&mut ms, a, b));
    assert!(ms >= 0.0);
    refused!(sys::cuEventElapsedTime_v2(&mut ms, a, untimed), CUDA_ERROR_INVALID_HANDLE);
    // Handles of another kind are no events.
    refused!(sys::cuEventQuery(s.cu_stream().cast()), CUDA_ERROR_INVALID_HANDLE);
    refused!(sys::cuStreamQuery(a.cast()), CUDA_ERROR_INVALID_HANDLE);
    // An event of another context cannot be recorded in this one's stream.
    let other = CudaContext::new_non_primary(0, 0).unwrap();
    other.bind_to_thread().unwrap();
    let foreign = create(0);
    c.bind_to_thread().unwrap();
    refused!(sys::cuEventRecord(foreign, s.cu_stream()), CUDA_ERROR_INVALID_HANDLE);
    ok!(sys::cuStreamWaitEvent(s.cu_stream(), foreign, 0));
    [a, b, untimed, foreign].into_iter().for_each(|e| ok!(sys::cuEventDestroy_v2(e)));
}

#[test]
fn what_a_capture_forbids() {
    let _alone = alone();
    let c = CudaContext::new(0).unwrap();
    // SAFETY: this test orders its streams itself.
    unsafe { c.disable_event_tracking() };
    let f = module(&c).load_function("add").unwrap();
    let (s, t) = (c.new_stream().unwrap(), c.new_stream().unwrap());
    let x = s.alloc_zeros::<f32>(32).unwrap();
    let n = 32i32;
    let event = || {
        let mut e = null_mut();
        ok!(sys::cuEventCreate(&mut e, 2));
        e
    };
    let (before, inside, never) = (event(), event(), event());
    ok!(sys::cuEventRecord(before, t.cu_stream()));
    t.synchronize().unwrap();
    let begin = || s.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let end = |code: CUresult| {
        let mut g = null_mut();
        // SAFETY: the stream is alive, the result is ours.
        assert_eq!(unsafe { sys::cuStreamEndCapture(s.cu_stream(), &mut g) }, code);
        g
    };
    // Work from before the capture cannot be waited for inside; an event that was never recorded is no work.
    begin();
    ok!(sys::cuStreamWaitEvent(s.cu_stream(), never, 0));
    refused!(sys::cuStreamWaitEvent(s.cu_stream(), before, 0), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    end(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // An event of a capture is no event of a stream: neither while it lasts nor after.
    begin();
    // SAFETY: the arguments are those of the kernel.
    unsafe { s.launch_builder(&f).arg(&x).arg(&x).arg(&x).arg(&n).launch(LaunchConfig::for_num_elems(32)) }
        .unwrap();
    ok!(sys::cuEventRecord(inside, s.cu_stream()));
    let g = end(CUresult::CUDA_SUCCESS);
    refused!(sys::cuEventQuery(inside), CUDA_ERROR_CAPTURED_EVENT);
    refused!(sys::cuEventSynchronize(inside), CUDA_ERROR_CAPTURED_EVENT);
    refused!(sys::cuStreamWaitEvent(t.cu_stream(), inside, 0), CUDA_ERROR_CAPTURED_EVENT);
    // In the next capture it belongs to another one.
    begin();
    refused!(sys::cuStreamWaitEvent(s.cu_stream(), inside, 0), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    end(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // Recorded anew it is an event again.
    ok!(sys::cuEventRecord(inside, t.cu_stream()));
    ok!(sys::cuEventSynchronize(inside));
    // Two captures cannot merge.
    begin();
    t.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    ok!(sys::cuEventRecord(inside, t.cu_stream()));
    refused!(sys::cuStreamWaitEvent(s.cu_stream(), inside, 0), CUDA_ERROR_STREAM_CAPTURE_MERGE);
    end(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    refused!(sys::cuStreamEndCapture(t.cu_stream(), &mut null_mut()), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    refused!(sys::cuStreamEndCapture(t.cu_stream(), &mut null_mut()), CUDA_ERROR_ILLEGAL_STATE);
    // Another thread may not end it, unless it is relaxed.
    begin();
    let raw = s.cu_stream() as usize;
    let done = std::thread::spawn(move || {
        // SAFETY: the stream outlives the thread.
        unsafe { sys::cuStreamEndCapture(raw as _, &mut null_mut()) }
    });
    assert_eq!(done.join().unwrap(), CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    let empty = end(CUresult::CUDA_SUCCESS);
    // A capture may go on in an existing graph.
    let mut node = null_mut();
    ok!(sys::cuGraphAddEmptyNode(&mut node, empty, std::ptr::null(), 0));
    let mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    ok!(sys::cuStreamBeginCaptureToGraph(s.cu_stream(), empty, &node, std::ptr::null(), 1, mode));
    ok!(sys::cuMemsetD32Async(cudarc::driver::DevicePtr::device_ptr(&x, &s).0, 0, 32, s.cu_stream()));
    assert_eq!(end(CUresult::CUDA_SUCCESS), empty);
    let (mut from, mut to, mut n) = ([null_mut(); 2], [null_mut(); 2], 2);
    ok!(sys::cuGraphGetEdges_v2(empty, from.as_mut_ptr(), to.as_mut_ptr(), null_mut(), &mut n));
    assert_eq!((n, from[0]), (1, node));
    [g, empty].into_iter().for_each(|g| ok!(sys::cuGraphDestroy(g)));
    [before, inside, never].into_iter().for_each(|e| ok!(sys::cuEventDestroy_v2(e)));
}
