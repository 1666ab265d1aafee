//! A vision transformer's forward pass on the emulator, in kernels that Triton compiled (`vit.ptx`, by `make.py`).

use half::bf16;
use inp_cuda_emulator::exec::launch::Report;
use inp_cuda_emulator::options::Options;
use inp_cuda_emulator::run::{Arg, Machine};

/// Sizes: tokens, width, heads of 64.
#[derive(Clone, Copy)]
pub struct Size {
    pub tokens: u32,
    pub width: u32,
}
/// ViT-S/14 at 392 pixels: 28² patches, a class token, four registers.
pub const SMALL: Size = Size { tokens: 789, width: 384 };

/// Buffers of one block, and its weights.
pub struct Vit {
    pub machine: Machine,
    size: Size,
    /// Residual stream, normalised tokens, q k v, attended, hidden: bf16.
    buffers: [u64; 5],
    /// bf16 numbers for every weight.
    weights: u64,
    /// f32 numbers for every bias and scale.
    vector: u64,
}

/// Numbers in ±`scale`, always the same.
fn numbers(n: u32, scale: f32) -> impl Iterator<Item = f32> {
    (0..n).map(move |i| ((i.wrapping_mul(0x9E37_79B9) >> 16) as f32 / 32768. - 1.) * scale)
}
/// As [`numbers`].
pub fn halves(n: u32, scale: f32) -> Vec<bf16> {
    numbers(n, scale).map(bf16::from_f32).collect()
}

impl Vit {
    /// On an H100 whose checkers may be switched on later.
    pub fn new(size: Size) -> Self {
        let mut machine = Machine::new("h100", Options::all()).expect("a device");
        machine.load(include_str!("vit.ptx")).expect("PTX that loads");
        let (t, c) = (size.tokens, size.width);
        let buffers = [1, 1, 3, 1, 4].map(|n| machine.upload(&halves(t * n * c, 1.)));
        let weights = machine.upload(&halves(4 * c * c, 0.1));
        let vector: Vec<f32> = numbers(4 * c, 0.1).collect();
        let vector = machine.upload(&vector);
        Self { machine, size, buffers, weights, vector }
    }
    fn go(&self, kernel: &str, grid: (u32, u32), threads: u32, args: &[Arg]) -> Report {
        let shared = if threads > 32 { 24576 } else { 0 };
        let params = self.machine.program.as_ref().map_or(0, |p| {
            let kernel = p.function(kernel).expect("a kernel of vit.ptx");
            p.functions[kernel].params.len()
        });
        // Triton's scratch pointers come last.
        let args: Vec<Arg> =
            args.iter().cloned().chain(std::iter::repeat(0u64.into())).take(params).collect();
        let report = self.machine.launch(kernel, grid, threads, shared, &args);
        report.ok();
        report
    }
    /// `y[tokens, n] = f(x[tokens, k] wᵀ + bias)`; n a multiple of 128, k of 64. `linear_gelu` has a GELU, `linear_add`
    /// adds to y.
    pub fn linear(&self, kernel: &str, x: u64, y: u64, n: u32, k: u32) -> Report {
        let m = self.size.tokens;
        let args =
            [x.into(), self.weights.into(), self.vector.into(), y.into(), m.into(), n.into(), k.into()];
        self.go(kernel, (m.div_ceil(64), n / 128), 128, &args)
    }
    /// From q k v to what is attended.
    pub fn attention(&self) -> Report {
        let [_, _, qkv, attended, _] = self.buffers;
        let Size { tokens: t, width: c } = self.size;
        let args = [qkv.into(), attended.into(), t.into(), c.into(), 0.125f32.into()];
        self.go("attention", (t.div_ceil(64), c / 64), 128, &args)
    }
    /// Of the residual stream.
    pub fn layernorm(&self) -> Report {
        let [x, normal, ..] = self.buffers;
        let Size { tokens: t, width: c } = self.size;
        let v = self.vector;
        self.go(
            "layernorm",
            (t, 1),
            32,
            &[x.into(), v.into(), v.into(), normal.into(), c.into(), 1e-6f32.into()],
        )
    }
    /// One launch as a block of the transformer makes it, by name; its multiply-adds count twice in what is returned.
    pub fn launch(&self, kernel: &str) -> (Report, f64) {
        let [x, normal, qkv, attended, hidden] = self.buffers;
        let Size { tokens: t, width: c } = self.size;
        let flop = |n: u32| 2. * f64::from(t) * f64::from(c) * f64::from(n);
        match kernel {
            "layernorm" => (self.layernorm(), 0.),
            "attention" => (self.attention(), flop(2 * t)),
            "qkv" => (self.linear("linear", normal, qkv, 3 * c, c), flop(3 * c)),
            "project" => (self.linear("linear_add", attended, x, c, c), flop(c)),
            "expand" => (self.linear("linear_gelu", normal, hidden, 4 * c, c), flop(4 * c)),
            _ => (self.linear("linear_add", hidden, x, c, 4 * c), flop(4 * c)),
        }
    }
    /// A forward pass of so many blocks that attend over all tokens, and of others that do not (a decoder's attention to a
    /// few prototypes costs next to nothing). How many floating-point operations it was.
    pub fn forward(&self, attending: u32, others: u32) -> f64 {
        let block = |attends: bool| -> f64 {
            let names = ["layernorm", "qkv", "attention", "project", "layernorm", "expand", "reduce"];
            names.iter().filter(|&&n| attends || n != "attention").map(|n| self.launch(n).1).sum()
        };
        (0..attending).map(|_| block(true)).sum::<f64>() + (0..others).map(|_| block(false)).sum::<f64>()
    }
    /// The input and the output of the first product, `q k v`, with its weights and biases: rows are tokens.
    pub fn first(&self) -> [Vec<f32>; 4] {
        let Size { tokens: t, width: c } = self.size;
        let read =
            |at, n: u32| self.machine.read::<bf16>(at, n as usize).into_iter().map(bf16::to_f32).collect();
        let bias = self.machine.read(self.vector, 3 * c as usize);
        [read(self.buffers[1], t * c), read(self.weights, 3 * c * c), bias, read(self.buffers[2], t * 3 * c)]
    }
}
