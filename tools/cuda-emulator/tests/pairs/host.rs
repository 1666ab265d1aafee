//! Misuse from the host: the driver's result code for it, and the twin that is accepted.

use std::ffi::{CString, c_char, c_void};
use std::ptr::{null, null_mut};

type Handle = *mut c_void;

// The driver API as cudarc calls it; exported by the emulator that is linked in.
unsafe extern "C" {
    fn cuInit(flags: u32) -> i32;
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: i32) -> i32;
    fn cuCtxSetCurrent(context: Handle) -> i32;
    fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> i32;
    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> i32;
    fn cuFuncSetAttribute(function: Handle, attribute: i32, value: i32) -> i32;
    #[allow(clippy::too_many_arguments)]
    fn cuLaunchKernel(
        function: Handle,
        gx: u32,
        gy: u32,
        gz: u32,
        bx: u32,
        by: u32,
        bz: u32,
        shared: u32,
        stream: Handle,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) -> i32;
    fn cuMemAlloc_v2(at: *mut u64, bytes: usize) -> i32;
    fn cuMemFree_v2(at: u64) -> i32;
    fn cuMemcpyHtoD_v2(at: u64, from: *const c_void, bytes: usize) -> i32;
    fn cuStreamCreate(stream: *mut Handle, flags: u32) -> i32;
    fn cuStreamSynchronize(stream: Handle) -> i32;
    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) -> i32;
    fn cuStreamBeginCapture_v2(stream: Handle, mode: i32) -> i32;
    fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> i32;
    fn cuEventCreate(event: *mut Handle, flags: u32) -> i32;
    fn cuEventRecord(event: Handle, stream: Handle) -> i32;
    fn cuEventQuery(event: Handle) -> i32;
    fn cuEventSynchronize(event: Handle) -> i32;
    fn cuEventElapsedTime_v2(ms: *mut f32, start: Handle, end: Handle) -> i32;
}

const PTX: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.extern .shared .align 16 .b8 room[];
.visible .entry put(.param .u64 to, .param .u32 value) {
.reg .b64 %rd<3>; .reg .b32 %r<3>;
ld.param.u64 %rd1, [to]; ld.param.u32 %r1, [value]; cvta.to.global.u64 %rd2, %rd1; st.global.u32 [%rd2], %r1; ret;
}
.visible .entry idle() { ret; }
.visible .entry small() .maxntid 64, 1, 1 { ret; }\n";

const OK: i32 = 0;
const INVALID_VALUE: i32 = 1;
const NONBLOCKING: u32 = 1;
/// Captures of one test must not forbid calls of another.
const THREAD_LOCAL: i32 = 1;
const RELAXED: i32 = 2;
const MAX_DYNAMIC_SHARED: i32 = 8;

/// Loads a text; its code and module.
fn load(ptx: &str) -> (i32, Handle) {
    let text = CString::new(ptx).expect("no NUL");
    let mut context = null_mut();
    let mut module = null_mut();
    // SAFETY: pointers are to live values; the image ends in NUL.
    unsafe {
        assert_eq!(cuInit(0), OK);
        assert_eq!(cuDevicePrimaryCtxRetain(&mut context, 0), OK);
        assert_eq!(cuCtxSetCurrent(context), OK);
        (cuModuleLoadData(&mut module, text.as_ptr().cast()), module)
    }
}

fn find(name: &str) -> (i32, Handle) {
    let (code, module) = load(PTX);
    assert_eq!(code, OK);
    let name = CString::new(name).expect("no NUL");
    let mut f = null_mut();
    // SAFETY: a loaded module and a text that ends in NUL.
    (unsafe { cuModuleGetFunction(&mut f, module, name.as_ptr()) }, f)
}

fn launch_idle(name: &str, grid: [u32; 3], block: u32, shared: u32, opt_in: Option<i32>) -> i32 {
    let (code, f) = find(name);
    assert_eq!(code, OK);
    // SAFETY: a kernel without parameters.
    unsafe {
        if let Some(bytes) = opt_in {
            let code = cuFuncSetAttribute(f, MAX_DYNAMIC_SHARED, bytes);
            if code != OK {
                return code;
            }
        }
        let [x, y, z] = grid;
        cuLaunchKernel(f, x, y, z, block, 1, 1, shared, null_mut(), null_mut(), null_mut())
    }
}

fn alloc(bytes: usize) -> u64 {
    let mut at = 0;
    // SAFETY: a live value.
    assert_eq!(unsafe { cuMemAlloc_v2(&mut at, bytes) }, OK);
    at
}

fn stream() -> Handle {
    load(PTX);
    let mut s = null_mut();
    // SAFETY: a live value.
    assert_eq!(unsafe { cuStreamCreate(&mut s, NONBLOCKING) }, OK);
    s
}

fn event(flags: u32) -> Handle {
    load(PTX);
    let mut e = null_mut();
    // SAFETY: a live value.
    assert_eq!(unsafe { cuEventCreate(&mut e, flags) }, OK);
    e
}

/// Captures a call on a stream; the call's code and that of ending the capture.
fn captured(mode: i32, call: impl FnOnce(Handle) -> i32) -> (i32, i32) {
    let s = stream();
    let mut graph = null_mut();
    // SAFETY: a live stream.
    unsafe {
        assert_eq!(cuStreamBeginCapture_v2(s, mode), OK);
        let code = call(s);
        (code, cuStreamEndCapture(s, &mut graph))
    }
}

#[test]
fn shared_memory_not_opted_in() {
    assert_eq!(launch_idle("idle", [1; 3], 32, 64 << 10, None), INVALID_VALUE);
    assert_eq!(launch_idle("idle", [1; 3], 32, 64 << 10, Some(64 << 10)), OK);
}

#[test]
fn shared_memory_over_the_limit() {
    assert_eq!(launch_idle("idle", [1; 3], 32, 0, Some(228 << 10)), INVALID_VALUE);
    assert_eq!(launch_idle("idle", [1; 3], 32, 0, Some(227 << 10)), OK);
}

#[test]
fn block_too_large() {
    assert_eq!(launch_idle("idle", [1; 3], 1025, 0, None), INVALID_VALUE);
    assert_eq!(launch_idle("idle", [1; 3], 1024, 0, None), OK);
}

#[test]
fn block_over_launch_bounds() {
    assert_ne!(launch_idle("small", [1; 3], 65, 0, None), OK);
    assert_eq!(launch_idle("small", [1; 3], 64, 0, None), OK);
}

#[test]
fn grid_empty_or_too_tall() {
    assert_eq!(launch_idle("idle", [0, 1, 1], 32, 0, None), INVALID_VALUE);
    assert_eq!(launch_idle("idle", [1, 65536, 1], 32, 0, None), INVALID_VALUE);
    assert_eq!(launch_idle("idle", [1, 65535, 1], 32, 0, None), OK);
}

#[test]
fn kernel_misnamed() {
    assert_eq!(find("pvt").0, 500);
    assert_eq!(find("put").0, OK);
}

#[test]
fn target_newer_than_the_device() {
    let code = load(&PTX.replace("sm_80", "sm_120")).0;
    assert!([209, 218].contains(&code), "{code}");
    assert_eq!(load(PTX).0, OK);
}

#[test]
fn ptx_that_is_wrong() {
    assert_eq!(load(&PTX.replace("st.global.u32 [%rd2]", "st.globl.u32 [%rd2]")).0, 218);
    assert_eq!(load(&PTX.replace(".version 8.0", ".version 99.0")).0, 222);
}

#[test]
fn parameter_buffer_too_small() {
    let (_, f) = find("put");
    let at = alloc(4);
    let mut buffer = [at.to_le_bytes(), 7u64.to_le_bytes()].concat();
    let mut launch = |mut bytes: usize| {
        let size: *mut usize = &mut bytes;
        // CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END.
        let mut extra =
            [1usize as Handle, buffer.as_mut_ptr().cast(), 2usize as Handle, size.cast(), null_mut()];
        // SAFETY: the list is as the API wants it.
        unsafe { cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, null_mut(), null_mut(), extra.as_mut_ptr()) }
    };
    assert_eq!(launch(8), INVALID_VALUE);
    assert_eq!(launch(12), OK);
}

#[test]
fn freed_twice() {
    load(PTX);
    let at = alloc(100);
    // SAFETY: integers only.
    unsafe {
        assert_eq!(cuMemFree_v2(at + 4), INVALID_VALUE);
        assert_eq!(cuMemFree_v2(at), OK);
        assert_eq!(cuMemFree_v2(at), INVALID_VALUE);
    }
}

#[test]
fn copied_past_the_end() {
    load(PTX);
    let at = alloc(1000);
    let data = vec![0u8; 2 << 20];
    // SAFETY: the source is long enough for both.
    unsafe {
        assert_eq!(cuMemcpyHtoD_v2(at, data.as_ptr().cast(), 1 << 20), INVALID_VALUE);
        assert_eq!(cuMemcpyHtoD_v2(at, data.as_ptr().cast(), 1000), OK);
    }
}

#[test]
fn awaited_while_captured() {
    // SAFETY: a live stream.
    let wait = |s: Handle| unsafe { cuStreamSynchronize(s) };
    assert_eq!(captured(THREAD_LOCAL, wait), (900, 901));
    assert_eq!(captured(THREAD_LOCAL, |_| OK), (OK, OK));
    assert_eq!(wait(stream()), OK);
}

#[test]
fn allocated_while_captured() {
    let mut at = 0;
    // SAFETY: a live value.
    let mut call = |_: Handle| unsafe { cuMemAlloc_v2(&mut at, 64) };
    assert_eq!(captured(THREAD_LOCAL, &mut call).0, 900);
    assert_eq!(captured(RELAXED, &mut call), (OK, OK));
}

#[test]
fn fork_not_joined() {
    let run = |join: bool| {
        let other = stream();
        let (e, back) = (event(2), event(2));
        // SAFETY: live streams and events.
        let call = |s: Handle| unsafe {
            assert_eq!(cuEventRecord(e, s), OK);
            assert_eq!(cuStreamWaitEvent(other, e, 0), OK);
            let (_, f) = find("idle");
            assert_eq!(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, other, null_mut(), null_mut()), OK);
            if join {
                assert_eq!(cuEventRecord(back, other), OK);
                assert_eq!(cuStreamWaitEvent(s, back, 0), OK);
            }
            OK
        };
        captured(RELAXED, call)
    };
    assert_eq!(run(false), (OK, 904));
    assert_eq!(run(true), (OK, OK));
}

#[test]
fn capture_ended_that_never_began() {
    let s = stream();
    let mut graph = null_mut();
    // SAFETY: a live stream.
    assert_eq!(unsafe { cuStreamEndCapture(s, &mut graph) }, 401);
    assert_eq!(captured(THREAD_LOCAL, |_| OK).1, OK);
}

#[test]
fn captured_event_asked() {
    let e = event(2);
    // SAFETY: a live event.
    let query = || unsafe { cuEventQuery(e) };
    let call = |s: Handle| {
        // SAFETY: live stream and event.
        assert_eq!(unsafe { cuEventRecord(e, s) }, OK);
        query()
    };
    assert_eq!(captured(THREAD_LOCAL, call).0, 907);
    let s = stream();
    // SAFETY: live stream and event.
    unsafe {
        assert_eq!(cuEventRecord(e, s), OK);
        assert_eq!(cuEventSynchronize(e), OK);
    }
    assert_eq!(query(), OK);
}

#[test]
fn time_of_events_not_recorded_or_without_time() {
    let s = stream();
    let time = |flags: u32, record: bool| {
        let (a, b) = (event(flags), event(flags));
        let mut ms = 0.;
        // SAFETY: live stream and events.
        unsafe {
            if record {
                assert_eq!(cuEventRecord(a, s), OK);
                assert_eq!(cuEventRecord(b, s), OK);
                assert_eq!(cuEventSynchronize(b), OK);
            }
            cuEventElapsedTime_v2(&mut ms, a, b)
        }
    };
    assert_eq!(time(0, false), 400);
    assert_eq!(time(2, true), 400);
    assert_eq!(time(0, true), OK);
}

#[test]
fn null_where_a_pointer_must_be() {
    load(PTX);
    // SAFETY: that is what must be refused.
    unsafe {
        assert_eq!(cuMemAlloc_v2(null_mut(), 64), INVALID_VALUE);
        assert_eq!(cuModuleLoadData(null_mut(), null()), INVALID_VALUE);
    }
}
