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
    let [p, q, r, t] = fold(s, a, s.splat(S::E::ZERO), |acc, x| s.add(acc, x));
    s.sum(s.add(s.add(p, q), s.add(r, t)))
}

/// Sum of `(a - mean)²`.
#[inline(always)]
pub fn sum_sq_dev<S: Simd>(s: S, a: &[S::E], mean: S::E) -> S::E {
    let (m, (whole, rest)) = (s.splat(mean), a.split_at(a.len() / S::LANES * S::LANES));
    let [p, q, r, t] = fold(s, whole, s.splat(S::E::ZERO), |acc, x| {
        let d = s.sub(x, m);
        s.fma(d, d, acc)
    });
    let whole = s.sum(s.add(s.add(p, q), s.add(r, t)));
    rest.iter().fold(whole, |sum, &x| sum + (x - mean) * (x - mean))
}

/// Largest element; the lowest value of the type for an empty slice. NaN may be passed over.
#[inline(always)]
pub fn max<S: Simd>(s: S, a: &[S::E]) -> S::E {
    let (whole, rest) = a.split_at(a.len() / S::LANES * S::LANES);
    let low = S::E::from_f64(f64::NEG_INFINITY);
    let [p, q, r, t] = fold(s, whole, s.splat(low), |acc, x| s.max(acc, x));
    let whole = s.hmax(s.max(s.max(p, q), s.max(r, t)));
    rest.iter().fold(whole, |top, &x| x.max(top))
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
    for i in (0..y.len()).step_by(S::LANES) {
        // One call of `f`, or the compiler may leave a long one out of line, without the tier's features.
        store(s, y, i, f(load(s, y, i)));
    }
}

/// `y = f(y, x)`, vector by vector. Both slices have the same length.
#[inline(always)]
pub fn zip<S: Simd>(s: S, y: &mut [S::E], x: &[S::E], f: impl Fn(S::V, S::V) -> S::V) {
    assert_eq!(y.len(), x.len());
    for i in (0..y.len()).step_by(S::LANES) {
        store(s, y, i, f(load(s, y, i), load(s, x, i)));
    }
}

/// The vector that begins at `a[i]`; lanes past the end are zero.
#[inline(always)]
pub fn load<S: Simd>(s: S, a: &[S::E], i: usize) -> S::V {
    let n = a[i..].len();
    // SAFETY: `n` elements follow `i`.
    unsafe {
        let p = a.as_ptr().add(i);
        if n >= S::LANES { s.load(p) } else { s.load_n(p, n) }
    }
}

/// Writes the vector to `a[i..]`, as much of it as fits.
#[inline(always)]
pub fn store<S: Simd>(s: S, a: &mut [S::E], i: usize, v: S::V) {
    let n = a[i..].len();
    // SAFETY: `n` elements follow `i`.
    unsafe {
        let p = a.as_mut_ptr().add(i);
        if n >= S::LANES { s.store(p, v) } else { s.store_n(p, n, v) }
    }
}

/// `y = f(y, x, w)`, vector by vector. The slices have the same length.
#[inline(always)]
pub fn zip2<S: Simd>(s: S, y: &mut [S::E], x: &[S::E], w: &[S::E], f: impl Fn(S::V, S::V, S::V) -> S::V) {
    assert!(y.len() == x.len() && y.len() == w.len());
    for i in (0..y.len()).step_by(S::LANES) {
        store(s, y, i, f(load(s, y, i), load(s, x, i), load(s, w, i)));
    }
}

/// Reduction in a fixed order; a ragged end is read as zeros.
#[inline(always)]
fn fold<S: Simd>(s: S, a: &[S::E], start: S::V, f: impl Fn(S::V, S::V) -> S::V) -> [S::V; 4] {
    let l = S::LANES;
    let mut acc = [start; 4];
    let mut groups = a.chunks_exact(4 * l);
    for group in &mut groups {
        for (j, acc) in acc.iter_mut().enumerate() {
            *acc = f(*acc, load(s, group, j * l));
        }
    }
    let rest = groups.remainder();
    for (j, acc) in acc.iter_mut().enumerate().take(rest.len().div_ceil(l)) {
        *acc = f(*acc, load(s, rest, j * l));
    }
    acc
}
