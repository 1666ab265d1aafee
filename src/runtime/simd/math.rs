//! `exp`, `exp2`, `erf` and GELU of f32 vectors: one polynomial body for every tier. The coefficients are minimax fits
//! made for this file (iteratively reweighted least squares in f64, weighted by the error named below, then rounded to
//! f32).

use super::Simd;

/// Bit-level steps that the polynomials need of an f32 tier.
pub trait Bits: Simd<E = f32> {
    /// `2^n` for integral `n` from -127 (which gives 0) to 127; anything for NaN.
    fn exp2i(self, n: Self::V) -> Self::V;
    /// The magnitude of `a` with the sign of `b`.
    fn copysign(self, a: Self::V, b: Self::V) -> Self::V;
    /// `2^n` for `n` from -126 to 127, given as `n + `[`MAGIC`]; anything for NaN.
    fn exp2_magic(self, n: Self::V) -> Self::V;
}

/// 1.5·2^23: added to a number below 2^22, it leaves the nearest integer, in the lowest bits.
const MAGIC: f32 = 12_582_912.0;

/// `c[0] + c[1]·x + …`
#[inline(always)]
pub(super) fn horner<S: Simd<E = f32>, const N: usize>(s: S, x: S::V, c: [f32; N]) -> S::V {
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
    let magic = s.splat(MAGIC);
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

/// `2^x` for x up to 127, relative error below 2.4e-7 (dense sweep; the largest without fused
/// multiply-add); below -125 it stays at that of -125, NaN stays NaN.
///
/// `x = n + r` with `|r| <= 1/2`: a third fewer multiply-adds than [`exp`].
#[inline(always)]
pub fn exp2<S: Bits>(s: S, x: S::V) -> S::V {
    const P: [f32; 6] =
        [1.000_000_1, 0.693_146_94, 0.240_221_2, 0.055_507_13, 0.009_675_542, 0.001_327_647_2];
    let x = s.max(s.splat(-125.0), x);
    let magic = s.splat(MAGIC);
    let n = s.add(x, magic);
    let r = s.sub(x, s.sub(n, magic));
    s.mul(horner(s, r, P), s.exp2_magic(n))
}

/// `log2 Φ(x)` for x from -6 to 0, fitted by the error that it makes in [`gelu`].
const LOG2_CDF: [f32; 9] = [
    -0.999_998_87,
    1.151_123_3,
    -0.459_115_45,
    0.052_714_2,
    0.007_333_385_3,
    3.233_431_8e-4,
    -1.144_622_5e-4,
    -2.508_321_6e-5,
    -1.690_394e-6,
];

/// GELU `x·Φ(x)`, absolute error below 6e-8·(1 + |x|) (dense sweep); NaN stays NaN.
///
/// `max(x, 0) - a·Φ(-a)` with `a = |x|`.
#[inline(always)]
pub fn gelu<S: Bits>(s: S, x: S::V) -> S::V {
    let minus_a = s.max(s.splat(-6.0), s.copysign(x, s.splat(-1.0)));
    s.fma(minus_a, exp2(s, horner(s, minus_a, LOG2_CDF)), s.max(s.splat(0.0), x))
}

/// [`gelu`] and its derivative `Φ(x) + x·φ(x)`, the latter's absolute error below 1e-6 (dense sweep); NaN stays NaN.
#[inline(always)]
pub fn gelu_and_slope<S: Bits>(s: S, x: S::V) -> [S::V; 2] {
    let minus_a = s.max(s.splat(-6.0), s.copysign(x, s.splat(-1.0)));
    let tail = exp2(s, horner(s, minus_a, LOG2_CDF));
    from_tail(s, x, minus_a, tail, exp2(s, log2_density(s, minus_a)))
}

/// `-x²/2·log2 e`.
#[inline(always)]
pub(super) fn log2_density<S: Bits>(s: S, x: S::V) -> S::V {
    s.mul(x, s.mul(x, s.splat(-0.5 * std::f32::consts::LOG2_E)))
}

/// GELU and its derivative from `-a`, at least -6, `tail = Φ(-a)` and `density = e^(-a²/2)`.
#[inline(always)]
pub(super) fn from_tail<S: Bits>(s: S, x: S::V, minus_a: S::V, tail: S::V, density: S::V) -> [S::V; 2] {
    let half = s.splat(0.5);
    let cdf = s.add(half, s.copysign(s.sub(half, tail), x));
    let slope = s.fma(s.mul(x, s.splat(0.398_942_3)), density, cdf);
    [s.fma(minus_a, tail, s.max(s.splat(0.0), x)), slope]
}
