//! Vector clocks of a block's threads.

use super::lanes;
use crate::exec::Mask;
use std::collections::HashMap;
use std::sync::Arc;

/// What some threads did, as somebody else may learn it.
#[derive(Clone, Default)]
pub struct Published {
    /// Clocks of the block's own threads; empty for none.
    pub own: Arc<Vec<u32>>,
    /// Clocks of other blocks' threads, by block.
    pub foreign: HashMap<u32, Arc<Vec<u32>>>,
}
impl Published {
    /// Adds what another knows.
    pub fn join(&mut self, other: &Self) {
        join(&mut self.own, &other.own);
        for (b, v) in &other.foreign {
            join(self.foreign.entry(*b).or_default(), v);
        }
    }
}

/// `a = max(a, b)`, without a copy when one of them is enough.
pub fn join(a: &mut Arc<Vec<u32>>, b: &Arc<Vec<u32>>) {
    if Arc::ptr_eq(a, b) || b.is_empty() {
        return;
    }
    if a.is_empty() {
        *a = b.clone();
    } else if a.iter().zip(&**b).any(|(x, y)| x < y) {
        Arc::make_mut(a).iter_mut().zip(&**b).for_each(|(x, y)| *x = (*x).max(*y));
    }
}

struct Thread {
    /// What it knows of the others.
    know: Arc<Vec<u32>>,
    /// Knowledge at its last fence, which a relaxed access publishes.
    fenced: Option<(Arc<Vec<u32>>, u32)>,
    /// Seen by relaxed accesses, known after the next fence.
    pending: Option<Box<Published>>,
    /// What it knows of other blocks.
    foreign: Option<Arc<HashMap<u32, Arc<Vec<u32>>>>>,
}

/// Clocks of all threads of a block.
pub struct Clocks {
    threads: Vec<Thread>,
    /// Each thread's own clock: advances when somebody may have learnt of what it did.
    own: Vec<u32>,
    /// Of each warp, whether all its threads know the same: they share it.
    same: Vec<bool>,
}

impl Clocks {
    /// All at the beginning.
    pub fn new(threads: u32) -> Self {
        // Lanes of the last warp that do not exist have clocks too; they never act.
        let n = threads.next_multiple_of(32) as usize;
        let know = Arc::new(vec![0; n]);
        let new = |_| Thread { know: know.clone(), fenced: None, pending: None, foreign: None };
        Self { threads: (0..n).map(new).collect(), own: vec![1; n], same: vec![true; n / 32] }
    }
    /// The clock that an access of a thread carries.
    #[inline(always)]
    pub fn own(&self, thread: u32) -> u32 {
        self.own[thread as usize]
    }
    /// What every thread of a warp knows of the others, if it is the same.
    #[inline(always)]
    pub fn common(&self, warp: u32) -> Option<&[u32]> {
        self.same[warp as usize].then(|| self.threads[warp as usize * 32].know.as_slice())
    }
    /// Whether `thread` knows of what `other` of its block did at `clock`.
    #[inline(always)]
    pub fn knows(&self, thread: u32, other: u32, clock: u32) -> bool {
        thread == other || self.threads[thread as usize].know[other as usize] >= clock
    }
    /// Whether it knows of what a thread of another block did.
    pub fn knows_foreign(&self, thread: u32, block: u32, other: u32, clock: u32) -> bool {
        let f = self.threads[thread as usize].foreign.as_ref();
        f.and_then(|f| f.get(&block)).is_some_and(|v| v.get(other as usize).is_some_and(|&c| c >= clock))
    }
    /// All that a thread knows, itself included.
    pub fn snapshot(&self, thread: u32) -> Published {
        let t = &self.threads[thread as usize];
        let foreign = t.foreign.as_ref().map_or(HashMap::new(), |f| (**f).clone());
        Published { own: with_self(&t.know, thread, self.own(thread)), foreign }
    }
    /// What it knew at its last fence.
    pub fn fenced(&self, thread: u32) -> Option<Published> {
        let t = &self.threads[thread as usize];
        let (know, own) = t.fenced.as_ref()?;
        let foreign = t.foreign.as_ref().map_or(HashMap::new(), |f| (**f).clone());
        Some(Published { own: with_self(know, thread, *own), foreign })
    }
    /// What it does from now on is not what was published.
    pub fn advance(&mut self, thread: u32) {
        self.own[thread as usize] += 1;
    }
    /// It learns what was published: at once, or at its next fence.
    pub fn learn(&mut self, thread: u32, p: &Published, at_once: bool) {
        let t = &mut self.threads[thread as usize];
        if !at_once {
            t.pending.get_or_insert_default().join(p);
            return;
        }
        self.same[thread as usize / 32] = false;
        join(&mut t.know, &p.own);
        if !p.foreign.is_empty() {
            let f = Arc::make_mut(t.foreign.get_or_insert_default());
            p.foreign.iter().for_each(|(b, v)| join(f.entry(*b).or_default(), v));
        }
    }
    /// A fence: what it did may be published from here, what it saw is known.
    pub fn fence(&mut self, thread: u32) {
        if let Some(p) = self.threads[thread as usize].pending.take() {
            self.learn(thread, &p, true);
        }
        let t = &mut self.threads[thread as usize];
        t.fenced = Some((t.know.clone(), self.own[thread as usize]));
        self.advance(thread);
    }
    /// Those who waited know all that those who arrived knew.
    pub fn barrier(&mut self, arrived: &[(u32, Mask)], waited: &[(u32, Mask)]) {
        let all = |set: &[(u32, Mask)]| {
            set.iter().flat_map(|&(w, m)| lanes(m).map(move |l| (w * 32 + l) as usize)).collect::<Vec<_>>()
        };
        let warps = waited.iter().map(|&(w, m)| (w as usize, m == !0));
        warps.for_each(|(w, whole)| self.same[w] = whole);
        let (arrived, waited) = (all(arrived), all(waited));
        let Some(&first) = arrived.first() else { return };
        let mut sum = self.threads[first].know.clone();
        let mut last = Arc::as_ptr(&sum);
        for &t in &arrived {
            let know = &self.threads[t].know;
            if Arc::as_ptr(know) != last {
                last = Arc::as_ptr(know);
                join(&mut sum, know);
            }
        }
        let v = Arc::make_mut(&mut sum);
        let mut foreign: Option<Arc<HashMap<u32, Arc<Vec<u32>>>>> = None;
        for &t in &arrived {
            v[t] = self.own[t];
            self.own[t] += 1;
            match (&mut foreign, &self.threads[t].foreign) {
                (None, f) => foreign = f.clone(),
                (Some(a), Some(b)) if !Arc::ptr_eq(a, b) => {
                    let a = Arc::make_mut(a);
                    b.iter().for_each(|(k, v)| join(a.entry(*k).or_default(), v));
                }
                _ => {}
            }
        }
        for &t in &waited {
            self.threads[t].know = sum.clone();
            if foreign.is_some() {
                self.threads[t].foreign = foreign.clone();
            }
        }
    }
}

fn with_self(know: &Arc<Vec<u32>>, thread: u32, own: u32) -> Arc<Vec<u32>> {
    let mut v = (**know).clone();
    v[thread as usize] = own;
    Arc::new(v)
}
