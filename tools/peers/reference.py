"""INP-Former in PyTorch, written from docs/spec.md: what the peers run. `python reference.py` checks it.

The forward goes from a normalised picture (B, 3, X, X) to the cosine distances of the two groups (B, 2, h, h).
"""

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import generator
from generator import CONFIGS, GRID, PATCH


def position(pos, side):
    """Position embedding (1, 1 + g*g, C) for a side x side grid; the factors set the sampling step."""
    if side == GRID:
        return pos
    grid = pos[:, 1:].reshape(1, GRID, GRID, -1).permute(0, 3, 1, 2)
    f = (side + 0.1) / GRID
    grid = F.interpolate(grid, scale_factor=(f, f), mode="bicubic", antialias=False)
    return torch.cat([pos[:, :1], grid.flatten(2).transpose(1, 2)], 1)


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Scale(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(c))

    def forward(self, x):
        return x * self.gamma


def heads(x, h):
    """(B, T, C) -> (B, H, T, D)."""
    b, t, c = x.shape
    return x.reshape(b, t, h, c // h).transpose(1, 2)


def attend(q, k, v, fused):
    """Softmax attention, (B, H, T, D) each -> (B, T, C)."""
    if fused:
        y = F.scaled_dot_product_attention(q, k, v)
    else:
        y = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
    return y.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    def __init__(self, c, h, fused):
        super().__init__()
        self.h, self.fused = h, fused
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.h, c // self.h).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(attend(q, k, v, self.fused))


class EncoderBlock(nn.Module):
    def __init__(self, c, h, fused):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(c, eps=1e-6), nn.LayerNorm(c, eps=1e-6)
        self.attn, self.mlp = SelfAttention(c, h, fused), Mlp(c)
        self.ls1, self.ls2 = Scale(c), Scale(c)

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Encoder(nn.Module):
    """Blocks up to the last target layer; `forward` returns the patch tokens of the target layers."""

    def __init__(self, c, size, fused):
        super().__init__()
        self.targets = c.targets
        side = size // PATCH
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, c.width, PATCH, PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.width))
        self.register_tokens = nn.Parameter(torch.zeros(1, c.registers, c.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, c.width))
        self.blocks = nn.ModuleList(EncoderBlock(c.width, c.heads, fused) for _ in range(c.targets[-1] + 1))

    def forward(self, img):
        b = img.shape[0]
        x = self.patch_embed.proj(img).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(b, -1, -1), x], 1) + self.pos_embed
        x = torch.cat([x[:, :1], self.register_tokens.expand(b, -1, -1), x[:, 1:]], 1)
        out = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.targets:
                out.append(x[:, 1 + self.register_tokens.shape[1] :])
        return out


class CrossAttention(nn.Module):
    """Queries from one set of tokens, keys and values from another."""

    def __init__(self, c, h, fused, guided):
        super().__init__()
        self.h, self.fused = h, fused
        self.q, self.kv, self.proj = nn.Linear(c, c), nn.Linear(c, 2 * c), nn.Linear(c, c)
        if guided:
            self.learn_scale = nn.Parameter(torch.ones(h, 1, 1))

    def forward(self, x, y):
        q = heads(self.q(x), self.h)
        k, v = (heads(t, self.h) for t in self.kv(y).chunk(2, -1))
        if hasattr(self, "learn_scale"):
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            a = F.relu(q @ k.transpose(-2, -1) * self.learn_scale)
            return self.proj((a @ v).transpose(1, 2).flatten(2))
        return self.proj(attend(q, k, v, self.fused))


class CrossBlock(nn.Module):
    """The extractor (`guided` false: residual around the attention) or a decoder block (none)."""

    def __init__(self, c, h, fused, guided):
        super().__init__()
        self.guided = guided
        self.norm1, self.norm2 = nn.LayerNorm(c, eps=1e-8), nn.LayerNorm(c, eps=1e-8)
        self.attn, self.mlp = CrossAttention(c, h, fused, guided), Mlp(c)

    def forward(self, x, y):
        a = self.attn(self.norm1(x), self.norm1(y))
        x = a if self.guided else x + a
        return x + self.mlp(self.norm2(x))


def mean(xs):
    return torch.stack(xs, 1).mean(1)


class InpFormer(nn.Module):
    """`fused` uses PyTorch's own attention kernel where the published code writes it out."""

    def __init__(self, c, size, fused=False):
        super().__init__()
        self.groups, self.side = c.groups, size // PATCH
        self.encoder = Encoder(c, size, fused)
        self.prototype_token = nn.Parameter(torch.zeros(c.prototypes, c.width))
        self.aggregation = nn.ModuleList([CrossBlock(c.width, c.heads, fused, False)])
        self.bottleneck = nn.ModuleList([Mlp(c.width)])
        self.decoder = nn.ModuleList(CrossBlock(c.width, c.heads, fused, True) for _ in range(c.decoders))

    def forward(self, img):
        e = self.encoder(img)
        f = mean(e)
        inp = self.aggregation[0](self.prototype_token.expand(f.shape[0], -1, -1), f)
        x, d = self.bottleneck[0](f), []
        for block in self.decoder:
            x = block(x, inp)
            d.insert(0, x)
        maps = [1 - F.cosine_similarity(mean([e[i] for i in g]), mean([d[i] for i in g]), dim=-1) for g in self.groups]
        return torch.stack(maps, 1).unflatten(2, (self.side, self.side))


def build(name, size, fused=False, tensors=None):
    """A model in evaluation mode with `tensors` (torch), or the generator's weights."""
    c = CONFIGS[name]
    with torch.device("meta"):
        m = InpFormer(c, size, fused)
    own = tensors or {k: torch.from_numpy(v) for k, v in generator.weights(c).items()}
    own["encoder.pos_embed"] = position(own["encoder.pos_embed"], size // PATCH)
    m.load_state_dict({k: own[k] for k in m.state_dict()}, assign=True)
    return m.eval().requires_grad_(False)


def check(goldens):
    """Native maps against the published code's; returns how many comparisons failed and were skipped."""
    from safetensors.numpy import load_file

    failed = skipped = 0
    for name, size, batch, tag, file in [
        ("tiny", 112, 2, "tiny", "tiny/forward"),
        ("tiny", 518, 1, "tiny518", "tiny/forward518"),
        ("mini", 112, 2, "mini", "mini/forward"),
        ("small", 252, 1, "small252", "small252/outputs"),
    ]:
        path = goldens / f"{file}.safetensors"
        if not path.exists():
            print(f"SKIPPED {tag}: {path} is not there")
            skipped += 1
            continue
        golden, x = load_file(path), torch.from_numpy(generator.image(tag, batch, size))
        for fused in [False, True]:
            y = build(name, size, fused)(x)
            worst = max((y[:, g] - torch.from_numpy(golden[f"amap_native{g}"])).abs().max().item() for g in range(2))
            ok = worst <= 2e-6
            failed += not ok
            print(f"{'ok' if ok else 'FAILED'} {tag} {'fused' if fused else 'plain'}: largest difference {worst:.1e}")
    return failed, skipped


if __name__ == "__main__":
    default = Path(__file__).resolve().parents[2] / "tests/data/goldens"
    failed, skipped = check(Path(os.environ.get("INP_GOLDENS", default)))
    print(f"{failed} failed, {skipped} skipped")
    sys.exit(failed > 0)
