//! What each case must compute, in float64: for each result, numbers and the magnitude that the tolerance refers to.

use super::Buffer;
use super::number::{Number, quantise};
use serde_json::Value;

type Expected = Vec<Vec<(f64, f64)>>;

/// Numbers that must come out exactly or relative to their own magnitude.
fn own(x: impl IntoIterator<Item = f64>) -> Vec<(f64, f64)> {
    x.into_iter().map(|x| (x, x.abs())).collect()
}

/// Pairs of sum and sum of magnitudes.
fn add(a: (f64, f64), x: f64) -> (f64, f64) {
    (a.0 + x, a.1 + x.abs())
}

/// erf by its series, and by the continued fraction of erfc where that converges faster.
fn erf(x: f64) -> f64 {
    let z = x.abs();
    let r = if z < 2.5 {
        let (mut term, mut sum) = (z, z);
        for n in 1..100 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let mut f = z;
        for n in (1..60).rev() {
            f = z + f64::from(n) / 2. / f;
        }
        1. - (-z * z).exp() / f / std::f64::consts::PI.sqrt()
    };
    r.copysign(x)
}

fn philox(seed: u32, counter: u32) -> u32 {
    let (mut c, mut k) = ([counter, 0, 0, 0], [seed, 0]);
    for _ in 0..10 {
        let a = u64::from(c[0]) * 0xD251_1F53;
        let b = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c[0]
}

/// Softmax of a list.
fn softmax(x: &[f64]) -> Vec<f64> {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = x.iter().map(|x| (x - top).exp()).sum();
    x.iter().map(|x| (x - top).exp() / total).collect()
}

/// An operation's results from its inputs.
#[allow(clippy::too_many_lines)]
pub fn compute(op: &Value, b: &[Buffer]) -> Expected {
    let size = |name: &str| op[name].as_u64().unwrap_or_else(|| panic!("{op} has no {name}")) as usize;
    let flag = |name: &str| op[name] == true;
    let word = |name: &str| op[name].as_str().unwrap_or_default();
    let x = &b[0].data;
    let last = b.last().expect("a buffer");
    match word("kind") {
        "matmul" => {
            let (m, n, k) = (size("m"), size("n"), size("k"));
            let start = op["start"].as_f64().unwrap_or(0.);
            let a = |i: usize, l: usize| if flag("ta") { x[l * m + i] } else { x[i * k + l] };
            let w = |l: usize, j: usize| if flag("tb") { b[1].data[j * k + l] } else { b[1].data[l * n + j] };
            let one = |e: usize| {
                let r = (0..k).fold((start, start.abs()), |s, l| add(s, a(e / n, l) * w(l, e % n)));
                (if last.number == Number::I32 { r.0.min(f64::from(i32::MAX)) } else { r.0 }, r.1)
            };
            vec![(0..m * n).map(one).collect()]
        }
        "sparse" => {
            // Two bits of metadata say where in its group a number lies; in groups of two the upper of them does.
            let (m, n, k, group) = (size("m"), size("n"), size("k"), size("group"));
            let (meta, bits) = (&b[2].data, 8 * b[2].number.bytes());
            let mut dense = vec![0.; m * k];
            for (i, &value) in x.iter().enumerate() {
                let (row, at) = (i / (k / 2), i % (k / 2));
                let (place, group_at) = if group == 2 { (4 * at, at) } else { (2 * at, at / 2) };
                let word = meta[(row * (k / group) * 4 + place) / bits] as u64;
                let index = (word >> (place % bits) & 3) as usize / (4 / group);
                dense[row * k + group_at * group + index] = value;
            }
            let one = |e: usize| {
                let product = |l: usize| dense[e / n * k + l] * b[1].data[e % n * k + l];
                (0..k).fold((0., 0.), |s, l| add(s, product(l)))
            };
            let c = (0..m * n).map(one).collect();
            vec![own(dense.iter().copied()), c]
        }
        "matmul_gelu" => {
            let (m, n, k) = (size("m"), size("n"), size("k"));
            let one = |e: usize| {
                let s = (0..k)
                    .fold((b[2].data[e % n], 0.), |s, l| add(s, x[e / n * k + l] * b[1].data[l * n + e % n]));
                (0.5 * s.0 * (1. + erf(s.0 * std::f64::consts::FRAC_1_SQRT_2)), s.1)
            };
            vec![(0..m * n).map(one).collect()]
        }
        "attention" => {
            let (t, d, scale) = (size("t"), size("d"), op["scale"].as_f64().expect("a scale"));
            let mut r = vec![];
            for row in 0..size("heads") * t {
                let head = row / t * t;
                let end = if flag("causal") { row + 1 - head } else { t };
                let dot =
                    |j: usize| (0..d).map(|c| x[row * d + c] * b[1].data[(head + j) * d + c]).sum::<f64>();
                let p = softmax(&(0..end).map(|j| dot(j) * scale).collect::<Vec<_>>());
                r.extend((0..d).map(|c| {
                    p.iter().enumerate().fold((0., 0.), |s, (j, p)| add(s, p * b[2].data[(head + j) * d + c]))
                }));
            }
            vec![r]
        }
        "layernorm" => {
            let n = size("n");
            let row = |v: &[f64]| {
                let mean = v.iter().sum::<f64>() / n as f64;
                let var = v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
                let one = |i: usize| {
                    let (y, bias) = ((v[i] - mean) / (var + 1e-5).sqrt() * b[1].data[i], b[2].data[i]);
                    (y + bias, y.abs() + bias.abs() + 0.1)
                };
                (0..n).map(one).collect::<Vec<_>>()
            };
            vec![x.chunks(n).flat_map(row).collect()]
        }
        "softmax" => vec![own(x.chunks(size("n")).flat_map(softmax))],
        "softmax_columns" => {
            let (m, n) = (size("rows"), size("n"));
            let column = |j| softmax(&(0..m).map(|i| x[i * n + j]).collect::<Vec<_>>());
            let columns: Vec<_> = (0..n).map(column).collect();
            vec![own((0..m * n).map(|e| columns[e % n][e / n]))]
        }
        "reduce" => {
            let (m, n) = (size("rows"), size("n"));
            let lists: Vec<Vec<f64>> = match size("axis") {
                0 => (0..n).map(|j| (0..m).map(|i| x[i * n + j]).collect()).collect(),
                _ => x.chunks(n).map(<[f64]>::to_vec).collect(),
            };
            let place = |v: &[f64], sign: f64| {
                (0..v.len()).fold(0, |best, i| if sign * v[i] > sign * v[best] { i } else { best }) as f64
            };
            let one = |v: &Vec<f64>| match word("op") {
                "sum" => v.iter().fold((0., 0.), |s, &x| add(s, x)),
                "max" => (v.iter().copied().fold(f64::MIN, f64::max), 0.),
                "min" => (v.iter().copied().fold(f64::MAX, f64::min), 0.),
                "argmax" => (place(v, 1.), 0.),
                "argmin" => (place(v, -1.), 0.),
                _ => (f64::from(v.iter().fold(0, |a, &x| a ^ x as i32)), 0.),
            };
            vec![lists.iter().map(one).collect()]
        }
        "moments" => {
            let n = size("n") as f64;
            let mean: Vec<_> = x.chunks(size("n")).map(|v| v.iter().sum::<f64>() / n).collect();
            let var = x.chunks(size("n")).zip(&mean);
            let var = var.map(|(v, m)| v.iter().map(|x| (x - m).powi(2)).sum::<f64>() / n);
            vec![mean.iter().map(|&m| (m, 1.)).collect(), own(var)]
        }
        "cumsum" => {
            let (m, n) = (size("rows"), size("n"));
            let (long, short, step, stride) = if size("axis") == 0 { (m, n, n, 1) } else { (n, m, 1, n) };
            let mut r = vec![(0., 0.); m * n];
            for s in 0..short {
                let mut sum = (0., 0.);
                for l in 0..long {
                    let l = if flag("back") { long - 1 - l } else { l };
                    sum = add(sum, x[s * stride + l * step]);
                    r[s * stride + l * step] = sum;
                }
            }
            vec![r]
        }
        "scan_linear" => {
            let mut y = (0., 0.);
            let one = |e: usize| {
                let (a, c) = (x[e], b[1].data[e]);
                y = if e.is_multiple_of(size("n")) {
                    (c, c.abs())
                } else {
                    (a * y.0 + c, a.abs() * y.1 + c.abs())
                };
                y
            };
            vec![(0..x.len()).map(one).collect()]
        }
        "atomic_sum" => {
            let n = size("n");
            vec![(0..n).map(|i| x.iter().skip(i).step_by(n).fold((0., 0.), |s, &v| add(s, v))).collect()]
        }
        "atomic_extremes" => {
            let or = x.iter().fold(0, |a, &x| a | x as i32);
            let high = x.iter().copied().fold(0., f64::max);
            let low = x.iter().copied().fold(0., f64::min);
            vec![own([high]), own([low]), own([f64::from(or)])]
        }
        "histogram" => {
            vec![own((0..size("n")).map(|i| x.iter().filter(|&&v| v == i as f64).count() as f64))]
        }
        "transpose" => {
            let (m, n) = (size("m"), size("n"));
            vec![own((0..m * n).map(|e| x[e % m * n + e / m]))]
        }
        "padded" => {
            let n = 64;
            let rows = size("rows");
            vec![own((0..n * n).map(|e| if e % n < rows { x[e % n * n + e / n] } else { 0. }))]
        }
        "permute" => {
            let (p, q, r) = (size("a"), size("b"), size("c"));
            vec![own((0..p * q * r).map(|e| x[(e / q % p * q + e % q) * r + e / (p * q)]))]
        }
        "gather_rows" => {
            let d = size("d");
            vec![own((0..size("count") * d).map(|e| x[b[1].data[e / d] as usize * d + e % d]))]
        }
        "gather_block" => {
            let n = size("n");
            let at = |e: usize, i: usize| if size("axis") == 0 { i * n + e % n } else { e / n * n + i };
            vec![own((0..x.len()).map(|e| x[at(e, b[1].data[e] as usize)]))]
        }
        "convert" => {
            // 64-bit integers go through f32.
            let via = |v: f64| if b[0].number == Number::I64 { Number::F32.round(v) } else { v };
            vec![own(x.iter().map(|&v| last.number.round(via(v))))]
        }
        "convert_chain" => {
            let times = |f: f64| move |v: &f64| (Number::F32.round(v * f)).trunc();
            let to = |n: Number| own(x.iter().map(|&v| n.round(v)));
            let f8 = to(Number::E5m2);
            vec![
                to(Number::F16),
                to(Number::Bf16),
                f8,
                own(x.iter().map(times(10.))),
                own(x.iter().map(times(1000.))),
            ]
        }
        "functions" => {
            let one = |&v: &f64| match word("op") {
                "exp" => (v.exp(), v.exp() * 2.),
                "log" => ((v.abs() + 0.01).ln(), 1.),
                "sin" => (Number::F32.round(v * 20.).sin(), 1.),
                "erf" => (erf(v), 1.),
                "sqrt" => (v.abs().sqrt() + 1. / (v.abs() + 1.).sqrt() + 1. / (v.abs() + 0.5), 3.),
                "sigmoid" => (1. / (1. + (-v).exp()), 1.),
                _ => ((v * 4.).floor() + (v * 8.).ceil() * 0.5 + v.clamp(-0.5, 0.5) + v * v + v, 50.),
            };
            vec![x.iter().map(one).collect()]
        }
        "sort" => {
            let mut x = x.clone();
            x.chunks_mut(size("n")).for_each(|r| r.sort_by(f64::total_cmp));
            vec![own(x)]
        }
        "philox" => {
            let seed = size("seed") as u32;
            vec![own((0..size("count")).map(|i| f64::from(philox(seed, i as u32) as i32)))]
        }
        "integers" => {
            let one = |(&p, &q): (&f64, &f64)| {
                let (p, q) = (p as i32, q as i32);
                let high = (u64::from(p as u32) * u64::from(q as u32) >> 32) as u32;
                // Triton adds in the wider of two types, from the left.
                let wide =
                    i64::from(p) * i64::from(q) + i64::from(p / q) + i64::from((p % q).wrapping_mul(3));
                (wide + i64::from(p >> (q & 15)) + i64::from(high)) as f64
            };
            vec![own(x.iter().zip(&b[1].data).map(one))]
        }
        "conv1d" => {
            let (t, c, o, s) = (size("t"), size("c"), size("o"), size("s"));
            let one = |e: usize| {
                let (row, out) = (e / o, e % o);
                let terms = (0..s * c).filter(|i| row + i / c < t);
                terms.fold((0., 0.), |a, i| add(a, x[(row + i / c) * c + i % c] * b[1].data[i * o + out]))
            };
            vec![(0..t * o).map(one).collect()]
        }
        kind => panic!("no operation is called {kind}"),
    }
}

/// Whether the generator and the formats agree with themselves and with known values.
#[test]
fn numbers() {
    for (n, bits) in [(Number::F16, 0x7C00), (Number::E4m3, 0x7F), (Number::E5m2, 0x7C)] {
        let codes: Vec<u8> = (0u32..bits).flat_map(|c| c.to_le_bytes().into_iter().take(n.bytes())).collect();
        let values = n.decode(&codes);
        assert!(values.windows(2).all(|w| w[0] < w[1]), "{n:?} in order");
        assert_eq!(n.encode(&values), codes);
        assert!(values.iter().all(|&v| n.round(v) == v));
    }
    assert_eq!(Number::E4m3.decode(&[0x38, 0x7E, 0xB8]), [1., 448., -1.]);
    assert_eq!(quantise(1. + f64::powi(2., -11), 11, -14), 1.);
    assert!(
        (erf(1.) - 0.842_700_792_949_714_9).abs() < 1e-15
            && (erf(3.) - 0.999_977_909_503_001_4).abs() < 1e-15
    );
}
