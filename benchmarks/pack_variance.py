"""How much the loss and the gradient differ from pack to pack, for each packing algorithm.

    python -m benchmarks pack_variance RUN DATA [--budget N] [--packs N] [--out FILE]

RUN is a training run, DATA a dataset of its autoencoder and labels with several variants of each image. Each algorithm
packs the same images; for every pack the loss and its gradient are computed at the run's averaged weights. Reported:
the standard deviation of the loss over packs relative to its mean, and the gradient's noise, the mean over packs of
‖g − ḡ‖² / ‖ḡ‖².
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

from anyres.config import from_dict
from anyres.devices import pick_device
from anyres.files import read_json
from anyres.latents.format import LatentDataset
from anyres.model.nit import NiT
from anyres.packing.loader import PackLoader
from anyres.packing.plan import PackingConfig
from anyres.train.config import TrainConfig
from anyres.train.losses import draw, pack_loss

from .recording import RESULTS, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--budget", type=int, default=4096)
    parser.add_argument("--packs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS / "pack_variance.json")
    options = parser.parse_args()
    config = from_dict(TrainConfig, read_json(options.run / "config.json"))
    dataset = LatentDataset.open(options.data)
    model = NiT.from_pretrained(options.run / "model").to(pick_device("auto")).train()
    rows = []
    for algorithm in ("lpfhp", "shuffled_best_fit"):
        packing = PackingConfig(budget=options.budget, algorithm=algorithm)
        loader = PackLoader(
            dataset, rows=np.arange(len(dataset)), patch=config.model.patch_size, packing=packing, seed=0
        )
        rows.append({"algorithm": algorithm, "budget": options.budget, **measure(model, loader, config, options.packs)})
        print(rows[-1])
    record(options.out, rows)


def measure(model: NiT, loader: PackLoader, config: TrainConfig, packs: int) -> dict[str, float]:
    """Spread of loss and gradient over the first packs of an epoch."""
    losses, squares, total = [], [], None
    config = dataclasses.replace(config, precision="float32")
    number = min(packs, loader.packs_in(0))
    one_size = 0
    for i in range(number):
        pack = loader.pack(0, i)
        one_size += len({grid.tokens for grid in pack.layout.grids}) == 1
        drawn = draw(pack, config, "variance", i, dropout=0.0).to(model.device)
        loss = pack_loss(model, drawn, config).total / pack.layout.tokens
        model.zero_grad()
        loss.backward()
        gradient = torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
        losses.append(float(loss.detach()))
        squares.append(float(gradient.square().sum()))
        total = gradient if total is None else total + gradient
    mean_square = float((total / number).square().sum())
    # E‖g − ḡ‖² = E‖g‖² − ‖ḡ‖²
    noise = np.mean(squares) - mean_square
    return {
        "packs": number,
        "one_size_share": one_size / number,
        "loss_mean": float(np.mean(losses)),
        "loss_relative_std": float(np.std(losses) / np.mean(losses)),
        "gradient_noise_to_signal": float(noise / max(mean_square - noise / (number - 1), 1e-30)),
    }
