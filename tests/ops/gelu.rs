//! `gelu` against f64 libm.

use inp_former::ops::gelu;
use inp_former::runtime::{Cpu, Tensor};

use crate::support::*;

#[test]
fn forward_and_backward_equal_f64() {
    let phi = |x: f64| 0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2));
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    // One, around vectors, and around the chunk of one task.
    for n in [1, 3, 17, 1023, 16 * 1024 + 1, 50_000] {
        let (x, dy) = (uniform("gelu.x", &[n], 0.0, 8.0), random("gelu.dy", &[n]));
        let mut bits: Option<(_, Vec<u32>)> = None;
        for cpu in cpus() {
            let (y, dx) = (gelu::forward(&cpu, &x).unwrap(), gelu::backward(&cpu, dy.clone(), &x).unwrap());
            for i in 0..n {
                let (x, dy) = (x.data[i] as f64, dy.data[i] as f64);
                let e = (y.data[i] as f64 - x * phi(x)).abs();
                assert!(e <= 2e-7 * x.abs().max(1.0), "gelu({x}): error {e:.2e}");
                let e = (dx.data[i] as f64 - dy * (phi(x) + x * density(x))).abs();
                assert!(e <= 3e-7, "gelu'({x}): error {e:.2e}");
            }
            let b: Vec<u32> = y.data.iter().chain(&dx.data).map(|x| x.to_bits()).collect();
            if let Some((tier, before)) = bits.replace((cpu.tier(), b.clone())) {
                assert!(tier != cpu.tier() || before == b, "threads change bits on {}", tier.name());
            }
        }
    }
}

#[test]
fn gradient_equals_finite_differences() {
    let cpu = Cpu::new(Some(2)).unwrap();
    let (x, w) = (random64("gelu.fd.x", &[4, 9]), random64("gelu.fd.w", &[4, 9]));
    let dx = gelu::backward(&cpu, w.clone(), &x).unwrap();
    check_gradient("dx", &x, &dx, |x| weighted_sum(&gelu::forward(&cpu, x).unwrap(), &w));
}

#[test]
fn nan_is_never_lost() {
    for cpu in cpus() {
        for at in [0, 9, 18] {
            let (one, mut x) = (Tensor::new(&[19], vec![1.0f32; 19]), random("gelu.nan", &[19]));
            x.data[at] = f32::NAN;
            for y in [
                gelu::forward(&cpu, &x),
                gelu::backward(&cpu, one.clone(), &x),
                gelu::backward(&cpu, x.clone(), &one),
            ] {
                assert!((0..19).all(|i| y.as_ref().unwrap().data[i].is_nan() == (i == at)));
            }
        }
    }
}
