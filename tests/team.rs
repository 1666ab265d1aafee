//! The threads behind `Cpu`: every task once, panics, nesting, sharing, and no allocation once warm.

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use inp_former::engine::{Options, Scorer, Verdict};
use inp_former::ops::preprocess::ImageView;
use inp_former::runtime::Cpu;

use crate::models::model;
use crate::support::cpus;

/// The system's allocator, which counts.
struct Counting;
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's.
        unsafe { System.realloc(p, layout, size) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(p, layout) }
    }
}

/// In a process of its own, where no other test allocates: threads of the team are counted as much as the caller's.
#[test]
fn scoring_a_picture_allocates_nothing_once_warm() {
    const NAME: &str = "team::scoring_a_picture_allocates_nothing_once_warm";
    const ALONE: &str = "INP_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let out = child.args(["--exact", NAME, "--test-threads=1"]).env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        return assert!(out.status.success() && said.contains("1 passed"), "{said}");
    }
    let m = model("tiny");
    let pixels: Vec<u8> = (0..160 * 120 * 3).map(|i| (i * i % 251) as u8).collect();
    for cpu in cpus() {
        let mut scorers = [false, true].map(|zero_shot| {
            Scorer::new(m.clone(), cpu.clone(), &Options { zero_shot, ..Options::default() }).unwrap()
        });
        let mut verdict = Verdict::default();
        let mut pictures = |n: usize| {
            for i in 0..n {
                let frame = ImageView::rgb(&pixels, 160, 120).unwrap();
                scorers[i % 2].score_into(&frame, &mut verdict).unwrap();
            }
        };
        pictures(4);
        let before = ALLOCATIONS.load(Relaxed);
        pictures(6);
        let made = ALLOCATIONS.load(Relaxed) - before;
        assert!(
            before > 0 && made == 0,
            "{made} allocations on {} threads of {}",
            cpu.threads(),
            cpu.tier().name()
        );
    }
}

/// Teams of 1 to 5 threads.
fn teams() -> impl Iterator<Item = Cpu> {
    (1..=5).map(|n| Cpu::new(Some(n)).unwrap())
}

#[test]
fn every_task_runs_once_however_many_there_are() {
    for cpu in teams() {
        for tasks in [0, 1, 2, 3, 7, 100, 1000, 1001] {
            // Long enough for workers to fall asleep between some of the runs.
            if tasks == 7 {
                std::thread::sleep(Duration::from_millis(2));
            }
            let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
            cpu.run(tasks, |i| {
                counts[i].fetch_add(1, Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Relaxed) == 1), "{tasks} tasks on {}", cpu.threads());
            let mut a = vec![0; 3 * tasks];
            cpu.for_chunks(&mut a[..(3 * tasks).saturating_sub(1)], 3, |i, c| c.fill(i + 1));
            assert!(a.iter().enumerate().all(|(i, &x)| x == if i + 1 < 3 * tasks { i / 3 + 1 } else { 0 }));
            let (a, b) =
                cpu.make_chunks2([3 * tasks, 3], [tasks, 1], |i, a, b| (a[2], b[0]) = (2 * i, a.len()));
            assert!((0..tasks).all(|i| a[3 * i + 2] == 2 * i && b[i] == 3));
        }
    }
}

#[test]
fn no_two_tasks_have_a_slot_at_the_same_time() {
    for cpu in teams() {
        let mut slots = vec![0; cpu.threads()];
        for _ in 0..50 {
            cpu.run_with(&mut slots, 64, |slot, _| {
                let had = std::hint::black_box(*slot);
                (0..100).for_each(|_| std::hint::spin_loop());
                *slot = had + 1;
            });
        }
        assert_eq!(slots.iter().sum::<i32>(), 50 * 64);
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_team_lives_on() {
    for cpu in teams() {
        for bad in [0, 5, 99] {
            let run = || cpu.run(100, |i| assert!(i != bad, "task {i}"));
            let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            assert_eq!(panic.downcast_ref::<String>(), Some(&format!("task {bad}")));
            let sum = AtomicUsize::new(0);
            cpu.run(100, |i| {
                sum.fetch_add(i, Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }
}

#[test]
fn runs_within_tasks_and_from_many_threads_are_whole() {
    for cpu in teams() {
        let work = || {
            let sum = AtomicUsize::new(0);
            cpu.run(20, |i| {
                let cpu = cpu.clone();
                cpu.run(10, |j| {
                    sum.fetch_add(10 * i + j, Relaxed);
                });
            });
            assert_eq!(sum.into_inner(), 199 * 100);
        };
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| (0..200).for_each(|_| work()));
            }
        });
    }
}
