"""The velocity that a solver sees: a network over the images of one pack, with guidance."""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..errors import ConfigError
from ..flow.guidance import GuidedVelocity
from ..model.nit import NiT
from ..model.rope import RotaryScaling
from ..packing.pack import PackLayout, PackShape
from ..shapes import Float, Tensor
from .recording import Recordings
from .request import ImageRequest, SamplingSettings


def guided_velocity(
    model: NiT,
    pack: Sequence[ImageRequest],
    settings: SamplingSettings,
    *,
    trained_side: int,
    shape: PackShape | None = None,
    weaker: NiT | None = None,
    recordings: Recordings | None = None,
) -> GuidedVelocity:
    """The velocity of a pack's images; what depends on the layout alone is computed once, not at each step.

    Outside the guidance interval only the conditional branch runs. Inside it both run as one pack, of every image
    twice, the second time with the null label; or as two, the second through the weaker network.

    Args:
        model: the network.
        pack: the images.
        settings: guidance and extrapolation.
        trained_side: the longest side in tokens that training has seen.
        shape: pad the pack to it; the pack of both branches has twice its tokens and images.
        weaker: autoguidance (arXiv 2406.02507): a network in the null branch's place.
        recordings: of the networks' passes, used and added to; without them every pass is launched kernel by kernel.

    Raises:
        ConfigError: the images do not fit the shape, or the weaker network does not fit the other.
    """
    if weaker is not None:
        _check_weaker(weaker, model)
    # the modes divide by ln(trained_side)
    scaling = RotaryScaling(
        mode=settings.extrapolation, trained_side=max(2, trained_side), decoupled=settings.decoupled
    )
    labels = [request.label for request in pack]
    recordings = recordings or Recordings()
    conditional = Branch(model, pack, labels, shape, scaling, recordings)

    # made when guidance first acts, which it may never do
    @functools.cache
    def other() -> Branch:
        if weaker is not None:
            return Branch(weaker, pack, labels, shape, scaling, recordings)
        doubled = shape and PackShape(2 * shape.tokens, 2 * shape.images, shape.max_seqlen)
        null = [model.config.null_label] * len(labels)
        return Branch(model, [*pack, *pack], labels + null, doubled, scaling, recordings)

    def both(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        if weaker is not None:
            return conditional(x, t), other()(x, t)
        strong, weak = other()(torch.cat([x, x]), t).chunk(2)
        return strong, weak

    return GuidedVelocity(conditional=conditional, both=both, guidance=settings.guidance_config())


class Branch:
    """A network over one layout: (real tokens, t) → velocity of the real tokens, in the state's dtype.

    Args:
        model: the network.
        pack: the images; only their grids matter here.
        labels: their class numbers.
        shape: pad to it, or None.
        scaling: rotary extrapolation.
        recordings: of the network's passes.
    """

    def __init__(
        self,
        model: NiT,
        pack: Sequence[ImageRequest],
        labels: Sequence[int],
        shape: PackShape | None,
        scaling: RotaryScaling,
        recordings: Recordings,
    ) -> None:
        self._layout = layout = PackLayout.from_grids([request.grid for request in pack], shape).to(model.device)
        self._model, self._scaling, self._recordings = model, scaling, recordings
        self._padding = layout.shape.tokens - layout.tokens
        self._context = functools.cache(lambda: model.prepare(layout, scaling))
        rows = [*labels, *[0] * (layout.shape.images - len(labels))]
        self._labels = torch.tensor(rows, device=model.device)

    def __call__(self, x: Float[Tensor, "tokens values"], t: float) -> Float[Tensor, "tokens values"]:
        """The velocity; the network runs in its own dtype, on the state as it is."""
        tokens = F.pad(x.to(self._model.compute_dtype), (0, 0, 0, self._padding))
        recording = self._recordings.find(self._model, self._layout, self._labels, self._scaling)
        if recording is not None:
            velocity = recording(tokens, t, self._layout, self._labels)
        else:
            times = torch.full((len(self._labels),), t, device=x.device, dtype=torch.float32)
            velocity = self._model(tokens, times, self._labels, self._context())
        return velocity[: self._layout.tokens].to(x.dtype, copy=True)


def _check_weaker(weaker: NiT, model: NiT) -> None:
    def kind(network: NiT) -> tuple[int, int, int, torch.device]:
        config = network.config
        return config.channels, config.patch_size, config.num_classes, network.device

    if kind(weaker) != kind(model):
        theirs, ours = (
            "{} channels, patch size {}, {} classes, on {}".format(*kind(network)) for network in (weaker, model)
        )
        raise ConfigError(
            f"the weaker network has {theirs}; the model has {ours}",
            wanted="a weaker network of the same latents and labels, on the same device",
            fix="use an earlier or smaller model that was trained on the same dataset",
        )
