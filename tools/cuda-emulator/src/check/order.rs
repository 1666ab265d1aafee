//! What strong accesses order: fences around them, acquire, release.

use super::clock::{self, Published};
use super::{Block, lock};
use crate::exec::{Access, Kind, Order};
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Block {
    /// Other blocks' strong accesses to global memory wait until this instruction is done.
    fn order(&mut self) {
        while !self.ordering && self.launch.ordering.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        self.ordering = true;
    }
    /// The next may come.
    pub(super) fn order_done(&mut self) {
        if std::mem::take(&mut self.ordering) {
            self.launch.ordering.store(false, Ordering::Release);
        }
    }
    /// Acquire and release of a strong access: by its own order, or by fences around a relaxed one.
    pub(super) fn ordered_access(&mut self, thread: u32, a: &Access, at: u64, shared: bool) {
        if !shared {
            self.order();
        }
        if !matches!(a.kind, Kind::Read) {
            let now = matches!(a.order, Order::Release | Order::AcquireRelease);
            let what = if now { Some(self.clocks.snapshot(thread)) } else { self.clocks.fenced(thread) };
            if let Some(p) = what {
                if shared {
                    self.objects.entry(at).or_default().join(&p);
                } else {
                    self.publish(at, &p);
                }
                if now {
                    self.clocks.advance(thread);
                }
            }
        }
        if !matches!(a.kind, Kind::Write) {
            let seen = match shared {
                true => self.objects.get(&at).cloned(),
                false => self.published(at),
            };
            if let Some(p) = seen {
                let now = matches!(a.order, Order::Acquire | Order::AcquireRelease);
                self.clocks.learn(thread, &p, now);
            }
        }
    }

    fn publish(&mut self, at: u64, p: &Published) {
        let mut all = lock(&self.launch.published);
        let object = all.entry(at).or_default();
        let mut join = |block: u32, v: &Arc<Vec<u32>>| match object.entry(block) {
            Entry::Vacant(e) => _ = e.insert(v.clone()),
            Entry::Occupied(mut e) => clock::join(e.get_mut(), v),
        };
        join(self.linear, &p.own);
        p.foreign.iter().for_each(|(&b, v)| join(b, v));
    }

    fn published(&self, at: u64) -> Option<Published> {
        let all = lock(&self.launch.published);
        let mut foreign = all.get(&at)?.clone();
        let own = foreign.remove(&self.linear).unwrap_or_default();
        Some(Published { own, foreign })
    }
}
