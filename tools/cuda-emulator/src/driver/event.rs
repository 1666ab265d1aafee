//! Events: places in the order of a stream.

use super::capture::{self, Capture, Joined};
use super::context::Context;
use super::queue::Ticket;
use super::state::{context, driver, fresh, lock};
use super::stream::{find, submit};
use super::work::Work;
use super::{Handle, api, put};
use crate::error::Code;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

/// An event.
pub(crate) struct Event {
    pub id: usize,
    pub context: Weak<Context>,
    flags: u32,
    state: Mutex<State>,
}
enum State {
    Never,
    Recorded(Arc<Ticket>),
    /// In a capture: what a stream that waits for it must follow.
    Captured {
        capture: Weak<Capture>,
        after: Vec<usize>,
    },
}

const NO_TIMING: u32 = 2;

pub(crate) fn by_handle(h: Handle) -> Result<Arc<Event>, Code> {
    let e = driver()?.events.get(h).ok_or(Code::InvalidHandle)?;
    e.context.upgrade().ok_or(Code::ContextIsDestroyed)?.usable()?;
    Ok(e)
}
impl Event {
    /// A graph's node records it now.
    pub fn recorded(&self) {
        *lock(&self.state) = State::Recorded(Ticket::finished());
    }
    /// A launch of a graph that records it was asked for at `since`: it is done with the launch, or earlier by its node.
    pub fn pending(&self, launch: &Arc<Ticket>, since: Instant) {
        let mut s = lock(&self.state);
        if !matches!(&*s, State::Recorded(t) if t.when().is_some_and(|w| w >= since)) {
            *s = State::Recorded(launch.clone());
        }
    }
    /// A graph's node waits for it.
    pub fn wait(&self) {
        if let Ok(Some(t)) = self.ticket() {
            t.wait();
        }
    }
    /// The ticket, if it was recorded outside of captures.
    fn ticket(&self) -> Result<Option<Arc<Ticket>>, Code> {
        match &*lock(&self.state) {
            State::Never => Ok(None),
            State::Recorded(t) => Ok(Some(t.clone())),
            State::Captured { capture, .. } => {
                capture.upgrade().inspect(|c| c.invalidate());
                Err(Code::CapturedEvent)
            }
        }
    }
}
fn record(event: Handle, stream: Handle, flags: u32) -> Result<(), Code> {
    if flags > 1 {
        return Err(Code::InvalidValue);
    }
    let (e, (s, c)) = (by_handle(event)?, find(stream)?);
    if e.context.as_ptr() != Arc::as_ptr(&c) {
        return Err(Code::InvalidHandle);
    }
    if let Some(j) = &mut *lock(&s.capture) {
        j.capture.valid()?;
        if flags == 1 {
            return j.add(Work::Record(e));
        }
        *lock(&e.state) = State::Captured { capture: Arc::downgrade(&j.capture), after: j.after.clone() };
        return Ok(());
    }
    if flags == 1 {
        return Err(Code::InvalidValue);
    }
    if let Some(t) = submit(&s, &c, Work::Nothing, &[])? {
        *lock(&e.state) = State::Recorded(t);
    }
    Ok(())
}
fn elapsed(out: *mut f32, start: Handle, end: Handle) -> Result<(), Code> {
    let (a, b) = (by_handle(start)?, by_handle(end)?);
    if (a.flags | b.flags) & NO_TIMING != 0 {
        return Err(Code::InvalidHandle);
    }
    let (Some(a), Some(b)) = (a.ticket()?, b.ticket()?) else { return Err(Code::InvalidHandle) };
    if !a.poll() || !b.poll() {
        return Err(Code::NotReady);
    }
    let (a, b) = (a.when().ok_or(Code::NotReady)?, b.when().ok_or(Code::NotReady)?);
    let seconds = if b >= a { (b - a).as_secs_f64() } else { -(a - b).as_secs_f64() };
    put(out, (seconds * 1e3) as f32)
}

api! {
    fn cuEventCreate(out: *mut Handle, flags: u32) {
        let c = context()?;
        if flags > 7 || flags & 4 != 0 && flags & NO_TIMING == 0 {
            return Err(Code::InvalidValue);
        }
        let id = fresh();
        put(out, id as Handle)?;
        let e = Event { id, context: Arc::downgrade(&c), flags, state: Mutex::new(State::Never) };
        driver()?.events.insert(id, Arc::new(e));
        Ok(())
    }
    fn cuEventDestroy_v2(h: Handle) {
        driver()?.events.take(h).map(drop).ok_or(Code::InvalidHandle)
    }
    fn cuEventRecord / "cuEventRecord_ptsz" (event: Handle, stream: Handle) {
        record(event, stream, 0)
    }
    fn cuEventRecordWithFlags / "cuEventRecordWithFlags_ptsz" (event: Handle, stream: Handle, flags: u32) {
        record(event, stream, flags)
    }
    fn cuEventQuery(h: Handle) {
        match by_handle(h)?.ticket()? {
            Some(t) if !t.poll() => Err(Code::NotReady),
            _ => Ok(()),
        }
    }
    fn cuEventSynchronize(h: Handle) {
        let e = by_handle(h)?;
        if let Some(t) = e.ticket()? {
            t.wait();
        }
        driver()?.log.synchronized();
        by_handle(h).map(drop)
    }
    fn cuEventElapsedTime(out: *mut f32, start: Handle, end: Handle) {
        elapsed(out, start, end)
    }
    fn cuEventElapsedTime_v2(out: *mut f32, start: Handle, end: Handle) {
        elapsed(out, start, end)
    }
    fn cuStreamWaitEvent / "cuStreamWaitEvent_ptsz" (stream: Handle, event: Handle, flags: u32) {
        if flags > 1 {
            return Err(Code::InvalidValue);
        }
        let ((s, c), e) = (find(stream)?, by_handle(event)?);
        let mut joined = lock(&s.capture);
        if flags == 1 {
            // External: a node that waits, which is for captures only.
            return joined.as_mut().map_or(Err(Code::InvalidValue), |j| j.add(Work::Wait(e)));
        }
        let state = lock(&e.state);
        match (&mut *joined, &*state) {
            (Some(j), State::Captured { capture, after }) => {
                j.capture.valid()?;
                match capture.upgrade() {
                    Some(other) if Arc::ptr_eq(&other, &j.capture) => {
                        j.follow(after);
                        Ok(())
                    }
                    Some(other) if other.open() => {
                        other.invalidate();
                        j.capture.invalidate();
                        Err(Code::StreamCaptureMerge)
                    }
                    _ => {
                        j.capture.invalidate();
                        Err(Code::StreamCaptureIsolation)
                    }
                }
            }
            (Some(j), State::Recorded(_)) => {
                j.capture.invalidate();
                Err(Code::StreamCaptureIsolation)
            }
            (Some(j), State::Never) => j.capture.valid(),
            (None, State::Captured { capture, after }) => {
                let Some(other) = capture.upgrade().filter(|c| c.open()) else { return Err(Code::CapturedEvent) };
                other.valid()?;
                if s.legacy {
                    other.invalidate();
                    return Err(Code::StreamCaptureImplicit);
                }
                other.join(&s);
                *joined = Some(Joined { capture: other, after: after.clone() });
                Ok(())
            }
            (None, State::Recorded(t)) => {
                let t = t.clone();
                drop((joined, state));
                submit(&s, &c, Work::Nothing, &[t]).map(drop)
            }
            (None, State::Never) => Ok(()),
        }
    }
    fn cuStreamBeginCapture_v2 / "cuStreamBeginCapture_v2_ptsz" (stream: Handle, mode: u32) {
        let (s, c) = find(stream)?;
        capture::begin(&s, &c, mode, super::graph::Graph::new(), Vec::new())
    }
    fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) {
        let new = super::get(mode)?;
        if new > 2 {
            return Err(Code::InvalidValue);
        }
        put(mode, super::state::MODE.replace(new))
    }
}
