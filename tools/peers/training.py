"""One training step, us beside PyTorch: `tools/compare --train`.

PyTorch runs the published loop (the encoder in every step, without gradients), in our own restatement. As everywhere,
each process makes one step a round, in shuffled order; all start from the same weights and pictures, so that their
first losses must agree.

    python training.py PEER DIR ARCH BATCH THREADS     one PyTorch process, as `worker.py`
"""

import json
import os
import random
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIZE, LR = 392, 1e-4
TORCH = ["torch-eager-f32", "torch-eager-sdpa-f32", "torch-eager-sdpa-bf16", "torch-compile-f32", "torch-compile-bf16"]
OURS = [
    f"ours-{precision}-{path}-{source}"
    for precision, path in [("f32", "plain"), ("f32", "folds"), ("bf16", "folds")]
    for source in ["fresh", "cached"]
]


def stable_adamw(torch):
    class StableAdamW:
        """AMSGrad with a bound on each tensor's update, as docs/spec.md has it; one pass a tensor, in place."""

        def __init__(self, parameters, betas=(0.9, 0.999), eps=1e-10, decay=1e-4):
            self.p, self.betas, self.eps, self.decay, self.t = list(parameters), betas, eps, decay, 0
            self.state = [[torch.zeros_like(p) for _ in range(3)] for p in self.p]

        @torch.no_grad()
        def step(self, lr):
            self.t += 1
            b1, b2 = self.betas
            root = (1 - b2**self.t) ** 0.5
            for p, (m, v, top) in zip(self.p, self.state):
                g = p.grad
                p.mul_(1 - lr * self.decay)
                m.lerp_(g, 1 - b1)
                v.mul_(b2).addcmul_(g, g, value=1 - b2)
                torch.maximum(top, v, out=top)
                den = top.sqrt().div_(root).add_(self.eps)
                rms = max(1.0, (g / den).square_().mean().sqrt().item())
                p.addcdiv_(m, den, value=-lr / (1 - b1**self.t) / rms)

    return StableAdamW


def make_step(kind, data, arch, batch, threads):
    """A function that makes one step and gives its loss."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(data / "inductor"))
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file

    import generator
    import reference

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    fused = "eager" not in kind or "sdpa" in kind
    m = reference.build(arch, SIZE, fused=fused, tensors=load_file(data / f"{arch}.safetensors"))
    # The file's arrays may not be written to; training does.
    trained = {k: torch.nn.Parameter(p.detach().clone()) for k, p in m.named_parameters() if not k.startswith("encoder.")}
    for name, p in trained.items():
        owner, _, leaf = name.rpartition(".")
        setattr(m.get_submodule(owner), leaf, p)

    class Mine(torch.autograd.Function):
        """Soft mining: the gradient times each position's factor, the value as it is."""

        @staticmethod
        def forward(ctx, x, factor):
            ctx.save_for_backward(factor)
            return x.view_as(x)

        @staticmethod
        def backward(ctx, d):
            return d * ctx.saved_tensors[0], None

    def loss_of(e):
        f = reference.mean(e)
        inp = m.aggregation[0](m.prototype_token.expand(f.shape[0], -1, -1), f)
        nearest = (1 - F.cosine_similarity(f.unsqueeze(2).float(), inp.unsqueeze(1).float(), dim=-1)).min(2).values
        x, d = m.bottleneck[0](f), []
        for block in m.decoder:
            x = block(x, inp)
            d.insert(0, x)
        loss = 0.2 * nearest.mean()
        for g in m.groups:
            a, b = reference.mean([e[i] for i in g]).float(), reference.mean([d[i] for i in g]).float()
            with torch.no_grad():
                dist = 1 - F.cosine_similarity(a, b, dim=-1)
                factor = ((dist / dist.mean()) ** 3).unsqueeze(-1)
            cos = F.cosine_similarity(a.flatten(1), Mine.apply(b, factor).flatten(1))
            loss = loss + (1 - cos).mean() / len(m.groups)
        return loss

    encode = m.encoder
    if "compile" in kind:
        encode, loss_of = torch.compile(encode), torch.compile(loss_of)
    parameters = list(trained.values())
    optimiser = stable_adamw(torch)(parameters)
    x = torch.from_numpy(generator.image("train", batch, SIZE))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in kind):
            with torch.no_grad():
                e = encode(x)
            loss = loss_of(e)
        for p in parameters:
            p.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.1)
        optimiser.step(LR)
        return loss.item()

    return step


def serve(peer, data, arch, batch, threads):
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print
    step = make_step(peer, Path(data).resolve(), arch, int(batch), int(threads))
    print("{}", file=out, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = step()
        print((time.perf_counter() - start) * 1e3, loss, file=out, flush=True)


def of(precision, names):
    """The names that compete in this precision: ours that compute in it; PyTorch may always use less, as its user may."""
    ours = [n for n in names if n.startswith(f"ours-{precision}")]
    return ours, [n for n in names if n.startswith("torch") and (precision == "bf16" or n.endswith("f32"))] if ours else []


def available_mb():
    return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024 / 1e6


def groups(ours, peer, mb):
    """Processes that fit into memory together, the peer in each of these groups: what is compared ran in turns."""
    room, made = 0.8 * available_mb() - mb[peer], []
    for name in ours:
        fits = (g for g in made if sum(mb[n] for n in g) + mb[name] <= room)
        if g := next(fits, None):
            g.append(name)
        else:
            made.append([name])
    return [[peer, *g] for g in made]


class Table:
    """The steps of one model and batch; `worker` is `run.Worker`, `args` the program and the arguments of `training.py` after PEER."""

    def __init__(self, worker, program, seconds, seed, log, say, binary, args):
        self.program, self.seconds, self.seed, self.log, self.say = program, seconds, seed, log, say
        data, arch, batch, threads = self.args = args

        class Worker(worker):
            def __init__(self, name):
                self.name, self.batch, self.threads, self.ms, self.hello, self.losses = name, batch, threads, [], {}, []
                command = program("training.py", name, *args)
                if name.startswith("ours"):
                    _, precision, path, source = name.split("-")
                    command = [binary, "bench", "--model", data / f"{arch}.safetensors", "--train", source, "--serve", "--quiet"]
                    command += ["--path", {"folds": "engine", "plain": "model"}[path], "--precision", precision]
                    command += ["--input", data / f"train-b{batch}.safetensors", "--threads", threads]
                self.open([str(a) for a in command], log)

            def start(self):
                if not self.name.startswith("ours"):
                    self.hello = json.loads(self.line())
                self.measure_threads()

            def run(self):
                self.p.stdin.write("run\n")
                self.p.stdin.flush()
                ms, loss = map(float, self.line().split())
                self.losses.append(loss)
                return ms

        self.worker, self.rows, self.rounds = Worker, {}, 0

    def alone(self, name):
        """One step after a first one, nothing beside it: how long, in how much memory."""
        try:
            w = self.worker(name)
            w.start()
            self.rows[name] = {"name": name, "alone_ms": w.run(), "mb": w.peak_mb(), "ms": [], "loss": w.losses[0]}
            w.stop()
            self.say(f"  {name} alone: {self.rows[name]['alone_ms']:.0f} ms, {self.rows[name]['mb']:.0f} MB")
        except (RuntimeError, ValueError, OSError) as e:
            self.say(f"  {name} does not run: {e}; see {self.log.name}")
            self.rows[name] = {"name": name, "failed": str(e)}

    def turns(self, names):
        """Interleaved steps of a group, its peer first."""
        workers = [self.worker(n) for n in names]
        for w in workers:
            w.start()
        order, end, rounds = list(workers), time.monotonic() + self.seconds, 0
        while rounds < 2 or time.monotonic() < end:
            random.Random(self.seed + rounds).shuffle(order)
            for w in order:
                w.ms.append(w.run())
            rounds += 1
        peer = statistics.median(workers[0].ms)
        for w in workers:
            row = self.rows[w.name]
            row["ms"] += w.ms
            row["mb"] = max(row["mb"], w.peak_mb())
            if w is not workers[0]:
                row["peer"], row["ratio"] = workers[0].name, peer / statistics.median(w.ms)
            w.stop()
        self.rounds = rounds

    def run(self, names):
        for name in names:
            self.alone(name)
        for precision in ["f32", "bf16"]:
            ours, peers = ([n for n in some if "failed" not in self.rows[n]] for some in of(precision, names))
            if ours and peers:
                peer = min(peers, key=lambda n: self.rows[n]["alone_ms"])
                for group in groups(ours, peer, {n: r["mb"] for n, r in self.rows.items() if "mb" in r}):
                    self.turns(group)
        _, arch, batch, threads = self.args
        return {"arch": arch, "batch": batch, "threads": threads, "rows": list(self.rows.values())}


def fastest(names, table):
    """For a larger batch: ours, and of PyTorch's modes the two that were fastest in each precision."""
    ms, keep = {r["name"]: r["alone_ms"] for r in table["rows"] if "alone_ms" in r}, set()
    for precision in ["f32", "bf16"]:
        keep.update(sorted((n for n in of(precision, names)[1] if n in ms), key=ms.get)[:2])
    return [n for n in names if n.startswith("ours") or n in keep]


def acceptance(tables):
    """[what, wanted, measured, holds]: PyTorch's fastest mode over ours; in f32 its fastest f32 mode."""
    out = []
    bars = [("f32", "fresh", 1.8), ("f32", "cached", 3.2), ("bf16", "fresh", 1.6), ("bf16", "cached", 3.0)]
    for t in tables:
        rows = {r["name"]: r for r in t["rows"]}
        for precision, source, wanted in bars:
            ratio = rows.get(f"ours-{precision}-folds-{source}", {}).get("ratio")
            if ratio:
                what = f"{t['arch']}, batch {t['batch']}: PyTorch's fastest {'f32 ' * (precision == 'f32')}mode / ours {precision}, {source}"
                out.append([what, wanted, ratio, ratio >= wanted])
    return out


def markdown(result, report):
    m, lines = result["machine"], []
    lines.append(f"`{result['command'].strip()}`, {result['date']}, {result['minutes']:.0f} minutes. {m['cpu']}, {m['cores']} cores.")
    lines += [
        "",
        "Milliseconds of one training step an image at 392 px, every computing thread pinned to a core of its own. Every mode runs",
        "alone first; the fastest of PyTorch's then takes turns with ours, step by step, and the ratio is between the medians of such",
        "a run: above 1 ours is faster. In f32 that is PyTorch's fastest f32 mode, in bf16 the fastest of all. Fresh: the encoder runs",
        "in the step, as in the published loop (PyTorch's always does); cached: on kept features. All start from the same random",
        "weights and pictures; the first step's loss is shown.",
        "",
    ]
    if result["acceptance"]:
        bars = [[w, f"≥ {x:.1f}", f"{y:.2f}", "yes" if ok else "**no**"] for w, x, y, ok in result["acceptance"]]
        lines += [report.grid(["", "wanted", "measured", "holds"], bars), ""]
    for t in result["tables"]:
        rows = []
        for r in t["rows"]:
            if "failed" in r:
                rows.append([report.label(r["name"]), f"does not run: {r['failed']}", "", "", "", ""])
                continue
            image = lambda ms: report.number(ms and ms / t["batch"], 1)
            turns, ratio = image(statistics.median(r["ms"]) if r["ms"] else None), report.number(r.get("ratio"), 2)
            rows.append([report.label(r["name"]), image(r["alone_ms"]), turns, ratio, f"{r['loss']:.5f}", report.number(r["mb"], 0)])
        head = ["", "alone", "in turns", "PyTorch's over ours", "first loss", "peak MB"]
        lines += [f"### Training {report.ARCH[t['arch']]}, batch {t['batch']}, {t['threads']} threads", "", report.grid(head, rows), ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    serve(*sys.argv[1:])
