//! Counters: wavefronts of known patterns, tensor operations of spellings.

use inp_cuda_emulator::count::{tensor, wavefronts};

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
