//! The threads behind [`Cpu`](super::Cpu): they stay, and cost neither an allocation nor, while stages follow one another
//! closely, a system call.
//!
//! Each takes the tasks of its own share first, the same part of every stage, then what others have left of theirs: rows that
//! a stage wrote are in the cache of the core that reads them in the next. Cores that share no cache part with data slowly.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread looks for the next stage, or for the end of this one, before it lets others have the core.
const SPIN: Duration = Duration::from_micros(100);

/// The calling thread and `threads - 1` workers, which end when the team is dropped.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// Of a thread and a task.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// `f(thread, task)` for every task, `step` tasks at a time.
#[derive(Clone, Copy)]
struct Job {
    f: *const Task<'static>,
    tasks: usize,
    step: usize,
}

/// [`Shared::state`]: workers inside the job, whether more may enter, whether the team ends, the job's number.
const INSIDE: u64 = OPEN - 1;
const OPEN: u64 = 1 << 24;
const STOP: u64 = 1 << 25;
const NUMBER: u64 = 1 << 26;

/// On a cache line (and its prefetched neighbour) of its own.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    state: Line<AtomicU64>,
    /// Of each thread's share the first task that nobody took.
    next: Vec<Line<AtomicUsize>>,
    job: UnsafeCell<Option<Job>>,
    /// A thread has the team.
    busy: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Workers that wait on `wake`, and its lock.
    asleep: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written by the one thread that has the team (`busy`), while the state is closed and nobody inside; it
// is read by threads that entered since. What it points at is Sync.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Team {
    /// Starts the workers, each on a core of its own where the team has a thread for every core that the process may use
    /// (`INP_PIN=0` leaves them to the system).
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Line(AtomicU64::new(0)),
            next: (0..threads).map(|_| Line(AtomicUsize::new(0))).collect(),
            job: UnsafeCell::new(None),
            busy: AtomicBool::new(false),
            panic: Mutex::new(None),
            asleep: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let pin = std::env::var_os("INP_PIN").is_none_or(|v| v != "0");
        let cores = if pin { cores::others(threads) } else { Vec::new() };
        let mut team = Self { shared, workers: Vec::with_capacity(threads - 1) };
        for i in 1..threads {
            let (shared, core) = (team.shared.clone(), cores.get(i - 1).copied());
            let worker = std::thread::Builder::new().name(format!("inp-former-{i}")).spawn(move || {
                if let Some(core) = core {
                    cores::pin(core);
                }
                shared.work(i);
            })?;
            team.workers.push(worker);
        }
        Ok(team)
    }

    /// Calls `f(thread, task)` for tasks `0..tasks`, `thread` below the team's size and never the same twice at a time;
    /// back when all are done. A panic of a task is passed on then. While the team is another thread's, or busy with the
    /// very task that calls, the tasks run here, one after the other, as thread 0.
    pub fn run(&self, tasks: usize, f: &Task) {
        let s = &*self.shared;
        if tasks < 2 || s.busy.swap(true, Ordering::Acquire) {
            return (0..tasks).for_each(|i| f(0, i));
        }
        // Few enough steps that the counter is no bottleneck, enough that no thread waits long for the last one.
        let step = (tasks / (32 * (self.workers.len() + 1))).max(1);
        // SAFETY: only the lifetime is changed; this function does not return before every thread has left the job.
        let f = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(f) };
        // SAFETY: `busy` was free, so no job is open and nobody inside.
        unsafe { *s.job.get() = Some(Job { f, tasks, step }) };
        s.next
            .iter()
            .enumerate()
            .for_each(|(t, next)| next.0.store(s.share(tasks, t).start, Ordering::Relaxed));
        let number = s.state.0.load(Ordering::Relaxed) & !(NUMBER - 1);
        s.state.0.store(number.wrapping_add(NUMBER) | OPEN, Ordering::SeqCst);
        let asleep = s.asleep.load(Ordering::SeqCst);
        if asleep > 0 {
            drop(lock(&s.lock));
            (0..asleep.min(tasks - 1)).for_each(|_| s.wake.notify_one());
        }
        s.take_part(0);
        // The barrier. Workers that did not come in time are not waited for.
        s.state.0.fetch_and(!OPEN, Ordering::Relaxed);
        let mut wait = Wait::default();
        while s.state.0.load(Ordering::Acquire) & INSIDE != 0 {
            if !wait.spin() {
                std::thread::yield_now();
            }
        }
        let panic = lock(&s.panic).take();
        s.busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.state.0.fetch_or(STOP, Ordering::SeqCst);
        drop(lock(&self.shared.lock));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches what its tasks panic with.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self, thread: usize) {
        let (mut done, mut wait) = (0, Wait::default());
        loop {
            let state = self.state.0.load(Ordering::Acquire);
            let number = state & !(NUMBER - 1);
            if state & STOP != 0 {
                return;
            } else if state & OPEN != 0 && number != done {
                // The task list is read only by those who entered while it was open.
                let enter = self.state.0.compare_exchange_weak(
                    state,
                    state + 1,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                );
                if enter.is_ok() {
                    self.take_part(thread);
                    self.state.0.fetch_sub(1, Ordering::Release);
                    (done, wait) = (number, Wait::default());
                }
            } else if !wait.spin() {
                self.sleep(number);
                wait = Wait::default();
            }
        }
    }

    /// Waits without a core until there has been a job after `number`, or the team ends.
    fn sleep(&self, number: u64) {
        let mut guard = lock(&self.lock);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let news = |state: u64| state & STOP != 0 || state & !(NUMBER - 1) != number;
        while !news(self.state.0.load(Ordering::SeqCst)) {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    /// The tasks that are a thread's before they are another's.
    fn share(&self, tasks: usize, thread: usize) -> Range<usize> {
        let n = self.next.len();
        let first = |t: usize| tasks / n * t + (tasks % n).min(t);
        first(thread)..first(thread + 1)
    }

    /// Takes tasks until there are none.
    fn take_part(&self, thread: usize) {
        // SAFETY: the caller is inside the job: it was written before, and is not again before this thread has left.
        let Some(job) = (unsafe { *self.job.get() }) else { return };
        let run = || {
            for whose in (thread..self.next.len()).chain(0..thread) {
                let end = self.share(job.tasks, whose).end;
                loop {
                    let first = self.next[whose].0.fetch_add(job.step, Ordering::Relaxed);
                    if first >= end {
                        break;
                    }
                    for task in first..(first + job.step).min(end) {
                        // SAFETY: `Team::run`, which has borrowed the function, waits for this thread.
                        unsafe { (*job.f)(thread, task) };
                    }
                }
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            self.next.iter().for_each(|next| next.0.store(job.tasks, Ordering::Relaxed));
            lock(&self.panic).get_or_insert(panic);
        }
    }
}

/// Nothing that these locks protect is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bounded spinning.
#[derive(Default)]
struct Wait {
    since: Option<Instant>,
}

impl Wait {
    /// One turn; false once the time is over.
    fn spin(&mut self) -> bool {
        (0..16).for_each(|_| std::hint::spin_loop());
        self.since.get_or_insert_with(Instant::now).elapsed() < SPIN
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod cores {
    /// The cores that the process may use, without the one that this thread is on; empty unless they are `threads`.
    pub fn others(threads: usize) -> Vec<usize> {
        // SAFETY: a cpu_set_t is a plain bit set, which sched_getaffinity fills.
        let (set, known) = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            let known = libc::sched_getaffinity(0, size_of_val(&set), &mut set) == 0;
            (set, known)
        };
        let all = 0..libc::CPU_SETSIZE as usize;
        // SAFETY: below CPU_SETSIZE.
        let mut cores: Vec<usize> = all.filter(|&i| known && unsafe { libc::CPU_ISSET(i, &set) }).collect();
        if cores.len() != threads {
            return Vec::new();
        }
        // SAFETY: no arguments; -1 where the system does not know.
        let here = unsafe { libc::sched_getcpu() };
        cores.retain(|&i| i as i32 != here);
        cores
    }

    /// Keeps this thread on `core`; where the system refuses, it stays free.
    pub fn pin(core: usize) {
        // SAFETY: as above; `core` came from `others`.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of_val(&set), &set);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod cores {
    pub fn others(_: usize) -> Vec<usize> {
        Vec::new()
    }
    pub fn pin(_: usize) {}
}
