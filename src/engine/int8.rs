//! Calibration for int8: from good pictures, which large layers bear it, and what their inputs are multiplied with before
//! they are rounded (SmoothQuant: Xiao et al., ICML 2023), the inverse going into the weights.

use serde_json::{Map, Value, json};

use crate::engine::fold::Plain;
use crate::engine::forward::Pixels;
pub use crate::engine::layer::Smoothing;
use crate::engine::layer::{Seen, Watch};
use crate::engine::on_cpu::OnCpu;
use crate::engine::score::{CpuPrecision, Verdict};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::linear::gemm::{Mat, product};
use crate::ops::linear::int8::{Packed, Rows, forward};
use crate::ops::linear::packed::Epilogue;
use crate::runtime::Cpu;

/// A layer whose output errs by more than this share of it, in the mean square, is not put into int8.
pub const LAYER_BOUND: f64 = 0.05;
/// Why a layer is not in int8.
const ERRS: &str = "error above 0.05";
/// Why else it is not: the pictures' maps stray too far from f32 with it.
pub const MAPS_ERR: &str = "maps err too much";
/// Error of native maps that is accurate, relative to each map's largest value.
pub const MAP_BOUND: f64 = 2e-2;
/// Smallest correlation of a native map with that in f32.
pub const CORRELATION_BOUND: f64 = 0.99;
/// Largest error of a score that is accurate.
pub const SCORE_BOUND: f64 = 4e-3;
/// Largest change of the image AUROC that is accurate.
pub const AUROC_BOUND: f64 = 3e-3;

/// The exponents that are tried: how much of the difference between channels goes over to the weights. SmoothQuant's own
/// is first.
const ALPHAS: [Option<f64>; 5] = [Some(0.5), None, Some(0.35), Some(0.65), Some(0.8)];
/// While maps or scores are not within this share of their bounds (other pictures stray more than those of the
/// calibration), the worst eighth of the layers is taken out of int8; [`ROUNDS`] times, then only for the bounds.
const HEADROOM: f64 = 0.4;
const ROUNDS: usize = 4;

/// What was found of one layer.
#[derive(Clone, Debug)]
pub struct LayerReport {
    /// As in [`Config::large_layers`](crate::model::Config::large_layers).
    pub name: String,
    /// Outputs and inputs.
    pub shape: [usize; 2],
    /// Exponent of the smoothing that erred least; `None`: none at all.
    pub alpha: Option<f64>,
    /// Error of the output in int8, relative in the mean square, on inputs of the calibration pictures.
    pub error: f64,
    /// Why it is not in int8; `None` if it is.
    pub not_int8: Option<&'static str>,
}

/// A model's calibration.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// What goes into the model.
    pub smoothing: Smoothing,
    /// Every large layer.
    pub layers: Vec<LayerReport>,
    /// Pictures that it was made from.
    pub images: usize,
    /// Error of native maps against f32, relative to each map's largest value, that all but a thousandth of the patches keep
    /// within. At a patch whose decoder attends to next to nothing the model itself is ill-conditioned (with the order of
    /// rounding, f32 parts from f32 by up to 240 times the median); such patches decide neither scores nor metrics.
    pub map_error: f64,
    /// That of every patch.
    pub largest_map_error: f64,
    /// Smallest correlation of a native map with that in f32.
    pub correlation: f64,
    /// Largest error of a score.
    pub score_error: f64,
    /// Largest change of a class's image AUROC, where there were labels.
    pub auroc_shift: Option<f64>,
}

impl Calibration {
    /// Whether int8 is as close to f32 as it must be.
    pub fn is_accurate(&self) -> bool {
        self.keeps_within(1.0) && self.auroc_shift.is_none_or(|s| s <= AUROC_BOUND)
    }
    /// This share of the bounds of maps and scores.
    fn keeps_within(&self, share: f64) -> bool {
        self.map_error <= share * MAP_BOUND
            && 1.0 - self.correlation <= share * (1.0 - CORRELATION_BOUND)
            && self.score_error <= share * SCORE_BOUND
    }
    /// What the model's file says of it.
    pub fn to_json(&self) -> Value {
        let layer = |l: &LayerReport| {
            let v = json!({"alpha": l.alpha, "error": l.error, "int8": l.not_int8.is_none(), "why_not": l.not_int8});
            (l.name.clone(), v)
        };
        json!({
            "images": self.images, "accurate": self.is_accurate(), "map_error": self.map_error,
            "largest_map_error": self.largest_map_error, "map_correlation": self.correlation, "score_error": self.score_error, "auroc_shift": self.auroc_shift,
            "layers": self.layers.iter().map(layer).collect::<Map<_, _>>(),
        })
    }
}

/// Refuses a model that was not calibrated for int8, or (unless `allow_inaccurate`) that strays too far from f32 in it.
pub fn check(model: &Model, allow_inaccurate: bool) -> Result<()> {
    let Some(found) = model.config.other.get("int8") else {
        return Err(Error::usage(
            "--precision int8: this model was not calibrated for it; run `inp-former quantise --model FILE --good DIR`",
        ));
    };
    if found["accurate"] == true || allow_inaccurate {
        return Ok(());
    }
    Err(Error::usage(format!(
        "--precision int8: on its calibration pictures this model strays too far from f32 (map error {}, at most \
         {MAP_BOUND} is allowed; correlation {}, at least {CORRELATION_BOUND}; score error {}, {SCORE_BOUND}; AUROC \
         shift {}, {AUROC_BOUND}); use another precision, or --allow-inaccurate",
        found["map_error"], found["map_correlation"], found["score_error"], found["auroc_shift"]
    )))
}

/// Native maps and score of each picture.
type Scored = Vec<(Vec<Vec<f32>>, f32)>;

fn score(on: &mut OnCpu, crops: &[Vec<u8>], step: &mut dyn FnMut()) -> Result<Scored> {
    let (mut v, mut scored) = (Verdict::default(), Scored::new());
    for crop in crops {
        on.score(Pixels::U8(crop), &mut v, &mut |_| {})?;
        scored.push((on.native_maps().to_vec(), v.score));
        step();
    }
    Ok(scored)
}

/// Pictures scored and layers searched by [`calibrate`].
pub fn steps(model: &Model, pictures: usize) -> usize {
    2 * pictures + model.config.large_layers().len()
}

/// Calibrates with good pictures, crops `(X, X, 3)` RGB. `step` is called [`steps`] times or, where layers are taken out
/// again, once more for each picture. Errors: no picture; a model that cannot score; a map that is not finite.
pub fn calibrate(cpu: &Cpu, model: &Model, crops: &[Vec<u8>], step: &mut dyn FnMut()) -> Result<Calibration> {
    let size = 3 * model.config.crop.pow(2);
    if crops.is_empty() || crops.iter().any(|c| c.len() != size) {
        return Err(Error::usage(format!("int8 is calibrated with one or more crops of {size} bytes")));
    }
    let mut exact = OnCpu::new(model.clone(), cpu.clone(), CpuPrecision::F32, false)?;
    exact.watch(Some(Watch::default()));
    let want = score(&mut exact, crops, step)?;
    let seen = exact.watch(None).unwrap_or_default().layers;
    drop(exact);
    let (mut smoothing, mut layers) = (Smoothing::new(), Vec::new());
    let mut decide = |name: &str, p: &Plain| {
        let (alpha, error, by) = seen.get(name).map_or((None, f64::NAN, Vec::new()), |s| search(cpu, p, s));
        step();
        let fits = error <= LAYER_BOUND;
        let not_int8 = (!fits).then_some(ERRS);
        layers.push(LayerReport { name: name.into(), shape: [p.b.len(), p.k()], alpha, error, not_int8 });
        if fits {
            smoothing.insert(name.into(), by.clone());
        }
        fits.then_some(by)
    };
    let mut on = OnCpu::deciding(model.clone(), cpu.clone(), CpuPrecision::Int8, false, &mut decide)?;
    let mut rounds = 0;
    loop {
        let found = compare(&want, &score(&mut on, crops, step)?);
        let [map_error, largest_map_error, correlation, score_error] = found;
        let c = Calibration {
            smoothing: smoothing.clone(),
            layers: layers.clone(),
            images: crops.len(),
            map_error,
            largest_map_error,
            correlation,
            score_error,
            auroc_shift: None,
        };
        if c.keeps_within(if rounds < ROUNDS { HEADROOM } else { 1.0 }) || smoothing.is_empty() {
            return Ok(c);
        }
        rounds += 1;
        let mut worst: Vec<_> = layers.iter_mut().filter(|l| l.not_int8.is_none()).collect();
        worst.sort_by(|a, b| b.error.total_cmp(&a.error));
        for l in worst.into_iter().take(layer_share(seen.len())) {
            l.not_int8 = Some(MAPS_ERR);
            smoothing.remove(&l.name);
        }
        let decide = &mut |name: &str, _: &Plain| smoothing.get(name).cloned();
        on = OnCpu::deciding(model.clone(), cpu.clone(), CpuPrecision::Int8, false, decide)?;
    }
}

/// An eighth of the layers.
fn layer_share(layers: usize) -> usize {
    layers.div_ceil(8)
}

/// The exponent that errs least on the inputs seen, its error, and what inputs are then multiplied with.
fn search(cpu: &Cpu, p: &Plain, seen: &Seen) -> (Option<f64>, f64, Vec<f32>) {
    let (n, k) = (p.b.len(), p.k());
    let m = seen.rows.len() / k;
    let want = product(cpu, [m, n, k], Mat::plain(&seen.rows, k), Mat::transposed(&p.w, k), None);
    let mut top = vec![0.0f32; k];
    for row in p.w.chunks_exact(k) {
        top.iter_mut().zip(row).for_each(|(t, w)| *t = t.max(w.abs()));
    }
    let (mut rows, mut got) = (Rows::new(m, k), vec![0.0f32; m * n]);
    let mut of = |alpha: Option<f64>| {
        let by: Vec<f32> = seen.top.iter().zip(&top).map(|(x, w)| multiplier(alpha, *x, *w)).collect();
        let mut smooth = Plain { w: p.w.clone(), b: p.b.clone() };
        smooth.smooth(&by);
        rows.quantise(cpu, &seen.rows, &by);
        let weights = Packed::new(cpu, &smooth.w, n, k, Vec::new());
        forward(cpu, &rows, &weights, &mut got[..], n, Epilogue::Store, None);
        let square = |x: f64| x * x;
        let wrong: f64 = got.iter().zip(&want).map(|(a, b)| square(*a as f64 - *b as f64)).sum();
        let whole: f64 = want.iter().map(|x| square(*x as f64)).sum();
        let error = if whole > 0.0 { (wrong / whole).sqrt() } else { wrong };
        (alpha, error, by)
    };
    let mut best = of(ALPHAS[0]);
    for alpha in &ALPHAS[1..] {
        let next = of(*alpha);
        if next.1 < best.1 {
            best = next;
        }
    }
    best
}

/// What inputs of a channel are multiplied with, whose largest magnitude is `x` and whose weights' is `w`.
fn multiplier(alpha: Option<f64>, x: f32, w: f32) -> f32 {
    let Some(alpha) = alpha.filter(|_| x > 0.0 && w > 0.0) else { return 1.0 };
    ((w as f64).powf(1.0 - alpha) / (x as f64).powf(alpha)).clamp(1e-6, 1e6) as f32
}

/// Relative errors of the maps, as in [`Calibration`], and their smallest correlation, largest error of the scores; NaN
/// stays NaN.
fn compare(want: &Scored, got: &Scored) -> [f64; 4] {
    let worse = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
    let (mut errors, mut uncorrelated, mut score) = (Vec::new(), 0.0, 0.0);
    for ((a, score_a), (b, score_b)) in want.iter().zip(got) {
        score = worse(score, (*score_a as f64 - *score_b as f64).abs());
        for (a, b) in a.iter().zip(b) {
            let top = a.iter().fold(0.0f32, |m, x| m.max(x.abs())) as f64;
            errors.extend(a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).abs() / top));
            uncorrelated = worse(uncorrelated, 1.0 - correlation(a, b));
        }
    }
    let largest = errors.iter().fold(0.0, |m, e| worse(m, *e));
    errors.sort_unstable_by(f64::total_cmp);
    let most = errors[errors.len() - 1 - errors.len() / 1000];
    [if largest.is_nan() { largest } else { most }, largest, 1.0 - uncorrelated, score]
}

/// Of the two maps' differences from their means.
fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let mean = |x: &[f32]| x.iter().map(|x| *x as f64).sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (*a as f64 - ma, *b as f64 - mb);
        (ab, aa, bb) = (ab + a * b, aa + a * a, bb + b * b);
    }
    ab / (aa * bb).sqrt()
}
