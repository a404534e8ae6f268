"""A training step: ours, the released code's, and the floor of the same run.

    python -m benchmarks training [--released CHECKOUT] [--preset xl] [--tokens 16384] [--repeats 12]
        [--profile TRACE.json.gz] [--precision bfloat16] [--attention auto] [--device auto] [--out FILE]

One pack: in turn an image of 8 × 8 tokens, one of 16 × 16 and one of ImageNet-like size, until it is full. The released
code's step and ours run one after the other in this process, on the same weights, data and first times: forward, both
losses (mean square and direction), backward, clipping, AdamW, average of the weights. Neither has a REPA teacher, nor a
projector. Ours is the trainer's own step. Layers that start from zero have random weights in both.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from anyres import noise
from anyres.devices import pick_device
from anyres.grid import Grid
from anyres.model.config import PRESETS, NiTConfig
from anyres.packing.pack import Pack, PackLayout
from anyres.packing.plan import PackingConfig, pack_shape
from anyres.tables import aligned
from anyres.train.config import EmaConfig, TrainConfig
from anyres.train.graphs import records
from anyres.train.losses import DrawnPack, draw
from anyres.train.state import TrainState
from anyres.train.step import backward, update

from .floors import floor_table, times, training_floor
from .packing import native_grids
from .profiling import profiled
from .recording import device_name, record_of_device
from .released import CLASSES, ReleasedCode, ReleasedStep, load_into, randomise, release_memory

SEED = 0
SIZES = 368  # seed of the sizes: a full pack is 16,346 tokens, 91 images, of 15.2 TFLOP forward, attention 3.9% of them
WARM_UP = 4  # the first of ours compiles the kernels and records the step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--released", type=Path, help="a checkout of the released code; without it, ours alone")
    parser.add_argument("--preset", default="xl", choices=PRESETS)
    parser.add_argument("--tokens", type=int, default=16384, help="room of the pack")
    parser.add_argument("--repeats", type=int, default=12, help="timed steps, after the warm-up")
    parser.add_argument("--profile", type=Path, help="also profile some of our steps, and write their trace here")
    parser.add_argument("--precision", default="auto", choices=("auto", "bfloat16", "float8"), help="of our products")
    parser.add_argument("--attention", default="auto", help="our attention backend")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    config = train_config(options.preset, options.tokens)
    config = dataclasses.replace(config, precision=options.precision, attention=options.attention)
    grids = made_grids(options.tokens)
    pack = made_pack(grids, config, device)
    lengths = [grid.tokens for grid in grids]
    print(f"{device_name(device)}, torch {torch.__version__}")
    print(f"{options.preset}, {sum(lengths)} tokens, {len(grids)} images")
    results: dict = {
        "preset": options.preset,
        "pack": {"tokens": sum(lengths), "images": len(grids), "shape": dataclasses.asdict(pack.layout.shape)},
        "precision": options.precision,
        "step": "forward, mean square + direction, backward, clip, AdamW, EMA; no projector, no teacher",
    }
    weights = None
    if options.released:
        code = ReleasedCode(options.released)
        results["released"], weights = time_released(code, pack, config, device, options.repeats)
    results["ours"] = time_ours(pack, config, device, options, weights)
    del weights
    release_memory()
    parameters = results["ours"]["parameters"]
    results["floor"] = training_floor(config.model, lengths, parameters, device)
    report(results, 3 * config.model.forward_flops(lengths))
    name = "training_float8" if options.precision == "float8" else "training"
    record_of_device(options.out, name, device, results)


def train_config(preset: str, tokens: int) -> TrainConfig:
    """As a recipe makes it, with the released configuration's optimizer and average."""
    # the order of positions costs nothing; this one makes the losses comparable
    model = NiTConfig.preset(preset, num_classes=CLASSES, position_order="column_major")
    ema = EmaConfig(kind="constant", decay=0.9999)
    return TrainConfig(model=model, packing=PackingConfig(budget=tokens), steps=1000, seed=SEED, ema=ema)


def made_grids(room: int) -> list[Grid]:
    """Images of the three kinds in turn, each where it still fits, until the smallest does not."""
    native = iter(native_grids(room, np.random.default_rng(SIZES)).tolist())
    grids: list[Grid] = []
    while room >= 64:
        for grid in (Grid(8, 8), Grid(16, 16), Grid(*next(native))):
            if grid.tokens <= room:
                grids.append(grid)
                room -= grid.tokens
    return grids


def made_pack(grids: list[Grid], config: TrainConfig, device: torch.device) -> DrawnPack:
    """A pack as the trainer's loader and `draw` make it, of made latents; times are those that `first_times` gives."""
    lengths = np.array([grid.tokens for grid in grids])
    shape = pack_shape(lengths, config.packing.budget) if records(config, device) else None
    layout = PackLayout.from_grids(grids, shape)
    latents = torch.zeros(layout.shape.tokens, config.model.token_values)
    latents[: layout.tokens] = noise.normal((layout.tokens, config.model.token_values), SEED, "latents")
    labels = torch.zeros(layout.shape.images, dtype=torch.int64)
    labels[: len(grids)] = torch.arange(len(grids)) % config.model.num_classes
    numbers = tuple(range(len(grids)))
    pack = Pack(layout=layout, latents=latents, labels=labels, indices=numbers, flipped=(False,) * len(grids))
    drawn = draw(pack, config, SEED, "step", dropout=0.0)
    drawn.t[: len(grids)] = first_times(len(grids))
    return drawn.pin_memory() if device.type == "cuda" else drawn


def first_times(images: int) -> torch.Tensor:
    """The times that the released loss draws first after this seed: σ/(1 + σ) of a log-normal σ is a sigmoid."""
    torch.manual_seed(SEED)
    return torch.sigmoid(torch.randn(images))


def time_released(
    code: ReleasedCode, pack: DrawnPack, config: TrainConfig, device: torch.device, repeats: int
) -> tuple[dict, dict[str, torch.Tensor]]:
    """What the released step takes, and the weights that it started from, on the host."""
    release_memory()
    model = code.model(config.model, device, seed=SEED)
    weights = {name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}
    step = ReleasedStep(code, model, pack, config.model)
    torch.manual_seed(SEED)
    first = float(step())
    found = measured("released", step, device, repeats, pack.layout.tokens) | {
        "first_loss": first,
        "code": code.fingerprint,
        "attention": "torch.nn.attention.varlen in flash-attn's place",
        "optimizer": "torch's default AdamW, as its configurations ask for",
    }
    del model, step
    code.forget()
    return found, weights


def time_ours(
    pack: DrawnPack,
    config: TrainConfig,
    device: torch.device,
    options: argparse.Namespace,
    weights: dict[str, torch.Tensor] | None,
) -> dict:
    """What our step takes, from the released model's weights where there are some; and its profile, if asked for."""
    release_memory()
    state = made_state(config, device, weights)
    step = our_step(state, pack, config)
    first = float(step())
    found = measured("ours", step, device, options.repeats, pack.layout.tokens)
    found |= {
        "first_loss": first,
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "recorded": state.graphed is not None,
    }
    if options.profile:
        found["profile"] = profiled(step, device, options.profile)
    return found


def made_state(config: TrainConfig, device: torch.device, weights: dict[str, torch.Tensor] | None = None) -> TrainState:
    """A fresh state whose network starts from these weights, or from random ones."""
    state = TrainState.create(config, device)
    if weights is None:
        randomise(state.model)
    else:
        load_into(state.model, weights)
    state.average.load_state_dict(state.model.state_dict())
    state.update.refresh()
    return state


def our_step(state: TrainState, pack: DrawnPack, config: TrainConfig) -> Callable[[], torch.Tensor]:
    """The trainer's own step, always on this pack; it gives the loss, on the device."""

    def step() -> torch.Tensor:
        loss = backward(state, [pack], config)
        outcome = update(state, loss, config)
        state.progress = dataclasses.replace(state.progress, step=state.progress.step + 1)
        return outcome.loss.total

    return step


def measured(name: str, step: Callable[[], object], device: torch.device, repeats: int, tokens: int) -> dict:
    """Times of a step, its rate, and the peak of memory since the last count began; the time is said at once."""
    each = times(step, device, repeats=repeats, warm_up=WARM_UP)
    ms = statistics.median(each)
    print(f"{name}: {ms:.1f} ms a step", flush=True)
    found = {"ms": ms, "tokens_a_second": 1000 * tokens / ms, "each_ms": each}
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        found["peak_reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return found


def report(results: dict, flops: int) -> None:
    """Add the ratios to the results, and print all."""
    floor, ours, ceilings = results["floor"], results["ours"], results["floor"]["ceilings"]
    rows = [("", "ms a step", "tokens/s", "share of the ceiling", "peak GiB (reserved)", "first loss")]
    for name in ("released", "ours"):
        if name in results:
            found = results[name]
            found["share_of_ceiling"] = flops / found["ms"] / 1e9 / ceilings["tflops"]
            memory = f"{found['peak_gib']:.1f} ({found['peak_reserved_gib']:.1f})" if "peak_gib" in found else "-"
            rows.append(
                (
                    name,
                    f"{found['ms']:.1f}",
                    f"{found['tokens_a_second']:,.0f}",
                    f"{found['share_of_ceiling']:.1%}",
                    memory,
                    f"{found['first_loss']:.5f}",
                )
            )
    print(aligned(rows))
    print(floor_table(floor))
    results["ratios"] = {"ours / floor": ours["ms"] / floor["ms"]}
    if "released" in results:
        results["ratios"] |= {
            "released / ours": results["released"]["ms"] / ours["ms"],
            "released / floor": results["released"]["ms"] / floor["ms"],
        }
    print("  ".join(f"{name} {ratio:.2f}" for name, ratio in results["ratios"].items()))
