//! What several test modules share: golden files, the generator of goldens/README.md, comparisons that NaN cannot pass.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Instant;

use bytemuck::Pod;
use inp_former::runtime::cuda::{self, Buffer, Gpu, Machine, Stream};
use inp_former::runtime::{Cpu, DType, Elem, Tensor, Tier};

/// A golden file: committed under `tests/data/goldens`, else in the folder `$INP_GOLDENS`; `None` (said) if in neither.
pub fn golden(rel: &str) -> Option<PathBuf> {
    let mut at = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/goldens").join(rel)];
    at.extend(std::env::var_os("INP_GOLDENS").map(|d| PathBuf::from(d).join(rel)));
    let found = at.into_iter().find(|p| p.exists());
    if found.is_none() {
        println!("SKIPPED: golden {rel} is not here (set INP_GOLDENS to the full set)");
    }
    found
}

/// As [`golden`] in the full set, else the committed part of it, so that a clone alone checks as much as it can.
pub fn golden_or_part(full: &str, part: &str) -> Option<PathBuf> {
    let whole = std::env::var_os("INP_GOLDENS").map(|d| PathBuf::from(d).join(full)).filter(|p| p.exists());
    whole.or_else(|| golden(part))
}

/// Every f32 tensor of a safetensors file, read with the `safetensors` crate (not with the code under test).
pub fn read_f32(path: &std::path::Path) -> BTreeMap<String, Tensor<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .filter(|(_, t)| t.dtype() == safetensors::Dtype::F32)
        .map(|(name, t)| {
            let data = t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            (name, Tensor::new(t.shape(), data))
        })
        .collect()
}

/// Largest difference relative to the reference's largest absolute value; NaN if either holds one.
pub fn rel_err<A: Elem, B: Elem>(got: &[A], want: &[B]) -> f64 {
    assert_eq!(got.len(), want.len(), "lengths differ");
    let top =
        want.iter().fold(0.0f64, |m, x| if x.to_f64().is_nan() { f64::NAN } else { m.max(x.to_f64().abs()) });
    let diff = got.iter().zip(want).fold(0.0f64, |m, (a, b)| {
        let d = (a.to_f64() - b.to_f64()).abs();
        if d.is_nan() || m.is_nan() { f64::NAN } else { m.max(d) }
    });
    if top > 0.0 { diff / top } else { diff }
}

/// Passes only if the relative error is a number not above `tol`.
#[track_caller]
pub fn close<A: Elem, B: Elem>(what: &str, got: &[A], want: &[B], tol: f64) {
    let e = rel_err(got, want);
    assert!(e <= tol, "{what}: relative error {e:.3e} above {tol:.1e}");
}

/// Pearson's correlation, in f64.
pub fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let mean = |x: &[f32]| x.iter().map(|x| *x as f64).sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(x, y)| f(*x as f64 - ma, *y as f64 - mb)).sum()
    };
    sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
}

/// Integer in (-2^24, 2^24), odd: element `i` of the generator's stream `name`.
pub fn s_value(name: &str, i: usize) -> i64 {
    let mut key = 0xCBF2_9CE4_8422_2325u64;
    for b in name.bytes() {
        key = (key ^ b as u64).wrapping_mul(0x100_0000_01B3);
    }
    let mut z = key.wrapping_add((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    2 * (z >> 40) as i64 + 1 - (1 << 24)
}

/// Uniform on (mean - halfwidth, mean + halfwidth), as the goldens' generator draws it.
pub fn uniform(name: &str, shape: &[usize], mean: f64, halfwidth: f64) -> Tensor<f32> {
    let (m, h) = (mean as f32 as f64, halfwidth as f32 as f64);
    let n = shape.iter().product();
    Tensor::new(shape, (0..n).map(|i| (m + s_value(name, i) as f64 / 16_777_216.0 * h) as f32).collect())
}

/// The golden weight of an official key.
pub fn golden_weight(name: &str, shape: &[usize]) -> Tensor<f32> {
    let (mean, half) = match name.rsplit('.').next().unwrap() {
        "bias" => (0.0, 0.05),
        "gamma" => (0.275, 0.225),
        "learn_scale" => (1.0, 0.25),
        "prototype_token" => (0.0, 1.7320508),
        "pos_embed" => (0.0, 0.25),
        "cls_token" | "register_tokens" | "mask_token" => (0.0, 0.5),
        "weight" if shape.len() == 1 => (1.0, 0.25),
        _ => (0.0, (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt()),
    };
    uniform(name, shape, mean, half)
}

/// The golden input pictures `(B, 3, H, W)`, already normalised.
pub fn golden_input(tag: &str, b: usize, h: usize, w: usize) -> Tensor<f32> {
    let (gh, gw) = (h.div_ceil(28), w.div_ceil(28));
    let (coarse, fine) = (format!("input.{tag}.coarse"), format!("input.{tag}.fine"));
    let mut x = Tensor::zeros(&[b, 3, h, w]);
    for p in 0..b * 3 {
        for y in 0..h {
            for xx in 0..w {
                let i = (p * h + y) * w + xx;
                let a = s_value(&coarse, (p * gh + y / 28) * gw + xx / 28) as f64 / 16_777_216.0;
                let f = s_value(&fine, i) as f64 / 16_777_216.0;
                x.data[i] = (a * 1.5 + f * 0.75) as f32;
            }
        }
    }
    x
}

/// Random values on (-1, 1) for op tests; `name` is the seed.
pub fn random(name: &str, shape: &[usize]) -> Tensor<f32> {
    uniform(name, shape, 0.0, 1.0)
}

/// As [`random`], in f64.
pub fn random64(name: &str, shape: &[usize]) -> Tensor<f64> {
    random(name, shape).cast()
}

/// One device a supported tier, on one and on two threads; tiers that the chip lacks are printed as skipped.
pub fn cpus() -> Vec<Cpu> {
    let mut v = Vec::new();
    for tier in Tier::ALL {
        if tier.is_supported() {
            v.extend([1, 2].map(|n| Cpu::with_tier(Some(n), tier).unwrap()));
        } else {
            println!("SKIPPED: tier {} is not on this processor", tier.name());
        }
    }
    v
}

/// Checks an analytic gradient against central differences in f64.
///
/// `loss(x)` is the scalar whose derivative `grad` claims to be, element by element at `x`.
#[track_caller]
pub fn check_gradient(what: &str, x: &Tensor<f64>, grad: &Tensor<f64>, loss: impl Fn(&Tensor<f64>) -> f64) {
    assert_eq!(x.len(), grad.len(), "{what}: gradient has another length");
    let h = 1e-5;
    let mut p = x.clone();
    let numeric: Vec<f64> = (0..x.len())
        .map(|i| {
            p.data[i] = x.data[i] + h;
            let up = loss(&p);
            p.data[i] = x.data[i] - h;
            let down = loss(&p);
            p.data[i] = x.data[i];
            (up - down) / (2.0 * h)
        })
        .collect();
    close(what, &grad.data, &numeric, 1e-7);
}

/// A scalar loss for gradient checks: `Σ y·weight`, whose gradient with respect to `y` is `weight`.
pub fn weighted_sum(y: &Tensor<f64>, weight: &Tensor<f64>) -> f64 {
    y.data.iter().zip(&weight.data).map(|(a, b)| a * b).sum()
}

/// Runs `f` on every device of [`cpus`]: both thread counts of a tier must give the same bits; one result a tier.
#[track_caller]
pub fn each_tier(what: &str, f: impl Fn(&Cpu) -> Vec<f32>) -> Vec<Vec<f32>> {
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let run = |pair: &[Cpu]| {
        let (one, two) = (f(&pair[0]), f(&pair[1]));
        assert!(bits(&one) == bits(&two), "{what}: {} differs with the thread count", pair[0].tier().name());
        one
    };
    cpus().chunks(2).map(run).collect()
}

/// Image `i` of a batch, as a batch of one.
pub fn image<E: Elem>(x: &Tensor<E>, i: usize) -> Tensor<E> {
    let mut shape = x.shape().to_vec();
    shape[0] = 1;
    Tensor::new(&shape, x.slab(i).to_vec())
}

/// One thread of this chip's best tier.
pub fn cpu() -> Cpu {
    Cpu::new(Some(1)).unwrap()
}

/// The op goldens of the tiny model (2 heads, 64 channels, 8 x 8 patches, batch 2).
pub fn tiny() -> Option<BTreeMap<String, Tensor<f32>>> {
    golden("tiny/ops.safetensors").map(|p| read_f32(&p))
}

/// `(B, C, side, side)` → `(B, N, C)`.
pub fn tokens_of(x: &Tensor<f32>) -> Tensor<f32> {
    let (b, c, n) = (x.shape()[0], x.shape()[1], x.shape()[2] * x.shape()[3]);
    let mut y = Tensor::zeros(&[b, n, c]);
    for (i, y) in y.data.iter_mut().enumerate() {
        *y = x.data[(i / (n * c) * c + i % c) * n + i / c % n];
    }
    y
}

/// [`gpu`], if this build has kernels; else says that the test is skipped.
pub fn gpu_with_kernels() -> Option<Gpu> {
    if cuda::image::IMAGES.is_empty() {
        println!(
            "SKIPPED: this build holds no CUDA kernels (tools/install-cuda-toolkit installs the compiler)"
        );
        return None;
    }
    Some(gpu())
}

/// The GPU that tests run on: the emulator's in this process, with all checkers and a seed (`INP_EMULATED_SEED`, else 1;
/// `INP_EMULATED_GPU`, else an H100), or the real one with `INP_TEST_DEVICE=cuda`.
pub fn gpu() -> Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    let open = || {
        if std::env::var_os("INP_TEST_DEVICE").is_some_and(|v| v == "cuda") {
            return Gpu::open(0).unwrap();
        }
        let seed = std::env::var("INP_EMULATED_SEED").unwrap_or("1".into());
        // One worker: tests run side by side as it is.
        let settings =
            [("INP_EMULATED_CHECK", "all"), ("INP_EMULATED_SEED", &seed), ("INP_EMULATED_THREADS", "1")];
        Gpu::emulated_with(&settings).unwrap()
    };
    GPU.get_or_init(open).clone()
}

/// For tests that need a driver with other settings: runs one again in a process of its own and says false; says true there.
pub fn again(test: &str, settings: &[(&str, &str)]) -> bool {
    const INSIDE: &str = "INP_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).envs(settings.iter().copied()).env(INSIDE, "1");
    let out = command.output().unwrap();
    let text = [out.stdout, out.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    print!("{text}");
    false
}

/// Device memory between guards: what a kernel writes outside of it is found, and what it does not write stays NaN.
pub struct Guarded<T> {
    whole: Buffer<T>,
    /// The elements to write: every byte is 0xff (NaN in f32, f16, bf16).
    pub inner: Buffer<T>,
}

/// Elements of a guard: a multiple of 256 bytes, so that the inner buffer is aligned as any is.
const GUARD: usize = 256;

impl<T: Pod> Guarded<T> {
    /// `len` elements to write.
    pub fn new(gpu: &Gpu, len: usize) -> Self {
        let whole = gpu.uninit::<T>(len + 2 * GUARD).unwrap();
        whole.fill(&gpu.stream(), 0xff).unwrap();
        gpu.stream().synchronize().unwrap();
        Self { inner: whole.part(GUARD, len).unwrap(), whole }
    }
    /// The elements, once the guards have been seen untouched.
    #[track_caller]
    pub fn read(&self, stream: &Stream) -> Vec<T> {
        let all = self.whole.download(stream).unwrap();
        let (before, rest) = all.split_at(GUARD);
        let (inner, after) = rest.split_at(self.inner.len());
        for (guard, side) in [(before, "before"), (after, "after")] {
            let touched = bytemuck::cast_slice::<T, u8>(guard).iter().any(|b| *b != 0xff);
            assert!(!touched, "something was written {side} a buffer of {} elements", inner.len());
        }
        inner.to_vec()
    }
}

/// Waits for the device; fails if a checker of the emulator found anything in this process so far.
#[track_caller]
pub fn clean(gpu: &Gpu) {
    gpu.stream().synchronize().unwrap();
    if gpu.is_emulated() {
        let report = cuda::emulated_report().unwrap();
        let quiet = report["findings"] == 0 && report["faults"] == 0;
        assert!(quiet, "the emulator's checkers found something:\n{:#}", report["launches"]);
    }
}

/// Whether everything is run everywhere (`INP_FULL=1`, see tools/check.sh --full); else, at the models' sizes, the chosen
/// variant in one element type. S has all its rows, B and L fewer, as rows change nothing but the number of blocks.
pub fn full() -> bool {
    std::env::var_os("INP_FULL").is_some_and(|v| v == "1")
}

/// Heads of the published sizes, 64 channels each.
pub const MODELS: [(&str, usize); 3] = [("S", 6), ("B", 12), ("L", 16)];
/// GPUs that choices are tested for; the first is an H100.
pub const MACHINES: [Machine; 3] = [
    Machine { arch: 90, sms: 132, shared: 232_448, clock_mhz: 1980, bandwidth_gbs: 3352 },
    Machine::A100,
    Machine { arch: 89, sms: 128, shared: 101_376, clock_mhz: 2520, bandwidth_gbs: 1008 },
];
/// Patches of a picture at 392 pixels.
pub const PATCHES: usize = 784;

/// Statistics of 32 columns as kernels lay them out, `(C/64, rows rounded up to even, 2)`, from `(rows, C/32)`; NaN where no
/// row is.
pub fn panels(x: &[[f32; 2]], rows: usize) -> Vec<[f32; 2]> {
    let (width, even) = (x.len() / rows, rows.next_multiple_of(2));
    let at = |row, column| if row < rows { x[row * width + column] } else { [f32::NAN; 2] };
    (0..even * width).map(|i| at(i / 2 % even, i / 2 / even * 2 + i % 2)).collect()
}
/// `(rows, C/32)` from what a kernel wrote, which must be nothing where no row is.
pub fn from_panels(x: &[[f32; 2]], rows: usize) -> Vec<[f32; 2]> {
    let even = rows.next_multiple_of(2);
    let width = x.len() / even.max(1);
    let at = |row, column| x[(column / 2 * even + row) * 2 + column % 2];
    (0..width)
        .for_each(|c| assert!(rows == even || at(rows, c)[0].is_nan(), "statistics of row {rows} of {rows}"));
    (0..rows * width).map(|i| at(i / width, i % width)).collect()
}

/// `all` in a full run, else `few`.
pub fn rows(all: usize, few: usize) -> usize {
    if full() { all } else { few }
}

/// Element types for large case `i` of a list: each in turn; every one in a full run.
pub fn dtypes(i: usize) -> Vec<DType> {
    if full() { DType::ALL.into() } else { vec![DType::ALL[i % 3]] }
}

/// Variants to run: at a model's size the chosen one, in a full run the others behind it; all where none is chosen.
pub fn variants<'a>(chosen: Option<&'a str>, all: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let others = all.into_iter().filter(|v| chosen.is_none_or(|c| full() && *v != c));
    chosen.into_iter().chain(others).collect()
}

/// What a check covers. Prints it in the end as a line that tools/full-check reads.
pub struct Checked {
    op: &'static str,
    dtype: &'static str,
    case: String,
    variants: Vec<String>,
    /// Worst error over its bound.
    share: f64,
    start: Instant,
}

impl Checked {
    /// Of an op (or the engine), at sizes in words, with results in this type.
    pub fn new(op: &'static str, dtype: &'static str, case: impl Into<String>) -> Self {
        Self { op, dtype, case: case.into(), variants: Vec::new(), share: 0.0, start: Instant::now() }
    }
    /// This variant was run.
    pub fn ran(&mut self, variant: &str) {
        if !self.variants.iter().any(|v| v == variant) {
            self.variants.push(variant.into());
        }
    }
    /// Passes only if the error is a number not above its bound.
    #[track_caller]
    pub fn within(&mut self, what: &str, error: f64, bound: f64) {
        let Self { op, dtype, case, .. } = self;
        assert!(error <= bound, "{op} {case} {dtype}: {what} is off by {error:.3e}, more than {bound:.3e}");
        self.share = self.share.max(if error > 0.0 { error / bound } else { 0.0 });
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let Self { op, dtype, case, variants, share, start } = self;
            let line = serde_json::json!({
                "op": op, "dtype": dtype, "case": case, "variants": variants, "share": share,
                "seconds": start.elapsed().as_secs_f64(),
            });
            println!("CHECKED {line}");
        }
    }
}
