//! `gelu` against f64 libm, element-wise and between two layers.

use inp_former::ops::gelu::{self, Hidden};
use inp_former::ops::linear::gemm::{Mat, product};
use inp_former::runtime::{Cpu, Elem, Tensor, Tier};

use crate::support::*;

fn phi(x: f64) -> f64 {
    0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

#[test]
fn forward_equals_f64() {
    // One, around vectors, and around the chunk of one task.
    for n in [1, 3, 17, 1023, 16 * 1024 + 1, 50_000] {
        let x = uniform("gelu.x", &[n], 0.0, 8.0);
        for y in each_tier("gelu", |cpu| gelu::forward(cpu, &x).unwrap().data) {
            for (x, y) in x.data.iter().map(|x| *x as f64).zip(y) {
                let e = (y as f64 - x * phi(x)).abs();
                assert!(e <= 2e-7 * x.abs().max(1.0), "gelu({x}): error {e:.2e}");
            }
        }
    }
}

fn identity<E: Elem>(n: usize) -> Tensor<E> {
    Tensor::new(&[n, n], (0..n * n).map(|i| if i % (n + 1) == 0 { E::ONE } else { E::ZERO }).collect())
}

/// `gelu(x·1 + 0)·1` and the gradient of x, for x `(m, n)`.
fn between<E: Elem>(cpu: &Cpu, x: &Tensor<E>, dy: &Tensor<E>) -> [Vec<E>; 2] {
    let (m, n) = (x.rows(), x.cols());
    let (one, zero) = (identity::<E>(n), Tensor::zeros(&[n]));
    let eye = Mat::plain(&one.data, n);
    let hidden = Hidden::new(cpu, 1, [m, n, n], Mat::plain(&x.data, n), eye, &zero.data);
    let y = hidden.forward(cpu, &one, &zero).unwrap();
    let (mut dw, mut db) = (one.zeros_like(), zero.zeros_like());
    let dx = hidden.backward(cpu, &dy.data, &one, &mut dw, &mut db).unwrap();
    let mut sum = vec![E::ZERO; n];
    dx.add_rows_to(cpu, &mut sum);
    let dx = product(cpu, [m, n, n], dx.plain(), eye, None);
    // dw = dyᵀ·y, db and the sum are those of the rows.
    let (mut dw64, mut db64, mut sum64) = (vec![0.0; n * n], vec![0.0; n], vec![0.0; n]);
    for r in 0..m {
        for j in 0..n {
            db64[j] += dy.data[r * n + j].to_f64();
            sum64[j] += dx[r * n + j].to_f64();
            (0..n).for_each(|i| dw64[j * n + i] += dy.data[r * n + j].to_f64() * y[r * n + i].to_f64());
        }
    }
    let tol = if cpu.is_narrow() { 4e-3 } else { 1e-6 };
    close("dw", &dw.data, &dw64, tol);
    close("db", &db.data, &db64, 1e-6);
    close("sum", &sum, &sum64, 1e-6);
    [y, dx]
}

#[test]
fn hidden_equals_f64() {
    let slope = |x: f64| phi(x) + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    for [m, n] in [[1, 1], [2, 3], [7, 17], [97, 65], [200, 130]] {
        let (x, dy) = (uniform("gelu.x", &[m, n], 0.0, 8.0), random("gelu.dy", &[m, n]));
        let check = |x: &[f32], dy: &[f32], y: &[f32], dx: &[f32], [ey, edx]: [f64; 2]| {
            for i in 0..m * n {
                let (x, dy) = (x[i] as f64, dy[i] as f64);
                let e = (y[i] as f64 - x * phi(x)).abs();
                assert!(e <= ey * x.abs().max(1.0), "gelu({x}): error {e:.2e}");
                let e = (dx[i] as f64 - dy * slope(x)).abs();
                assert!(e <= edx, "gelu'({x}): error {e:.2e}");
            }
        };
        for cpu in cpus() {
            let [y, dx] = between(&cpu, &x, &dy);
            // A product with 1 is exact, but in pairs as exact as a sum of the row's norm.
            let pairs = if cpu.tier() == Tier::Avx512Paired { 4e-6 } else { 0.0 };
            check(&x.data, &dy.data, &y, &dx, [2e-7 + pairs, 1e-6 + pairs]);
        }
        // Inputs that bf16 holds, so that only what is kept is rounded: GELU, its slope, their product.
        let [rx, rdy] = [&x, &dy].map(|t| {
            let data = t.data.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
            Tensor::new(t.shape(), data)
        });
        for both in each_tier("hidden in bf16", |cpu| between(&cpu.narrowed(), &rx, &rdy).concat()) {
            check(&rx.data, &rdy.data, &both[..m * n], &both[m * n..], [5e-3, 1e-2]);
        }
    }
}

#[test]
fn gradient_equals_finite_differences() {
    let cpu = Cpu::new(Some(2)).unwrap();
    let (x, w) = (random64("gelu.fd.x", &[4, 9]), random64("gelu.fd.w", &[4, 9]));
    let [y, dx] = between(&cpu, &x, &w);
    close("hidden", &y, &gelu::forward(&cpu, &x).unwrap().data, 1e-15);
    check_gradient("dx", &x, &Tensor::new(&[4, 9], dx), |x| {
        weighted_sum(&gelu::forward(&cpu, x).unwrap(), &w)
    });
}

#[test]
fn nan_is_never_lost() {
    for cpu in cpus() {
        for at in [0, 9, 18] {
            let mut x = random("gelu.nan", &[19, 1]);
            x.data[at] = f32::NAN;
            let nan = |y: &[f32]| (0..19).all(|i| y[i].is_nan() == (i == at));
            assert!(nan(&gelu::forward(&cpu, &x).unwrap().data));
            let one = Tensor::new(&[1, 1], vec![1.0]);
            for cpu in [cpu.clone(), cpu.narrowed()] {
                let hidden =
                    Hidden::new(&cpu, 1, [19, 1, 1], Mat::plain(&x.data, 1), Mat::plain(&[1.0], 1), &[0.0]);
                assert!(nan(&hidden.forward(&cpu, &one, &Tensor::zeros(&[1])).unwrap()));
                let (mut dw, mut db) = (Tensor::zeros(&[1, 1]), Tensor::zeros(&[1]));
                let dx = hidden.backward(&cpu, &[1.0; 19], &one, &mut dw, &mut db).unwrap();
                assert!(nan(&product(&cpu, [19, 1, 1], dx.plain(), Mat::plain(&[1.0], 1), None)));
                assert!(dw.data[0].is_nan());
            }
        }
    }
}
