//! Products of fragments in f32.
//!
//! Register r of a multiplicand is an 8×4 array over lanes: lane l is in row l div 4 and has place l mod 4 along k, for
//! A by rows, for B by columns. Element e of a register at place p of k-step s is at k = (4s + p)·EACH + e for both, so planes
//! of A and B meet pairwise. The sum goes over k in ascending order, each step fused, beginning with C: the same bits on
//! every machine. (Hardware's order is not specified.)

use super::format::{Format, planes};
use crate::exec::L32;

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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<A: Format, B: Format, const HALVES: usize, const STEPS: usize>(
    o: &Operands,
    c: [*const L32; 4],
    d: [*mut L32; 4],
) {
    // SAFETY: the caller's.
    unsafe { plain::<A, B, HALVES, STEPS>(o, c, d) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512<A: Format, B: Format, const HALVES: usize, const STEPS: usize>(
    o: &Operands,
    c: [*const L32; 4],
    d: [*mut L32; 4],
) {
    use std::arch::x86_64::*;
    let (mut a, mut b) = ([[0.; 32]; 2 * MOST], [[0.; 32]; MOST]);
    unpack::<A, B, HALVES, STEPS>(o, &mut a, &mut b);
    // SAFETY: each load and store is of 16 of the 32 numbers of a register or an array.
    unsafe {
        let mut t = [[[_mm512_setzero_ps(); 2]; 2]; 2];
        for h in 0..HALVES {
            for odd in 0..2 {
                t[h][odd] =
                    std::array::from_fn(|z| _mm512_loadu_ps(c[2 * h + odd].cast::<f32>().add(16 * z)));
            }
        }
        // Four columns, every second, of B at one k, repeated for four rows.
        let first = _mm512_set_epi32(24, 16, 8, 0, 24, 16, 8, 0, 24, 16, 8, 0, 24, 16, 8, 0);
        for s in 0..STEPS {
            macro_rules! place {
                ($p:literal, $imm:literal) => {
                    for e in 0..A::EACH {
                        let b = b[s * A::EACH + e].as_ptr();
                        let b = [_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16))];
                        let even = _mm512_add_epi32(first, _mm512_set1_epi32($p));
                        let odd = _mm512_add_epi32(first, _mm512_set1_epi32($p + 4));
                        let b = [even, odd].map(|i| _mm512_permutex2var_ps(b[0], i, b[1]));
                        for h in 0..HALVES {
                            let a = a[(s * HALVES + h) * A::EACH + e].as_ptr();
                            for z in 0..2 {
                                let a = _mm512_permute_ps::<$imm>(_mm512_loadu_ps(a.add(16 * z)));
                                for odd in 0..2 {
                                    t[h][odd][z] = _mm512_fmadd_ps(a, b[odd], t[h][odd][z]);
                                }
                            }
                        }
                    }
                };
            }
            place!(0, 0x00);
            place!(1, 0x55);
            place!(2, 0xaa);
            place!(3, 0xff);
        }
        for h in 0..HALVES {
            for odd in 0..2 {
                for z in 0..2 {
                    let t = t[h][odd][z];
                    let t =
                        _mm512_mask_mov_ps(t, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(t, t), _mm512_set1_ps(NAN));
                    _mm512_storeu_ps(d[2 * h + odd].cast::<f32>().add(16 * z), t);
                }
            }
        }
    }
}

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
