//! Products in pairs: both operands are packed, one beforehand and the other by the tasks.

use super::super::micro::{self, Out};
use super::super::pack::Mat;
use super::super::paired::{self, A, AsRows, DOWN, Panels, WIDTH};
use super::side::Side;
use super::task::{Job, Task};
use crate::runtime::Cpu;
use crate::runtime::simd::aligned::Room;
use crate::runtime::simd::paired::Rows;
use crate::runtime::simd::{Kernel, Operand, Product, ProductKernel, Simd};

/// SAFETY: as [`super::run`]'s, which has checked the operands.
pub(super) unsafe fn run<X: Operand>(cpu: &Cpu, job: Job<X>) {
    let (count, [m, n, k], transposed) = (job.count, job.shape, job.a.transposed());
    let (_, nr) = cpu.product::<X, _>(micro::Shape);
    let (whole, len, width) = if transposed { (job.a.across(), m, WIDTH) } else { (job.b, n, nr) };
    let blocks = job.blocks();
    let size = len.next_multiple_of(width) * blocks.rows();
    let mut room: Room<X::Sum> = Room::new(count * size);
    let (out, dealt) = (Out(room.out()), super::deal(cpu, &job, [DOWN, WIDTH, nr]));
    // SAFETY: as large is the room.
    unsafe { paired::pack(cpu, count, |part| matrix(whole.part(part, count), k), len, width, blocks, out) };
    super::each(cpu, job, dealt, out, |task| cpu.product::<X, _>(Tiles { task, size }));
}

/// As a matrix of sums, which operands of paired products are.
fn matrix<X: Operand>(side: Side<X>, k: usize) -> Mat<X::Sum> {
    let (data, ld) = side.lanes(k).expect("operands as wide as sums");
    Mat { data, ld, transposed: side.transposed() }
}

/// A task of which one operand was packed, `size` elements a part.
struct Tiles<'a, X: Operand> {
    task: Task<'a, X>,
    size: usize,
}
impl<X: Operand> ProductKernel<X> for Tiles<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        let (s, nr) = (p.simd(), P::S::NV * P::S::LANES);
        let Task { job, packed, part, at: [i0, j0], size: [m, n] } = self.task;
        let (blocks, transposed) = (job.blocks(), job.a.transposed());
        let (rows, ld) = (blocks.rows(), paired::row_len::<X::Sum>(blocks));
        let [of_a, of_b] = [job.a, job.b].map(|side| matrix(side.part(part, job.count), job.shape[2]));
        // Its own part: of B a panel at a time, or all the rows of A.
        let mut room: Room<X::Sum> =
            Room::new(if transposed { rows * nr } else { paired::rows_len::<X::Sum>(m, blocks) });
        let own = Out(room.out());
        if !transposed {
            let from = Mat { data: &of_a.data[i0 * of_a.ld..], ..of_a };
            AsRows { out: own, from, m, blocks }.run(s);
        }
        // SAFETY: `run` packed one operand, of which the part has `size` elements; its caller answers for C.
        unsafe {
            let packed = packed.0.add(part * self.size);
            for j in (j0..j0 + n).step_by(nr) {
                let cols = nr.min(j0 + n - j);
                if transposed {
                    for block in 0..blocks.count() {
                        let from = of_b.columns_from(j);
                        Panels { out: own, width: nr, from, cols, blocks, block }.run(s);
                    }
                }
                for block in 0..blocks.count() {
                    let [at, k0, k] = blocks.block(block);
                    let b = if transposed { own.0 } else { packed.add(j * rows) };
                    let b = b.add(at * nr).cast_const();
                    for i in (0..m).step_by(WIDTH) {
                        let a = match transposed {
                            true => Rows { p: packed.add((i0 + i) * rows + at * WIDTH), row: 1, col: WIDTH },
                            false => Rows { p: own.0.add(i * ld + at), row: ld, col: 1 },
                        };
                        // What comes next: of A its next panel, or of B; each tile fetches a part of that.
                        let ahead = match transposed {
                            true => a.p.wrapping_add(rows * WIDTH),
                            false => b.wrapping_add(rows * nr + i * (rows * nr / DOWN)),
                        };
                        let shape = [WIDTH.min(m - i), cols, k];
                        self.task.tile(p, [i0 + i, j], shape, k0, A::Paired(a), b, ahead);
                    }
                }
            }
        }
    }
}
