"""Our linear layers beside Triton's: y (M, N) = x (M, K) · w (N, K)ᵀ, the product alone."""

import ctypes
import struct

import triton
import triton.language as tl

import counts

# Rows and columns of the tile, depth, warps, stages: at most what an A100 has of shared memory.
CONFIGURATIONS = [
    (128, 256, 64, 8, 3), (256, 128, 64, 8, 3), (128, 256, 64, 8, 2), (128, 256, 32, 8, 4), (256, 128, 32, 8, 4), (128, 256, 128, 8, 2),
    (128, 128, 64, 4, 3), (128, 128, 64, 8, 3), (128, 128, 32, 4, 4), (128, 128, 32, 4, 3), (128, 128, 128, 4, 2), (256, 64, 64, 4, 3),
    (64, 256, 64, 4, 3), (128, 64, 64, 4, 3), (64, 128, 64, 4, 3), (64, 64, 64, 4, 3), (64, 64, 128, 4, 3), (32, 64, 64, 4, 4),
]  # fmt: skip
# As in src/ops/linear/cuda/tile.rs: rows, columns, depth, warps, stages.
VARIANTS = [
    (128, 256, 64, 8, 2), (128, 128, 64, 4, 3), (128, 128, 32, 4, 3), (128, 64, 64, 4, 3), (64, 128, 64, 4, 3), (64, 64, 64, 4, 3),
    (32, 64, 64, 4, 4),
]  # fmt: skip
# The model's shortest and longest rows of ViT-B: what the difference adds to one block.
SHORT, LONG = 768, 3072


@triton.jit
def linear(x, w, y, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr):
    """K is a multiple of BK, so that the loop masks nothing; rows past M and columns past N wrap around."""
    m, n, k = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
    a = x + (m % M)[:, None] * K + k[None, :]
    b = w + (n % N)[None, :] * K + k[:, None]
    acc = tl.zeros((BM, BN), tl.float32)
    for _ in tl.range(0, K, BK, num_stages=STAGES):
        acc = tl.dot(tl.load(a), tl.load(b), acc)
        a += BK
        b += BK
    tl.store(y + m[:, None] * N + n[None, :], acc.to(y.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


def buffers(emulator, bm, bn, k):
    return [emulator.upload(bytes(2 * n)) for n in (bm * k, bn * k, bm * bn)]


def triton_rows(dtype, nvdisasm, emulator):
    for bm, bn, bk, warps, stages in CONFIGURATIONS:
        constants = dict(BM=bm, BN=bn, BK=bk, STAGES=stages)
        k = counts.compile_triton(linear, dict(x=dtype, w=dtype, y=dtype, M="i32", N="i32", K="i32"), constants, ("x", "w", "y", "N", "K"), warps, stages)
        runs = []
        for depth in (SHORT, LONG):
            sizes = [ctypes.c_int(n) for n in (bm, bn, depth)]
            runs.append(emulator.launch(k.ptx, k.name, (1, 1, 1), 32 * warps, k.shared, buffers(emulator, bm, bn, depth) + sizes + k.scratch))
        yield dict(name=f"Triton {bm}x{bn}x{bk}, {warps} warps, {stages} stages", shared=k.shared) | counts.row(*k.code(nvdisasm), *runs)


def our_rows(dtype, nvdisasm, emulator, cubin, ptx):
    code = counts.functions(cubin, nvdisasm)
    for bm, bn, bk, warps, stages in VARIANTS:
        name, shared = f"linear_fwd_{bm}x{bn}x{bk}_{dtype}", stages * (bm + bn) * 2 * bk + 8 * bm
        runs = []
        for depth in (SHORT, LONG):
            x, w, y = (b.value for b in buffers(emulator, bm, bn, depth))
            # struct LinearParams of kernels/linear.cu, with no epilogue but storing y.
            params = struct.pack("2Q 4Q Q 6Q 2f 8I 4I", x, w, 0, 0, 0, 0, y, *[0] * 6, 0.0, 0.0, *[0] * 8, bm, bn, depth, 0)
            runs.append(emulator.launch(ptx, name, (1, 1, 1), 32 * warps, shared, [params]))
        yield dict(name=f"ours {bm}x{bn}x{bk}", shared=shared) | counts.row(*code[name], *runs)
