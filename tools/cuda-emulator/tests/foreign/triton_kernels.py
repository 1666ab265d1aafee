"""Kernels of ours in Triton. Their layouts, copies and barriers are the Triton compiler's."""

import triton
import triton.language as tl


@triton.jit
def matmul(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, TA: tl.constexpr, TB: tl.constexpr,
           ACC: tl.constexpr, EDGE: tl.constexpr, PREC: tl.constexpr, STAGES: tl.constexpr):
    """c[M,N] = a[M,K] b[K,N]; a stored [K,M] if TA, b stored [N,K] if TB; EDGE: sizes need not divide."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    if TA:
        pa = a + m[:, None] + k[None, :] * M
    else:
        pa = a + m[:, None] * K + k[None, :]
    if TB:
        pb = b + n[None, :] * K + k[:, None]
    else:
        pb = b + n[None, :] + k[:, None] * N
    acc = tl.zeros((BM, BN), dtype=ACC)
    for i in tl.range(0, tl.cdiv(K, BK), num_stages=STAGES):
        if EDGE:
            r = K - i * BK
            x = tl.load(pa, mask=(m[:, None] < M) & (k[None, :] < r), other=0.0)
            y = tl.load(pb, mask=(n[None, :] < N) & (k[:, None] < r), other=0.0)
        else:
            x = tl.load(pa)
            y = tl.load(pb)
        acc = tl.dot(x, y, acc, input_precision=PREC, out_dtype=ACC)
        pa += BK * M if TA else BK
        pb += BK if TB else BK * N
    out = c + m[:, None] * N + n[None, :]
    if EDGE:
        tl.store(out, acc.to(c.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))
    else:
        tl.store(out, acc.to(c.dtype.element_ty))


@triton.jit
def matmul_gelu(a, b, bias, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """gelu(a b + bias), blocks in groups of four rows."""
    p = tl.program_id(0)
    rows = tl.cdiv(M, BM)
    cols = tl.cdiv(N, BN)
    group = p // (4 * cols)
    size = min(rows - group * 4, 4)
    m = (group * 4 + (p % (4 * cols)) % size) * BM + tl.arange(0, BM)
    n = ((p % (4 * cols)) // size) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    pa = a + m[:, None] * K + k[None, :]
    pb = b + k[:, None] * N + n[None, :]
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for i in range(0, K, BK):
        acc = tl.dot(tl.load(pa), tl.load(pb), acc)
        pa += BK
        pb += BK * N
    acc += tl.load(bias + n)[None, :]
    acc = 0.5 * acc * (1 + tl.erf(acc * 0.7071067811865476))
    tl.store(c + m[:, None] * N + n[None, :], acc.to(c.dtype.element_ty))


@triton.jit
def matmul_split(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr):
    """Parts of the inner dimension by block, summed with atomics."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.program_id(2) * BK + tl.arange(0, BK)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for i in range(0, K, BK * SPLIT):
        x = tl.load(a + m[:, None] * K + (k + i)[None, :])
        y = tl.load(b + (k + i)[:, None] * N + n[None, :])
        acc = tl.dot(x, y, acc)
    tl.atomic_add(c + m[:, None] * N + n[None, :], acc, sem="relaxed")


@triton.jit
def attention(q, k, v, o, T, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
              STAGES: tl.constexpr):
    """softmax(q kᵀ scale) v over [heads, T, D], keys in a loop; CAUSAL: no key after the query."""
    head = tl.program_id(1) * T * D
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.arange(0, BN)
    d = tl.arange(0, D)
    x = tl.load(q + head + m[:, None] * D + d[None, :], mask=m[:, None] < T, other=0.0)
    top = tl.full((BM,), -1e30, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    end = min(T, (tl.program_id(0) + 1) * BM) if CAUSAL else T
    for j in tl.range(0, end, BN, num_stages=STAGES):
        y = tl.load(k + head + (j + n)[None, :] * D + d[:, None], mask=(j + n)[None, :] < T, other=0.0)
        s = tl.dot(x, y) * (scale * 1.4426950408889634)
        keep = (j + n)[None, :] < T
        if CAUSAL:
            keep = keep & ((j + n)[None, :] <= m[:, None])
        s = tl.where(keep, s, -1e30)
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new[:, None])
        fade = tl.exp2(top - new)
        total = total * fade + tl.sum(p, 1)
        z = tl.load(v + head + (j + n)[:, None] * D + d[None, :], mask=(j + n)[:, None] < T, other=0.0)
        acc = tl.dot(p.to(z.dtype), z, acc * fade[:, None])
        top = new
    tl.store(o + head + m[:, None] * D + d[None, :], (acc / total[:, None]).to(o.dtype.element_ty), mask=m[:, None] < T)


@triton.jit
def layernorm(x, w, b, y, N, eps, B: tl.constexpr):
    """One row a block, in one piece."""
    i = tl.arange(0, B)
    r = tl.program_id(0) * N
    v = tl.load(x + r + i, mask=i < N, other=0.0).to(tl.float32)
    mean = tl.sum(v, 0) / N
    c = tl.where(i < N, v - mean, 0.0)
    s = tl.rsqrt(tl.sum(c * c, 0) / N + eps)
    out = c * s * tl.load(w + i, mask=i < N, other=0.0) + tl.load(b + i, mask=i < N, other=0.0)
    tl.store(y + r + i, out.to(y.dtype.element_ty), mask=i < N)


@triton.jit
def layernorm_loop(x, w, b, y, N, eps, B: tl.constexpr):
    """One row a block, three passes."""
    r = tl.program_id(0) * N
    t = tl.zeros((B,), tl.float32)
    for j in range(0, N, B):
        i = j + tl.arange(0, B)
        t += tl.load(x + r + i, mask=i < N, other=0.0).to(tl.float32)
    mean = tl.sum(t, 0) / N
    t = tl.zeros((B,), tl.float32)
    for j in range(0, N, B):
        i = j + tl.arange(0, B)
        v = tl.load(x + r + i, mask=i < N, other=0.0).to(tl.float32)
        v = tl.where(i < N, v - mean, 0.0)
        t += v * v
    s = 1 / tl.sqrt(tl.sum(t, 0) / N + eps)
    for j in range(0, N, B):
        i = j + tl.arange(0, B)
        v = tl.load(x + r + i, mask=i < N, other=0.0).to(tl.float32)
        out = (v - mean) * s * tl.load(w + i, mask=i < N) + tl.load(b + i, mask=i < N)
        tl.store(y + r + i, out.to(y.dtype.element_ty), mask=i < N)


@triton.jit
def softmax(x, y, N, B: tl.constexpr):
    """One row a block."""
    i = tl.arange(0, B)
    r = tl.program_id(0) * N
    v = tl.load(x + r + i, mask=i < N, other=-float("inf")).to(tl.float32)
    e = tl.exp(v - tl.max(v, 0))
    tl.store(y + r + i, (e / tl.sum(e, 0)).to(y.dtype.element_ty), mask=i < N)


@triton.jit
def softmax_tile(x, y, M: tl.constexpr, N: tl.constexpr):
    """A whole matrix by one block, along its first axis."""
    p = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(y + p, tl.softmax(tl.load(x + p), 0))


@triton.jit
def reduce2d(x, y, M: tl.constexpr, N: tl.constexpr, AXIS: tl.constexpr, OP: tl.constexpr):
    """sum, max, min, argmax, argmin, xor of a matrix along an axis."""
    v = tl.load(x + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :])
    if OP == "sum":
        r = tl.sum(v, AXIS)
    elif OP == "max":
        r = tl.max(v, AXIS)
    elif OP == "min":
        r = tl.min(v, AXIS)
    elif OP == "argmax":
        r = tl.argmax(v, AXIS)
    elif OP == "argmin":
        r = tl.argmin(v, AXIS)
    else:
        r = tl.xor_sum(v, AXIS)
    tl.store(y + tl.arange(0, N if AXIS == 0 else M), r)


@triton.jit
def merge_moments(ma, va, na, mb, vb, nb):
    n = na + nb
    d = mb - ma
    f = nb / n
    return ma + d * f, va + vb + d * d * na * f, n


@triton.jit
def moments(x, mean, var, N: tl.constexpr):
    """Mean and summed squared distance by a reduction of three values."""
    v = tl.load(x + tl.program_id(0) * N + tl.arange(0, N))
    m, s, n = tl.reduce((v, v * 0, v * 0 + 1), 0, merge_moments)
    tl.store(mean + tl.program_id(0), m)
    tl.store(var + tl.program_id(0), s / n)


@triton.jit
def cumsum(x, y, M: tl.constexpr, N: tl.constexpr, AXIS: tl.constexpr, BACK: tl.constexpr):
    """Prefix (or suffix) sums of a matrix."""
    p = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(y + p, tl.cumsum(tl.load(x + p), AXIS, reverse=BACK))


@triton.jit
def recurrence(aa, ab, ba, bb):
    return aa * ba, ab * ba + bb


@triton.jit
def scan_linear(a, b, y, M: tl.constexpr, N: tl.constexpr):
    """y[i] = a[i] y[i-1] + b[i] along rows."""
    p = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    _, r = tl.associative_scan((tl.load(a + p), tl.load(b + p)), 1, recurrence)
    tl.store(y + p, r)


@triton.jit
def atomic_sum(x, y, N: tl.constexpr, B: tl.constexpr):
    """Elements of y (N of them) are sums of x's with the same remainder."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.atomic_add(y + i % N, tl.load(x + i), sem="relaxed")


@triton.jit
def atomic_extremes(x, high, low, both, B: tl.constexpr):
    """Maximum, minimum and or of integers, one location each."""
    v = tl.load(x + tl.program_id(0) * B + tl.arange(0, B))
    tl.atomic_max(high + v * 0, v)
    tl.atomic_min(low + v * 0, v)
    tl.atomic_or(both + v * 0, v)


@triton.jit
def histogram(x, y, N: tl.constexpr, B: tl.constexpr):
    """Counts of x's values in [0, N): in the block, then by atomics."""
    v = tl.load(x + tl.program_id(0) * B + tl.arange(0, B))
    tl.atomic_add(y + tl.arange(0, N), tl.histogram(v, N))


@triton.jit
def locked_sum(x, y, lock, B: tl.constexpr):
    """Rows are added to y one block at a time, behind a lock."""
    i = tl.arange(0, B)
    v = tl.load(x + tl.program_id(0) * B + i)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(y + i, tl.load(y + i) + v)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


@triton.jit
def transpose(x, y, M, N, BM: tl.constexpr, BN: tl.constexpr):
    """y[N,M] = x[M,N]ᵀ."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    v = tl.load(x + m[:, None] * N + n[None, :], mask=(m[:, None] < M) & (n[None, :] < N))
    tl.store(y + n[:, None] * M + m[None, :], tl.trans(v), mask=(n[:, None] < N) & (m[None, :] < M))


@triton.jit
def permute(x, y, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    """y[C,A,B] = x[A,B,C]."""
    a = tl.arange(0, A)
    b = tl.arange(0, B)
    c = tl.arange(0, C)
    v = tl.load(x + a[:, None, None] * B * C + b[None, :, None] * C + c[None, None, :])
    tl.store(y + c[:, None, None] * A * B + a[None, :, None] * B + b[None, None, :], tl.permute(v, (2, 0, 1)))


@triton.jit
def gather_rows(table, index, y, D: tl.constexpr, B: tl.constexpr):
    """y[i] = table[index[i]]."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    r = tl.load(index + i)
    d = tl.arange(0, D)
    tl.store(y + i[:, None] * D + d[None, :], tl.load(table + r[:, None] * D + d[None, :]))


@triton.jit
def gather_block(x, index, y, M: tl.constexpr, N: tl.constexpr, AXIS: tl.constexpr):
    """y[i,j] = x[index[i,j],j] or x[i,index[i,j]], within a block."""
    p = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(y + p, tl.gather(tl.load(x + p), tl.load(index + p), AXIS))


@triton.jit
def convert(x, y, B: tl.constexpr):
    """y = x in y's type."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(y + i, tl.load(x + i).to(y.dtype.element_ty))


@triton.jit
def convert_chain(x, a, b, c, d, e, B: tl.constexpr):
    """f32 to f16, bf16, e5m2, i8 and i32."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    v = tl.load(x + i)
    tl.store(a + i, v.to(tl.float16))
    tl.store(b + i, v.to(tl.bfloat16))
    tl.store(c + i, v.to(tl.float8e5))
    tl.store(d + i, (v * 10).to(tl.int8))
    tl.store(e + i, (v * 1000).to(tl.int32))


@triton.jit
def functions(x, y, OP: tl.constexpr, B: tl.constexpr):
    """An elementary function of each element."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    v = tl.load(x + i)
    if OP == "exp":
        r = tl.exp(v)
    elif OP == "log":
        r = tl.log(tl.abs(v) + 0.01)
    elif OP == "sin":
        r = tl.sin(v * 20)
    elif OP == "erf":
        r = tl.erf(v)
    elif OP == "sqrt":
        r = tl.sqrt_rn(tl.abs(v)) + tl.rsqrt(tl.abs(v) + 1) + tl.div_rn(1.0, tl.abs(v) + 0.5)
    elif OP == "sigmoid":
        r = tl.sigmoid(v)
    else:
        r = tl.floor(v * 4) + tl.ceil(v * 8) * 0.5 + tl.clamp(v, -0.5, 0.5) + tl.fma(v, v, v)
    tl.store(y + i, r)


@triton.jit
def sort(x, y, M: tl.constexpr, N: tl.constexpr):
    """Rows in order."""
    p = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(y + p, tl.sort(tl.load(x + p), 1))


@triton.jit
def philox(y, seed, B: tl.constexpr):
    """Philox 4x32 random words, the first of each four."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(y + i, tl.randint(seed, i))


@triton.jit
def integers(x, z, y, B: tl.constexpr):
    """64-bit products, quotients, remainders and shifts of 32-bit operands."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    a = tl.load(x + i)
    b = tl.load(z + i)
    r = a.to(tl.int64) * b + a // b + (a % b) * 3 + (a >> (b & 15)) + tl.umulhi(a.to(tl.uint32), b.to(tl.uint32))
    tl.store(y + i, r)


@triton.jit
def conv1d(x, w, y, T, C: tl.constexpr, O: tl.constexpr, S: tl.constexpr, BT: tl.constexpr):
    """y[T,O] = Σ x[t+s,C] w[s,C,O]: a product for each of S taps."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    c = tl.arange(0, C)
    o = tl.arange(0, O)
    acc = tl.zeros((BT, O), tl.float32)
    for s in tl.static_range(S):
        a = tl.load(x + (t + s)[:, None] * C + c[None, :], mask=(t + s)[:, None] < T, other=0.0)
        acc = tl.dot(a, tl.load(w + s * C * O + c[:, None] * O + o[None, :]), acc)
    tl.store(y + t[:, None] * O + o[None, :], acc, mask=t[:, None] < T)
