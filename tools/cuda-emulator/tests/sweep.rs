//! What nvcc makes of C++: every language and library feature of a kernel (`foreign/sweep_features.cu`) loads and leaves what
//! its comment says; the mathematics library (`foreign/sweep_math.cu`) stays within its documented errors. `foreign/make_sweep.sh`
//! compiles them.

use inp_cuda_emulator::{options::Options, run::Machine};
use std::path::PathBuf;

fn read(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/sweep").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What element `t` of a kernel's result is; `None`: it has only to run.
fn expected(kernel: &str, t: i32) -> Option<i32> {
    const JUMPS: [i32; 16] = [31, 4, 15, 9, 2, 65, 35, 89, 7, 93, 23, 84, -1, -1, -1, -1];
    const FIBONACCI: [i32; 12] = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
    Some(match kernel {
        "tile_reduce" => 120,
        "tile_scan" => t % 32,
        "coalesced" => 4,
        "block_reduce" | "atomic_refs" => 128,
        "labeled" | "prints" => t,
        "block_barrier" => 127 - t,
        "memcpy_barrier" => 3 * t,
        "pipeline" => t + 5,
        "pipeline_primitives" => 7 * t,
        "virtual_functions" => 3 + t % 2,
        "recursion" => FIBONACCI[t as usize % 12],
        "function_pointers" => [2 * t, t * t][t as usize % 2],
        "jump_table" => JUMPS[t as usize % 16],
        "variables" => 23,
        "dynamic_shared" => 7,
        "cache_hints" => 6 * t,
        name if name.starts_with("any") => return None,
        _ => 1,
    })
}

#[test]
fn features() {
    let mut failures = vec![];
    for (file, gpu) in [("features.sm_80.ptx", "a100"), ("features.sm_89.ptx", "rtx4090")] {
        let text = read(file);
        let kernels: Vec<&str> = text
            .lines()
            .filter_map(|l| l.strip_prefix(".visible .entry "))
            .map(|l| l.trim_end_matches('('))
            .collect();
        assert!(kernels.len() >= 25, "{kernels:?}");
        for seed in [None, Some(1), Some(2)] {
            let base = if seed.is_some() { Options::all() } else { Options::default() };
            let mut m = Machine::new(gpu, Options { seed, ..base }).unwrap();
            m.load(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
            for kernel in &kernels {
                // A grid's barrier wants a cooperative launch; the other two reuse shared memory without a barrier.
                if matches!(*kernel, "grid_sync" | "atomic_refs") || *kernel == "matrices" && seed.is_some() {
                    continue;
                }
                let o = m.upload(&[0i32; 128]);
                let r = m.launch(kernel, 1, 128, 512, &[o.into()]);
                let got = m.read::<i32>(o, 128);
                let want = |t: usize| expected(kernel, t as i32).unwrap_or(got[t]);
                if let Some((site, fault)) = &r.fault {
                    failures.push(format!("{gpu} {kernel} (seed {seed:?}): {fault} in {site}"));
                } else if let Some(f) = r.findings.first() {
                    failures.push(format!("{gpu} {kernel} (seed {seed:?}): {f}"));
                } else if let Some(t) = (0..128).find(|&t| got[t] != want(t)) {
                    failures.push(format!(
                        "{gpu} {kernel} (seed {seed:?}): [{t}] is {}, not {}",
                        got[t],
                        want(t)
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

type Reference = fn(f64, f64) -> f64;
/// A function, its value in f64, documented ulp in float and double, arguments from … to ….
const FUNCTIONS: &[(&str, Reference, [f64; 2], [f64; 2])] = &[
    ("sin", |x, _| x.sin(), [2., 2.], [-1e5, 1e5]),
    ("cos", |x, _| x.cos(), [2., 2.], [-1e5, 1e5]),
    ("tan", |x, _| x.tan(), [4., 2.], [-1e5, 1e5]),
    ("asin", |x, _| x.asin(), [2., 2.], [-1., 1.]),
    ("acos", |x, _| x.acos(), [2., 2.], [-1., 1.]),
    ("atan", |x, _| x.atan(), [2., 2.], [-20., 20.]),
    ("sinh", |x, _| x.sinh(), [3., 2.], [-20., 20.]),
    ("cosh", |x, _| x.cosh(), [2., 1.], [-20., 20.]),
    ("tanh", |x, _| x.tanh(), [2., 1.], [-5., 5.]),
    ("asinh", |x, _| x.asinh(), [3., 3.], [1., 50.]),
    ("acosh", |x, _| x.acosh(), [4., 3.], [2., 50.]),
    ("atanh", |x, _| x.atanh(), [3., 2.], [0.1, 0.9]),
    ("exp", |x, _| x.exp(), [2., 1.], [-80., 80.]),
    ("exp2", |x, _| x.exp2(), [2., 1.], [-120., 120.]),
    ("expm1", |x, _| x.exp_m1(), [1., 1.], [-3., 3.]),
    ("log", |x, _| x.ln(), [1., 1.], [0.001, 100.]),
    ("log2", |x, _| x.log2(), [1., 1.], [0.001, 100.]),
    ("log10", |x, _| x.log10(), [2., 1.], [0.001, 100.]),
    ("log1p", |x, _| x.ln_1p(), [1., 1.], [-0.9, 5.]),
    ("sqrt", |x, _| x.sqrt(), [0., 0.], [0., 1e6]),
    ("cbrt", |x, _| x.cbrt(), [1., 1.], [-1e6, 1e6]),
    ("pow", f64::powf, [4., 2.], [0.1, 9.]),
    ("atan2", f64::atan2, [3., 2.], [-5., 5.]),
    ("hypot", f64::hypot, [3., 2.], [-1e3, 1e3]),
    ("fmod", |x, y| x % y, [0., 0.], [-1e6, 1e6]),
];

#[test]
fn mathematics() {
    let mut m = Machine::new("a100", Options::default()).unwrap();
    m.load(&read("math.sm_80.ptx")).unwrap_or_else(|e| panic!("{e}"));
    let mut failures = vec![];
    for &(name, f, [ulp32, ulp64], [from, to]) in FUNCTIONS {
        let mut r = crate::exact::Rng(11);
        let mut draw = |from: f64, to: f64| from + (to - from) * (r.word(32) as f64 / 4294967296.);
        let x: Vec<f64> = (0..1024).map(|_| draw(from, to)).collect();
        let z: Vec<f64> = (0..1024).map(|_| draw(-4., 6.)).collect();
        let [narrow_x, narrow_z] = [&x, &z].map(|x| x.iter().map(|&x| x as f32).collect::<Vec<_>>());
        let y = m.upload(&vec![0f32; 1024]);
        m.launch(
            &format!("{name}_32"),
            1,
            1024,
            0,
            &[m.upload(&narrow_x).into(), m.upload(&narrow_z).into(), y.into()],
        )
        .ok();
        for (n, got) in m.read::<f32>(y, 1024).into_iter().enumerate() {
            let want = f(narrow_x[n].into(), narrow_z[n].into());
            let ulp = f64::from((want.abs() as f32).next_up()) - f64::from(want.abs() as f32);
            // A reference with half an ulp of its own to round away.
            if !((f64::from(got) - want).abs() <= (ulp32 + 0.5) * ulp) {
                failures.push(format!("{name}f({}, {}): {got}, not {want}", narrow_x[n], narrow_z[n]));
                break;
            }
        }
        let y = m.upload(&vec![0f64; 1024]);
        m.launch(&format!("{name}_64"), 1, 1024, 0, &[m.upload(&x).into(), m.upload(&z).into(), y.into()])
            .ok();
        for (n, got) in m.read::<f64>(y, 1024).into_iter().enumerate() {
            let want = f(x[n], z[n]);
            // The host's library is within an ulp, some of its inverse hyperbolic functions within a few.
            let own = if name.ends_with("nh") || name.ends_with("sh") { 4. } else { 1. };
            if !((got - want).abs() <= (ulp64 + own) * (want.abs().next_up() - want.abs())) {
                failures.push(format!("{name}({}, {}): {got}, not {want}", x[n], z[n]));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
