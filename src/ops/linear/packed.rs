//! Linear layers whose weights were packed once: what the engine runs. The same register tile and blocks of K as in
//! [`super::gemm`], and an epilogue while the tile of the result is still in the nearest cache.

use super::micro::{self, Out, Rows, Start};
use super::pack::{Mat, Pack};
use crate::runtime::Cpu;
use crate::runtime::simd::aligned::{Aligned, LINE};
use crate::runtime::simd::{Kernel, Simd, slice};

/// Weights of one linear layer, in panels `[K][NR]` of the device's tier.
#[derive(Clone, Debug)]
pub struct Packed {
    panels: Aligned<f32>,
    /// Outputs N.
    pub n: usize,
    /// Inputs K.
    pub k: usize,
    /// Added to every row `(N)`.
    pub bias: Vec<f32>,
}

impl Packed {
    /// Packs `w` `(n, k)` row-major, as linear weights are stored.
    pub fn new(cpu: &Cpu, w: &[f32], n: usize, k: usize, bias: Vec<f32>) -> Self {
        Self::from_mat(cpu, Mat::transposed(w, k), n, k, bias)
    }
    /// Packs `b` `(k, n)`.
    pub fn from_mat(cpu: &Cpu, b: Mat<f32>, n: usize, k: usize, bias: Vec<f32>) -> Self {
        b.check(k, n);
        assert!(bias.is_empty() || bias.len() == n, "packed: bias");
        let (_, nr) = cpu.dispatch::<f32, _>(micro::Shape);
        let mut panels = Aligned::zeros(n.div_ceil(nr) * nr * k);
        pack_into(cpu, &mut panels, b, n, k);
        Self { panels, n, k, bias }
    }
    /// The panels as an operand.
    pub fn view(&self) -> Panels<'_> {
        Panels { data: &self.panels, n: self.n, k: self.k, stride: self.k, bias: &self.bias }
    }
    /// Rows `k0..k0 + k` of B alone.
    pub fn slice_k(&self, nr: usize, k0: usize, k: usize) -> Panels<'_> {
        assert!(k0 + k <= self.k, "packed: rows of B");
        Panels {
            data: &self.panels[(k0 * nr).min(self.panels.len())..],
            n: self.n,
            k,
            stride: self.k,
            bias: &[],
        }
    }
}

/// Packs `b` `(k, n)` into `panels`, which hold `n.div_ceil(NR)·NR·k` elements.
pub fn pack_into(cpu: &Cpu, panels: &mut [f32], b: Mat<f32>, n: usize, k: usize) {
    let (_, width) = cpu.dispatch::<f32, _>(micro::Shape);
    b.check(k, n);
    assert!(panels.len() >= n.next_multiple_of(width) * k, "packed: panels too short");
    let out = Out(panels.as_mut_ptr());
    cpu.run(n.div_ceil(width), |p| {
        let cols = p * width..n.min((p + 1) * width);
        cpu.dispatch(Pack { out, width, kc: k, b, k0: 0, rows: 0..k, cols })
    });
}

/// B `(k, n)` in panels, `stride` rows from one panel to the next.
#[derive(Clone, Copy)]
pub struct Panels<'a> {
    /// The first panel and all that follow.
    pub data: &'a [f32],
    /// Columns N.
    pub n: usize,
    /// Rows K.
    pub k: usize,
    /// Rows from one panel's first to the next's.
    pub stride: usize,
    /// Added to every row `(n)`; empty for none.
    pub bias: &'a [f32],
}

/// A `(m, k)`, rows `ld` apart.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// All the elements, and maybe more.
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub ld: usize,
}

/// What is done with a tile of `A·B + bias`.
#[derive(Clone, Copy)]
pub enum Epilogue<'a> {
    /// `c = …`
    Store,
    /// `c = gelu(…)`
    Gelu,
    /// `c = gelu(scale[row]·… + shift)`, shift `(n)`: a layer norm folded into the product.
    ScaledGelu {
        /// One a row.
        scale: &'a [f32],
        /// One a column.
        shift: &'a [f32],
    },
    /// `c += …`
    Residual,
}

/// Rows and columns (in register tiles) of one task: its rows of A stay in the second-level cache.
const TASK: (usize, usize) = (16, 3);
/// Longest K block: a task's rows of A and a panel of B stay in the second-level cache.
const KC: usize = 768;

/// C `(m, n)`, rows `ldc` apart, from A·B, optionally plus a second product `tail` added in the same pass. `sum`, if
/// given, `(m, n)` with rows `n` apart, gets C added.
///
/// A row's bits do not depend on the other rows nor on the threads.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    cpu: &Cpu,
    m: usize,
    a: Input,
    b: Panels,
    tail: Option<(Input, Panels)>,
    c: &mut [f32],
    ldc: usize,
    epilogue: Epilogue,
    sum: Option<&mut [f32]>,
) {
    let (mr, nr) = cpu.dispatch::<f32, _>(micro::Shape);
    let fits = |a: &Input, b: &Panels| {
        assert!(m == 0 || (m - 1) * a.ld + b.k <= a.data.len(), "packed: A too short");
        let panels = b.n.div_ceil(nr);
        assert!(panels == 0 || ((panels - 1) * b.stride + b.k) * nr <= b.data.len(), "packed: B too short");
    };
    fits(&a, &b);
    if let Some((a, t)) = &tail {
        fits(a, t);
        assert_eq!(t.n, b.n, "packed: tail");
    }
    assert!(m == 0 || b.n == 0 || (m - 1) * ldc + b.n <= c.len() && b.n <= ldc, "packed: C too short");
    if let Some(s) = &sum {
        assert!(s.len() >= m * b.n, "packed: sum too short");
    }
    if let Epilogue::ScaledGelu { scale, shift } = epilogue {
        assert!(scale.len() >= m && shift.len() == b.n, "packed: scale or shift");
    }
    let (rows, cols) = (TASK.0 * mr, TASK.1 * nr);
    let across = b.n.div_ceil(cols);
    let out = Out(c.as_mut_ptr());
    let sum = sum.map(|s| Out(s.as_mut_ptr()));
    cpu.run(m.div_ceil(rows) * across, |t| {
        let (i, j) = (t / across * rows, t % across * cols);
        let shape = [rows.min(m - i), cols.min(b.n - j)];
        cpu.dispatch(Task { at: [i, j], shape, nr, a, b, tail, out, ldc, epilogue, sum });
    });
}

struct Task<'a> {
    at: [usize; 2],
    shape: [usize; 2],
    nr: usize,
    a: Input<'a>,
    b: Panels<'a>,
    tail: Option<(Input<'a>, Panels<'a>)>,
    out: Out<f32>,
    ldc: usize,
    epilogue: Epilogue<'a>,
    sum: Option<Out<f32>>,
}
impl Kernel<f32> for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        let ([i0, j0], [m, n], nr) = (self.at, self.shape, self.nr);
        let Panels { data: b, k, stride, bias, .. } = self.b;
        let residual = matches!(self.epilogue, Epilogue::Residual);
        let bends = matches!(self.epilogue, Epilogue::Gelu | Epilogue::ScaledGelu { .. });
        let mut tile = Tile([0.0; TILE]);
        // Depends on K alone, as every element's order of summation must.
        let block = k.div_ceil(k.div_ceil(KC).max(1)).max(1);
        for k0 in (0..k.max(1)).step_by(block) {
            let (kc, last) = (block.min(k - k0), k0 + block >= k);
            for j in (j0..j0 + n).step_by(nr) {
                let cols = nr.min(j0 + n - j);
                let start = match bias {
                    _ if bends && last && k0 > 0 => Start::Zero,
                    _ if k0 > 0 || residual => Start::Add,
                    [] => Start::Zero,
                    bias => Start::Bias(&bias[j..j + cols]),
                };
                // The panel that comes after this one, maybe in another task; each register tile fetches a part of it.
                let (panel, next_k) = if j + nr < j0 + n {
                    (j / nr + 1, k0)
                } else if last {
                    ((j0 + n) / nr, 0)
                } else {
                    (j0 / nr, k0 + kc)
                };
                let next = b.as_ptr().wrapping_add((panel * stride + next_k) * nr);
                let at = b[(j / nr * stride + k0) * nr..].as_ptr();
                for i in (i0..i0 + m).step_by(S::MR) {
                    let shape = [S::MR.min(i0 + m - i), cols, kc];
                    let part = (i - i0) / S::MR * (kc / 4) * (LINE / size_of::<f32>());
                    let ahead = if part < kc * nr { next.wrapping_add(part) } else { at };
                    let a = self.a.data[i * self.a.ld + k0..].as_ptr();
                    let a = Rows { p: a, row: self.a.ld, col: 1, block: 0 };
                    // SAFETY: `forward` checked A, B and C; this task alone has its rows and columns of C, and the tile.
                    unsafe {
                        let c = self.out.0.add(i * self.ldc + j);
                        let (c, ld) = if bends && last { (tile.0.as_mut_ptr(), nr) } else { (c, self.ldc) };
                        micro::one(s, shape, a, at, c, ld, start, ahead);
                        if last {
                            self.finish(s, [i, j], shape, c, ld, bends && k0 > 0);
                        }
                    }
                }
            }
        }
    }
}

/// Elements of the largest register tile.
const TILE: usize = 6 * 64;
/// The sums of a register tile on their way through a function. In C they would lie rows apart, where a load may wait for
/// the store of another row at the same place of its page.
#[repr(align(64))]
struct Tile([f32; TILE]);

impl Task<'_> {
    /// The second product and the epilogue of the register tile whose sums lie at `x`, rows `ld` apart: in C, or beside it
    /// (`add`: and C holds what they are added to).
    ///
    /// SAFETY: no other thread has x nor this part of C.
    #[inline(always)]
    unsafe fn finish<S: Simd<E = f32>>(
        &self,
        s: S,
        [i0, j]: [usize; 2],
        [rows, cols, _]: [usize; 3],
        x: *mut f32,
        ld: usize,
        add: bool,
    ) {
        if let Some((a, b)) = self.tail {
            let panel = b.data[j / self.nr * b.stride * self.nr..].as_ptr();
            let a = Rows { p: a.data[i0 * a.ld..].as_ptr(), row: a.ld, col: 1, block: 0 };
            // SAFETY: `forward` checked the operands.
            unsafe { micro::one(s, [rows, cols, b.k], a, panel, x, ld, Start::Add, panel) };
        }
        if matches!(self.epilogue, Epilogue::Store) && self.sum.is_none() {
            return;
        }
        for i in i0..i0 + rows {
            // SAFETY: the caller's; `sum` has the rows and columns of C. Where x is C, only one of the two is used.
            unsafe {
                let c = std::slice::from_raw_parts_mut(self.out.0.add(i * self.ldc + j), cols);
                let x = x.add((i - i0) * ld);
                match self.epilogue {
                    Epilogue::Store => {}
                    Epilogue::Residual if self.b.bias.is_empty() => {}
                    Epilogue::Residual => slice::add(s, c, &self.b.bias[j..j + cols]),
                    Epilogue::Gelu => {
                        let x = std::slice::from_raw_parts_mut(x, cols);
                        if add {
                            slice::add(s, x, c);
                        }
                        slice::zip(s, c, x, |_, x| s.gelu(x));
                    }
                    Epilogue::ScaledGelu { scale, shift } => {
                        let x = std::slice::from_raw_parts_mut(x, cols);
                        if add {
                            slice::add(s, x, c);
                        }
                        let by = s.splat(scale[i]);
                        slice::zip2(s, c, x, &shift[j..j + cols], |_, x, b| s.gelu(s.fma(x, by, b)));
                    }
                }
                if let Some(sum) = self.sum {
                    let sum = std::slice::from_raw_parts_mut(sum.0.add(i * self.b.n + j), cols);
                    slice::add(s, sum, c);
                }
            }
        }
    }
}

/// Rows and columns of the register tile of `cpu`'s tier.
pub fn tile(cpu: &Cpu) -> (usize, usize) {
    cpu.dispatch::<f32, _>(micro::Shape)
}

/// C `(m, b.n)` = Aᵀ·B, A stored as `(k, m)` with rows `lda` apart.
pub fn forward_transposed(cpu: &Cpu, m: usize, a: &[f32], lda: usize, b: Panels, c: &mut [f32], ldc: usize) {
    let (mr, nr) = tile(cpu);
    assert!(b.k == 0 || (b.k - 1) * lda + m <= a.len(), "packed: A too short");
    assert!(b.n.div_ceil(nr) * b.stride * nr <= b.data.len() && b.k <= b.stride, "packed: B too short");
    assert!(m == 0 || b.n <= ldc && (m - 1) * ldc + b.n <= c.len(), "packed: C too short");
    let out = Out(c.as_mut_ptr());
    let blocks = m.div_ceil(mr);
    cpu.run(b.n.div_ceil(nr) * blocks, |t| {
        let (panel, i) = (t / blocks, t % blocks * mr);
        let (j, rows) = (panel * nr, mr.min(m - i));
        let shape = [rows, nr.min(b.n - j), b.k];
        // With K = 0 there is no A to point into, and C becomes 0.
        let rows = Rows { p: a.get(i..).unwrap_or_default().as_ptr(), row: 1, col: lda, block: 1 };
        cpu.dispatch(Block {
            shape,
            a: rows,
            b: &b.data[panel * b.stride * nr..],
            out,
            at: i * ldc + j,
            ldc,
        });
    });
}

/// `out[n, h·P + i] = q[n, h·D..]·B_h[.., i]`: each head's part of a row times that head's panels `(D, P)`, which follow
/// one another. Rows of `out` are `ld` apart.
pub fn heads(cpu: &Cpu, [h, p, d]: [usize; 3], q: Input, panels: &[f32], out: &mut [f32], ld: usize) {
    let (mr, nr) = tile(cpu);
    let n = out.len() / ld;
    let each = p.div_ceil(nr) * nr * d;
    assert!(h * p <= ld && panels.len() >= h * each, "packed: heads");
    assert!(n == 0 || (n - 1) * q.ld + h * d <= q.data.len(), "packed: heads' rows");
    let rows = 8 * mr;
    let out = Out(out.as_mut_ptr());
    cpu.run(n.div_ceil(rows), |t| {
        let i = t * rows;
        for head in 0..h {
            let a = Rows { p: q.data[i * q.ld + head * d..].as_ptr(), row: q.ld, col: 1, block: q.ld };
            let (b, at) = (&panels[head * each..], i * ld + head * p);
            cpu.dispatch(Block { shape: [rows.min(n - i), p, d], a, b, out, at, ldc: ld });
        }
    });
}

/// Row `h·P + i` of the result is `v[i, h·D..]` times rows `h·D..` of the weights; it is written as panels `[H·P][NR]`.
pub fn heads_to_panels(cpu: &Cpu, [h, p, d]: [usize; 3], v: Input, w: &Packed, out: &mut [f32]) {
    let (_, nr) = tile(cpu);
    assert!(h * d <= w.k && (p - 1) * v.ld + h * d <= v.data.len(), "packed: heads to panels");
    cpu.for_chunks(&mut out[..w.n.div_ceil(nr) * nr * h * p], h * p * nr, |panel, out| {
        let dest = Out(out.as_mut_ptr());
        for head in 0..h {
            let a = Rows { p: v.data[head * d..].as_ptr(), row: v.ld, col: 1, block: v.ld };
            let b = &w.panels[(panel * w.k + head * d) * nr..];
            cpu.dispatch(Block { shape: [p, nr, d], a, b, out: dest, at: head * p * nr, ldc: nr });
        }
    });
}

/// One block of a product; whoever makes it has checked all three operands.
struct Block<'a> {
    shape: [usize; 3],
    a: Rows<f32>,
    b: &'a [f32],
    out: Out<f32>,
    at: usize,
    ldc: usize,
}
impl Kernel<f32> for Block<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        // SAFETY: checked by the functions above, whose tasks write disjoint parts.
        unsafe {
            let c = self.out.0.add(self.at);
            micro::block(s, self.shape, self.a, self.b.as_ptr(), c, self.ldc, Start::Zero)
        }
    }
}
