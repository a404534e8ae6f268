"""Attention straight from the product, against norm, rotation and dense attention in float64.

Without a GPU the kernels run in Triton's interpreter; `tests/gpu/test_fused.py` runs them on a real one.
"""

import pytest
import torch
from torch import nn

from anyres.grid import Grid
from anyres.model.attention import Tiled, attend, plan_attention
from anyres.model.config import NiTConfig
from anyres.model.elementwise import QkvProjection, elementwise_for
from anyres.model.layers import SelfAttention
from anyres.model.rope import RotaryTables, rotary_tables, rotate
from anyres.packing.pack import PackLayout, PackShape

pytest.importorskip("triton")

from anyres.model.kernels import forward_attention
from anyres.model.kernels.attention import tiles
from anyres.model.kernels.forward_attention import SHORT, STEP, forward, plan
from anyres.model.kernels.rotation import Norms

EPS = 1e-5
SMALL = [Grid(3, 5), Grid(1, 1), Grid(8, 8), Grid(2, 7)]
MIXED = [Grid(3, 5), Grid(9, 15), Grid(1, 1), Grid(16, 8), Grid(8, 8)]  # one longer than a tile, one that is two steps


def layouts() -> dict[str, PackLayout]:
    small, mixed = PackLayout.from_grids(SMALL), PackLayout.from_grids(MIXED)
    return {
        "short": small,
        "short, padded": small.padded(PackShape(small.tokens + 70, len(SMALL) + 3, SHORT)),
        "short, all full": PackLayout.from_grids([Grid(8, 8), Grid(4, 16)]),
        "long": mixed,
        "long, padded": mixed.padded(PackShape(mixed.tokens + 200, len(MIXED) + 3, 150)),
        "long, all full": PackLayout.from_grids([Grid(8, 24), Grid(12, 16)]),
    }


def made(tokens: int, heads: int, dim: int, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, Norms]:
    product = torch.randn(tokens, 3 * heads * dim, device=device, dtype=dtype)
    return product, Norms(*torch.randn(4, dim, device=device, dtype=dtype).unbind())


def check(
    layout: PackLayout, heads: int, dim: int, *, normed: bool, device: str, dtype: torch.dtype, tolerance: float
) -> None:
    """The kernels in `dtype`, against the plain functions in float64 on the same inputs."""
    layout = layout.to(device)
    rotary = rotary_tables(layout, dim, "row_major")
    product, norms = made(layout.shape.tokens, heads, dim, device, dtype)
    cut = plan(layout.cu_seqlens, layout.shape)
    out = forward(product, norms if normed else None, rotary.cos, rotary.sin, heads, EPS, cut)
    q, k, v = product.double().unflatten(1, (3, heads, dim)).unbind(1)
    if normed:
        weights = [weight.double() for weight in norms]
        q = nn.functional.layer_norm(q, (dim,), weights[0], weights[1], EPS)
        k = nn.functional.layer_norm(k, (dim,), weights[2], weights[3], EPS)
    tables = RotaryTables(rotary.cos.double(), rotary.sin.double())
    exact = attend(rotate(q, tables), rotate(k, tables), v, plan_attention(layout, "reference", torch.float64))
    assert float((out.double() - exact).norm() / exact.norm()) < tolerance


@pytest.mark.float64
@pytest.mark.parametrize(("heads", "dim"), [(2, 4), (1, 20), (1, 64), (2, 72)])
@pytest.mark.parametrize("name", layouts())
def test_equals_float64(name: str, heads: int, dim: int) -> None:
    normed = dim != 20
    check(layouts()[name], heads, dim, normed=normed, device="cpu", dtype=torch.float32, tolerance=2e-6)


def test_norms_may_be_of_another_precision() -> None:
    """As under autocast."""
    layout, (product, norms) = layouts()["short"], made(94, 2, 20, "cpu", torch.float16)
    tables, cut = rotary_tables(layout, 20, "row_major"), plan(layout.cu_seqlens, layout.shape)
    wanted, found = (
        forward(product, each, tables.cos, tables.sin, 2, EPS, cut)
        for each in (norms, Norms(*(weight.float() for weight in norms)))
    )
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("qk_norm", [True, False])
def test_a_block_attends_so_where_nothing_is_kept_for_a_backward(
    qk_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(forward_attention, "forward", lambda *given: (calls.append(None), forward(*given))[1])
    config = NiTConfig(channels=4, hidden_size=40, depth=1, num_heads=2, num_classes=3, qk_norm=qk_norm)
    layout, block = layouts()["long, padded"], SelfAttention(config)
    x, rotary = torch.randn(layout.shape.tokens, 40), rotary_tables(layout, 20, "row_major")
    cut = Tiled(tiles(layout.cu_seqlens, layout.shape.tokens), plan(layout.cu_seqlens, layout.shape))
    projection = QkvProjection(block.qkv, block.q_norm, block.k_norm, rotary)
    plain, fused = (elementwise_for(layout, kernels) for kernels in ("eager", "triton"))
    wanted = plain.attended(x, projection, plan_attention(layout, "sdpa", x.dtype)).detach()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            error = float((fused.attended(x, projection, cut).detach() - wanted).norm() / wanted.norm())
        assert error < 2e-6
        assert len(calls) == (0 if grad else 1)


def test_masks_are_left_out_where_the_shape_says_that_all_images_are_full() -> None:
    shapes = {name: plan(layout.cu_seqlens, layout.shape) for name, layout in layouts().items()}
    assert [name for name, cut in shapes.items() if cut.whole] == ["short", "short, padded", "short, all full"]
    assert [name for name, cut in shapes.items() if cut.even] == ["short, all full", "long, all full"]
    full = PackLayout.from_grids([Grid(1, STEP + 1)] * 2)
    assert not plan(full.cu_seqlens, full.shape).even


@pytest.mark.parametrize("name", ["short, padded", "long, padded"])
def test_an_image_is_the_same_alone_and_among_others(name: str) -> None:
    check_alone(layouts()[name], "cpu", torch.float32)


def check_alone(layout: PackLayout, device: str, dtype: torch.dtype, heads: int = 2, dim: int = 20) -> None:
    """Bit for bit, at an equal shape."""
    layout = layout.to(device)
    rotary = rotary_tables(layout, dim, "row_major")
    product, norms = made(layout.shape.tokens, heads, dim, device, dtype)
    together = layout.split(
        forward(product, norms, rotary.cos, rotary.sin, heads, EPS, plan(layout.cu_seqlens, layout.shape))
    )
    for grid, own, packed in zip(layout.grids, layout.split(product), together, strict=True):
        alone = PackLayout.from_grids([grid], layout.shape).to(device)
        tables = rotary_tables(alone, dim, "row_major")
        padded = nn.functional.pad(own, (0, 0, 0, alone.shape.tokens - alone.tokens))
        out = forward(padded, norms, tables.cos, tables.sin, heads, EPS, plan(alone.cu_seqlens, alone.shape))
        assert torch.equal(out[: alone.tokens], packed)
