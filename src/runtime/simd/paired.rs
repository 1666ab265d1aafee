//! Sums of products beyond the peak of the multipliers, for processors whose adders work beside them.
//!
//! `x₁y₁ + x₂y₂ = (x₁ + y₂)(x₂ + y₁) − x₁x₂ − y₁y₂` (S. Winograd, "A New Algorithm for Inner Product", IEEE Transactions on
//! Computers C-17, 1968): two products for one multiply-add and two additions, as what is taken away depends on a row of A
//! or on a column of B alone. With every third product left as it is, multipliers and adders are equally busy, and three
//! products take as long as two.

use super::{Elem, Simd};

/// Steps of K that go together: two that pair, and one alone.
pub const STEP: usize = 3;
/// Rows of a register tile.
pub const ROWS: usize = 8;
/// Vectors across it.
pub const VECTORS: usize = 2;

/// Steps of K that [`tile`] takes of both operands, and where A lies: x of row i and step k at `p + i·row + k·col`.
#[derive(Clone, Copy)]
pub struct Rows<E> {
    /// The first row's first.
    pub p: *const E,
    /// From a row to the next.
    pub row: usize,
    /// From a step of K to the next.
    pub col: usize,
}

/// Adds to `to[i][j]`, [`ROWS`] rows of `VECTORS·LANES`, the sum over `steps` of `(x₁ + y₂)(x₂ + y₁) + x₃y₃`: x of row i of
/// A, y of column j of a panel of B, whose rows are `NV·LANES` apart, both the next three along K in each step. This is what
/// [`Simd::paired`] means, in the order that it means.
///
/// # Safety
/// SAFETY is the caller's: both have `3·steps` along K, and `to` may be read and written.
#[inline(always)]
pub unsafe fn tile<S: Simd>(s: S, a: Rows<S::E>, b: *const S::E, steps: usize, to: *mut S::E) {
    let (l, nr) = (S::LANES, S::NV * S::LANES);
    let mut acc = [[s.splat(S::E::ZERO); VECTORS]; ROWS];
    for (i, v) in acc.iter_mut().flatten().enumerate() {
        // SAFETY: the caller's.
        *v = unsafe { s.load(to.add(i * l)) };
    }
    for k in 0..steps {
        // SAFETY: the caller's.
        unsafe {
            let (a, b) = (Rows { p: a.p.add(k * STEP * a.col), ..a }, b.add(k * STEP * nr));
            for (v, b) in (0..VECTORS).map(|v| (v, b.add(v * l))) {
                let [y1, y2, y3] = [s.load(b), s.load(b.add(nr)), s.load(b.add(2 * nr))];
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = a.p.add(i * a.row);
                    let [x1, x2, x3] = [s.splat(*x), s.splat(*x.add(a.col)), s.splat(*x.add(2 * a.col))];
                    acc[v] = s.fma(s.add(x1, y2), s.add(x2, y1), acc[v]);
                    acc[v] = s.fma(x3, y3, acc[v]);
                }
            }
        }
    }
    for (i, v) in acc.iter().flatten().enumerate() {
        // SAFETY: the caller's.
        unsafe { s.store(to.add(i * l), *v) };
    }
}

/// Whether this chip adds beside its multipliers, and has AVX-512: AMD's of Zen, and Hygon's, which are of the same kind.
pub fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let id = std::arch::x86_64::__cpuid(0);
        let vendor = [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat();
        super::avx512::is_supported() && (vendor == b"AuthenticAMD" || vendor == b"HygonGenuine")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::asm;

    use super::Rows;

    /// Two products with both vectors of columns, of the row that is `$at` from the first; registers of the sums, of x and
    /// of two more.
    macro_rules! pair {
        ($at:literal, $s0:literal, $s1:literal, $x1:literal, $x2:literal, $u:literal, $v:literal) => {
            concat!(
                "vpbroadcastd zmm",
                $x1,
                ", dword ptr [{x1}",
                $at,
                "]\n",
                "vpbroadcastd zmm",
                $x2,
                ", dword ptr [{x2}",
                $at,
                "]\n",
                "vaddps zmm",
                $u,
                ", zmm",
                $x1,
                ", zmm18\n",
                "vaddps zmm",
                $v,
                ", zmm",
                $x2,
                ", zmm16\n",
                "vfmadd231ps zmm",
                $s0,
                ", zmm",
                $u,
                ", zmm",
                $v,
                "\n",
                "vaddps zmm",
                $x1,
                ", zmm",
                $x1,
                ", zmm19\n",
                "vaddps zmm",
                $x2,
                ", zmm",
                $x2,
                ", zmm17\n",
                "vfmadd231ps zmm",
                $s1,
                ", zmm",
                $x1,
                ", zmm",
                $x2,
                "\n",
            )
        };
    }
    /// The product that is left alone.
    macro_rules! single {
        ($at:literal, $s0:literal, $s1:literal, $x:literal) => {
            concat!(
                "vpbroadcastd zmm",
                $x,
                ", dword ptr [{x3}",
                $at,
                "]\n",
                "vfmadd231ps zmm",
                $s0,
                ", zmm",
                $x,
                ", zmm16\n",
                "vfmadd231ps zmm",
                $s1,
                ", zmm",
                $x,
                ", zmm17\n",
            )
        };
    }
    macro_rules! load {
        ($($r:literal)*) => { concat!($("vmovups zmm", $r, ", zmmword ptr [{to} + 64 * ", $r, "]\n"),*) };
    }
    macro_rules! store {
        ($($r:literal)*) => { concat!($("vmovups zmmword ptr [{to} + 64 * ", $r, "], zmm", $r, "\n"),*) };
    }

    /// [`super::tile`], and every step asks for a line from `ahead` on, which need not exist.
    ///
    /// Written out because compilers take `vbroadcastss`, which keeps an adder busy here; `vpbroadcastd` is a load and no
    /// more.
    ///
    /// SAFETY: that function's, and the processor has AVX-512; `steps` is at least one.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn tile(a: Rows<f32>, b: *const f32, steps: usize, to: *mut f32, ahead: *const f32) {
        let (row, col) = (a.row * size_of::<f32>(), a.col * size_of::<f32>());
        // SAFETY: the caller's; only what is named is touched.
        unsafe {
            asm!(
                load!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
                "2:",
                "vmovups zmm16, zmmword ptr [{b}]",
                "vmovups zmm17, zmmword ptr [{b} + 64]",
                "vmovups zmm18, zmmword ptr [{b} + 256]",
                "vmovups zmm19, zmmword ptr [{b} + 320]",
                pair!("", 0, 1, 20, 21, 22, 23),
                pair!(" + {row}", 2, 3, 24, 25, 26, 27),
                pair!(" + 2 * {row}", 4, 5, 28, 29, 30, 31),
                pair!(" + {row3}", 6, 7, 20, 21, 22, 23),
                pair!(" + 4 * {row}", 8, 9, 24, 25, 26, 27),
                pair!(" + {row5}", 10, 11, 28, 29, 30, 31),
                pair!(" + 2 * {row3}", 12, 13, 20, 21, 22, 23),
                pair!(" + {row7}", 14, 15, 24, 25, 26, 27),
                "vmovups zmm16, zmmword ptr [{b} + 512]",
                "vmovups zmm17, zmmword ptr [{b} + 576]",
                "prefetcht1 byte ptr [{ahead}]",
                "add {ahead}, 64",
                single!("", 0, 1, 28),
                single!(" + {row}", 2, 3, 29),
                single!(" + 2 * {row}", 4, 5, 30),
                single!(" + {row3}", 6, 7, 31),
                single!(" + 4 * {row}", 8, 9, 20),
                single!(" + {row5}", 10, 11, 21),
                single!(" + 2 * {row3}", 12, 13, 22),
                single!(" + {row7}", 14, 15, 23),
                "add {x1}, {step}",
                "add {x2}, {step}",
                "add {x3}, {step}",
                "add {b}, 768",
                "dec {steps}",
                "jnz 2b",
                store!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
                x1 = inout(reg) a.p => _,
                x2 = inout(reg) a.p.add(a.col) => _,
                x3 = inout(reg) a.p.add(2 * a.col) => _,
                b = inout(reg) b => _,
                steps = inout(reg) steps => _,
                ahead = inout(reg) ahead => _,
                row = in(reg) row,
                row3 = in(reg) 3 * row,
                row5 = in(reg) 5 * row,
                row7 = in(reg) 7 * row,
                step = in(reg) 3 * col,
                to = in(reg) to,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
                out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
                options(nostack),
            );
        }
    }
}
