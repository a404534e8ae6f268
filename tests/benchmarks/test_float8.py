"""What the benchmarks of products in 8 bits make of their runs."""

import pytest
import torch
from benchmarks.float8_loss import compared
from benchmarks.float8_samples import psnr, round_products, rounded

from anyres.grid import Grid
from anyres.model.config import NiTConfig
from anyres.model.nit import NiT
from anyres.packing.pack import PackLayout
from tests.interpreted import round_to_float8


def test_only_the_last_losses_are_compared_with_the_first_runs() -> None:
    losses = {"one": torch.tensor([9.0, 2.0, 4.0]), "other": torch.tensor([1.0, 3.0, 2.0])}
    assert compared(losses, 2) == {"other": {"absolute": 1.5, "of_means": -0.5}}


def test_psnr() -> None:
    assert psnr(0.01, 1.0) == pytest.approx(20)
    assert psnr(4.0, 20.0) == pytest.approx(20)
    assert psnr(0.0, 1.0) == pytest.approx(140)


def test_rounding_is_what_the_kernels_do(monkeypatch: pytest.MonkeyPatch) -> None:
    round_to_float8(monkeypatch)
    kernels = pytest.importorskip("anyres.model.kernels.float8")
    rows = torch.randn(5, 48) * torch.logspace(-6, 6, 5)[:, None]
    assert torch.equal(rounded(rows), kernels.rows_of(rows).exact())


def test_a_network_that_rounds_is_that_in_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    round_to_float8(monkeypatch)
    model = NiT(NiTConfig(channels=4, hidden_size=32, depth=2, num_heads=2, num_classes=3), attention="reference")
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    layout = PackLayout.from_grids([Grid(2, 3), Grid(4, 4)])
    inputs = torch.randn(22, 4), torch.rand(2), torch.tensor([0, 1])
    with torch.no_grad():
        plain = model(*inputs, layout)
        model.use_float8(training=False)
        eight = model(*inputs, layout)
        model.float8 = None
        round_products(model)
        found = model(*inputs, layout)
    assert (eight - plain).norm() > 1e-2 * plain.norm()
    assert (found - eight).norm() < 0.1 * (eight - plain).norm()
