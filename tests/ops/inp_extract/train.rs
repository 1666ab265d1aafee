//! The extractor's folded attention against the plain ops, and finite differences.

use inp_former::ops::inp_extract::{self, train};
use inp_former::ops::{layernorm, linear};
use inp_former::runtime::{Cpu, Elem, Tensor};

use crate::support::{check_gradient, close, cpu, each_tier, random64, weighted_sum};

/// q, gain, bias, key-value weights and bias.
fn inputs(p: usize, c: usize) -> [Tensor<f64>; 5] {
    let named = |name: &str, shape: &[usize]| random64(name, shape);
    [
        named("q", &[p, c]),
        named("gain", &[c]),
        named("bias", &[c]),
        named("w", &[2 * c, c]),
        named("b", &[2 * c]),
    ]
}

fn run<E: Elem>(
    cpu: &Cpu,
    x: &Tensor<E>,
    [q, gain, bias, w, b]: &[Tensor<E>; 5],
    heads: usize,
) -> (Tensor<E>, train::Saved<E>) {
    train::forward(cpu, q, x, [gain, bias], [w, b], heads).unwrap()
}

fn normalised(f: &Tensor<f64>) -> Tensor<f64> {
    let c = f.cols();
    let ones = Tensor::new(&[c], vec![1.0; c]);
    layernorm::forward(&cpu(), f, &ones, &ones.zeros_like(), 1e-8).unwrap().0
}

#[test]
fn forward_equals_the_plain_ops() {
    for [b, n, p, heads, d] in [[1, 1, 1, 1, 2], [2, 7, 3, 2, 5], [3, 65, 6, 3, 16], [1, 101, 6, 2, 64]] {
        let c = heads * d;
        let f = random64("f", &[b, n, c]);
        let inputs = inputs(p, c);
        let [q, gain, bias, w, bkv] = &inputs;
        let (norm, _) = layernorm::forward(&cpu(), &f, gain, bias, 1e-8).unwrap();
        let kv = linear::forward(&cpu(), &norm, w, Some(bkv)).unwrap();
        let (want, _) = inp_extract::forward(&cpu(), q, &kv, heads).unwrap();
        let x = normalised(&f);
        close("out in f64", &run(&cpu(), &x, &inputs, heads).0.data, &want.data, 1e-12);
        let (x, inputs) = (x.cast::<f32>(), inputs.each_ref().map(Tensor::cast::<f32>));
        for got in each_tier("extract", |cpu| run(cpu, &x, &inputs, heads).0.data) {
            close("out", &got, &want.data, 1e-5);
        }
    }
}

#[test]
fn backward_matches_finite_differences() {
    let (heads, x) = (2, normalised(&random64("f", &[2, 7, 10])));
    let inputs = inputs(3, 10);
    let dout = random64("dout", &[2, 3, 10]);
    let mut d = inputs.each_ref().map(Tensor::zeros_like);
    let [dq, dgain, dbias, dw, db] = &mut d;
    let (_, saved) = run(&cpu(), &x, &inputs, heads);
    let (q, gain, w) = (&inputs[0], &inputs[1], &inputs[3]);
    *dq = train::backward(&cpu(), &dout, q, &x, gain, w, saved, [dgain, dbias], [dw, db], heads).unwrap();
    for (i, name) in ["q", "gain", "bias", "w", "b"].into_iter().enumerate() {
        check_gradient(name, &inputs[i], &d[i], |t| {
            let mut moved = inputs.clone();
            moved[i] = t.clone();
            weighted_sum(&run(&cpu(), &x, &moved, heads).0, &dout)
        });
    }
}
