"""Procedural textures: T x T grey pictures in eighteen families, drawn from a seeded generator."""

import math

import cv2
import numpy as np

T = 384  # side of a texture

_FY = np.fft.fftfreq(T)[:, None].astype(np.float32)
_FX = np.fft.rfftfreq(T)[None, :].astype(np.float32)
_Y, _X = np.mgrid[0:T, 0:T].astype(np.float32)


def smooth_field(r, size, cells):
    """Smooth unit noise (size, size) from cells x cells control points."""
    coarse = r.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def norm01(a):
    """Stretch to [0, 1] between the 1st and 99th percentile."""
    low, high = np.percentile(a[::5, ::5], [1, 99])
    return np.clip((a - low) / (high - low + 1e-6), 0, 1).astype(np.float32)


def spectral(r, beta, stretch=1.0, f0=0.01, f1=None):
    """Gaussian noise with amplitude f^-beta (or a band around `f1`), stretched along y."""
    f = np.sqrt((_FX / stretch) ** 2 + (_FY * stretch) ** 2)
    amplitude = (f + f0) ** (-beta)
    if f1 is not None:
        amplitude = np.exp(-0.5 * (np.log((f + 1e-4) / f1) / 0.25) ** 2)
    white = r.standard_normal((T, T), dtype=np.float32)
    return np.fft.irfft2(np.fft.rfft2(white) * amplitude, s=(T, T)).astype(np.float32)


def warped_grid(r, amount):
    """Pixel coordinates, displaced smoothly by about `amount` pixels."""
    if amount <= 0:
        return _X, _Y
    dx, dy = (smooth_field(r, T, 24) * amount for _ in "xy")
    return _X + dx, _Y + dy


def voronoi(r, n, jitter):
    """Distance to the nearest of about `n` seeds, its label, and the seeds' spacing."""
    k = max(2, int(math.sqrt(n)))
    cell = T / k
    lattice = (np.stack(np.meshgrid(np.arange(k), np.arange(k)), -1).reshape(-1, 2) + 0.5) * cell
    seeds = np.clip(lattice + r.uniform(-0.5, 0.5, (k * k, 2)) * cell * jitter, 0, T - 1).astype(
        np.int32
    )
    mask = np.full((T, T), 255, np.uint8)
    mask[seeds[:, 1], seeds[:, 0]] = 0
    d, label = cv2.distanceTransformWithLabels(mask, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    return d, label, cell


def brushed(r):
    u = r.uniform
    line = cv2.GaussianBlur(r.standard_normal((1, T)).astype(np.float32), (0, 0), u(0.6, 3))
    a = line / line.std() * u(0.3, 1.5)
    a = a + spectral(r, 1.0, u(3, 8), 0.05) * u(2, 8) / T
    return norm01(a + 0.3 * spectral(r, 2.0, 1.0, 0.01) / 50)


def grating(r):
    u = r.uniform
    x, y = warped_grid(r, u(0, 4) * (u() < 0.5))
    a = 0
    for _ in range(r.integers(1, 4)):
        angle, w = u(-0.5, 0.5), 2 * math.pi / u(5, 36)
        a = a + u(0.4, 1) * np.sin(w * (np.cos(angle) * x + np.sin(angle) * y) + u(0, 6.3))
    return norm01(np.tanh(a * u(0.5, 5)))


def lattice(r, dots):
    """Dots or mesh on a lattice, rows perhaps shifted."""
    u = r.uniform
    x, y = warped_grid(r, u(0, 3) * (u() < 0.5))
    p = u(8, 40)
    q = p * u(0.6, 1.6)
    shifted = u() < 0.5
    row = np.floor(y / q)
    fx = ((x + shifted * 0.5 * p * (row % 2)) / p) % 1 - 0.5
    fy = (y / q) % 1 - 0.5
    if dots:
        d = np.sqrt((fx * p) ** 2 + (fy * q) ** 2)
        radius = u(0.18, 0.45) * min(p, q)
        return np.clip((radius - d) / u(0.8, 4) + 0.5, 0, 1).astype(np.float32)
    w = u(0.08, 0.3)
    edge = np.maximum(np.abs(fx), np.abs(fy) if u() < 0.8 else 0)
    return np.clip((edge - (0.5 - w / 2)) * p / u(0.8, 3) + 0.5, 0, 1).astype(np.float32)


def weave(r):
    u = r.uniform
    x, y = warped_grid(r, u(0, 2))
    p, m = u(6, 26), r.integers(2, 5)
    i, j = np.floor(x / p), np.floor(y / p)
    over = ((i + (j if u() < 0.5 else 2 * j)) % m) < m / 2
    sx, sy = np.cos((x / p % 1 - 0.5) * math.pi), np.cos((y / p % 1 - 0.5) * math.pi)
    a = np.where(over, sx * (0.6 + 0.4 * sy), u(0.5, 0.9) * sy * (0.6 + 0.4 * sx))
    return norm01(a + u(0, 0.25) * spectral(r, 0.5, 1.0) / 3)


def cells(r):
    u = r.uniform
    d, label, cell = voronoi(r, u(40, 1500), u(0.5, 1.0))
    v = r.uniform(0, 1, label.max() + 1).astype(np.float32)
    return norm01(v[label] + u(-1, 1) * d / cell)


def cell_edges(r):
    u = r.uniform
    d, label, cell = voronoi(r, u(40, 1200), u(0.5, 1.0))
    edge = cv2.morphologyEx(label.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    edge = (edge > 0).astype(np.uint8)
    if u() < 0.5:
        edge = cv2.dilate(edge, np.ones((2, 2), np.uint8))
    soft = cv2.GaussianBlur(edge.astype(np.float32), (0, 0), u(0.5, 1.6))
    return np.clip(soft * 1.3 + u(0, 0.4) * d / cell, 0, 1)


def leaves(r):
    """Dead leaves: discs, boxes or ellipses, each over the last."""
    u = r.uniform
    a = np.full((T, T), 0.5, np.float32)
    big, kind = u(12, 60), r.integers(0, 3)
    for _ in range(500):
        s = max(2, big * r.power(0.6))
        x, y, grey = u(0, T), u(0, T), u()
        if kind == 0:
            cv2.circle(a, (int(x), int(y)), int(s), grey, -1, cv2.LINE_AA)
        elif kind == 1:
            box = cv2.boxPoints(((x, y), (2 * s, s * u(0.5, 2)), u(0, 180)))
            cv2.fillPoly(a, [box.astype(np.int32)], grey, cv2.LINE_AA)
        else:
            axes = (int(s), int(s * u(0.2, 1)) + 1)
            cv2.ellipse(a, (int(x), int(y)), axes, u(0, 180), 0, 360, grey, -1, cv2.LINE_AA)
    return a


def maze(r):
    u = r.uniform
    a = spectral(r, 1, u(1, 2), 0.01, u(0.02, 0.12))
    return norm01(np.tanh(a / a.std() * u(0.6, 6)))


def grain(r):
    u = r.uniform
    n = spectral(r, 2.0, u(1, 3), 0.01)
    n /= n.std()
    a = np.sin(2 * math.pi * (_X / u(8, 50) + n * u(0.1, 0.8)))
    return norm01(a + u(0, 0.5) * spectral(r, 0.8, 4.0, 0.05) / 4)


def traces(r):
    """Parallel runs of lines along eight directions, as on a circuit board, with pads."""
    u = r.uniform
    a = np.zeros((T, T), np.float32)
    p = r.integers(9, 26)
    w = max(1, int(p * u(0.2, 0.5)))
    directions = [(1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    for _ in range(r.integers(20, 90)):
        x, y = int(r.integers(0, T // p + 1) * p), int(r.integers(0, T // p + 1) * p)
        k, parallel = r.integers(0, 4), r.integers(1, 5)
        ox, oy = (0, p) if k % 2 == 0 else (p, 0)
        for _ in range(r.integers(1, 5)):
            length = int(r.integers(1, 7)) * p
            x2, y2 = x + directions[k][0] * length, y + directions[k][1] * length
            for q in range(parallel):
                cv2.line(
                    a, (x + ox * q, y + oy * q), (x2 + ox * q, y2 + oy * q), 1.0, w, cv2.LINE_AA
                )
            x, y, k = x2, y2, int(r.integers(0, 8))
        if u() < 0.7:
            cv2.circle(a, (x, y), int(p * u(0.3, 0.8)), 1.0, -1, cv2.LINE_AA)
        if u() < 0.2:
            cv2.circle(a, (x, y), int(p * 0.2), 0.0, -1, cv2.LINE_AA)
        if u() < 0.2:
            corner = (x + int(r.integers(1, 5) * p), y + int(r.integers(1, 3) * p))
            cv2.rectangle(a, (x, y), corner, 1.0, -1)
    return a


def text(r):
    u = r.uniform
    a = np.zeros((T, T), np.uint8)
    y, size = 0, u(0.35, 1.4)
    font, weight = int(r.choice([0, 1, 2, 3, 4, 5])), int(r.integers(1, 3))
    while y < T + 20:
        y += int(24 * size * u(1.0, 1.3)) + 2
        line = "".join(chr(c) for c in r.integers(33, 123, 60))
        cv2.putText(a, line, (int(u(-20, 4)), y), font, size, 255, weight, cv2.LINE_AA)
    return a.astype(np.float32) / 255


def spots(r):
    u = r.uniform
    a = np.zeros((T, T), np.float32)
    n, big = int(u(60, 900)), u(1.5, 8)
    for x, y, s, grey in zip(u(0, T, n), u(0, T, n), big * r.power(0.8, n) + 0.7, u(0.4, 1, n)):
        cv2.circle(a, (int(x * 16), int(y * 16)), int(s * 16), grey, -1, cv2.LINE_AA, 4)
    return np.clip(a + 0.15 * u() * norm01(spectral(r, 1.0)), 0, 1)


def bricks(r):
    u = r.uniform
    p, q, gap = u(18, 70), u(10, 40), u(1, 4)
    row = np.floor(_Y / q)
    x = _X + (row % 2) * p * u(0, 0.5)
    index = (row * 37 + np.floor(x / p)).astype(np.int64) % 4096
    v = r.uniform(0, 1, 4096).astype(np.float32)[index]
    inside = ((x % p) > gap) & ((_Y % q) > gap)
    face = 0.45 + 0.5 * v * u(0.2, 1) + 0.1 * norm01(spectral(r, 1.0))
    return np.clip(np.where(inside, face, 0.1), 0, 1).astype(np.float32)


def fibres(r):
    u = r.uniform
    a = np.full((T, T), 0.3, np.float32)
    spread, longest = u(0.05, 1.6), u(15, 120)
    for _ in range(int(u(150, 700))):
        x, y, angle = u(0, T), u(0, T), spread * r.standard_normal()
        length = longest * u(0.5, 1)
        end = (int(x + length * math.cos(angle)), int(y + length * math.sin(angle)))
        cv2.line(a, (int(x), int(y)), end, u(), int(r.integers(1, 3)), cv2.LINE_AA)
    return a


def plain(r):
    a = 0.5 + 0.12 * norm01(spectral(r, r.uniform(0, 1.5)))
    return np.clip(a + 0.3 * (norm01(spectral(r, 3.0, 1.0, 0.004)) - 0.5), 0, 1)


TEXTURES = {
    "noise": lambda r: norm01(spectral(r, r.uniform(0.3, 2.2), 1.0, r.uniform(0.003, 0.08))),
    "oriented": lambda r: norm01(
        spectral(r, r.uniform(0.6, 2.2), r.uniform(1.6, 4.0), r.uniform(0.01, 0.1))
    ),
    "brushed": brushed,
    "grating": grating,
    "dots": lambda r: lattice(r, True),
    "mesh": lambda r: lattice(r, False),
    "weave": weave,
    "cells": cells,
    "edges": cell_edges,
    "leaves": leaves,
    "maze": maze,
    "grain": grain,
    "traces": traces,
    "text": text,
    "spots": spots,
    "bricks": bricks,
    "fibres": fibres,
    "plain": plain,
}

FAMILIES = list(TEXTURES)


def make_bank(seed, n):
    """`n` textures (n, T, T) u8, families in turn, and each one's family."""
    family = np.arange(n) % len(FAMILIES)
    bank = [
        (TEXTURES[FAMILIES[f]](np.random.default_rng([seed, 1, i])) * 255).astype(np.uint8)
        for i, f in enumerate(family)
    ]
    return np.stack(bank), family
