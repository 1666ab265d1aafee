"""Our attention beside Triton's: what their main loops cost per multiply-add.

    python attention.py NVDISASM EMULATOR_LIBRARY OUR_CUBIN OUR_PTX [DTYPE] > attention.json     (pip install triton==3.9.0)

Both read q, k and v from one (B*T, 3C) tensor, q scaled beforehand, and write (B*T, C); head dim 64. Triton's is the usual
fused kernel over whole tiles of keys without a mask, then the rest with one; its best configuration is sought in CONFIGURATIONS.
Emulated counts are of what 512 more keys add to one block, so prologue and end drop out.
"""

import ctypes
import json
import os
import struct
import sys
import tempfile

os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import counts

# Rows of q and keys a tile, warps, stages of the copies.
CONFIGURATIONS = [
    (32, 64, 2, 2), (64, 32, 4, 2), (64, 32, 4, 3), (64, 64, 2, 2), (64, 64, 4, 2), (64, 64, 4, 3), (64, 64, 4, 4), (64, 128, 4, 2),
    (64, 128, 4, 3), (128, 32, 4, 2), (128, 32, 4, 3), (128, 64, 4, 2), (128, 64, 4, 3), (128, 64, 4, 4), (128, 64, 8, 2),
    (128, 64, 8, 3), (128, 128, 4, 2), (128, 128, 8, 2), (128, 128, 8, 3), (256, 64, 8, 2), (256, 64, 8, 3),
]  # fmt: skip
VARIANTS = {"bf16": [(256, 8), (128, 4), (64, 2), (128, 8), (64, 4), (32, 2)], "f16": [(256, 8), (128, 4), (64, 2), (128, 8), (64, 4), (32, 2)]}
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


def row(code, labels, short, long):
    """Per 2^20 multiply-adds."""
    loop = counts.main_loop(code, labels)
    scale = 2**20 / (loop["tensor"] * 16 * 8 * 16)
    r = {k: n * scale for k, n in loop.items()}
    r["spills"] = sum(i.split()[0].startswith(("LDL", "STL")) for i in code)
    mac = long["mac"] - short["mac"]
    for k in ("wavefronts", "bytes"):
        r[k] = (long[k] - short[k]) * 2**20 / mac
    return r


def triton_rows(dtype, nvdisasm, emulator):
    for bm, bn, warps, stages in CONFIGURATIONS:
        source = ASTSource(attention, signature=dict(qkv="*" + dtype.replace("f16", "fp16").replace("bfp", "bf"), out="*" + dtype.replace("f16", "fp16").replace("bfp", "bf"), T="i32", C="i32", BM="constexpr", BN="constexpr", STAGES="constexpr"),
                           constexprs=dict(BM=bm, BN=bn, STAGES=stages), attrs={(i,): [["tt.divisibility", 16]] for i in (0, 1, 3)})
        k = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=dict(num_warps=warps, num_stages=stages))
        with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
            f.write(k.asm["cubin"])
            f.flush()
            code = counts.functions(f.name, nvdisasm)[k.metadata.name]
        runs = []
        for t in (SHORT, LONG):
            qkv, out = emulator.upload(bytes(2 * t * 3 * 64 * HEADS)), emulator.upload(bytes(2 * t * 64 * HEADS))
            null = [ctypes.c_uint64(0) for _ in range(k.asm["ptx"].split(")")[0].count(".param") - 4)]
            runs.append(emulator.launch(k.asm["ptx"], k.metadata.name, (1, 1, 1), 32 * warps, k.metadata.shared, [qkv, out, ctypes.c_int(t), ctypes.c_int(64 * HEADS)] + null))
        yield dict(name=f"Triton {bm}x{bn}, {warps} warps, {stages} stages", shared=k.metadata.shared) | row(*code, *runs)


def our_rows(dtype, nvdisasm, emulator, cubin, ptx):
    code = counts.functions(cubin, nvdisasm)
    with open(ptx) as f:
        text = f.read()
    for rows, warps in VARIANTS[dtype]:
        name, shared = f"attention_fwd_{rows}x{warps}_{dtype}", 128 * (rows + 256)
        runs = []
        for t in (SHORT, LONG):
            qkv, out = emulator.upload(bytes(2 * t * 3 * 64 * HEADS)), emulator.upload(bytes(2 * t * 64 * HEADS))
            runs.append(emulator.launch(text, name, (1, 1, 1), 32 * warps, shared, [struct.pack("QQii", qkv.value, out.value, t, HEADS)]))
        yield dict(name=f"ours {rows}x{warps}", shared=shared) | row(*code[name], *runs)


def main():
    nvdisasm, library, cubin, ptx = sys.argv[1:5]
    dtype = (sys.argv[5:] or ["bf16"])[0]
    emulator = counts.Emulator(library)
    rows = [*triton_rows(dtype, nvdisasm, emulator), *our_rows(dtype, nvdisasm, emulator, cubin, ptx)]
    json.dump(rows, sys.stdout, indent=1)
    keys = (*counts.KINDS, "wavefronts", "bytes", "spills")
    print(f"{'':36}" + "".join(f"{k:>12}" for k in keys), file=sys.stderr)
    for r in rows:
        print(f"{r['name']:36}" + "".join(f"{r[k]:12.1f}" for k in keys), file=sys.stderr)


main()
