"""The dense losses of `train_backbone.py` (listed there) and the heads that only training needs."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from procedural_scenes import GRID, PATCH
from procedural_textures import FAMILIES


def mean(x):
    """The mean, 0 for nothing: a small batch may hold no patch of a kind."""
    return x.mean() if x.numel() else x.sum()


class Heads(nn.Module):
    """Reconstruction, family, early and late defect, and local-matching heads."""

    def __init__(self, dim):
        super().__init__()
        self.recon = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 256), nn.GELU(), nn.Linear(256, 59)
        )
        self.family = nn.Linear(dim, len(FAMILIES))
        self.defect_early = nn.Linear(dim, 1)
        self.defect_late = nn.Linear(dim, 1)
        self.local = nn.Linear(dim, 96)


@torch.no_grad()
def recon_target(clean):
    """Clean pictures (B, S, S, 3) u8 -> (B, N, 59).

    Luminance 7 x 7, mean chroma 2, orientation energies 4 at 2 scales.
    """
    x = clean.permute(0, 3, 1, 2).float() / 255
    luminance = x.mean(1, keepdim=True)
    b, g = x.shape[0], x.shape[-1] // PATCH
    coarse = (
        F.avg_pool2d(luminance, 2).view(b, g, 7, g, 7).permute(0, 1, 3, 2, 4).reshape(b, g * g, 49)
    )
    chroma = torch.cat([x[:, :1] - luminance, x[:, 2:] - luminance], 1)
    chroma = F.avg_pool2d(chroma, PATCH).flatten(2).transpose(1, 2)
    energies = []
    for s in (1, 2):
        y = F.avg_pool2d(luminance, s) if s > 1 else luminance
        gx = F.pad(y[..., 1:] - y[..., :-1], (0, 1))
        gy = F.pad(y[..., 1:, :] - y[..., :-1, :], (0, 0, 0, 1))
        for a in range(4):
            t = a * math.pi / 4
            energies.append(F.avg_pool2d((gx * math.cos(t) + gy * math.sin(t)).abs(), PATCH // s))
    energies = torch.log(torch.cat(energies, 1) + 0.01).flatten(2).transpose(1, 2)
    return torch.cat([(coarse - 0.5) * 3, chroma * 4, (energies + 3.2) * 0.8], -1)


def prototype_loss(z, ids, good, bad, count):
    """Pull patches to their instance's prototype in the other view, push defective ones from it.

    z: unit features (2B, N, C), views interleaved; ids: instance of each patch.
    Returns the two losses and the accuracy.
    """
    dim = z.shape[-1]
    prototypes = []
    for v in range(2):
        i = torch.where(good[v::2], ids[v::2], count).flatten()
        p = torch.zeros(count + 1, dim).index_add_(0, i, z[v::2].reshape(-1, dim))
        seen = torch.bincount(i, minlength=count + 1)[:count] > 0
        prototypes.append((F.normalize(p[:count], dim=-1), seen))
    pull, push, accuracy = 0.0, 0.0, 0.0
    for v in range(2):
        p, seen = prototypes[1 - v]
        i = ids[v::2].flatten()
        known = seen[i.clamp(min=0)]
        m = good[v::2].flatten() & known
        flat = z[v::2].reshape(-1, dim)
        s = (flat[m] @ p.t() / 0.1).masked_fill(~seen, -1e4)
        pull = pull + F.cross_entropy(s, i[m])
        accuracy += 0.5 * (s.argmax(1) == i[m]).float().mean().detach()
        m = (bad[v::2] & (ids[v::2] >= 0)).flatten() & known
        if m.any():
            push = push + 0.5 * F.softplus(((flat[m] * p[i[m]]).sum(-1) - 0.3) / 0.1).mean() * 0.1
    return pull * 0.5, push, accuracy


def aligned_losses(ze, zl, q, states, offsets, pairs, visible):
    """Local matching and push between the views of the aligned scenes `pairs`.

    ze, zl: unit early and late features; q: unit local-matching features;
    offsets: of the crops, in patches.
    """
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    shift = offsets[0::2][pairs] - offsets[1::2][pairs]
    y = y.flatten()[None] + shift[:, :1]
    x = x.flatten()[None] + shift[:, 1:]
    inside = (y >= 0) & (y < GRID) & (x >= 0) & (x < GRID)
    j = y.clamp(0, GRID - 1) * GRID + x.clamp(
        0, GRID - 1
    )  # the same scene point in the second view
    a, b = states[0::2][pairs], states[1::2][pairs].gather(1, j)
    both = inside & visible[0::2][pairs] & visible[1::2][pairs].gather(1, j)
    same = both & (a == 0) & (b == 0)
    differ = both & ((a == 1) ^ (b == 1)) & (a != 2) & (b != 2)
    s = q[0::2][pairs] @ q[1::2][pairs].transpose(1, 2) / 0.1
    local = F.cross_entropy(s[same], j[same]) if same.any() else s.sum() * 0
    push = 0.0
    for z in (ze, zl):
        twin = z[1::2][pairs].gather(1, j[..., None].expand(-1, -1, z.shape[-1]))
        c = (z[0::2][pairs] * twin).sum(-1)
        push = push + 0.5 * (mean(F.softplus((c[differ] - 0.3) / 0.1)) * 0.1 + mean(1 - c[same]))
    return local, push


def losses(features, heads, batch, mask, weights):
    """The weighted sum of all losses, and each as a number.

    features: every block's patch tokens (2B, N, C).
    """
    _, clean, ids, states, offsets, aligned, families = batch
    half, count = len(features) // 2, len(families)
    early = torch.stack(features[:half]).float().mean(0)
    late = torch.stack(features[half:]).float().mean(0)
    ids, states, visible = ids.flatten(1), states.flatten(1), ~mask
    good, bad = (ids >= 0) & (states == 0), (states == 1) & visible
    ze, zl = F.normalize(early, dim=-1), F.normalize(late, dim=-1)
    parts = {}
    parts["proto_l"], push_l, parts["acc"] = prototype_loss(zl, ids, good, bad, count)
    parts["proto_e"], push_e, _ = prototype_loss(ze, ids, good, bad, count)
    parts["local"], parts["push"] = torch.zeros(()), push_l + push_e
    pairs = aligned.nonzero().flatten()
    if len(pairs):
        q = F.normalize(heads.local(early), dim=-1)
        parts["local"], push = aligned_losses(ze, zl, q, states, offsets, pairs, visible)
        parts["push"] = parts["push"] + push
    sure, target = (states != 2) & visible, (states == 1).float()
    parts["defect"] = 0.5 * sum(
        F.binary_cross_entropy_with_logits(
            head(z * 14)[..., 0][sure], target[sure], pos_weight=torch.tensor(3.0)
        )
        for head, z in ((heads.defect_early, ze), (heads.defect_late, zl))
    )
    d = F.smooth_l1_loss(
        heads.recon(early + late), recon_target(clean), beta=0.3, reduction="none"
    ).mean(-1)
    parts["recon"] = mean(d[visible]) + 0.5 * mean(d[mask])
    shown = good & visible
    parts["family"] = F.cross_entropy(heads.family(zl * 14)[shown], families[ids[shown]])
    total = sum(weights[k] * parts[k] for k in weights)
    return total, {k: float(torch.as_tensor(v).detach()) for k, v in parts.items()}
