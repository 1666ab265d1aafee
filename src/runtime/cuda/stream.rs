//! Streams and events.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUevent_flags, CUresult, CUstream_flags, CUstreamCaptureStatus};

use super::driver::check;
use super::gpu::Gpu;
use crate::error::Result;

/// A queue of work. Clones are the same queue.
#[derive(Clone)]
pub struct Stream(Arc<Inner>);

struct Inner {
    gpu: Gpu,
    raw: sys::CUstream,
    owned: bool,
}

// SAFETY: handles of the driver API may be used from any thread.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// A stream that waits for no other.
pub(super) fn create() -> Result<sys::CUstream> {
    let mut raw = std::ptr::null_mut();
    // SAFETY: the pointer is to a local.
    let code = unsafe { sys::cuStreamCreate(&mut raw, CUstream_flags::CU_STREAM_NON_BLOCKING as u32) };
    check(code, || "making a stream".into()).map(|()| raw)
}

impl Stream {
    pub(super) fn owned(gpu: &Gpu, raw: sys::CUstream) -> Self {
        Self(Arc::new(Inner { gpu: gpu.clone(), raw, owned: true }))
    }
    pub(super) fn borrowed(gpu: &Gpu, raw: sys::CUstream) -> Self {
        Self(Arc::new(Inner { gpu: gpu.clone(), raw, owned: false }))
    }
    pub(super) fn raw(&self) -> sys::CUstream {
        self.0.raw
    }
    /// Its GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.0.gpu
    }
    /// Waits until all that is queued is done.
    pub fn synchronize(&self) -> Result<()> {
        self.gpu().bind()?;
        check(self.wait_code(), || "waiting for a stream".into())
    }
    /// As [`Stream::synchronize`], with the GPU bound already; what the driver says.
    pub(super) fn wait_code(&self) -> CUresult {
        // SAFETY: the stream lives as long as `self`.
        unsafe { sys::cuStreamSynchronize(self.raw()) }
    }
    /// What is queued from now on waits for the event.
    pub fn wait(&self, event: &Event) -> Result<()> {
        self.gpu().bind()?;
        // SAFETY: both live.
        check(unsafe { sys::cuStreamWaitEvent(self.raw(), event.raw, 0) }, || "waiting for an event".into())
    }
    /// The event is all that is queued until now.
    pub fn record(&self, event: &Event) -> Result<()> {
        self.gpu().bind()?;
        // SAFETY: both live.
        check(unsafe { sys::cuEventRecord(event.raw, self.raw()) }, || "recording an event".into())
    }
    /// What `side` gets from now on waits for what this has now.
    pub fn fork(&self, side: &Self) -> Result<()> {
        let now = Event::new(self.gpu(), false)?;
        self.record(&now)?;
        side.wait(&now)
    }
    /// What this gets from now on waits for what `side` has now.
    pub fn join(&self, side: &Self) -> Result<()> {
        side.fork(self)
    }
    pub(super) fn is_capturing(&self) -> Result<bool> {
        let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the stream lives, and the pointer is to a local.
        check(unsafe { sys::cuStreamIsCapturing(self.raw(), &mut status) }, || {
            "asking for a capture".into()
        })?;
        Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.owned && self.gpu.bind().is_ok() {
            // SAFETY: made by `create`, destroyed once; the driver ends what is queued first.
            unsafe { sys::cuStreamDestroy_v2(self.raw) };
        }
    }
}

/// A point in a stream.
pub struct Event {
    gpu: Gpu,
    raw: sys::CUevent,
}

// SAFETY: handles of the driver API may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn new(gpu: &Gpu, timed: bool) -> Result<Self> {
        gpu.bind()?;
        let flags =
            if timed { CUevent_flags::CU_EVENT_DEFAULT } else { CUevent_flags::CU_EVENT_DISABLE_TIMING };
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is to a local.
        check(unsafe { sys::cuEventCreate(&mut raw, flags as u32) }, || "making an event".into())?;
        Ok(Self { gpu: gpu.clone(), raw })
    }
    /// Waits until the stream has got there.
    pub fn synchronize(&self) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: the event lives as long as `self`.
        check(unsafe { sys::cuEventSynchronize(self.raw) }, || "waiting for an event".into())
    }
    /// Milliseconds from `start` to this; both have been recorded and this was waited for.
    pub fn since(&self, start: &Self) -> Result<f32> {
        self.gpu.bind()?;
        let mut ms = 0.0;
        // SAFETY: both live, and the pointer is to a local.
        check(unsafe { sys::cuEventElapsedTime_v2(&mut ms, start.raw, self.raw) }, || {
            "taking a time".into()
        })?;
        Ok(ms)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: made by `new`, destroyed once; the driver keeps what is still waited for.
            unsafe { sys::cuEventDestroy_v2(self.raw) };
        }
    }
}
