"""What `balance` measures of a model: held-out losses at equal times, and KID at several sizes."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyres.devices import pick_device
from anyres.evaluate.measuring import Measuring
from anyres.evaluate.metrics import kernel_distance
from anyres.evaluate.pictures import Framing
from anyres.evaluate.sets import FeatureSet
from anyres.evaluate.sources import FolderSource
from anyres.flow.loss import flow_loss
from anyres.flow.path import path_named
from anyres.flow.time import TimeShift
from anyres.grid import Size
from anyres.latents.format import LatentDataset
from anyres.model.nit import NiT
from anyres.networks.lite import EfficientNetLite
from anyres.packing.loader import PackLoader
from anyres.packing.plan import PackingConfig
from anyres.sample.pipeline import Pipeline
from anyres.train.config import TrainConfig
from anyres.train.losses import draw
from anyres.train.precision import autocast

TIMES = 8  # of each held-out version: the middles of as many equal parts of [0, 1]
SIZES = ("96x96", "192x192", "256x256", "512x256")
NETWORK = "efficientnet-lite2"
STEPS = 25  # of sampling
DRAWS = 200  # of pictures, for the interval of KID


@torch.no_grad()
def held_out_losses(
    model: Path, dataset: LatentDataset, config: TrainConfig, share: float, device: str
) -> list[list[float]]:
    """Of each held-out version, in the dataset's order, and each time: the mean-square loss of its tokens."""
    place = pick_device(device)
    network, rows = NiT.from_pretrained(model).to(place), np.flatnonzero(dataset.held_out(share))
    loader = PackLoader(
        dataset,
        rows=rows,
        patch=config.model.patch_size,
        packing=PackingConfig(budget=config.packing.budget),  # each once, whatever training draws
        seed=0,
        flip=False,
    )
    losses = np.zeros((len(dataset), TIMES))
    for number in range(loader.packs_in(0)):
        pack = loader.pack(0, number)
        tokens = torch.tensor([grid.tokens for grid in pack.layout.grids], device=place)
        for part in range(TIMES):
            drawn = draw(pack, config, "balance", part, number, dropout=0.0).to(place)
            t = torch.full_like(drawn.t, (part + 0.5) / TIMES)
            of_token = drawn.layout.image_index
            point = path_named(config.path).sample(drawn.latents, drawn.noise, t[of_token])
            with autocast(config, place):
                velocity = network(point.x_t, t, drawn.labels, drawn.layout)
            sums = torch.zeros(len(t), device=place).index_add_(0, of_token, flow_loss(velocity, point.velocity))
            losses[list(pack.indices), part] = (sums[: len(tokens)] / tokens).cpu().numpy()
    return np.round(losses[rows], 5).tolist()


def real_features(images: Path, kept: Path, device: str) -> None:
    """Write the features of all images at each size that they are large enough for."""
    place = pick_device(device)
    network, source = EfficientNetLite(NETWORK, place), FolderSource.open(images)
    for size in SIZES:
        framing = Framing(size=Size.parse(size))
        measuring = Measuring(network=network, device=place, framing=framing, batch=32, workers=8, seed=0)
        found, _ = measuring.collect(source, f"real images at {size}")
        found.save(kept / f"{size}.safetensors")


@torch.no_grad()
def kids(model: Path, real: Path, count: int, device: str) -> dict[str, Any]:
    """KID of samples at each size, of the labels that the real images of the size have, from the same seeds.

    A model whose times move with the size is also sampled at times that do not. Draws of pictures are the same for
    all models, so that differences of replicates are paired.
    """
    pipe, network, found = (
        Pipeline.from_pretrained(model, device=device),
        EfficientNetLite(NETWORK, pick_device(device)),
        {},
    )
    own = pipe.time_shift
    for size in SIZES:
        reference = FeatureSet.load(real / f"{size}.safetensors")
        labels = reference.take(np.linspace(0, len(reference) - 1, count).round().astype(int)).labels
        for shift in (own, TimeShift()) if own.power else (own,):
            pipe.time_shift = shift
            images = pipe(labels=labels, sizes=size, seeds=range(count), steps=STEPS)
            stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
            made = np.concatenate(
                [network(part).pooled.float().cpu().numpy() for part in stacked.contiguous().split(32)]
            )
            kid = kernel_distance(made, reference.features, bootstraps=DRAWS)
            found[size if shift == own else f"{size} at unmoved times"] = asdict(kid.interval) | {
                "replicates": np.round(kid.replicates, 5).tolist()
            }
    return found
