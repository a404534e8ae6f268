"""Autoencoders running: float32 at the border whatever is inside, saved as they were loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anyres.latents import running
from anyres.latents.autoencoder import DcAutoencoder, DiffusersAutoencoder, KlAutoencoder
from tests.latents.test_autoencoders import tiny_kl
from tests.made import attentive_dc, patch_pca, tiny_dc

CPU = torch.device("cpu")


def made(network: Any) -> DiffusersAutoencoder:
    kind = KlAutoencoder if type(network).__name__ == "AutoencoderKL" else DcAutoencoder
    return kind(network, name="made")


def deviation(ours: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((ours - wanted).square().mean().sqrt() / wanted.std())


@pytest.mark.parametrize("make", [tiny_dc, attentive_dc, tiny_kl])
def test_bfloat16_inside_float32_outside(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    network = make()
    exact, half = made(network), made(network).to(CPU, torch.bfloat16)
    assert (exact.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    images = torch.rand(2, 3, 64, 48) * 2 - 1
    latents = exact.encode(images)
    for ours, wanted in ((half.encode(images), latents), (half.decode(latents), exact.decode(latents))):
        assert ours.dtype == torch.float32
        assert ours.shape == wanted.shape
        assert 1e-4 < deviation(ours, wanted) < 0.05
    assert half.to(CPU).dtype == torch.float32
    assert torch.equal(half.encode(images), latents)


def test_a_pca_stays_in_float32() -> None:
    one = patch_pca()
    images = torch.rand(1, 3, 16, 16)
    wanted = one.encode(images)
    assert torch.equal(one.to(CPU, torch.bfloat16).encode(images), wanted)
    assert one.dtype == torch.float32


def test_what_is_saved_is_what_was_loaded(tmp_path: Path) -> None:
    half = made(tiny_dc()).to(CPU, torch.bfloat16)
    assert half.save(tmp_path).same_as(half.identity)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_of_one_kernel_are_diffusers_own(dtype: torch.dtype) -> None:
    """And channels lie last, in all that the halves make."""
    torch.manual_seed(0)
    network = attentive_dc().eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "norm" in name:  # new ones are 1, and their biases 0
                weight.normal_()
        plain = attentive_dc().eval()
        plain.load_state_dict(network.state_dict())
        plain.to(dtype)
        ours = running.running(network, torch.device("cpu"), torch.bfloat16).to(dtype)
        ours.load_state_dict(plain.state_dict())
        assert not any(type(each).__module__.startswith("diffusers") for each in norms(ours))
        assert len(norms(ours)) == len(norms(plain)) == 9
        images = torch.rand(2, 3, 64, 48).to(dtype)
        last = images.to(memory_format=torch.channels_last)
        wanted = plain.encode(images).latent
        latents = ours.encode(last).latent
        assert latents.is_contiguous(memory_format=torch.channels_last)
        assert deviation(latents.float(), wanted.float()) < (1e-5 if dtype == torch.float32 else 0.02)
        decoded = ours.decode(wanted).sample
        assert decoded.is_contiguous(memory_format=torch.channels_last)
        assert deviation(decoded.float(), plain.decode(wanted).sample.float()) < (
            1e-5 if dtype == torch.float32 else 0.02
        )


def norms(network: Any) -> list[Any]:
    return [module for module in network.modules() if type(module).__name__ == "RMSNorm"]
