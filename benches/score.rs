//! Scoring one camera frame from its pixels: the embedded backbone at 224 px, and a model of the small size at 392 px.

use inp_former::engine::{Options, Scorer, Verdict};
use inp_former::model::{Model, embedded};
use inp_former::ops::preprocess::{self, ImageView};
use inp_former::runtime::Cpu;
use inp_former::train::init;

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
        let mut scorer = Scorer::new(model.clone(), cpu.clone(), &Options::default()).unwrap();
        let mut verdict = Verdict::default();
        time(c, "score", name, &cpu, Work::Flop(flop), || {
            scorer.score_into(frame, &mut verdict).unwrap();
            verdict.score
        });
    }
}

/// The map of the frame at 112 px against the same model in f64.
fn check(model: &Model, frame: &ImageView) {
    let mut model = model.clone();
    model.config = model.config.with_sizes(Some(128), Some(112)).unwrap();
    let cpu = Cpu::new(None).unwrap();
    let crop = preprocess::crop_u8(&cpu, frame, 128, 112).unwrap();
    let img = preprocess::normalise(&crop, 112, 112).reshaped(&[1, 3, 112, 112]);
    let mut verdict = Verdict::default();
    Scorer::new(model.clone(), cpu, &Options::default()).unwrap().score_into(frame, &mut verdict).unwrap();
    close("map", &verdict.map, &models::maps64(&model, &img), 1e-4);
}
