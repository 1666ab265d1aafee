"""Largest difference of traced maps from the float64 ones over the largest map value: `python error.py DIR ARCH`."""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

data, truth = Path(sys.argv[1]), np.load(Path(sys.argv[1]) / f"{sys.argv[2]}.npy")
got = load_file(data / "trace.safetensors")
y = np.stack([got[f"amap_native{g}"] for g in range(truth.shape[1])], 1)
print(float(np.abs(y - truth).max() / np.abs(truth).max()))
