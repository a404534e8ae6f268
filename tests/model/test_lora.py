"""LoRA's changes: right for every kernel, with gradients, and in peft's own form."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from anyres.grid import Grid
from anyres.model import lora
from anyres.model.nit import NiT
from anyres.packing.pack import PackLayout
from tests.model.helpers import random_model, small_config

CONFIG = small_config()
LAYOUT = PackLayout.from_grids([Grid(2, 3), Grid(4, 1)])
RANK = 3


def adapted(seed: int = 0, kernels: str = "auto") -> NiT:
    """A network with changes that are not zero."""
    network = random_model(CONFIG)
    network.kernels = kernels
    lora.attach(network, RANK)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return network


def velocity(network: torch.nn.Module) -> Tensor:
    device = network.patch_embedding.weight.device
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(LAYOUT.tokens, CONFIG.token_values, generator=generator)
    t, labels = torch.tensor([0.3, 0.8]), torch.tensor([1, 4])
    return network(tokens.to(device), t.to(device), labels.to(device), LAYOUT.to(device))


def test_nothing_changes_at_first() -> None:
    network = random_model(CONFIG)
    before = velocity(network)
    lora.attach(network, RANK)
    assert torch.equal(velocity(network), before)


def test_the_merged_network_is_the_changed_one_and_plain() -> None:
    network = adapted()
    plain = lora.merged(network)
    assert plain.state_dict().keys() == NiT(CONFIG).state_dict().keys()
    assert torch.equal(velocity(plain), velocity(network))
    assert not torch.allclose(velocity(plain), velocity(random_model(CONFIG)), atol=1e-3)
    assert lora.merged(plain) is plain


def test_tritons_kernels_see_the_changes_and_so_do_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """They read the maps' weights themselves, instead of calling the maps."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    outputs, gradients = [], []
    for kernels in ("eager", "triton"):
        network = adapted(kernels=kernels)
        found = velocity(network)
        found.square().sum().backward()
        outputs.append(found.detach())
        gradients.append({name: w.grad for name, w in network.named_parameters() if w.requires_grad})
    assert torch.allclose(*outputs, rtol=1e-4, atol=1e-5)
    assert len(gradients[0]) == 4 * CONFIG.depth * 2 + 1
    for name, expected in gradients[0].items():
        found = gradients[1][name]
        assert expected is not None
        assert found is not None
        assert expected.norm() > 0
        assert (found - expected).norm() <= 1e-4 * expected.norm(), name


def test_gradients_are_those_of_the_product() -> None:
    """By the chain rule from the gradient of the whole weight: ∂B = ∂W·Aᵀ, ∂A = Bᵀ·∂W."""
    network = adapted()
    plain = lora.merged(network).requires_grad_(True)
    for one in (network, plain):
        velocity(one).square().sum().backward()
    whole = plain.blocks[1].mlp.down.weight.grad
    change = network.blocks[1].mlp.down.parametrizations.weight[0]
    assert torch.allclose(change.up.grad, whole @ change.down.T, rtol=1e-4, atol=1e-5)
    assert torch.allclose(change.down.grad, change.up.T @ whole, rtol=1e-4, atol=1e-5)
    assert network.blocks[1].mlp.down.parametrizations.weight.original.grad is None


def test_peft_reads_what_is_written_and_the_other_way_round(tmp_path: Path) -> None:
    """What peft makes of the weights, against ours."""
    peft = pytest.importorskip("peft")
    network = adapted()
    lora.save_adapter(network, tmp_path / "ours", base="mini", revision=None)
    theirs = peft.PeftModel.from_pretrained(random_model(CONFIG), str(tmp_path / "ours")).merge_and_unload()
    assert torch.allclose(velocity(theirs), velocity(network), rtol=1e-5, atol=1e-6)
    # alpha is not the rank here, so that the scale is seen
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=lora.TARGETS, init_lora_weights=False)
    torch.manual_seed(3)
    other = peft.get_peft_model(random_model(CONFIG), config).eval()
    other.save_pretrained(str(tmp_path / "theirs"))
    other = other.merge_and_unload()
    loaded = lora.load_adapter(tmp_path / "theirs", random_model(CONFIG), CONFIG.num_classes)
    assert torch.allclose(velocity(loaded), velocity(other), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(velocity(loaded), velocity(random_model(CONFIG)), atol=1e-3)


def test_a_table_of_other_labels_comes_with_the_adapter(tmp_path: Path) -> None:
    network = adapted()
    lora.save_adapter(network, tmp_path, base="mini", revision=None)
    smaller = random_model(small_config(num_classes=2))
    loaded = lora.load_adapter(tmp_path, smaller, CONFIG.num_classes)
    table = network.conditioner.labels.weight
    assert torch.equal(loaded.conditioner.labels.weight, table)
