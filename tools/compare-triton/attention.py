"""Our attention beside Triton's.

Both read q, k and v from one (B*T, 3C) tensor, q scaled beforehand, and write (B*T, C); head dim 64. Triton's is the usual
fused kernel over whole tiles of keys without a mask, then the rest with one; its best configuration is sought in CONFIGURATIONS.
Emulated counts are of what 512 more keys add to one block, so prologue and end drop out.
"""

import ctypes
import struct

import triton
import triton.language as tl

import counts

# Rows of q and keys a tile, warps, stages of the copies.
CONFIGURATIONS = [
    (32, 64, 2, 2), (64, 32, 4, 2), (64, 32, 4, 3), (64, 64, 2, 2), (64, 64, 4, 2), (64, 64, 4, 3), (64, 64, 4, 4), (64, 128, 4, 2),
    (64, 128, 4, 3), (128, 32, 4, 2), (128, 32, 4, 3), (128, 64, 4, 2), (128, 64, 4, 3), (128, 64, 4, 4), (128, 64, 8, 2),
    (128, 64, 8, 3), (128, 128, 4, 2), (128, 128, 8, 2), (128, 128, 8, 3), (256, 64, 8, 2), (256, 64, 8, 3),
]  # fmt: skip
VARIANTS = [(256, 8), (128, 4), (64, 2), (128, 8), (64, 4), (32, 2)]
HEADS, SHORT, LONG = 12, 512, 1024


@triton.jit
def attention(qkv, out, T, C, BM: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr):
    image = tl.program_id(2).to(tl.int64) * T
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.arange(0, BN)
    d = tl.arange(0, 64)
    rows = qkv + image * (3 * C) + tl.program_id(1) * 64
    q = tl.load(rows + m[:, None] * (3 * C) + d[None, :], mask=m[:, None] < T, other=0.0)
    k = rows + C + n[None, :] * (3 * C) + d[:, None]
    v = rows + 2 * C + n[:, None] * (3 * C) + d[None, :]
    top = tl.full((BM,), -float("inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, 64), tl.float32)
    full = T // BN * BN
    for j in tl.range(0, full, BN, num_stages=STAGES):
        s = tl.dot(q, tl.load(k))
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new[:, None])
        fade = tl.exp2(top - new)
        total = total * fade + tl.sum(p, 1)
        acc = tl.dot(p.to(q.dtype), tl.load(v), acc * fade[:, None])
        top = new
        k += BN * 3 * C
        v += BN * 3 * C
    if full < T:
        s = tl.dot(q, tl.load(k, mask=full + n[None, :] < T, other=0.0))
        s = tl.where(full + n[None, :] < T, s, -float("inf"))
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new[:, None])
        fade = tl.exp2(top - new)
        total = total * fade + tl.sum(p, 1)
        acc = tl.dot(p.to(q.dtype), tl.load(v, mask=full + n[:, None] < T, other=0.0), acc * fade[:, None])
    tl.store(out + (image + m[:, None]) * C + tl.program_id(1) * 64 + d[None, :], (acc / total[:, None]).to(out.dtype.element_ty), mask=m[:, None] < T)


def buffers(emulator, t):
    return [emulator.upload(bytes(2 * t * parts * 64 * HEADS)) for parts in (3, 1)]


def triton_rows(dtype, nvdisasm, emulator):
    for bm, bn, warps, stages in CONFIGURATIONS:
        constants = dict(BM=bm, BN=bn, STAGES=stages)
        k = counts.compile_triton(attention, dict(qkv=dtype, out=dtype, T="i32", C="i32"), constants, ("qkv", "out", "C"), warps, stages)
        runs = []
        for t in (SHORT, LONG):
            sizes = [ctypes.c_int(t), ctypes.c_int(64 * HEADS)]
            runs.append(emulator.launch(k.ptx, k.name, (1, 1, 1), 32 * warps, k.shared, buffers(emulator, t) + sizes + k.scratch))
        yield dict(name=f"Triton {bm}x{bn}, {warps} warps, {stages} stages", shared=k.shared) | counts.row(*k.code(nvdisasm), *runs)


def our_rows(dtype, nvdisasm, emulator, cubin, ptx):
    code = counts.functions(cubin, nvdisasm)
    for rows, warps in VARIANTS:
        name, shared = f"attention_fwd_{rows}x{warps}_{dtype}", 128 * (rows + 256)
        runs = []
        for t in (SHORT, LONG):
            params = struct.pack("QQii", *(b.value for b in buffers(emulator, t)), t, HEADS)
            runs.append(emulator.launch(ptx, name, (1, 1, 1), 32 * warps, shared, [params]))
        yield dict(name=f"ours {rows}x{warps}", shared=shared) | counts.row(*code[name], *runs)
