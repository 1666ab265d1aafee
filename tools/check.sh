#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, tests, benches that still run.
# Needs Rust, and python3 with pip to fetch the CUDA compiler once (no GPU, no driver: kernels run on the emulator).
# INP_GOLDENS=DIR adds the tests against the full set of golden tensors.
# --full (needs that set) then runs every CUDA variant everywhere, and whole large models: tools/full-check, up to an hour.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
"" | --full) ;;
*) echo "usage: tools/check.sh [--full]" >&2 && exit 2 ;;
esac

tools/install-cuda-toolkit
# Every architecture is compiled; a build without kernels, or one whose kernels spill registers, is an error.
export INP_NVCC="${INP_NVCC:-$PWD/target/cuda-toolkit/nvidia/cu13/bin/nvcc}"
export INP_REQUIRE_CUDA=1 INP_DENY_SPILLS=1 INP_CUDA_ARCHS="${INP_CUDA_ARCHS:-80,90,120}"

cargo fmt --all --check
cargo clippy --release --workspace --all-targets -- -D warnings
cargo test --release --workspace -- --show-output 2>&1 | tee target/tests.txt | grep -E '^(test |running|   Doc-tests)' ||
    { tail -100 target/tests.txt; exit 1; }
echo "skipped:"
grep '^SKIPPED' target/tests.txt | sort | uniq -c || echo "  nothing"
INP_BENCH_DEVICE=emulated cargo bench --bench all -- --test >target/benches.txt 2>&1 || { tail -50 target/benches.txt; exit 1; }
echo "every bench ran once; $(grep -c '^Success' target/benches.txt) cases"
tools/gpu-acceptance --device emulated --quick --out target/gpu-acceptance
[ "${1:-}" != --full ] || tools/full-check
