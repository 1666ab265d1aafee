"""Procedural training scenes for `train_backbone.py`: layouts, defects, nuisances. No photographs.

A *scene* is two views of one to four textures ("instances") on a canvas, with known labels for
every 14 x 14 patch: which instance it shows and whether it holds a defect. Every number is drawn
from a seeded generator, in a fixed order, so the same seed gives the same pictures.
"""

import math

import cv2
import numpy as np
import torch

from procedural_textures import T, smooth_field

PATCH = 14
GRID = 10  # patches along a side of a view
SLACK = 2  # further patches in the canvas that a view is cropped from


def draw_instance(r, nbank):
    """A texture with a direction, a scale and the two colours that its 0 and 1 become."""
    grey = r.random() < 0.35
    c = r.uniform(0, 1, (2, 3)).astype(np.float32)
    if grey:
        c[:] = c[:, :1]
    else:
        mean = c.mean(1, keepdims=True)
        c = mean + (c - mean) * r.uniform(0.2, 1)
    if np.abs(c[1] - c[0]).max() < 0.12:
        c[1] = np.clip(c[0] + 0.2 * (1 if c[0].mean() < 0.5 else -1), 0, 1)
    if r.random() < 0.15:  # black and white
        c[0] = c[0].mean() > 0.5
        c[1] = 1 - c[0]
    index = int(r.integers(nbank))
    rotation = float(r.choice([0, 90]) if r.random() < 0.35 else r.uniform(0, 180))
    scale = float(np.exp(r.uniform(math.log(0.55), math.log(1.7))))
    return {"texture": index, "rotation": rotation, "scale": scale, "colours": c}


def near_twin(r, a):
    """The same texture with one property changed: a hard negative."""
    b, kind = dict(a), r.integers(3)
    if kind == 0:
        b["rotation"] = (a["rotation"] + float(r.choice([30, 45, 60, 90]))) % 180
    elif kind == 1:
        b["scale"] = float(np.clip(a["scale"] * r.choice([0.6, 1.6]), 0.45, 2.0))
    else:
        shift = r.uniform(-0.3, 0.3, (1, 3)).astype(np.float32)
        b["colours"] = np.clip(a["colours"] + shift, 0, 1)
    return b


def layout(r, size, k):
    """Which of `k` instances each pixel shows: wobbly cells, bands, or objects on a background."""
    label = np.zeros((size, size), np.uint8)
    if k == 1:
        return label
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    kind = r.integers(4)
    if kind == 0:
        p = r.uniform(0.1, 0.9, (k, 2)) * size
        w = 8 * r.random()
        x, y = x + w * smooth_field(r, size, 6), y + w * smooth_field(r, size, 6)
        return np.argmin([(x - a) ** 2 + (y - b) ** 2 for a, b in p], 0).astype(np.uint8)
    if kind == 1:
        t = r.uniform(0, 6.3)
        v = np.cos(t) * x + np.sin(t) * y
        v = (v - v.min()) / (v.max() - v.min())
        return np.searchsorted(np.cumsum(r.dirichlet(np.full(k, 4.0)))[:-1], v).astype(np.uint8)
    for i in range(1, k):
        c, s = r.uniform(0.2, 0.8, 2) * size, r.uniform(0.16, 0.42) * size
        if kind == 2:
            axes = (int(s), int(s * r.uniform(0.5, 1)))
            cv2.ellipse(label, (int(c[0]), int(c[1])), axes, r.uniform(0, 180), 0, 360, i, -1)
        else:
            n = r.integers(3, 8)
            t, q = np.sort(r.uniform(0, 6.3, n)), s * r.uniform(0.7, 1.2, n)
            corners = np.stack([c[0] + q * np.cos(t), c[1] + q * np.sin(t)], 1)
            cv2.fillPoly(label, [corners.astype(np.int32)], i)
    return label


def render(r, bank, instances, label):
    """The scene in colour (S, S, 3), 0 to 1.

    Each instance at a random shift and nearly its own scale and rotation.
    """
    size = label.shape[0]
    img = np.empty((size, size, 3), np.float32)
    for k, a in enumerate(instances):
        m = label == k
        if not m.any():
            continue
        angle, scale = a["rotation"] + r.normal(0, 2), a["scale"] * r.uniform(0.93, 1.07)
        # Output pixel -> texture pixel: rotate and scale about the middle, then shift.
        to_texture = cv2.invertAffineTransform(
            cv2.getRotationMatrix2D((T / 2, T / 2), angle, scale)
        )
        middle = np.array([T / 2 - size / 2] * 2)
        to_texture[:, 2] += to_texture[:, :2] @ middle + r.uniform(-90, 90, 2)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        t = cv2.warpAffine(
            bank[a["texture"]], to_texture, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT
        )[m]
        t = t.astype(np.float32)[:, None] / 255
        img[m] = a["colours"][0] + (a["colours"][1] - a["colours"][0]) * t
    if len(instances) > 1 and r.random() < 0.4:  # a dark rim between regions
        rim = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        img[rim] = img[rim] * r.uniform(0.3, 0.9)
    return img


def blob(r, size, extent):
    """Soft irregular mask, about `extent` pixels across, somewhere in the picture."""
    n = max(8, int(extent * 2))
    wobble = smooth_field(r, n, 4) * 0.35
    g = np.linspace(-1, 1, n, dtype=np.float32)
    radius = np.sqrt(g[None] ** 2 + (g[:, None] * r.uniform(0.7, 1.6)) ** 2)
    b = np.clip((0.62 + wobble * 0.5 - radius) * extent / r.uniform(1.2, 5), 0, 1)
    m = np.zeros((size, size), np.float32)
    y, x = r.integers(0, max(1, size - n), 2)
    n = min(n, size)
    m[y : y + n, x : x + n] = b[:n, :n]
    return m


def add_defect(r, img, bank, instances, label):
    """The picture with one synthetic defect, and the pixels that changed visibly."""
    size, kind = img.shape[0], r.integers(9)
    extent = float(np.exp(r.uniform(math.log(3.5), math.log(40))))
    if kind <= 2:  # scratch, crack, fibre
        m = np.zeros((size, size), np.float32)
        x, y = r.uniform(0, size, 2)
        angle, points = r.uniform(0, 6.3), [(x, y)]
        bend = r.uniform(0, 0.6) if kind else 0.03
        for _ in range(r.integers(4, 16)):
            angle += r.normal(0, bend)
            length = r.uniform(3, 10)
            x += length * math.cos(angle)
            y += length * math.sin(angle)
            points.append((x, y))
        line = (np.array(points) * 8).astype(np.int32)
        cv2.polylines(m, [line], False, 1.0, int(r.integers(1, 4)), cv2.LINE_AA, 3)
        new = img + r.uniform(0.12, 0.7) * (1 if r.random() < 0.35 else -1)
    else:
        m = blob(r, size, extent)
        if kind == 3:  # spot, stain
            new = img + r.uniform(0.15, 0.8) * (1 if r.random() < 0.5 else -1)
        elif kind == 4:  # cut and paste
            dy, dx = r.integers(10, size - 10, 2)
            new = np.roll(img, (dy, dx), (0, 1))
            if r.random() < 0.5:
                new = new.transpose(1, 0, 2)
        elif kind == 5:  # foreign matter
            new = render(r, bank, [draw_instance(r, len(bank))], np.zeros_like(label))
        elif kind == 6:  # smeared
            new = cv2.GaussianBlur(img, (0, 0), r.uniform(2, 6))
        elif kind == 7:  # distorted
            amount = r.uniform(3, 9)
            y, x = np.mgrid[0:size, 0:size].astype(np.float32)
            x = x + amount * smooth_field(r, size, 8)
            y = y + amount * smooth_field(r, size, 8)
            new = cv2.remap(img, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        else:  # break or spur: filled with one of its own colours
            at = np.unravel_index(int(m.argmax()), m.shape)
            own = instances[int(label[at])]["colours"]
            new = np.broadcast_to(own[int(r.random() < 0.5)], img.shape)
            m = np.minimum(1, m * 2)
    out = np.clip(img + m[..., None] * (new - img), 0, 1)
    return out, np.abs(out - img).max(2) > 0.06


def nuisance(r, img):
    """Light, colour cast, blur and sensor noise, to u8: what must NOT change the features much."""
    size, x = img.shape[0], img
    if r.random() < 0.8:
        g = np.linspace(-1, 1, size, dtype=np.float32)
        t = r.uniform(0, 6.3)
        f = 1 + r.uniform(0, 0.25) * (math.cos(t) * g[None] + math.sin(t) * g[:, None])
        if r.random() < 0.4:
            f = f + 0.08 * smooth_field(r, size, 3)
        x = x * f[..., None]
    cast = r.uniform(0.75, 1.25) * (1 + r.normal(0, 0.03, 3) * (r.random() < 0.6))
    x = x * cast.astype(np.float32) + np.float32(r.uniform(-0.06, 0.06))
    if r.random() < 0.5:
        x = cv2.GaussianBlur(x, (0, 0), r.uniform(0.3, 1.1))
    noise = r.standard_normal((size, size, 3 if r.random() < 0.5 else 1), dtype=np.float32)
    x = x + noise * np.float32(r.uniform(0, 0.045) * (r.random() < 0.8))
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def by_patch(a):
    """(S, S) -> (g, g, 14 * 14)."""
    g = a.shape[0] // PATCH
    return a.reshape(g, PATCH, g, PATCH).transpose(0, 2, 1, 3).reshape(g, g, PATCH * PATCH)


def scene(r, bank, family):
    """Two views, number of instances, whether the views are aligned, each instance's family.

    A view: image and clean image (S, S, 3) u8, instance of each patch (-1 mixed), defect state of
    each patch (0 no, 1 yes, 2 unsure), offset of the crop in patches.
    """
    size = (GRID + SLACK) * PATCH
    k = int(r.choice([1, 2, 3, 4], p=[0.3, 0.3, 0.25, 0.15]))
    instances = [draw_instance(r, len(bank))]
    while len(instances) < k:
        twin = r.random() < 0.35
        instances.append(near_twin(r, instances[0]) if twin else draw_instance(r, len(bank)))
    aligned, views = r.random() < 0.5, []
    label = layout(r, size, k)
    base = render(r, bank, instances, label)
    for v in range(2):
        if v and not aligned:
            label = layout(r, size, k)
            base = render(r, bank, instances, label)
        img, defective = base, np.zeros((size, size), bool)
        if r.random() < 0.65:
            for _ in range(r.integers(1, 4)):
                img, d = add_defect(r, img, bank, instances, label)
                defective |= d
        oy, ox = r.integers(0, SLACK + 1, 2) * PATCH
        crop = np.s_[oy : oy + GRID * PATCH, ox : ox + GRID * PATCH]
        own, d = by_patch(label[crop]), by_patch(defective[crop]).mean(2)
        ids = np.where((own == own[..., :1]).mean(2) > 0.97, own[..., 0].astype(np.int64), -1)
        state = np.where(d > 0.035, 1, np.where(d > 0.004, 2, 0))
        clean = (np.ascontiguousarray(img[crop]) * 255).astype(np.uint8)
        views.append((nuisance(r, img)[crop], clean, ids, state, (oy // PATCH, ox // PATCH)))
    return views, k, aligned, [family[a["texture"]] for a in instances]


class Scenes(torch.utils.data.Dataset):
    """Item `step`: `batch` scenes, views interleaved, instances numbered through the batch."""

    def __init__(self, seed, bank, family, batch, steps):
        self.seed, self.bank, self.family, self.batch, self.steps = seed, bank, family, batch, steps

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        cv2.setNumThreads(0)
        r, base = np.random.default_rng([self.seed, 2, step]), 0
        images, cleans, ids, states, offsets, alignments, families = [], [], [], [], [], [], []
        for _ in range(self.batch):
            views, k, aligned, own = scene(r, self.bank, self.family)
            families += own
            alignments.append(aligned)
            for image, clean, label, state, offset in views:
                images.append(image)
                cleans.append(clean)
                states.append(state)
                offsets.append(offset)
                ids.append(np.where(label >= 0, label + base, -1))
            base += k
        stacked = [torch.from_numpy(np.stack(x)) for x in (images, cleans, ids, states)]
        return (
            *stacked,
            torch.tensor(np.array(offsets)),
            torch.tensor(alignments),
            torch.tensor(families),
        )
