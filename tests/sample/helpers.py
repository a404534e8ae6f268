"""A small pipeline with random weights, and what its network was asked for."""

from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from anyres.latents.patch_pca import PatchPCA
from anyres.model.nit import NiT
from anyres.sample.pipeline import Pipeline
from anyres.sample.request import LabelTable, SamplingSettings
from tests.model.helpers import random_model, small_config

LABELS = ("apple", "bridge", "cloud", "dune", "7")
PX = 8  # a token's side


def small_autoencoder(*, seed: int = 0, channels: int = 6) -> PatchPCA:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(3, 48, 64, generator=generator) * 2 - 1 for _ in range(6)]
    return PatchPCA.fit(images, patch=PX, channels=channels)


def small_pipeline(*, seed: int = 0, defaults: SamplingSettings | None = None, **config) -> Pipeline:
    autoencoder = small_autoencoder()
    return Pipeline(
        random_model(small_config(**config), seed=seed),
        autoencoder,
        LabelTable(LABELS),
        autoencoder.scaling,
        trained_side=6,
        name="small",
        defaults=defaults or SamplingSettings(steps=4, guidance=2.0, guidance_high=0.6),
    )


@dataclass
class Calls:
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)
    prepared: int = 0


@contextmanager
def watched(model: NiT, monkeypatch):
    """Record each forward pass of the network, and how often a pack was prepared."""
    calls, prepare = Calls(), model.prepare

    def counted(*args, **kwargs):
        calls.prepared += 1
        return prepare(*args, **kwargs)

    def record(_module, args):
        tokens, t, labels, _ = args
        calls.tokens.append(len(tokens))
        calls.times.append(round(float(t[0]), 6))
        calls.labels.append(labels.tolist())

    monkeypatch.setattr(model, "prepare", counted)
    handle = model.register_forward_pre_hook(record)
    try:
        yield calls
    finally:
        handle.remove()
