"""Weights and inputs that need no file: every value follows from a tensor's name (tests/data/goldens/README.md)."""

import numpy as np

PREFIX = 1  # class token; the register tokens follow it
GRID = 37  # stored position embedding
PATCH = 14


class Config:
    """Sizes of a model; the defaults are the published ones."""

    def __init__(self, width, heads, depth=12, targets=range(2, 10), groups=((0, 1, 2, 3), (4, 5, 6, 7)), decoders=8):
        self.width, self.heads, self.depth, self.decoders = width, heads, depth, decoders
        self.targets, self.groups = list(targets), [list(g) for g in groups]
        self.prototypes, self.registers = 6, 4


SMALL_GROUPS = {"depth": 6, "targets": range(1, 5), "groups": ((0, 1), (2, 3)), "decoders": 4}
CONFIGS = {
    "small": Config(384, 6),
    "base": Config(768, 12),
    "tiny": Config(64, 2, **SMALL_GROUPS),
    "mini": Config(128, 2, **SMALL_GROUPS),
}


def s_values(name, count):
    """Odd integers in (-2^24, 2^24): FNV-1a of the name, then splitmix64."""
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = (h ^ b) * 0x100000001B3 % 2**64
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(h)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.int64) * 2 + 1 - 2**24


def rule(name, shape):
    """Mean and half width of a tensor's values."""
    last = name.rsplit(".", 1)[-1]
    fixed = {
        "bias": (0, 0.05),
        "gamma": (0.275, 0.225),
        "learn_scale": (1, 0.25),
        "prototype_token": (0, 1.7320508),
        "pos_embed": (0, 0.25),
        "cls_token": (0, 0.5),
        "register_tokens": (0, 0.5),
        "mask_token": (0, 0.5),
    }
    if last in fixed:
        return fixed[last]
    if len(shape) == 1:
        return 1, 0.25
    return 0, np.sqrt(3.0 / np.prod(shape[1:]))


def tensor(name, shape):
    mean, half = (float(np.float32(v)) for v in rule(name, shape))
    s = s_values(name, int(np.prod(shape)))
    return (mean + s * 2.0**-24 * half).astype(np.float32).reshape(shape)


def image(tag, batch, size):
    """A normalised input (B, 3, size, size)."""
    g = -(-size // 28)
    coarse = s_values(f"input.{tag}.coarse", batch * 3 * g * g).reshape(batch, 3, g, g) * 2.0**-24 * 1.5
    fine = s_values(f"input.{tag}.fine", batch * 3 * size * size).reshape(batch, 3, size, size) * 2.0**-24 * 0.75
    i = np.arange(size) // 28
    return (coarse[:, :, i][:, :, :, i] + fine).astype(np.float32)


def shapes(c):
    """Published names and shapes of every tensor, the blocks that never run included."""
    w = c.width
    out = {
        "encoder.cls_token": (1, 1, w),
        "encoder.register_tokens": (1, c.registers, w),
        "encoder.mask_token": (1, w),
        "encoder.pos_embed": (1, PREFIX + GRID * GRID, w),
        "encoder.patch_embed.proj.weight": (w, 3, PATCH, PATCH),
        "encoder.patch_embed.proj.bias": (w,),
        "prototype_token": (c.prototypes, w),
    }

    def linear(name, o, i):
        out[f"{name}.weight"], out[f"{name}.bias"] = (o, i), (o,)

    def norm(name):
        out[f"{name}.weight"], out[f"{name}.bias"] = (w,), (w,)

    def mlp(name):
        linear(f"{name}.fc1", 4 * w, w)
        linear(f"{name}.fc2", w, 4 * w)

    def block(name):
        norm(f"{name}.norm1")
        norm(f"{name}.norm2")
        linear(f"{name}.attn.proj", w, w)
        mlp(f"{name}.mlp")

    for i in range(c.depth):
        n = f"encoder.blocks.{i}"
        block(n)
        linear(f"{n}.attn.qkv", 3 * w, w)
        out[f"{n}.ls1.gamma"] = out[f"{n}.ls2.gamma"] = (w,)
    norm("encoder.norm")
    mlp("bottleneck.0")
    for n in ["aggregation.0"] + [f"decoder.{j}" for j in range(c.decoders)]:
        block(n)
        linear(f"{n}.attn.q", w, w)
        linear(f"{n}.attn.kv", 2 * w, w)
        if n.startswith("decoder"):
            out[f"{n}.attn.learn_scale"] = (c.heads, 1, 1)
    return out


def weights(c):
    return {name: tensor(name, shape) for name, shape in shapes(c).items()}
