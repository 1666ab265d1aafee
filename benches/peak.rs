//! What this machine can do at most, measured in the same run as the kernels, whose shares are of these numbers.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode};
use half::bf16;
use inp_former::runtime::simd::int8::{Dot, MR, NR, Tile};
use inp_former::runtime::simd::{Product, ProductKernel};
use inp_former::runtime::{Cpu, Elem, Kernel, Simd, Tensor};

/// What a kernel does in one call.
pub enum Work {
    /// Floating-point operations, a multiply-add being two.
    Flop(f64),
    /// Operations on bytes summed in i32, a multiply-add being two.
    Int8(f64),
    /// The same of bf16 operands.
    Bf16(f64),
    /// Bytes that it must read and write at least.
    Bytes(f64),
}

/// The best tier on one and on all cores.
pub fn cpus() -> Vec<Cpu> {
    let all = Cpu::new(None).unwrap();
    if all.threads() == 1 { vec![all] } else { vec![Cpu::new(Some(1)).unwrap(), all] }
}

/// Times `f` as `op/case/threads` and prints its best rate and the share of the measured peak.
pub fn time<T>(c: &mut Criterion, op: &str, case: &str, cpu: &Cpu, work: Work, mut f: impl FnMut() -> T) {
    let mut group = c.benchmark_group(op);
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    let best = Cell::new(f64::INFINITY);
    group.bench_function(BenchmarkId::new(case, format!("{}t", cpu.threads())), |b| {
        b.iter_custom(|n| {
            (0..n)
                .map(|_| {
                    let start = Instant::now();
                    black_box(f());
                    let t = start.elapsed();
                    best.set(best.get().min(t.as_secs_f64()));
                    t
                })
                .sum()
        })
    });
    group.finish();
    if best.get().is_finite() {
        let (rate, unit, peak) = match work {
            Work::Flop(n) => (n / best.get() / 1e9, "GFLOP/s", gflops(cpu)),
            Work::Int8(n) => (n / best.get() / 1e9, "GOP/s", gops(cpu)),
            Work::Bf16(n) => (n / best.get() / 1e9, "GFLOP/s", bf16_gflops(cpu)),
            Work::Bytes(n) => (n / best.get() / 1e9, "GB/s", bandwidth(cpu)),
        };
        let (ms, share, tier) = (best.get() * 1e3, 100.0 * rate / peak, cpu.tier().name());
        println!("    best {ms:.3} ms: {rate:.1} {unit}, {share:.0} % of the {peak:.0} measured on {tier}\n");
    }
}

/// Multiply-adds with every operand in a register; gives back the FLOP count.
struct Fma;
impl<E: Elem> Kernel<E> for Fma {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) -> f64 {
        const CHAINS: usize = 12;
        const STEPS: usize = 1 << 18;
        let (x, y) = (s.splat(black_box(E::from_f64(0.5))), s.splat(black_box(E::ONE)));
        let mut acc = [x; CHAINS];
        for _ in 0..STEPS {
            for a in &mut acc {
                *a = s.fma(*a, x, y);
            }
        }
        black_box(acc.map(|a| s.sum(a)));
        (2 * S::LANES * CHAINS * STEPS) as f64
    }
}

/// As [`Fma`], of bf16 operands.
struct Madd;
impl ProductKernel<bf16> for Madd {
    type Output = f64;
    #[inline(always)]
    fn run<P: Product<X = bf16>>(self, p: P) -> f64 {
        const CHAINS: usize = 12;
        const STEPS: usize = 1 << 18;
        let one = black_box([1.0f32; 16]);
        // SAFETY: sixteen groups, which no tier's vector exceeds.
        let x = unsafe { p.load(one.as_ptr()) };
        let mut acc = [p.simd().splat(0.5); CHAINS];
        for _ in 0..STEPS {
            for a in &mut acc {
                *a = p.madd(x, x, *a);
            }
        }
        black_box(acc.map(|a| p.simd().sum(a)));
        (4 * P::S::LANES * CHAINS * STEPS) as f64
    }
}

/// bf16 multiply-add peak of one thread or of all, GFLOP/s, every thread busy.
fn bf16_gflops(cpu: &Cpu) -> f64 {
    static PEAK: [OnceLock<f64>; 2] = [const { OnceLock::new() }; 2];
    *PEAK[(cpu.threads() > 1) as usize].get_or_init(|| {
        let flop = cpu.threads() as f64 * cpu.product(Madd);
        flop / 1e9
            / best(|| {
                cpu.run(cpu.threads(), |_| {
                    black_box(cpu.product(Madd));
                })
            })
    })
}

/// f32 multiply-add peak of one thread or of all, GFLOP/s, every thread busy.
fn gflops(cpu: &Cpu) -> f64 {
    static PEAK: [OnceLock<f64>; 2] = [const { OnceLock::new() }; 2];
    *PEAK[(cpu.threads() > 1) as usize].get_or_init(|| {
        let flop = cpu.threads() as f64 * cpu.dispatch::<f32, _>(Fma);
        flop / 1e9
            / best(|| {
                cpu.run(cpu.threads(), |_| {
                    black_box(cpu.dispatch::<f32, _>(Fma));
                })
            })
    })
}

/// int8 peak of one thread or of all, GOP/s, every thread busy: register tiles whose operands lie in the nearest cache.
fn gops(cpu: &Cpu) -> f64 {
    static PEAK: [OnceLock<f64>; 2] = [const { OnceLock::new() }; 2];
    const K4: usize = 64;
    const TIMES: usize = 4096;
    let dot = Dot::of(cpu.tier());
    let work = || {
        let (a, b, less) = ([1u8; 4 * K4], [1i8; 4 * K4 * NR], [0; NR]);
        let mut out = [0.0f32; MR * NR];
        for _ in 0..TIMES {
            let (a, b, less) = (a.as_ptr(), b.as_ptr(), less.as_ptr());
            // Every row is the first.
            let tile = Tile { shape: [MR, NR], k4: K4, a, ld: 0, b, less, out: out.as_mut_ptr(), ahead: b };
            // SAFETY: the operands are as long as the tile says, and `of` gives what the chip has.
            unsafe { dot.tile(black_box(tile)) };
        }
        black_box(out[0]);
    };
    let ops = cpu.threads() as f64 * (2 * MR * NR * 4 * K4 * TIMES) as f64;
    *PEAK[(cpu.threads() > 1) as usize]
        .get_or_init(|| ops / 1e9 / best(|| cpu.run(cpu.threads(), |_| work())))
}

/// Read and write rate of copying 8 MB (in the last-level cache of most chips) on one thread or on all, GB/s.
fn bandwidth(cpu: &Cpu) -> f64 {
    static PEAK: [OnceLock<f64>; 2] = [const { OnceLock::new() }; 2];
    *PEAK[(cpu.threads() > 1) as usize].get_or_init(|| {
        let from: Tensor = Tensor::zeros(&[2 << 20]);
        let mut to = from.clone();
        const PART: usize = 1 << 16;
        let t = best(|| {
            cpu.for_chunks(&mut to.data, PART, |i, to| {
                to.copy_from_slice(&from.data[i * PART..][..to.len()])
            });
            black_box(&to);
        });
        2.0 * 4.0 * from.len() as f64 / 1e9 / t
    })
}

/// Shortest time of `f` in half a second of trying, long enough to meet a moment when no one else uses the cores.
fn best(mut f: impl FnMut()) -> f64 {
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while begin.elapsed() < Duration::from_millis(500) {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
