//! Work captured once and launched as a whole.

use std::cell::RefCell;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUgraphNodeType_enum as NodeType, CUstreamCaptureMode_enum as Mode};

use super::buffer::HostMemory;
use super::driver::check;
use super::gpu::Gpu;
use super::stream::Stream;
use crate::error::Result;

thread_local! {
    /// Host memory of this thread's capture.
    static CAPTURED: RefCell<Vec<Arc<HostMemory>>> = const { RefCell::new(Vec::new()) };
}

/// Notes that the capture under way copies from or to `memory`.
pub(super) fn captured(memory: &Arc<HostMemory>) {
    CAPTURED.with_borrow_mut(|c| c.push(memory.clone()));
}

/// Captured work, ready to launch. It holds the page-locked memory that it copies from and to; device buffers are held by
/// whoever launches it.
pub struct Graph {
    gpu: Gpu,
    raw: sys::CUgraph,
    exec: sys::CUgraphExec,
    memories: Vec<Arc<HostMemory>>,
    kernels: usize,
}

// SAFETY: handles of the driver API may be used from any thread, and a graph is changed by none.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Stream {
    /// Captures what `f` queues on this stream, and on streams forked from it and joined again, instead of doing it.
    /// `f` must not allocate, wait or copy from pageable memory.
    pub fn capture(&self, f: impl FnOnce(&Self) -> Result<()>) -> Result<Graph> {
        self.gpu().bind()?;
        CAPTURED.take();
        // SAFETY: the stream lives.
        let code =
            unsafe { sys::cuStreamBeginCapture_v2(self.raw(), Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) };
        check(code, || "beginning a capture".into())?;
        let queued = f(self);
        let mut raw = std::ptr::null_mut();
        // SAFETY: the capture was begun above by this thread, and the pointer is to a local.
        let ended =
            check(unsafe { sys::cuStreamEndCapture(self.raw(), &mut raw) }, || "ending a capture".into());
        let gpu = self.gpu().clone();
        let exec = std::ptr::null_mut();
        let mut graph = Graph { gpu, raw, exec, memories: CAPTURED.take(), kernels: 0 };
        queued.and(ended)?;
        // SAFETY: the graph was captured above, and the pointer is to a field.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&mut graph.exec, raw, 0) };
        check(code, || "instantiating a graph".into())?;
        graph.kernels = graph.count()?;
        // SAFETY: both live. Without it the first launch would be slower.
        check(unsafe { sys::cuGraphUpload(graph.exec, self.raw()) }, || "uploading a graph".into())?;
        self.synchronize()?;
        Ok(graph)
    }
}

impl Graph {
    /// Queues all of it.
    pub fn launch(&self, stream: &Stream) -> Result<()> {
        self.gpu.bind()?;
        HostMemory::used(&self.memories, stream, || {
            // SAFETY: both live.
            check(unsafe { sys::cuGraphLaunch(self.exec, stream.raw()) }, || {
                format!("launching a graph of {} kernels", self.kernels)
            })
        })
    }
    /// Kernels that a launch runs.
    pub fn kernels(&self) -> usize {
        self.kernels
    }
    fn count(&self) -> Result<usize> {
        let what = || "listing a graph".into();
        let mut n = 0;
        // SAFETY: without a place for nodes their number is written.
        check(unsafe { sys::cuGraphGetNodes(self.raw, std::ptr::null_mut(), &mut n) }, what)?;
        let mut nodes = vec![std::ptr::null_mut(); n];
        // SAFETY: there is room for `n` nodes.
        check(unsafe { sys::cuGraphGetNodes(self.raw, nodes.as_mut_ptr(), &mut n) }, what)?;
        let mut kernels = 0;
        for node in nodes {
            let mut kind = NodeType::CU_GRAPH_NODE_TYPE_EMPTY;
            // SAFETY: a node of this graph, and the pointer is to a local.
            check(unsafe { sys::cuGraphNodeGetType(node, &mut kind) }, what)?;
            kernels += usize::from(kind == NodeType::CU_GRAPH_NODE_TYPE_KERNEL);
        }
        Ok(kernels)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: made in `capture`, destroyed once; a launch under way is completed by the driver.
            unsafe {
                if !self.exec.is_null() {
                    sys::cuGraphExecDestroy(self.exec);
                }
                if !self.raw.is_null() {
                    sys::cuGraphDestroy(self.raw);
                }
            }
        }
    }
}
