//! AVX-512: sixteen f32 a vector, tails by mask.

use super::{Kernel, Simd, avx2, math, paired};

/// Whether this chip has the tier.
pub fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Runs `k` with the tier's target features on.
pub fn enter<K: Kernel<f32>>(k: K) -> K::Output {
    assert!(is_supported(), "AVX-512 kernels on a processor without AVX-512");
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
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub unsafe fn go<K: Kernel<f32>>(k: K) -> K::Output {
        k.run(Avx512(()))
    }

    /// Sixteen f32; exists only inside [`go`] and `bf16`'s, so its features are on.
    #[derive(Clone, Copy)]
    pub struct Avx512(pub(in crate::runtime::simd) ());

    // SAFETY of every intrinsic below: a `Avx512` is only made in `go` and in `bf16`, whose callers checked the features.
    impl Simd for Avx512 {
        type E = f32;
        type V = __m512;
        const LANES: usize = 16;
        const MR: usize = 6;
        const NV: usize = 4;

        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(self, p: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_n(self, p: *const f32, n: usize) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps(((1u32 << n) - 1) as u16, p) }
        }
        #[inline(always)]
        unsafe fn store_n(self, p: *mut f32, n: usize, v: __m512) {
            unsafe { _mm512_mask_storeu_ps(p, ((1u32 << n) - 1) as u16, v) }
        }
        #[inline(always)]
        unsafe fn store_u8(self, p: *mut u8, n: usize, v: __m512) {
            unsafe {
                let x = _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(128));
                if n == 16 {
                    _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(x));
                } else {
                    _mm_mask_storeu_epi8(p.cast(), ((1u32 << n) - 1) as u16, _mm512_cvtepi32_epi8(x));
                }
            }
        }
        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn div(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn max(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        fn min(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        fn sqrt(self, a: __m512) -> __m512 {
            unsafe { _mm512_sqrt_ps(a) }
        }
        #[inline(always)]
        fn sum(self, a: __m512) -> f32 {
            unsafe { _mm512_reduce_add_ps(a) }
        }
        #[inline(always)]
        fn hmax(self, a: __m512) -> f32 {
            unsafe { _mm512_reduce_max_ps(a) }
        }
        #[inline(always)]
        fn exp(self, a: __m512) -> __m512 {
            math::exp(self, a)
        }
        #[inline(always)]
        fn exp2(self, a: __m512) -> __m512 {
            math::exp2(self, a)
        }
        #[inline(always)]
        fn erf(self, a: __m512) -> __m512 {
            math::erf(self, a)
        }
        #[inline(always)]
        fn gelu(self, a: __m512) -> __m512 {
            math::gelu(self, a)
        }
        #[inline(always)]
        fn gelu_slope(self, a: __m512) -> [__m512; 2] {
            math::gelu_and_slope(self, a)
        }
        #[inline(always)]
        fn prefetch(self, p: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn paired(
            self,
            a: paired::Rows<f32>,
            b: *const f32,
            steps: usize,
            to: *mut f32,
            ahead: *const f32,
        ) {
            unsafe { paired::x86::tile(a, b, steps, to, ahead) }
        }
        #[inline(always)]
        unsafe fn transpose8(self, from: *const f32, from_ld: usize, to: *mut f32, to_ld: usize) {
            unsafe { avx2::x86::transpose8(from, from_ld, to, to_ld) }
        }
    }

    // SAFETY as above.
    impl math::Bits for Avx512 {
        #[inline(always)]
        fn exp2i(self, n: __m512) -> __m512 {
            unsafe {
                let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
            }
        }
        #[inline(always)]
        fn exp2_magic(self, n: __m512) -> __m512 {
            unsafe {
                let biased = _mm512_add_epi32(_mm512_castps_si512(n), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
            }
        }
        #[inline(always)]
        fn copysign(self, a: __m512, b: __m512) -> __m512 {
            unsafe {
                let sign = _mm512_set1_ps(-0.0);
                _mm512_or_ps(_mm512_andnot_ps(sign, a), _mm512_and_ps(sign, b))
            }
        }
    }
}
