//! `exp` and `erf` of f32 vectors: one polynomial body for every tier. The coefficients are minimax fits made for this
//! file (iteratively reweighted least squares in f64, weighted by the error named below, then rounded to f32).

use super::Simd;

/// Bit-level steps that the polynomials need of an f32 tier.
pub trait Bits: Simd<E = f32> {
    /// `2^n` for integral `n` from -127 (which gives 0) to 127; anything for NaN.
    fn exp2i(self, n: Self::V) -> Self::V;
    /// The magnitude of `a` with the sign of `b`.
    fn copysign(self, a: Self::V, b: Self::V) -> Self::V;
}

/// `c[0] + c[1]·x + …`
#[inline(always)]
fn horner<S: Simd<E = f32>, const N: usize>(s: S, x: S::V, c: [f32; N]) -> S::V {
    let mut r = s.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        r = s.fma(r, x, s.splat(c[i]));
    }
    r
}

/// `e^x`, within 1 ulp (0.65 with fused multiply-add, 0.81 without; dense sweep). Results below 2^-125.5 are 0, above the
/// largest f32 infinite; NaN stays NaN.
///
/// `x = n·ln 2 + r` with `|r| <= ln(2)/2`, ln 2 in two parts of which the first has few bits, so that `n` times it is exact.
#[inline(always)]
pub fn exp<S: Bits>(s: S, x: S::V) -> S::V {
    const Q: [f32; 5] = [0.499_999_94, 0.166_665_2, 0.041_668_4, 0.008_368_851, 0.001_381_432];
    // Added and taken away again, it leaves the nearest integer.
    let magic = s.splat(12_582_912.0);
    // NaN comes through because min and max give back their second operand then.
    let x = s.max(s.splat(-87.5), s.min(s.splat(89.0), x));
    let n = s.sub(s.fma(x, s.splat(std::f32::consts::LOG2_E), magic), magic);
    let r = s.fma(n, s.splat(2.121_944_4e-4), s.fma(n, s.splat(-355.0 / 512.0), x));
    let one = s.splat(1.0);
    let p = s.fma(s.fma(horner(s, r, Q), r, one), r, one);
    // 2^n in two factors: n = 128 is in range although 2^128 is not.
    s.mul(s.add(p, p), s.exp2i(s.sub(n, one)))
}

/// Gauss error function, absolute error below 1.1e-7 (dense sweep); NaN stays NaN.
///
/// `1 - e^-w(|x|)` with the sign of x; `w/|x|` is a polynomial, fitted where erf is not yet 1 in f32.
#[inline(always)]
pub fn erf<S: Bits>(s: S, x: S::V) -> S::V {
    const W: [f32; 8] = [
        1.128_380_3,
        0.636_597_75,
        0.102_919_616,
        -0.019_583_96,
        5.369_319e-4,
        0.001_032_402_5,
        -3.088_024e-4,
        3.144_004e-5,
    ];
    let a = s.min(s.splat(4.0), s.copysign(x, s.splat(1.0)));
    let minus_w = s.sub(s.splat(0.0), s.mul(horner(s, a, W), a));
    s.copysign(s.sub(s.splat(1.0), exp(s, minus_w)), x)
}
