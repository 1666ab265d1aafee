#!/usr/bin/env python3
"""Train a small vision transformer in DINOv2-with-registers layout on procedural pictures only.

No photographs, no downloads: textures and scenes come from procedural_textures.py and
procedural_scenes.py, and every number from --seed. Needs numpy, torch, opencv-python-headless and
safetensors. Writes OUT/final.safetensors (bf16, with the metadata that inp-former reads),
OUT/final.f32.safetensors, OUT/final.json and OUT/log.jsonl.

Losses, all on patch tokens; "early" and "late" are the means of the first and second half of the
blocks' outputs:
  proto   patch -> prototype of its texture instance in the OTHER view (InfoNCE over the batch)
  local   aligned pairs: patch -> the same scene point in the other view (other light, blur, noise)
  push    a defective patch must differ from its defect-free twin and from its own prototype
  defect  does the patch hold a synthetic defect? (linear heads on early and late)
  recon   luminance, chroma and orientation energies of each clean patch (20 % masked)
  family  texture family (cross entropy)
"""

import argparse
import json
import os
import time

import cv2
import numpy as np
import torch
from torch import nn

from backbone_losses import Heads, losses
from backbone_model import Muon, ViT, to_input
from procedural_scenes import GRID, Scenes
from procedural_textures import make_bank

WEIGHTS = {
    "proto_l": 1.0,
    "proto_e": 0.5,
    "local": 0.3,
    "push": 1.0,
    "defect": 1.0,
    "recon": 2.0,
    "family": 0.3,
}
TRAINED_ON = "procedural images only"


def parse_args():
    p = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument("--out", default="backbone_run", help="folder for weights, log and texture bank")
    p.add_argument("--seed", type=int, default=1, help="seed of everything")
    p.add_argument(
        "--minutes",
        type=float,
        default=25,
        help="training time; sets the schedule unless --steps is given",
    )
    p.add_argument("--steps", type=int, default=0, help="optimiser steps; 0 = train for --minutes")
    p.add_argument("--batch", type=int, default=20, help="scenes a step; each is two views")
    p.add_argument("--dim", type=int, default=192, help="embedding width")
    p.add_argument("--depth", type=int, default=8, help="transformer blocks")
    p.add_argument("--heads", type=int, default=3, help="attention heads")
    p.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    p.add_argument(
        "--muon",
        type=int,
        default=1,
        help="1: Muon for the blocks' matrices, 0: AdamW for everything",
    )
    p.add_argument("--bank", type=int, default=900, help="textures in the bank")
    p.add_argument("--threads", type=int, default=2, help="torch threads")
    p.add_argument("--fp32", action="store_true", help="activations in float32 instead of bfloat16")
    p.add_argument("--w", default="", help="loss weights to change, e.g. local=0,push=0")
    p.add_argument("--save-every", type=float, default=4, help="minutes between checkpoints")
    return p.parse_args()


def texture_bank(args):
    """The textures and their families, kept in OUT between runs."""
    path = os.path.join(args.out, f"bank_{args.seed}_{args.bank}.npz")
    if os.path.exists(path):
        kept = np.load(path)
        return kept["bank"], kept["fam"]
    bank, family = make_bank(args.seed, args.bank)
    np.savez(path, bank=bank, fam=family)
    return bank, family


def make_optimizers(args, model, heads):
    """AdamW, and Muon for the blocks' matrices; also the parameters whose gradients are clipped."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2] if args.muon else []
    ids = {id(p) for p in matrices}
    rest = [p for m in (model, heads) for p in m.parameters() if id(p) not in ids]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2]},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers = [
        torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    ]
    if matrices:
        optimizers.append(Muon(matrices, lr=args.lr, wd=0.02))
    return optimizers, rest


def metadata(cfg):
    """What inp-former reads from the file: heads, layers, input size, origin, licence."""
    depth = cfg["depth"]
    layers = list(range(depth))
    return {
        "heads": cfg["num_heads"],
        "target_layers": layers,
        "groups": [layers[: depth // 2], layers[depth // 2 :]],
        "resize": 256,
        "crop": 224,
        "name": f"inp-proc-d{cfg['embed_dim']}-b{depth}",
        "trained_on": TRAINED_ON,
        "licence": "MIT OR Apache-2.0",
    }


def save(model, path, facts):
    """Write `path`.safetensors (bf16, with metadata), `path`.f32.safetensors and `path`.json."""
    from safetensors.torch import save_file

    state = {k: v.detach().contiguous().clone() for k, v in model.state_dict().items()}
    about = {"inp_former": json.dumps(metadata(model.cfg))}
    save_file(state, path + ".f32.safetensors", about)
    save_file({k: v.bfloat16() for k, v in state.items()}, path + ".safetensors", about)
    with open(path + ".json", "w") as f:
        json.dump({**model.cfg, **facts}, f, indent=1)


def train(args, model, heads, bank, family, weights):
    """Train until the time or the steps are spent; returns steps and minutes."""
    optimizers, clipped = make_optimizers(args, model, heads)
    base = [[g["lr"] for g in o.param_groups] for o in optimizers]
    scenes = Scenes(args.seed, bank, family, args.batch, 10**7)
    batches = iter(
        torch.utils.data.DataLoader(scenes, batch_size=None, num_workers=1, prefetch_factor=6)
    )
    rng = np.random.default_rng([args.seed, 3])
    sums, wait, step = {}, 0.0, 0
    start = last = time.time()
    with open(os.path.join(args.out, "log.jsonl"), "w") as log:
        while True:
            done = step / args.steps if args.steps else (time.time() - start) / 60 / args.minutes
            if done >= 1:
                return step, (time.time() - start) / 60
            before = time.time()
            batch = next(batches)
            wait += time.time() - before
            # Warm up over 80 steps, flat until 40 %, then linear towards zero.
            factor = min(1, (step + 1) / 80) * (1.0 if done < 0.4 else max(0.02, (1 - done) / 0.6))
            for o, rates in zip(optimizers, base):
                for group, rate in zip(o.param_groups, rates):
                    group["lr"] = rate * factor
            n = batch[0].shape[0]
            mask = torch.from_numpy(rng.random((n, GRID * GRID)) < 0.2)
            mask[torch.from_numpy(rng.random(n) < 0.4)] = False
            window = rng.integers(0, model.grid - GRID + 1, (n, 2))
            x = to_input(batch[0])
            features = model(x if args.fp32 else x.bfloat16(), mask, window)
            loss, parts = losses(features, heads, batch, mask, weights)
            if not torch.isfinite(loss):
                raise SystemExit(
                    f"step {step + 1}: loss {float(loss)}; try a larger --batch or a smaller --lr"
                )
            for o in optimizers:
                o.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(clipped, 2.0)
            for o in optimizers:
                o.step()
            step += 1
            parts["loss"] = float(loss.detach())
            for k, v in parts.items():
                sums[k] = sums.get(k, 0) + v
            if step % 25 == 0:
                line = {k: round(v / 25, 4) for k, v in sums.items()}
                minutes = round((time.time() - start) / 60, 3)
                line.update(step=step, min=minutes, imgs=step * n, wait=round(wait, 1))
                print(line, flush=True)
                log.write(json.dumps(line) + "\n")
                log.flush()
                sums = {}
            if time.time() - last > args.save_every * 60:
                last = time.time()
                save(
                    model,
                    os.path.join(args.out, f"m{round((last - start) / 60):02d}"),
                    {"step": step},
                )


def main():
    args = parse_args()
    os.makedirs(args.out, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(0)
    weights = dict(WEIGHTS)
    for pair in filter(None, args.w.split(",")):
        key, value = pair.split("=")
        weights[key] = float(value)
    start = time.time()
    bank, family = texture_bank(args)
    print(f"bank {bank.shape} {time.time() - start:.1f}s", flush=True)
    model, heads = ViT(args.dim, args.depth, args.heads), Heads(args.dim)
    count = sum(p.numel() for p in model.parameters())
    print("params", count, weights, vars(args), flush=True)
    steps, minutes = train(args, model, heads, bank, family, weights)
    facts = {
        "step": steps,
        "minutes": round(minutes, 2),
        "seed": args.seed,
        "trained_on": TRAINED_ON,
    }
    save(model, os.path.join(args.out, "final"), facts)


if __name__ == "__main__":
    main()
