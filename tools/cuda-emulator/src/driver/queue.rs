//! Ordered work: tickets, and a queue with a worker thread for each stream.
//!
//! Work goes to the queues in the order of the API calls and waits for earlier tickets only, so nothing can deadlock.
//! In an adversarial schedule (a seed is set) a queue may hold work back until somebody waits for it: a missing
//! synchronisation then shows as stale data instead of passing by luck.

use super::context::Context;
use super::state::lock;
use super::work::Work;
use crate::error::Code;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long held-back work waits at most, so that a host that polls plain memory goes on.
const HOLD: Duration = Duration::from_millis(20);
/// Pieces of work that a stream holds back at most.
const DEEP: usize = 256;

/// A piece of work that may be waited for.
pub(crate) struct Ticket {
    queue: Weak<Queue>,
    number: u64,
    done: Mutex<Option<Instant>>,
    bell: Condvar,
}
impl Ticket {
    /// Of something that is done now.
    pub fn finished() -> Arc<Self> {
        let done = Mutex::new(Some(Instant::now()));
        Arc::new(Self { queue: Weak::new(), number: 0, done, bell: Condvar::new() })
    }
    pub fn done(&self) -> bool {
        lock(&self.done).is_some()
    }
    /// When it was done.
    pub fn when(&self) -> Option<Instant> {
        *lock(&self.done)
    }
    /// Whether it is done; if not, it is hurried along.
    pub fn poll(&self) -> bool {
        self.done() || {
            self.hurry();
            false
        }
    }
    fn hurry(&self) {
        if let Some(q) = self.queue.upgrade() {
            q.demand(self.number);
        }
    }
    pub fn wait(&self) {
        if self.done() {
            return;
        }
        self.hurry();
        let mut d = lock(&self.done);
        while d.is_none() {
            d = self.bell.wait(d).unwrap_or_else(PoisonError::into_inner);
        }
    }
    fn finish(&self) {
        *lock(&self.done) = Some(Instant::now());
        self.bell.notify_all();
    }
}

struct Task {
    work: Work,
    after: Vec<Arc<Ticket>>,
    ticket: Arc<Ticket>,
}

#[derive(Default)]
struct Inner {
    tasks: VecDeque<Task>,
    last: Option<Arc<Ticket>>,
    issued: u64,
    demanded: u64,
    closed: bool,
}

/// The work of a stream.
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    bell: Condvar,
    context: Weak<Context>,
    started: AtomicBool,
    salt: u64,
}
impl Queue {
    pub fn new(context: Weak<Context>, salt: u64) -> Arc<Self> {
        let started = AtomicBool::new(false);
        Arc::new(Self { inner: Mutex::default(), bell: Condvar::new(), context, started, salt })
    }
    /// The last work, if it is not done yet.
    pub fn last(&self) -> Option<Arc<Ticket>> {
        lock(&self.inner).last.clone().filter(|t| !t.done())
    }
    /// Appends work that starts when all of `after` is done.
    pub fn push(self: &Arc<Self>, work: Work, after: Vec<Arc<Ticket>>) -> Result<Arc<Ticket>, Code> {
        if !self.started.swap(true, Ordering::AcqRel) {
            let q = self.clone();
            let made = std::thread::Builder::new().name("cuda-stream".into()).spawn(move || q.serve());
            made.map_err(|_| {
                self.started.store(false, Ordering::Release);
                Code::OutOfMemory
            })?;
        }
        let mut i = lock(&self.inner);
        i.issued += 1;
        let ticket = Arc::new(Ticket {
            queue: Arc::downgrade(self),
            number: i.issued,
            done: Mutex::new(None),
            bell: Condvar::new(),
        });
        i.last = Some(ticket.clone());
        i.tasks.push_back(Task { work, after, ticket: ticket.clone() });
        drop(i);
        self.bell.notify_all();
        Ok(ticket)
    }
    fn demand(&self, number: u64) {
        let mut i = lock(&self.inner);
        i.demanded = i.demanded.max(number);
        drop(i);
        self.bell.notify_all();
    }
    /// No more work comes; what is there is done, then the worker ends.
    pub fn close(&self) {
        lock(&self.inner).closed = true;
        self.bell.notify_all();
    }
    fn held(&self, number: u64) -> bool {
        let Some(seed) = super::state::driver().ok().and_then(|d| d.options().seed) else { return false };
        let mut r =
            crate::exec::cta::Random((seed ^ self.salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number | 1);
        r.next();
        r.next() & 1 == 1
    }
    fn serve(&self) {
        loop {
            let mut i = lock(&self.inner);
            let mut since = None;
            let task = loop {
                if let Some(number) = i.tasks.front().map(|t| t.ticket.number) {
                    let start = *since.get_or_insert_with(Instant::now);
                    let now =
                        i.closed || i.demanded >= number || i.tasks.len() > DEEP || start.elapsed() >= HOLD;
                    if now || !self.held(number) {
                        break i.tasks.pop_front();
                    }
                    i = self.bell.wait_timeout(i, HOLD).unwrap_or_else(PoisonError::into_inner).0;
                } else if i.closed {
                    return;
                } else {
                    i = self.bell.wait(i).unwrap_or_else(PoisonError::into_inner);
                }
            };
            drop(i);
            if let Some(t) = task {
                t.after.iter().for_each(|a| a.wait());
                if let Some(c) = self.context.upgrade() {
                    // A panic of the executor must not leave waiters behind.
                    let run = std::panic::AssertUnwindSafe(|| c.run(&t.work));
                    if std::panic::catch_unwind(run).is_err() {
                        c.fail(Code::Unknown);
                    }
                }
                drop(t.work);
                t.ticket.finish();
            }
        }
    }
}
