//! Scoring one camera frame from its pixels: the embedded backbone at 224 px, and a model of the small size at 392 px.

use criterion::BenchmarkId;
use inp_former::engine::{Options, Precision, Scorer, Verdict};
use inp_former::model::{Model, embedded};
use inp_former::ops::preprocess::{self, ImageView};
use inp_former::runtime::{Cpu, DType};
use inp_former::train::init;

use crate::gpu;
use crate::models;
use crate::peak::{Work, cpus, time};
use crate::support::close;

pub fn all(c: &mut criterion::Criterion) {
    let (w, h) = (640, 480);
    let pixels: Vec<u8> = (0..w * h * 3).map(|i: usize| (i.wrapping_mul(2654435761) >> 13) as u8).collect();
    let frame = ImageView::rgb(&pixels, w, h).unwrap();
    let backbone = Model::load(embedded().unwrap()).unwrap();
    let cfg = init::plan(&backbone.config, 6);
    let trained = init::init(&cfg, 1).unwrap();
    case(c, "embedded", backbone.with_trained(cfg, trained), &frame);
    case(c, "small392", models::model("small392"), &frame);
}

/// What a CPU computes in, and how far its maps may be from f64's.
fn precisions(cpu: &Cpu) -> impl Iterator<Item = (Options, &'static str, f64)> {
    let bf16 = cpu.has_bf16().then_some((Precision::Of(DType::Bf16), "bf16", 8e-3));
    let all = std::iter::once((Precision::F32, "f32", 1e-4)).chain(bf16);
    all.map(|(precision, name, bound)| (Options { precision, ..Options::default() }, name, bound))
}

fn case(c: &mut criterion::Criterion, name: &str, model: Model, frame: &ImageView) {
    check(&model, frame);
    let cfg = &model.config;
    let (n, t, ch) = (cfg.side().pow(2), cfg.side().pow(2) + cfg.prefix(), cfg.channels);
    let (hp, rows) = (cfg.heads * cfg.prototypes, cfg.blocks() * t - cfg.prefix());
    // Multiply-adds of the folded model's matrix products: patches and encoder, extractor and bottleneck, decoder.
    let encoder = n * 588 * ch + cfg.blocks() * 3 * t * ch * ch + rows * ch * (2 * t + ch + 2 * cfg.hidden);
    let middle = 2 * n * hp * ch + 8 * n * ch * ch;
    let decoder = cfg.decoder_blocks * ch * (5 * n * (ch + hp) + 8 * cfg.prototypes * ch);
    let flop = 2.0 * (encoder + middle + decoder) as f64;
    for cpu in cpus() {
        for (options, precision, _) in precisions(&cpu) {
            let mut scorer = Scorer::new(model.clone(), cpu.clone(), &options).unwrap();
            let mut verdict = Verdict::default();
            time(c, "score", &format!("{name} {precision}"), &cpu, Work::Flop(flop), || {
                scorer.score_into(frame, &mut verdict).unwrap();
                verdict.score
            });
        }
    }
    on_gpu(c, name, &model, frame);
}

/// The same on a GPU, from frames to verdicts by the host's clock; on the emulated one a single small case.
fn on_gpu(c: &mut criterion::Criterion, name: &str, model: &Model, frame: &ImageView) {
    let Some(gpu) = gpu::gpu() else { return };
    if gpu.is_emulated() && name != "embedded" {
        return;
    }
    let batches: &[usize] = if gpu.is_emulated() { &[1] } else { &[1, 8, 32] };
    let mut want = Verdict::default();
    let f32 = Options { precision: Precision::F32, ..Options::default() };
    Scorer::new(model.clone(), Cpu::new(None).unwrap(), &f32).unwrap().score_into(frame, &mut want).unwrap();
    for dtype in [DType::Bf16, DType::F16] {
        let options = Options { precision: Precision::Of(dtype), ..Options::default() };
        let mut scorer = Scorer::new(model.clone(), gpu.clone(), &options).unwrap();
        for &batch in batches {
            let frames = vec![*frame; batch];
            let mut verdicts = vec![Verdict::default(); batch];
            scorer.score_batch_into(&frames, &mut verdicts).unwrap();
            verdicts.iter().for_each(|v| close("map", &v.map, &want.map, 8e-3));
            let id = BenchmarkId::new(format!("{name} {} batch {batch}", dtype.name()), gpu.name());
            c.benchmark_group("score/cuda").sample_size(10).bench_function(id, |b| {
                b.iter(|| scorer.score_batch_into(&frames, &mut verdicts).unwrap());
            });
        }
    }
}

/// The map of the frame at 112 px against the same model in f64.
fn check(model: &Model, frame: &ImageView) {
    let mut model = model.clone();
    model.config = model.config.with_sizes(Some(128), Some(112)).unwrap();
    let cpu = Cpu::new(None).unwrap();
    let crop = preprocess::crop_u8(&cpu, frame, 128, 112).unwrap();
    let img = preprocess::normalise(&crop, 112, 112).reshaped(&[1, 3, 112, 112]);
    let want = models::maps64(&model, &img);
    for (options, precision, bound) in precisions(&cpu) {
        let mut verdict = Verdict::default();
        Scorer::new(model.clone(), cpu.clone(), &options).unwrap().score_into(frame, &mut verdict).unwrap();
        close(precision, &verdict.map, &want, bound);
    }
}
