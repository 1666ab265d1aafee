//! `patch_embed`: ViT-B's first layer at 392 px and its position embedding from 37 x 37.

use inp_former::ops::patch_embed::{forward, pos_embed};

use crate::peak::{Work, cpus, time};
use crate::support::{close, random};

pub fn all(c: &mut criterion::Criterion) {
    let (img, w, bias) =
        (random("img", &[1, 3, 392, 392]), random("w", &[768, 3, 14, 14]), random("bias", &[768]));
    let pos = random("pos", &[1, 1370, 768]);
    for cpu in cpus() {
        let want = forward(&cpu, &img.cast::<f64>(), &w.cast(), &bias.cast()).unwrap();
        close("patch_embed", &forward(&cpu, &img, &w, &bias).unwrap().data, &want.data, 1e-5);
        let flop = (2 * 784 * 588 * 768) as f64;
        time(c, "patch_embed", "forward/392px_768", &cpu, Work::Flop(flop), || {
            forward(&cpu, &img, &w, &bias).unwrap()
        });
        let want = pos_embed(&cpu, &pos.cast::<f64>(), (28, 28)).unwrap();
        close("pos_embed", &pos_embed(&cpu, &pos, (28, 28)).unwrap().data, &want.data, 1e-5);
        let flop = (2 * 16 * 784 * 768) as f64;
        time(c, "patch_embed", "pos_embed/28x28_768", &cpu, Work::Flop(flop), || {
            pos_embed(&cpu, &pos, (28, 28)).unwrap()
        });
    }
}
