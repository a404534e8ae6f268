"""Compare with numbers of the released implementation: `python tests/parity/compare.py GOLDEN_DIR`.

GOLDEN_DIR holds `weights.safetensors` (a state dict under the released names), `meta.json` (constructor arguments and
sampler settings) and `io.safetensors` (inputs and results). Prints `name relative_error limit` for each quantity, where
the error of a tensor is ‖ours − theirs‖₂ / ‖theirs‖₂, and exits with 1 if one is above its limit.
"""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from anyres.flow.guidance import GuidanceConfig, GuidedVelocity
from anyres.flow.loss import alignment_loss, direction_loss, flow_loss
from anyres.flow.path import LinearPath
from anyres.flow.solvers import Velocity, euler, euler_maruyama, heun
from anyres.flow.time import TimeConfig, solver_times, stochastic_times, training_times
from anyres.grid import Grid
from anyres.model.nit import NiT
from anyres.model.released import config_from_arguments, our_names
from anyres.model.rope import rotary_tables
from anyres.packing.pack import PackLayout

LIMIT = 2e-6
GRADIENT_LIMIT = 1e-5
INPUTS = {"x", "t", "y", "hw", "noise", "loss_normal", "repa_target", "latents", "sde_noise"}


@dataclass(frozen=True)
class Comparison:
    name: str
    error: float
    limit: float

    @property
    def passes(self) -> bool:
        return self.error <= self.limit  # false for NaN


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """‖ours − theirs‖₂ / ‖theirs‖₂ over all values, in float64."""
    if ours.numel() != theirs.numel():
        return float("inf")
    ours, theirs = ours.detach().double().flatten(), theirs.double().flatten()
    return float((ours - theirs).norm() / theirs.norm())


def compare(folder: Path, attention: str = "auto") -> Iterator[Comparison]:
    """Every quantity that the folder holds; one that has no counterpart here is infinitely wrong."""
    meta = json.loads((folder / "meta.json").read_text())
    golden = load_file(folder / "io.safetensors")
    config = config_from_arguments(meta["network"])
    model = NiT.from_released(folder / "weights.safetensors", config=config, attention=attention)
    layout = PackLayout.from_grids([Grid(height, width) for height, width in golden["hw"].tolist()])
    wanted = golden.keys() - INPUTS
    for name, ours, limit in [
        *_forward(model, layout, golden),
        *(_losses_and_gradients(model, layout, golden) if "loss_normal" in golden else ()),
        *_samples(model, layout, golden, meta),
    ]:
        if name in wanted:
            wanted.remove(name)
            yield Comparison(name, relative_error(ours, golden[name]), limit)
    for name in sorted(wanted):
        yield Comparison(name, math.inf, LIMIT)


def _forward(model: NiT, layout: PackLayout, golden: dict[str, Tensor]) -> Iterator[tuple[str, Tensor, float]]:
    with torch.no_grad():
        prediction = model(golden["x"].flatten(1), golden["t"], golden["y"], layout, projection=True)
    yield "velocity", prediction.velocity, LIMIT
    yield "zs", prediction.projection, LIMIT
    tables = rotary_tables(layout, model.config.head_dim, model.config.position_order)
    yield "rope_cos", tables.cos.repeat_interleave(2, dim=1), LIMIT  # both channels of a pair share an angle
    yield "rope_sin", tables.sin.repeat_interleave(2, dim=1), LIMIT


def _losses_and_gradients(
    model: NiT, layout: PackLayout, golden: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor, float]]:
    t = training_times(golden["loss_normal"], layout.extents.prod(dim=1), TimeConfig())
    point = LinearPath().sample(golden["x"].flatten(1), golden["noise"].flatten(1), t[layout.image_index])
    prediction = model(point.x_t, t, golden["y"], layout, projection=True)
    flow = flow_loss(prediction.velocity, point.velocity).mean()
    direction = direction_loss(prediction.velocity, point.velocity, model.config.patch_size**2).mean()
    total = flow + direction
    yield "loss_flow", flow, LIMIT
    yield "loss_flow_plus_direction", total, LIMIT
    if "repa_target" in golden:
        alignment = alignment_loss(prediction.projection, golden["repa_target"]).mean()
        yield "loss_repa", alignment, LIMIT
        total = total + alignment
    model.zero_grad()
    total.backward()
    parameters = dict(model.named_parameters())
    released = [name.removeprefix("grad.") for name in golden if name.startswith("grad.")]
    for name, ours in our_names(released).items():
        gradient = parameters[ours].grad
        yield f"grad.{name}", torch.zeros(()) if gradient is None else gradient, GRADIENT_LIMIT


def _samples(
    model: NiT, layout: PackLayout, golden: dict[str, Tensor], meta: dict[str, Any]
) -> Iterator[tuple[str, Tensor, float]]:
    noise = golden["latents"].flatten(1).double()
    if "ode" in meta:
        times = solver_times(meta["ode"]["num_steps"])
        yield "sample_ode", euler(_velocity(model, layout, golden["y"], meta["ode"]), noise, times), LIMIT
    if "ode_nocfg" in meta:
        times = solver_times(meta["ode_nocfg"]["num_steps"])
        yield "sample_ode_nocfg", euler(_velocity(model, layout, golden["y"], meta["ode_nocfg"]), noise, times), LIMIT
    if "heun" in meta:
        times = solver_times(meta["heun"]["num_steps"])
        yield "sample_heun", heun(_velocity(model, layout, golden["y"], meta["heun"]), noise, times), LIMIT
    if "sde" in meta:
        times = stochastic_times(meta["sde"]["num_steps"], meta["sde"]["last_step"])
        field = _velocity(model, layout, golden["y"], meta["sde"])
        draws = golden["sde_noise"].flatten(2)
        yield "sample_sde", euler_maruyama(field, noise, times, lambda step: draws[step], LinearPath()), LIMIT


def _velocity(model: NiT, layout: PackLayout, labels: Tensor, settings: dict[str, Any]) -> Velocity:
    """The guided velocity of one sampler run: the network in float32 on a state in float64."""
    low, high = settings.get("guidance_interval", (0, 1))
    guidance = GuidanceConfig(scale=settings.get("cfg_scale", 1.0), low=low, high=high)
    null = torch.full_like(labels, model.config.null_label)

    @torch.no_grad()
    def run(x: Tensor, t: float, which: Tensor) -> Tensor:
        return model(x.float(), torch.full((layout.shape.images,), t), which, layout).double()

    return GuidedVelocity(
        conditional=lambda x, t: run(x, t, labels),
        both=lambda x, t: (run(x, t, labels), run(x, t, null)),
        guidance=guidance,
    )


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python tests/parity/compare.py GOLDEN_DIR", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    missing = [name for name in ("weights.safetensors", "meta.json", "io.safetensors") if not (folder / name).is_file()]
    if missing:
        print(f"{folder} lacks {', '.join(missing)}: is it a folder in the golden format?", file=sys.stderr)
        return 2
    comparisons = list(compare(folder))
    for comparison in comparisons:
        print(f"{comparison.name} {comparison.error:.3e} {comparison.limit:.0e}")
    return 0 if comparisons and all(comparison.passes for comparison in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
