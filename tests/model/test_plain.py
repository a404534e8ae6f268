"""What runs on a CPU in fewer passes is what torch's own functions say, forward and backward."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anyres.grid import Grid
from anyres.model import attention
from anyres.model.attention import LengthGroups, attend, plan_attention
from anyres.model.plain import ScaledSum, SigmoidGelu
from anyres.model.rope import RotaryTables, rotary_tables, rotate
from anyres.packing.pack import PackLayout, PackShape

INDEX = torch.tensor([0, 0, 0, 2, 2, 1, 1, 1, 1])


def same(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor, tolerance: float = 1e-5) -> None:
    """Outputs and gradients."""
    results = []
    upstream = None
    for function in (ours, theirs):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        out = function(*leaves)
        upstream = torch.randn_like(out) if upstream is None else upstream
        results.append([out, *torch.autograd.grad(out, leaves, upstream)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_gelu() -> None:
    u = torch.cat([torch.linspace(-12, 12, 5001), torch.tensor([-1e4, 1e4, 0.0])])
    same(SigmoidGelu.apply, lambda u: F.gelu(u, approximate="tanh"), u)


@pytest.mark.float64
def test_gelu_to_the_last_digits() -> None:
    u = torch.linspace(-12, 12, 5001, dtype=torch.float64)
    same(SigmoidGelu.apply, lambda u: F.gelu(u, approximate="tanh"), u, tolerance=1e-13)


def test_gelu_is_finite_where_torchs_is() -> None:
    u = torch.tensor([3e38, -3e38], requires_grad=True)
    out = SigmoidGelu.apply(u)
    assert out.tolist() == [pytest.approx(3e38), 0.0]


def test_scaled_sum() -> None:
    x, scale, f = torch.randn(9, 4), torch.randn(3, 4), torch.randn(9, 4)
    same(lambda x, s, f: ScaledSum.apply(x, s, f, INDEX), lambda x, s, f: x + s[INDEX] * f, x, scale, f)


def test_scaled_sum_of_two_dtypes_adds_up_gradients_in_float32() -> None:
    tokens = 4096
    index = torch.zeros(tokens, dtype=torch.int64)
    x, scale, f = torch.zeros(tokens, 2), torch.ones(1, 2).bfloat16(), torch.ones(tokens, 2).bfloat16()
    leaves = [tensor.requires_grad_() for tensor in (x, scale, f)]
    out = ScaledSum.apply(*leaves, index)
    assert out.dtype == torch.float32
    grads = torch.autograd.grad(out, leaves, torch.ones_like(out))
    assert [grad.dtype for grad in grads] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert grads[1].tolist() == [[tokens, tokens]]  # a sum in bfloat16 ends at 256


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_by_complex_numbers_is_that_by_pairs(dtype: torch.dtype) -> None:
    tables = rotary_tables(PackLayout.from_grids([Grid(3, 5), Grid(1, 2)]), 16, "row_major")

    def by_pairs(x: Tensor) -> Tensor:
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = tables.cos[:, None], tables.sin[:, None]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(dtype)

    x = torch.randn(17, 3, 3, 16).to(dtype)[:, 1]  # as in a block, rows are not adjacent
    same(lambda x: rotate(x, tables), by_pairs, x, tolerance=1e-2 if dtype == torch.bfloat16 else 1e-6)
    elsewhere = RotaryTables(tables.cos.to("meta"), tables.sin.to("meta"))
    assert rotate(x.to("meta"), elsewhere).shape == x.shape  # by pairs, where a device has no complex numbers


@pytest.mark.parametrize("long_run", [1, 10**6])
@pytest.mark.parametrize(
    ("grids", "shape", "grouped"),
    [
        ([Grid(2, 3), Grid(4, 1), Grid(3, 2), Grid(1, 1), Grid(1, 4)], None, True),
        ([Grid(2, 3), Grid(3, 2), Grid(4, 1)], None, False),
        ([Grid(2, 3), Grid(4, 1), Grid(3, 2)], PackShape(40, 12, 9), True),
        ([Grid(5, 5)], None, False),
    ],
)
def test_sdpa_groups_images_or_takes_them_as_they_lie(
    grids: list[Grid], shape: PackShape | None, grouped: bool, long_run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "LONG_RUN", long_run)
    layout = PackLayout.from_grids(grids, shape)
    plan = plan_attention(layout, "sdpa", torch.float32)
    assert isinstance(plan, LengthGroups)
    assert (plan.order is not None) == (grouped and long_run > 1)  # which neither needs where all lie side by side
    assert sum(images * length for images, length in plan.shapes) == layout.shape.tokens
    exact = plan_attention(layout, "reference", torch.float32)
    q, k, v = torch.randn(3, layout.shape.tokens, 2, 8)
    same(lambda *qkv: attend(*qkv, plan), lambda *qkv: attend(*qkv, exact), q, k, v)
