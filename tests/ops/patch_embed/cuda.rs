//! `patch_embed` on a GPU against f64 on the rounded inputs, every variant, around every tile and at the models' crops.

use inp_former::ops::linear::cuda::statistics;
use inp_former::ops::patch_embed::cuda::{Input, Output, Shape, VARIANTS, choose, forward, weights};
use inp_former::runtime::cuda::{Gpu, Machine};
use inp_former::runtime::{DType, Types};

use crate::support::*;

const K: usize = 588;
/// As bf16 engines have it.
const MIXED: Types = Types { operands: DType::F16, outputs: DType::Bf16 };

struct Case {
    s: Shape,
    dtype: DType,
    copy: DType,
    u8_input: bool,
    crops: Vec<u8>,
    pictures: Vec<f32>,
    /// `(C, 588)`, rounded.
    w: Vec<f32>,
    table: Vec<f32>,
}

/// x, its copy as elements, statistics.
#[derive(PartialEq)]
struct Result {
    x: Vec<u32>,
    copy: Vec<u8>,
    stats: Vec<[u32; 2]>,
}

impl Case {
    fn new(s: Shape, types: impl Into<Types>, u8_input: bool) -> Self {
        let Types { operands: dtype, outputs: copy } = types.into();
        let pixels = s.batch * s.side * s.side * K;
        let scale = if u8_input { 0.0005 } else { 0.05 };
        let w = random("w", &[s.channels, K]).data;
        Self {
            crops: (0..pixels).map(|i| (s_value("crop", i) & 255) as u8 ^ (i % 251) as u8).collect(),
            pictures: random("pictures", &[pixels]).data,
            w: w.iter().map(|x| dtype.round(x * scale)).collect(),
            table: random("table", &[s.tokens(), s.channels]).data,
            s,
            dtype,
            copy,
            u8_input,
        }
    }
    /// Numbers of a patch as the kernel multiplies them.
    fn patch(&self, b: usize, n: usize) -> Vec<f32> {
        let (side, size) = (self.s.side, 14 * self.s.side);
        let (top, left) = (n / side * 14, n % side * 14);
        let at = |k: usize| match self.u8_input {
            true => self.crops[((b * size + top + k / 42) * size + left) * 3 + k % 42] as f32 - 128.0,
            false => {
                let plane = b * 3 + k / 196;
                self.dtype.round(self.pictures[(plane * size + top + k / 14 % 14) * size + left + k % 14])
            }
        };
        (0..K).map(at).collect()
    }
    /// x in f64, and the error of summing in f32.
    fn reference(&self) -> (Vec<f64>, f64) {
        let s = &self.s;
        let (mut x, mut worst) = (Vec::new(), 0f64);
        for (b, t) in (0..s.batch).flat_map(|b| (0..s.tokens()).map(move |t| (b, t))) {
            let patch = t.checked_sub(s.prefix).map(|n| self.patch(b, n)).unwrap_or(vec![0.0; K]);
            for (w, table) in self.w.chunks_exact(K).zip(&self.table[t * s.channels..]) {
                let exact: f64 = patch.iter().zip(w).map(|(x, y)| *x as f64 * *y as f64).sum();
                let plain: f32 = patch.iter().zip(w).map(|(x, y)| x * y).sum();
                x.push(exact + *table as f64);
                worst = worst.max(((plain + table) as f64 - x[x.len() - 1]).abs());
            }
        }
        (x, worst)
    }
    fn run(&self, gpu: &Gpu, variant: &str) -> Result {
        let (s, stream) = (&self.s, gpu.stream());
        let n = s.batch * s.tokens() * s.channels;
        let (crops, pictures) = (gpu.upload(&self.crops).unwrap(), gpu.upload(&self.pictures).unwrap());
        let input = if self.u8_input { Input::U8(&crops) } else { Input::F32(&pictures) };
        let weight = gpu.upload(&self.dtype.encode(&weights(&self.w, self.u8_input))).unwrap();
        let table = gpu.upload(&self.table).unwrap();
        let x = Guarded::<f32>::new(gpu, n);
        let copy = Guarded::<u8>::new(gpu, n * self.copy.bytes());
        let stats = Guarded::<[f32; 2]>::new(gpu, statistics(s.batch * s.tokens(), s.channels));
        let out = Output { x: &x.inner, copy: &copy.inner, stats: &stats.inner };
        let types = Types { operands: self.dtype, outputs: self.copy };
        forward(&stream, types, variant, &out, input, &weight, &table, s).unwrap();
        Result {
            x: x.read(&stream).iter().map(|x| x.to_bits()).collect(),
            copy: copy.read(&stream),
            stats: from_panels(&stats.read(&stream), s.batch * s.tokens())
                .iter()
                .map(|x| x.map(f32::to_bits))
                .collect(),
        }
    }
    /// `variants` agree to the bit and are as near as f32 sums can be; the copy is x rounded, and statistics are the copy's.
    fn check(&self, gpu: &Gpu, variants: &[&str]) -> Result {
        let what = format!("{:?} {} u8: {}", self.s, self.dtype.name(), self.u8_input);
        let Shape { batch, channels, .. } = self.s;
        let kind = if self.u8_input { "u8" } else { "f32" };
        let case = format!("{kind} {}x{channels}", batch * self.s.tokens());
        let mut checked = Checked::new("patch_embed", self.copy.name(), case);
        variants.iter().for_each(|v| checked.ran(v));
        let first = self.run(gpu, variants[0]);
        for v in &variants[1..] {
            assert!(self.run(gpu, v) == first, "{what}: {v} has other bits than {}", variants[0]);
        }
        let (want, plain) = self.reference();
        let x: Vec<f32> = first.x.iter().map(|x| f32::from_bits(*x)).collect();
        let worst = |a: &[f32], b: &[f64]| {
            a.iter().zip(b).map(|(a, b)| (*a as f64 - b).abs()).fold(0.0, |m, d| if d <= m { m } else { d })
        };
        checked.within("x", worst(&x, &want), 2.0 * plain + 1e-6);
        let copy = self.copy.decode(&first.copy);
        assert!(copy.iter().zip(&x).all(|(c, x)| *c == self.copy.round(*x)), "{what}: the copy is not x");
        for (i, (part, s)) in copy.chunks_exact(32).zip(&first.stats).enumerate() {
            let mean = part.iter().map(|x| *x as f64).sum::<f64>() / 32.0;
            let m2 = part.iter().map(|x| (*x as f64 - mean).powi(2)).sum::<f64>();
            let top = part.iter().fold(0f64, |m, x| m.max(x.abs() as f64));
            let [a, b] = s.map(|x| f32::from_bits(x) as f64);
            assert!((a - mean).abs() <= 1e-6 * top, "{what}: mean {i} is {a}, not {mean}");
            assert!(
                (b - m2).abs() <= 1e-5 * (m2 + top * top * 1e-3),
                "{what}: deviation {i} is {b}, not {m2}"
            );
        }
        first
    }
}

fn names() -> [&'static str; 2] {
    VARIANTS.map(|v| v.name)
}

#[test]
fn every_variant_has_the_same_bits_and_a_plain_kernels_error() {
    let Some(gpu) = gpu_with_kernels() else { return };
    // Tokens: 2, 28, 63 to 65, 127 to 129; channels below, at and between tiles.
    for [batch, side, prefix, channels] in [
        [1, 1, 1, 64],
        [2, 3, 5, 64],
        [3, 3, 12, 128],
        [1, 8, 0, 64],
        [1, 8, 1, 192],
        [1, 11, 6, 64],
        [1, 11, 7, 128],
        [1, 11, 8, 64],
    ] {
        let types = DType::ALL.map(Types::from).into_iter().chain([MIXED]);
        for (types, u8_input) in types.flat_map(|t| [(t, true), (t, false)]) {
            Case::new(Shape { batch, side, prefix, channels }, types, u8_input).check(&gpu, &names());
        }
    }
    clean(&gpu);
}

#[test]
fn the_models_crops_in_the_chosen_variant() {
    let Some(gpu) = gpu_with_kernels() else { return };
    // 252 and 518 pixels, where two heads stand for the models' 6 to 16; 112 is above.
    for (side, dtype, u8_input) in
        [(18, DType::F16, false), (18, DType::Tf32, true), (37, DType::F16, true), (37, DType::Bf16, false)]
    {
        let s = Shape { batch: 1, side, prefix: 5, channels: 128 };
        let chosen = choose(dtype, &Machine::from(&gpu), &s, None).unwrap();
        Case::new(s, dtype, u8_input).check(&gpu, &[chosen]);
    }
    for (i, (_, heads)) in MODELS.into_iter().enumerate() {
        let real = Shape { batch: 1, side: 28, prefix: 5, channels: 64 * heads };
        let side = if heads == 6 { 28 } else { rows(15, 11) };
        for (dtype, u8_input) in dtypes(i).into_iter().flat_map(|d| [(d, true), (d, false)]) {
            if u8_input || full() {
                let chosen = choose(dtype, &Machine::from(&gpu), &real, None).unwrap();
                let run = variants(Some(chosen), names());
                Case::new(Shape { side, ..real }, dtype, u8_input).check(&gpu, &run);
            }
        }
    }
    clean(&gpu);
}

#[test]
fn pictures_have_the_same_bits_at_every_place_of_every_batch() {
    let Some(gpu) = gpu_with_kernels() else { return };
    let shape = |batch| Shape { batch, side: 5, prefix: 5, channels: 64 };
    let whole = Case::new(shape(8), DType::Bf16, true);
    let all = whole.run(&gpu, "64x64");
    for i in [0, 3, 7] {
        let one = Case {
            s: shape(1),
            crops: whole.crops.chunks_exact(25 * K).nth(i).unwrap().to_vec(),
            table: whole.table.clone(),
            w: whole.w.clone(),
            ..Case::new(shape(1), DType::Bf16, true)
        };
        for v in names() {
            let alone = one.run(&gpu, v);
            assert!(all.x.chunks_exact(alone.x.len()).nth(i).unwrap() == alone.x, "picture {i}, {v}");
            assert!(
                all.stats.chunks_exact(alone.stats.len()).nth(i).unwrap() == alone.stats,
                "picture {i}, {v}"
            );
        }
    }
    clean(&gpu);
}

#[test]
fn larger_batches_take_larger_tiles_and_what_does_not_fit_is_refused() {
    let s = Shape { batch: 1, side: 28, prefix: 5, channels: 768 };
    for m in MACHINES {
        assert_eq!(choose(DType::Bf16, &m, &s, None).unwrap(), "64x64", "{m:?}");
        assert_eq!(choose(DType::Bf16, &m, &Shape { batch: 8, ..s }, None).unwrap(), "128x128", "{m:?}");
    }
    let Some(gpu) = gpu_with_kernels() else { return };
    let s = Shape { batch: 1, side: 1, prefix: 1, channels: 64 };
    let (crop, table, x) = (gpu.zeros(K).unwrap(), gpu.zeros(128).unwrap(), gpu.zeros(128).unwrap());
    let (weight, copy, stats) =
        (gpu.zeros(64 * 672 * 2).unwrap(), gpu.zeros(256).unwrap(), gpu.zeros(4).unwrap());
    let out = Output { x: &x, copy: &copy, stats: &stats };
    let run = |variant, dtype, s: &Shape| {
        forward(&gpu.stream(), dtype, variant, &out, Input::U8(&crop), &weight, &table, s)
            .map_err(|e| e.to_string())
    };
    run("64x64", DType::Bf16, &s).unwrap();
    assert!(run("32x32", DType::Bf16, &s).unwrap_err().contains("64x64"));
    assert!(run("64x64", DType::Tf32, &s).unwrap_err().contains("weight"));
    for wrong in [
        Shape { batch: 2, ..s },
        Shape { side: 2, ..s },
        Shape { prefix: 2, ..s },
        Shape { channels: 96, ..s },
        Shape { batch: 0, ..s },
        Shape { side: usize::MAX, ..s },
    ] {
        assert!(run("64x64", DType::Bf16, &wrong).is_err(), "{wrong:?}");
    }
    clean(&gpu);
}
