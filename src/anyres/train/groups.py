"""The loss by noise level and by size: sums over the images of each group."""

from collections.abc import Mapping

import torch

from ..packing.pack import PackLayout
from ..shapes import Bool, Float, Int, Tensor

TIMES = 5  # groups of t, equal in width
SIZES = (64, 256, 1024, 4096)  # tokens that images of a group have at most; the last has all larger ones

GroupSums = Float[Tensor, "2 groups"]


def group_names() -> list[str]:
    """Of the groups, by their numbers."""
    times = [f"t_{number / TIMES:.1f}_{(number + 1) / TIMES:.1f}" for number in range(TIMES)]
    sizes = [f"tokens_{low + 1}_{high}" for low, high in zip((0, *SIZES[:-1]), SIZES, strict=True)]
    return [*times, *sizes, f"tokens_over_{SIZES[-1]}"]


def groups_of(layout: PackLayout, t: Float[Tensor, "images"]) -> tuple[Int[Tensor, "images"], Int[Tensor, "images"]]:
    """Of each row of a pack, the number of the group of its time, and of its size."""
    tokens = layout.extents.prod(dim=1)
    times = (t * TIMES).long().clamp(0, TIMES - 1)
    # by numbers of the host: a recorded step can take nothing from its memory
    return times, TIMES + torch.stack([tokens > most for most in SIZES]).sum(dim=0)


def group_sums(
    losses: Float[Tensor, "tokens"], real: Bool[Tensor, "tokens"], layout: PackLayout, t: Float[Tensor, "images"]
) -> GroupSums:
    """Losses of a pack's tokens summed by group, and below them each group's tokens.

    Nothing is read back from the device, and a CUDA graph can record it: of the layout it sees the tensors alone.

    Args:
        losses: zero in padding.
        real: False in padding.
        layout: of the pack.
        t: time of each row.
    """
    rows = layout.shape.images
    of_tokens = torch.stack([losses, real.to(losses.dtype)])
    # by image first: one long sum would lose digits
    of_images = of_tokens.new_zeros(2, rows).index_add_(1, layout.image_index, of_tokens)
    sums = of_tokens.new_zeros(2, len(group_names()))
    for group in groups_of(layout, t):
        sums.index_add_(1, group, of_images)
    return sums


def group_means(sums: GroupSums) -> Mapping[str, float]:
    """The mean loss of each group's tokens, by the group's name; groups without a token are left out."""
    return {name: loss / tokens for name, loss, tokens in zip(group_names(), *sums.tolist(), strict=True) if tokens > 0}
