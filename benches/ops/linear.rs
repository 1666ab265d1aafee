//! `linear`: the layers of ViT-B and ViT-S at 392 px, one picture; packing the weights is part of the time, except in
//! `packed`, what the engine runs.

use inp_former::ops::linear;
use inp_former::ops::linear::packed::{self, Epilogue, Input, Packed};
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
    for ([m, n, k], tail) in [
        ([789, 3072, 768], 0),
        ([789, 768, 3072], 0),
        ([789, 2304, 768], 0),
        ([784, 768, 3072], 72),
        ([789, 1536, 384], 0),
        ([784, 1536, 36], 0),
    ] {
        packed(c, [m, n, k], tail);
    }
}

/// One packed layer, with a second product of `tail` inputs if that is not 0; GELU where the layer widens.
fn packed(c: &mut criterion::Criterion, [m, n, k]: [usize; 3], tail: usize) {
    let (x, w, b) = (random("x", &[m, k]), random("w", &[n, k]), random("b", &[n]));
    let (xt, wt) = (random("xt", &[m, tail]), random("wt", &[n, tail]));
    let (name, epilogue) = if n > k { ("gelu", Epilogue::Gelu) } else { ("store", Epilogue::Store) };
    let case = format!("packed/{m}x{n}x{k}+{tail}/{name}");
    let at = |r: usize, o: usize| {
        let dot = |x: &Tensor, w: &Tensor| {
            x.row(r).iter().zip(w.row(o)).map(|(x, w)| *x as f64 * *w as f64).sum::<f64>()
        };
        let y = b.data[o] as f64 + dot(&x, &w) + dot(&xt, &wt);
        if n > k { 0.5 * y * (1.0 + libm::erf(y / std::f64::consts::SQRT_2)) } else { y }
    };
    let want: Vec<f64> = (0..5 * n).map(|e| at(e / n, e % n)).collect();
    for cpu in cpus() {
        let weights = Packed::new(&cpu, &w.data, n, k, b.data.clone());
        let more = Packed::new(&cpu, &wt.data, n, tail, Vec::new());
        let mut y = vec![0.0; m * n];
        let run = |y: &mut [f32]| {
            let second = (tail > 0).then(|| (Input { data: &xt.data, ld: tail }, more.view()));
            let first = Input { data: &x.data, ld: k };
            packed::forward(&cpu, m, first, weights.view(), second, y, n, epilogue, None);
        };
        run(&mut y);
        close(&case, &y[..5 * n], &want, 1e-5);
        let flop = Work::Flop(2.0 * (m * n * (k + tail)) as f64);
        time(c, "linear", &case, &cpu, flop, || run(&mut y));
    }
}
