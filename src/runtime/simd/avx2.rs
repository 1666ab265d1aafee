//! AVX2 with FMA: eight f32 a vector, tails by mask.

use super::{Kernel, Simd, math};

/// Whether this chip has the tier.
pub fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Runs `k` with the tier's target features on.
pub fn enter<K: Kernel<f32>>(k: K) -> K::Output {
    assert!(is_supported(), "AVX2 kernels on a processor without AVX2");
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: `is_supported` was asserted above.
        unsafe { x86::go(k) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        k.run(super::scalar::Scalar::<f32>::new())
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    /// SAFETY: only called after `is_supported`.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn go<K: Kernel<f32>>(k: K) -> K::Output {
        k.run(Avx2(()))
    }

    /// Eight f32; exists only inside [`go`], so its features are on.
    #[derive(Clone, Copy)]
    pub struct Avx2(());

    /// All ones in the first `n` lanes.
    #[inline(always)]
    unsafe fn tail_mask(n: usize) -> __m256i {
        unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
    }

    /// [`Simd::transpose8`] for every tier that has AVX2.
    #[inline(always)]
    pub unsafe fn transpose8(from: *const f32, from_ld: usize, to: *mut f32, to_ld: usize) {
        unsafe {
            let mut half = [_mm256_setzero_ps(); 8];
            for i in 0..2 {
                // Four rows: in each half of a vector, one of their columns.
                let row = |r: usize| _mm256_loadu_ps(from.add((4 * i + r) * from_ld));
                let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                half[4 * i] = _mm256_shuffle_ps::<0x44>(ab, cd);
                half[4 * i + 1] = _mm256_shuffle_ps::<0xEE>(ab, cd);
                let (ab, cd) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                half[4 * i + 2] = _mm256_shuffle_ps::<0x44>(ab, cd);
                half[4 * i + 3] = _mm256_shuffle_ps::<0xEE>(ab, cd);
            }
            for j in 0..4 {
                let (top, bottom) = (half[j], half[j + 4]);
                _mm256_storeu_ps(to.add(j * to_ld), _mm256_permute2f128_ps::<0x20>(top, bottom));
                _mm256_storeu_ps(to.add((j + 4) * to_ld), _mm256_permute2f128_ps::<0x31>(top, bottom));
            }
        }
    }

    // SAFETY of every intrinsic below: a `Avx2` is only made in `go`, whose caller checked the features.
    impl Simd for Avx2 {
        type E = f32;
        type V = __m256;
        const LANES: usize = 8;
        const MR: usize = 6;
        const NV: usize = 2;

        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(self, p: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_n(self, p: *const f32, n: usize) -> __m256 {
            unsafe { _mm256_maskload_ps(p, tail_mask(n)) }
        }
        #[inline(always)]
        unsafe fn store_n(self, p: *mut f32, n: usize, v: __m256) {
            unsafe { _mm256_maskstore_ps(p, tail_mask(n), v) }
        }
        #[inline(always)]
        unsafe fn store_u8(self, p: *mut u8, n: usize, v: __m256) {
            unsafe {
                let x = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(128));
                let x = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
                let bytes = _mm_cvtsi128_si64(_mm_packus_epi16(x, x)).to_le_bytes();
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), p, n);
            }
        }
        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        fn div(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn max(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        fn min(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        fn sqrt(self, a: __m256) -> __m256 {
            unsafe { _mm256_sqrt_ps(a) }
        }
        #[inline(always)]
        fn sum(self, a: __m256) -> f32 {
            let mut t = [0.0f32; 8];
            unsafe { self.store(t.as_mut_ptr(), a) };
            ((t[0] + t[4]) + (t[2] + t[6])) + ((t[1] + t[5]) + (t[3] + t[7]))
        }
        #[inline(always)]
        fn hmax(self, a: __m256) -> f32 {
            let mut t = [0.0f32; 8];
            unsafe { self.store(t.as_mut_ptr(), a) };
            t.into_iter().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
        }
        #[inline(always)]
        fn exp(self, a: __m256) -> __m256 {
            math::exp(self, a)
        }
        #[inline(always)]
        fn exp2(self, a: __m256) -> __m256 {
            math::exp2(self, a)
        }
        #[inline(always)]
        fn erf(self, a: __m256) -> __m256 {
            math::erf(self, a)
        }
        #[inline(always)]
        fn gelu(self, a: __m256) -> __m256 {
            math::gelu(self, a)
        }
        #[inline(always)]
        fn gelu_slope(self, a: __m256) -> [__m256; 2] {
            math::gelu_and_slope(self, a)
        }
        #[inline(always)]
        fn prefetch(self, p: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn transpose8(self, from: *const f32, from_ld: usize, to: *mut f32, to_ld: usize) {
            unsafe { transpose8(from, from_ld, to, to_ld) }
        }
    }

    // SAFETY as above.
    impl math::Bits for Avx2 {
        #[inline(always)]
        fn exp2i(self, n: __m256) -> __m256 {
            unsafe {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            }
        }
        #[inline(always)]
        fn exp2_magic(self, n: __m256) -> __m256 {
            unsafe {
                let biased = _mm256_add_epi32(_mm256_castps_si256(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            }
        }
        #[inline(always)]
        fn copysign(self, a: __m256, b: __m256) -> __m256 {
            unsafe {
                let sign = _mm256_set1_ps(-0.0);
                _mm256_or_ps(_mm256_andnot_ps(sign, a), _mm256_and_ps(sign, b))
            }
        }
    }
}
