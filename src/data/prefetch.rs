//! Ordered loading on worker threads: decoding runs ahead of the work that needs the pictures, by a bounded amount.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::runtime::Cpu;

/// What the workers and the consumer share.
struct State<I, T> {
    items: std::iter::Enumerate<std::vec::IntoIter<I>>,
    /// Index of the next item that a worker will take.
    next: usize,
    /// How many results the consumer has taken.
    taken: usize,
    ready: BTreeMap<usize, std::thread::Result<T>>,
    stopped: bool,
}

struct Shared<I, T> {
    state: Mutex<State<I, T>>,
    changed: Condvar,
}

impl<I, T> Shared<I, T> {
    fn lock(&self) -> MutexGuard<'_, State<I, T>> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Waits until `f` has an answer.
    fn when<R>(&self, mut f: impl FnMut(&mut State<I, T>) -> Option<R>) -> R {
        let mut state = self.lock();
        loop {
            if let Some(r) = f(&mut state) {
                self.changed.notify_all();
                return r;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Tells the workers to stop, also when the consumer panics.
struct Stop<'a, I, T>(&'a Shared<I, T>);
impl<I, T> Drop for Stop<'_, I, T> {
    fn drop(&mut self) {
        self.0.lock().stopped = true;
        self.0.changed.notify_all();
    }
}

/// Calls `load(index, item)` on `workers` threads (0: on this one) and `consume(index, result)` on this one, in the
/// order of `items`. At most `ahead` (at least 1) items are loading or loaded and not yet consumed.
///
/// An error of `consume` stops the loading and is returned, once the loads under way are done. A panic in `load`
/// becomes a panic here when its turn comes.
pub fn ordered<I: Send, T: Send, E>(
    items: Vec<I>,
    workers: usize,
    ahead: usize,
    load: impl Fn(usize, I) -> T + Sync,
    mut consume: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    let total = items.len();
    let mut items = items.into_iter().enumerate();
    if workers == 0 {
        return items.try_for_each(|(i, item)| consume(i, load(i, item)));
    }
    let state = State { items, next: 0, taken: 0, ready: BTreeMap::new(), stopped: false };
    let shared = &Shared { state: Mutex::new(state), changed: Condvar::new() };
    let (load, ahead) = (&load, ahead.max(1));
    // `Some(None)`: there is nothing more to load.
    let work = |s: &mut State<I, T>| {
        let free = s.stopped || s.next == total || s.next < s.taken + ahead;
        free.then(|| {
            let item = if s.stopped { None } else { s.items.next() };
            s.next += usize::from(item.is_some());
            item
        })
    };
    std::thread::scope(|scope| {
        let _stop = Stop(shared);
        for _ in 0..workers.min(total) {
            scope.spawn(move || {
                while let Some((i, item)) = shared.when(work) {
                    let result = catch_unwind(AssertUnwindSafe(|| load(i, item)));
                    shared.lock().ready.insert(i, result);
                    shared.changed.notify_all();
                }
            });
        }
        for i in 0..total {
            let result = shared.when(|s| s.ready.remove(&i).inspect(|_| s.taken = i + 1));
            consume(i, result.unwrap_or_else(|panic| resume_unwind(panic)))?;
        }
        Ok(())
    })
}

/// `consume(index, load(index, read(index, item)))` in the order of `items`, as [`ordered`] does it, for a consumer that
/// computes on `cpu`.
///
/// `workers = None` leaves no more threads than cores: one thread reads ahead, which is mostly waiting for the disk, and
/// between calls of `consume` the threads of `cpu` load an item each. Threads that decoded beside the computing ones
/// would take their cores in the middle of a stage, and the others would wait for that stage to end. With
/// `Some(n)` those threads are there all the same: for a consumer that leaves cores free.
pub fn staged<I: Send, B: Send, T: Send, E>(
    cpu: &Cpu,
    items: Vec<I>,
    workers: Option<usize>,
    read: impl Fn(usize, I) -> B + Sync,
    load: impl Fn(usize, B) -> T + Sync + Send,
    mut consume: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    if let Some(n) = workers {
        return ordered(items, n, n + 2, |i, item| load(i, read(i, item)), consume);
    }
    let (total, at_once) = (items.len(), cpu.threads());
    let mut group: Vec<(Option<B>, Option<T>)> = Vec::with_capacity(at_once);
    ordered(items, 1, 2 * at_once, read, |i, bytes| {
        group.push((Some(bytes), None));
        if group.len() < at_once && i + 1 < total {
            return Ok(());
        }
        let first = i + 1 - group.len();
        cpu.for_chunks(&mut group, 1, |k, slot| {
            let (bytes, loaded) = &mut slot[0];
            *loaded = bytes.take().map(|b| load(first + k, b));
        });
        group
            .drain(..)
            .zip(first..)
            .try_for_each(|((_, t), i)| consume(i, t.expect("every chunk was loaded")))
    })
}
