//! Products of fragments in f32.
//!
//! Register r of a multiplicand is an 8×4 array over lanes: lane l is in row l div 4 and has place l mod 4 along k, for
//! A by rows, for B by columns. Element e of a register at place p of k-step s is at k = (4s + p)·EACH + e for both, so planes
//! of A and B meet pairwise. The sum goes over k in ascending order, each step fused, beginning with C: the same bits on
//! every machine. (Hardware's order is not specified.)

use super::format::{Format, planes};
use crate::exec::L32;
#[cfg(target_arch = "x86_64")]
use std::mem::MaybeUninit;

/// What a product reads.
pub struct Operands<'a> {
    /// A's registers: step·HALVES + half.
    pub a: [&'a [u32; 32]; 4],
    /// B's registers by step.
    pub b: [&'a [u32; 32]; 2],
}
/// C and D as bits of f32: for rows of half h, `[2h]` holds even columns, `[2h + 1]` odd ones.
pub type Accumulator = [L32; 4];
/// A product for one machine and one pair of formats: D's registers from C's, which may be the same or overlap with A and
/// B. Needs the CPU it was chosen for, and pointers that are good for each of its 2·HALVES registers.
pub type Product = unsafe fn(&Operands, [*const L32; 4], [*mut L32; 4]);

const MOST: usize = 16;
/// What every NaN becomes.
const NAN: f32 = f32::from_bits(0x7fff_ffff);

#[inline(always)]
fn canonical(x: f32) -> f32 {
    if x.is_nan() { NAN } else { x }
}

#[inline(always)]
fn unpack<A: Format, B: Format, const HALVES: usize, const STEPS: usize>(
    o: &Operands,
    a: &mut [[f32; 32]; 2 * MOST],
    b: &mut [[f32; 32]; MOST],
) {
    planes::<A>(&o.a[..HALVES * STEPS], a);
    planes::<B>(&o.b[..STEPS], b);
}

/// SAFETY: as [`Product`].
#[inline(always)]
unsafe fn plain<A: Format, B: Format, const HALVES: usize, const STEPS: usize>(
    o: &Operands,
    c: [*const L32; 4],
    d: [*mut L32; 4],
) {
    // SAFETY: the caller's.
    let c = |n: usize, l: usize| f32::from_bits(unsafe { (*c[n]).0[l] });
    let (mut a, mut b) = ([[0.; 32]; 2 * MOST], [[0.; 32]; MOST]);
    unpack::<A, B, HALVES, STEPS>(o, &mut a, &mut b);
    let mut t = [[[0f32; 8]; 8]; 2];
    for h in 0..HALVES {
        for l in 0..32 {
            t[h][l / 4][l % 4 * 2] = c(2 * h, l);
            t[h][l / 4][l % 4 * 2 + 1] = c(2 * h + 1, l);
        }
    }
    for s in 0..STEPS {
        for p in 0..4 {
            for e in 0..A::EACH {
                let b = &b[s * A::EACH + e];
                let b: [f32; 8] = std::array::from_fn(|n| b[n * 4 + p]);
                for (h, t) in t[..HALVES].iter_mut().enumerate() {
                    let a = &a[(s * HALVES + h) * A::EACH + e];
                    for r in 0..8 {
                        for n in 0..8 {
                            t[r][n] = a[r * 4 + p].mul_add(b[n], t[r][n]);
                        }
                    }
                }
            }
        }
    }
    for n in 0..2 * HALVES {
        for l in 0..32 {
            // SAFETY: the caller's.
            unsafe { (*d[n]).0[l] = canonical(t[n / 2][l / 4][l % 4 * 2 + n % 2]).to_bits() };
        }
    }
}

unsafe fn anywhere<A: Format, B: Format, const HALVES: usize, const STEPS: usize>(
    o: &Operands,
    c: [*const L32; 4],
    d: [*mut L32; 4],
) {
    // SAFETY: the caller's.
    unsafe { plain::<A, B, HALVES, STEPS>(o, c, d) };
}

/// The product for a SIMD width: a vector holds one place along k (or one column) of as many rows as it has lanes, so that
/// B's numbers are broadcast from memory by the multiply-adds themselves. Rows come in fours, one from each of four
/// vectors: a transposition within quarters of 128 bits, which is its own inverse.
#[cfg(target_arch = "x86_64")]
macro_rules! wide {
    ($name:ident, $features:literal, $v:ident, $lanes:literal, $load:ident, $store:ident, $low:ident, $high:ident,
     $shuffle:ident, $fma:ident, $all:ident, $canonical:ident) => {
        /// SAFETY: as [`Product`].
        #[target_feature(enable = $features)]
        unsafe fn $name<A: Format, B: Format, const HALVES: usize, const STEPS: usize>(
            o: &Operands,
            c: [*const L32; 4],
            d: [*mut L32; 4],
        ) {
            use std::arch::x86_64::*;
            // Vectors of a register, and halves that are done at once.
            const PARTS: usize = 32 / $lanes;
            const ONCE: usize = 4 / PARTS;
            macro_rules! transposed {
                ($x:expr) => {{
                    let [a, b, c, d] = $x;
                    let (a, b, c, d) = ($low(a, b), $high(a, b), $low(c, d), $high(c, d));
                    [
                        $shuffle::<0x44>(a, c),
                        $shuffle::<0xee>(a, c),
                        $shuffle::<0x44>(b, d),
                        $shuffle::<0xee>(b, d),
                    ]
                }};
            }
            let mut b = [const { MaybeUninit::<[f32; 32]>::uninit() }; MOST];
            for s in 0..STEPS {
                for e in 0..B::EACH {
                    for part in 0..PARTS {
                        let mut x = [0f32; $lanes];
                        for l in 0..$lanes {
                            x[l] = B::get(o.b[s][part * $lanes + l], e);
                        }
                        let to = b[s * B::EACH + e].as_mut_ptr().cast::<f32>();
                        // SAFETY: within the array.
                        unsafe { $store(to.add(part * $lanes), $load(x.as_ptr())) };
                    }
                }
            }
            // Vectors of four parts of registers: part `j` of a pass is of half `half(j)`, from lane `first(j)` on. A half
            // that does not exist is another one again, and not stored.
            let half = |pass: usize, j: usize| pass * ONCE + j / PARTS;
            let first = |j: usize| j % PARTS * $lanes;
            // SAFETY: each load and store is of as many numbers of a register as a vector has, or of one of `b`'s.
            unsafe {
                macro_rules! part {
                    ($x:expr, $pass:expr, $j:literal) => {{
                        let h = half($pass, $j).min(HALVES - 1);
                        $load($x(h).cast::<f32>().add(first($j)))
                    }};
                }
                macro_rules! parts {
                    ($x:expr, $pass:expr) => {
                        transposed!([
                            part!($x, $pass, 0),
                            part!($x, $pass, 1),
                            part!($x, $pass, 2),
                            part!($x, $pass, 3)
                        ])
                    };
                }
                // D may lie where C, A and B do: it is stored when all is read.
                let mut sums = [[[$all(0.); 4]; 2]; 2 / ONCE];
                for pass in 0..HALVES.div_ceil(ONCE) {
                    let mut t = [parts!(|h: usize| c[2 * h], pass), parts!(|h: usize| c[2 * h + 1], pass)];
                    for s in 0..STEPS {
                        let a = parts!(|h: usize| o.a[s * HALVES + h].as_ptr(), pass);
                        for p in 0..4 {
                            let packed = std::mem::transmute::<$v, [u32; $lanes]>(a[p]);
                            for e in 0..A::EACH {
                                let mut a = [0f32; $lanes];
                                for l in 0..$lanes {
                                    a[l] = A::get(packed[l], e);
                                }
                                let a = $load(a.as_ptr());
                                let b = b[s * B::EACH + e].as_ptr().cast::<f32>().add(p);
                                for n in 0..8 {
                                    let t = &mut t[n % 2][n / 2];
                                    *t = $fma(a, $all(*b.add(4 * n)), *t);
                                }
                            }
                        }
                    }
                    sums[pass] = t;
                }
                for pass in 0..HALVES.div_ceil(ONCE) {
                    for odd in 0..2 {
                        let [t0, t1, t2, t3] = sums[pass][odd];
                        let t = transposed!([$canonical(t0), $canonical(t1), $canonical(t2), $canonical(t3)]);
                        for j in 0..4 {
                            let h = half(pass, j);
                            if h < HALVES {
                                $store(d[2 * h + odd].cast::<f32>().add(first(j)), t[j]);
                            }
                        }
                    }
                }
            }
        }
    };
}
/// Every NaN becomes one.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn canonical8(t: std::arch::x86_64::__m256) -> std::arch::x86_64::__m256 {
    use std::arch::x86_64::*;
    _mm256_blendv_ps(t, _mm256_set1_ps(NAN), _mm256_cmp_ps::<_CMP_UNORD_Q>(t, t))
}
/// As [`canonical8`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn canonical16(t: std::arch::x86_64::__m512) -> std::arch::x86_64::__m512 {
    use std::arch::x86_64::*;
    _mm512_mask_mov_ps(t, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(t, t), _mm512_set1_ps(NAN))
}
#[cfg(target_arch = "x86_64")]
wide!(
    avx2,
    "avx2,fma",
    __m256,
    8,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_unpacklo_ps,
    _mm256_unpackhi_ps,
    _mm256_shuffle_ps,
    _mm256_fmadd_ps,
    _mm256_set1_ps,
    canonical8
);
#[cfg(target_arch = "x86_64")]
wide!(
    avx512,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma",
    __m512,
    16,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_unpacklo_ps,
    _mm512_unpackhi_ps,
    _mm512_shuffle_ps,
    _mm512_fmadd_ps,
    _mm512_set1_ps,
    canonical16
);

/// The product of this machine.
pub fn product<A: Format, B: Format, const HALVES: usize, const STEPS: usize>() -> Product {
    #[cfg(target_arch = "x86_64")]
    {
        let wide = is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if is_x86_feature_detected!("avx512f") && wide {
            return avx512::<A, B, HALVES, STEPS>;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return avx2::<A, B, HALVES, STEPS>;
        }
    }
    anywhere::<A, B, HALVES, STEPS>
}
