//! `cargo bench -p inp-cuda-emulator [-- KERNEL [WAY]]`: GFLOP/s and lane instructions a second of a vision transformer's kernels, and its
//! forward pass at 392 pixels: ten blocks that attend over all tokens and eight that do not, as a decoder's do.

#[allow(dead_code)] // The test has other uses of it.
#[path = "../tests/speed/vit.rs"]
mod vit;

use inp_cuda_emulator::options::Options;
use std::time::Instant;
use vit::{SMALL, Vit};

/// Seconds of the fastest of three runs.
fn best(mut f: impl FnMut()) -> f64 {
    let one = |_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..3).map(one).fold(f64::MAX, f64::min)
}

fn main() {
    let mut words = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let [only, way] = [(); 2].map(|()| words.next().unwrap_or_default());
    let with = |threads: usize, base: Options| Options { threads: Some(threads), ..base };
    let count = Options { count: true, ..Options::default() };
    let mut ways = vec![
        ("1 thread", with(1, Options::default())),
        ("2 threads", with(2, Options::default())),
        ("1, counters", with(1, count.clone())),
        ("1, checkers", with(1, Options::all())),
        ("2, checkers", with(2, Options::all())),
    ];
    ways.retain(|w| w.0.contains(&way));
    let mut v = Vit::new(SMALL);
    println!("{:10} {:12} {:>9} {:>9} {:>13}", "kernel", "way", "ms", "GFLOP/s", "G lane inst/s");
    let names = ["qkv", "expand", "reduce", "attention", "layernorm"];
    for kernel in names.into_iter().filter(|k| k.contains(&only)) {
        v.machine.options = count.clone();
        let (report, flop) = v.launch(kernel);
        let program = v.machine.program.as_ref().expect("a program");
        let lanes = report.counters.map_or(0, |c| c.summary(program).lane_instructions) as f64;
        for (name, options) in &ways {
            v.machine.options = options.clone();
            let s = best(|| _ = v.launch(kernel));
            let (ms, gflops, giga) = (s * 1e3, flop / s * 1e-9, lanes / s * 1e-9);
            println!("{kernel:10} {name:12} {ms:9.2} {gflops:9.1} {giga:13.2}");
        }
    }
    for (name, options) in ways.iter().filter(|_| "forward".contains(&only)) {
        v.machine.options = options.clone();
        let start = Instant::now();
        let flop = v.forward(10, 8);
        let s = start.elapsed().as_secs_f64();
        println!("forward    {name:12} {:9.0} {:9.1}", s * 1e3, flop / s * 1e-9);
    }
}
