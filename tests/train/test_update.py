"""The update in two passes against the plain one: clipping, AdamW, the average, steps that are not applied, resuming.

Without a GPU the kernels run in Triton's interpreter.
"""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from anyres.model.config import NiTConfig
from anyres.model.nit import NiT
from anyres.train.config import OptimizerConfig
from anyres.train.update import Applied, FusedUpdate, Update

pytest.importorskip("triton")

# 3 channels: sizes that no power of two divides
MODEL = NiTConfig(channels=3, hidden_size=24, depth=1, num_heads=2, num_classes=2)
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, clip=1.0, warmup_steps=3)
DECAY = 0.9


class Trained:
    """A network, the average of its weights, and their update."""

    def __init__(self, kind: type[Update], device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.model = NiT(MODEL)
        for weight in self.model.parameters():
            nn.init.normal_(weight, std=0.2)
        self.model.to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=1.0,
            betas=OPTIMIZER.betas,
            eps=OPTIMIZER.eps,
            weight_decay=OPTIMIZER.weight_decay,
            fused=True,
        )
        parts = (self.model, self.average, self.optimizer, OPTIMIZER)
        used = self.model if dtype == torch.float32 else copy.deepcopy(self.model).to(dtype)
        self.update = FusedUpdate(*parts, used) if kind is FusedUpdate else Update(*parts)

    def step(self, number: int, gradients: list[Tensor], loss: float = 1.0) -> Applied:
        for weight, gradient in zip(self.update.network.parameters(), gradients, strict=True):
            weight.grad = gradient.to(weight.device, weight.dtype)
        return self.update(torch.tensor(loss, device=self.model.device), number, DECAY)

    def tensors(self) -> Iterator[Tensor]:
        """Everything that a checkpoint holds."""
        yield from self.model.parameters()
        yield from self.average.parameters()
        for weight in self.model.parameters():
            yield from (self.optimizer.state[weight][name] for name in ("step", "exp_avg", "exp_avg_sq"))


def gradients(step: int, scale: float = 1.0) -> list[Tensor]:
    torch.manual_seed(step)
    return [scale * torch.randn(weight.shape) for weight in NiT(MODEL).parameters()]


def test_equals_the_plain_update() -> None:
    check_equal("cpu")


def check_equal(device: str, offset: int = 0) -> None:
    """Gradients that are clipped, and that are not; a step is skipped between.

    Args:
        device: where.
        offset: values before each gradient in its memory, as FSDP2 lays them end to end.
    """
    plain, fused = Trained(Update, device), Trained(FusedUpdate, device)
    for step, scale in enumerate((1.0, 1e-3, 1.0, 1e-3), start=1):
        given = gradients(step, scale)
        if step == 3:
            given[0][0, 0] = torch.inf
        given = [part.to(device) for part in given]
        given = [torch.cat([part.new_zeros(offset), part.flatten()])[offset:].view_as(part) for part in given]
        outcomes = [fused.step(step, given), plain.step(step, given)]  # the plain one scales them in place
        assert [float(outcome.finite) for outcome in outcomes] == [float(step != 3)] * 2
        norms = [float(outcome.gradient_norm) for outcome in outcomes]
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    for one, other in zip(plain.tensors(), fused.tensors(), strict=True):
        assert (one - other).norm() <= 1e-6 * one.norm()


@pytest.mark.usefixtures("few_turns")
def test_gradients_may_begin_anywhere() -> None:
    check_equal("cpu", offset=1)


@pytest.mark.usefixtures("few_turns")
@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(loss: float) -> None:
    trained = Trained(FusedUpdate)
    trained.step(1, gradients(1))
    before = [tensor.clone() for tensor in trained.tensors()]
    assert float(trained.step(2, gradients(2), loss).finite) == 0
    assert all(torch.equal(one, other) for one, other in zip(before, trained.tensors(), strict=True))


@pytest.mark.usefixtures("few_turns")
def test_the_network_computes_with_rounded_weights() -> None:
    check_rounded("cpu")


def check_rounded(device: str) -> None:
    trained = Trained(FusedUpdate, device, torch.bfloat16)
    trained.step(1, gradients(1))
    pairs = list(zip(trained.model.parameters(), trained.update.network.parameters(), strict=True))
    # the interpreter cuts bits off where a GPU rounds
    assert all(((weight - used).abs() <= 2**-7 * weight.abs()).all() for weight, used in pairs)
    assert any(not torch.equal(weight, used.float()) for weight, used in pairs)
    with torch.no_grad():
        for weight in trained.model.parameters():
            weight.add_(1)
    trained.update.refresh()
    assert all(torch.equal(weight.bfloat16(), used) for weight, used in pairs)
