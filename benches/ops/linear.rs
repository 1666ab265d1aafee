//! `linear`: the layers of ViT-B and ViT-S at 392 px, one picture; packing the weights is part of the time.

use inp_former::ops::linear;
use inp_former::runtime::Tensor;

use crate::peak::{Work, cpus, time};
use crate::support::{close, random};

pub fn all(c: &mut criterion::Criterion) {
    for [m, n, k] in [[789, 3072, 768], [789, 768, 3072], [789, 2304, 768], [789, 1536, 384], [6, 768, 768]] {
        let (x, w, b) = (random("x", &[m, k]), random("w", &[n, k]), random("b", &[n]));
        let dy = random("dy", &[m, n]);
        let (case, flop) = (format!("{m}x{n}x{k}"), 2.0 * (m * n * k) as f64);
        for cpu in cpus() {
            let y = linear::forward(&cpu, &x, &w, Some(&b)).unwrap();
            let rows = Tensor::new(&[5, k], x.data[..5 * k].to_vec()).cast::<f64>();
            let want = linear::forward(&cpu, &rows, &w.cast(), Some(&b.cast())).unwrap();
            close(&case, &y.data[..5 * n], &want.data, 1e-5);
            time(c, "linear", &format!("forward/{case}"), &cpu, Work::Flop(flop), || {
                linear::forward(&cpu, &x, &w, Some(&b)).unwrap()
            });
            let (mut dw, mut db) = (w.zeros_like(), b.zeros_like());
            time(c, "linear", &format!("backward/{case}"), &cpu, Work::Flop(2.0 * flop), || {
                linear::backward(&cpu, &dy, &x, &w, &mut dw, Some(&mut db), true).unwrap()
            });
        }
    }
}
