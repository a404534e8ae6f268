"""The attention backend `triton` against the naive one in float64; `tests/gpu/test_backends.py` runs it on a GPU.

Without a GPU the kernels run in Triton's interpreter.
"""

import pytest
import torch
from torch import Tensor

from anyres.grid import Grid
from anyres.model.attention import Tiled, attend, plan_attention
from anyres.packing.pack import PackLayout, PackShape

pytest.importorskip("triton")

from anyres.model.kernels.attention import TILE, tiles

GRIDS = [Grid(3, 5), Grid(9, 15), Grid(1, 1), Grid(8, 8)]  # also longer than a tile, exactly one, and with a rest
assert max(grid.tokens for grid in GRIDS) > TILE


def layouts() -> list[PackLayout]:
    exact = PackLayout.from_grids(GRIDS)
    return [exact, exact.padded(PackShape(exact.tokens + 90, len(GRIDS) + 4, exact.shape.max_seqlen))]


def tiled(layout: PackLayout) -> Tiled:
    """The plan, which `plan_attention` makes on a GPU only."""
    return Tiled(tiles(layout.cu_seqlens, layout.shape.tokens))


@pytest.mark.float64
@pytest.mark.parametrize(("heads", "dim"), [(2, 4), (1, 20), (1, 64), (2, 72)])
@pytest.mark.parametrize("layout", layouts(), ids=["exact", "padded"])
def test_forward_and_backward_equal_float64(heads: int, dim: int, layout: PackLayout) -> None:
    inputs = torch.randn(3, layout.shape.tokens, heads, dim, requires_grad=True)
    exact_inputs = inputs.detach().double().requires_grad_()
    weights = torch.randn(layout.shape.tokens, heads, dim)
    out = attend(*inputs.unbind(), tiled(layout))
    exact = attend(*exact_inputs.unbind(), plan_attention(layout, "reference", torch.float64))
    assert relative(out, exact) < 2e-6
    (out * weights).sum().backward()
    (exact * weights).sum().backward()
    assert relative(inputs.grad, exact_inputs.grad) < 2e-6


def test_values_may_lie_in_the_product_they_come_from() -> None:
    layout = layouts()[1]
    q, k, _ = torch.randn(3, layout.shape.tokens, 2, 20).unbind()
    product = torch.randn(layout.shape.tokens, 3, 2, 20)
    assert torch.equal(
        attend(q, k, product[:, 2], tiled(layout)), attend(q, k, product[:, 2].contiguous(), tiled(layout))
    )


def test_an_image_is_the_same_alone_and_among_others() -> None:
    layout = layouts()[1]
    q, k, v = torch.randn(3, layout.shape.tokens, 2, 20).unbind()
    packed = layout.split(attend(q, k, v, tiled(layout)))
    for grid, *own, together in zip(GRIDS, *(layout.split(part) for part in (q, k, v)), packed, strict=True):
        assert torch.equal(attend(*own, tiled(PackLayout.from_grids([grid]))), together)


def relative(ours: Tensor | None, exact: Tensor | None) -> float:
    assert ours is not None
    assert exact is not None
    return float((ours.double() - exact).norm() / exact.norm())
