//! The tier that every machine has: vectors of four elements in plain Rust, which the compiler may vectorise. It is
//! also how f64 runs.

use std::marker::PhantomData;

use super::{Elem, Simd, math};

/// Lanes of the scalar tier.
const N: usize = 4;

/// Plain Rust, any element.
#[derive(Clone, Copy)]
pub struct Scalar<E>(PhantomData<E>);

impl<E> Scalar<E> {
    #[allow(clippy::new_without_default)]
    /// The tier that every machine has.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

macro_rules! scalar {
    ($t:ty, $exp:expr, $exp2:expr, $erf:expr, $gelu:expr, $slope:expr) => {
        // SAFETY: as the trait says, the caller answers for as many elements behind `p` as are read or written.
        impl Simd for Scalar<$t> {
            type E = $t;
            type V = [$t; N];
            const LANES: usize = N;
            const MR: usize = 4;
            const NV: usize = 2;

            #[inline(always)]
            fn splat(self, x: $t) -> Self::V {
                [x; N]
            }
            #[inline(always)]
            unsafe fn load(self, p: *const $t) -> Self::V {
                unsafe { std::ptr::read_unaligned(p.cast()) }
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut $t, v: Self::V) {
                unsafe { std::ptr::write_unaligned(p.cast(), v) }
            }
            #[inline(always)]
            unsafe fn load_n(self, p: *const $t, n: usize) -> Self::V {
                let mut v = [0.0; N];
                for i in 0..n {
                    v[i] = unsafe { *p.add(i) };
                }
                v
            }
            #[inline(always)]
            unsafe fn store_n(self, p: *mut $t, n: usize, v: Self::V) {
                for i in 0..n {
                    unsafe { *p.add(i) = v[i] };
                }
            }
            #[inline(always)]
            unsafe fn store_u8(self, p: *mut u8, n: usize, v: Self::V) {
                for i in 0..n {
                    unsafe { *p.add(i) = (v[i].round_ties_even() + 128.0) as u8 };
                }
            }
            #[inline(always)]
            fn add(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] + b[i])
            }
            #[inline(always)]
            fn sub(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] - b[i])
            }
            #[inline(always)]
            fn mul(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] * b[i])
            }
            #[inline(always)]
            fn div(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] / b[i])
            }
            /// Rounded twice: a fused operation in software would be a hundred times slower.
            #[inline(always)]
            fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] * b[i] + c[i])
            }
            #[inline(always)]
            fn max(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            fn min(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            fn sqrt(self, a: Self::V) -> Self::V {
                a.map(<$t>::sqrt)
            }
            #[inline(always)]
            fn sum(self, a: Self::V) -> $t {
                (a[0] + a[2]) + (a[1] + a[3])
            }
            #[inline(always)]
            fn hmax(self, a: Self::V) -> $t {
                Elem::max(Elem::max(a[0], a[1]), Elem::max(a[2], a[3]))
            }
            #[inline(always)]
            fn exp(self, a: Self::V) -> Self::V {
                $exp(self, a)
            }
            #[inline(always)]
            fn exp2(self, a: Self::V) -> Self::V {
                $exp2(self, a)
            }
            #[inline(always)]
            fn erf(self, a: Self::V) -> Self::V {
                $erf(self, a)
            }
            #[inline(always)]
            fn gelu(self, a: Self::V) -> Self::V {
                $gelu(self, a)
            }
            #[inline(always)]
            fn gelu_slope(self, a: Self::V) -> [Self::V; 2] {
                $slope(self, a)
            }
        }
    };
}

scalar!(f32, math::exp, math::exp2, math::erf, math::gelu, math::gelu_and_slope);
scalar!(
    f64,
    |_, a: [f64; N]| a.map(libm::exp),
    |_, a: [f64; N]| a.map(libm::exp2),
    |_, a: [f64; N]| a.map(libm::erf),
    |_, a: [f64; N]| a.map(|x| x * cdf(x)),
    |_, a: [f64; N]| [a.map(|x| x * cdf(x)), a.map(|x| cdf(x) + x * density(x))]
);

fn cdf(x: f64) -> f64 {
    0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
}
fn density(x: f64) -> f64 {
    0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2 * libm::exp(-0.5 * x * x)
}

impl math::Bits for Scalar<f32> {
    #[inline(always)]
    fn exp2i(self, n: [f32; N]) -> [f32; N] {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn exp2_magic(self, n: [f32; N]) -> [f32; N] {
        n.map(|n| f32::from_bits(n.to_bits().wrapping_add(127) << 23))
    }
    #[inline(always)]
    fn copysign(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i].copysign(b[i]))
    }
}
