//! Times of kernels on a GPU, by its own clock.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode};
use inp_former::error::{Error, Result};
use inp_former::runtime::cuda::{Gpu, Stream, image};

use crate::peak::Work;

/// The first GPU, or with `INP_BENCH_DEVICE=emulated` the emulator's, whose times mean nothing: cases should then be small.
/// Says so once if there is none, or no kernels.
pub fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    let emulated = std::env::var_os("INP_BENCH_DEVICE").is_some_and(|v| v == "emulated");
    let open = || -> Result<Gpu> {
        match image::IMAGES {
            [] => Err(Error::Device("this build holds no kernels".into())),
            _ if emulated => Gpu::emulated(),
            _ => Gpu::open(0),
        }
    };
    GPU.get_or_init(|| open().inspect_err(|e| println!("no CUDA benches: {e}")).ok()).as_ref()
}

/// Times what `launch` queues as `op/case` and prints its best rate.
pub fn time(c: &mut Criterion, op: &str, case: &str, gpu: &Gpu, work: Work, launch: impl Fn(&Stream)) {
    let mut group = c.benchmark_group(op);
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300));
    let (stream, best) = (gpu.stream(), Cell::new(f64::INFINITY));
    group.bench_function(BenchmarkId::new(case, gpu.name()), |b| {
        b.iter_custom(|n| {
            let (start, end) = (gpu.event().unwrap(), gpu.event().unwrap());
            stream.record(&start).unwrap();
            (0..n).for_each(|_| launch(&stream));
            stream.record(&end).unwrap();
            end.synchronize().unwrap();
            let seconds = f64::from(end.since(&start).unwrap()) / 1e3;
            best.set(best.get().min(seconds / n as f64));
            Duration::from_secs_f64(seconds)
        })
    });
    group.finish();
    if best.get().is_finite() && !gpu.is_emulated() {
        let (rate, unit) = match work {
            Work::Flop(n) | Work::Bf16(n) => (n / best.get() / 1e12, "TFLOP/s"),
            Work::Int8(n) => (n / best.get() / 1e12, "TOP/s"),
            Work::Bytes(n) => (n / best.get() / 1e9, "GB/s"),
        };
        println!("    best {:.1} us: {rate:.1} {unit}\n", best.get() * 1e6);
    }
}
