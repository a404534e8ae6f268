"""What products in 8 bits do to the loss, beside what other kernels do to it.

    python -m benchmarks float8_loss DATA [--preset xl] [--tokens 8192] [--steps 500] [--last 100] [--device auto]
        [--out FILE]

The same training again and again, from the same weights, on the same packs with the same noise: in bfloat16; in
bfloat16 with other kernels, the plain functions and another attention; and in float8. Reported is how much the loss of
the last steps differs from the first run's, step by step, and in the mean. DATA is a folder made by `anyres prepare`.
"""

import argparse
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from anyres.devices import pick_device
from anyres.latents.format import LatentDataset
from anyres.model.config import PRESETS, NiTConfig
from anyres.packing.plan import PackingConfig
from anyres.tables import aligned
from anyres.train.config import HeldOutConfig, TrainConfig
from anyres.train.graphs import records
from anyres.train.loop import advanced, drawn_packs, loaders
from anyres.train.state import TrainState
from anyres.train.step import backward, update

from .recording import device_name, record_of_device
from .released import release_memory


class Arm(NamedTuple):
    """How a run computes.

    Attributes:
        precision: of products.
        kernels: of what lies between them.
        attention: the backend on a CUDA device.
    """

    precision: str
    kernels: str
    attention: str


ARMS = {
    "bfloat16": Arm("bfloat16", "auto", "auto"),
    "bfloat16, other kernels": Arm("bfloat16", "eager", "varlen"),
    "float8": Arm("float8", "auto", "auto"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="xl", choices=PRESETS)
    parser.add_argument("--tokens", type=int, default=8192, help="room of a pack")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--last", type=int, default=100, help="steps that are compared")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, help="the first is compared with")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    dataset = LatentDataset.open(options.data)
    info = dataset.info
    model = NiTConfig.preset(options.preset, num_classes=len(info.labels), channels=info.autoencoder.channels)
    config = TrainConfig(
        model=model,
        packing=PackingConfig(budget=options.tokens),
        steps=options.steps,
        held_out=HeldOutConfig(share=0.0),
    )
    print(f"{device_name(device)}, torch {torch.__version__}: {options.preset}, {options.steps} steps", flush=True)
    losses = {}
    for name in options.arms:
        arm = ARMS[name]
        how = replace(config, precision=arm.precision, attention=arm.attention if device.type == "cuda" else "auto")
        losses[name] = losses_of(dataset, how, arm.kernels, device)
        release_memory()
        print(f"{name}: {losses[name][-options.last :].mean():.4f}, the mean of the last {options.last}", flush=True)
    differences = compared(losses, options.last)
    rows = [(name, f"{found['absolute']:.2e}", f"{found['of_means']:+.2e}") for name, found in differences.items()]
    print(aligned([("", "mean difference", "difference of the means"), *rows]))
    results = {
        "preset": options.preset,
        "tokens": options.tokens,
        "steps": options.steps,
        "last": options.last,
        "data": {"images": len(dataset), "labels": len(info.labels)},
        "learning_rate": config.optimizer.learning_rate,
        "arms": {name: ARMS[name]._asdict() for name in options.arms},
        "difference": differences,
        "losses": {name: each.tolist() for name, each in losses.items()},
    }
    record_of_device(options.out, "float8_loss", device, results)


def losses_of(dataset: LatentDataset, config: TrainConfig, kernels: str, device: torch.device) -> torch.Tensor:
    """The loss of each step of a run."""
    loader, _ = loaders(dataset, config, one_shape=records(config, device))
    state = TrainState.create(config, device)
    state.update.network.kernels = kernels
    found = []
    with closing(drawn_packs(config, state, loader)) as packs:
        for pack in packs:
            loss = backward(state, [pack], config)
            found.append(update(state, loss, config).loss.total)
            lengths = loader.lengths_of(state.progress.position, 1)
            state.progress = advanced(state.progress, lengths, config, loader)
            if len(found) == config.steps:
                break
    return torch.stack(found).float().cpu()


def compared(losses: dict[str, torch.Tensor], last: int) -> dict[str, dict[str, float]]:
    """Of each run but the first: the mean of the absolute differences to it, and the difference of the means."""
    first, *others = losses
    differences = {name: losses[name][-last:] - losses[first][-last:] for name in others}
    return {
        name: {"absolute": float(each.abs().mean()), "of_means": float(each.mean())}
        for name, each in differences.items()
    }


if __name__ == "__main__":
    main()
