//! One body, several instruction sets: kernels are generic over [`Simd`] and compiled once a tier; the tier is
//! chosen at run time. Only this module's files hold intrinsics.
//!
//! A kernel is a struct with `#[inline(always)] fn run<S: Simd>(self, s: S)`; [`Cpu::dispatch`](super::Cpu::dispatch)
//! calls it inside a function that enables the tier's target features, so that everything inlines into it.

pub mod aligned;
pub mod avx2;
pub mod avx512;
pub mod bf16;
pub mod int8;
pub mod math;
pub mod paired;
pub mod product;
pub mod scalar;
pub mod slice;

use std::fmt::Display;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use crate::error::{Error, Result};
pub use product::{Operand, Product, ProductKernel};

/// Element of a tensor: `f32`, and `f64` for gradient checks (which run the same bodies on the scalar tier).
pub trait Elem:
    Operand<Sum = Self>
    + PartialOrd
    + Display
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    /// What operands of products are rounded to on a narrowed [`Cpu`](super::Cpu).
    type Narrow: Operand<Sum = Self>;
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Nearest value.
    fn from_f64(x: f64) -> Self;
    /// Exact for f32.
    fn to_f64(self) -> f64;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Larger of the two; `o` if either is NaN.
    fn max(self, o: Self) -> Self;
    /// `e^self`.
    fn exp(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Runs `k` on `tier`.
    fn dispatch<K: Kernel<Self>>(tier: Tier, k: K) -> K::Output;
}

macro_rules! elem {
    ($t:ty, $narrow:ty, $pairs:literal, $exp:path, $dispatch:item) => {
        impl Elem for $t {
            type Narrow = $narrow;
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            #[inline(always)]
            fn max(self, o: Self) -> Self {
                if self > o { self } else { o }
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                self.abs()
            }
            #[inline]
            $dispatch
        }
        impl Operand for $t {
            type Sum = $t;
            const GROUP: usize = 1;
            const PAIRS: bool = $pairs;
            #[inline(always)]
            fn round(x: $t) -> Self {
                x
            }
            #[inline(always)]
            fn widen(self) -> $t {
                self
            }
            #[inline]
            fn product<K: ProductKernel<$t>>(tier: Tier, k: K) -> K::Output {
                <$t as Elem>::dispatch(tier, product::AsKernel(k))
            }
        }
    };
}

elem!(
    f32,
    half::bf16,
    true,
    libm::expf,
    fn dispatch<K: Kernel<f32>>(tier: Tier, k: K) -> K::Output {
        match tier {
            Tier::Scalar => k.run(scalar::Scalar::<f32>::new()),
            Tier::Avx2 => avx2::enter(k),
            Tier::Avx512 | Tier::Avx512Paired => avx512::enter(k),
        }
    }
);
elem!(
    f64,
    f64,
    false,
    libm::exp,
    fn dispatch<K: Kernel<f64>>(_: Tier, k: K) -> K::Output {
        k.run(scalar::Scalar::<f64>::new())
    }
);

/// A piece of work compiled once per instruction tier.
pub trait Kernel<E: Elem> {
    /// What the work gives back.
    type Output;
    /// Must be `#[inline(always)]`, and so must every function it calls that takes `S`.
    fn run<S: Simd<E = E>>(self, s: S) -> Self::Output;
}

/// A vector of `LANES` elements and what can be done with it. A value of the type is proof that the CPU has the tier.
///
/// `load`/`store` take raw pointers: SAFETY is the caller's, who checks slice lengths once at the op border.
#[allow(clippy::missing_safety_doc)]
pub trait Simd: Copy + Send + Sync + 'static {
    /// Element.
    type E: Elem;
    /// Vector of `LANES` elements.
    type V: Copy;
    /// Elements in a vector.
    const LANES: usize;
    /// Rows of the GEMM register tile.
    const MR: usize;
    /// Vectors across the GEMM register tile: it is `MR` x (`NV`·`LANES`).
    const NV: usize;

    /// `x` in every lane.
    fn splat(self, x: Self::E) -> Self::V;
    /// Reads `LANES` elements.
    unsafe fn load(self, p: *const Self::E) -> Self::V;
    /// Writes `LANES` elements.
    unsafe fn store(self, p: *mut Self::E, v: Self::V);
    /// Reads `n <= LANES` elements; the rest are zero.
    unsafe fn load_n(self, p: *const Self::E, n: usize) -> Self::V;
    /// Writes the first `n <= LANES` elements.
    unsafe fn store_n(self, p: *mut Self::E, n: usize, v: Self::V);
    /// Writes the first `n <= LANES` elements as bytes: the nearest integer (ties to even) plus 128, for magnitudes that
    /// round to at most 127; anything for others.
    unsafe fn store_u8(self, p: *mut u8, n: usize, v: Self::V);
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a·b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`, rounded once.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Larger of the two; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Smaller of the two; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Square root, rounded once.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// Sum of the lanes, in a fixed order.
    fn sum(self, a: Self::V) -> Self::E;
    /// Largest lane; anything if a lane is NaN.
    fn hmax(self, a: Self::V) -> Self::E;
    /// `e^a`; for f32 as [`math::exp`] says, for f64 libm's.
    fn exp(self, a: Self::V) -> Self::V;
    /// `2^a`; for f32 as [`math::exp2`] says, for f64 libm's.
    fn exp2(self, a: Self::V) -> Self::V;
    /// Gauss error function; for f32 as [`math::erf`] says, for f64 libm's.
    fn erf(self, a: Self::V) -> Self::V;
    /// `a·Φ(a)`; for f32 as [`math::gelu`] says, for f64 with libm's erf.
    fn gelu(self, a: Self::V) -> Self::V;
    /// `a·Φ(a)` and its derivative; for f32 as [`math::gelu_and_slope`] says, for f64 with libm.
    fn gelu_slope(self, a: Self::V) -> [Self::V; 2];
    /// Asks for the cache line at `p`, which may lie anywhere, to come to the second-level cache.
    #[inline(always)]
    fn prefetch(self, _p: *const Self::E) {}
    /// A register tile of paired products, [`paired::tile`], at least one step; meanwhile the line of each step from
    /// `ahead` on, which may lie anywhere, is asked for.
    #[inline(always)]
    unsafe fn paired(
        self,
        a: paired::Rows<Self::E>,
        b: *const Self::E,
        steps: usize,
        to: *mut Self::E,
        _ahead: *const Self::E,
    ) {
        unsafe { paired::tile(self, a, b, steps, to) }
    }
    /// Copies 8x8 elements transposed: `to[j·to_ld + i] = from[i·from_ld + j]`.
    #[inline(always)]
    unsafe fn transpose8(self, from: *const Self::E, from_ld: usize, to: *mut Self::E, to_ld: usize) {
        for i in 0..8 {
            for j in 0..8 {
                unsafe { *to.add(j * to_ld + i) = *from.add(i * from_ld + j) };
            }
        }
    }
}

/// Instruction tier of the f32 kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Plain Rust; every machine.
    Scalar,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// The same, and f32 products in pairs: see [`paired`].
    Avx512Paired,
}

impl Tier {
    /// Every tier, slowest first.
    pub const ALL: [Tier; 4] = [Tier::Scalar, Tier::Avx2, Tier::Avx512, Tier::Avx512Paired];
    /// Best tier of this chip.
    pub fn detect() -> Self {
        *Self::ALL.iter().rev().find(|t| t.is_supported()).unwrap_or(&Tier::Scalar)
    }
    /// The tier called `name`, or the best one without a name; a name that is unknown or not of this chip is refused.
    pub fn choose(name: Option<&str>) -> Result<Self> {
        let Some(name) = name else { return Ok(Self::detect()) };
        let tier = Self::ALL.into_iter().find(|t| t.name() == name).ok_or_else(|| {
            Error::usage(format!(
                "INP_SIMD is `{name}`: set it to scalar, avx2, avx512 or avx512-paired, or leave it unset"
            ))
        })?;
        if tier.is_supported() {
            return Ok(tier);
        }
        let best = Self::detect().name();
        Err(Error::usage(format!("INP_SIMD is `{name}`, which this processor lacks: its best is {best}")))
    }
    /// Whether this chip can run the tier.
    pub fn is_supported(self) -> bool {
        match self {
            Tier::Scalar => true,
            Tier::Avx2 => avx2::is_supported(),
            Tier::Avx512 => avx512::is_supported(),
            Tier::Avx512Paired => paired::is_supported(),
        }
    }
    /// Name as printed and as accepted by `INP_SIMD`.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Scalar => "scalar",
            Tier::Avx2 => "avx2",
            Tier::Avx512 => "avx512",
            Tier::Avx512Paired => "avx512-paired",
        }
    }
}
