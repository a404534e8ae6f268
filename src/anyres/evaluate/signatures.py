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
from ..errors import CheckpointError, ConfigError
from ..grid import Grid, Size
from ..model.nit import NiT
from ..networks.features import FeatureNetwork
from ..packing.pack import PackLayout
from .estimates import BOOTSTRAPS, Estimate, Interval, made_draws, mean, real_draws
from .patterns import BANDS, border_contact, duplication, enlarged_for_maps, spectrum, tiling

LEAST = 10  # pictures of a set
POSITIONS = 10  # of a feature map, that the side of training has at least
BEYOND = 1.5  # sides of training from which on an object can be there twice
# random halves of real images pass these in at most one of 20 splits, down to sets of `LEAST`
MARGINS = {"border contact": 0.15, "duplication": 0.03, "tiling": 0.03, "spectrum": 0.06}
PERIODS = 2  # of an octave's longest wave in the shorter side, that the octave is compared from
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
    """Whether images of a pack see each other; has a right answer, so that no data is needed.

    Raises:
        CheckpointError: weights that are not finite.
    """
    try:
        found, note = bleeding(model, grids, labels), ""
    except ConfigError as error:  # nothing to see in an untrained network, which may be evaluated all the same
        found, note = None, f"{error.got}: "
    return Check(
        name="attention bleeding",
        what="greatest gradient of an image's velocity by another's tokens, over that by its own",
        made=None if found is None else Interval(value=found, low=found, high=found),
        data=None,
        difference=None,
        verdict="not measured" if found is None else "seen" if found > BLED else "not seen",
        note=f"{note}a pack of {', '.join(map(str, grids))} tokens, by {model.attention} attention",
    )


def bleeding(
    model: NiT,
    grids: Sequence[Grid],
    labels: Sequence[int],
    *,
    layout: PackLayout | None = None,
    t: float = 0.5,
    seed: int = 0,
) -> float:
    """The greatest share of an image's velocity that other images of its pack have in it.

    By the model's own attention: the gradient of a random projection of one image's velocity by all tokens, outside the
    image over inside. Exactly 0 where images are apart.

    Args:
        model: the network.
        grids: of the images, at least two.
        labels: their class numbers.
        layout: how they are packed, where not as `PackLayout.from_grids` does.
        t: their time.
        seed: of the tokens and the projection.

    Raises:
        ConfigError: a velocity that does not depend on its own tokens, as an untrained network's, or one image alone.
        CheckpointError: a gradient that is not finite, which says nothing of who sees whom.
    """
    if len(grids) < 2:
        raise ConfigError(f"got {len(grids)} images in a pack", wanted="two or more", fix="pack several")
    packed = (layout or PackLayout.from_grids(grids)).to(model.device)
    dtype, values = model.compute_dtype, model.config.token_values
    tokens = noise.normal((packed.tokens, values), seed, "bleeding").to(model.device, dtype).requires_grad_()
    projection = noise.normal((packed.tokens, values), seed, "projection").to(model.device, dtype)
    times = torch.full((len(labels),), t, device=model.device)
    with torch.enable_grad():  # whatever the caller's mode
        velocity = model(tokens, times, torch.tensor(list(labels), device=model.device), packed)
        projected = (velocity * projection).sum(dim=1)
    ends = np.cumsum([grid.tokens for grid in grids]).tolist()
    worst = 0.0
    for start, end in zip([0, *ends], ends, strict=False):
        chosen = torch.zeros_like(projected)
        chosen[start:end] = 1
        (gradient,) = torch.autograd.grad(projected, tokens, chosen, retain_graph=end < ends[-1])
        inside = float(gradient[start:end].float().norm())
        outside = math.hypot(float(gradient[:start].float().norm()), float(gradient[end:].float().norm()))
        if not math.isfinite(inside + outside):  # a maximum would pass over it
            raise CheckpointError(
                "the velocity's gradient is not finite",
                wanted="finite weights",
                fix="use a checkpoint from before training diverged",
            )
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
    name: str, what: str, made: np.ndarray | None, data: np.ndarray | None, *, seed: int, note: str = ""
) -> Check:
    """A check from a number each picture; failures lie above the data."""
    ours, theirs = _means(made, data, seed)
    difference = None if ours is None or theirs is None else (ours - theirs).interval
    if difference is None:
        return _unmeasured(name, what, _lacking(made, data), note, made=ours, data=theirs)
    return Check(
        name=name,
        what=what,
        made=ours and ours.interval,
        data=theirs and theirs.interval,
        difference=difference,
        verdict="seen" if difference.low > MARGINS[name] else "not seen",
        note=note,
    )


def _means(made: np.ndarray | None, data: np.ndarray | None, seed: int) -> tuple[Estimate | None, Estimate | None]:
    """The mean over each set, or None for one of too few pictures."""
    return (
        None if made is None or len(made) < LEAST else mean(made, made_draws(len(made), BOOTSTRAPS, seed, 0)),
        None if data is None or len(data) < LEAST else mean(data, real_draws(len(data), BOOTSTRAPS, seed)),
    )


def _lacking(made: Sequence | np.ndarray | None, data: Sequence | np.ndarray | None) -> str:
    """Which set is too small, if one is."""
    few = [name for name, part in (("made", made), ("real", data)) if part is None or len(part) < LEAST]
    return f"fewer than {LEAST} {' and '.join(few)} pictures" if few else ""


def _unmeasured(
    name: str, what: str, why: str, note: str = "", *, made: Estimate | None = None, data: Estimate | None = None
) -> Check:
    return Check(
        name=name,
        what=what,
        made=made and made.interval,
        data=data and data.interval,
        difference=None,
        verdict="not measured",
        note=f"{why}; {note}" if note else why,
    )


def _duplication(
    made: Sequence[np.ndarray],
    data: Sequence[np.ndarray] | None,
    network: FeatureNetwork | None,
    trained: Size | None,
    seed: int,
) -> Check:
    what = "likeness of features at the shift of the side of training over shifts nearby: objects that are there twice"
    if network is None:
        return _unmeasured("duplication", what, "no feature network was given")
    if trained is None:
        return _unmeasured("duplication", what, "the side of training is not known: --trained-side")
    side = max(trained.height, trained.width)

    def measure(pixels: np.ndarray) -> float:
        image, shift = enlarged_for_maps(pixels, side, network.map_px, POSITIONS)
        return duplication(network.maps(image)[0].float(), shift)

    def large(pictures: Sequence[np.ndarray] | None) -> list[np.ndarray] | None:
        if pictures is None:
            return None
        return [p for p in pictures if max(p.shape[:2]) >= BEYOND * side and min(p.shape[:2]) >= side / 2]

    ours, theirs = large(made), large(data)
    note = (
        f"pictures of at least {BEYOND * side:g} by {side / 2:g} px, for training at {side} px: {len(ours or ())} made"
    )
    return _compared("duplication", what, _values(ours, measure), _values(theirs, measure), seed=seed, note=note)


def _spectrum(made: Sequence[np.ndarray], data: Sequence[np.ndarray] | None, seed: int) -> Check:
    """The step from an octave to the next in which made pictures differ most surely from real ones.

    Steps, since a picture's contrast moves all octaves alike, and would hide a failure that moves one. The difference's
    interval holds for all steps at once (Bonferroni): the worst of several is off by chance more often than one is.
    """
    what = "log₁₀ of the luminance's power in an octave over the one below, where it differs most: noise, or blur"
    if data is None or min(len(made), len(data)) < LEAST:
        return _unmeasured("spectrum", what, _lacking(made, data))
    steps = [np.diff([_octaves(pixels) for pixels in part], axis=1).T for part in (made, data)]
    estimates: dict[int, tuple[Estimate, Estimate]] = {}
    for step, (a, b) in enumerate(zip(*steps, strict=True)):
        # a step that small pictures lack is compared among those that have it
        ours, theirs = _means(a[~np.isnan(a)], b[~np.isnan(b)], seed)
        if ours is not None and theirs is not None:
            estimates[step] = (ours, theirs)
    if not estimates:
        return _unmeasured("spectrum", what, f"fewer than {LEAST} pictures of a set are large enough")
    tail = 0.025 / len(estimates)

    def differs(step: int) -> Interval:
        difference = estimates[step][0] - estimates[step][1]
        low, high = np.quantile(difference.replicates, [tail, 1 - tail])
        return Interval(value=difference.value, low=float(low), high=float(high))

    found = {step: differs(step) for step in estimates}
    worst = max(found, key=lambda step: max(found[step].low, -found[step].high))
    ours, theirs = estimates[worst]
    return Check(
        name="spectrum",
        what=what,
        made=ours.interval,
        data=theirs.interval,
        difference=found[worst],
        verdict="seen" if max(found[worst].low, -found[worst].high) > MARGINS["spectrum"] else "not seen",
        note=f"1/{round(1 / BANDS[worst + 1])} to 1/{round(1 / BANDS[worst + 2])} cycles per px over the octave below",
    )


def _octaves(pixels: np.ndarray) -> np.ndarray:
    """The spectrum without octaves whose waves are too long for the picture: their power hangs on its shape."""
    return np.where(np.array(BANDS[:-1]) >= PERIODS / min(pixels.shape[:2]), spectrum(pixels), np.nan)
