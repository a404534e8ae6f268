"""The three losses, each a value a token; the caller sums over real tokens and divides by their number.

That the mean is taken last, over all tokens of a step, is what makes a step independent of how its packs are dealt
to devices.
"""

import torch
import torch.nn.functional as F

from ..shapes import Float, Num, Tensor


def flow_loss(
    predicted: Float[Tensor, "tokens values"], velocity: Float[Tensor, "tokens values"]
) -> Float[Tensor, "tokens"]:
    """Mean over a token's values of (v̂ − v)²: flow matching (arXiv 2210.02747), in float32 or better."""
    difference = _exact(predicted) - _exact(velocity)
    return difference.square().mean(dim=1)


def direction_loss(
    predicted: Float[Tensor, "tokens values"], velocity: Float[Tensor, "tokens values"], cells: int
) -> Float[Tensor, "tokens"]:
    """1 − cos(v̂, v) over the channels of each cell, then the mean over a token's cells.

    Args:
        predicted: v̂, (channels, patch, patch) flattened.
        velocity: v, likewise.
        cells: cells of a token, patch².
    """
    # (channels, cells) → the cosine over channels
    pair = [_exact(tensor).unflatten(1, (-1, cells)) for tensor in (predicted, velocity)]
    return 1 - F.cosine_similarity(*pair, dim=1).mean(dim=1)


def alignment_loss(
    projection: Float[Tensor, "tokens features"], teacher: Num[Tensor, "tokens features"]
) -> Float[Tensor, "tokens"]:
    """1 − cos(projected, teacher's features) of each token: REPA (arXiv 2410.06940). Features may be of 8 bits."""
    return 1 - F.cosine_similarity(_exact(projection), _exact(teacher), dim=1)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
