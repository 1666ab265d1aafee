//! Rounding, unit by unit, against exact arithmetic.

use crate::exact::{BF16, E4M3, E5M2, Exact, F16, F32, F64, Real, Rng, Shape, TF32};
use inp_cuda_emulator::exec::ops::formats::{self, Format, Round};
use inp_cuda_emulator::exec::ops::round;

const MODES: [(Round, char); 5] =
    [(Round::Nearest, 'n'), (Round::Zero, 'z'), (Round::Down, 'd'), (Round::Up, 'u'), (Round::Away, 'a')];
const FORMATS: [(Format, Shape); 4] =
    [(formats::F16, F16), (formats::BF16, BF16), (formats::E4M3, E4M3), (formats::E5M2, E5M2)];

fn value(x: f64) -> Real {
    Real::Value(Exact::of(x))
}

#[test]
fn narrow_formats_hold_every_number_they_have() {
    for (f, s) in FORMATS {
        for m in 0..=s.max as u32 {
            let x = f.widen(m);
            assert!(s.accepts(m.into(), &value(x), 'n', false));
            for (r, _) in MODES {
                assert_eq!(f.narrow(x, r, false), m);
                assert_eq!(f.narrow(-x, r, true), m | f.sign);
            }
        }
    }
    for h in 0..0x1_0000u32 {
        let (x, y) = (formats::F16.widen(h), formats::BF16.widen(h));
        let same = |a: f32, b: f64| f64::from(a).to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        assert!(
            same(formats::f16_to_f32(h), x) && same(half::f16::from_bits(h as u16).to_f32(), x),
            "{h:#x}"
        );
        assert!(same(formats::bf16_to_f32(h), y), "{h:#x}");
    }
}

#[test]
fn narrowing_rounds_as_asked() {
    let mut rng = Rng(1);
    for (f, s) in FORMATS {
        // Every number, every midpoint, and what lies just beside them.
        let mut all = vec![f64::MAX, f64::MIN_POSITIVE, 5e-324, 1e300, 1e-300];
        for m in 0..=s.max as u32 {
            let (x, next) = (f.widen(m), if m == s.max as u32 { f.widen(m) } else { f.widen(m + 1) });
            let middle = (x + next) / 2.;
            all.extend([x, x.next_up(), x.next_down(), middle, middle.next_up(), middle.next_down()]);
            if m > 300 && m + 300 < s.max as u32 && s.mantissa > 5 && m % 17 != 0 {
                all.truncate(all.len() - 6);
            }
        }
        let top = f.widen(s.max as u32);
        let step = top - f.widen(s.max as u32 - 1);
        all.extend([top + step / 2., (top + step / 2.).next_down(), top + step, top + 3. * step]);
        all.extend((0..20_000).map(|_| f64::from_bits(rng.float(F64))).filter(|x| x.is_finite()));
        all.extend(
            (0..20_000).map(|_| f64::from(f32::from_bits(rng.float(F32) as u32))).filter(|x| x.is_finite()),
        );
        for x in all.iter().flat_map(|&x| [x, -x]) {
            for (r, name) in MODES {
                for finite in [false, true] {
                    if f.infinity.is_none() && !finite {
                        continue;
                    }
                    let got = f.narrow(x, r, finite);
                    assert!(s.accepts(got.into(), &value(x), name, finite), "{x:e} {r:?} {finite} {got:#x}");
                }
            }
        }
        assert_eq!(f.narrow(f64::NAN, Round::Nearest, true), f.nan);
        assert_eq!(f.narrow(f64::INFINITY, Round::Nearest, true), f.max);
        assert_eq!(f.narrow(f64::NEG_INFINITY, Round::Zero, false), f.sign | f.infinity.unwrap_or(f.nan));
    }
}

#[test]
fn quick_narrowing_is_the_same() {
    let check = |b: u32| {
        let x = f32::from_bits(b);
        assert_eq!(formats::f32_to_f16(x), formats::F16.narrow(x.into(), Round::Nearest, false), "{b:#x}");
        assert_eq!(formats::f32_to_bf16(x), formats::BF16.narrow(x.into(), Round::Nearest, false), "{b:#x}");
    };
    // Every sign and exponent with the significands at which something changes.
    for top in 0..0x800u32 {
        for low in 0..0x200u32 {
            for edge in [0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x7fff] {
                check(top << 21 | low << 12 & 0x1f_ffff | edge);
            }
        }
    }
    let mut rng = Rng(2);
    (0..1_000_000).for_each(|_| check(rng.next() as u32));
}

#[test]
fn tf32() {
    let mut rng = Rng(3);
    for _ in 0..100_000 {
        let x = f32::from_bits(rng.float(F32) as u32);
        if !x.is_finite() {
            continue;
        }
        for (r, name) in MODES {
            let got = formats::narrow_tf32(x, r, false);
            assert_eq!(got & 0x1fff, 0);
            assert!(
                TF32.accepts(u64::from(got >> 13), &value(x.into()), name, false),
                "{x:e} {r:?} {got:#x}"
            );
        }
    }
}

#[test]
fn f32_arithmetic_in_every_direction() {
    let mut rng = Rng(4);
    let ok = |x: f32, real: Real, name: char| F32.accepts(x.to_bits().into(), &real, name, false);
    for _ in 0..60_000 {
        let [a, b, c] = [(); 3].map(|()| f32::from_bits(rng.float(F32) as u32));
        if ![a, b, c].iter().all(|x| x.is_finite()) {
            continue;
        }
        // Sums that nearly cancel are worth more than their share.
        let c = if rng.next() & 3 == 0 { -(a * b) } else { c };
        let [x, y] = [a, b].map(|x| Exact::of(x.into()));
        for (r, name) in &MODES[..4] {
            let s = x.plus(&y);
            if !s.is_zero() {
                assert!(ok(round::add(a, b, *r), Real::Value(s), *name), "{a:e} + {b:e} {r:?}");
            }
            let p = x.times(&y);
            assert!(ok(round::mul(a, b, *r), Real::Value(p.clone()), *name), "{a:e} * {b:e} {r:?}");
            if c.is_finite() {
                let f = p.plus(&Exact::of(c.into()));
                if !f.is_zero() {
                    assert!(
                        ok(round::fma(a, b, c, *r), Real::Value(f), *name),
                        "{a:e} * {b:e} + {c:e} {r:?}"
                    );
                }
            }
            if b != 0. {
                let q = Real::Quotient(x.clone(), y.clone());
                assert!(ok(round::div(a, b, *r), q, *name), "{a:e} / {b:e} {r:?}");
            }
            let root = round::sqrt(a.abs(), *r);
            assert!(ok(root, Real::Root(Exact::of(a.abs().into())), *name), "sqrt {a:e} {r:?}");
        }
    }
}

#[test]
fn f64_arithmetic_in_every_direction() {
    let mut rng = Rng(5);
    let ok = |x: f64, real: Real, name: char| F64.accepts(x.to_bits(), &real, name, false);
    for _ in 0..12_000 {
        let [a, b, c] = [(); 3].map(|()| f64::from_bits(rng.float(F64)));
        if ![a, b, c].iter().all(|x| x.is_finite()) {
            continue;
        }
        let c = if rng.next() & 3 == 0 { -(a * b) } else { c };
        let b = if rng.next() & 7 == 0 && a.abs() < f64::MAX { -a.next_up() } else { b };
        let [x, y] = [a, b].map(Exact::of);
        for (r, name) in &MODES[..4] {
            let s = x.plus(&y);
            if !s.is_zero() {
                assert!(ok(round::add64(a, b, *r), Real::Value(s), *name), "{a:e} + {b:e} {r:?}");
            }
            let p = x.times(&y);
            assert!(ok(round::mul64(a, b, *r), Real::Value(p.clone()), *name), "{a:e} * {b:e} {r:?}");
            if c.is_finite() {
                let f = p.plus(&Exact::of(c));
                if !f.is_zero() {
                    assert!(
                        ok(round::fma64(a, b, c, *r), Real::Value(f), *name),
                        "{a:e} * {b:e} + {c:e} {r:?}"
                    );
                }
            }
            if b != 0. && b.is_finite() {
                let q = Real::Quotient(x.clone(), y.clone());
                assert!(ok(round::div64(a, b, *r), q, *name), "{a:e} / {b:e} {r:?}");
            }
            let root = round::sqrt64(a.abs(), *r);
            assert!(ok(root, Real::Root(Exact::of(a.abs())), *name), "sqrt {a:e} {r:?}");
        }
    }
}

#[test]
fn exact_zeros_have_the_sign_of_the_direction() {
    for (r, _) in &MODES[..4] {
        let zero = if *r == Round::Down { -0f32 } else { 0. };
        for (a, b, want) in [(1., -1., zero), (0., -0., zero), (-0., -0., -0.), (0., 0., 0.)] {
            assert_eq!(round::add(a, b, *r).to_bits(), want.to_bits(), "{a} + {b} {r:?}");
            assert_eq!(round::fma(a, 1., b, *r).to_bits(), want.to_bits(), "{a} * 1 + {b} {r:?}");
            let want = f64::from(want).to_bits();
            assert_eq!(round::add64(a.into(), b.into(), *r).to_bits(), want, "{a} + {b} {r:?}");
            assert_eq!(round::fma64(a.into(), 1., b.into(), *r).to_bits(), want, "{a} * 1 + {b} {r:?}");
        }
        assert_eq!(round::mul64(-0., 3., *r).to_bits(), (-0f64).to_bits());
        assert!(round::add(f32::INFINITY, f32::NEG_INFINITY, *r).is_nan());
        assert_eq!(round::div(-1., 0., *r), f32::NEG_INFINITY);
        assert_eq!(round::div(1., f32::NEG_INFINITY, *r).to_bits(), (-0f32).to_bits());
        assert!(round::sqrt(-1., *r).is_nan() && round::sqrt64(-1., *r).is_nan());
        assert_eq!(round::sqrt(-0., *r).to_bits(), (-0f32).to_bits());
    }
}
