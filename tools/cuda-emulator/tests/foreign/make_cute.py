"""Compiles cute_*.cu to cute/*.ptx and writes cute.json, the list of cases (see make_triton.py).

    pip install nvidia-cutlass==4.2.0.0
    python make_cute.py NVCC
"""

import json
import os
import re
import subprocess
import sys

import cutlass_library

HERE = os.path.dirname(os.path.abspath(__file__))
INCLUDE = os.path.join(os.path.dirname(cutlass_library.__file__), "source", "include")
UTILITIES = os.path.join(os.path.dirname(INCLUDE), "tools", "util", "include")
CASES = []
DTYPE = dict(half_t="f16", float="f32", bfloat16_t="bf16", tfloat32_t="f32", double="f64", int8_t="i8", uint8_t="u8", int="i32", E4="e4m3", E5="e5m2")
BYTES = dict(f16=2, bf16=2, f32=4, f64=8, i8=1, u8=1, e4m3=1, e5m2=1)
# Of the result type; in f16, of an accumulator of f16.
TOLERANCE = dict(f32=2e-6, f64=1e-14, i32=0, bf16=5e-3, f16=4e-3)


def note(file, name, grid, block, shared, args, op, tolerance):
    CASES.append(dict(name="cute_" + name, file=f"cute/{file}.ptx", kernel=name, grid=grid, block=[block, 1, 1], shared=shared, args=args, op=op, tolerance=tolerance))


def main():
    for file, sm in [("cute_mma", 80), ("cute_fp8", 89), ("cute_copy", 80), ("cute_store", 90), ("cute_sparse", 80)]:
        path = os.path.join(HERE, file + ".cu")
        ptx = subprocess.run([sys.argv[1], "-ptx", f"-arch=sm_{sm}", "-std=c++17", "-w", "--expt-relaxed-constexpr", "-I", INCLUDE, "-I", UTILITIES, path, "-o", "-"],
                             check=True, capture_output=True, text=True).stdout
        with open(os.path.join(HERE, "cute", file + ".ptx"), "w") as f:
            f.write(re.sub(r"\n(\s*\n)+", "\n", ptx))
        for kind, words in re.findall(r"^(PRODUCT_T|PRODUCT)\((.*)\)$", open(path).read(), re.M):
            w = [x.strip() for x in re.split(r",(?![^<]*>)", words)]
            name, t = w[0], kind == "PRODUCT_T"
            ta, tb, tc = (DTYPE[x] for x in ((w[1], w[1], w[2]) if t else w[1:4]))
            wm, wn, _, bm, bn, bk, stages = w[4 - t + 1:4 - t + 8]
            wm, wn, bm, bn, bk, stages = map(int, (wm, wn, bm, bn, bk, stages))
            start = 0 if t else float(re.sub(r"[^0-9.]", "", w[-1].replace("half_t", "")) or 0)
            m, n, k = 2 * bm, 2 * bn, bk * 7
            fill = lambda d: dict(i8="integers -128 127", u8="integers 0 255", f32="tf32").get(d, "normal")
            a = dict(buffer=ta, shape=[k, m] if t else [m, k], fill=fill(ta))
            b = dict(buffer=tb, shape=[k, n] if t else [n, k], fill=fill(tb))
            c = dict(buffer=tc, shape=[m, n], fill="poison", out=True)
            tolerance = 1e-5 if file == "cute_fp8" and tc == "f32" else TOLERANCE[tc]
            note(file, name, [2, 2, 1], 32 * wm * wn, stages * bk * (bm * BYTES[ta] + bn * BYTES[tb]), [a, b, c, dict(i32=m), dict(i32=n), dict(i32=k)],
                 dict(kind="matmul", m=m, n=n, k=k, ta=t, tb=not t, start=start), tolerance)
        for name, dtype in re.findall(r"^PADDED\((\w+), (\w+),", open(path).read(), re.M):
            d = DTYPE[dtype]
            note(file, name, [1, 1, 1], 128, 0, [dict(buffer=d, shape=[50, 64], fill="normal"), dict(buffer=d, shape=[64, 64], fill="poison", out=True), dict(i32=50)],
                 dict(kind="padded", rows=50), 0)
        for name in re.findall(r"^STORED\((\w+),", open(path).read(), re.M):
            k = 48
            note(file, name, [1, 1, 1], 128, 0, [dict(buffer="f16", shape=[64, k], fill="normal"), dict(buffer="f16", shape=[64, k], fill="normal"),
                 dict(buffer="f16", shape=[64, 64], fill="poison", out=True), dict(i32=k)], dict(kind="matmul", m=64, n=64, k=k, ta=False, tb=True, start=0), TOLERANCE["f16"])
        for words in re.findall(r"^SPARSE\((.*)\)$", open(path).read(), re.M):
            name, t, c, e, m, n, bk, wm, wn, _ = words.split(", ")
            d = DTYPE[t.split("::")[-1]]
            m, n, bk, wm, wn = map(int, (m, n, bk, wm, wn))
            k, bits = 5 * bk, 32 if e == "uint32_t" else 16
            group, fill = (2, "one_of_two") if d == "f32" else (4, "two_of_four")
            e = dict(buffer=f"u{bits}", shape=[m, k // group * 4 // bits], fill=fill)
            values = dict(i8="integers -128 127", f32="tf32").get(d, "normal")
            # Three stages of a, b and metadata; the epilogue takes less.
            shared = 3 * (bk * BYTES[d] * (m // 2 + n) + m * bk // group // 2)
            note(file, name, [1, 1, 1], 32 * (m // wm) * (n // wn), shared, [dict(buffer=d, shape=[m, k // 2], fill=values), dict(buffer=d, shape=[n, k], fill=values), e,
                 dict(e, fill="poison"), dict(buffer=d, shape=[m, k], fill="poison", out=True), dict(buffer=DTYPE[c], shape=[m, n], fill="poison", out=True), dict(i32=n), dict(i32=k)],
                 dict(kind="sparse", m=m, n=n, k=k, group=group), TOLERANCE[DTYPE[c]])
    note("cute_copy", "movm", [1, 1, 1], 32, 0, [dict(buffer="f16", shape=[8, 8], fill="normal"), dict(buffer="f16", shape=[8, 8], fill="poison", out=True)],
         dict(kind="transpose", m=8, n=8), 0)
    with open(os.path.join(HERE, "cute.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in CASES) + "\n]\n")


main()
