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


def table(worker, script, binary, arch, batch, threads, names, data, seconds, seed, log, say):
    """One interleaved run; `worker` is `run.Worker`."""

    class Worker(worker):
        def __init__(self, name):
            self.name, self.batch, self.threads, self.ms, self.hello, self.losses = name, batch, threads, [], {}, []
            args = script("training.py", name, data, arch, batch, threads)
            if name.startswith("ours"):
                _, precision, path, source = name.split("-")
                args = [binary, "bench", "--model", data / f"{arch}.safetensors", "--train", source, "--serve", "--quiet"]
                args += ["--path", {"folds": "engine", "plain": "model"}[path], "--precision", precision]
                args += ["--input", data / f"train-b{batch}.safetensors", "--threads", threads]
            self.open([str(a) for a in args], log)

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

    workers, dead = [], []
    for name in names:
        w = Worker(name)
        try:
            w.start()
            workers.append(w)
            say(f"  {name} ready")
        except (RuntimeError, ValueError) as e:
            say(f"  {name} does not run: {e}; see {log.name}")
            dead.append({"name": name, "failed": str(e)})
    order, end, rounds = list(workers), time.monotonic() + seconds, 0
    while rounds < 2 or time.monotonic() < end:
        random.Random(seed + rounds).shuffle(order)
        for w in order:
            w.ms.append(w.run())
        rounds += 1
    rows = []
    for w in workers:
        image = statistics.median(w.ms) / batch
        row = {"name": w.name, "batch": batch, "median_ms": image * batch, "min_ms": min(w.ms), "image_ms": image}
        rows.append({**row, "peak_mb": w.peak_mb(), "loss": w.losses[0], "ms": w.ms})
        w.stop()
    ours = [r for r in rows if r["name"] == "ours-f32-folds-fresh"]
    for r in rows:
        r["ratio"] = r["image_ms"] / ours[0]["image_ms"] if ours else None
    return {"arch": arch, "batch": batch, "threads": threads, "rounds": rounds, "rows": rows + dead}


def acceptance(tables):
    """[what, wanted, measured, holds]: PyTorch's fastest mode of the precision class over ours."""
    out = []
    for t in tables:
        rows = {r["name"]: r["image_ms"] for r in t["rows"] if "image_ms" in r}
        f32 = [ms for n, ms in rows.items() if n.startswith("torch") and n.endswith("f32")]
        every = [ms for n, ms in rows.items() if n.startswith("torch")]
        bars = [("f32", f32, "fresh", 1.8), ("f32", f32, "cached", 3.2), ("bf16", every, "fresh", 1.6), ("bf16", every, "cached", 3.0)]
        for precision, peers, source, wanted in bars:
            ours = rows.get(f"ours-{precision}-folds-{source}")
            if peers and ours:
                what = f"{t['arch']}, batch {t['batch']}: PyTorch's fastest {'f32 ' if precision == 'f32' else ''}mode / ours {precision}, {source}"
                out.append([what, wanted, min(peers) / ours, min(peers) / ours >= wanted])
    return out


def markdown(result, report):
    m, lines = result["machine"], []
    lines.append(f"`{result['command'].strip()}`, {result['date']}, {result['minutes']:.0f} minutes. {m['cpu']}, {m['cores']} cores.")
    lines += [
        "",
        "Milliseconds of one training step an image at 392 px: medians of one interleaved run, every computing thread pinned to",
        "a core of its own. Fresh: the encoder runs in the step, as in the published loop; cached: on kept features. All start",
        "from the same random weights and pictures; the first step's loss is shown.",
        "",
    ]
    if result["acceptance"]:
        bars = [[w, f"≥ {x:.1f}", f"{y:.2f}", "yes" if ok else "**no**"] for w, x, y, ok in result["acceptance"]]
        lines += [report.grid(["", "wanted", "measured", "holds"], bars), ""]
    for t in result["tables"]:
        rows = []
        for r in sorted(t["rows"], key=lambda r: r.get("image_ms", 1e9)):
            if "failed" in r:
                rows.append([report.label(r["name"]), f"does not run: {r['failed']}", "", "", "", ""])
                continue
            cells = [report.number(r["image_ms"], 1), report.number(r["min_ms"] / r["batch"], 1), report.number(r["ratio"], 2)]
            rows.append([report.label(r["name"]), *cells, f"{r['loss']:.5f}", report.number(r["peak_mb"], 0)])
        head = ["", "ms an image", "fastest", "of ours f32 folds fresh", "first loss", "peak MB"]
        lines += [f"### Training {report.ARCH[t['arch']]}, batch {t['batch']}, {t['threads']} threads ({t['rounds']} rounds)", ""]
        lines += [report.grid(head, rows), ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    serve(*sys.argv[1:])
