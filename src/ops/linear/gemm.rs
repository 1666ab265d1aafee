//! Blocked matrix product on the CPU: both operands plain or transposed, rows any distance apart.
//!
//! K is cut into blocks whose length depends on K alone; inside a block every element of C is one chain of multiply-adds,
//! and blocks are added in order. So row r of a product has the same bits alone, in any batch and on any thread count.
//!
//! On a [`Cpu::narrowed`] both operands are rounded to narrower ones as they are packed, several of which then share a lane
//! along K; C and the sums stay as they are.

mod paired;
pub mod side;
mod task;

use super::micro::{self, Out, Rows};
use super::paired::A;
pub use super::{micro::Start, pack::Mat};
use crate::runtime::simd::aligned::{LINE, Room};
use crate::runtime::simd::product::SumOf;
use crate::runtime::simd::{Elem, Operand, Product, ProductKernel, Simd, Tier};
use crate::runtime::{Cpu, Tensor};
pub use side::{Factor, Kept};
use side::{Fill, Side};
use task::{C, End, Job, Task};

/// Longest K block, in groups: a panel of it and the rows that meet it stay in the second-level cache.
const KC: usize = 768;
/// Groups along K that one task packs of an operand that K runs across.
const STRIP: usize = 16;
/// Register tiles across a panel of a transposed A: rows long enough to be copied at the speed of memory.
const TILES: usize = 8;
/// Register tiles down the rows that one task takes of a plain A: together they fetch all of the panel that comes next.
const DOWN: usize = 16;

/// C `(m, n)`, rows `ldc` apart, becomes A `(m, k)` · B `(k, n)` + `start`.
///
/// Cost: 2mnk FLOP; B is packed on every call (and A if transposed), so small m is bound by reading B.
/// Panics if an operand does not lie inside its slice: ops check shapes at their border.
pub fn gemm<'a, E: Elem>(
    cpu: &Cpu,
    shape: [usize; 3],
    a: impl Into<Factor<'a, E>>,
    b: impl Into<Factor<'a, E>>,
    c: &mut [E],
    ldc: usize,
    start: Start<E>,
) {
    gemms(cpu, 1, shape, a, b, c, ldc, start)
}

/// As [`gemm`] for `count` products: A, B and C are as many equal parts, one after the other.
#[allow(clippy::too_many_arguments)]
pub fn gemms<'a, E: Elem>(
    cpu: &Cpu,
    count: usize,
    shape @ [m, n, _]: [usize; 3],
    a: impl Into<Factor<'a, E>>,
    b: impl Into<Factor<'a, E>>,
    c: &mut [E],
    ldc: usize,
    start: Start<E>,
) {
    let step = c.len() / count.max(1);
    Mat::plain(&c[..step], ldc).check(m, n);
    let c = C { out: Out(c.as_mut_ptr()), ld: ldc, step };
    // SAFETY: C was checked, part by part.
    unsafe { into(cpu, count, shape, a.into(), b.into(), c, start) }
}

/// A `(m, k)` · B `(k, n)`, plus a bias `(n)` in every row, as a new matrix; otherwise as [`gemm`].
pub fn product<'a, E: Elem>(
    cpu: &Cpu,
    shape: [usize; 3],
    a: impl Into<Factor<'a, E>>,
    b: impl Into<Factor<'a, E>>,
    bias: Option<&[E]>,
) -> Vec<E> {
    products(cpu, 1, shape, a, b, bias)
}

/// As [`product`] for `count` products: A and B are as many equal parts, and so is the result.
pub fn products<'a, E: Elem>(
    cpu: &Cpu,
    count: usize,
    shape @ [m, n, _]: [usize; 3],
    a: impl Into<Factor<'a, E>>,
    b: impl Into<Factor<'a, E>>,
    bias: Option<&[E]>,
) -> Vec<E> {
    let mut c = Vec::with_capacity(count * m * n);
    let start = bias.map_or(Start::Zero, Start::Bias);
    // SAFETY: there is room for C, and all of it is assigned, for `start` is not `Add`.
    unsafe {
        into(
            cpu,
            count,
            shape,
            a.into(),
            b.into(),
            C { out: Out(c.as_mut_ptr()), ld: n, step: m * n },
            start,
        );
        c.set_len(count * m * n);
    }
    c
}

/// Adds A `(m, k)` · B `(k, n)` to `c` `(m, n)`, or makes it if it is [`Tensor::unset`]: no zeros are written and read again.
pub fn add<'a, E: Elem>(
    cpu: &Cpu,
    shape @ [m, n, _]: [usize; 3],
    a: impl Into<Factor<'a, E>>,
    b: impl Into<Factor<'a, E>>,
    c: &mut Tensor<E>,
) {
    assert_eq!(c.shape(), [m, n], "gemm: c");
    match c.is_empty() {
        true => c.data = product(cpu, shape, a, b, None),
        false => gemm(cpu, shape, a, b, &mut c.data, n, Start::Add),
    }
}

/// GELU of `count` products plus a bias `(n)`, and its slope there: `(count·m, n)` each, as operands of what follows.
pub fn activated<'a, E: Elem>(
    cpu: &Cpu,
    count: usize,
    shape: [usize; 3],
    a: impl Into<Factor<'a, E>>,
    b: impl Into<Factor<'a, E>>,
    bias: &[E],
) -> [Kept<E>; 2] {
    let (a, b) = (a.into(), b.into());
    match side::rounds::<E>(cpu) {
        true => gelu::<E::Narrow>(cpu, count, shape, a.narrow(), b.narrow(), bias).map(Kept::Operands),
        false => gelu::<E>(cpu, count, shape, a.wide(), b.wide(), bias).map(Kept::Sums),
    }
}

fn gelu<X: Operand>(
    cpu: &Cpu,
    count: usize,
    shape @ [m, n, _]: [usize; 3],
    a: Side<X>,
    b: Side<X>,
    bias: &[X::Sum],
) -> [Vec<X>; 2] {
    let mut all = [(); 2].map(|()| Vec::with_capacity(count * m * n));
    let [y, slope] = [0, 1].map(|i| Out(all[i].as_mut_ptr()));
    // SAFETY: there is room for both, and they are written whole.
    unsafe {
        run(cpu, Job { count, shape, a, b, end: End::Gelu { y, slope }, start: Start::Bias(bias) });
        all.iter_mut().for_each(|x| x.set_len(count * m * n));
    }
    all
}

/// A `(m, k)` · B `(k, n)`, element by element times `by` `(m, n)`, as operands of what follows.
pub fn times<'a, E: Elem>(
    cpu: &Cpu,
    shape: [usize; 3],
    a: impl Into<Factor<'a, E>>,
    b: impl Into<Factor<'a, E>>,
    by: &Kept<E>,
) -> Kept<E> {
    let (a, b) = (a.into(), b.into());
    match by {
        Kept::Operands(by) => Kept::Operands(scaled::<E::Narrow>(cpu, shape, a.narrow(), b.narrow(), by)),
        Kept::Sums(by) => Kept::Sums(scaled::<E>(cpu, shape, a.wide(), b.wide(), by)),
    }
}

fn scaled<X: Operand>(cpu: &Cpu, shape @ [m, n, _]: [usize; 3], a: Side<X>, b: Side<X>, by: &[X]) -> Vec<X> {
    assert_eq!(by.len(), m * n, "gemm: by");
    let mut y = Vec::with_capacity(m * n);
    let end = End::Times { by, y: Out(y.as_mut_ptr()) };
    // SAFETY: there is room for it, and it is written whole.
    unsafe {
        run(cpu, Job { count: 1, shape, a, b, end, start: Start::Zero });
        y.set_len(m * n);
    }
    y
}

/// SAFETY: each part of C may be written at `i·ld + j` for `i < m, j < n`, and read there if `start` is `Add`.
unsafe fn into<E: Elem>(
    cpu: &Cpu,
    count: usize,
    shape: [usize; 3],
    a: Factor<E>,
    b: Factor<E>,
    c: C<E>,
    start: Start<E>,
) {
    // SAFETY: the caller's.
    unsafe {
        if side::rounds::<E>(cpu) {
            let (a, b) = (a.narrow(), b.narrow());
            run::<E::Narrow>(cpu, Job { count, shape, a, b, end: End::Store(c), start })
        } else {
            run::<E>(cpu, Job { count, shape, a: a.wide(), b: b.wide(), end: End::Store(c), start })
        }
    }
}

/// SAFETY: `end`'s places may be written as it says, and those of C read if `start` is `Add`.
unsafe fn run<X: Operand>(cpu: &Cpu, job: Job<X>) {
    let Job { count, shape: [m, n, k], a, b, start, .. } = job;
    (0..count).for_each(|i| {
        a.part(i, count).check(m, k);
        b.part(i, count).check(k, n);
    });
    if let Start::Bias(bias) = start {
        assert_eq!(bias.len(), n, "gemm: bias");
    }
    if m == 0 || n == 0 {
        return;
    }
    if pairs::<X>(cpu, n, k) {
        // SAFETY: the caller's.
        return unsafe { paired::run(cpu, job) };
    }
    let (mr, nr) = cpu.product::<X, _>(micro::Shape);
    let transposed = a.transposed();
    let [rows, cols] = deal(cpu, &job, [DOWN * mr, mr, nr]);
    let mut packed = match transposed {
        true => panels(cpu, a.across(), count, m, k, TILES * mr),
        false => panels(cpu, b, count, n, k, nr),
    };
    let packed = Out(packed.out());
    each(cpu, job, [rows, cols], packed, |task| {
        if transposed { cpu.product::<X, _>(Columns(task)) } else { cpu.product::<X, _>(Down(task)) }
    });
}

/// Whether these products are paired. Few columns do not pay for packing A; the number of rows must not matter.
pub(super) fn pairs<X: Operand>(cpu: &Cpu, n: usize, k: usize) -> bool {
    X::PAIRS && cpu.tier() == Tier::Avx512Paired && n >= 64 && k >= 32
}

/// Rows and columns of a task: large enough that what it packs is used often, small enough to feed every thread. Of a
/// plain A a task takes `down` rows at most, in register tiles of `mr`, `nr`.
fn deal<X: Operand>(cpu: &Cpu, job: &Job<X>, [down, mr, nr]: [usize; 3]) -> [usize; 2] {
    let [m, n, _] = job.shape;
    let tasks = |rows: usize, cols: usize| job.count * m.div_ceil(rows) * n.div_ceil(cols);
    let (mut rows, mut cols) = if job.a.transposed() { (m, nr) } else { (down, n.next_multiple_of(nr)) };
    while cpu.threads() > 1 && tasks(rows, cols) < 8 * cpu.threads() && (rows > mr || cols > nr) {
        let to = if cols > nr { (&mut cols, nr) } else { (&mut rows, mr) };
        *to.0 = (*to.0 / 2).next_multiple_of(to.1);
    }
    [rows, cols]
}

/// Runs a task for each so many rows and columns.
fn each<X: Operand>(
    cpu: &Cpu,
    job: Job<X>,
    [rows, cols]: [usize; 2],
    packed: Out<X::Sum>,
    f: impl Fn(Task<X>) + Sync + Send,
) {
    let [m, n, _] = job.shape;
    let (down, across) = (m.div_ceil(rows), n.div_ceil(cols));
    cpu.run(job.count * down * across, |t| {
        let (part, i, j) = (t / (down * across), t / across % down * rows, t % across * cols);
        f(Task { job, packed, part, at: [i, j], size: [rows.min(m - i), cols.min(n - j)] })
    });
}

/// Packs each of `count` parts, `n` columns of `k` rows, into panels `[groups][width]`.
fn panels<X: Operand>(
    cpu: &Cpu,
    from: Side<X>,
    count: usize,
    n: usize,
    k: usize,
    width: usize,
) -> Room<X::Sum> {
    let kc = k.div_ceil(X::GROUP);
    let size = n.next_multiple_of(width) * kc;
    let mut room: Room<X::Sum> = Room::new(count * size);
    let out = Out(room.out());
    let fill = |part: usize, rows, cols| {
        // SAFETY: within the room.
        let out = unsafe { out.at(part * size) };
        cpu.product::<X, _>(Fill { out, width, kc, from: from.part(part, count), k, first: 0, rows, cols })
    };
    if from.transposed() {
        let each = n.div_ceil(width);
        cpu.run(count * each, |t| {
            let j = t % each * width;
            fill(t / each, 0..kc, j..n.min(j + width))
        })
    } else {
        let each = kc.div_ceil(STRIP);
        cpu.run(count * each, |t| {
            let k = t % each * STRIP;
            fill(t / each, k..kc.min(k + STRIP), 0..n)
        })
    }
    room
}

/// A task with A as it was stored and B packed.
struct Down<'a, X: Operand>(Task<'a, X>);
impl<X: Operand> ProductKernel<X> for Down<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        let Task { job, packed, part, at: [i0, j0], size: [m, n] } = self.0;
        let (groups, block) = (job.groups(), job.block());
        let (mr, nr) = (P::S::MR, P::S::NV * P::S::LANES);
        let width = job.shape[1].next_multiple_of(nr);
        let side = job.a.part(part, job.count);
        let mut room = None;
        let a = match side.lanes(job.shape[2]) {
            Some((x, ld)) => Rows { p: x[(i0 * ld).min(x.len())..].as_ptr(), row: ld, col: 1, block: ld },
            None => {
                let to = Out(room.insert(Room::new(m * groups)).out());
                // SAFETY: the room has as many rows.
                unsafe { side.rows(p, to, i0..i0 + m, job.shape[2], 0..groups) };
                Rows { p: to.0.cast_const(), row: groups, col: 1, block: groups }
            }
        };
        // SAFETY: `run` packed B, and its caller answers for C.
        unsafe {
            let b = packed.0.add(part * width * groups).cast_const();
            for j in (j0..j0 + n).step_by(nr) {
                let cols = nr.min(j0 + n - j);
                for k0 in (0..groups.max(1)).step_by(block) {
                    let k = block.min(groups - k0);
                    let at = b.add(j * groups + k0 * nr);
                    // What comes next: this panel's next block or the next panel; each register tile fetches a part of it.
                    let next = at.wrapping_add(k * nr);
                    for i in (0..m).step_by(mr) {
                        let rows = Rows { p: a.p.add(i * a.block + k0), ..a };
                        let ahead = next.wrapping_add(i / mr * (k / 4) * (LINE / size_of::<X::Sum>()));
                        let shape = [mr.min(m - i), cols, k];
                        self.0.tile(p, [i0 + i, j], shape, k0, A::Rows(rows), at, ahead);
                    }
                }
            }
        }
    }
}

/// A task with A packed; it packs its own columns of B, block by block.
struct Columns<'a, X: Operand>(Task<'a, X>);
impl<X: Operand> ProductKernel<X> for Columns<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        let Task { job, packed, part, at: [i0, j0], size: [m, n] } = self.0;
        let (groups, block) = (job.groups(), job.block());
        let (mr, nr) = (P::S::MR, P::S::NV * P::S::LANES);
        let width = TILES * mr;
        let mut room = Room::<SumOf<P>>::new(block * nr);
        let out = Out(room.out());
        // SAFETY: `run` packed A, and its caller answers for C.
        unsafe {
            let a = packed.0.add(part * job.shape[0].next_multiple_of(width) * groups).cast_const();
            for j in (j0..j0 + n).step_by(nr) {
                let cols = nr.min(j0 + n - j);
                for k0 in (0..groups.max(1)).step_by(block) {
                    let k = block.min(groups - k0);
                    // A panel's columns are counted from its first.
                    let from = job.b.part(part, job.count).columns_from(j);
                    let fill = Fill {
                        out,
                        width: nr,
                        kc: k,
                        from,
                        k: job.shape[2],
                        first: k0,
                        rows: 0..k,
                        cols: 0..cols,
                    };
                    fill.run(p);
                    for i in (i0..i0 + m).step_by(mr) {
                        let at = a.add(i / width * width * groups + k0 * width + i % width);
                        let rows = Rows { p: at, row: 1, col: width, block: 1 };
                        // The panel of A that comes next.
                        let next = at.wrapping_add(width * groups);
                        let ahead =
                            next.wrapping_add(i % width / mr * (k / 4) * (LINE / size_of::<X::Sum>()));
                        let shape = [mr.min(i0 + m - i), cols, k];
                        self.0.tile(p, [i, j], shape, k0, A::Rows(rows), out.0.cast_const(), ahead);
                    }
                }
            }
        }
    }
}
