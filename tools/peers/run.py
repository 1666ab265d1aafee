"""Runs us and the peers side by side; see `tools/compare --help`.

Every peer is a process that lives through its table; in each round each of them makes one forward, in a shuffled
order, so that whatever else the machine does falls on all alike. This process imports nothing heavy: a child's peak
memory starts from its parent's.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import report
import training

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OURS = "ours-f32"
QUICK = ["torch-eager-f32", "ort-f32", "openvino-f32"]
FULL = [
    *QUICK,
    "torch-eager-sdpa-f32",
    "torch-compile-f32",
    "torch-eager-bf16",
    "torch-compile-bf16",
    "ort-int8",
    "openvino-bf16",
    "openvino-int8",
    "openvino-f32-throughput",
    "openvino-bf16-throughput",
    "openvino-int8-throughput",
]
PRECISIONS = ["f32", "bf16", "int8"]
ROUNDS = 3  # at least


def say(text):
    print(text, file=sys.stderr, flush=True)


def script(name, *args):
    return [sys.executable, str(HERE / name), *map(str, args)]


def clean_environment():
    """Settings of this shell that would slow a peer down are not handed on."""
    for key in ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_NUM_THREADS", "MKL_NUM_THREADS"]:
        os.environ.pop(key, None)


def model(binary, arch, data, precision):
    """The model's file; in int8 a calibrated copy, made once with the picture (random weights may stray too far)."""
    exact = data / f"{arch}.safetensors"
    if precision != "int8":
        return exact
    copy = data / f"{arch}-int8.safetensors"
    if not copy.exists():
        part = copy.with_suffix(".part")
        shutil.copyfile(exact, part)
        args = [binary, "quantise", "--model", part, "--good", data / "picture.png", "--quiet"]
        subprocess.run([str(a) for a in args], check=True, stdout=subprocess.DEVNULL)
        part.rename(copy)
    return copy


def bench(binary, arch, data, batch, threads, precision):
    path = model(binary, arch, data, precision)
    args = ["bench", "--model", path, "--batch", batch, "--threads", threads, "--precision", precision, "--quiet"]
    return [str(a) for a in [binary, *args, *(["--allow-inaccurate"] if precision == "int8" else [])]]


def available(binary, data, arch):
    """Our precisions that are built, and a note for each one that is not."""
    help = subprocess.run([binary, "bench", "--help"], capture_output=True, text=True) if binary.exists() else None
    if not help or "--serve" not in help.stdout:
        return [], ["inp-former bench is not built (cargo build --release): only the peers were measured"]
    have, notes = [], []
    for p in PRECISIONS:
        try:
            args = [*bench(binary, arch, data, 1, 2, p), "--iters", "1"]
        except subprocess.CalledProcessError as e:
            notes.append(f"inp-former {p} was not measured: {e}")
            continue
        done = subprocess.run(args, capture_output=True, text=True)
        if done.returncode == 0:
            have.append(p)
        else:
            notes.append(f"inp-former {p} was not measured: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return have, notes


class Worker:
    """A process that answers a line with the milliseconds of one forward."""

    def __init__(self, binary, name, arch, data, batch, threads, log):
        self.name, self.threads, self.ms, self.hello = name, threads, [], {}
        if name.startswith("ours"):
            self.batch = 1 if name.endswith("batch1") else batch
            args = [*bench(binary, arch, data, self.batch, threads, name.split("-")[1]), "--serve"]
        else:
            self.batch = batch
            args = script("worker.py", name, data, arch, batch, threads)
        self.open(args, log)

    def open(self, args, log):
        self.p = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)

    def line(self):
        text = self.p.stdout.readline()
        if not text:
            raise RuntimeError(f"{self.name} ended")
        return text

    def start(self):
        if not self.name.startswith("ours"):
            self.hello = json.loads(self.line())
        elif self.batch == 1:
            self.run()
        self.measure_threads()

    def measure_threads(self):
        before = self.cpu_time()
        self.run()
        self.pin(before)

    def cpu_time(self):
        """Clock ticks of each thread."""
        ticks = {}
        for stat in Path(f"/proc/{self.p.pid}/task").glob("*/stat"):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            ticks[int(stat.parent.name)] = int(fields[11]) + int(fields[12])
        return ticks

    def pin(self, before):
        """Each thread that computes gets a core. Left alone, some kernels pack them all on one core (seen: twice the
        time, and ten times for PyTorch, whose threads spin); that would measure the scheduler."""
        used = {t: n - before.get(t, 0) for t, n in self.cpu_time().items()}
        busiest = sorted(used, key=used.get, reverse=True)[: self.threads]
        for cpu, thread in zip(sorted(os.sched_getaffinity(0)), busiest):
            os.sched_setaffinity(thread, {cpu})
        self.hello["shares"] = [used[t] for t in busiest]

    def run(self):
        self.p.stdin.write("run\n")
        self.p.stdin.flush()
        return float(self.line())

    def peak_mb(self):
        status = Path(f"/proc/{self.p.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6

    def stop(self):
        self.p.stdin.close()
        self.p.stdout.close()
        self.p.wait()


def error_of_ours(binary, arch, data, precision, threads):
    """The fast scorer's maps against the float64 ones, by the same rule as the workers'."""
    out = data / "trace.safetensors"
    args = ["trace", "--path", "engine", "--model", model(binary, arch, data, precision), "--out", out]
    args += ["--input", data / "input.safetensors", "--precision", precision, "--threads", threads, "--quiet"]
    args += ["--allow-inaccurate"] if precision == "int8" else []
    done = subprocess.run([binary, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        say(f"trace: {done.stderr.strip()}")
        return None
    return float(subprocess.run(script("error.py", data, arch), capture_output=True, text=True, check=True).stdout)


def table(binary, arch, batch, threads, names, data, seconds, seed, log):
    """One interleaved run; a list of rows."""
    workers, dead, following = [], [], None
    for i, name in enumerate(names):
        w = following or Worker(binary, name, arch, data, batch, threads, log)
        # The next one loads meanwhile.
        following = Worker(binary, names[i + 1], arch, data, batch, threads, log) if i + 1 < len(names) else None
        try:
            w.start()
            workers.append(w)
            say(f"  {name} ready")
        except (RuntimeError, ValueError) as e:
            say(f"  {name} does not run: {e}; see {log.name}")
            dead.append({"name": name, "failed": str(e)})
    order, shuffle = list(workers), random.Random(seed).shuffle
    end, rounds = time.monotonic() + seconds, 0
    while rounds < ROUNDS or time.monotonic() < end:
        shuffle(order)
        for w in order:
            if batch == 1 and not w.name.endswith("throughput"):
                w.run()  # wakes the threads; a long forward does not need it
            w.ms.append(w.run())
        rounds += 1
    rows = []
    for w in workers:
        rows.append(
            {
                "name": w.name,
                "batch": w.batch,
                "median_ms": statistics.median(w.ms),
                "min_ms": min(w.ms),
                "image_ms": statistics.median(w.ms) / w.batch,
                "peak_mb": w.peak_mb(),
                "ms": w.ms,
                **w.hello,
            }
        )
        w.stop()
    ours = next((r for r in rows if r["name"] == OURS), None)
    for r in rows:
        r["ratio"] = ours and r["image_ms"] / ours["image_ms"]
        if r["name"].startswith("ours"):
            r["error"] = error_of_ours(binary, arch, data, r["name"].split("-")[1], threads)
    return {"arch": arch, "batch": batch, "threads": threads, "rounds": rounds, "rows": rows + dead}


def cold(binary, arch, names, data, threads, rounds, seed, log):
    """Process start to first score, and peak memory of that process; the page cache is warm."""
    rows = {n: {"name": n, "ms": [], "peak_mb": []} for n in names}
    picture, order = data / "picture.png", list(names)
    shuffle = random.Random(seed).shuffle
    for i in range(rounds + 1):
        shuffle(order)
        for name in order:
            if name.startswith("ours"):
                precision = name.split("-")[1]
                args = [binary, "score", "--model", model(binary, arch, data, precision), "--precision", precision]
                args += ["--threads", threads, "--format", "jsonl", "--quiet", picture]
                args = [str(a) for a in [*args, *(["--allow-inaccurate"] if precision == "int8" else [])]]
            else:
                args = script("cold.py", name, data, arch, threads, picture)
            start = time.perf_counter()
            p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=log, text=True)
            text = p.stdout.readline()
            ms = (time.perf_counter() - start) * 1e3
            p.stdout.read()
            _, status, usage = os.wait4(p.pid, 0)
            p.returncode = os.waitstatus_to_exitcode(status)
            try:
                record = json.loads(text)
                rows[name]["score"] = record["score"] if name.startswith("ours") else record
            except (ValueError, KeyError):
                rows[name]["failed"] = f"exit code {p.returncode}"
                continue
            if i:  # the first round fills the page cache
                rows[name]["ms"].append(ms)
                rows[name]["peak_mb"].append(usage.ru_maxrss * 1024 / 1e6)
    for r in rows.values():
        if r["ms"]:
            r["median_ms"], r["peak_mb"] = statistics.median(r["ms"]), max(r["peak_mb"])
    return {"arch": arch, "threads": threads, "rounds": rounds, "rows": list(rows.values())}


def compare_training(o, archs, data):
    """Training steps instead of forwards; other markers of the same file."""
    names = o.peers.split(",") if o.peers else training.OURS + training.TORCH
    if unknown := set(names) - set(training.OURS + training.TORCH):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}")
    tables, start = [], time.time()
    with open(o.out / "training.log", "w") as log:
        for arch in archs:
            some = names
            for batch in sorted(int(b) for b in (o.batch or "4,16").split(",")):
                subprocess.run(script("prepare.py", data, arch, batch, "train"), check=True)
                say(f"{arch}, training steps of {batch}, {o.threads} threads")
                at = [o.seconds or 30, o.seed, log, say, o.binary, (data, arch, batch, o.threads)]
                tables.append(training.Table(Worker, script, *at).run(some))
                some = training.fastest(some, tables[-1])
                finish_training(o, tables, start)
    text = (o.out / "training.md").read_text()
    print(text)
    if o.write:
        report.write(o.write, text, "tools/compare --train")


def finish_training(o, tables, start):
    """Writes what there is after every table: a run is long."""
    result = {"machine": machine(), "date": time.strftime("%Y-%m-%d", time.gmtime()), "tables": tables}
    result["command"], result["minutes"] = "tools/compare " + " ".join(sys.argv[1:]), (time.time() - start) / 60
    result["acceptance"] = training.acceptance(tables)
    (o.out / "training.json").write_text(json.dumps(result, indent=1))
    (o.out / "training.md").write_text(training.markdown(result, report))


def machine():
    info = Path("/proc/cpuinfo").read_text()
    field = lambda k: next((l.split(":", 1)[1].strip() for l in info.splitlines() if l.startswith(k)), "?")
    flags = [f for f in field("flags").split() if f.startswith(("avx", "amx", "fma"))]
    return {
        "cpu": f"{field('model name')} (family {field('cpu family')}, model {field('model')}".strip() + ")",
        "cores": os.cpu_count(),
        "flags": flags,
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
    }


def main():
    a = argparse.ArgumentParser(prog="tools/compare", description="Measure us and the peers in one interleaved run.")
    a.add_argument("--quick", action="store_true", help="batch 1, f32, three peers")
    a.add_argument("--arch", default="small,base", help="comma-separated: small, base [default: %(default)s]")
    a.add_argument("--batch", help="batch sizes [default: 1,8; quick: 1]")
    a.add_argument("--peers", help="comma-separated names instead of all: " + " ".join(FULL))
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--seconds", type=float, help="measured seconds a table [default: 30; quick: 15]")
    a.add_argument("--seed", type=int, default=1, help="of the order within rounds")
    a.add_argument("--binary", type=Path, default=ROOT / "target/release/inp-former", help="which inp-former")
    a.add_argument("--out", type=Path, default=ROOT / "target/compare/out", help="folder for compare.json and .md")
    a.add_argument("--write", type=Path, help="put the tables between the markers of this file, e.g. BENCHMARKS.md")
    a.add_argument("--train", action="store_true", help="training steps, ours beside PyTorch's published loop")
    a.add_argument("--check", action="store_true", help="only check the reference against the goldens ($INP_GOLDENS)")
    o = a.parse_args()
    if o.check:
        sys.exit(subprocess.run(script("reference.py")).returncode)
    clean_environment()
    data, archs = ROOT / "target/compare/data", o.arch.split(",")
    if unknown := set(archs) - {"small", "base"}:
        a.error(f"--arch: unknown: {', '.join(sorted(unknown))}")
    if o.train:
        o.out.mkdir(parents=True, exist_ok=True)
        return compare_training(o, archs, data)
    batches = [int(b) for b in (o.batch or ("1" if o.quick else "1,8")).split(",")]
    peers = o.peers.split(",") if o.peers else QUICK if o.quick else FULL
    if unknown := set(peers) - set(FULL):
        a.error(f"--peers: unknown: {', '.join(sorted(unknown))}")
    seconds = o.seconds or (15 if o.quick else 30)
    o.out.mkdir(parents=True, exist_ok=True)
    for arch in archs:
        for batch in batches:
            int8 = ["int8"] if any("int8" in p for p in peers) else []
            subprocess.run(script("prepare.py", data, arch, batch, *int8), check=True)
    have, notes = available(o.binary, data, archs[0])
    for n in notes:
        say(n)
    ours = [f"ours-{p}" for p in (have[:1] if o.quick else have)]
    start = time.time()
    result = {"machine": machine(), "date": time.strftime("%Y-%m-%d", time.gmtime()), "notes": notes, "tables": []}
    result["command"] = "tools/compare " + " ".join(sys.argv[1:])
    freeze = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True).stdout.split()
    wanted = ("torch==", "onnxruntime==", "openvino==", "nncf==")
    result["versions"] = {"python": platform.python_version(), **dict(v.split("==") for v in freeze if v.startswith(wanted))}
    plan = [(arch, b, o.threads, ours + peers) for b in batches for arch in archs]
    if not o.quick and o.threads > 1:
        f32 = [n for n in ours + peers if n in (OURS, "torch-eager-f32", "ort-f32", "openvino-f32")]
        plan += [(arch, 1, 1, f32) for arch in archs]
    with open(o.out / "compare.log", "w") as log:
        for arch, batch, threads, names in plan:
            say(f"{arch}, batch {batch}, {threads} threads")
            if batch > 1:
                names = [n for n in names if "sdpa" not in n] + ([OURS + "-batch1"] if OURS in names else [])
            result["tables"].append(table(o.binary, arch, batch, threads, names, data, seconds, o.seed, log))
        result["cold"] = []
        for arch in archs:
            say(f"{arch}, start to first score")
            names = ours + [p for p in peers if "compile" not in p and not p.endswith("throughput")]
            result["cold"].append(cold(o.binary, arch, names, data, o.threads, 3, o.seed, log))
    result["minutes"] = (time.time() - start) / 60
    for t in result["tables"]:
        noisy = [r for r in t["rows"] if r["name"] == OURS and r["median_ms"] > 1.2 * r["min_ms"]]
        if noisy:
            notes.append(f"{t['arch']}, batch {t['batch']}, {t['threads']} threads: the machine was busy; measure again")
    result["acceptance"] = report.acceptance(result)
    (o.out / "compare.json").write_text(json.dumps(result, indent=1))
    text = report.markdown(result)
    (o.out / "compare.md").write_text(text)
    print(text)
    if o.write:
        report.write(o.write, text)


if __name__ == "__main__":
    main()
