//! `patch_embed`: ViT-B's first layer at 392 px and its position embedding from 37 x 37.

use inp_former::ops::linear::cuda as linear;
use inp_former::ops::patch_embed::{cuda, forward, pos_embed};
use inp_former::runtime::DType;

use crate::gpu;

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
    on_gpu(c);
}

/// Crops through every tile in bf16, on a GPU: zeros, so that x must be the table.
fn on_gpu(c: &mut criterion::Criterion) {
    let Some(gpu) = gpu::gpu() else { return };
    let cases = if gpu.is_emulated() { vec![[1, 2, 64]] } else { vec![[1, 28, 768], [32, 28, 768]] };
    for [batch, side, channels] in cases {
        let s = cuda::Shape { batch, side, prefix: 5, channels };
        let (n, pixels) = (batch * s.tokens() * channels, batch * side * side * 588);
        let crop = gpu.upload(&vec![128u8; pixels]).unwrap();
        let weight = gpu.zeros(channels * 672 * 2).unwrap();
        let values = random("table", &[s.tokens(), channels]).data;
        let table = gpu.upload(&values).unwrap();
        let (x, copy) = (gpu.zeros::<f32>(n).unwrap(), gpu.zeros::<u8>(2 * n).unwrap());
        let stats = gpu.zeros(linear::statistics(n / s.channels, s.channels)).unwrap();
        let out = cuda::Output { x: &x, copy: &copy, stats: &stats };
        for variant in cuda::VARIANTS.map(|v| v.name) {
            let run = |stream: &_| {
                let input = cuda::Input::U8(&crop);
                cuda::forward(stream, DType::Bf16, variant, &out, input, &weight, &table, &s).unwrap();
            };
            run(&gpu.stream());
            assert!(x.download(&gpu.stream()).unwrap()[..values.len()] == values, "wrong answer");
            let work = Work::Flop((2 * pixels * channels) as f64);
            gpu::time(c, "patch_embed", &format!("{variant}/{batch}x{side}x{channels}"), gpu, work, run);
        }
    }
}
