"""Triton's kernels on a GPU: the checks of `tests/model/test_fused.py` at real widths, in float32 and bfloat16."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from anyres.model.kernels import cublas
from tests.model.test_fused import PADDED, check_heads, check_mlp, check_norms, layout_on

pytestmark = pytest.mark.gpu

PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1.5e-2)])


@pytest.fixture(autouse=True)
def _exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@PRECISIONS
@pytest.mark.parametrize("width", [72, 320, 1152, 1536])
def test_norms_and_residuals(width: int, dtype: torch.dtype, tolerance: float) -> None:
    for shape in (None, PADDED):
        check_norms(width, layout_on("cuda", shape), "cuda", dtype=dtype, tolerance=tolerance)


@PRECISIONS
@pytest.mark.parametrize("inner", [300, 4608])  # the first has rows that cuBLASLt's GELU does not take
def test_mlp(inner: int, dtype: torch.dtype, tolerance: float) -> None:
    check_mlp(inner, layout_on("cuda"), "cuda", dtype=dtype, tolerance=tolerance)


@PRECISIONS
@pytest.mark.parametrize(("heads", "dim"), [(5, 64), (16, 72), (24, 64), (3, 20)])
@pytest.mark.parametrize("normed", [True, False])
def test_heads(heads: int, dim: int, normed: bool, dtype: torch.dtype, tolerance: float) -> None:
    check_heads(heads, dim, normed, layout_on("cuda"), "cuda", dtype=dtype, tolerance=tolerance)


PRODUCTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Any]] = {
    "linear": lambda x, up, bias, _: [cublas.linear(x, up, bias)],
    "input's gradient": lambda _, up, __, before: [cublas.input_gradient(before, up)],
    "weight's gradient": lambda x, _, __, before: [cublas.weight_gradient(before, x)],
    "GELU": lambda x, up, bias, _: [cublas.linear_gelu(x, up, bias)],
    "GELU, keeping": lambda x, up, bias, _: cublas.linear_gelu_keeping(x, up, bias),
    "GELU's gradient": lambda x, up, _, before: [cublas.gelu_gradient(x, up.t().contiguous(), before)],
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_whichever_algorithm_is_chosen_the_bits_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = (2000, 1152), (4608, 1152), (4608,), (2000, 4608)
    x, up, bias, before = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in shapes)
    plans: list[Any] = []
    make = cublas._Plan

    def plan(*arguments: Any) -> Any:
        plans.append(make(*arguments))
        return plans[-1]

    monkeypatch.setattr(cublas, "_Plan", plan)
    cublas._plan.cache_clear()
    first = PRODUCTS[name](x, up, bias, before)
    with cublas.choosing():
        PRODUCTS[name](x, up, bias, before)
    (made,) = plans
    assert made.chosen
    assert len(made.algorithms) > 1
    for algorithm in made.algorithms:
        made.algorithm = algorithm
        assert all(
            torch.equal(one, other) for one, other in zip(PRODUCTS[name](x, up, bias, before), first, strict=True)
        )
