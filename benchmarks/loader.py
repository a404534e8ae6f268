"""The loader's throughput in tokens/s: packs made, and packs made and drawn (noise, times, labels) for a CPU or a GPU.

    OMP_NUM_THREADS=1 python -m benchmarks loader [--tokens 16384] [--beside TRAINING.json] [--seconds S] [--out FILE]

Latents of 32 channels, a cell a token, with lengths like ImageNet's at 32 px a token (`packing.py`), from a shard
that is mapped into memory, by as many threads as training uses. The packs of a step, where there are several, are
made even, and one of `ranks` processes makes its share. Packs for a GPU are padded to one shape and have no noise,
which it draws itself; where there is a GPU, they are put into page-locked memory. `--beside` names what `benchmarks
training` recorded on this machine, and says how many times as fast the loader is.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from anyres.latents.autoencoder import LatentScaling
from anyres.latents.format import SHARD
from anyres.latents.shards import MappedRows, write_shard
from anyres.model.config import NiTConfig
from anyres.packing.dealing import Share
from anyres.packing.loader import WORKERS, PackLoader, Position
from anyres.packing.pack import Pack
from anyres.packing.plan import PackingConfig
from anyres.train.config import TrainConfig
from anyres.train.losses import draw

from .packing import native_lengths
from .recording import RESULTS, record

IMAGES, CHANNELS = 50_000, 32
STEPS = ((1, 1), (8, 1), (8, 8))  # packs of a step, ranks


class MadeLatents:
    """Latents in a shard, as training maps it; each image is a slice of the same numbers.

    Args:
        folder: for the shard.
    """

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.cells = np.stack([native_lengths(IMAGES, rng), np.ones(IMAGES, dtype=np.int64)], axis=1)
        self.labels = rng.integers(0, 1000, IMAGES)
        self.sources = ["made"] * IMAGES
        self.scaling = LatentScaling.uniform(CHANNELS, factor=0.41407)
        values = [rng.standard_normal((2**16, CHANNELS), dtype=np.float32).astype(np.float16) for _ in range(2)]
        write_shard(folder / SHARD.format(0), values[:1], values[1:])
        nowhere = np.zeros(IMAGES, dtype=np.int64)
        offsets = 7 * np.arange(IMAGES) % 2**14
        self._rows = MappedRows(folder, SHARD, nowhere, offsets, self.cells[:, 0], channels=CHANNELS)

    def lengths(self, patch: int) -> np.ndarray:
        """Tokens of each row."""
        return self.cells.prod(axis=1) // patch**2

    def views(self, indices: np.ndarray, flipped: np.ndarray) -> list[torch.Tensor]:
        """The latents of rows."""
        return self._rows.views(indices, flipped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16384, help="room of a pack")
    parser.add_argument("--beside", type=Path, help="a record of `benchmarks training`")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=RESULTS / "loader.json")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        measure(MadeLatents(Path(folder)), options)


def measure(latents: MadeLatents, options: argparse.Namespace) -> None:
    """Measure, print and record."""
    packing = PackingConfig(budget=options.tokens)
    config = TrainConfig(model=NiTConfig.preset("xl", num_classes=1000), packing=packing, steps=1)
    on_gpu = torch.cuda.is_available()
    consumed = json.loads(options.beside.read_text())["results"] if options.beside else None

    def made(pack: Pack, _number: int) -> int:
        return pack.layout.tokens

    def drawn(pack: Pack, number: int) -> int:
        return draw(pack, config, 0, number, dropout=0.1).layout.tokens

    def drawn_for_gpu(pack: Pack, number: int) -> int:
        found = draw(pack, config, 0, number, dropout=0.1, on_device=True)
        return (found.pin_memory() if on_gpu else found).layout.tokens

    results = []
    ways: dict[str, Callable[[Pack, int], int]] = {"made": made, "drawn for a CPU": drawn, "for a GPU": drawn_for_gpu}
    for what, finish in ways.items():
        loader = PackLoader(
            latents, rows=np.arange(IMAGES), patch=1, packing=packing, seed=0, one_shape=finish is drawn_for_gpu
        )
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
            row = {"packs": what, "packs_per_step": packs_per_step, "ranks": ranks, "tokens_per_second": round(rate)}
            said = f"{what:15} {packs_per_step:2} packs a step, {ranks} ranks: {rate:12,.0f} tokens/s"
            if consumed is not None:
                row["times_what_training_takes"] = round(rate / consumed["ours"]["tokens_a_second"], 2)
                said += f", {row['times_what_training_takes']:.2f} times what {consumed['preset']} takes"
            results.append(row)
            print(said)
    about = {"workers": WORKERS, "budget": options.tokens, "channels": CHANNELS, "pinned": on_gpu}
    if consumed is not None:
        about["training"] = {"preset": consumed["preset"], "tokens_per_second": consumed["ours"]["tokens_a_second"]}
    record(options.out, about | {"rows": results})
