"""The kernels that ours are held beside, as Triton's users write them, and the configurations that are tried."""

import triton
import triton.language as tl


@triton.jit
def linear(x, w, y, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr):
    """y (M, N) = x (M, K) · w (N, K)ᵀ; K a multiple of BK (nothing is masked in the loop), rows past M wrap around."""
    rows, cols, ks = tl.program_id(1) * BM + tl.arange(0, BM), tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BK)
    a = x + (rows % M)[:, None] * K + ks[None, :]
    b = w + (cols % N)[None, :] * K + ks[:, None]
    acc = tl.zeros((BM, BN), tl.float32)
    for _ in tl.range(0, K, BK, num_stages=STAGES):
        acc = tl.dot(tl.load(a), tl.load(b), acc)
        a += BK
        b += BK
    tl.store(y + rows[:, None] * N + cols[None, :], acc.to(y.dtype.element_ty), mask=(rows < M)[:, None] & (cols < N)[None, :])


# BM, BN, BK, warps, stages: at most 163 KB of shared memory, what an A100 has.
LINEAR = [
    (128, 256, 64, 8, 3), (256, 128, 64, 8, 3), (128, 256, 64, 8, 2), (128, 256, 32, 8, 4), (256, 128, 32, 8, 4),
    (128, 128, 64, 4, 3), (128, 128, 64, 8, 3), (128, 128, 32, 4, 4), (128, 128, 32, 4, 3), (256, 64, 64, 4, 3),
    (64, 256, 64, 4, 3), (128, 64, 64, 4, 3), (64, 128, 64, 4, 3), (64, 64, 64, 4, 3), (64, 64, 128, 4, 3), (32, 64, 64, 4, 4),
]  # fmt: skip
