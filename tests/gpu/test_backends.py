"""The CUDA backends against the naive one, and what only a GPU can show: no waiting for the device."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from anyres.grid import Grid
from anyres.model.attention import attend, plan_attention
from anyres.model.config import ProjectionConfig
from anyres.packing.pack import PackLayout, PackShape
from tests.model.helpers import random_model, small_config

pytestmark = pytest.mark.gpu

GRIDS = [Grid(3, 5), Grid(16, 16), Grid(1, 1), Grid(9, 31)]
CASES = [
    ("varlen", torch.bfloat16),
    ("varlen", torch.float16),
    ("flex", torch.bfloat16),
    ("flex", torch.float32),
    ("triton", torch.bfloat16),
    ("triton", torch.float16),
    ("sdpa", torch.bfloat16),
    ("sdpa", torch.float32),
]
cases = pytest.mark.parametrize(("backend", "dtype"), CASES)
TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-3, torch.bfloat16: 1.5e-2}


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Any call that waits for the device raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def layout_on_gpu(grids: list[Grid], padded: bool = False) -> PackLayout:
    layout = PackLayout.from_grids(grids)
    if padded:
        layout = layout.padded(PackShape(layout.tokens + 300, len(grids) + 6, layout.shape.max_seqlen))
    return layout.to("cuda")


def relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


@cases
@pytest.mark.parametrize("heads_dim", [(2, 24), (4, 64), (2, 72)])
@pytest.mark.parametrize("padded", [False, True])
def test_forward_and_backward_equal_float64(
    backend: str, dtype: torch.dtype, heads_dim: tuple[int, int], padded: bool
) -> None:
    layout = layout_on_gpu(GRIDS, padded)
    shape = (3, layout.shape.tokens, *heads_dim)
    qkv = torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True)
    exact_qkv = qkv.detach().double().requires_grad_()
    weights = torch.randn(shape[1:], device="cuda", dtype=dtype)
    weights[~layout.is_real()] = 0
    out = attend(*qkv.unbind(), plan_attention(layout, backend, dtype))
    exact = attend(*exact_qkv.unbind(), plan_attention(layout, "reference", torch.float64))
    assert relative(out[layout.is_real()], exact[layout.is_real()].detach()) < TOLERANCE[dtype]
    (out * weights).sum().backward()
    (exact * weights).sum().backward()
    assert qkv.grad is not None
    assert exact_qkv.grad is not None
    assert relative(qkv.grad, exact_qkv.grad) < TOLERANCE[dtype]


@cases
def test_an_image_cannot_see_another(backend: str, dtype: torch.dtype) -> None:
    """The Jacobian's blocks between images, by one backward pass an output token."""
    config = small_config()
    model = random_model(config, attention=backend).to("cuda", dtype)
    layout = layout_on_gpu([Grid(2, 3), Grid(2, 2), Grid(3, 1)])
    tokens = torch.randn(layout.tokens, config.token_values, device="cuda", dtype=dtype, requires_grad=True)
    t, labels = torch.rand(3, device="cuda", dtype=dtype), torch.tensor([0, 1, 2], device="cuda")
    velocity = model(tokens, t, labels, layout)
    rows = [
        torch.autograd.grad(velocity[n].sum(), tokens, retain_graph=True)[0].float().abs().sum(1)
        for n in range(layout.tokens)
    ]
    influence = torch.stack(rows)
    same = layout.image_index[:, None] == layout.image_index[None, :]
    assert float(influence[~same].max()) == 0
    assert float(influence[same].min()) > 0


@cases
def test_packed_equals_one_at_a_time(backend: str, dtype: torch.dtype) -> None:
    config = small_config()
    model = random_model(config, attention=backend).to("cuda", dtype)
    layout = layout_on_gpu(GRIDS, padded=True)
    tokens = torch.randn(layout.shape.tokens, config.token_values, device="cuda", dtype=dtype)
    t = torch.rand(layout.shape.images, device="cuda", dtype=dtype)
    labels = torch.randint(5, (layout.shape.images,), device="cuda")
    with torch.no_grad():
        packed = layout.split(model(tokens, t, labels, layout))
        for i, (grid, part) in enumerate(zip(GRIDS, layout.split(tokens), strict=True)):
            alone = model(part, t[i : i + 1], labels[i : i + 1], layout_on_gpu([grid]))
            assert relative(packed[i], alone.double()) < TOLERANCE[dtype]


@pytest.mark.parametrize("backend", ["varlen", "triton", "flex", "sdpa"])
@pytest.mark.usefixtures("no_waiting")
def test_the_forward_pass_never_waits_for_the_device(backend: str) -> None:
    config = small_config(projection=ProjectionConfig(after_block=1, hidden=8, dim=4))
    torch.cuda.set_sync_debug_mode("default")
    model = random_model(config, attention=backend).to("cuda", torch.bfloat16)
    layout = layout_on_gpu(GRIDS)
    tokens = torch.randn(layout.tokens, config.token_values, device="cuda", dtype=torch.bfloat16)
    t, labels = torch.rand(4, device="cuda"), torch.randint(5, (4,), device="cuda")
    model(tokens, t, labels, layout, projection=True)  # compiles
    context = model.prepare(layout)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    model(tokens, t, labels, context, projection=True)


def test_auto_picks_triton_in_half_precision_and_sdpa_in_float32() -> None:
    from anyres.model.attention import pick_backend

    assert pick_backend("auto", torch.device("cuda"), torch.bfloat16) == "triton"
    assert pick_backend("auto", torch.device("cuda"), torch.float32) == "sdpa"
