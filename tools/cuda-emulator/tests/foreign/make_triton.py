"""Compiles the kernels of triton_kernels.py to PTX (no GPU needed) and writes triton.json, the list of cases.

    pip install triton==3.9.0 numpy
    python make_triton.py [FILTER]

Each case says file, kernel, grid, threads, shared bytes, arguments in order, and what the result must be (`op`, computed
in float64 by foreign.rs). Scratch pointers that Triton appends to the parameters are null.
"""

import json
import os
import re
import sys

os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import triton_kernels as K

HERE = os.path.dirname(os.path.abspath(__file__))
POINTER = dict(f32="*fp32", f16="*fp16", bf16="*bf16", e4m3="*fp8e4nv", e5m2="*fp8e5", i8="*i8", i32="*i32", i64="*i64", u32="*u32", f64="*fp64")
CASES = []


def buf(dtype, *shape, fill="normal"):
    """An input: `normal`, `integers LOW HIGH`, `zero`."""
    return dict(buffer=dtype, shape=list(shape), fill=fill)


def out(dtype, *shape, fill="poison"):
    """A result: compared unless it is scratch."""
    return dict(buffer=dtype, shape=list(shape), fill=fill, out=True)


def i32(v):
    return dict(i32=v)


def f32(v):
    return dict(f32=v)


def case(name, fn, args, consts, grid, op, tolerance, sm=80, warps=4, stages=3):
    """Compiles one case and notes it."""
    if len(sys.argv) > 1 and sys.argv[1] not in name:
        return
    signature, attrs, names = {}, {}, [p.name for p in fn.params]
    plain = [n for n in names if n not in consts]
    assert len(plain) == len(args), (name, plain)
    for i, n in enumerate(names):
        if n in consts:
            signature[n] = "constexpr"
            continue
        a = args[plain.index(n)]
        signature[n] = POINTER[a["buffer"]] if "buffer" in a else "i32" if "i32" in a else "fp32"
        if "buffer" in a or a.get("i32", 1) % 16 == 0:
            attrs[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn, signature=signature, constexprs=consts, attrs=attrs)
    k = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=dict(num_warps=warps, num_stages=stages))
    ptx = k.asm["ptx"].split("\t.section")[0]
    ptx = re.sub(r"[ \t]+//.*", "", ptx)
    ptx = re.sub(r"\n(\s*\n)+", "\n", ptx).replace('.file\t1 "' + HERE + "/", '.file\t1 "')
    count = ptx.split(")")[0].count(".param")
    args = args + [dict(null=True)] * (count - len(args))
    assert k.metadata.global_scratch_size == 0
    with open(os.path.join(HERE, "triton", name + ".ptx"), "w") as f:
        f.write(ptx)
    grid = (list(grid) + [1, 1])[:3]
    CASES.append(dict(name=name, file=f"triton/{name}.ptx", kernel=k.metadata.name, grid=grid, block=[32 * warps, 1, 1],
                      shared=k.metadata.shared, args=args, op=op, tolerance=tolerance))


def matmul(name, dtype, out_dtype, m, n, k, bm, bn, bk, warps, stages, sm=80, ta=False, tb=False, acc=tl.float32, edge=False,
           prec="tf32", tolerance=None):
    fill = "integers -128 127" if dtype == "i8" else "tf32" if dtype == "f32" else "normal"
    tolerance = tolerance or dict(i8=0, f32=2e-6).get(out_dtype if out_dtype == "f32" else dtype, dict(f16=6e-4, bf16=5e-3).get(out_dtype, 0))
    a = buf(dtype, *((k, m) if ta else (m, k)), fill=fill)
    b = buf(dtype, *((n, k) if tb else (k, n)), fill=fill)
    case("matmul_" + name, K.matmul, [a, b, out(out_dtype, m, n), i32(m), i32(n), i32(k)],
         dict(BM=bm, BN=bn, BK=bk, TA=ta, TB=tb, ACC=acc, EDGE=edge, PREC=prec, STAGES=stages),
         (-(-m // bm), -(-n // bn)), dict(kind="matmul", m=m, n=n, k=k, ta=ta, tb=tb), tolerance, sm, warps, stages)


def attention(name, dtype, heads, t, d, bm, bn, warps, stages, causal, sm=80):
    shape = (heads, t, d)
    case("attention_" + name, K.attention, [buf(dtype, *shape), buf(dtype, *shape), buf(dtype, *shape), out(dtype, *shape), i32(t), f32(d ** -0.5)],
         dict(D=d, BM=bm, BN=bn, CAUSAL=causal, STAGES=stages), (-(-t // bm), heads),
         dict(kind="attention", heads=heads, t=t, d=d, causal=causal, scale=d ** -0.5), 2e-3 if dtype == "f16" else 1.5e-2, sm, warps, stages)


def main():
    os.makedirs(os.path.join(HERE, "triton"), exist_ok=True)
    matmul("bf16_64x64x32_s3_w4", "bf16", "f32", 128, 128, 128, 64, 64, 32, 4, 3)
    matmul("bf16_128x64x32_s4_w8", "bf16", "bf16", 128, 128, 192, 128, 64, 32, 8, 4)
    matmul("bf16_32x32x32_s1_w1", "bf16", "f32", 64, 64, 96, 32, 32, 32, 1, 1)
    matmul("bf16_64x128x64_s2_w4_nt", "bf16", "f32", 64, 128, 192, 64, 128, 64, 4, 2, tb=True)
    matmul("bf16_64x32x32_s2_w2_tn", "bf16", "f32", 128, 64, 96, 64, 32, 32, 2, 2, ta=True)
    matmul("bf16_32x64x64_s4_w2_edge", "bf16", "bf16", 72, 88, 200, 32, 64, 64, 2, 4, edge=True)
    matmul("bf16_64x64x32_s3_w4_sm89_tt", "bf16", "f32", 64, 128, 160, 64, 64, 32, 4, 3, sm=89, ta=True, tb=True)
    matmul("f16_32x128x32_s3_w4", "f16", "f32", 64, 128, 160, 32, 128, 32, 4, 3)
    matmul("f16_128x32x64_s2_w4_nt", "f16", "f16", 128, 96, 128, 128, 32, 64, 4, 2, tb=True)
    matmul("f16_acc_f16_64x64x32_s4_w4", "f16", "f16", 64, 64, 128, 64, 64, 32, 4, 4, acc=tl.float16, tolerance=4e-3)
    matmul("f16_16x16x16_s1_w1_edge", "f16", "f32", 30, 20, 50, 16, 16, 16, 1, 1, edge=True)
    matmul("tf32_32x128x32_s3_w4", "f32", "f32", 64, 128, 160, 32, 128, 32, 4, 3)
    matmul("tf32_32x64x16_s4_w2_tn", "f32", "f32", 64, 64, 80, 32, 64, 16, 2, 4, ta=True)
    matmul("tf32_128x64x32_s2_w8_nt", "f32", "f32", 128, 64, 96, 128, 64, 32, 8, 2, tb=True)
    matmul("tf32x3_32x32x32_s2_w4", "f32", "f32", 64, 32, 64, 32, 32, 32, 4, 2, prec="tf32x3")
    matmul("ieee_32x32x16_s2_w4", "f32", "f32", 32, 64, 48, 32, 32, 16, 4, 2, prec="ieee")
    matmul("e4m3_32x128x64_s3_w4", "e4m3", "f32", 64, 128, 320, 32, 128, 64, 4, 3, sm=89, tb=True, tolerance=1e-5)
    matmul("e4m3_64x64x32_s2_w4_nn", "e4m3", "bf16", 64, 64, 128, 64, 64, 32, 4, 2, sm=89)
    matmul("e4m3_32x32x64_s4_w1", "e4m3", "f32", 32, 64, 256, 32, 32, 64, 1, 4, sm=89, tb=True, tolerance=1e-5)
    matmul("e5m2_32x128x64_s3_w4", "e5m2", "f32", 64, 128, 192, 32, 128, 64, 4, 3, sm=89, tb=True, tolerance=1e-5)
    matmul("e5m2_128x32x64_s2_w8", "e5m2", "f32", 128, 32, 128, 128, 32, 64, 8, 2, sm=89, tolerance=1e-5)
    matmul("i8_32x128x64_s3_w4", "i8", "i32", 64, 128, 192, 32, 128, 64, 4, 3, acc=tl.int32, tb=True)
    matmul("i8_32x32x32_s2_w2_nn", "i8", "i32", 64, 64, 96, 32, 32, 32, 2, 2, acc=tl.int32)
    matmul("i8_128x64x32_s4_w8_sm89", "i8", "i32", 128, 64, 128, 128, 64, 32, 8, 4, sm=89, acc=tl.int32)
    case("matmul_gelu_bf16", K.matmul_gelu, [buf("bf16", 160, 64), buf("bf16", 64, 64), buf("f32", 64), out("bf16", 160, 64), i32(160), i32(64), i32(64)],
         dict(BM=32, BN=32, BK=32), (10,), dict(kind="matmul_gelu", m=160, n=64, k=64), 5e-3)
    case("matmul_split_f16", K.matmul_split, [buf("f16", 32, 256), buf("f16", 256, 32), out("f32", 32, 32, fill="zero"), i32(32), i32(32), i32(256)],
         dict(BM=32, BN=32, BK=32, SPLIT=4), (1, 1, 4), dict(kind="matmul", m=32, n=32, k=256, ta=False, tb=False), 2e-6)
    attention("f16_d64_s3_w4", "f16", 2, 128, 64, 64, 32, 4, 3, False)
    attention("bf16_d64_s3_w4", "bf16", 1, 192, 64, 64, 64, 4, 3, True)
    attention("f16_d32_s1_w2", "f16", 2, 96, 32, 32, 32, 2, 1, True)
    attention("bf16_d128_s2_w8", "bf16", 1, 128, 128, 128, 32, 8, 2, False)
    attention("f16_d128_s3_w4_sm89", "f16", 1, 100, 128, 64, 32, 4, 3, True, sm=89)
    attention("bf16_d32_s4_w4_edge", "bf16", 3, 77, 32, 64, 32, 4, 4, False)
    ln = lambda dt, r, n: [buf(dt, r, n), buf("f32", n), buf("f32", n), out(dt, r, n), i32(n), f32(1e-5)]
    case("layernorm_bf16", K.layernorm, ln("bf16", 5, 384), dict(B=512), (5,), dict(kind="layernorm", rows=5, n=384), 5e-3)
    case("layernorm_f32_w8", K.layernorm, ln("f32", 3, 1000), dict(B=1024), (3,), dict(kind="layernorm", rows=3, n=1000), 1e-5, warps=8)
    case("layernorm_loop_f16", K.layernorm_loop, ln("f16", 4, 700), dict(B=256), (4,), dict(kind="layernorm", rows=4, n=700), 1e-3, warps=2)
    case("softmax_f32", K.softmax, [buf("f32", 6, 781), out("f32", 6, 781), i32(781)], dict(B=1024), (6,), dict(kind="softmax", rows=6, n=781), 1e-5)
    case("softmax_bf16_w1", K.softmax, [buf("bf16", 4, 197), out("bf16", 4, 197), i32(197)], dict(B=256), (4,), dict(kind="softmax", rows=4, n=197), 5e-3, warps=1)
    case("softmax_columns", K.softmax_tile, [buf("f32", 64, 32), out("f32", 64, 32)], dict(M=64, N=32), (1,), dict(kind="softmax_columns", rows=64, n=32), 1e-5)
    for op, dt, m, n, axis, w in [("sum", "f32", 64, 128, 1, 4), ("sum", "f32", 128, 32, 0, 8), ("max", "f16", 32, 64, 0, 4), ("min", "i32", 16, 256, 1, 2),
                                  ("argmax", "f32", 32, 128, 1, 4), ("argmin", "f32", 64, 32, 0, 4), ("xor", "i32", 64, 64, 0, 4)]:
        fill = "integers -1000000 1000000" if dt == "i32" else "normal"
        o = out("i32" if op.startswith("arg") else dt, n if axis == 0 else m)
        case(f"{op}_{dt}_axis{axis}", K.reduce2d, [buf(dt, m, n, fill=fill), o], dict(M=m, N=n, AXIS=axis, OP=op), (1,),
             dict(kind="reduce", op=op, rows=m, n=n, axis=axis), 1e-6 if op == "sum" else 0, warps=w)
    case("moments_f32", K.moments, [buf("f32", 4, 512), out("f32", 4), out("f32", 4)], dict(N=512), (4,), dict(kind="moments", rows=4, n=512), 1e-5)
    case("cumsum_f32_rows", K.cumsum, [buf("f32", 8, 256), out("f32", 8, 256)], dict(M=8, N=256, AXIS=1, BACK=False), (1,), dict(kind="cumsum", rows=8, n=256, axis=1, back=False), 1e-6)
    case("cumsum_i32_columns_back", K.cumsum, [buf("i32", 64, 32, fill="integers -1000 1000"), out("i32", 64, 32)], dict(M=64, N=32, AXIS=0, BACK=True), (1,), dict(kind="cumsum", rows=64, n=32, axis=0, back=True), 0)
    case("scan_linear_f32", K.scan_linear, [buf("f32", 4, 512, fill="uniform"), buf("f32", 4, 512), out("f32", 4, 512)], dict(M=4, N=512), (1,), dict(kind="scan_linear", rows=4, n=512), 1e-5)
    case("atomic_sum_f32", K.atomic_sum, [buf("f32", 1024), out("f32", 64, fill="zero")], dict(N=64, B=256), (4,), dict(kind="atomic_sum", n=64, count=1024), 1e-6)
    case("atomic_sum_f16", K.atomic_sum, [buf("f16", 512), out("f16", 128, fill="zero")], dict(N=128, B=128), (4,), dict(kind="atomic_sum", n=128, count=512), 2e-3)
    case("atomic_sum_f64", K.atomic_sum, [buf("f64", 512), out("f64", 32, fill="zero")], dict(N=32, B=128), (4,), dict(kind="atomic_sum", n=32, count=512), 1e-14)
    case("atomic_extremes_i32", K.atomic_extremes, [buf("i32", 512, fill="integers -1000000 1000000")] + [out("i32", 1, fill="zero") for _ in range(3)], dict(B=128), (4,), dict(kind="atomic_extremes", count=512), 0)
    case("histogram_i32", K.histogram, [buf("i32", 2048, fill="integers 0 63"), out("i32", 64, fill="zero")], dict(N=64, B=512), (4,), dict(kind="histogram", n=64, count=2048), 0)
    case("locked_sum_f32", K.locked_sum, [buf("f32", 8, 128), out("f32", 128, fill="zero"), dict(buffer="i32", shape=[1], fill="zero")], dict(B=128), (8,), dict(kind="atomic_sum", n=128, count=1024), 1e-6)
    for dt, m, n, bm, bn, w in [("f32", 100, 70, 32, 64, 4), ("f16", 128, 64, 64, 64, 4), ("i8", 64, 96, 32, 32, 2), ("bf16", 64, 64, 64, 16, 1)]:
        fill = "integers -128 127" if dt == "i8" else "normal"
        case(f"transpose_{dt}", K.transpose, [buf(dt, m, n, fill=fill), out(dt, n, m), i32(m), i32(n)], dict(BM=bm, BN=bn), (-(-m // bm), -(-n // bn)), dict(kind="transpose", m=m, n=n), 0, warps=w)
    case("permute_f32", K.permute, [buf("f32", 8, 16, 32), out("f32", 32, 8, 16)], dict(A=8, B=16, C=32), (1,), dict(kind="permute", a=8, b=16, c=32), 0)
    case("gather_rows_bf16", K.gather_rows, [buf("bf16", 50, 64), buf("i32", 64, fill="integers 0 49"), out("bf16", 64, 64)], dict(D=64, B=32), (2,), dict(kind="gather_rows", d=64, count=64), 0)
    case("gather_block_rows", K.gather_block, [buf("f32", 64, 32), buf("i32", 64, 32, fill="integers 0 63"), out("f32", 64, 32)], dict(M=64, N=32, AXIS=0), (1,), dict(kind="gather_block", rows=64, n=32, axis=0), 0)
    case("gather_block_columns", K.gather_block, [buf("f32", 32, 64), buf("i32", 32, 64, fill="integers 0 63"), out("f32", 32, 64)], dict(M=32, N=64, AXIS=1), (1,), dict(kind="gather_block", rows=32, n=64, axis=1), 0)
    for a, b, sm in [("f32", "e4m3", 89), ("e4m3", "f32", 89), ("e5m2", "bf16", 80), ("bf16", "e5m2", 89), ("f16", "e4m3", 89), ("e4m3", "f16", 89), ("f32", "i8", 80), ("i32", "f32", 80), ("i64", "bf16", 80), ("f64", "f16", 80)]:
        fill = "integers -100000000 100000000" if a in ("i32", "i64") else "uniform 100" if b == "i8" else "normal"
        case(f"convert_{a}_{b}", K.convert, [buf(a, 1024, fill=fill), out(b, 1024)], dict(B=512), (2,), dict(kind="convert", count=1024), 0, sm=sm)
    case("convert_chain", K.convert_chain, [buf("f32", 512), out("f16", 512), out("bf16", 512), out("e5m2", 512), out("i8", 512), out("i32", 512)], dict(B=256), (2,), dict(kind="convert_chain", count=512), 0)
    for op, tol in [("exp", 1e-6), ("log", 1e-6), ("sin", 2e-6), ("erf", 1e-6), ("sqrt", 1e-6), ("sigmoid", 1e-6), ("rounding", 1e-6)]:
        case(f"functions_{op}", K.functions, [buf("f32", 512), out("f32", 512)], dict(OP=op, B=256), (2,), dict(kind="functions", op=op, count=512), tol)
    case("sort_f32", K.sort, [buf("f32", 4, 128), out("f32", 4, 128)], dict(M=4, N=128), (1,), dict(kind="sort", rows=4, n=128), 0)
    case("philox_u32", K.philox, [out("i32", 512), i32(12345)], dict(B=256), (2,), dict(kind="philox", seed=12345, count=512), 0)
    case("integers_i64", K.integers, [buf("i32", 512, fill="integers -2000000000 2000000000"), buf("i32", 512, fill="integers 1 100000"), out("i64", 512)], dict(B=256), (2,), dict(kind="integers", count=512), 0)
    case("conv1d_f16", K.conv1d, [buf("f16", 100, 32), buf("f16", 3, 32, 32), out("f32", 100, 32), i32(100)], dict(C=32, O=32, S=3, BT=64), (2,), dict(kind="conv1d", t=100, c=32, o=32, s=3), 2e-6)
    if len(sys.argv) == 1:
        with open(os.path.join(HERE, "triton.json"), "w") as f:
            f.write("[\n" + ",\n".join(json.dumps(c) for c in CASES) + "\n]\n")


main()
