//! `fuse`: means, weighted sums and dropped prefixes, exact or against f64.

use inp_former::ops::fuse;
use inp_former::runtime::Tensor;

use crate::support::{close, cpu, each_tier, image, random};

#[test]
fn mean_and_weighted_sum_match_f64() {
    for shape in [[1, 1, 1], [2, 7, 5], [2, 131, 101]] {
        for count in [1, 3, 4] {
            let parts: Vec<_> = (0..count).map(|i| random(&format!("fuse{i}"), &shape)).collect();
            let refs: Vec<_> = parts.iter().collect();
            let sum = |w: &dyn Fn(usize) -> f64| -> Vec<f64> {
                (0..parts[0].len())
                    .map(|j| (0..count).map(|i| w(i) * parts[i].data[j] as f64).sum())
                    .collect()
            };
            for got in each_tier("mean", |cpu| fuse::mean(cpu, &refs).unwrap().data) {
                close("mean", &got, &sum(&|_| 1.0 / count as f64), 5e-7);
            }
            let weight = |i: usize| 0.5 - i as f32;
            let pairs: Vec<_> = parts.iter().enumerate().map(|(i, p)| (weight(i), p)).collect();
            for got in each_tier("weighted", |cpu| fuse::weighted(cpu, &pairs).unwrap().data) {
                close("weighted", &got, &sum(&|i| weight(i) as f64), 5e-7);
            }
        }
    }
}

#[test]
fn prefix_is_dropped_and_batch_does_not_matter() {
    let x = random("fuse.x", &[3, 11, 5]);
    let y = fuse::drop_prefix(&cpu(), &x, 5).unwrap();
    assert_eq!(y.shape(), [3, 6, 5]);
    for b in 0..3 {
        assert_eq!(y.slab(b), &x.slab(b)[25..]);
        assert_eq!(image(&y, b), fuse::drop_prefix(&cpu(), &image(&x, b), 5).unwrap());
    }
    assert_eq!(fuse::drop_prefix(&cpu(), &x, 0).unwrap(), x);
}

#[test]
fn misfits_are_refused() {
    let (x, y) = (Tensor::<f32>::zeros(&[1, 5, 2]), Tensor::zeros(&[1, 4, 2]));
    assert!(fuse::mean(&cpu(), &[&x, &y]).is_err());
    assert!(fuse::mean::<f32>(&cpu(), &[]).is_err());
    assert!(fuse::drop_prefix(&cpu(), &x, 5).is_err());
}
