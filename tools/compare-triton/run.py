"""Writes the table of BENCHMARKS.md: what the main loops of our kernels and of Triton's cost per multiply-add."""

import argparse
import datetime
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import attention
import counts
import linear

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADING = "## Beside Triton"
COLUMNS = (*counts.KINDS, "wavefronts", "bytes")
TEXT = """What the main loops cost per 2^20 multiply-adds on sm_80, prologue and end left out: warp instructions of the machine code (nvdisasm; one
pass of the loop, whatever the shape), and what the emulator counts when one block's K grows from 768 to 3072 (linear) or its keys from
512 to 1024 (attention): passes of shared memory and bytes read from device memory. Both kernels multiply whole tiles without a mask in
the loop; padding at the edges is not in it. Best of Triton: the smallest of each column over all of its configurations that spill no
registers, from whichever; ours is one kernel. {command}, {dtype}, {date}; Triton {triton}, nvcc {nvcc}.
"""


def table(rows):
    """Markdown, and the worst ratio of our best kernel."""
    ours, theirs = ([r for r in rows if r["name"].startswith(w)] for w in ("ours", "Triton"))
    theirs = [r for r in theirs if r["spills"] == 0]
    least = {k: min(r[k] for r in theirs) for k in COLUMNS}
    ratios = lambda r: {k: r[k] / least[k] for k in COLUMNS}
    best = min(ours, key=lambda r: max(ratios(r).values()))
    lines = ["| |" + "".join(f" {k} |" for k in COLUMNS) + " bank conflicts |", "|---|" + "--:|" * (len(COLUMNS) + 1)]
    number = lambda x: f"{x:.0f}" if x >= 1000 else f"{x:.1f}"
    line = lambda name, r, end: lines.append(f"| {name} |" + "".join(f" {number(r[k])} |" for k in COLUMNS) + f" {end} |")
    for r in ours:
        line(r["name"] + (" (best)" if r is best else ""), r, r["conflicts"])
    for r in theirs:
        line(r["name"], r, r["conflicts"])
    line("best of Triton in each column", least, "")
    lines.append("| **ours (best) / best of Triton** |" + "".join(f" {x:.2f} |" for x in ratios(best).values()) + " |")
    return "\n".join(lines), max(ratios(best).values())


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--write", metavar="FILE", help="put the tables into this file, under their heading")
    p.add_argument("--dtype", choices=("bf16", "f16"), default="bf16")
    p.add_argument("--nvcc", required=True)
    p.add_argument("--emulator", required=True)
    o = p.parse_args()
    nvdisasm = str(pathlib.Path(o.nvcc).with_name("nvdisasm"))
    emulator = counts.Emulator(o.emulator)
    version = subprocess.run([o.nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"V([\d.]+)", version)[1]
    text = TEXT.format(command=f"`tools/compare-triton/run --dtype {o.dtype}`", dtype=o.dtype, date=datetime.date.today(), triton=counts.triton.__version__, nvcc=release)
    worst = 0
    for op in (linear, attention):
        stem = op.__name__
        with tempfile.TemporaryDirectory() as work:
            out = {kind: f"{work}/{stem}.{kind}" for kind in ("ptx", "cubin")}
            for kind, file in out.items():
                subprocess.run([o.nvcc, "-std=c++17", "-arch=sm_80", f"-{kind}", "-o", file, f"{ROOT}/kernels/{stem}.cu"], check=True)
            ptx = pathlib.Path(out["ptx"]).read_text()
            rows = [*op.our_rows(o.dtype, nvdisasm, emulator, out["cubin"], ptx), *op.triton_rows(o.dtype, nvdisasm, emulator)]
        lines, ratio = table(rows)
        text += f"\n### {stem}\n{lines}\n"
        worst = max(worst, ratio)
    print(text)
    if o.write:
        file = pathlib.Path(o.write)
        before, _, rest = file.read_text().partition(f"{HEADING}\n")
        after = re.search(r"^## .*", rest, re.M | re.S)
        file.write_text(before.rstrip("\n") + f"\n\n{HEADING}\n{text}\n" + (after[0] if after else ""))
    if worst > 1.05:
        print(f"a count is {worst:.2f} times Triton's", file=sys.stderr)
    sys.stdout.flush()
    os._exit(worst > 1.05)  # without the emulator's own table of every launch


main()
