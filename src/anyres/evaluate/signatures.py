"""Checks for the known failures of generators of any size, each measured in made images beside real ones.

The margins say how far made images must lie from real ones, interval and all, before a failure is called seen. They
were set between random halves of real images, which stay below, and made failures, which lie above (docs/LOG.md).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from .. import noise
from ..errors import ConfigError
from ..grid import Grid, Size
from ..model.nit import NiT
from ..packing.pack import PackLayout
from .estimates import BOOTSTRAPS, Estimate, Interval, made_draws, mean, real_draws
from .features import FeatureNetwork
from .patterns import BANDS, border_contact, duplication, enlarged_for_maps, spectrum, tiling

LEAST = 10  # pictures of a set
POSITIONS = 10  # of a feature map, that the side of training has at least
BEYOND = 1.5  # sides of training from which on an object can be there twice
MARGINS = {"border contact": 0.15, "duplication": 0.03, "tiling": 0.03, "spectrum": 0.1}
BLED = 1e-6  # of a gradient: more than rounding, which is 0 where images are apart

Verdict = Literal["seen", "not seen", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check for one failure.

    Attributes:
        name: of the failure.
        what: what is measured, in which unit.
        made: the mean over made images.
        data: the mean over real ones.
        difference: made less real.
        verdict: whether the failure is seen.
        note: which images were measured, or why none were.
    """

    name: str
    what: str
    made: Interval | None
    data: Interval | None
    difference: Interval | None
    verdict: Verdict
    note: str = ""


def check_pictures(
    made: Sequence[np.ndarray],
    data: Sequence[np.ndarray] | None,
    network: FeatureNetwork | None,
    trained: Size | None,
    *,
    seed: int = 0,
) -> tuple[Check, ...]:
    """Cropping bias, duplicated objects, tiling and a wrong spectrum.

    Args:
        made: pictures (height, width, 3) uint8, of any sizes.
        data: real ones, of like sizes and labels; None where they are not at hand.
        network: makes feature maps, for duplicated objects.
        trained: px of the square of training.
        seed: of the intervals' draws.
    """
    return (
        _compared(
            "border contact",
            "sides of a picture that content touches, 0 to 4: cropped objects touch more than the data's",
            *(_values(part, lambda pixels: float(border_contact(pixels).sum())) for part in (made, data)),
            seed=seed,
        ),
        _duplication(made, data, network, trained, seed),
        _compared(
            "tiling",
            "highest peak of a picture's autocorrelation, 0 to 1: positions that come round again repeat the picture",
            *(_values(part, tiling) for part in (made, data)),
            seed=seed,
        ),
        _spectrum(made, data, seed),
    )


def check_bleeding(model: NiT, grids: Sequence[Grid], labels: Sequence[int]) -> Check:
    """Whether images of a pack see each other; has a right answer, so that no data is needed."""
    found = bleeding(model, grids, labels)
    return Check(
        name="attention bleeding",
        what="greatest gradient of an image's velocity by another's tokens, over that by its own",
        made=Interval(value=found, low=found, high=found),
        data=None,
        difference=None,
        verdict="seen" if found > BLED else "not seen",
        note=f"a pack of {', '.join(map(str, grids))} tokens, by {model.attention} attention",
    )


def bleeding(
    model: NiT, grids: Sequence[Grid], labels: Sequence[int], *, layout: PackLayout | None = None, t: float = 0.5
) -> float:
    """The greatest share of an image's velocity that other images of its pack have in it.

    By the model's own attention: the gradient of a random projection of one image's velocity by all tokens, outside the
    image over inside.

    Args:
        model: the network.
        grids: of the images, at least two.
        labels: their class numbers.
        layout: how they are packed, where not as `PackLayout.from_grids` does.
        t: their time.

    Raises:
        ConfigError: a velocity that does not depend on its own tokens, as an untrained network's, or one image alone.
    """
    if len(grids) < 2:
        raise ConfigError(f"got {len(grids)} images in a pack", wanted="two or more", fix="pack several")
    packed = (layout or PackLayout.from_grids(grids)).to(model.device)
    dtype, values = model.compute_dtype, model.config.token_values
    tokens = noise.normal((packed.tokens, values), "bleeding").to(model.device, dtype).requires_grad_()
    times = torch.full((len(labels),), t, device=model.device)
    velocity = model(tokens, times, torch.tensor(list(labels), device=model.device), packed)
    projection = noise.normal((packed.tokens, values), "projection").to(model.device, dtype)
    ends = np.cumsum([grid.tokens for grid in grids]).tolist()
    worst = 0.0
    for start, end in zip([0, *ends], ends, strict=False):
        (gradient,) = torch.autograd.grad(
            (velocity[start:end] * projection[start:end]).sum(), tokens, retain_graph=end < ends[-1]
        )
        inside = float(gradient[start:end].float().norm())
        outside = math.hypot(float(gradient[:start].float().norm()), float(gradient[end:].float().norm()))
        if inside == 0:
            raise ConfigError(
                "the velocity does not depend on its own tokens",
                wanted="a trained network: a new one's output is zero",
                fix="train it first",
            )
        worst = max(worst, outside / inside)
    return worst


def _values(pictures: Sequence[np.ndarray] | None, measure: Callable[[np.ndarray], float]) -> np.ndarray | None:
    return None if pictures is None else np.array([measure(pixels) for pixels in pictures])


def _compared(
    name: str,
    what: str,
    made: np.ndarray | None,
    data: np.ndarray | None,
    *,
    seed: int,
    note: str = "",
    either: bool = False,
) -> Check:
    """A check from a number each picture; failures lie above the data, or on either side."""
    ours, theirs = (
        None if values is None or len(values) < LEAST else mean(values, draws(len(values)))
        for values, draws in (
            (made, lambda count: made_draws(count, BOOTSTRAPS, seed, 0)),
            (data, lambda count: real_draws(count, BOOTSTRAPS, seed)),
        )
    )
    difference = None if ours is None or theirs is None else ours - theirs
    if difference is None:
        verdict: Verdict = "not measured"
        missing = "made" if ours is None else "real"
        note = f"fewer than {LEAST} {missing} pictures" + (f" {note}" if note else "")
    else:
        verdict = "seen" if _beyond(difference, MARGINS[name], either=either) else "not seen"
    return Check(
        name=name,
        what=what,
        made=ours and ours.interval,
        data=theirs and theirs.interval,
        difference=difference and difference.interval,
        verdict=verdict,
        note=note,
    )


def _beyond(difference: Estimate, margin: float, *, either: bool) -> bool:
    interval = difference.interval
    return interval.low > margin or (either and interval.high < -margin)


def _duplication(
    made: Sequence[np.ndarray],
    data: Sequence[np.ndarray] | None,
    network: FeatureNetwork | None,
    trained: Size | None,
    seed: int,
) -> Check:
    what = "likeness of features at the shift of the side of training over shifts nearby: objects that are there twice"
    if network is None or trained is None:
        note = "the side of training is not known: --trained-side"
        return Check(
            name="duplication", what=what, made=None, data=None, difference=None, verdict="not measured", note=note
        )
    side = max(trained.height, trained.width)

    def measure(pixels: np.ndarray) -> float:
        image, shift = enlarged_for_maps(pixels, side, network.map_px, POSITIONS)
        return duplication(network.maps(image)[0].float(), shift)

    def large(pictures: Sequence[np.ndarray] | None) -> list[np.ndarray] | None:
        if pictures is None:
            return None
        return [p for p in pictures if max(p.shape[:2]) >= BEYOND * side and min(p.shape[:2]) >= side / 2]

    values = [_values(large(part), measure) for part in (made, data)]
    note = f"of at least {BEYOND:g} times {side} px"
    if values[0] is not None:
        note = f"{note}: {len(values[0])} made" if len(values[0]) >= LEAST else note
    return _compared("duplication", what, *values, seed=seed, note=note)


def _spectrum(made: Sequence[np.ndarray], data: Sequence[np.ndarray] | None, seed: int) -> Check:
    """The octave in which made pictures differ most from real ones."""
    what = "log₁₀ of the luminance's power in the octave that differs most: noise, blur, or a grid of tokens"
    ours = np.array([spectrum(pixels) for pixels in made]).reshape(len(made), -1)
    theirs = None if data is None else np.array([spectrum(pixels) for pixels in data]).reshape(len(data), -1)
    if theirs is None or min(len(ours), len(theirs)) < LEAST:
        return _compared("spectrum", what, None if theirs is not None else ours[:, :1].ravel(), None, seed=seed)
    # an octave that small pictures lack is compared among those that have it
    parts = [(a[~np.isnan(a)], b[~np.isnan(b)]) for a, b in zip(ours.T, theirs.T, strict=True)]
    usable = [i for i, (a, b) in enumerate(parts) if min(len(a), len(b)) >= LEAST]
    worst = max(usable, key=lambda i: abs(parts[i][0].mean() - parts[i][1].mean()))
    note = f"1/{round(1 / BANDS[worst])} to 1/{round(1 / BANDS[worst + 1])} cycles per px"
    return _compared("spectrum", what, *parts[worst], seed=seed, note=note, either=True)
