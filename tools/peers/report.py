"""What `tools/compare` measured, as Markdown and as the bars it has to clear."""

NAMES = {
    "ours": "inp-former",
    "torch": "PyTorch",
    "ort": "ONNX Runtime",
    "openvino": "OpenVINO",
}
ARCH = {"small": "S", "base": "B"}


def label(name):
    family, *rest = name.split("-")
    rest = ["as published" if r == "eager" and "sdpa" not in rest else r for r in rest]
    rest = ["own attention kernel" if r == "sdpa" else r for r in rest if not (r == "eager" and "sdpa" in rest)]
    rest = ["batch 1" if r == "batch1" else r for r in rest]
    return f"{NAMES[family]} {', '.join(rest)}"


def row(rows, name):
    return next((r for r in rows if r["name"] == name and "median_ms" in r), None)


def find(result, arch, batch, threads):
    for t in result["tables"]:
        if (t["arch"], t["batch"], t["threads"]) == (arch, batch, threads):
            return t["rows"]
    return []


def acceptance(result):
    """[what, wanted, measured, holds], only for what this run measured."""
    out = []

    def ratio(what, wanted, over, under, key):
        if over and under:
            measured = over[key] / under[key]
            out.append([what, wanted, measured, measured >= wanted])

    for arch, wanted in [("small", 1.1), ("base", 1.15)]:
        rows, a = find(result, arch, 1, 2), ARCH[arch]
        ours = row(rows, "ours-f32")
        ratio(f"{a}: OpenVINO f32 / ours, batch 1, 2 threads", wanted, row(rows, "openvino-f32"), ours, "image_ms")
        ratio(f"{a}: PyTorch eager f32 / ours, batch 1, 2 threads", 1.5, row(rows, "torch-eager-f32"), ours, "image_ms")
        bf16 = row(rows, "ours-bf16")
        ratio(f"{a}: OpenVINO bf16 / ours bf16, batch 1, 2 threads", 1.2, row(rows, "openvino-bf16"), bf16, "image_ms")
        int8, least = row(rows, "ours-int8"), {"small": 1.35, "base": 1.45}[arch]
        ratio(f"{a}: ours bf16 / ours int8, batch 1, 2 threads", least, bf16, int8, "image_ms")
        ratio(f"{a}: ONNX Runtime int8 / ours int8, batch 1, 2 threads", 1.4, row(rows, "ort-int8"), int8, "image_ms")
        rows = find(result, arch, 8, 2)
        peer, bf16 = row(rows, "openvino-bf16-throughput"), row(rows, "ours-bf16")
        ratio(f"{a}: OpenVINO bf16 throughput / ours bf16, batch 8, 2 threads", 1.15, peer, bf16, "image_ms")
        ratio(f"{a}: ours per image, batch 1 / batch 8", 1.0, row(rows, "ours-f32-batch1"), row(rows, "ours-f32"), "image_ms")
    for t in result["cold"]:
        if t["arch"] == "small":
            ours, ort = row(t["rows"], "ours-f32"), row(t["rows"], "ort-f32")
            ratio("S: start to first score, ONNX Runtime / ours", 1.0, ort, ours, "median_ms")
            ratio("S: peak memory, ONNX Runtime / ours", 1.0, ort, ours, "peak_mb")
    return out


def grid(head, rows):
    align = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, align, *rows])


def number(x, digits):
    return "–" if x is None else f"{x:.{digits}f}"


def timing(t):
    head = ["", "ms an image", "fastest", "of ours", "error", "peak MB"]
    rows = []
    for r in sorted(t["rows"], key=lambda r: r.get("image_ms", 1e9)):
        if "failed" in r:
            rows.append([label(r["name"]), f"does not run: {r['failed']}", "", "", "", ""])
            continue
        error = "–" if r.get("error") is None else f"{r['error']:.0e}"
        cells = [number(r["image_ms"], 1), number(r["min_ms"] / r["batch"], 1), number(r["ratio"], 2), error]
        rows.append([label(r["name"]), *cells, number(r["peak_mb"], 0)])
    threads = "1 thread" if t["threads"] == 1 else f"{t['threads']} threads"
    return f"### {ARCH[t['arch']]}, batch {t['batch']}, {threads} ({t['rounds']} rounds)\n\n{grid(head, rows)}\n"


def cold(t):
    rows = []
    for r in sorted(t["rows"], key=lambda r: r.get("median_ms", 1e9)):
        if "median_ms" in r:
            rows.append([label(r["name"]), number(r["median_ms"], 0), number(min(r["ms"]), 0), number(r["peak_mb"], 0)])
        else:
            rows.append([label(r["name"]), r.get("failed", "?"), "", ""])
    head = ["", "ms", "fastest", "peak MB"]
    return f"### {ARCH[t['arch']]}, process start to first score ({t['rounds']} rounds)\n\n{grid(head, rows)}\n"


def markdown(result):
    m, v = result["machine"], result["versions"]
    flags = " ".join(m["flags"])
    lines = [
        f"`{result['command'].strip()}`, {result['date']}, {result['minutes']:.0f} minutes. {m['cpu']}, {m['cores']} cores: {flags}.",
        "Load average before the run: " + number(m["load"], 1) + ". " + ", ".join(f"{k} {x}" for k, x in v.items()) + ".",
        "",
        "Medians of one interleaved run: in every round each process makes a forward, in shuffled order, from a picture at",
        "392 px to the two native maps (ours from 8-bit pixels, the peers from the normalised picture). “Of ours” is the time",
        "over inp-former f32's; above 1 is slower than ours. Throughput rows keep several requests in flight. Error: largest map",
        "difference from the float64 model over the largest map value, on random weights (8-bit errors of trained weights",
        "differ). Peak memory is of the whole process. In the timing tables every computing thread is pinned to a core of its own,",
        "for us and for the peers; starts are not pinned.",
        "",
    ]
    if result["acceptance"]:
        bars = [[w, f"≥ {x:.2f}", f"{y:.2f}", "yes" if ok else "**no**"] for w, x, y, ok in result["acceptance"]]
        lines += ["### Bars", "", grid(["", "wanted", "measured", "holds"], bars), ""]
    lines += [timing(t) for t in result["tables"]] + [cold(t) for t in result["cold"]]
    lines += [f"- {n}" for n in result["notes"]]
    return "\n".join(lines).rstrip() + "\n"


def write(path, text, of="tools/compare"):
    """Replaces what stands between the markers of `of`, or adds both at the end."""
    begin, end = f"<!-- {of}: begin -->", f"<!-- {of}: end -->"
    old = path.read_text() if path.exists() else ""
    if begin not in old or end not in old:
        old = old.rstrip() + f"\n\n{begin}\n{end}\n"
    before, after = old.split(begin, 1)[0], old.split(end, 1)[1]
    path.write_text(f"{before}{begin}\n{text}{end}{after}")
