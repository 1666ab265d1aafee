//! What the tests and benches of the four INP stems on a GPU share: inputs as the device holds them, guarded outputs, f64
//! references.

#![allow(dead_code)]

use bytemuck::Pod;
use inp_former::ops::inp_extract::cuda::Shape;
use inp_former::ops::linear::gemm::{Mat, product};
use inp_former::runtime::cuda::{Buffer, Gpu, Machine, Stream};
use inp_former::runtime::{DType, Types};

use crate::support::{
    Checked, Guarded, MODELS, PATCHES, cpu, dtypes, gpu_with_kernels, panels, rel_err, rows, uniform,
};

pub const EPS: f32 = 1e-8;

/// B, N, H, P: ones; one below, at and above a tile of tokens; few and many prototypes; one below and above the prototypes
/// that a block does together.
const EDGES: [[usize; 4]; 10] = [
    [1, 1, 1, 1],
    [2, 63, 2, 3],
    [1, 64, 1, 8],
    [3, 65, 2, 6],
    [2, 10, 6, 16],
    [1, 127, 3, 7],
    [1, 129, 1, 9],
    [31, 2, 1, 1],
    [3, 17, 2, 11],
    [1, 197, 4, 5],
];

pub fn shape([batch, tokens, heads, prototypes]: [usize; 4]) -> Shape {
    Shape { batch, tokens, channels: 64 * heads, heads, prototypes }
}

/// A GPU, its stream and an element type.
pub struct On {
    pub gpu: Gpu,
    pub stream: Stream,
    /// Of operands, and of what is not rounded to the type of `outputs`: mostly the same.
    pub dtype: DType,
    pub outputs: DType,
}

/// Values as the device holds them, and there.
pub struct Held<T> {
    pub host: Vec<f64>,
    pub on: Buffer<T>,
}

impl On {
    /// In every element type; nowhere where the build has no kernels.
    pub fn all() -> Vec<Self> {
        Self::of(&DType::ALL.map(|dtype| (dtype, dtype)))
    }
    /// Also with f16 operands for bf16 outputs.
    pub fn all_and_mixed() -> Vec<Self> {
        let mut all = Self::all();
        all.extend(Self::of(&[(DType::F16, DType::Bf16)]));
        all
    }
    fn of(types: &[(DType, DType)]) -> Vec<Self> {
        let Some(gpu) = gpu_with_kernels() else { return Vec::new() };
        let of = |&(dtype, outputs)| Self { stream: gpu.stream(), gpu: gpu.clone(), dtype, outputs };
        types.iter().map(of).collect()
    }
    /// For elements of the outputs' type.
    pub fn of_outputs(&self) -> Self {
        Self { gpu: self.gpu.clone(), stream: self.gpu.stream(), dtype: self.outputs, outputs: self.outputs }
    }
    pub fn types(&self) -> Types {
        Types { operands: self.dtype, outputs: self.outputs }
    }
    /// Sizes of a test; behind those of the models, which may have fewer tokens, what they stand for: variants are chosen for
    /// that.
    pub fn sizes(&self) -> Vec<(Shape, Option<Shape>)> {
        let model = |(i, (_, heads)): (usize, (_, usize))| {
            let real = shape([1, PATCHES, heads, 6]);
            let tokens = if i == 0 { PATCHES } else { rows(129, 65) };
            dtypes(i).contains(&self.dtype).then_some((Shape { tokens, ..real }, Some(real)))
        };
        let edges = EDGES.into_iter().map(|of| (shape(of), None));
        edges.chain(MODELS.into_iter().enumerate().filter_map(model)).collect()
    }
    /// What variants are chosen for.
    pub fn machine(&self) -> Machine {
        Machine::from(&self.gpu)
    }
    /// A check of these sizes.
    pub fn checked(&self, op: &'static str, s: &Shape) -> Checked {
        let Shape { batch, tokens, heads, prototypes, .. } = s;
        Checked::new(op, self.outputs.name(), format!("{batch}x{tokens}x{heads}x{prototypes}"))
    }
    /// What rounding to the element type does.
    pub fn round(&self, x: f64) -> f64 {
        self.dtype.round(x as f32) as f64
    }
    pub fn hold_elements(&self, x: &[f64]) -> Held<u8> {
        let x: Vec<f32> = x.iter().map(|x| *x as f32).collect();
        let bytes = self.dtype.encode(&x);
        let host = self.dtype.decode(&bytes).iter().map(|x| *x as f64).collect();
        Held { host, on: self.gpu.upload(&bytes).unwrap() }
    }
    pub fn hold_floats(&self, x: &[f64]) -> Held<f32> {
        let x: Vec<f32> = x.iter().map(|x| *x as f32).collect();
        Held { host: x.iter().map(|x| *x as f64).collect(), on: self.gpu.upload(&x).unwrap() }
    }
    /// Random elements in `mean ± half`.
    pub fn elements(&self, name: &str, len: usize, mean: f64, half: f64) -> Held<u8> {
        self.hold_elements(&uniform(name, &[len], mean, half).cast::<f64>().data)
    }
    /// Random floats in `mean ± half`.
    pub fn floats(&self, name: &str, len: usize, mean: f64, half: f64) -> Held<f32> {
        self.hold_floats(&uniform(name, &[len], mean, half).cast::<f64>().data)
    }
    /// Rows of features whose mean is not small, and their statistics.
    pub fn features(&self, name: &str, rows: usize, c: usize) -> (Held<u8>, Buffer<[f32; 2]>) {
        let x = self.elements(name, rows * c, 0.3, 1.5);
        let stats = self.statistics(&x.host, c);
        (x, stats)
    }
    /// Of rows of c columns.
    pub fn statistics(&self, x: &[f64], c: usize) -> Buffer<[f32; 2]> {
        let stats: Vec<[f32; 2]> = x.chunks_exact(32).map(statistics).collect();
        self.gpu.upload(&panels(&stats, x.len() / c)).unwrap()
    }
    /// Weights `(n, k)` for a LayerNorm before them: rows without their mean; sums of the rounded rows.
    pub fn centred(&self, name: &str, n: usize, k: usize, half: f64) -> (Held<u8>, Held<f32>) {
        let mut w = uniform(name, &[n, k], 0.0, half).cast::<f64>().data;
        for row in w.chunks_exact_mut(k) {
            let mean = row.iter().sum::<f64>() / k as f64;
            row.iter_mut().for_each(|x| *x -= mean);
        }
        let w = self.hold_elements(&w);
        let sums: Vec<f64> = w.host.chunks_exact(k).map(|r| r.iter().sum()).collect();
        (w, self.hold_floats(&sums))
    }
    /// Words for a bench.
    pub fn case(&self, s: &Shape, variant: &str) -> String {
        let Shape { batch, tokens, heads, prototypes, .. } = s;
        format!("{batch}x{tokens}x{heads}x{prototypes}/{}/{variant}", self.dtype.name())
    }
    pub fn decode(&self, x: &Buffer<u8>) -> Vec<f64> {
        self.dtype.decode(&x.download(&self.stream).unwrap()).iter().map(|x| *x as f64).collect()
    }
    pub fn floats_of(&self, x: &Buffer<f32>) -> Vec<f64> {
        x.download(&self.stream).unwrap().iter().map(|x| *x as f64).collect()
    }
    /// An output full of NaN between two guards.
    pub fn output<T: Pod>(&self, len: usize) -> Guarded<T> {
        Guarded::new(&self.gpu, len)
    }
    /// An output of elements.
    pub fn output_elements(&self, len: usize) -> Guarded<u8> {
        self.output(len * self.dtype.bytes())
    }
    /// Bytes of an output.
    pub fn bytes<T: Pod>(&self, out: &Guarded<T>) -> Vec<u8> {
        bytemuck::cast_slice(&out.read(&self.stream)).to_vec()
    }
}

/// Mean and sum of squared differences.
pub fn statistics(x: &[f64]) -> [f32; 2] {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    [mean as f32, x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() as f32]
}

/// Mean and 1/deviation of a row.
pub fn moments(x: &[f64]) -> (f64, f64) {
    let [mean, m2] = [0, 1].map(|i| statistics64(x)[i]);
    (mean, 1.0 / (m2 / x.len() as f64 + EPS as f64).sqrt())
}

fn statistics64(x: &[f64]) -> [f64; 2] {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    [mean, x.iter().map(|x| (x - mean).powi(2)).sum::<f64>()]
}

/// `x (m, k) · w (n, k)ᵀ + bias`.
pub fn dense(x: &[f64], w: &[f64], k: usize, bias: Option<&[f64]>) -> Vec<f64> {
    let (m, n) = (x.len() / k, w.len() / k);
    product(&cpu(), [m, n, k], Mat::plain(x, k), Mat::transposed(w, k), bias)
}

/// Rows normalised.
pub fn normal(x: &[f64], c: usize, round: &dyn Fn(f64) -> f64) -> Vec<f64> {
    let row = |r: &[f64]| {
        let (mean, rstd) = moments(r);
        r.iter().map(|x| round((x - mean) * rstd)).collect::<Vec<_>>()
    };
    x.chunks_exact(c).flat_map(row).collect()
}

pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// Passes if the error of `got` is at most twice that of `naive`, the same computation with rounded steps, and a floor.
#[track_caller]
pub fn as_good(checked: &mut Checked, what: &str, on: &On, got: &[f64], naive: &[f64], want: &[f64]) {
    let floor = 0.05 * on.dtype.epsilon() + 2e-6;
    checked.within(what, rel_err(got, want), 2.0 * rel_err(naive, want) + floor);
}
