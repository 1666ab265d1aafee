//! Ordered loading.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use inp_former::data::prefetch::{ordered, staged};
use inp_former::runtime::Cpu;

#[test]
fn results_come_in_order_with_bounded_look_ahead() {
    for (workers, ahead) in [(0, 1), (1, 1), (2, 3), (5, 2), (3, 0)] {
        let (started, consumed, ahead_most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let mut seen = Vec::new();
        let load = |i: usize, item: u64| {
            let at_once = started.fetch_add(1, SeqCst) + 1 - consumed.load(SeqCst);
            ahead_most.fetch_max(at_once, SeqCst);
            std::thread::sleep(Duration::from_micros(item * 37 % 11 * 100));
            (i, item * 2)
        };
        let done: Result<(), ()> = ordered((0..60).collect(), workers, ahead, load, |i, (j, v)| {
            assert_eq!((i, v), (j, 2 * i as u64));
            seen.push(i);
            consumed.fetch_add(1, SeqCst);
            Ok(())
        });
        assert_eq!((done, seen), (Ok(()), (0..60).collect::<Vec<_>>()));
        // One is being consumed while `ahead` are loading or loaded.
        assert!(ahead_most.load(SeqCst) <= ahead.max(1) + 1, "{workers} {ahead}: {ahead_most:?}");
    }
    let none: Result<(), ()> = ordered(Vec::<u8>::new(), 2, 2, |_, _| (), |_, _| Err(()));
    assert_eq!(none, Ok(()));
}

#[test]
fn an_error_stops_the_loading() {
    for workers in [0, 1, 4] {
        let started = AtomicUsize::new(0);
        let load = |i: usize, ()| {
            started.fetch_add(1, SeqCst);
            i
        };
        let stop = |i: usize, _| if i == 3 { Err("stop") } else { Ok(()) };
        assert_eq!(ordered(vec![(); 1000], workers, 4, load, stop), Err("stop"));
        assert!(started.load(SeqCst) <= 3 + 1 + 4, "{workers} workers started {started:?}");
    }
}

#[test]
fn panics_come_through_and_nothing_hangs() {
    let caught = |workers, in_load: bool| {
        std::panic::catch_unwind(move || {
            let load = |i: usize, ()| assert!(!in_load || i != 5, "in load");
            let consume = |i: usize, ()| -> Result<(), ()> {
                assert!(i != 7, "in consume");
                Ok(())
            };
            ordered(vec![(); 100], workers, 3, load, consume)
        })
    };
    for workers in [0, 1, 3] {
        for in_load in [true, false] {
            let panic = caught(workers, in_load).unwrap_err();
            let what = panic
                .downcast_ref::<&str>()
                .map(|s| s.to_string())
                .or(panic.downcast_ref::<String>().cloned());
            assert!(what.unwrap().contains(if in_load { "in load" } else { "in consume" }));
        }
    }
}

#[test]
fn stages_run_on_the_team_or_beside_it_in_order() {
    for threads in [1, 2, 3] {
        let cpu = Cpu::new(Some(threads)).unwrap();
        for (n, workers) in [(0, None), (1, None), (7, None), (12, None), (7, Some(0)), (7, Some(2))] {
            let (mut seen, mut stopped) = (Vec::new(), 0);
            let read = |i: usize, item: u64| (i, item + 1);
            let load = |i: usize, (read, item): (usize, u64)| {
                // A run on the team that loads is done by this thread alone.
                cpu.run(2, |_| ());
                assert_eq!(i, read);
                item * 10
            };
            let items: Vec<u64> = (0..n).collect();
            let done: Result<(), ()> = staged(&cpu, items.clone(), workers, read, load, |i, v| {
                assert_eq!(v, 10 * (i as u64 + 1));
                seen.push(i as u64);
                Ok(())
            });
            assert_eq!((done, seen), (Ok(()), items.clone()));
            let stop = |i: usize, _| {
                stopped += 1;
                if i == 4 { Err("stop") } else { Ok(()) }
            };
            let want = if n > 4 { (Err("stop"), 5) } else { (Ok(()), n) };
            assert_eq!((staged(&cpu, items, workers, read, load, stop), stopped), want);
        }
        let panics = std::panic::AssertUnwindSafe(|| {
            staged(&cpu, vec![(); 9], None, |_, ()| (), |i, ()| assert!(i != 5), |_, ()| Ok::<(), ()>(()))
        });
        assert!(std::panic::catch_unwind(panics).is_err());
    }
}
