//! Counters: wavefronts of known patterns, tensor operations of spellings; occupancy and roofline of known counters.

use inp_cuda_emulator::count::{Counts, Line, Summary, tensor, wavefronts};
use inp_cuda_emulator::gpu::Gpu;
use inp_cuda_emulator::options::Options;
use inp_cuda_emulator::roofline::{LAUNCH_US, occupancy, predict, resident};
use inp_cuda_emulator::run::Machine;

#[test]
fn wavefronts_of_known_patterns() {
    let of = |bytes, f: &dyn Fn(u64) -> u64| wavefronts(!0, bytes, &std::array::from_fn(|l| f(l as u64)));
    assert_eq!(of(4, &|l| 4 * l), (1, 1));
    assert_eq!(of(4, &|l| 128 * l), (32, 1));
    assert_eq!(of(4, &|_| 0), (1, 1));
    assert_eq!(of(16, &|l| 16 * l), (4, 4));
    assert_eq!(of(8, &|l| 8 * l), (2, 2));
    // Eight rows 128 bytes apart: each quarter of a warp meets four banks only.
    assert_eq!(of(16, &|l| 128 * l), (32, 4));
    assert_eq!(of(2, &|l| 2 * l), (1, 1));
    assert_eq!(of(4, &|l| 8 * l), (2, 1));
}

#[test]
fn tensor_operations_of_spellings() {
    let of = |s| tensor(s).unwrap();
    let (ty, macs) = of("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
    assert_eq!((ty.as_str(), macs), ("bf16, accumulating in f32", 2048));
    assert_eq!(of("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32").1, 4096);
}

/// What `issued` warps of one tensor instruction count.
fn matrices(instruction: &str, issued: u64) -> Summary {
    let counts = Counts { issued, lanes: 32 * issued, ..Counts::default() };
    let line = Line { line: 1, instruction: instruction.into(), class: "Matrix".into(), counts };
    Summary { instructions: issued, lines: vec![line], ..Summary::default() }
}

#[test]
fn occupancy_is_bounded_by_each_resource() {
    let gpu = |name| Gpu::named(name).unwrap();
    let (h100, ada) = (gpu("h100"), gpu("rtx4090"));
    // NVIDIA's occupancy calculator: 255 registers leave two warps a scheduler; 168 leave three.
    assert_eq!(resident(&h100, 255, 0, 256), 1);
    assert_eq!(resident(&h100, 168, 0, 128), 3);
    assert_eq!(resident(&h100, 32, 0, 1024), 2);
    assert_eq!(resident(&h100, 32, 0, 32), 32);
    assert_eq!(resident(&h100, 32, 100 << 10, 128), 2);
    assert_eq!(resident(&ada, 40, 0, 512), 3);
    assert_eq!(resident(&ada, 255, 0, 512), 0);
    assert_eq!(occupancy(&ada, 40, 0, 512), 1.0);
    assert_eq!(occupancy(&h100, 168, 0, 128), 12.0 / 64.0);
}

#[test]
fn the_roofline_is_that_of_the_busiest_resource() {
    let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-9 * b, "{a} is not {b}");
    let (a100, h100) = (Gpu::named("a100").unwrap(), Gpu::named("h100").unwrap());
    // 312 Tflop/s of bf16 on every multiprocessor: 2048 multiply-adds each.
    let s = matrices("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 1 << 24);
    let p = predict(&a100, &s, 128, 0, [108, 1, 1], [256, 1, 1]);
    close(p.us, 2.0 * 2048.0 * (1u64 << 24) as f64 / 312e6 + LAUNCH_US);
    assert_eq!((p.bound, p.shares[0].0), ("tensor cores", "tensor cores"));
    assert!(p.shares[0].1 <= 1.0 && p.shares.windows(2).all(|w| w[0].1 >= w[1].1));
    // One block more takes a second turn; mma.sync reaches part of an H100's rate; tf32 half of that.
    let two = predict(&a100, &s, 128, 0, [109, 1, 1], [256, 1, 1]);
    close((two.us - LAUNCH_US) / (p.us - LAUNCH_US), 216.0 / 109.0);
    let h = predict(&h100, &s, 128, 0, [132, 1, 1], [256, 1, 1]);
    close(h.us - LAUNCH_US, (p.us - LAUNCH_US) * 312.0 / (989.0 * 0.63));
    // Two warps keep two quarters of a multiprocessor busy, unless another block's are there as well.
    let half = predict(&a100, &s, 128, 0, [108, 1, 1], [64, 1, 1]);
    close(half.us - LAUNCH_US, (p.us - LAUNCH_US) * 2.0);
    close(predict(&a100, &s, 128, 0, [216, 1, 1], [64, 1, 1]).us, p.us);
    let t = matrices("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 1 << 24);
    close(predict(&a100, &t, 128, 0, [108, 1, 1], [256, 1, 1]).us, p.us);
    // 2039 GB/s of device memory.
    let s = Summary { unique_read: 1 << 30, unique_written: 1 << 30, ..Summary::default() };
    let p = predict(&a100, &s, 32, 0, [1 << 20, 1, 1], [256, 1, 1]);
    close(p.us, (2u64 << 30) as f64 / 2039e3 + LAUNCH_US);
    assert_eq!(p.bound, "device memory");
    // A pass of shared memory and four instructions a clock; nothing to do is a launch.
    let s = Summary { instructions: 4 * 108 * 1410, wavefronts: 2 * 108 * 1410, ..Summary::default() };
    let p = predict(&a100, &s, 32, 0, [108, 1, 1], [256, 1, 1]);
    close(p.us, 2.0 + LAUNCH_US);
    assert_eq!(p.bound, "shared memory");
    let p = predict(&a100, &Summary::default(), 32, 0, [1, 1, 1], [32, 1, 1]);
    assert_eq!((p.us, p.bound, p.shares.len()), (LAUNCH_US, "launch", 0));
}

#[test]
fn every_gpu_has_rates() {
    for g in Gpu::all() {
        assert!(
            g.fp32_lanes >= 64 && g.int32_lanes >= 64 && g.fp64_lanes >= 2 && g.bandwidth > 0.0,
            "{}",
            g.name
        );
        assert!(g.mma_sync > 0.0 && g.mma_sync <= 1.0 && g.source.contains("rates:"), "{}", g.name);
    }
}

#[test]
fn floating_point_operations_and_registers_of_a_kernel() {
    let mut m = Machine::new("h100", Options { count: true, ..Options::default() }).unwrap();
    m.load(include_str!("data/more.ptx")).unwrap();
    let x = m.upload(&[1f32; 64]);
    let r = m.launch("scale", 2, 32, 0, &[x.into(), 50i32.into()]);
    let program = m.program.as_ref().unwrap();
    let s = r.counters.unwrap().summary(program);
    // x·factor + offset of fifty elements is one multiply-add each.
    assert_eq!(s.flop, 100);
    let back: Summary = serde_json::from_str(&serde_json::to_string(&s).unwrap()).unwrap();
    assert_eq!((back.flop, back.lines.len()), (s.flop, s.lines.len()));
    let registers = program.functions[program.function("scale").unwrap()].registers;
    assert!((8..=16).contains(&registers), "{registers}: ptxas needs 8");
}
