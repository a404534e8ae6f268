"""Attention without gradients on a GPU: the checks of `tests/model/test_forward_attention.py` at real widths."""

import pytest
import torch

from anyres.grid import Grid
from anyres.packing.pack import PackLayout
from tests.model.test_forward_attention import check, check_alone, layouts

pytestmark = pytest.mark.gpu

LARGE = PackLayout.from_grids([Grid(32, 32), Grid(16, 64)])


@pytest.mark.parametrize(("heads", "dim"), [(16, 72), (24, 64), (2, 20)])
@pytest.mark.parametrize("name", [*layouts(), "large"])
def test_equals_float64_in_bfloat16(name: str, heads: int, dim: int) -> None:
    layout = LARGE if name == "large" else layouts()[name]
    check(layout, heads, dim, normed=dim != 20, device="cuda", dtype=torch.bfloat16, tolerance=1.5e-2)


@pytest.mark.parametrize("name", ["short, all full", "long, padded"])
def test_equals_float64_in_float16(name: str) -> None:
    check(layouts()[name], 16, 72, normed=True, device="cuda", dtype=torch.float16, tolerance=3e-3)


@pytest.mark.parametrize("name", ["short, padded", "long, padded"])
def test_an_image_is_the_same_alone_and_among_others(name: str) -> None:
    check_alone(layouts()[name], "cuda", torch.bfloat16, heads=16, dim=72)
