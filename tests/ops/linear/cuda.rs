//! `linear` on a GPU against f64 on the rounded inputs: every tile and element type around every tile's edges, every
//! epilogue, the model's shapes.

use bytemuck::Pod;
use inp_former::ops::linear::cuda::{
    self, Epilogue, Fused, Groups, Norm, Output, Shape, VARIANTS, statistics,
};
use inp_former::runtime::cuda::{Buffer, Gpu, Machine, emulated_report};
use inp_former::runtime::{DType, Elem};

use crate::support::*;

const EPS: f32 = 1e-6;
const SHARE: f32 = 0.125;

/// A product and what happens to it; `images` are (tokens, prefix, groups, this one, whether it is added to).
#[derive(Clone, Copy, Default)]
struct Case {
    mnk: [usize; 3],
    norm: bool,
    bias: bool,
    gelu: bool,
    residual: bool,
    stats: bool,
    images: Option<(usize, usize, usize, usize, bool)>,
}

/// Every number that goes in, rounded where the device holds elements.
struct Data {
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    sums: Vec<f32>,
}

impl Case {
    fn data(&self, dtype: DType) -> Data {
        let [m, n, k] = self.mnk;
        let rounded = |name, shape: &[usize], mean, half| {
            uniform(name, shape, mean, half).data.iter().map(|x| dtype.round(*x)).collect::<Vec<_>>()
        };
        let sums = self.images.map_or(0, |(t, prefix, groups, ..)| m / t * (t - prefix) * n * groups);
        Data {
            x: rounded("linear.cuda.x", &[m, k], 0.5, 2.0),
            w: rounded("linear.cuda.w", &[n, k], 0.01, (3.0 / k as f64).sqrt()),
            bias: random("linear.cuda.bias", &[n]).data,
            residual: random("linear.cuda.residual", &[m, n]).data,
            sums: random("linear.cuda.sums", &[sums]).data,
        }
    }
}

/// What comes out: rounded result, residual, all groups, their fusion.
type Results<E> = [Vec<E>; 4];

/// As loops in E would do it, elements rounded by `round`.
fn reference<E: Elem>(c: &Case, d: &Data, round: impl Fn(E) -> E) -> Results<E> {
    let [m, n, k] = c.mnk;
    let e = |x: f32| E::from_f64(x as f64);
    let (x, w): (Vec<E>, Vec<E>) = (d.x.iter().map(|x| e(*x)).collect(), d.w.iter().map(|x| e(*x)).collect());
    let sum = |v: &[E]| v.iter().fold(E::ZERO, |s, x| s + *x);
    let colsum: Vec<E> = w.chunks_exact(k).map(sum).collect();
    // Columns side by side, so that the processor does several at once; each is a plain sum over K.
    let columns: Vec<E> = (0..n * k).map(|i| w[i % n * k + i / n]).collect();
    let mut y = vec![E::ZERO; m * n];
    for (row, y) in x.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
        for (x, w) in row.iter().zip(columns.chunks_exact(n)) {
            y.iter_mut().zip(w).for_each(|(y, w)| *y += *x * *w);
        }
        let count = E::from_f64(k as f64);
        let mean = sum(row) / count;
        let squares = row.iter().fold(E::ZERO, |s, x| s + (*x - mean) * (*x - mean));
        let rstd = E::ONE / (squares / count + e(EPS)).sqrt();
        for (j, y) in y.iter_mut().enumerate() {
            if c.norm {
                *y = rstd * (*y - mean * colsum[j]);
            }
            if c.bias {
                *y += e(d.bias[j]);
            }
            if c.gelu {
                let v = y.to_f64();
                *y = E::from_f64(0.5 * v * libm::erfc(-v / std::f64::consts::SQRT_2));
            }
        }
    }
    let mut residual = Vec::new();
    if c.residual {
        y.iter_mut().zip(&d.residual).for_each(|(y, r)| *y += e(*r));
        residual = y.clone();
    }
    let mut sums: Vec<E> = d.sums.iter().map(|x| e(*x)).collect();
    let mut fused = Vec::new();
    if let Some((tokens, prefix, groups, index, add)) = c.images {
        let one = sums.len() / groups;
        let patches = y.chunks_exact(n).enumerate().filter(|(row, _)| row % tokens >= prefix);
        let values = patches.flat_map(|(_, y)| y.iter().copied());
        for (s, y) in sums[index * one..][..one].iter_mut().zip(values) {
            *s = if add { *s + y } else { y };
        }
        let total = |i| (0..groups).fold(E::ZERO, |t, g| t + sums[g * one + i]);
        fused = (0..one).map(|i| e(SHARE) * total(i)).collect();
    }
    [y.into_iter().map(&round).collect(), residual, sums, fused.into_iter().map(round).collect()]
}

/// Mean and sum of squared differences from it of every 32 values.
fn stats(x: &[f32]) -> Vec<[f32; 2]> {
    let of = |x: &[f32]| {
        let mean = x.iter().map(|x| *x as f64).sum::<f64>() / 32.0;
        [mean as f32, x.iter().map(|x| (*x as f64 - mean).powi(2)).sum::<f64>() as f32]
    };
    x.chunks_exact(32).map(of).collect()
}

/// Device memory between two bands of ones (NaN in every type), holding `data` or ones.
struct Banded<T> {
    all: Buffer<T>,
    inner: Buffer<T>,
}
const BAND: usize = 256;
impl<T: Pod> Banded<T> {
    fn new(gpu: &Gpu, len: usize, data: Option<&[T]>) -> Self {
        let ones: T = bytemuck::pod_read_unaligned(&[0xff; 16][..size_of::<T>()]);
        let band = BAND / size_of::<T>();
        let mut all = vec![ones; len + 2 * band];
        if let Some(data) = data {
            all[band..band + len].copy_from_slice(data);
        }
        let all = gpu.upload(&all).unwrap();
        Self { inner: all.part(band, len).unwrap(), all }
    }
    fn of(gpu: &Gpu, data: &[T]) -> Self {
        Self::new(gpu, data.len(), Some(data))
    }
    #[track_caller]
    fn read(&self, gpu: &Gpu, what: &str) -> Vec<T> {
        let all = self.all.download(&gpu.stream()).unwrap();
        let bytes: &[u8] = bytemuck::cast_slice(&all);
        let intact = |band: &[u8]| band.iter().all(|b| *b == 0xff);
        assert!(
            intact(&bytes[..BAND]) && intact(&bytes[bytes.len() - BAND..]),
            "{what}: written beside a result"
        );
        let band = BAND / size_of::<T>();
        all[band..all.len() - band].to_vec()
    }
}

/// Bytes of y, statistics, residual, groups, fusion, its statistics, unrounded fusion.
type Bits = (Vec<u8>, Vec<[f32; 2]>, Vec<f32>, Vec<f32>, Vec<u8>, Vec<[f32; 2]>, Vec<f32>);

fn run(gpu: &Gpu, dtype: DType, variant: &str, c: &Case, d: &Data) -> Bits {
    let [m, n, k] = c.mnk;
    let what = format!("{variant} {} {:?}", dtype.name(), c.mnk);
    let one = c.images.map_or(0, |(t, prefix, ..)| m / t * (t - prefix) * n);
    let colsum: Vec<f32> =
        d.w.chunks_exact(k).map(|w| w.iter().map(|w| *w as f64).sum::<f64>() as f32).collect();
    let (x, w) = (Banded::of(gpu, &dtype.encode(&d.x)), Banded::of(gpu, &dtype.encode(&d.w)));
    let of_x = if c.norm { panels(&stats(&d.x), m) } else { Vec::new() };
    let (bias, colsum, of_x) = (Banded::of(gpu, &d.bias), Banded::of(gpu, &colsum), Banded::of(gpu, &of_x));
    let (residual, sums) = (Banded::of(gpu, &d.residual), Banded::of(gpu, &d.sums));
    let y = Banded::<u8>::new(gpu, m * n * dtype.bytes(), None);
    let y_stats = Banded::<[f32; 2]>::new(gpu, statistics(m, n), None);
    let fused = Banded::<u8>::new(gpu, one * dtype.bytes(), None);
    let (fused_stats, fused_f32) =
        (Banded::<[f32; 2]>::new(gpu, statistics(one / n, n), None), Banded::<f32>::new(gpu, one, None));
    let output = |y, s| Output { y, stats: c.stats.then_some(s) };
    let epilogue = Epilogue {
        norm: c.norm.then_some(Norm { stats: &of_x.inner, colsum: &colsum.inner, eps: EPS }),
        bias: c.bias.then_some(&bias.inner),
        gelu: c.gelu,
        residual: c.residual.then_some(&residual.inner),
        output: Some(output(&y.inner, &y_stats.inner)),
        groups: c.images.map(|(tokens, prefix, _, index, add)| Groups {
            sums: &sums.inner,
            index,
            add,
            tokens,
            prefix,
            fused: Some(Fused {
                output: output(&fused.inner, &fused_stats.inner),
                f32: Some(&fused_f32.inner),
                share: SHARE,
            }),
        }),
    };
    let shape = Shape { rows: m, outputs: n, inputs: k };
    cuda::forward(&gpu.stream(), dtype, variant, &epilogue, &x.inner, &w.inner, &shape).unwrap();
    let by_row = |x: Vec<_>, rows| if c.stats { from_panels(&x, rows) } else { x };
    (
        y.read(gpu, &what),
        by_row(y_stats.read(gpu, &what), m),
        residual.read(gpu, &what),
        sums.read(gpu, &what),
        fused.read(gpu, &what),
        by_row(fused_stats.read(gpu, &what), one / n),
        fused_f32.read(gpu, &what),
    )
}

/// Largest difference; NaN if there is one.
fn largest<A: Elem>(got: &[A], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let differences = got.iter().zip(want).map(|(x, y)| (x.to_f64() - y).abs());
    differences.fold(0.0, |m, d| if d <= m { m } else { d })
}

/// Runs variants: the same bits from all, at most twice the error of plain loops in f32. Gives y's bytes back.
fn check(gpu: &Gpu, dtype: DType, c: &Case, variants: &[&str]) -> Vec<u8> {
    let d = c.data(dtype);
    let what = format!("{} {:?}", dtype.name(), c.mnk);
    let mut checked = Checked::new("linear", dtype.name(), c.mnk.map(|n| n.to_string()).join("x"));
    variants.iter().for_each(|v| checked.ran(v));
    let first = run(gpu, dtype, variants[0], c, &d);
    for v in &variants[1..] {
        assert!(bits(&run(gpu, dtype, v, c, &d)) == bits(&first), "{what}: {v} and {} differ", variants[0]);
    }
    let exact = reference::<f64>(c, &d, |x| x);
    let plain = reference::<f32>(c, &d, |x| dtype.round(x));
    let [y, fused] = [&first.0, &first.4].map(|b| dtype.decode(b));
    let residual = if c.residual { first.2.clone() } else { Vec::new() };
    let got = [y.clone(), residual, first.3.clone(), fused.clone()];
    for (((name, got), exact), plain) in
        ["y", "residual", "groups", "fused"].iter().zip(&got).zip(&exact).zip(&plain)
    {
        let top = exact.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        checked.within(name, largest(got, exact), 2.0 * largest(plain, exact) + 2e-6 * top);
    }
    let unrounded: Vec<f32> = first.6.iter().map(|x| dtype.round(*x)).collect();
    assert_eq!(unrounded, fused, "{what}: the unrounded fusion");
    if c.stats {
        for (got, of) in [(&first.1, &y), (&first.5, &fused)] {
            let want = stats(of);
            close(&format!("{what}: statistics"), got.as_flattened(), want.as_flattened(), 1e-5);
        }
    }
    first.0
}

fn bits(b: &Bits) -> Vec<u8> {
    let of = |x: &[f32]| bytemuck::cast_slice::<f32, u8>(x).to_vec();
    [b.0.clone(), of(b.1.as_flattened()), of(&b.2), of(&b.3), b.4.clone(), of(b.5.as_flattened()), of(&b.6)]
        .concat()
}

/// All variants, from the smallest tile up.
fn names() -> Vec<&'static str> {
    VARIANTS.iter().rev().map(|v| v.name).collect()
}

#[test]
fn every_tile_at_its_edges() {
    let Some(gpu) = gpu_with_kernels() else { return };
    for dtype in DType::ALL {
        for mnk in [
            [1, 8, 8],
            [31, 56, 24],
            [33, 72, 136],
            [63, 136, 64],
            [65, 120, 56],
            [97, 8, 72],
            [127, 248, 40],
            [129, 264, 200],
        ] {
            check(&gpu, dtype, &Case { mnk, bias: mnk[0] > 31, ..Case::default() }, &names());
        }
    }
    clean(&gpu);
}

/// A block reads the statistics of its rows besides, 8 bytes of every 32 columns, and no byte around them.
#[test]
fn statistics_are_read_in_whole_sectors() {
    let Some(gpu) = gpu_with_kernels().filter(Gpu::is_emulated) else { return };
    if !again("ops::linear::cuda::statistics_are_read_in_whole_sectors", &[("INP_EMULATED_COUNT", "1")]) {
        return;
    }
    let (dtype, columns) = (DType::Bf16, 256);
    for v in &VARIANTS {
        let more = |rows: usize, few: usize, many: usize| {
            let [few, many] = [few, many].map(|k| {
                let [with, without] = [true, false].map(|norm| {
                    let case = Case { mnk: [rows, columns, k], norm, ..Case::default() };
                    run(&gpu, dtype, v.name, &case, &case.data(dtype));
                    let report = emulated_report().unwrap();
                    report["launches"].as_array().unwrap().last().unwrap()["counters"]["sectors"]
                        .as_u64()
                        .unwrap()
                });
                with - without
            });
            (many - few) as usize
        };
        let blocks = columns / v.columns;
        // An odd number of rows is rounded up: the sector of the last row is half empty.
        for rows in [256, 255] {
            assert_eq!(more(rows, 64, 640), blocks * 256 * (640 - 64) / 32 * 8 / 32, "{rows} {}", v.name);
        }
    }
}

#[test]
fn every_epilogue() {
    let Some(gpu) = gpu_with_kernels() else { return };
    let plain = Case { bias: true, ..Case::default() };
    for dtype in DType::ALL {
        for case in [
            Case { mnk: [67, 192, 128], norm: true, ..plain },
            Case { mnk: [67, 192, 64], norm: true, gelu: true, ..plain },
            Case { mnk: [3, 64, 1088], norm: true, ..Case::default() },
            Case { mnk: [67, 192, 72], residual: true, stats: true, ..plain },
            Case {
                mnk: [131, 64, 64],
                images: Some((131, 5, 1, 0, false)),
                residual: true,
                stats: true,
                ..plain
            },
            Case {
                mnk: [66, 128, 64],
                images: Some((22, 1, 2, 1, true)),
                residual: true,
                stats: true,
                ..plain
            },
            Case { mnk: [129, 320, 40], images: Some((43, 0, 3, 0, true)), stats: true, ..plain },
            Case { mnk: [5, 64, 64], images: Some((1, 0, 2, 0, false)), stats: true, ..plain },
        ] {
            check(&gpu, dtype, &case, &names());
        }
    }
    clean(&gpu);
}

/// qkv, proj, fc1 and fc2 of an encoder's block, and the bottleneck's two, of one picture and of eight.
#[test]
fn the_models_layers_as_chosen() {
    let Some(gpu) = gpu_with_kernels() else { return };
    let machine = Machine::from(&gpu);
    let plain = Case { bias: true, ..Case::default() };
    let residual = Case { residual: true, stats: true, ..plain };
    let mut turn = 0;
    for (_, heads) in MODELS {
        // In a full run S has all its rows.
        let (c, m) = (64 * heads, rows(if heads == 6 { PATCHES + 5 } else { 133 }, 67));
        for (batch, outputs, inputs, case) in [
            (1, 3 * c, c, Case { norm: true, ..plain }),
            (1, c, c, residual),
            (1, 4 * c, c, Case { norm: true, gelu: true, ..plain }),
            (1, c, 4 * c, Case { images: Some((m, 5, 2, 1, true)), ..residual }),
            (1, 4 * c, c, Case { gelu: true, ..plain }),
            (8, c, 4 * c, Case { stats: true, ..plain }),
        ] {
            turn += 1;
            for dtype in dtypes(turn) {
                let shape = Shape { rows: batch * (PATCHES + 5), outputs, inputs };
                let v = cuda::choose(dtype, &machine, &shape, case.gelu, None).unwrap();
                let case = Case { mnk: [if batch == 1 { m } else { 67 }, outputs, inputs], ..case };
                check(&gpu, dtype, &case, &variants(Some(v), names()));
            }
        }
    }
    clean(&gpu);
}

#[test]
fn a_row_has_the_same_bits_in_every_batch_and_position() {
    let Some(gpu) = gpu_with_kernels() else { return };
    let row = |m: usize, at: usize| {
        let c = Case { mnk: [m, 64, 200], bias: true, ..Case::default() };
        let mut d = c.data(DType::Bf16);
        let x = d.x[..200].to_vec();
        d.x[at * 200..][..200].copy_from_slice(&x);
        run(&gpu, DType::Bf16, "64x64x64", &c, &d).0[at * 128..][..128].to_vec()
    };
    let alone = row(1, 0);
    for (m, at) in [(2, 1), (65, 64), (130, 77)] {
        assert_eq!(row(m, at), alone, "row {at} of {m}");
    }
    clean(&gpu);
}

#[test]
fn choices_fill_the_gpu_and_can_be_overruled() {
    let dtype = DType::Bf16;
    for m in MACHINES {
        for (rows, outputs, inputs) in
            [(789, 384, 384), (789, 768, 3072), (789, 3072, 768), (32 * 789, 3072, 768)]
        {
            let s = Shape { rows, outputs, inputs };
            let chosen = cuda::choose(dtype, &m, &s, false, None).unwrap();
            let v = VARIANTS.iter().find(|v| v.name == chosen).unwrap();
            let blocks = v.tiles(rows, outputs);
            assert!(blocks >= m.sms / 2, "{chosen} leaves most of {m:?} idle at {s:?}");
            assert!(rows < 10_000 || v.rows == 128, "{chosen} is small for {s:?} on {m:?}");
            // Where every variant waits for memory as long, the one that computes least.
            let waiting = Machine { bandwidth_gbs: 1, ..m };
            assert_eq!(cuda::choose(dtype, &waiting, &s, false, None).unwrap(), chosen);
            assert_eq!(cuda::choose(dtype, &m, &s, false, Some("32x64x64")).unwrap(), "32x64x64");
            assert!(cuda::choose(dtype, &m, &s, false, Some("1x1x1")).is_err());
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(gpu) = gpu_with_kernels() else { return };
    let (x, w) = (gpu.zeros::<u8>(2 * 4 * 64).unwrap(), gpu.zeros::<u8>(2 * 64 * 64).unwrap());
    let (few, stats) = (gpu.zeros::<f32>(63).unwrap(), gpu.zeros::<[f32; 2]>(8).unwrap());
    let (sums, y) = (gpu.zeros::<f32>(4 * 64).unwrap(), gpu.zeros::<u8>(2 * 4 * 64).unwrap());
    let shape = Shape { rows: 4, outputs: 64, inputs: 64 };
    let run = |e: Epilogue, s: Shape| cuda::forward(&gpu.stream(), DType::Bf16, "64x64x64", &e, &x, &w, &s);
    let none = Epilogue::default();
    let groups = |tokens| Groups { sums: &sums, index: 0, add: false, tokens, prefix: 1, fused: None };
    for (e, s) in [
        (none, Shape { rows: 3, ..shape }),
        (none, Shape { inputs: 60, ..shape }),
        (none, Shape { rows: 0, ..shape }),
        (Epilogue { bias: Some(&few), ..none }, shape),
        (Epilogue { norm: Some(Norm { stats: &stats, colsum: &few, eps: EPS }), ..none }, shape),
        (Epilogue { output: Some(Output { y: &x, stats: None }), residual: Some(&few), ..none }, shape),
        (Epilogue { groups: Some(groups(3)), ..none }, shape),
        (Epilogue { groups: Some(Groups { index: 2, ..groups(2) }), ..none }, shape),
    ] {
        assert!(run(e, s).is_err());
    }
    run(Epilogue { output: Some(Output { y: &y, stats: Some(&stats) }), ..none }, shape).unwrap();
    clean(&gpu);
}
