"""A training step of every size: speed, MFU and memory, with and without recomputed blocks; how it grows.

    python -m benchmarks sizes [--parts presets growth images largest] [--repeats 5] [--tiny] [--device auto]
        [--out FILE]

presets: each published network at its published pack. growth: XL's pack from 4k to 64k tokens. images: XL's pack of
16k tokens, of squares of one size. largest: the largest pack of XL that fits, from what the memory of two packs lets
expect downwards. Packs and step as in `training`: the trainer's own, without a teacher. Memory is what the process
takes from the device at most: a recorded step keeps for itself what it once needed, so what is alive at one time would
be less. MFU counts no recomputing.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from anyres.devices import pick_device
from anyres.grid import Grid
from anyres.model.nit import NiT
from anyres.recipes.imagenet import BUDGETS
from anyres.recipes.planning import STATE_BYTES, TRAINED_BYTES, activation_bytes
from anyres.tables import aligned
from anyres.train.config import TrainConfig
from anyres.train.graphs import GraphedGradient, records
from anyres.train.metrics import peak_flops

from .floors import times
from .recording import device_name, record_of_device
from .released import release_memory
from .training import made_grids, made_pack, made_state, our_step, train_config

GIB = 2**30
SPARE = 6 * GIB  # of the device's memory, beside what is counted: libraries, losses, fragments


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        presets: tokens of each network's pack.
        studied: the network of all other parts.
        growth: tokens of its packs.
        pack: tokens of its packs of one size.
        sides: of their images, in tokens.
    """

    presets: dict[str, int]
    studied: str
    growth: Sequence[int]
    pack: int
    sides: Sequence[int]


FULL = Plan(
    presets=BUDGETS, studied="xl", growth=(4096, 8192, 16384, 32768, 65536), pack=16384, sides=(8, 16, 32, 64, 128)
)
TINY = Plan(presets={"mini": 128}, studied="mini", growth=(64, 128), pack=128, sides=(4, 8))


class Network:
    """A network with random weights on the device, and all that its training needs; one pack after another.

    Args:
        preset: its name.
        device: where.
        repeats: timed steps of a pack.
    """

    def __init__(self, preset: str, device: torch.device, repeats: int) -> None:
        release_memory()
        self.preset, self.device, self._repeats = preset, device, repeats
        config = train_config(preset, FULL.pack)
        self.model = config.model
        self._state = made_state(config, device)

    def fits(self, tokens: int, recomputed: int) -> bool:
        """Whether a pack should fit the device's memory, by what is counted."""
        if self.device.type != "cuda":
            return True
        parameters = sum(parameter.numel() for parameter in self._state.model.parameters())
        state = parameters * sum((*STATE_BYTES.values(), *TRAINED_BYTES.values()))
        counted = state + activation_bytes(self._config(tokens, recomputed))
        return counted + SPARE <= memory(self.device)

    def mixed(self, tokens: int, recomputed: int, repeats: int | None = None) -> dict:
        """A step on images of the three kinds."""
        return self.measured(made_grids(tokens), tokens, recomputed, repeats)

    def measured(self, grids: list[Grid], tokens: int, recomputed: int, repeats: int | None = None) -> dict:
        """A step on these images: its time, rate, MFU and memory; the time is said at once."""
        state, config = self._state, self._config(tokens, recomputed)
        network = cast(NiT, state.update.network)
        network.recompute(recomputed)
        network.zero_grad(set_to_none=True)
        state.graphed = None  # what the pack before has recorded is free
        release_memory()
        state.graphed = GraphedGradient(network, config, state.team) if records(config, self.device) else None
        step = our_step(state, made_pack(grids, config, self.device), config)
        loss = float(step())
        ms = statistics.median(times(step, self.device, repeats=repeats or self._repeats, warm_up=1))
        lengths = [grid.tokens for grid in grids]
        row = {
            "preset": self.preset,
            "tokens": sum(lengths),
            "images": len(grids),
            "recomputed_blocks": recomputed,
            "ms": ms,
            "tokens_a_second": 1000 * sum(lengths) / ms,
            "loss": loss,
        }
        if peak := peak_flops(device_name(self.device)):
            row["mfu"] = 3000 * self.model.forward_flops(lengths) / ms / peak
        if self.device.type == "cuda":
            row["memory_gib"] = torch.cuda.max_memory_reserved() / GIB
        print(f"{self.preset}, {row['tokens']:,} tokens, {recomputed} blocks recomputed: {ms:.1f} ms", flush=True)
        return row

    def _config(self, tokens: int, recomputed: int) -> TrainConfig:
        return dataclasses.replace(train_config(self.preset, tokens), recomputed_blocks=recomputed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5, help="timed steps, after two that are not")
    parser.add_argument("--tiny", action="store_true", help="a network and packs that a CPU can do: a dry run")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device, plan = pick_device(options.device), TINY if options.tiny else FULL
    print(f"{device_name(device)}, torch {torch.__version__}")
    results: dict = {part: [] for part in options.parts}
    others = [name for name in plan.presets if name != plan.studied]
    for name in [*(others if "presets" in options.parts else []), plan.studied]:
        network = Network(name, device, options.repeats)
        for part in options.parts if name == plan.studied else ["presets"]:
            for row in PARTS[part](network, plan):
                results[part].append(row)
                record_of_device(options.out, "sizes", device, results)  # what is done is kept, whatever comes
    for part, rows in results.items():
        print(f"{part}\n{table(rows)}")


def presets(network: Network, plan: Plan) -> Iterator[dict]:
    """A network at its published pack: with every block kept, and with all recomputed that are worth it."""
    tokens = plan.presets[network.preset]
    return (network.mixed(tokens, recomputed) for recomputed in (0, network.model.depth - 1))


def growth(network: Network, plan: Plan) -> Iterator[dict]:
    """Packs of more and more tokens: with as few blocks recomputed as fit, and with all that are worth it."""
    most = network.model.depth - 1
    for tokens in plan.growth:
        least = next((blocks for blocks in range(most) if network.fits(tokens, blocks)), most)
        yield from (network.mixed(tokens, recomputed) for recomputed in dict.fromkeys((least, most)))


def images(network: Network, plan: Plan) -> Iterator[dict]:
    """Packs of squares of one size."""
    for side in plan.sides:
        yield network.measured([Grid(side, side)] * (plan.pack // side**2), plan.pack, 0) | {"side": side}


def largest(network: Network, plan: Plan) -> Iterator[dict]:
    """The largest packs that the device's memory holds, by the memory of two smaller ones; run once."""
    if network.device.type != "cuda":
        return
    for recomputed in (0, network.model.depth - 1):
        small, large = (network.mixed(tokens, recomputed, 1) for tokens in plan.growth[2:4])
        slope = (large["memory_gib"] - small["memory_gib"]) / (large["tokens"] - small["tokens"])
        room = (memory(network.device) - GIB) / GIB - small["memory_gib"]
        tokens = int(small["tokens"] + room / slope) // 1024 * 1024
        yield fitting(network, tokens, recomputed) | {"gib_a_1000_tokens": 1000 * slope}


def fitting(network: Network, tokens: int, recomputed: int) -> dict:
    """A step on the largest pack that fits, found from an estimate downwards: fragments of memory are not foreseen."""
    while True:
        try:
            return network.mixed(tokens, recomputed, 1)
        except torch.OutOfMemoryError:
            print(f"{tokens:,} tokens, {recomputed} blocks recomputed: do not fit", flush=True)
        tokens -= 2048  # not in the handler: what failed is held there


PARTS: dict[str, Callable[[Network, Plan], Iterator[dict]]] = {
    "presets": presets,
    "growth": growth,
    "images": images,
    "largest": largest,
}


def memory(device: torch.device) -> int:
    """Bytes that the process has, or can have, of a CUDA device."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def table(rows: list[dict]) -> str:
    """In text."""
    names = ("network", "tokens", "images", "recomputed", "ms", "tokens/s", "MFU", "GiB")
    return aligned([names, *(line(row) for row in rows)])


def line(row: dict) -> tuple[str, ...]:
    """Of the table."""
    return (
        row["preset"],
        f"{row['tokens']:,}",
        f"{row['images']:,}",
        str(row["recomputed_blocks"]),
        f"{row['ms']:.1f}",
        f"{row['tokens_a_second']:,.0f}",
        f"{row['mfu']:.1%}" if "mfu" in row else "-",
        f"{row['memory_gib']:.1f}" if "memory_gib" in row else "-",
    )
