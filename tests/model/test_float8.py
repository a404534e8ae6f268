"""Products in 8 bits against exact ones, up to the format's rounding.

Without a GPU the kernels run in Triton's interpreter; `tests/gpu/test_float8.py` runs the same checks on a real one.
"""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.errors import BackendError, ConfigError
from anyres.grid import Grid
from anyres.model.attention import Tiled, plan_attention
from anyres.model.config import NiTConfig, ProjectionConfig
from anyres.model.elementwise import NORM_EPS, Elementwise, QkvProjection, elementwise_for
from anyres.model.float8 import Float8Weights, check_device
from anyres.model.nit import NiT
from anyres.model.rope import rotary_tables
from anyres.model.rows import Rows, product, product_over_rows
from anyres.packing.pack import PackLayout, PackShape
from tests.interpreted import round_to_float8

pytest.importorskip("triton")
from anyres.model.kernels import float8, norms
from anyres.model.kernels.attention import tiles
from anyres.model.kernels.pieces import cut

GRIDS = [Grid(1, 1), Grid(5, 7), Grid(4, 4)]
PADDED = PackShape(tokens=61, images=5, max_seqlen=40)
WIDTHS = pytest.mark.parametrize("width", [16, 48, 320])  # a power of two, two of them, and a rest


@pytest.fixture(autouse=True)
def _rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    round_to_float8(monkeypatch)


def layout_on(device: str) -> PackLayout:
    return PackLayout.from_grids(GRIDS, PADDED).to(device)


def block_on(device: str, dtype: torch.dtype = torch.float32, width: int = 32) -> nn.ModuleList:
    model = NiT(NiTConfig(channels=4, hidden_size=width, depth=1, num_heads=2, num_classes=3))
    for weight in model.parameters():
        nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return model.to(device, dtype).blocks


def assert_rounded(rows: Rows, exact: Tensor) -> None:
    """Each number is off by half of a 3-bit mantissa's last step, or by half of the format's smallest step."""
    exact = exact.float()
    allowed = torch.maximum(exact.abs() * 2**-4, rows.scales * 2**-10)
    assert ((rows.exact() - exact).abs() <= 1.01 * allowed).all()
    greatest = exact.abs().amax(dim=1, keepdim=True)
    assert (rows.scales.log2() == rows.scales.log2().round()).all()
    assert (greatest <= 1.01 * 448 * rows.scales).all()
    assert ((greatest >= 0.99 * 224 * rows.scales) | (greatest == 0)).all()


@WIDTHS
def test_rows_are_rounded_each_at_its_own_scale(width: int) -> None:
    check_rows(width, "cpu")


def check_rows(width: int, device: str, dtype: torch.dtype = torch.float32) -> None:
    x = (torch.randn(13, width) * torch.logspace(-12, 12, 13)[:, None]).to(device, dtype)
    x[3] = 0
    rows = float8.rows_of(x)
    assert_rounded(rows, x)
    assert not rows.exact()[3].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so_in_its_row(value: float) -> None:
    check_not_finite(value, "cpu")


def check_not_finite(value: float, device: str) -> None:
    x, weight = torch.randn(5, 32, device=device, dtype=torch.bfloat16), torch.randn(16, 32, device=device)
    x[2, 7] = value
    found = product(float8.rows_of(x), float8.rows_of(weight), torch.bfloat16)
    assert found.isfinite().all(dim=1).tolist() == [True, True, False, True, True]


@pytest.mark.float64
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_is_that_of_what_its_rows_stand_for(biased: bool) -> None:
    check_product(biased, "cpu", torch.float32, 1e-6)


def check_product(biased: bool, device: str, dtype: torch.dtype, tolerance: float) -> None:
    a, b = (float8.rows_of(torch.randn(rows, 48, device=device)) for rows in (21, 80))
    bias = torch.randn(80, device=device) if biased else None
    exact = a.exact().double() @ b.exact().double().t() + (0 if bias is None else bias.double())
    found = product(a, b, dtype, bias)
    assert found.dtype == dtype
    assert (found - exact).norm() <= tolerance * exact.norm()


def test_weights_in_8_bits_follow_the_weights() -> None:
    check_weights("cpu")


def check_weights(device: str) -> None:
    blocks = block_on(device, torch.bfloat16, width=48)
    weights = Float8Weights(blocks, training=True)
    linears = [blocks[0].attention.qkv, blocks[0].attention.out, blocks[0].mlp.up, blocks[0].mlp.down]
    for times in (1, 3):
        with torch.no_grad():
            for linear in linears:
                linear.weight.mul_(times)
        weights.refresh()
        for linear in linears:
            rows, columns = weights[linear]
            assert_rounded_weight(rows, linear.weight)
            assert torch.equal(columns.exact(), rows.exact().t())


def assert_rounded_weight(rows: Rows, weight: Tensor) -> None:
    """A weight has one scale."""
    assert_rounded(Rows(rows.values.view(1, -1), rows.scales[:1]), weight.detach().reshape(1, -1))
    assert (rows.scales == rows.scales[0]).all()


@pytest.mark.float64
@pytest.mark.parametrize("width", [16, 48, 300])
def test_gelu(width: int) -> None:
    check_gelu(width, "cpu", torch.float32, 1e-6)


def check_gelu(width: int, device: str, dtype: torch.dtype, tolerance: float) -> None:
    u, d_out = (3 * torch.randn(37, width, device=device).to(dtype) for _ in range(2))
    bias = torch.randn(width, device=device).to(dtype)
    exact = u.double().requires_grad_(), bias.double().requires_grad_()
    out = F.gelu(exact[0] + exact[1], approximate="tanh")
    out.backward(d_out.double())
    assert_rounded(float8.gelu_forward(u, bias), out.detach())
    d_u, d_bias = float8.gelu_backward(d_out, u, bias)
    assert_rounded(d_u, exact[0].grad)
    assert (d_bias - exact[1].grad).norm() <= tolerance * exact[1].grad.norm()


def test_columns_are_the_rows_at_one_scale() -> None:
    check_columns("cpu")


def check_columns(device: str, height: int = 37, widths: tuple[int, int] = (48, 208)) -> None:
    """Exactly, but for what is far below the greatest row."""
    given = []
    for width, least in zip(widths, (-12, -20), strict=True):
        x = (torch.randn(height, width) * torch.logspace(least, 0, height)[:, None]).to(device)
        x[5] = 0
        given.append(x)
    a, b = (float8.rows_of(x) for x in given)
    for x, rows, (values, scale) in zip(given, (a, b), float8.columns_of(a, b), strict=True):
        assert values.shape == (x.shape[1], -(-height // 16) * 16)
        assert scale == rows.scales.amax()
        assert not values[:, height:].float().any()
        found = values[:, :height].float().t() * scale
        assert ((found - rows.exact()).abs() <= scale * 2**-10).all()
        near = rows.scales[:, 0] >= scale * 2**-3
        normal = near[:, None] & (x.abs() > scale * 2**-6)
        assert torch.equal(found[normal], rows.exact()[normal])
        assert normal.sum() > 100


@pytest.mark.float64
def test_a_product_over_rows() -> None:
    check_product_over_rows("cpu", torch.float32, 1e-6)


def check_product_over_rows(device: str, dtype: torch.dtype, tolerance: float) -> None:
    a, b = (float8.rows_of(torch.randn(37, width, device=device)) for width in (48, 80))
    columns = float8.columns_of(a, b)
    exact_a, exact_b = (each.values[:, :37].double() * each.scale for each in columns)
    exact = exact_a @ exact_b.t()
    found = product_over_rows(*columns, dtype)
    assert (found - exact).norm() <= tolerance * exact.norm()


def test_norms_write_what_they_give_in_8_bits() -> None:
    check_norms("cpu", torch.float32)


def check_norms(device: str, dtype: torch.dtype) -> None:
    layout = layout_on(device)
    tokens, images, width = layout.shape.tokens, layout.shape.images, 48
    x, f, d_out, d_h = (torch.randn(tokens, width, device=device).to(dtype) for _ in range(4))
    gate, shift, scale = torch.randn(images, 3, width, device=device).to(dtype).unbind(1)
    addend = norms.Addend(f, torch.randn(width, device=device).to(dtype), gate)
    given, pieces = (addend, norms.Affine(shift, scale)), cut(layout.cu_seqlens, tokens)
    rows, d_rows = Rows.empty(x.shape, x.device), Rows.empty(x.shape, x.device)
    out, h, spread = norms.forward(x, *given, layout.image_index, NORM_EPS)
    again, nothing, _ = norms.forward(x, *given, layout.image_index, NORM_EPS, rows)
    assert nothing is None
    assert torch.equal(again, out)
    assert_rounded(rows, h)
    grads = norms.backward(d_out, d_h, out, spread, *given, pieces, d_rows)
    assert_rounded(d_rows, grads.f)
    assert norms.backward(d_out, d_h, out, spread, *given, pieces, d_rows, keep=False).f is None
    assert_rounded(d_rows, grads.f)


Function = Callable[..., tuple[Tensor, ...]]


def compare(
    function: Function, inputs: Sequence[Tensor], block: nn.Module, device: str, dtype: torch.dtype, tolerance: float
) -> None:
    """Outputs and all gradients of `function(ops, block, *inputs)`, in 8 bits against plain in float64."""
    layout, results = layout_on(device), []
    upstream: list[Tensor] = []
    for exact in (torch.float64, dtype):
        made = copy.deepcopy(block).to(device, exact)
        parts = [tensor.to(device, exact, copy=True).requires_grad_() for tensor in inputs]
        if exact == torch.float64:
            ops = Elementwise(layout.image_index)
        else:
            ops = elementwise_for(layout, "auto", Float8Weights(nn.ModuleList([made]), training=True))
        outputs = function(ops, made, *parts)
        upstream = upstream or [torch.randn_like(output) for output in outputs]
        torch.autograd.backward(outputs, [grad.to(exact) for grad in upstream])
        grads = [weight.grad for weight in made.parameters() if weight.grad is not None]
        results.append([*outputs, *[part.grad for part in parts], *grads])
    assert len(results[0]) == len(results[1])
    for number, (plain, eight) in enumerate(zip(*results, strict=True)):
        error = (eight.double() - plain).norm() / plain.norm()
        assert error <= tolerance, f"result {number}: {error:.1e}"


@pytest.mark.float64
@pytest.mark.parametrize("name", ["branch", "mlp", "heads", "attended", "norm"])
def test_each_function_is_the_plain_one_up_to_the_rounding(name: str) -> None:
    check_function(name, "cpu", torch.float32, 0.08)


def check_function(name: str, device: str, dtype: torch.dtype, tolerance: float, width: int = 32) -> None:
    block, layout = block_on("cpu", width=width)[0], layout_on(device)
    x = torch.randn(layout.shape.tokens, width)
    gate, shift, scale = torch.randn(layout.shape.images, 3, width).unbind(1)
    rotary = rotary_tables(layout, width // 2, "row_major")

    def heads(ops: Elementwise, block: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        attention = block.attention
        return ops.heads(x, QkvProjection(attention.qkv, attention.q_norm, attention.k_norm, rotary))

    def attended(ops: Elementwise, block: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        attention, plan = block.attention, plan_attention(layout, "reference", x.dtype)
        if type(ops) is not Elementwise:
            plan = Tiled(tiles(layout.cu_seqlens, layout.shape.tokens))
        return (ops.attended(x, QkvProjection(attention.qkv, attention.q_norm, attention.k_norm, rotary), plan),)

    def norm(ops: Elementwise, block: nn.Module, x: Tensor, gate: Tensor, *affine: Tensor) -> tuple[Tensor, ...]:
        """What is normalised is there in 8 bits alone, so it is seen through the product that follows."""
        x, h = ops.norm(x, ops.branch(x, block.attention.out, gate), *affine)
        return x, ops.add(x, ops.branch(h, block.attention.out, gate))

    functions: dict[str, tuple[Function, list[Tensor]]] = {
        "branch": (lambda ops, b, x, gate: (ops.add(x, ops.branch(x, b.attention.out, gate)),), [x, gate]),
        "mlp": (lambda ops, b, x, gate: (ops.add(x, ops.mlp(x, b.mlp.up, b.mlp.down, gate)),), [x, gate]),
        "heads": (heads, [x]),
        "attended": (attended, [x]),
        "norm": (norm, [x, gate, shift, scale]),
    }
    # the gradients of norms of queries and keys are small sums of large values
    compare(*functions[name], block, device, dtype, 2.5 * tolerance if name == "attended" else tolerance)


@pytest.mark.slow
def test_a_network_with_and_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    check_network("cpu", torch.float32, monkeypatch)


def check_network(device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways give equal bits, and only what no kernel of ours makes takes a pass of its own to 8 bits."""
    passes = []
    rows_of = float8.rows_of
    monkeypatch.setattr(float8, "rows_of", lambda x: passes.append(tuple(x.shape)) or rows_of(x))
    model = NiT(NiTConfig(channels=4, hidden_size=32, depth=2, num_heads=2, num_classes=3))
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.2)
    model.to(device, dtype)
    layout = layout_on(device)
    inputs = (
        torch.randn(layout.shape.tokens, 4).to(device, dtype),
        torch.rand(layout.shape.images).to(device),
        torch.zeros_like(layout.cu_seqlens[1:]).long(),
        layout,
    )
    plain = model(*inputs)
    assert model.precision == str(dtype).removeprefix("torch.")
    model.use_float8(training=True)
    assert model.precision == "float8"
    trained = model(*inputs)
    tokens = layout.shape.tokens
    assert passes == [(tokens, 32)] * 3  # the first norm's, and what attention gives in each block
    passes.clear()
    trained.sum().backward()
    # the gradient of the last branch, and in each block that of queries, keys and values
    assert passes == [(tokens, 32), (tokens, 96), (tokens, 96)]
    with torch.no_grad():
        model.use_float8(training=False)
        assert torch.equal(model(*inputs), trained)
    assert 0 < (trained - plain).norm() < 0.3 * plain.norm()


def test_a_projection_sees_what_is_there_in_8_bits_alone() -> None:
    check_projection("cpu", torch.float32)


def check_projection(device: str, dtype: torch.dtype) -> None:
    """Where a block is tapped, its branch is added twice: for the projector, and in the norm that follows."""
    tap = ProjectionConfig(dim=8, hidden=16, after_block=1)
    plain = NiT(NiTConfig(channels=4, hidden_size=32, depth=1, num_heads=2, num_classes=3, projection=tap))
    for weight in plain.parameters():
        nn.init.normal_(weight, std=0.1)
    plain.to(device, dtype)
    eight, layout = copy.deepcopy(plain), layout_on(device)
    eight.use_float8(training=True)
    inputs = (
        torch.randn(layout.shape.tokens, 4).to(device, dtype),
        torch.rand(layout.shape.images).to(device),
        torch.zeros_like(layout.cu_seqlens[1:]).long(),
        layout,
    )
    found = []
    for model in (plain, eight):
        predicted = model(*inputs, projection=True)
        (predicted.velocity.sum() + predicted.projection.square().sum()).backward()
        found.append(
            (predicted.projection, model.blocks[0].mlp.up.weight.grad, model.blocks[0].attention.qkv.bias.grad)
        )
    # rounding gives 0.07 to 0.15 here; without the second gradient, or of what is not a number, it would be 1 or none
    for one, other in zip(*found, strict=True):
        assert 0 < (one - other).norm() < 0.3 * one.norm()


def test_a_device_without_such_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an Ampere")
    with pytest.raises(BackendError, match=r"float8 on an Ampere"):
        check_device(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    check_device(torch.device("cuda"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="a CUDA device, and this is cpu") as refused:
        check_device(torch.device("cpu"))
    assert "bfloat16" in refused.value.fix


def test_a_width_that_is_no_multiple_of_16_is_refused() -> None:
    model = NiT(NiTConfig(channels=4, hidden_size=24, depth=1, num_heads=2, num_classes=3))
    with pytest.raises(ConfigError, match="24 → 72"):
        model.use_float8(training=False)
