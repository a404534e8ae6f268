"""Guided sampling: ours, the released code's, and the floor of the same run.

    python -m benchmarks sampling [--released CHECKOUT] [--preset xl] [--cases 256x256:32 ...] [--steps 50]
        [--repeats 3] [--precision bfloat16] [--device auto] [--out FILE]

Euler's method with guidance 2.25 in [0, 0.7], latents alone, at 32 px a token, through `Pipeline.latents`; the
released sampler with the released network beside it, both in bfloat16, on the same random weights and the same initial
noise. The released network, once cast, rounds times and its tables of angles to bfloat16, so its samples are compared
twice: as it is, and with its tables in float32. Layers that start from zero have random weights in both.
"""

import argparse
import statistics
from pathlib import Path

import torch
from torch import nn

from anyres.config import require
from anyres.devices import pick_device
from anyres.flow.time import solver_times
from anyres.grid import unpatchify
from anyres.latents.patch_pca import PatchPCA
from anyres.model.config import PRESETS, NiTConfig
from anyres.model.nit import NiT
from anyres.noise import Address
from anyres.sample.pipeline import Pipeline
from anyres.sample.request import ImageRequest, LabelTable, SamplingSettings, make_requests
from anyres.tables import aligned

from .floors import dtype_on, floor_table, sampling_floor, times
from .recording import device_name, record_of_device
from .released import CLASSES, ReleasedCode, load_into, randomise, release_memory

SEED = 0
PX = 32  # of a token
CASES = ("256x256:32", "256x256:128", "512x512:32", "1024x1024:8")
TABLES = ("freqs_h_cached", "freqs_w_cached")


class SameStart(Pipeline):
    """A pipeline whose noise is rounded to the network's dtype first, as the released sampler's is."""

    def _draw(self, pack: list[ImageRequest], *address: Address) -> torch.Tensor:
        drawn = super()._draw(pack, *address)
        return drawn.to(self.model.compute_dtype).to(drawn.dtype)

    def start(self, pack: list[ImageRequest]) -> torch.Tensor:
        """The noise that a pack begins with."""
        return self._draw(pack, "start").to(self.model.compute_dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--released", type=Path, help="a checkout of the released code; without it, ours alone")
    parser.add_argument("--preset", default="xl", choices=PRESETS)
    parser.add_argument("--cases", nargs="+", default=CASES, help="WIDTHxHEIGHT:IMAGES, in px")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of all steps")
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float8"), help="of our products")
    parser.add_argument("--attention", default="auto", help="our attention backend")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    settings = SamplingSettings(steps=options.steps, guidance=2.25, guidance_low=0.0, guidance_high=0.7)
    config = NiTConfig.preset(options.preset, num_classes=CLASSES, position_order="column_major")
    code = ReleasedCode(options.released) if options.released else None
    theirs = code.model(config, device, seed=SEED) if code else None
    pipe = pipeline(config, theirs, device, options.attention)
    if options.precision == "float8":
        pipe.model.use_float8(training=False)
    exact = {}
    if theirs is not None:
        exact = {name: getattr(theirs.rope, name).clone() for name in TABLES}
        theirs.to(dtype_on(device)).eval()
    print(f"{device_name(device)}, torch {torch.__version__}: {options.preset}, {options.steps} steps")
    about = {"preset": options.preset, "precision": options.precision, "code": code and code.fingerprint}
    name = "sampling" if options.precision == "bfloat16" else "sampling_float8"
    rows = []
    for case in options.cases:
        size, _, count = case.partition(":")
        require(count.isdigit() and int(count) > 0, f"case {case!r}", "WIDTHxHEIGHT:IMAGES, such as 256x256:32")
        numbers = [number % CLASSES for number in range(int(count))]
        requests = make_requests(numbers, size, None, table=pipe.labels, px_per_token=PX)
        row = {"size": size, "images": len(requests), "steps": options.steps}
        samples, row["ours"] = timed_ours(pipe, requests, settings, options.repeats)
        if code is not None and theirs is not None:
            row |= compared(code, theirs, exact, pipe, requests, settings, options.repeats, samples, row["ours"])
            code.forget()
        row["floor"] = sampling_floor(config, requests[0].grid.tokens, len(requests), guided_share(settings), device)
        row["ours / floor"] = row["ours"]["ms_a_step"] / row["floor"]["ms"]
        rows.append(row)
        release_memory()
        print(f"{case}: ours {row['ours']['ms_a_step']:.1f} ms a step", flush=True)
        record_of_device(options.out, name, device, {**about, "cases": rows})  # what is done is kept, whatever comes
    report(rows)


def pipeline(config: NiTConfig, theirs: nn.Module | None, device: torch.device, attention: str) -> SameStart:
    """Our network, with the released one's weights where there is one, and an autoencoder that is not used."""
    torch.manual_seed(SEED)
    with device:  # where many random numbers take no time
        model = NiT(config, attention=attention)
    if theirs is None:
        randomise(model)
    else:
        load_into(model, theirs.state_dict())
    values = 3 * PX * PX
    autoencoder = PatchPCA(torch.eye(config.channels, values), torch.zeros(values), torch.ones(config.channels))
    labels = LabelTable(tuple(f"class {number}" for number in range(CLASSES)))
    return SameStart(model.to(device, dtype_on(device)), autoencoder, labels, autoencoder.scaling, trained_side=64)


def guided_share(settings: SamplingSettings) -> float:
    """Share of the steps in which guidance acts."""
    guidance = settings.guidance_config()
    return statistics.mean(guidance.acts_at(t) for t in solver_times(settings.steps)[:-1])


def timed_ours(
    pipe: SameStart, requests: tuple[ImageRequest, ...], settings: SamplingSettings, repeats: int
) -> tuple[torch.Tensor, dict]:
    """Our samples, and what they take once the second pack of the shape has been recorded."""
    made = torch.stack(pipe.latents(requests, settings))
    each = times(lambda: pipe.latents(requests, settings), pipe.model.device, repeats=repeats, warm_up=1)
    return made, rates(each, settings.steps, len(requests))


def compared(
    code: ReleasedCode,
    theirs: nn.Module,
    exact: dict[str, torch.Tensor],
    pipe: SameStart,
    requests: tuple[ImageRequest, ...],
    settings: SamplingSettings,
    repeats: int,
    ours: torch.Tensor,
    found: dict,
) -> dict:
    """What the released sampler takes, the ratio, and how far its samples are from ours."""
    grids = [request.grid for request in requests]
    config = pipe.model.config
    token = (config.channels, config.patch_size, config.patch_size)
    start = pipe.start(list(requests)).unflatten(1, token)
    device = start.device
    labels = torch.tensor([request.label for request in requests], device=device)
    sizes = torch.tensor([(grid.height, grid.width) for grid in grids], device=device, dtype=torch.int)

    def run() -> torch.Tensor:
        return code.euler(
            theirs,
            None,
            start,
            labels,
            sizes,
            num_steps=settings.steps,
            cfg_scale=settings.guidance,
            guidance_low=settings.guidance_low,
            guidance_high=settings.guidance_high,
        )

    def difference() -> float:
        parts = run().flatten(1).float().split([grid.tokens for grid in grids])
        made = torch.stack([unpatchify(part, grid, config.patch_size) for part, grid in zip(parts, grids, strict=True)])
        return float((ours.to(made) - made).norm() / made.norm())

    as_it_is = difference()
    released = rates(times(run, device, repeats=repeats, warm_up=0), settings.steps, len(requests))
    rounded = {name: getattr(theirs.rope, name) for name in exact}
    for name, table in exact.items():
        setattr(theirs.rope, name, table)
    code.forget()
    with_exact_tables = difference()
    for name, table in rounded.items():
        setattr(theirs.rope, name, table)
    return {
        "released": released,
        "released / ours": released["ms_a_step"] / found["ms_a_step"],
        "difference": as_it_is,
        "difference_with_float32_tables": with_exact_tables,
    }


def rates(each: list[float], steps: int, images: int) -> dict:
    """From the ms of each run of all steps."""
    ms = statistics.median(each)
    return {"ms_a_step": ms / steps, "images_a_second": 1000 * images / ms, "each_ms": each}


def report(rows: list[dict]) -> None:
    """Print all of it."""
    table = [("case", "released, ms a step", "ours", "floor", "ratio", "ours, images/s", "difference (exact tables)")]
    for row in rows:
        theirs = row.get("released")
        table.append(
            (
                f"{row['size']} × {row['images']}",
                f"{theirs['ms_a_step']:.1f}" if theirs else "-",
                f"{row['ours']['ms_a_step']:.1f}",
                f"{row['floor']['ms']:.1f}",
                f"{row['released / ours']:.2f}" if theirs else "-",
                f"{row['ours']['images_a_second']:.1f}",
                f"{row['difference']:.1e} ({row['difference_with_float32_tables']:.1e})" if theirs else "-",
            )
        )
    print(f"of the last case: {floor_table(rows[-1]['floor'])}")
    print(aligned(table))
