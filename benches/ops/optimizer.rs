//! `optimizer`: one step and one norm of a (3072, 768) weight, ViT-B's largest.

use inp_former::ops::optimizer::{Hyper, State, global_norm, step};

use crate::peak::{Work, cpus, time};
use crate::support::{close, random};

pub fn all(c: &mut criterion::Criterion) {
    let (grad, start) = (random("grad", &[3072, 768]), random("p", &[3072, 768]));
    let (bytes, hyper) = (4.0 * grad.len() as f64, Hyper::default());
    let squares = grad.data.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
    for cpu in cpus() {
        let (mut p, mut state) = (start.clone(), State::new(&start));
        let (mut p64, mut state64) = (start.cast::<f64>(), State::new(&start.cast::<f64>()));
        step(&cpu, &mut p, &grad, &mut state, 1e-3, 1, &hyper).unwrap();
        step(&cpu, &mut p64, &grad.cast(), &mut state64, 1e-3, 1, &hyper).unwrap();
        close("step", &p.data, &p64.data, 1e-5);
        // Read: gradient, three states twice over, parameter; written: three states, parameter.
        time(c, "optimizer", "step/3072x768", &cpu, Work::Bytes(10.0 * bytes), || {
            step(&cpu, &mut p, &grad, &mut state, 1e-3, 10, &hyper).unwrap()
        });
        close("norm", &[global_norm(&cpu, &[&grad])], &[squares.sqrt()], 1e-6);
        time(c, "optimizer", "global_norm/3072x768", &cpu, Work::Bytes(bytes), || {
            global_norm(&cpu, &[&grad])
        });
    }
}
