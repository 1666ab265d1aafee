//! Graphs: built by hand, cloned, updated, with events, memory and host functions, destroyed in any order.

use super::{alone, box3, module, ok, refused};
use cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUgraphNode};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DevicePtr};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A kernel node of `add`: c = a + b.
fn params(f: &CudaFunction, n: &i32, args: &mut [*mut c_void; 4]) -> sys::CUDA_KERNEL_NODE_PARAMS {
    args[3] = std::ptr::from_ref(n).cast_mut().cast();
    sys::CUDA_KERNEL_NODE_PARAMS {
        func: f.cu_function(),
        gridDimX: (*n as u32).div_ceil(64),
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 64,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        kernelParams: args.as_mut_ptr(),
        extra: null_mut(),
        kern: null_mut(),
        ctx: null_mut(),
    }
}
fn fill(at: u64, value: u32, width: usize) -> sys::CUDA_MEMSET_NODE_PARAMS {
    sys::CUDA_MEMSET_NODE_PARAMS { dst: at, pitch: 0, value, elementSize: 4, width, height: 1 }
}
fn context() -> (Arc<CudaContext>, Arc<CudaStream>) {
    let c = CudaContext::new(0).unwrap();
    let s = c.new_stream().unwrap();
    (c, s)
}
fn create() -> CUgraph {
    let mut g: CUgraph = null_mut();
    ok!(sys::cuGraphCreate(&mut g, 0));
    g
}
fn instantiate(g: CUgraph) -> CUgraphExec {
    let mut e: CUgraphExec = null_mut();
    ok!(sys::cuGraphInstantiateWithFlags(&mut e, g, 0));
    e
}
fn run(e: CUgraphExec, s: &CudaStream) {
    ok!(sys::cuGraphLaunch(e, s.cu_stream()));
    ok!(sys::cuStreamSynchronize(s.cu_stream()));
}
fn floats(s: &Arc<CudaStream>, x: &cudarc::driver::CudaSlice<f32>) -> Vec<f32> {
    s.clone_dtoh(x).unwrap()
}

#[test]
fn a_graph_built_by_hand_runs_is_cloned_and_updated() {
    let _alone = alone();
    let (c, s) = context();
    let f = module(&c).load_function("add").unwrap();
    let (x, y) = (s.alloc_zeros::<f32>(100).unwrap(), s.alloc_zeros::<f32>(100).unwrap());
    s.synchronize().unwrap();
    let (mut px, mut py) = (x.device_ptr(&s).0, y.device_ptr(&s).0);
    let n = 100i32;
    let mut args = [(&raw mut px).cast(), (&raw mut px).cast(), (&raw mut py).cast(), null_mut()];
    let k = params(&f, &n, &mut args);

    let (g, mut set, mut sum, mut nothing) = (create(), null_mut(), null_mut(), null_mut());
    let ctx = c.cu_ctx();
    ok!(sys::cuGraphAddMemsetNode(&mut set, g, null(), 0, &fill(px, 1f32.to_bits(), 100), ctx));
    ok!(sys::cuGraphAddKernelNode_v2(&mut sum, g, &set, 1, &k));
    ok!(sys::cuGraphAddEmptyNode(&mut nothing, g, &sum, 1));
    let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
    ok!(sys::cuGraphNodeGetType(set, &mut kind));
    assert_eq!(kind, sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMSET);
    let mut count = 0;
    ok!(sys::cuGraphGetNodes(g, null_mut(), &mut count));
    assert_eq!(count, 3);
    let mut found: [CUgraphNode; 2] = [null_mut(); 2];
    count = 2;
    ok!(sys::cuGraphGetRootNodes(g, found.as_mut_ptr(), &mut count));
    assert_eq!((count, found[0]), (1, set));
    // Edges cannot be doubled; a node of another graph is no dependency; a cycle is refused when instantiated.
    refused!(sys::cuGraphAddDependencies_v2(g, &set, &sum, null(), 1), CUDA_ERROR_INVALID_VALUE);
    let other = create();
    let mut out = null_mut();
    refused!(sys::cuGraphAddEmptyNode(&mut out, other, &set, 1), CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuGraphAddDependencies_v2(g, &nothing, &set, null(), 1));
    let mut e = null_mut();
    refused!(sys::cuGraphInstantiateWithFlags(&mut e, g, 0), CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuGraphRemoveDependencies_v2(g, &nothing, &set, null(), 1));

    let (e, mut clone, mut twin) = (instantiate(g), null_mut(), null_mut());
    run(e, &s);
    assert_eq!(floats(&s, &y), vec![2.; 100]);
    // The clone is its own graph; its nodes are found by the original's.
    ok!(sys::cuGraphClone(&mut clone, g));
    ok!(sys::cuGraphNodeFindInClone(&mut twin, set, clone));
    refused!(sys::cuGraphNodeFindInClone(&mut twin, set, other), CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuGraphNodeFindInClone(&mut twin, set, clone));
    ok!(sys::cuGraphMemsetNodeSetParams(twin, &fill(px, 3f32.to_bits(), 100)));
    let mut p = fill(0, 0, 0);
    ok!(sys::cuGraphMemsetNodeGetParams(twin, &mut p));
    assert_eq!((p.dst, p.value, p.width), (px, 3f32.to_bits(), 100));
    ok!(sys::cuGraphMemsetNodeGetParams(set, &mut p));
    assert_eq!(p.value, 1f32.to_bits());
    // An executable takes the clone's parameters, not another topology.
    let mut info: sys::CUgraphExecUpdateResultInfo = zeroed();
    ok!(sys::cuGraphExecUpdate_v2(e, clone, &mut info));
    run(e, &s);
    assert_eq!(floats(&s, &y), vec![6.; 100]);
    refused!(sys::cuGraphExecUpdate_v2(e, other, &mut info), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    assert_eq!(info.result, sys::CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    // Parameters of single nodes; a node that is off does nothing.
    ok!(sys::cuGraphExecMemsetNodeSetParams(e, set, &fill(px, 5f32.to_bits(), 100), ctx));
    run(e, &s);
    assert_eq!(floats(&s, &y), vec![10.; 100]);
    ok!(sys::cuGraphNodeSetEnabled(e, set, 0));
    ok!(sys::cuMemsetD32_v2(px, 0, 100));
    run(e, &s);
    assert_eq!(floats(&s, &y), vec![0.; 100]);
    let mut on = 1;
    ok!(sys::cuGraphNodeGetEnabled(e, set, &mut on));
    assert_eq!(on, 0);
    // What was asked for can be had back, changed and set.
    let mut back: sys::CUDA_KERNEL_NODE_PARAMS = zeroed();
    ok!(sys::cuGraphKernelNodeGetParams_v2(sum, &mut back));
    assert_eq!((back.func, back.blockDimX), (k.func, 64));
    back.blockDimX = 32;
    back.gridDimX = 4;
    ok!(sys::cuGraphExecKernelNodeSetParams_v2(e, sum, &back));
    refused!(sys::cuGraphExecKernelNodeSetParams_v2(e, set, &back), CUDA_ERROR_INVALID_VALUE);
    // The graph may go before its executable; handles of its nodes go with it.
    ok!(sys::cuGraphDestroy(g));
    refused!(sys::cuGraphDestroy(g), CUDA_ERROR_INVALID_VALUE);
    refused!(sys::cuGraphNodeGetType(set, &mut kind), CUDA_ERROR_INVALID_VALUE);
    run(e, &s);
    [clone, other].into_iter().for_each(|g| ok!(sys::cuGraphDestroy(g)));
    ok!(sys::cuGraphExecDestroy(e));
    refused!(sys::cuGraphLaunch(e, s.cu_stream()), CUDA_ERROR_INVALID_VALUE);
}

/// All zero bytes: for structures of numbers and pointers that a call fills.
fn zeroed<T>() -> T {
    // SAFETY: only used for C structures for which zero is a value of every field.
    unsafe { std::mem::zeroed() }
}

unsafe extern "C" fn count(data: *mut c_void) {
    // SAFETY: the call takes no argument; none is allowed here.
    let refused = unsafe { sys::cuCtxSynchronize() } == sys::CUresult::CUDA_ERROR_NOT_PERMITTED;
    // SAFETY: the tests pass an `AtomicU32` that outlives the graph.
    unsafe { &*data.cast::<AtomicU32>() }.fetch_add(if refused { 1 } else { 1000 }, Ordering::SeqCst);
}

#[test]
fn host_functions_children_and_user_objects() {
    let _alone = alone();
    let (_c, s) = context();
    static CALLS: AtomicU32 = AtomicU32::new(0);
    static GONE: AtomicU32 = AtomicU32::new(0);
    let data: *mut c_void = (&raw const CALLS).cast_mut().cast();
    CALLS.store(0, Ordering::SeqCst);
    ok!(sys::cuLaunchHostFunc(s.cu_stream(), Some(count), data));
    s.synchronize().unwrap();
    assert_eq!(CALLS.load(Ordering::SeqCst), 1);
    let (child, g) = (create(), create());
    let p = sys::CUDA_HOST_NODE_PARAMS { fn_: Some(count), userData: data };
    let (mut a, mut b, mut inner, mut back) = (null_mut(), null_mut(), null_mut(), p);
    ok!(sys::cuGraphAddHostNode(&mut a, child, null(), 0, &p));
    ok!(sys::cuGraphHostNodeGetParams(a, &mut back));
    assert_eq!(back.userData, data);
    ok!(sys::cuGraphAddChildGraphNode(&mut b, g, null(), 0, child));
    ok!(sys::cuGraphChildGraphNodeGetGraph(b, &mut inner));
    let mut n = 0;
    ok!(sys::cuGraphGetNodes(inner, null_mut(), &mut n));
    assert_eq!(n, 1);
    // The graph keeps the object after its maker has let go.
    unsafe extern "C" fn gone(_: *mut c_void) {
        GONE.fetch_add(1, Ordering::SeqCst);
    }
    let mut object = null_mut();
    ok!(sys::cuUserObjectCreate(&mut object, null_mut(), Some(gone), 1, 1));
    ok!(sys::cuGraphRetainUserObject(g, object, 1, 1));
    let e = instantiate(g);
    [g, child].into_iter().for_each(|g| ok!(sys::cuGraphDestroy(g)));
    run(e, &s);
    run(e, &s);
    assert_eq!((CALLS.load(Ordering::SeqCst), GONE.load(Ordering::SeqCst)), (3, 0));
    ok!(sys::cuGraphExecDestroy(e));
    assert_eq!(GONE.load(Ordering::SeqCst), 1);
}

#[test]
fn events_and_memory_of_graphs() {
    let _alone = alone();
    let (c, s) = context();
    let x = s.alloc_zeros::<u32>(64).unwrap();
    s.synchronize().unwrap();
    let px = x.device_ptr(&s).0;
    let (g, mut event) = (create(), null_mut());
    ok!(sys::cuEventCreate(&mut event, 0));
    // Memory of the graph: allocated, filled, copied out, freed.
    let mut alloc: sys::CUDA_MEM_ALLOC_NODE_PARAMS = zeroed();
    alloc.poolProps.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    alloc.poolProps.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    alloc.bytesize = 256;
    let mut n: [CUgraphNode; 5] = [null_mut(); 5];
    ok!(sys::cuGraphAddMemAllocNode(&mut n[0], g, null(), 0, &mut alloc));
    assert_ne!(alloc.dptr, 0);
    ok!(sys::cuGraphAddMemsetNode(&mut n[1], g, &n[0], 1, &fill(alloc.dptr, 7, 64), c.cu_ctx()));
    let mut copy = box3();
    (copy.srcDevice, copy.dstDevice) = (alloc.dptr, px);
    (copy.WidthInBytes, copy.Height, copy.Depth) = (256, 1, 1);
    ok!(sys::cuGraphAddMemcpyNode(&mut n[2], g, &n[1], 1, &copy, c.cu_ctx()));
    ok!(sys::cuGraphAddMemFreeNode(&mut n[3], g, &n[2], 1, alloc.dptr));
    ok!(sys::cuGraphAddEventRecordNode(&mut n[4], g, &n[2], 1, event));
    refused!(sys::cuGraphAddMemFreeNode(&mut n[3], g, null(), 0, px), CUDA_ERROR_INVALID_VALUE);
    let (mut back, mut clone, mut of) = (box3(), null_mut(), null_mut());
    ok!(sys::cuGraphMemcpyNodeGetParams(n[2], &mut back));
    assert_eq!((copy.dstDevice, copy.WidthInBytes), (back.dstDevice, back.WidthInBytes));
    ok!(sys::cuGraphEventRecordNodeGetEvent(n[4], &mut of));
    assert_eq!(of, event);
    refused!(sys::cuGraphEventWaitNodeGetEvent(n[4], &mut of), CUDA_ERROR_INVALID_VALUE);
    // A graph with memory is not cloned.
    refused!(sys::cuGraphClone(&mut clone, g), CUDA_ERROR_NOT_SUPPORTED);
    let e = instantiate(g);
    ok!(sys::cuGraphLaunch(e, s.cu_stream()));
    ok!(sys::cuEventSynchronize(event));
    assert_eq!(s.clone_dtoh(&x).unwrap(), vec![7; 64]);

    // In a capture an external record and an external wait are nodes; outside they are errors.
    let other = c.new_stream().unwrap();
    s.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    ok!(sys::cuEventRecordWithFlags(event, s.cu_stream(), 1));
    ok!(sys::cuStreamWaitEvent(s.cu_stream(), event, 1));
    let mut captured = null_mut();
    ok!(sys::cuStreamEndCapture(s.cu_stream(), &mut captured));
    let mut count = 0;
    ok!(sys::cuGraphGetNodes(captured, null_mut(), &mut count));
    assert_eq!(count, 2);
    run(instantiate(captured), &other);
    ok!(sys::cuEventQuery(event));
    refused!(sys::cuEventRecordWithFlags(event, s.cu_stream(), 1), CUDA_ERROR_INVALID_VALUE);
    refused!(sys::cuStreamWaitEvent(s.cu_stream(), event, 1), CUDA_ERROR_INVALID_VALUE);
    [g, captured].into_iter().for_each(|g| ok!(sys::cuGraphDestroy(g)));
    ok!(sys::cuGraphExecDestroy(e));
    ok!(sys::cuEventDestroy_v2(event));
}

#[test]
fn nodes_of_any_kind_by_one_call() {
    let _alone = alone();
    let (c, s) = context();
    let f = module(&c).load_function("add").unwrap();
    let x = s.alloc_zeros::<f32>(64).unwrap();
    s.synchronize().unwrap();
    let (mut px, n) = (x.device_ptr(&s).0, 64i32);
    let mut args = [(&raw mut px).cast(), (&raw mut px).cast(), (&raw mut px).cast(), null_mut()];
    let k = params(&f, &n, &mut args);
    let g = create();
    let (mut set, mut sum): (CUgraphNode, CUgraphNode) = (null_mut(), null_mut());
    let mut p: sys::CUgraphNodeParams = zeroed();
    p.type_ = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMSET;
    let one = fill(px, 1f32.to_bits(), 64);
    p.__bindgen_anon_1.memset = sys::CUDA_MEMSET_NODE_PARAMS_v2 {
        dst: one.dst,
        pitch: 0,
        value: one.value,
        elementSize: 4,
        width: 64,
        height: 1,
        ctx: c.cu_ctx(),
    };
    ok!(sys::cuGraphAddNode_v2(&mut set, g, null(), null(), 0, &mut p));
    let mut p: sys::CUgraphNodeParams = zeroed();
    p.type_ = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL;
    // SAFETY: both structures have the same fields in the same order.
    p.__bindgen_anon_1.kernel = unsafe { std::mem::transmute_copy(&k) };
    ok!(sys::cuGraphAddNode_v2(&mut sum, g, &set, null(), 1, &mut p));
    let e = instantiate(g);
    run(e, &s);
    assert_eq!(floats(&s, &x), vec![2.; 64]);
    refused!(sys::cuGraphExecNodeSetParams(e, set, &mut p), CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuGraphExecNodeSetParams(e, sum, &mut p));
    p.type_ = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_CONDITIONAL;
    refused!(sys::cuGraphAddNode_v2(&mut sum, g, null(), null(), 0, &mut p), CUDA_ERROR_NOT_SUPPORTED);
    ok!(sys::cuGraphDestroy(g));
    ok!(sys::cuGraphExecDestroy(e));
}
