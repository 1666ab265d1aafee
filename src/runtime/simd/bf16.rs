//! bf16 operands with f32 sums: AVX-512 BF16 where the chip has it, the same function in plain Rust for the other tiers.

use half::bf16;

use super::product::{Operand, Product, ProductKernel};
use super::scalar::Scalar;
use super::{Simd, Tier};

/// Whether `tier` has instructions for it on this chip; it is emulated, slowly, where not.
pub fn is_native(tier: Tier) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        tier >= Tier::Avx512 && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = tier;
        false
    }
}

impl Operand for bf16 {
    type Sum = f32;
    const GROUP: usize = 2;
    #[inline(always)]
    fn round(x: f32) -> Self {
        bf16::from_f32(x)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline]
    fn product<K: ProductKernel<bf16>>(tier: Tier, k: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        if is_native(tier) {
            // SAFETY: the features were asked for just now.
            return unsafe { x86::go(k) };
        }
        let _ = tier;
        k.run(Emulated(Scalar::new()))
    }
}

/// The scalar tier, two elements of each group one after the other: what the instruction is defined as, but with
/// denormals. A product of two bf16 is exact in f32.
#[derive(Clone, Copy)]
struct Emulated(Scalar<f32>);

const LANES: usize = <Scalar<f32> as Simd>::LANES;

// SAFETY of every body below: the caller's, for as many elements as the trait says.
impl Product for Emulated {
    type S = Scalar<f32>;
    type X = bf16;
    type B = [[bf16; 2]; LANES];
    #[inline(always)]
    fn simd(self) -> Self::S {
        self.0
    }
    #[inline(always)]
    unsafe fn splat(self, p: *const f32) -> Self::B {
        [unsafe { p.cast::<[bf16; 2]>().read_unaligned() }; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::B {
        unsafe { p.cast::<Self::B>().read_unaligned() }
    }
    #[inline(always)]
    fn madd(self, a: Self::B, b: Self::B, sum: [f32; LANES]) -> [f32; LANES] {
        let product = |i: usize, slot: usize| a[i][slot].to_f32() * b[i][slot].to_f32();
        std::array::from_fn(|i| sum[i] + product(i, 1) + product(i, 0))
    }
    #[inline(always)]
    unsafe fn get(self, p: *const bf16, n: usize) -> [f32; LANES] {
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) }.to_f32() } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn put(self, p: *mut bf16, n: usize, v: [f32; LANES]) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            unsafe { *p.add(i) = bf16::from_f32(x) };
        }
    }
    #[inline(always)]
    unsafe fn join(self, to: *mut f32, low: [f32; LANES], high: [f32; LANES]) {
        unsafe {
            self.place(to, 0, low);
            self.place(to, 1, high);
        }
    }
    #[inline(always)]
    unsafe fn place(self, to: *mut f32, slot: usize, v: [f32; LANES]) {
        for (i, x) in v.into_iter().enumerate() {
            unsafe { *to.cast::<bf16>().add(2 * i + slot) = bf16::from_f32(x) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use half::bf16;

    use super::super::avx512::x86::Avx512;
    use super::super::math::{Bits, from_tail, horner, log2_density};
    use super::*;

    /// `log2 Φ(x)` for x from -6 to 0.
    const GELU: [f32; 6] =
        [-1.000_531_8, 1.144_399_8, -0.472_785_62, 0.042_832_755, 0.004_467_609_3, 2.016_845_7e-4];

    /// SAFETY: only called after `is_native`.
    #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub unsafe fn go<K: ProductKernel<bf16>>(k: K) -> K::Output {
        k.run(Bf16(Avx512(())))
    }

    /// Sixteen pairs; exists only inside [`go`], so its features are on.
    #[derive(Clone, Copy)]
    pub struct Bf16(Avx512);

    // SAFETY of every intrinsic below: a `Bf16` is only made in `go`, whose caller checked the features.
    impl Product for Bf16 {
        type S = Avx512;
        type X = bf16;
        type B = __m512i;
        #[inline(always)]
        fn simd(self) -> Avx512 {
            self.0
        }
        #[inline(always)]
        unsafe fn splat(self, p: *const f32) -> __m512i {
            unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn load(self, p: *const f32) -> __m512i {
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        fn madd(self, a: __m512i, b: __m512i, sum: __m512) -> __m512 {
            unsafe {
                _mm512_dpbf16_ps(sum, transmute::<__m512i, __m512bh>(b), transmute::<__m512i, __m512bh>(a))
            }
        }
        #[inline(always)]
        unsafe fn get(self, p: *const bf16, n: usize) -> __m512 {
            unsafe { widen(_mm256_maskz_loadu_epi16(((1u32 << n) - 1) as u16, p.cast())) }
        }
        #[inline(always)]
        unsafe fn put(self, p: *mut bf16, n: usize, v: __m512) {
            unsafe {
                let v = narrow(v);
                if n == 16 {
                    _mm256_storeu_si256(p.cast(), v)
                } else {
                    _mm256_mask_storeu_epi16(p.cast(), ((1u32 << n) - 1) as u16, v)
                }
            }
        }
        /// Relative error below 1e-4.
        #[inline(always)]
        fn exp2(self, a: __m512) -> __m512 {
            const P: [f32; 4] = [0.999_925_2, 0.695_833_5, 0.226_067_17, 0.078_024_53];
            // 2^(a - floor a), then times 2^(floor a); 0 for minus infinity, NaN stays NaN.
            unsafe { _mm512_scalef_ps(horner(self.0, _mm512_reduce_ps::<0x09>(a), P), a) }
        }
        /// Relative error below 5e-4 from -6 on; as GELU of [`super::super::math`], with a polynomial of fewer terms.
        #[inline(always)]
        fn gelu(self, a: __m512) -> __m512 {
            let s = self.0;
            let minus = s.max(s.splat(-6.0), s.copysign(a, s.splat(-1.0)));
            s.fma(minus, self.exp2(horner(s, minus, GELU)), s.max(s.splat(0.0), a))
        }
        /// As [`super::super::math::gelu_and_slope`], with polynomials of fewer terms.
        #[inline(always)]
        fn gelu_slope(self, a: __m512) -> [__m512; 2] {
            let s = self.0;
            let minus = s.max(s.splat(-6.0), s.copysign(a, s.splat(-1.0)));
            let tail = self.exp2(horner(s, minus, GELU));
            from_tail(s, a, minus, tail, self.exp2(log2_density(s, minus)))
        }
        #[inline(always)]
        unsafe fn join(self, to: *mut f32, low: __m512, high: __m512) {
            unsafe {
                let [low, high] = [low, high].map(|x| _mm512_cvtepu16_epi32(narrow(x)));
                _mm512_storeu_si512(to.cast(), _mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
            }
        }
        #[inline(always)]
        unsafe fn place(self, to: *mut f32, slot: usize, v: __m512) {
            unsafe {
                let low = _mm512_cvtepu16_epi32(narrow(v));
                if slot == 0 {
                    _mm512_mask_storeu_epi16(to.cast(), 0x5555_5555, low)
                } else {
                    _mm512_mask_storeu_epi16(to.cast(), 0xaaaa_aaaa, _mm512_slli_epi32::<16>(low))
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn narrow(v: __m512) -> __m256i {
        // SAFETY: the caller has the features; both types are 256 bits.
        unsafe { transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)) }
    }
    #[inline(always)]
    unsafe fn widen(v: __m256i) -> __m512 {
        // SAFETY: the caller has the features.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v))) }
    }
}
