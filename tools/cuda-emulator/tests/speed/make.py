"""Kernels of a vision transformer in Triton, compiled to PTX (no GPU needed): what tests/speed.rs and the bench run.

    pip install triton==3.9.0
    python make.py
"""

import os
import re

os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HERE = os.path.dirname(os.path.abspath(__file__))


@triton.jit
def linear(x, w, bias, y, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GELU: tl.constexpr, ADD: tl.constexpr,
           STAGES: tl.constexpr):
    """y[M,N] = f(x[M,K] wᵀ[N,K] + bias), f being GELU or nothing; added to y where ADD."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    px = x + m[:, None] * K + k[None, :]
    pw = w + n[None, :] * K + k[:, None]
    acc = tl.zeros((BM, BN), tl.float32)
    for i in tl.range(0, K // BK, num_stages=STAGES):
        acc = tl.dot(tl.load(px, mask=m[:, None] < M, other=0.0), tl.load(pw), acc)
        px += BK
        pw += BK
    acc += tl.load(bias + n)[None, :]
    if GELU:
        acc = 0.5 * acc * (1 + tl.erf(acc * 0.7071067811865476))
    py = y + m[:, None] * N + n[None, :]
    if ADD:
        acc += tl.load(py, mask=m[:, None] < M).to(tl.float32)
    tl.store(py, acc.to(y.dtype.element_ty), mask=m[:, None] < M)


@triton.jit
def attention(qkv, o, T, C, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr):
    """o[T,C] = softmax(q kᵀ scale) v by heads of D, of qkv[T,3,C]."""
    head = tl.program_id(1) * D
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.arange(0, BN)
    d = tl.arange(0, D)
    q = tl.load(qkv + head + m[:, None] * 3 * C + d[None, :], mask=m[:, None] < T, other=0.0)
    top = tl.full((BM,), -1e30, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    for j in tl.range(0, T, BN, num_stages=STAGES):
        key = qkv + head + (j + n)[:, None] * 3 * C + d[None, :]
        here = (j + n)[:, None] < T
        s = tl.dot(q, tl.trans(tl.load(key + C, mask=here, other=0.0))) * (scale * 1.4426950408889634)
        s = tl.where((j + n)[None, :] < T, s, -1e30)
        now = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - now[:, None])
        shrink = tl.exp2(top - now)
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None]
        acc = tl.dot(p.to(qkv.dtype.element_ty), tl.load(key + 2 * C, mask=here, other=0.0), acc)
        top = now
    tl.store(o + head + m[:, None] * C + d[None, :], (acc / total[:, None]).to(o.dtype.element_ty), mask=m[:, None] < T)


@triton.jit
def layernorm(x, g, b, y, N, eps, B: tl.constexpr):
    """y = (x - mean) / sqrt(var + eps) * g + b, a row a block."""
    i = tl.arange(0, B)
    row = tl.program_id(0) * N
    v = tl.load(x + row + i, mask=i < N, other=0.0).to(tl.float32)
    mean = tl.sum(v, 0) / N
    c = tl.where(i < N, v - mean, 0.0)
    r = 1 / tl.sqrt(tl.sum(c * c, 0) / N + eps)
    out = c * r * tl.load(g + i, mask=i < N, other=0.0) + tl.load(b + i, mask=i < N, other=0.0)
    tl.store(y + row + i, out.to(y.dtype.element_ty), mask=i < N)


def make(name, fn, signature, consts, warps=4):
    """The kernel's PTX, called `name`; without the head that all share."""
    types = dict(zip((p.name for p in fn.params), signature))
    attrs = {(i,): [["tt.divisibility", 16]] for i, (n, t) in enumerate(types.items()) if t[0] == "*" or n in "NKC"}
    source = ASTSource(fn, signature=types | {c: "constexpr" for c in consts}, constexprs=consts, attrs=attrs)
    k = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=dict(num_warps=warps))
    ptx = re.sub(r"[ \t]+//.*|^//.*", "", k.asm["ptx"].split("\t.section")[0], flags=re.M)
    head, body = ptx.split(".visible", 1)
    body = re.sub(rf"\b{fn.__name__}(?=[(_])", name, body).replace("$L__", f"$L_{name}_")
    return head, f"// {32 * warps} threads, {k.metadata.shared} bytes of shared memory\n.visible{body}"


p, f, i = "*bf16", "*fp32", "i32"
made = []
for name, gelu, add in [("linear", False, False), ("linear_gelu", True, False), ("linear_add", False, True)]:
    tile = dict(BM=64, BN=128, BK=64, GELU=gelu, ADD=add, STAGES=2)
    made.append(make(name, linear, [p, p, f, p, i, i, i], tile))
made.append(make("attention", attention, [p, p, i, i, "fp32"], dict(D=64, BM=64, BN=64, STAGES=2)))
made.append(make("layernorm", layernorm, [p, f, f, p, i, "fp32"], dict(B=512), warps=1))
with open(os.path.join(HERE, "vit.ptx"), "w") as file:
    file.write(re.sub(r"\n(\s*\n)+", "\n", "\n".join([made[0][0], *(body for _, body in made)]).lstrip()))
