"""What the benchmarks of products in 8 bits make of their runs."""

import pytest
import torch
from benchmarks.float8_loss import compared
from benchmarks.float8_samples import psnr


def test_only_the_last_losses_are_compared_with_the_first_runs() -> None:
    losses = {"one": torch.tensor([9.0, 2.0, 4.0]), "other": torch.tensor([1.0, 3.0, 2.0])}
    assert compared(losses, 2) == {"other": {"absolute": 1.5, "of_means": -0.5}}


def test_psnr() -> None:
    assert psnr(0.01, 1.0) == pytest.approx(20)
    assert psnr(4.0, 20.0) == pytest.approx(20)
    assert psnr(0.0, 1.0) == pytest.approx(140)
