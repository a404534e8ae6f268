"""Triton's kernels against the plain functions in float64: forward and backward, odd sizes, padding, determinism.

Without a GPU they run in Triton's interpreter; `tests/gpu/test_fused.py` runs them in bfloat16 on a real one.
"""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from anyres.grid import Grid
from anyres.model.attention import Tiled, plan_attention
from anyres.model.config import NiTConfig
from anyres.model.elementwise import Elementwise, QkvProjection, elementwise_for
from anyres.model.nit import NiT
from anyres.model.rope import rotary_tables
from anyres.packing.pack import PackLayout, PackShape

pytest.importorskip("triton")

from anyres.model.kernels import sums
from anyres.model.kernels.attention import tiles

GRIDS = [Grid(1, 1), Grid(5, 13), Grid(1, 3), Grid(2, 2)]
PADDED = PackShape(tokens=85, images=8, max_seqlen=70)


def layout_on(device: str, shape: PackShape | None = PADDED) -> PackLayout:
    return PackLayout.from_grids(GRIDS, shape).to(device)


def compare(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    modules: Sequence[nn.Module],
    *,
    device: str,
    layout: PackLayout,
    dtype: torch.dtype = torch.float32,
    tolerance: float = 2e-6,
) -> None:
    """Outputs and all gradients of `function(ops, *inputs, *modules)`, fused against plain in float64."""
    results = []
    upstream: list[Tensor] = []
    for fused, exact in ((False, torch.float64), (True, dtype)):
        ops = elementwise_for(layout, "triton") if fused else Elementwise(layout.image_index)
        parts = [tensor.to(device, exact, copy=True).requires_grad_() for tensor in inputs]
        made = [copy.deepcopy(module).to(device, exact) for module in modules]
        outputs = function(ops, *parts, *made)
        if not upstream:
            upstream = [torch.randn_like(output) for output in outputs]
        torch.autograd.backward(outputs, [grad.to(exact) for grad in upstream])
        weights = [weight for module in made for weight in module.parameters()]
        results.append([*outputs, *[part.grad for part in parts], *[weight.grad for weight in weights]])
    # a norm's bias of keys has a gradient that nearly cancels, and keeps the rounding of what it is the difference of
    sizes = {
        plain.shape: max(other.norm() for other in results[0] if other.shape == plain.shape) for plain in results[0]
    }
    for number, (plain, fused) in enumerate(zip(*results, strict=True)):
        error = (fused.double() - plain).norm() / sizes[plain.shape]
        assert error <= tolerance, f"result {number}: {error:.1e}"


def vectors(layout: PackLayout, width: int, count: int) -> list[Tensor]:
    """As in a block: slices of one tensor, whose rows are not adjacent."""
    return list(torch.randn(layout.shape.images, count, width).unbind(1))


@pytest.mark.float64
@pytest.mark.parametrize("width", [16, 20, 72])
@pytest.mark.parametrize("shape", [None, PADDED])
def test_norms_and_residuals(width: int, shape: PackShape | None) -> None:
    check_norms(width, layout_on("cpu", shape), "cpu")


def check_norms(width: int, layout: PackLayout, device: str, **how) -> None:
    tokens, inner = layout.shape.tokens, 24
    linear = nn.Linear(inner, width)
    x, f = torch.randn(tokens, width), torch.randn(tokens, inner)
    gate, shift, scale = vectors(layout, width, 3)
    how |= {"device": device, "layout": layout}
    compare(lambda ops, x, a, b: ops.norm(x, None, a, b), [x, shift, scale], [], **how)
    compare(lambda ops, x, f, g, m: (ops.add(x, ops.branch(f, m, g)),), [x, f, gate], [linear], **how)
    compare(
        lambda ops, x, f, g, a, b, m: ops.norm(x, ops.branch(f, m, g), a, b),
        [x, f, gate, shift, scale],
        [linear],
        **how,
    )


@pytest.mark.float64
@pytest.mark.parametrize("inner", [8, 300])
def test_mlp(inner: int) -> None:
    check_mlp(inner, layout_on("cpu"), "cpu")


def check_mlp(inner: int, layout: PackLayout, device: str, **how) -> None:
    x, (gate,) = 2 * torch.randn(layout.shape.tokens, 16), vectors(layout, 16, 1)
    maps = [nn.Linear(16, inner), nn.Linear(inner, 16)]
    compare(
        lambda ops, x, g, up, down: (ops.add(x, ops.mlp(x, up, down, g)),),
        [x, gate],
        maps,
        device=device,
        layout=layout,
        **how,
    )


@pytest.mark.float64
@pytest.mark.parametrize(("heads", "dim"), [(2, 4), (3, 20), (4, 16)])
@pytest.mark.parametrize("normed", [True, False])
def test_heads(heads: int, dim: int, normed: bool) -> None:
    check_heads(heads, dim, normed, layout_on("cpu"), "cpu")


def check_heads(heads: int, dim: int, normed: bool, layout: PackLayout, device: str, **how) -> None:
    x, linear = torch.randn(layout.shape.tokens, 24), nn.Linear(24, 3 * heads * dim)
    norms = [nn.LayerNorm(dim) if normed else nn.Identity() for _ in range(2)]
    for norm in norms:
        for weight in norm.parameters():
            nn.init.normal_(weight)
    rotary = rotary_tables(layout, dim, "row_major")  # always float32
    how |= {"device": device, "layout": layout}
    compare(lambda ops, x, m, q, k: ops.heads(x, QkvProjection(m, q, k, rotary)), [x / 2], [linear, *norms], **how)

    if device == "cuda" and how.get("dtype") == torch.float32:
        return  # tiles are for half precision there

    def attended(ops: Elementwise, x: Tensor, *modules: nn.Module) -> tuple[Tensor]:
        # attention by tiles, which `plan_attention` picks on a GPU only, against the naive one
        plan = plan_attention(layout, "reference", x.dtype)
        if type(ops) is not Elementwise:
            plan = Tiled(tiles(layout.cu_seqlens, layout.shape.tokens))
        return (ops.attended(x, QkvProjection(*modules, rotary), plan),)

    # more sums than the others', so a larger sum of roundings
    compare(attended, [x / 2], [linear, *norms], **{"tolerance": 1e-5, **how})


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "recomputed"), [(None, 0), (4, 0), (None, 1)])
def test_a_network_is_the_same_with_kernels(rank: int | None, recomputed: int) -> None:
    config = NiTConfig(channels=4, hidden_size=24, depth=2, num_heads=2, num_classes=3, adaln_rank=rank)
    plain = NiT(config, attention="sdpa", kernels="eager")
    for weight in plain.parameters():
        nn.init.normal_(weight, std=0.2)
    fused = NiT(config, attention="sdpa", kernels="triton")
    fused.load_state_dict(plain.state_dict())
    fused.recompute(recomputed)
    layout = layout_on("cpu")
    tokens, t = torch.randn(layout.shape.tokens, 4), torch.rand(layout.shape.images)
    labels = torch.randint(4, (layout.shape.images,))
    upstream = torch.randn_like(tokens) * layout.is_real()[:, None]
    for network in (plain, fused):
        (network(tokens, t, labels, layout) * upstream).sum().backward()
    # a gradient that nearly cancels keeps the rounding of what it is the difference of
    least = 1e-2 * max(float(weight.grad.norm()) for weight in plain.parameters())
    for (name, one), other in zip(plain.named_parameters(), fused.parameters(), strict=True):
        assert (one.grad - other.grad).norm() <= 1e-4 * max(float(one.grad.norm()), least), name


@pytest.mark.float64
@pytest.mark.parametrize(("rows", "width"), [(1, 7), (40, 300), (1024, 33), (1025, 129), (3000, 130)])
def test_sums_over_rows(rows: int, width: int) -> None:
    values = torch.randn(rows, width)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 8e-3)):
        made = sums.over_rows(values, torch.empty(width, dtype=dtype))
        exact = values.double().sum(0)
        assert (made.double() - exact).norm() <= tolerance * exact.norm()


def test_equal_inputs_give_equal_bits() -> None:
    layout = layout_on("cpu")
    ops = elementwise_for(layout, "triton")
    x, linear = torch.randn(layout.shape.tokens, 20, requires_grad=True), nn.Linear(20, 20)
    gate, shift, scale = (part.requires_grad_() for part in vectors(layout, 20, 3))
    found = []
    for _ in range(2):
        x.grad = gate.grad = shift.grad = linear.bias.grad = None
        torch.autograd.backward(ops.norm(x, ops.branch(x, linear, gate), shift, scale), [x.detach(), x.detach() ** 2])
        found.append([x.grad, gate.grad, shift.grad, linear.bias.grad])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))
