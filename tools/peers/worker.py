"""One peer, kept alive: answers each line on standard input with the milliseconds of one forward.

    python worker.py PEER DIR ARCH BATCH THREADS

The first line it prints is a JSON object: load time, largest error against the float64 maps, what it runs.
Times are milliseconds a call (latency peers) or a call's share of a full pipeline (`throughput`).
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import generator

SIZE = 392


def torch_peer(kind, data, arch, batch, threads):
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(data / "inductor"))
    import torch

    import reference

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    from safetensors.torch import load_file

    weights = load_file(data / f"{arch}.safetensors")
    m = reference.build(arch, SIZE, fused="eager" not in kind or "sdpa" in kind, tensors=weights)
    dtype = torch.bfloat16 if "bf16" in kind else torch.float32
    m = m.to(dtype)
    run = m
    if "compile" in kind:
        import torch._inductor.config

        torch._inductor.config.freezing = True  # weights as constants, packed once
        run = torch.compile(m)

    def call(x):
        with torch.no_grad():
            return run(torch.from_numpy(x).to(dtype)).float().numpy()

    return call


def ort_peer(kind, data, arch, batch, threads):
    import onnxruntime as ort

    o = ort.SessionOptions()
    o.intra_op_num_threads, o.inter_op_num_threads = threads, 1
    suffix = "-int8" if "int8" in kind else ""
    s = ort.InferenceSession(data / f"{arch}-b{batch}{suffix}.onnx", o, providers=["CPUExecutionProvider"])
    return lambda x: s.run(None, {"input": x})[0]


def openvino_model(kind, data, arch, batch, threads):
    import openvino as ov

    precision = "int8" if "int8" in kind else "f32"
    return ov.Core().compile_model(
        data / f"{arch}-b{batch}-{precision}.xml",
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "THROUGHPUT" if "throughput" in kind else "LATENCY",
            # Without this the plugin computes in bf16 where the processor has it.
            "INFERENCE_PRECISION_HINT": "bf16" if "bf16" in kind else "f32",
        },
    )


def openvino_peer(kind, data, arch, batch, threads):
    request = openvino_model(kind, data, arch, batch, threads).create_infer_request()
    return lambda x: request.infer({0: x}, share_inputs=True)[0]


def openvino_pipeline(kind, data, arch, batch, threads):
    """As many requests in flight as the plugin asks for; at batch 1 two fills of the pipeline a call."""
    import openvino as ov

    model = openvino_model(kind, data, arch, batch, threads)
    queue, out = ov.AsyncInferQueue(model), {}
    queue.set_callback(lambda request, i: out.__setitem__(i, request.get_output_tensor(0).data.copy()))
    calls = len(queue) * (2 if batch == 1 else 1)

    def call(x):
        for i in range(calls):
            queue.start_async({0: x}, i)
        queue.wait_all()
        return out[0]

    return call, calls


def load(peer, data, arch, batch, threads):
    """The call and how many forwards of a batch it makes."""
    family = peer.split("-")[0]
    if peer.endswith("throughput"):
        return openvino_pipeline(peer, data, arch, batch, threads)
    make = {"torch": torch_peer, "ort": ort_peer, "openvino": openvino_peer}[family]
    return make(peer, data, arch, batch, threads), 1


def main(peer, data, arch, batch, threads):
    data, batch, threads = Path(data).resolve(), int(batch), int(threads)
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print
    start = time.perf_counter()
    call, forwards = load(peer, data, arch, batch, threads)
    x = generator.image("compare", 1, SIZE).repeat(batch, 0)
    y, truth = call(x), np.load(data / f"{arch}.npy")
    hello = {
        "load_s": time.perf_counter() - start,
        "error": float(np.abs(y - truth).max() / np.abs(truth).max()),
        "forwards": forwards,
    }
    print(json.dumps(hello), file=out, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        call(x)
        print((time.perf_counter() - start) * 1e3 / forwards, file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
