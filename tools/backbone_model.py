"""The network that `train_backbone.py` trains, and Muon.

Keys and forward pass are those of the official DINOv2 with registers.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

PATCH = 14
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def to_input(u8):
    """Pictures (B, H, W, 3) u8 -> normalised (B, 3, H, W)."""
    return (u8.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def linear(x, m):
    """Activations decide the type; the master weights are float32."""
    return F.linear(x, m.weight.to(x.dtype), m.bias.to(x.dtype))


def norm(x, m):
    return F.layer_norm(x, m.normalized_shape, m.weight.to(x.dtype), m.bias.to(x.dtype), m.eps)


class Block(nn.Module):
    """Attention and MLP, each with LayerScale."""

    def __init__(self, dim, heads, layer_scale):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp, self.ls1, self.ls2 = (nn.Module() for _ in range(4))
        self.attn.qkv = nn.Linear(dim, 3 * dim)
        self.attn.proj = nn.Linear(dim, dim)
        self.mlp.fc1 = nn.Linear(dim, 4 * dim)
        self.mlp.fc2 = nn.Linear(4 * dim, dim)
        self.ls1.gamma = nn.Parameter(torch.full((dim,), layer_scale))
        self.ls2.gamma = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, x):
        b, n, d = x.shape
        qkv = linear(norm(x, self.norm1), self.attn.qkv)
        q, k, v = qkv.reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
        x = x + self.ls1.gamma.to(x.dtype) * linear(mixed, self.attn.proj)
        hidden = F.gelu(linear(norm(x, self.norm2), self.mlp.fc1))
        return x + self.ls2.gamma.to(x.dtype) * linear(hidden, self.mlp.fc2)


class ViT(nn.Module):
    """Official key names; `pos_embed` holds a grid x grid table."""

    def __init__(self, dim=192, depth=8, heads=3, registers=4, grid=20, layer_scale=0.4):
        super().__init__()
        self.cfg = {
            "embed_dim": dim,
            "depth": depth,
            "num_heads": heads,
            "patch_size": PATCH,
            "num_register_tokens": registers,
            "img_size": grid * PATCH,
            "mlp_ratio": 4,
        }
        self.grid, self.registers = grid, registers
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, dim, PATCH, PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.blocks = nn.ModuleList([Block(dim, heads, layer_scale) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.5 / math.sqrt(m.in_features) * 1.4)
                nn.init.zeros_(m.bias)
        for p in (self.cls_token, self.pos_embed, self.register_tokens, self.mask_token):
            nn.init.trunc_normal_(p, std=0.02)
        self.cosine_init()

    @torch.no_grad()
    def cosine_init(self):
        """Start the patch embedding as a rotated 2-D cosine transform.

        Low luminance frequencies, and the lowest chroma ones.
        """
        n = torch.arange(float(PATCH))
        basis = torch.stack(
            [
                torch.cos(math.pi * (n + 0.5) * k / PATCH) * math.sqrt((1 if k == 0 else 2) / PATCH)
                for k in range(PATCH)
            ]
        )
        colour = torch.tensor([[1, 1, 1.0], [1, 0, -1], [-0.5, 1, -0.5]])
        colour = colour / colour.norm(dim=1, keepdim=True)
        order = sorted(
            (math.hypot(i, j) + (0 if c == 0 else 7), c, i, j)
            for c in range(3)
            for i in range(PATCH)
            for j in range(PATCH)
        )
        w = self.patch_embed.proj.weight
        nn.init.zeros_(self.patch_embed.proj.bias)
        for d in range(w.shape[0]):
            _, c, i, j = order[d]
            gain = 0.1 + 0.06 * math.hypot(i, j)
            w[d] = (
                colour[c][:, None, None] * basis[i][None, :, None] * basis[j][None, None, :] * gain
            )
        rotation = torch.linalg.qr(torch.randn(w.shape[0], w.shape[0]))[0]
        w.copy_((rotation @ w.flatten(1)).view_as(w))

    def positions(self, g, window):
        """Position embedding of a g x g grid: a window of the table a picture, or it resized."""
        table = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1)
        if window is not None:
            return torch.stack([table[0, y : y + g, x : x + g].flatten(0, 1) for y, x in window])
        if g == self.grid:
            return table.flatten(1, 2)
        k = (g + 0.1) / self.grid  # the official resizing: bicubic, with this offset
        resized = F.interpolate(table.permute(0, 3, 1, 2), scale_factor=(k, k), mode="bicubic")
        return resized.permute(0, 2, 3, 1).flatten(1, 2)

    def forward(self, x, mask=None, window=None):
        """Every block's patch tokens (B, N, C) of pictures (B, 3, H, W).

        mask: patches (B, N) to hide; window: corner (B, 2) of each picture's position table.
        """
        b, g = x.shape[0], x.shape[-1] // PATCH
        x = F.unfold(x, PATCH, stride=PATCH).transpose(1, 2)  # as a matrix product
        proj = self.patch_embed.proj
        x = F.linear(x, proj.weight.flatten(1).to(x.dtype), proj.bias.to(x.dtype))
        if mask is not None:
            x = torch.where(mask[..., None], self.mask_token[None].to(x.dtype), x)
        x = x + self.positions(g, window).to(x.dtype)
        cls = (self.cls_token + self.pos_embed[:, :1]).to(x.dtype).expand(b, -1, -1)
        x = torch.cat([cls, self.register_tokens.to(x.dtype).expand(b, -1, -1), x], 1)
        out = []
        for block in self.blocks:
            x = block(x)
            out.append(x[:, 1 + self.registers :])
        return out


@torch.no_grad()
def orthogonal(g):
    """The nearest orthogonal matrix, about: five Newton-Schulz steps in bfloat16."""
    x = g.bfloat16()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.t()
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.t()
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.t() if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum (Jordan 2024) for matrices; joint q, k, v are treated apart."""

    def __init__(self, params, lr, momentum=0.95, wd=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "wd": wd})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.mul_(group["momentum"]).add_(p.grad)
                u = p.grad + group["momentum"] * m
                parts = u.split(p.shape[1]) if p.shape[0] == 3 * p.shape[1] else (u,)
                u = torch.cat([orthogonal(a) * 0.2 * math.sqrt(max(a.shape)) for a in parts])
                p.mul_(1 - group["lr"] * group["wd"]).add_(u, alpha=-group["lr"])
