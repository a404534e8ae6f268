"""What follows the gradient, of a network that LoRA changes: the plain update, the fused one, and a rounded network."""

import copy

import pytest
import torch

from anyres.model import lora
from anyres.model.nit import NiT
from anyres.train.config import OptimizerConfig
from anyres.train.update import FusedUpdate, Update
from tests.model.helpers import random_model, small_config
from tests.model.test_lora import velocity

OPTIMIZER = OptimizerConfig(learning_rate=1e-2)


class Trained:
    def __init__(self, kind: type[Update], device: str, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.model = random_model(small_config())
        lora.attach(self.model, 2)
        self.model.to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1.0, betas=OPTIMIZER.betas, eps=OPTIMIZER.eps, fused=True)
        parts = (self.model, self.average, optimizer, OPTIMIZER)
        used = self.model if dtype == torch.float32 else copy.deepcopy(self.model).to(dtype)
        self.update = FusedUpdate(*parts, used) if kind is FusedUpdate else Update(*parts)

    def steps(self, count: int) -> None:
        for number in range(1, count + 1):
            network = self.update.network
            network.zero_grad(set_to_none=True)
            assert isinstance(network, NiT)
            loss = velocity(network).square().mean()
            loss.backward()
            assert float(self.update(loss.detach().float(), number, 0.5).finite) == 1


def check_equal(device: str) -> None:
    """What is frozen stays, bit for bit; the rest is the plain update's, and so is its average."""
    plain, fused = Trained(Update, device), Trained(FusedUpdate, device)
    before = copy.deepcopy(fused.model)
    for trained in (plain, fused):
        trained.steps(3)
    for kind in ("model", "average"):
        expected, found = (dict(getattr(trained, kind).named_parameters()) for trained in (plain, fused))
        for name, start in before.named_parameters():
            if start.requires_grad:
                assert not torch.equal(found[name], start), name
                assert (found[name] - expected[name]).norm() <= 1e-4 * expected[name].norm(), name
            else:
                assert torch.equal(found[name], start), name
                assert torch.equal(expected[name], start), name


def check_rounded(device: str) -> None:
    """A network in bfloat16 is one of the same weights, changes and frozen ones, rounded."""
    trained = Trained(FusedUpdate, device, torch.bfloat16)
    for weight, used in zip(trained.model.parameters(), trained.update.network.parameters(), strict=True):
        if weight.requires_grad:
            used.grad = torch.ones_like(used)
    trained.update(torch.tensor(1.0, device=device), 1, 0.5)
    pairs = list(zip(trained.model.parameters(), trained.update.network.parameters(), strict=True))
    assert all(used.dtype == torch.bfloat16 for _, used in pairs)
    # the interpreter cuts bits off where a GPU rounds
    assert all(((weight - used).abs() <= 2**-7 * weight.abs()).all() for weight, used in pairs)
    merged = lora.merged(trained.model).blocks[0].attention.qkv.weight
    used = lora.merged(trained.update.network).blocks[0].attention.qkv.weight
    assert (merged - used).norm() <= 0.01 * merged.norm()


@pytest.mark.usefixtures("few_turns")
def test_the_fused_update_equals_the_plain_one() -> None:
    check_equal("cpu")


@pytest.mark.usefixtures("few_turns")
def test_the_network_computes_with_rounded_weights() -> None:
    check_rounded("cpu")
