//! What products are made of. Operands may be narrower than sums: each 32-bit lane then holds a group of them that follow
//! one another along K, and one instruction multiplies and adds them all.

use std::fmt::Debug;

use bytemuck::Pod;

use super::{Elem, Kernel, Simd, Tier};

/// Element of a product's operands.
pub trait Operand: Pod + Default + PartialEq + Send + Sync + Debug {
    /// What products are summed in; it also carries the bits of a group, whatever they mean as a number.
    type Sum: Elem;
    /// Elements in a group.
    const GROUP: usize;
    /// Whether their products go in pairs on a tier that has them.
    const PAIRS: bool = false;
    /// Nearest element, ties to even.
    fn round(x: Self::Sum) -> Self;
    /// Exact.
    fn widen(self) -> Self::Sum;
    /// Runs `k` on `tier`.
    fn product<K: ProductKernel<Self>>(tier: Tier, k: K) -> K::Output;
}

/// A [`Kernel`] that multiplies operands X.
pub trait ProductKernel<X: Operand> {
    /// What the work gives back.
    type Output;
    /// Must be `#[inline(always)]`, and so must every function it calls that takes `P`.
    fn run<P: Product<X = X>>(self, p: P) -> Self::Output;
}

/// Products of vectors of groups on one tier. A value of the type is proof that the CPU has what it takes.
///
/// SAFETY of what takes pointers is the caller's, as with [`Simd`]; pointers to lanes need not be aligned.
#[allow(clippy::missing_safety_doc)]
pub trait Product: Copy + Send + Sync + 'static {
    /// Vectors of sums.
    type S: Simd<E = SumOf<Self>>;
    /// Operand.
    type X: Operand;
    /// `LANES` groups.
    type B: Copy;

    /// The sums' instructions.
    fn simd(self) -> Self::S;
    /// One group in every lane.
    unsafe fn splat(self, p: *const SumOf<Self>) -> Self::B;
    /// Reads `LANES` groups.
    unsafe fn load(self, p: *const SumOf<Self>) -> Self::B;
    /// `sum` plus the products of each lane's group.
    fn madd(self, a: Self::B, b: Self::B, sum: Sums<Self>) -> Sums<Self>;
    /// Reads `n <= LANES` elements, one a lane; the rest are zero.
    unsafe fn get(self, p: *const Self::X, n: usize) -> Sums<Self>;
    /// Writes the first `n <= LANES` lanes as elements.
    unsafe fn put(self, p: *mut Self::X, n: usize, v: Sums<Self>);
    /// `2^a` for `a <= 0`, as exact as operands are or better.
    #[inline(always)]
    fn exp2(self, a: Sums<Self>) -> Sums<Self> {
        self.simd().exp2(a)
    }
    /// `a·Φ(a)`, as exact as operands are or better.
    #[inline(always)]
    fn gelu(self, a: Sums<Self>) -> Sums<Self> {
        self.simd().gelu(a)
    }
    /// `a·Φ(a)` and its derivative, as exact as operands are or better.
    #[inline(always)]
    fn gelu_slope(self, a: Sums<Self>) -> [Sums<Self>; 2] {
        self.simd().gelu_slope(a)
    }
    /// Writes `LANES` groups: of each lane of `low` the first element, of `high` the second; there are no more.
    unsafe fn join(self, to: *mut SumOf<Self>, low: Sums<Self>, high: Sums<Self>);
    /// Writes each lane as element `slot` of the group in the same lane of `to`, `LANES` groups.
    unsafe fn place(self, to: *mut SumOf<Self>, slot: usize, v: Sums<Self>);
}

/// Vector of sums of a product.
pub type Sums<P> = <<P as Product>::S as Simd>::V;
/// One of them; or the bits of a group.
pub type SumOf<P> = <<P as Product>::X as Operand>::Sum;

/// Operands that are as wide as the sums.
#[derive(Clone, Copy)]
pub struct Plain<S>(pub S);

// SAFETY of every body below: the caller's, for as many elements as `Simd` reads or writes.
impl<S: Simd> Product for Plain<S> {
    type S = S;
    type X = S::E;
    type B = S::V;
    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }
    #[inline(always)]
    unsafe fn splat(self, p: *const S::E) -> S::V {
        self.0.splat(unsafe { *p })
    }
    #[inline(always)]
    unsafe fn load(self, p: *const S::E) -> S::V {
        unsafe { self.0.load(p) }
    }
    #[inline(always)]
    fn madd(self, a: S::V, b: S::V, sum: S::V) -> S::V {
        self.0.fma(a, b, sum)
    }
    #[inline(always)]
    unsafe fn get(self, p: *const S::E, n: usize) -> S::V {
        unsafe { if n == S::LANES { self.0.load(p) } else { self.0.load_n(p, n) } }
    }
    #[inline(always)]
    unsafe fn put(self, p: *mut S::E, n: usize, v: S::V) {
        unsafe { if n == S::LANES { self.0.store(p, v) } else { self.0.store_n(p, n, v) } }
    }
    #[inline(always)]
    unsafe fn join(self, to: *mut S::E, low: S::V, _: S::V) {
        unsafe { self.0.store(to, low) }
    }
    #[inline(always)]
    unsafe fn place(self, to: *mut S::E, _: usize, v: S::V) {
        unsafe { self.0.store(to, v) }
    }
}

/// A product's kernel as one of its sums' tier.
pub(super) struct AsKernel<K>(pub K);
impl<E: Elem, K: ProductKernel<E>> Kernel<E> for AsKernel<K> {
    type Output = K::Output;
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) -> K::Output {
        self.0.run(Plain(s))
    }
}
