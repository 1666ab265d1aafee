//! Products of the low-rank decoder and of the extractor, whose second operands are made for each picture: A transposed,
//! or each head's columns with that head's part of B.

use super::{Input, Narrow, Packed, Panels, tile};
use crate::ops::linear::micro::{self, Out, Rows, Start};
use crate::runtime::Cpu;
use crate::runtime::simd::product::Plain;
use crate::runtime::simd::{Kernel, Product, ProductKernel, Simd, slice};

/// C `(m, b.n)` = Aᵀ·B, A stored as `(k, m)` with rows `lda` apart.
pub fn forward_transposed(cpu: &Cpu, m: usize, a: &[f32], lda: usize, b: Panels, c: &mut [f32], ldc: usize) {
    let (mr, nr) = tile::<f32>(cpu);
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
    let (mr, nr) = tile::<f32>(cpu);
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

/// Row `h·P + i` of the result is `v[i, h·D..]` times rows `h·D..` of the weights (D whole groups); it is rounded and written
/// as panels `[H·P/GROUP][NR]`. Of a last group that is not whole, the rest is left as it was.
pub fn heads_to_panels<X: Narrow>(
    cpu: &Cpu,
    [h, p, d]: [usize; 3],
    v: Input<X>,
    w: &Packed<X>,
    out: &mut [f32],
) {
    let nr = tile::<X>(cpu).1;
    assert!(h * d <= w.k && (p - 1) * v.ld + h * d <= v.data.len(), "packed: heads to panels");
    assert!([d, v.ld].iter().all(|x| x.is_multiple_of(X::GROUP)), "packed: a part of a group");
    let lanes = (h * p).div_ceil(X::GROUP) * nr;
    cpu.for_chunks(&mut out[..w.n.div_ceil(nr) * lanes], lanes, |panel, out| {
        cpu.product(HeadsToPanel { shape: [h, p, d], v, b: &w.panels[panel * w.k / X::GROUP * nr..], out });
    });
}

struct HeadsToPanel<'a, X> {
    shape: [usize; 3],
    v: Input<'a, X>,
    b: &'a [f32],
    out: &'a mut [f32],
}
impl<X: Narrow> ProductKernel<X> for HeadsToPanel<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<P: Product<X = X>>(self, p: P) {
        let ([h, protos, d], s, nr) = (self.shape, p.simd(), P::S::NV * P::S::LANES);
        let mut tile = super::Tile([0.0; super::TILE]);
        for (head, i) in (0..h).flat_map(|head| (0..protos).step_by(P::S::MR).map(move |i| (head, i))) {
            let rows = P::S::MR.min(protos - i);
            let (a, k) = (self.v.rows(i, head * d), d / X::GROUP);
            let b = self.b[head * k * nr..].as_ptr();
            // SAFETY: `heads_to_panels` checked v and the weights; the tile holds MR rows of NR.
            unsafe { micro::one(p, [rows, nr, k], a, b, tile.0.as_mut_ptr(), nr, Start::Zero, b) };
            for (row, x) in tile.0.chunks_exact(nr).take(rows).enumerate() {
                let at = head * protos + i + row;
                let out = &mut self.out[at / X::GROUP * nr..][..nr];
                for j in (0..nr).step_by(P::S::LANES) {
                    // SAFETY: a vector of groups follows j.
                    unsafe { p.place(out.as_mut_ptr().add(j), at % X::GROUP, slice::load(s, x, j)) };
                }
            }
        }
    }
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
            micro::block(Plain(s), self.shape, self.a, self.b.as_ptr(), c, self.ldc, Start::Zero)
        }
    }
}
