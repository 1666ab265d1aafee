//! `linear`: the layers of ViT-B and ViT-S at 392 px, one picture; packing the weights is part of the time, except in
//! `packed`, what the engine runs.

use half::bf16;
use inp_former::ops::linear::packed::{self, Epilogue, Input, Narrow, Packed};
use inp_former::ops::linear::{self, cuda, int8};
use inp_former::runtime::cuda::{Machine, Stream};
use inp_former::runtime::{Cpu, DType, Tensor};

use crate::gpu;
use crate::peak::{Work, cpus, time};
use crate::support::{close, random, uniform};

pub fn all(c: &mut criterion::Criterion) {
    for [m, n, k] in [[789, 3072, 768], [789, 768, 3072], [789, 2304, 768], [789, 1536, 384], [6, 768, 768]] {
        let (x, w, b) = (random("x", &[m, k]), random("w", &[n, k]), random("b", &[n]));
        let dy = random("dy", &[m, n]);
        let (case, flop) = (format!("{m}x{n}x{k}"), 2.0 * (m * n * k) as f64);
        for cpu in cpus() {
            let y = linear::forward(&cpu, &x, &w, Some(&b)).unwrap();
            let rows = Tensor::new(&[5, k], x.data[..5 * k].to_vec()).cast::<f64>();
            let want = linear::forward(&cpu, &rows, &w.cast(), Some(&b.cast())).unwrap();
            close(&case, &y.data[..5 * n], &want.data, 1e-5);
            time(c, "linear", &format!("forward/{case}"), &cpu, Work::Flop(flop), || {
                linear::forward(&cpu, &x, &w, Some(&b)).unwrap()
            });
            let (mut dw, mut db) = (w.zeros_like(), b.zeros_like());
            time(c, "linear", &format!("backward/{case}"), &cpu, Work::Flop(2.0 * flop), || {
                linear::backward(&cpu, &dy, &x, &w, &mut dw, Some(&mut db), true).unwrap()
            });
        }
    }
    for ([m, n, k], tail) in [
        ([789, 3072, 768], 0),
        ([789, 768, 3072], 0),
        ([789, 2304, 768], 0),
        ([784, 768, 3072], 72),
        ([789, 1536, 384], 0),
        ([784, 1536, 36], 0),
    ] {
        packed(c, [m, n, k], tail);
    }
    for [n, k] in
        [[3072, 768], [768, 3072], [2304, 768], [768, 768], [1536, 384], [384, 1536], [1152, 384], [384, 384]]
    {
        in_int8(c, [789, n, k]);
    }
    on_gpu(c);
}

/// Every tile at the layers of ViT-S and ViT-B with their epilogues, one picture and 32 (a small one on the emulator).
fn on_gpu(c: &mut criterion::Criterion) {
    let Some(gpu) = gpu::gpu() else { return };
    let layers = [[1152, 384], [384, 1536], [2304, 768], [768, 768], [3072, 768], [768, 3072]];
    let real = layers.into_iter().flat_map(|[n, k]| [789, 32 * 789].map(|m| [m, n, k])).collect();
    let shapes: Vec<[usize; 3]> = if gpu.is_emulated() { vec![[67, 128, 64], [67, 64, 128]] } else { real };
    let dtype = DType::Bf16;
    for [m, n, k] in shapes {
        let values = |name, len: usize, half| dtype.encode(&uniform(name, &[len], 0.0, half).data);
        let x = gpu.upload(&values("x", m * k, 1.0)).unwrap();
        let w = gpu.upload(&values("w", n * k, (3.0 / k as f64).sqrt())).unwrap();
        let (bias, zeros) = (gpu.upload(&random("b", &[n]).data).unwrap(), gpu.zeros::<f32>(n).unwrap());
        let of_x = gpu.upload(&vec![[0.0, 32.0 / 3.0]; cuda::statistics(m, k)]).unwrap();
        let (y, y_stats) = (gpu.zeros(m * n * 2).unwrap(), gpu.zeros(cuda::statistics(m, n)).unwrap());
        let residual = gpu.zeros::<f32>(m * n).unwrap();
        let wide = n > k;
        let epilogue = cuda::Epilogue {
            norm: wide.then_some(cuda::Norm { stats: &of_x, colsum: &zeros, eps: 1e-6 }),
            bias: Some(&bias),
            gelu: n == 4 * k,
            residual: (!wide).then_some(&residual),
            output: Some(cuda::Output { y: &y, stats: (!wide).then_some(&y_stats) }),
            groups: None,
        };
        let shape = cuda::Shape { rows: m, outputs: n, inputs: k };
        let machine = Machine::from(gpu);
        let chosen = cuda::choose(dtype, &machine, &shape, epilogue.gelu, None).unwrap();
        let mut same: Option<Vec<u8>> = None;
        for v in &cuda::VARIANTS {
            let run = |stream: &Stream| {
                cuda::forward(stream, dtype, v.name, &epilogue, &x, &w, &shape).unwrap();
            };
            residual.fill(&gpu.stream(), 0).unwrap();
            run(&gpu.stream());
            let got = y.download(&gpu.stream()).unwrap();
            assert!(dtype.decode(&got).iter().all(|y| y.is_finite()));
            assert!(*same.get_or_insert_with(|| got.clone()) == got, "{} gives other bits", v.name);
            let case =
                format!("cuda/{m}x{n}x{k}/{}{}", v.name, if v.name == chosen { " (chosen)" } else { "" });
            gpu::time(c, "linear", &case, gpu, Work::Flop(2.0 * (m * n * k) as f64), run);
        }
    }
}

/// One packed layer, with a second product of `tail` inputs if that is not 0; GELU where the layer widens. In f32, and in
/// bf16 where the chip can.
fn packed(c: &mut criterion::Criterion, [m, n, k]: [usize; 3], tail: usize) {
    for cpu in cpus() {
        let flop = 2.0 * (m * n * (k + tail)) as f64;
        packed_as::<f32>(c, &cpu, [m, n, k], tail, ("packed", 1e-5, Work::Flop(flop)));
        if cpu.has_bf16() {
            packed_as::<bf16>(c, &cpu, [m, n, k], tail, ("packed-bf16", 1e-2, Work::Bf16(flop)));
        }
    }
}

fn packed_as<X: Narrow>(
    c: &mut criterion::Criterion,
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    tail: usize,
    (what, tol, work): (&str, f64, Work),
) {
    let value = |name, shape: [usize; 2]| {
        let x = random(name, &shape);
        let rounded: Vec<X> = x.data.iter().map(|x| X::round(*x)).collect();
        (Tensor::new(&shape, rounded.iter().map(|x| x.widen()).collect()), rounded)
    };
    let ((x, ox), (w, _), b) = (value("x", [m, k]), value("w", [n, k]), random("b", &[n]));
    let ((xt, oxt), (wt, _)) = (value("xt", [m, tail]), value("wt", [n, tail]));
    let (name, epilogue) = if n > k { ("gelu", Epilogue::Gelu) } else { ("store", Epilogue::Store) };
    let case = format!("{what}/{m}x{n}x{k}+{tail}/{name}");
    let at = |r: usize, o: usize| {
        let dot = |x: &Tensor, w: &Tensor| {
            x.row(r).iter().zip(w.row(o)).map(|(x, w)| *x as f64 * *w as f64).sum::<f64>()
        };
        let y = b.data[o] as f64 + dot(&x, &w) + dot(&xt, &wt);
        if n > k { 0.5 * y * (1.0 + libm::erf(y / std::f64::consts::SQRT_2)) } else { y }
    };
    let want: Vec<f64> = (0..5 * n).map(|e| at(e / n, e % n)).collect();
    let weights = Packed::<X>::paired(cpu, &w.data, n, k, b.data.clone());
    let more = Packed::<X>::new(cpu, &wt.data, n, tail, Vec::new());
    let second = (tail > 0).then(|| (Input { data: &oxt[..], ld: tail }, more.view()));
    let first = Input { data: &ox[..], ld: k };
    let mut pairs = vec![0.0; packed::paired_len(m, k)];
    // As the engine has it: operands of the next product where the layer widens, sums where it does not.
    if n > k {
        let mut y = vec![X::default(); m * n];
        let mut run = || {
            let first = packed::pair(cpu, m, first, &weights, &mut pairs);
            packed::forward(cpu, m, first, weights.view(), second, &mut y, n, epilogue, None)
        };
        run();
        time(c, "linear", &case, cpu, work, run);
        close(&case, &y[..5 * n].iter().map(|y| y.widen()).collect::<Vec<f32>>(), &want, tol);
    } else {
        let mut y = vec![0.0; m * n];
        let mut run = || {
            let first = packed::pair(cpu, m, first, &weights, &mut pairs);
            packed::forward(cpu, m, first, weights.view(), second, &mut y, n, epilogue, None)
        };
        run();
        time(c, "linear", &case, cpu, work, run);
        close(&case, &y[..5 * n], &want, tol);
    }
}

/// One layer in int8 (store, and GELU where the layer widens), and the passes that round its input.
fn in_int8(c: &mut criterion::Criterion, [m, n, k]: [usize; 3]) {
    let (x, w, b) = (random("x", &[m, k]), random("w", &[n, k]), random("b", &[n]));
    let by = vec![1.0; k];
    for cpu in cpus() {
        let weights = int8::Packed::new(&cpu, &w.data, n, k, b.data.clone());
        let mut rows = int8::Rows::new(m, k);
        rows.quantise(&cpu, &x.data, &by);
        let (x8, w8) = (rows.dequantised(), weights.dequantised());
        let want: Vec<f64> = (0..5 * n)
            .map(|e| {
                let (x, w) = (&x8[e / n * k..][..k], &w8[e % n * k..][..k]);
                b.data[e % n] as f64 + x.iter().zip(w).map(|(x, w)| *x as f64 * *w as f64).sum::<f64>()
            })
            .collect();
        let mut y = vec![0.0; m * n];
        int8::forward(&cpu, &rows, &weights, &mut y, n, Epilogue::Store, None);
        close("int8", &y[..5 * n], &want, 1e-5);
        let epilogues = [("store", Epilogue::Store), ("gelu", Epilogue::Gelu)];
        for (name, epilogue) in epilogues.into_iter().take(if n == 4 * k { 2 } else { 1 }) {
            let case = format!("int8/{m}x{n}x{k}/{name}");
            time(c, "linear", &case, &cpu, Work::Int8(2.0 * (m * n * k) as f64), || {
                int8::forward(&cpu, &rows, &weights, &mut y, n, epilogue, None)
            });
        }
        if n != k {
            continue;
        }
        for k in [k, 4 * k] {
            let (x, by) = (random("x", &[m, k]), vec![1.0; k]);
            let mut rows = int8::Rows::new(m, k);
            let bytes = Work::Bytes(5.0 * (m * k) as f64);
            time(c, "linear", &format!("int8/{m}x{k}/quantise"), &cpu, bytes, || {
                rows.quantise(&cpu, &x.data, &by)
            });
            let bytes = Work::Bytes(5.0 * (m * k) as f64);
            time(c, "linear", &format!("int8/{m}x{k}/normalise"), &cpu, bytes, || {
                rows.normalise(&cpu, &x.data, 1e-6, &by)
            });
        }
    }
}
