"""Writes what the workers load, once: weights, our model file, ONNX, int8 variants, inputs, the float64 maps.

    python prepare.py DIR ARCH BATCH [int8|train]

`train` writes only what training steps need: weights and the batch.
"""

import logging
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

import generator
import reference

SIZE = 392
CALIBRATION = 8  # pictures


def once(path, make):
    """Makes `path` unless it is there; a file cut short by an interruption is not left behind."""
    if not path.exists():
        print(f"making {path.name}", file=sys.stderr)
        part = path.with_name("part-" + path.name)
        make(part)
        part.rename(path)
    return path


def model_file(path, arch):
    save_file(generator.weights(generator.CONFIGS[arch]), path, {"inp_former": "{}"})


def onnx(path, arch, batch):
    """One file a batch size: static shapes are what the runtimes optimise best."""
    m = reference.build(arch, SIZE)
    x = torch.zeros(batch, 3, SIZE, SIZE)
    program = torch.onnx.export(
        m, (x,), input_names=["input"], output_names=["maps"], dynamo=True, opset_version=20, verbose=False
    )
    program.save(path, external_data=False)


def calibration(batch):
    return [generator.image(f"calibration{i}", batch, SIZE) for i in range(CALIBRATION)]


def ort_int8(path, source):
    """Dynamic, per channel: measured faster than static quantisation of the same layers (300 against 490 ms, S)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        path,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm"],
        extra_options={"MatMulConstBOnly": True},
    )


def openvino_int8(path, source, batch):
    import nncf
    import openvino as ov

    q = nncf.quantize(
        ov.Core().read_model(source),
        nncf.Dataset(calibration(batch)),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=CALIBRATION,
    )
    ov.save_model(q, path, compress_to_fp16=False)


def openvino_f32(path, source):
    import openvino as ov

    ov.save_model(ov.convert_model(source), path, compress_to_fp16=False)


def truth(path, arch):
    """Maps of the float64 model on the picture that every worker answers for."""
    m = reference.build(arch, SIZE, fused=True).double()
    y = m(torch.from_numpy(generator.image("compare", 1, SIZE)).double())
    with open(path, "wb") as f:
        np.save(f, y.numpy())


def picture(path):
    """A photograph-like PNG, 900 x 700, for the start-up measurement."""
    x = generator.image("picture", 1, 900)[0, :, :700] * 40 + 128
    Image.fromarray(x.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(path, "PNG")


def training(folder, arch, batch):
    folder.mkdir(parents=True, exist_ok=True)
    once(folder / f"{arch}.safetensors", lambda p: model_file(p, arch))
    pictures = lambda p: save_file({"input": generator.image("train", batch, SIZE)}, p)
    once(folder / f"train-b{batch}.safetensors", pictures)


def main(folder, arch, batch, int8):
    logging.disable(logging.WARNING)
    folder, batch = Path(folder), int(batch)
    folder.mkdir(parents=True, exist_ok=True)
    once(folder / "picture.png", picture)
    once(folder / f"{arch}.safetensors", lambda p: model_file(p, arch))
    once(folder / f"{arch}.npy", lambda p: truth(p, arch))
    once(
        folder / "input.safetensors",
        lambda p: save_file({"input": generator.image("compare", 1, SIZE)}, p),
    )
    name = f"{arch}-b{batch}"
    source = once(folder / f"{name}.onnx", lambda p: onnx(p, arch, batch))
    ir = lambda kind, make: once(folder / f"{name}-{kind}.bin", lambda p: pair(p, make))
    ir("f32", lambda p: openvino_f32(p, source))
    if int8:
        once(folder / f"{name}-int8.onnx", lambda p: ort_int8(p, source))
        ir("int8", lambda p: openvino_int8(p, source, batch))


def pair(part, make):
    """An OpenVINO model is two files; the weights are named last, so their presence says that both are there."""
    xml = part.with_suffix(".xml")
    make(xml)
    xml.rename(xml.with_name(xml.name.removeprefix("part-")))


if __name__ == "__main__":
    if "train" in sys.argv[4:]:
        training(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    else:
        main(*sys.argv[1:4], int8="int8" in sys.argv[4:])
