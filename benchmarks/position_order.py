"""What the released code's order of positions costs: equal models but for `position_order`, over training seeds.

    anyres prepare IMAGES --out DATA --variants native square-256 --max-side 256 ...
    python -m benchmarks position_order DATA IMAGES --runs RUNS [--seeds N] [--steps N] [--together N] [--out FILE]

Two models of a seed have the same initial weights, the same packs in the same order and the same noise. Reported, of
the averaged weights: the mean-square part of the loss of every version of every held-out image, at the same times and
noise for all models, and the KID of samples at a square, a wide and a tall size of about one area. Started again, it
goes on where it was. `position_order_plots` draws what is reported.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyres.config import from_dict
from anyres.devices import pick_device
from anyres.files import read_json, write_json
from anyres.flow.loss import flow_loss
from anyres.flow.path import path_named
from anyres.latents.format import LatentDataset
from anyres.model.nit import NiT
from anyres.packing.loader import PackLoader
from anyres.train.config import TrainConfig
from anyres.train.losses import draw
from anyres.train.precision import autocast

from .recording import RESULTS, record

ORDERS = ("row_major", "column_major")  # the right one, and that of the released code
HELD_OUT = 0.1
REPEATS = 8  # times and noises of each held-out version
SIZES = ("176x176", "256x128", "128x256")
SAMPLER = ("--steps", "25", "--guidance", "2", "--interval", "0", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--together", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "position_order.json")
    options = parser.parse_args()
    arms = {options.runs / f"{order}-{seed}": (order, seed) for seed in range(options.seeds) for order in ORDERS}
    together(options.together, [training(run, *arm, options) for run, arm in arms.items()])
    kept = options.runs / "held-out.json"
    if not kept.is_file():
        write_json(kept, held_out_losses(options.data, list(arms)))
    together(options.together, [evaluation(run, options) for run in arms])
    runs = [
        {"order": order, "seed": seed, "steps": options.steps, "kid": kids(run)} for run, (order, seed) in arms.items()
    ]
    record(
        options.out,
        {"runs": runs, "sizes": SIZES, "sampler": SAMPLER, "count": options.count, "images": read_json(kept)},
    )


def training(run: Path, order: str, seed: int, options: argparse.Namespace) -> list[str]:
    """The command that trains one model."""
    return [
        *("train", "mini", "--data", str(options.data), "--out", str(run), "--steps", str(options.steps)),
        *("--model.position-order", order, "--seed", str(seed), "--held-out.share", str(HELD_OUT)),
        *("--pictures.every", "0"),
    ]


def evaluation(run: Path, options: argparse.Namespace) -> list[str]:
    """The command that samples a model at each size and measures the samples."""
    return [
        *("evaluate", str(run), "--reference", str(options.images), "--out", str(run / "evaluation")),
        *("--sweep", f"size={','.join(SIZES)}", "--count", str(options.count), *SAMPLER),
    ]


def together(number: int, commands: Sequence[list[str]]) -> None:
    """Run commands of `anyres`, so many at a time; ends the program where one fails."""

    def run(command: list[str]) -> int:
        return subprocess.run([sys.executable, "-m", "anyres.cli", *command], check=False).returncode

    with ThreadPoolExecutor(number) as pool:
        failed = [command for command, status in zip(commands, pool.map(run, commands), strict=True) if status]
    if failed:
        sys.exit(f"failed: anyres {' '.join(failed[0])}")


def kids(run: Path) -> dict[str, Any]:
    """KID of the samples and of the controls, at each size."""
    found = {}
    for size in SIZES:
        report = read_json(run / "evaluation" / "points" / f"size={size}" / "report.json")
        controls = {column["name"]: column["figures"]["kid"] for column in report["controls"]}
        found[size] = {"made": report["figures"]["kid"], **controls}
    return found


@torch.no_grad()
def held_out_losses(data: Path, runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Of each version of each held-out image, and each run: the mean-square loss, over tokens and repeats."""
    config = from_dict(TrainConfig, read_json(runs[0] / "config.json"))
    dataset, device = LatentDataset.open(data), pick_device("auto")
    models = [NiT.from_pretrained(run / "model").to(device) for run in runs]
    loader = PackLoader(
        dataset,
        rows=np.flatnonzero(dataset.held_out(HELD_OUT)),
        patch=config.model.patch_size,
        packing=config.packing,
        seed=0,
        flip=False,
    )
    losses = np.zeros((len(dataset), len(runs)))
    for number in range(loader.packs_in(0)):
        pack = loader.pack(0, number)
        sums = torch.zeros(len(runs), pack.layout.shape.images, device=device)
        for repeat in range(REPEATS):
            drawn = draw(pack, config, "position-order", repeat, number, dropout=0.0).to(device)
            of_token = drawn.layout.image_index
            point = path_named(config.path).sample(drawn.latents, drawn.noise, drawn.t[of_token])
            for model, total in zip(models, sums, strict=True):
                with autocast(config, device):
                    velocity = model(point.x_t, drawn.t, drawn.labels, drawn.layout)
                total.index_add_(0, of_token, flow_loss(velocity, point.velocity))
        tokens = torch.tensor([grid.tokens for grid in pack.layout.grids], device=device)
        losses[list(pack.indices)] = (sums[:, : pack.layout.images] / (REPEATS * tokens)).T.cpu().numpy()
    return [
        {
            "image": dataset.content_hashes[row][:12],
            "label": dataset.info.labels[dataset.labels[row]],
            "variant": dataset.variants[row],
            "cells": dataset.cells[row].tolist(),
            "losses": np.round(losses[row], 5).tolist(),
        }
        for row in np.flatnonzero(dataset.held_out(HELD_OUT)).tolist()
    ]
