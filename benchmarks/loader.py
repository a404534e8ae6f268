"""The loader's throughput on a CPU: tokens/s of packs made, and of packs made and drawn (noise, times, labels).

    OMP_NUM_THREADS=1 python -m benchmarks loader [--seconds S] [--out FILE]

Latents of 32 channels, a cell a token, with lengths like ImageNet's at 32 px a token (`packing.py`), from memory. The
packs of a step, where there are several, are made even, and one of `ranks` processes makes its share.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from anyres.latents.autoencoder import LatentScaling
from anyres.model.config import NiTConfig
from anyres.packing.dealing import Share
from anyres.packing.loader import WORKERS, PackLoader, Position
from anyres.packing.pack import Pack
from anyres.packing.plan import PackingConfig
from anyres.train.config import TrainConfig
from anyres.train.losses import draw

from .packing import native_lengths
from .recording import RESULTS, record

IMAGES, CHANNELS, BUDGET = 50_000, 32, 16_384
STEPS = ((1, 1), (8, 1), (8, 8))  # packs of a step, ranks


class MadeLatents:
    """Latents in memory; each image is a slice of the same numbers."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.cells = np.stack([native_lengths(IMAGES, rng), np.ones(IMAGES, dtype=np.int64)], axis=1)
        self.labels = rng.integers(0, 1000, IMAGES)
        self.sources = ["made"] * IMAGES
        self.scaling = LatentScaling.uniform(CHANNELS, factor=0.41407)
        self._values = torch.randn(4 * BUDGET, CHANNELS).half()

    def lengths(self, patch: int) -> np.ndarray:
        """Tokens of each row."""
        return self.cells.prod(axis=1) // patch**2

    def read_raw(self, index: int, *, flipped: bool = False) -> torch.Tensor:
        """The latent of a row."""
        start = 7 * index % BUDGET + int(flipped)
        return self._values[start : start + int(self.cells[index, 0])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "loader.json")
    options = parser.parse_args()
    packing = PackingConfig(budget=BUDGET)
    config = TrainConfig(model=NiTConfig.preset("xl", num_classes=1000), packing=packing, steps=1)
    loader = PackLoader(MadeLatents(), rows=np.arange(IMAGES), patch=1, packing=packing, seed=0)

    def drawn(pack: Pack, number: int) -> int:
        return draw(pack, config, 0, number, dropout=0.1).layout.tokens

    results = []
    for what, finish in (("made", lambda pack, _number: pack.layout.tokens), ("made and drawn", drawn)):
        for packs_per_step, ranks in STEPS:
            share = Share(packs_per_step=packs_per_step, ranks=ranks, cost=config.model.image_flops)
            stream = loader.stream(Position(epoch=0, pack=0), finish, share=share)
            for _ in range(2 * WORKERS):  # those that were made ahead do not count
                next(stream)
            tokens, start = 0, time.perf_counter()
            while time.perf_counter() - start < options.seconds:
                tokens += next(stream)
            rate = tokens / (time.perf_counter() - start)
            stream.close()
            results.append(
                {"packs": what, "packs_per_step": packs_per_step, "ranks": ranks, "tokens_per_second": round(rate)}
            )
            print(f"{what:15} {packs_per_step:2} packs a step, {ranks} ranks: {rate:12,.0f} tokens/s")
    record(options.out, {"workers": WORKERS, "budget": BUDGET, "channels": CHANNELS, "rows": results})
