//! `attention`: one block of ViT-S and of ViT-B at 392 px, one picture.

use inp_former::ops::attention;

use crate::peak::{Work, cpus, time};
use crate::support::{close, random};

pub fn all(c: &mut criterion::Criterion) {
    let (t, d) = (789, 64);
    for heads in [6, 12] {
        let qkv = random("qkv", &[1, t, 3 * heads * d]);
        let case = format!("{t}x{heads}x{d}");
        let mut want = None;
        for cpu in cpus() {
            let want =
                want.get_or_insert_with(|| attention::forward(&cpu, &qkv.cast::<f64>(), heads).unwrap());
            close(&case, &attention::forward(&cpu, &qkv, heads).unwrap().data, &want.data, 1e-5);
            // Two products of (T, T, D) a head.
            time(c, "attention", &case, &cpu, Work::Flop(4.0 * (t * t * d * heads) as f64), || {
                attention::forward(&cpu, &qkv, heads).unwrap()
            });
        }
    }
}
