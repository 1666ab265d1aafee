//! Loops over slices that kernels share: reductions and element-wise updates in one fixed order per tier.

use super::{Elem, Simd};

/// `Σ a·b`. Both slices have the same length.
#[inline(always)]
pub fn dot<S: Simd>(s: S, a: &[S::E], b: &[S::E]) -> S::E {
    assert_eq!(a.len(), b.len());
    let (n, l) = (a.len(), S::LANES);
    let mut acc = [s.splat(S::E::ZERO); 4];
    let mut i = 0;
    // SAFETY: every pointer stays below `n`, the length of both slices.
    unsafe {
        while i + 4 * l <= n {
            for (j, v) in acc.iter_mut().enumerate() {
                let o = i + j * l;
                *v = s.fma(s.load(a.as_ptr().add(o)), s.load(b.as_ptr().add(o)), *v);
            }
            i += 4 * l;
        }
        while i < n {
            let m = l.min(n - i);
            acc[0] = s.fma(s.load_n(a.as_ptr().add(i), m), s.load_n(b.as_ptr().add(i), m), acc[0]);
            i += m;
        }
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

/// `Σ a`.
#[inline(always)]
pub fn sum<S: Simd>(s: S, a: &[S::E]) -> S::E {
    fold(s, a, s.splat(S::E::ZERO), |acc, x| s.add(acc, x), |v| s.sum(v))
}

/// Sum of `(a - mean)²`.
#[inline(always)]
pub fn sum_sq_dev<S: Simd>(s: S, a: &[S::E], mean: S::E) -> S::E {
    let l = S::LANES;
    let (m, whole) = (s.splat(mean), a.len() / l * l);
    let f = |acc, x| {
        let d = s.sub(x, m);
        s.fma(d, d, acc)
    };
    let mut r = fold(s, &a[..whole], s.splat(S::E::ZERO), f, |v| s.sum(v));
    for &x in &a[whole..] {
        r += (x - mean) * (x - mean);
    }
    r
}

/// Largest element; the lowest value of the type for an empty slice.
#[inline(always)]
pub fn max<S: Simd>(s: S, a: &[S::E]) -> S::E {
    let whole = a.len() / S::LANES * S::LANES;
    let low = S::E::from_f64(f64::NEG_INFINITY);
    let mut r = fold(s, &a[..whole], s.splat(low), |acc, x| s.max(acc, x), |v| s.hmax(v));
    for &x in &a[whole..] {
        r = r.max(x);
    }
    r
}

/// `y += alpha·x`.
#[inline(always)]
pub fn axpy<S: Simd>(s: S, y: &mut [S::E], alpha: S::E, x: &[S::E]) {
    let a = s.splat(alpha);
    zip(s, y, x, |y, x| s.fma(a, x, y));
}

/// `y += x`.
#[inline(always)]
pub fn add<S: Simd>(s: S, y: &mut [S::E], x: &[S::E]) {
    zip(s, y, x, |y, x| s.add(y, x));
}

/// `y *= alpha`.
#[inline(always)]
pub fn scale<S: Simd>(s: S, y: &mut [S::E], alpha: S::E) {
    let a = s.splat(alpha);
    map(s, y, |y| s.mul(y, a));
}

/// `y = f(y)`, vector by vector.
#[inline(always)]
pub fn map<S: Simd>(s: S, y: &mut [S::E], f: impl Fn(S::V) -> S::V) {
    let mut i = 0;
    while i < y.len() {
        let m = S::LANES.min(y.len() - i);
        // SAFETY: i + m <= y.len().
        unsafe {
            let p = y.as_mut_ptr().add(i);
            if m == S::LANES { s.store(p, f(s.load(p))) } else { s.store_n(p, m, f(s.load_n(p, m))) }
        }
        i += m;
    }
}

/// `y = f(y, x)`, vector by vector. Both slices have the same length.
#[inline(always)]
pub fn zip<S: Simd>(s: S, y: &mut [S::E], x: &[S::E], f: impl Fn(S::V, S::V) -> S::V) {
    assert_eq!(y.len(), x.len());
    let mut i = 0;
    while i < y.len() {
        let m = S::LANES.min(y.len() - i);
        // SAFETY: i + m <= y.len() == x.len().
        unsafe {
            let (p, q) = (y.as_mut_ptr().add(i), x.as_ptr().add(i));
            if m == S::LANES {
                s.store(p, f(s.load(p), s.load(q)))
            } else {
                s.store_n(p, m, f(s.load_n(p, m), s.load_n(q, m)))
            }
        }
        i += m;
    }
}

/// `y = f(y, x, w)`, vector by vector. The slices have the same length.
#[inline(always)]
pub fn zip2<S: Simd>(s: S, y: &mut [S::E], x: &[S::E], w: &[S::E], f: impl Fn(S::V, S::V, S::V) -> S::V) {
    assert!(y.len() == x.len() && y.len() == w.len());
    let mut i = 0;
    while i < y.len() {
        let m = S::LANES.min(y.len() - i);
        // SAFETY: i + m is not above the length of the three slices.
        unsafe {
            let (p, q, r) = (y.as_mut_ptr().add(i), x.as_ptr().add(i), w.as_ptr().add(i));
            if m == S::LANES {
                s.store(p, f(s.load(p), s.load(q), s.load(r)))
            } else {
                s.store_n(p, m, f(s.load_n(p, m), s.load_n(q, m), s.load_n(r, m)))
            }
        }
        i += m;
    }
}

/// Reduction in a fixed order; a ragged end is read as zeros.
#[inline(always)]
fn fold<S: Simd>(
    s: S,
    a: &[S::E],
    start: S::V,
    f: impl Fn(S::V, S::V) -> S::V,
    end: impl Fn(S::V) -> S::E,
) -> S::E {
    let mut acc = start;
    let mut i = 0;
    while i < a.len() {
        let m = S::LANES.min(a.len() - i);
        // SAFETY: i + m <= a.len().
        let x = unsafe {
            let p = a.as_ptr().add(i);
            if m == S::LANES { s.load(p) } else { s.load_n(p, m) }
        };
        acc = f(acc, x);
        i += m;
    }
    end(acc)
}
