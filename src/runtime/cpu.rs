//! The CPU as a device: a team of threads and an instruction tier, both chosen once.

mod team;

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::runtime::simd::{Elem, Kernel, Operand, ProductKernel, Tier, bf16};
use team::Team;

/// Threads and instruction set. Cheap to clone; every op takes one. Clones share their threads: while one uses them, ops
/// of another run on the thread that calls them, with the same results.
#[derive(Clone)]
pub struct Cpu {
    team: Option<Arc<Team>>,
    threads: usize,
    tier: Tier,
    narrow: bool,
}

impl Cpu {
    /// `threads = None` takes every core that the process may use; the tier is what the environment variable `INP_SIMD`
    /// names (`scalar`, `avx2`, `avx512`), else the best that the chip has.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        let name = std::env::var_os("INP_SIMD").map(|n| n.to_string_lossy().into_owned());
        Self::with_tier(threads, Tier::choose(name.as_deref())?)
    }
    /// As [`Cpu::new`], with the instruction tier given; a tier that the chip lacks is refused.
    pub fn with_tier(threads: Option<usize>, tier: Tier) -> Result<Self> {
        if !tier.is_supported() {
            return Err(Error::usage(format!("this processor has no {}", tier.name())));
        }
        let threads =
            threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get())).max(1);
        let failed = |e| Error::usage(format!("cannot start {threads} threads: {e}; ask for fewer"));
        let team = if threads == 1 { None } else { Some(Arc::new(Team::new(threads).map_err(failed)?)) };
        Ok(Self { team, threads, tier, narrow: false })
    }
    /// The same threads and instructions, on which `linear` products round their operands to bf16 and sum in f32 (f64 stays
    /// as it is).
    pub fn narrowed(&self) -> Self {
        Self { narrow: true, ..self.clone() }
    }
    /// The same, without the rounding of [`Cpu::narrowed`]: for products that are small and need their digits.
    pub fn exact(&self) -> Self {
        Self { narrow: false, ..self.clone() }
    }
    /// Whether products round their operands.
    pub fn is_narrow(&self) -> bool {
        self.narrow
    }
    /// Number of threads that ops run on.
    pub fn threads(&self) -> usize {
        self.threads
    }
    /// Instruction tier that ops run on.
    pub fn tier(&self) -> Tier {
        self.tier
    }
    /// Runs `kernel` compiled for this device's instruction tier (f64 always runs the scalar tier).
    #[inline]
    pub fn dispatch<E: Elem, K: Kernel<E>>(&self, kernel: K) -> K::Output {
        E::dispatch(self.tier, kernel)
    }
    /// As [`Cpu::dispatch`], for a kernel that multiplies operands X.
    #[inline]
    pub fn product<X: Operand, K: ProductKernel<X>>(&self, kernel: K) -> K::Output {
        X::product(self.tier, kernel)
    }
    /// Whether products of bf16 have instructions here; they are emulated, slowly, where not.
    pub fn has_bf16(&self) -> bool {
        bf16::is_native(self.tier)
    }
    /// Calls `f(0..tasks)`, in any order, on the team. What a task computes must not depend on which thread runs it.
    /// A panic of a task ends the run and is passed on. A run inside a task is done by that task's thread alone.
    pub fn run(&self, tasks: usize, f: impl Fn(usize) + Sync + Send) {
        self.each(tasks, &|_, i| f(i))
    }
    /// As [`Cpu::run`], with one of `slots` (at least [`Cpu::threads`]) that no other task has at the time: scratch.
    pub fn run_with<S: Send>(&self, slots: &mut [S], tasks: usize, f: impl Fn(&mut S, usize) + Sync + Send) {
        assert!(slots.len() >= self.threads, "run_with: fewer slots than threads");
        let slots = Chunks::new(slots, 1);
        // SAFETY: of the threads in a run no two have the same number, and each is in one task at a time.
        self.each(tasks, &|thread, i| f(unsafe { &mut slots.get(thread)[0] }, i))
    }
    /// Splits `out` into chunks of `chunk` elements and calls `f(index, chunk)` for each, on the team.
    pub fn for_chunks<T: Send>(
        &self,
        out: &mut [T],
        chunk: usize,
        f: impl Fn(usize, &mut [T]) + Sync + Send,
    ) {
        assert!(chunk > 0 || out.is_empty(), "for_chunks: chunk of zero elements");
        let out = Chunks::new(out, chunk.max(1));
        // SAFETY: a run has each index once.
        self.each(out.count(), &|_, i| f(i, unsafe { out.get(i) }))
    }
    /// As [`Cpu::for_chunks`], of two slices that have as many chunks.
    pub fn for_chunks2<T: Send, U: Send>(
        &self,
        (a, chunk_a): (&mut [T], usize),
        (b, chunk_b): (&mut [U], usize),
        f: impl Fn(usize, &mut [T], &mut [U]) + Sync + Send,
    ) {
        let (a, b) = (Chunks::new(a, chunk_a.max(1)), Chunks::new(b, chunk_b.max(1)));
        assert_eq!(a.count(), b.count(), "for_chunks2: chunk counts differ");
        // SAFETY: a run has each index once.
        self.each(a.count(), &|_, i| unsafe { f(i, a.get(i), b.get(i)) })
    }
    /// A vector of `len` elements made in chunks of `chunk`: `f(index, chunk)` finds its own zero, on the pool.
    ///
    /// The task that assigns a chunk also clears it, so that the zeros never leave its cache; clearing the whole vector
    /// beforehand would be one more pass through memory, on one thread.
    pub fn make_chunks<T: Copy + Default + Send>(
        &self,
        len: usize,
        chunk: usize,
        f: impl Fn(usize, &mut [T]) + Sync + Send,
    ) -> Vec<T> {
        let mut v = Vec::with_capacity(len);
        self.for_chunks(&mut v.spare_capacity_mut()[..len], chunk, |i, c| f(i, zeroed(c)));
        // SAFETY: `for_chunks` went over all `len` elements, and `zeroed` wrote each.
        unsafe { v.set_len(len) };
        v
    }
    /// `f(thread, task)` for each task.
    fn each(&self, tasks: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        match &self.team {
            Some(team) => team.run(tasks, f),
            None => (0..tasks).for_each(|i| f(0, i)),
        }
    }
    /// As [`Cpu::make_chunks`] for two vectors, each given as `[len, chunk]`, of the same number of chunks.
    pub fn make_chunks2<T: Copy + Default + Send, U: Copy + Default + Send>(
        &self,
        [len_a, chunk_a]: [usize; 2],
        [len_b, chunk_b]: [usize; 2],
        f: impl Fn(usize, &mut [T], &mut [U]) + Sync + Send,
    ) -> (Vec<T>, Vec<U>) {
        assert_eq!(len_a.div_ceil(chunk_a), len_b.div_ceil(chunk_b), "make_chunks2: chunk counts differ");
        let (mut a, mut b) = (Vec::with_capacity(len_a), Vec::with_capacity(len_b));
        let mut pairs: Vec<_> = (a.spare_capacity_mut()[..len_a].chunks_mut(chunk_a))
            .zip(b.spare_capacity_mut()[..len_b].chunks_mut(chunk_b))
            .collect();
        self.for_chunks(&mut pairs, 1, |i, pair| f(i, zeroed(pair[0].0), zeroed(pair[0].1)));
        // SAFETY: the pairs cover both vectors, and `zeroed` wrote each element.
        unsafe {
            a.set_len(len_a);
            b.set_len(len_b);
        }
        (a, b)
    }
}

fn zeroed<T: Copy + Default>(c: &mut [MaybeUninit<T>]) -> &mut [T] {
    c.fill(MaybeUninit::new(T::default()));
    // SAFETY: every element has just been written.
    unsafe { c.assume_init_mut() }
}

/// A slice, to be handed out in chunks by their index.
struct Chunks<'a, T> {
    first: *mut T,
    len: usize,
    chunk: usize,
    whole: PhantomData<&'a mut [T]>,
}

// SAFETY: threads share it only to take disjoint chunks, which is sending them.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

impl<'a, T> Chunks<'a, T> {
    fn new(whole: &'a mut [T], chunk: usize) -> Self {
        Self { first: whole.as_mut_ptr(), len: whole.len(), chunk, whole: PhantomData }
    }
    fn count(&self) -> usize {
        self.len.div_ceil(self.chunk)
    }
    /// SAFETY: nobody else may hold chunk `i` while this is in use.
    #[allow(clippy::mut_from_ref)]
    unsafe fn get(&self, i: usize) -> &mut [T] {
        assert!(i < self.count(), "no such chunk");
        let at = i * self.chunk;
        // SAFETY: within the slice, and no other chunk reaches into it.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(at), self.chunk.min(self.len - at)) }
    }
}

/// Tells the allocator to keep freed memory for the next tensor instead of giving it back to the system: the pages of
/// large activations would otherwise be faulted in anew at every op, which costs more than the ops. For programs that
/// own their process; does nothing where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets parameters of malloc and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        // Never: the largest number would still mean 2 GB, which large batches free in every step.
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        // The heaps of further threads are small and given back whole.
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
