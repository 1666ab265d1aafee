"""What a kernel's main loop costs, counted two ways: its machine code (nvdisasm), and its PTX on the emulator."""

import collections
import ctypes
import json
import os
import re
import subprocess
import tempfile

os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

KINDS = ("tensor", "ldmatrix", "cp.async", "other")
BRANCH = re.compile(r"\bBRA\b.*`\((\.L_\w+)\)")


def functions(cubin, nvdisasm):
    """Machine code by kernel: instructions in order, and where each label points."""
    text = subprocess.run([nvdisasm, "-c", cubin], capture_output=True, text=True, check=True).stdout
    found, code, labels = {}, None, None
    for line in text.splitlines():
        if m := re.match(r"\.text\.(\S+):", line):
            code, labels = found.setdefault(m[1], ([], {}))
        elif line.startswith("\t.section"):
            code = None
        elif code is not None and (m := re.match(r"(\.L_\w+):", line)):
            labels[m[1]] = len(code)
        elif code is not None and (m := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line)):
            code.append(m[1])
    return found


def kind(instruction):
    op = re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0].split(".")[0]
    return {"HMMA": "tensor", "LDSM": "ldmatrix", "LDGSTS": "cp.async"}.get(op, "other")


def main_loop(code, labels):
    """Instructions that one pass of the loop with the most mma issues, by kind: along the shortest way round, so that what the
    steady state branches around (a rare correction) is not counted."""
    best = None
    for start in {labels[m[1]] for n, i in enumerate(code) if (m := BRANCH.search(i)) and labels[m[1]] <= n}:
        way = [None] * (len(code) + 1)  # (instructions, next) from here to the loop's start
        for n in range(len(code) - 1, start - 1, -1):
            i, after, jump = code[n], [], BRANCH.search(code[n])
            conditional = i.startswith("@") or re.search(r"BRA\S* !?U?P\d,", i)
            if jump:
                target = labels[jump[1]]
                after += ["end"] if target == start else [target] if target > n else []
            if (not jump and " EXIT" not in f" {i}") or conditional:
                after.append(n + 1)
            tails = [(0, None) if a == "end" else (way[a][0], a) for a in after if a == "end" or way[a]]
            if tails:
                length, to = min(tails, key=lambda t: t[0])
                way[n] = (length + 1, to)
        if way[start]:
            counts, n = collections.Counter(), start
            while n is not None:
                counts[kind(code[n])] += 1
                n = way[n][1]
            if best is None or counts["tensor"] > best["tensor"]:
                best = counts
    return {k: best[k] for k in KINDS}


def row(code, labels, short, long):
    """Per 2^20 multiply-adds: the loop's instructions, and what a longer run adds to the emulator's counters."""
    loop = main_loop(code, labels)
    scale = 2**20 / (loop["tensor"] * 16 * 8 * 16)
    r = {k: n * scale for k, n in loop.items()}
    r["spills"] = sum(i.split()[0].startswith(("LDL", "STL")) for i in code)
    mac = long["mac"] - short["mac"]
    for k in ("wavefronts", "bytes"):
        r[k] = (long[k] - short[k]) * 2**20 / mac
    r["conflicts"] = long["conflicts"] - short["conflicts"]
    return r


class compile_triton:
    """A kernel of Triton's for sm_80. `types` of the arguments; `whole` are known to be multiples of 16."""

    def __init__(self, function, types, constants, whole, warps, stages):
        spelled = {"bf16": "*bf16", "f16": "*fp16"}
        signature = {n: spelled.get(t, t) for n, t in types.items()} | dict.fromkeys(constants, "constexpr")
        attrs = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(types) if n in whole}
        source = ASTSource(function, signature=signature, constexprs=constants, attrs=attrs)
        k = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=dict(num_warps=warps, num_stages=stages))
        self.name, self.shared, self.ptx, self.cubin = k.metadata.name, k.metadata.shared, k.asm["ptx"], k.asm["cubin"]
        # Pointers to scratch memory that Triton appends to the parameters.
        self.scratch = [ctypes.c_uint64(0)] * (self.ptx.split(")")[0].count(".param") - len(types))

    def code(self, nvdisasm):
        with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
            f.write(self.cubin)
            f.flush()
            return functions(f.name, nvdisasm)[self.name]


class Emulator:
    """The emulated driver in this process, counting."""

    def __init__(self, library):
        self.report = os.path.join(tempfile.mkdtemp(), "report.json")
        os.environ.update(INP_EMULATED_COUNT="1", INP_EMULATED_REPORT=self.report)
        self.cu = ctypes.CDLL(library)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name, *arguments):
        code = getattr(self.cu, name)(*arguments)
        if code:
            raise RuntimeError(f"{name}: error {code}")

    def upload(self, data):
        at = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(at), ctypes.c_size_t(len(data)))
        self.call("cuMemcpyHtoD_v2", at, data, ctypes.c_size_t(len(data)))
        return at

    def launch(self, ptx, name, grid, threads, shared, arguments):
        """Counters of one launch; arguments are ctypes values or bytes."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), ptx.encode())
        self.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        self.call("cuFuncSetAttribute", function, 8, shared)
        held = [ctypes.create_string_buffer(a, len(a)) if isinstance(a, bytes) else a for a in arguments]
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(a) for a in held))
        self.call("cuLaunchKernel", function, *grid, threads, 1, 1, shared, None, pointers, None)
        self.call("cuCtxSynchronize")
        with open(self.report) as f:
            c = json.load(f)["launches"][-1]["counters"]
        return {"wavefronts": c["wavefronts"], "bytes": 32 * c["sectors"], "conflicts": c["bank_conflicts"], "mac": sum(c["tensor_macs"].values())}
