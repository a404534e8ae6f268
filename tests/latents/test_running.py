"""Autoencoders running: float32 at the border whatever is inside, saved as they were loaded, compiled when it pays."""

from collections.abc import Callable, Iterator
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
        ours = running.running(network, torch.device("cpu"), torch.bfloat16, px_per_cell=4).to(dtype)
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


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Compiled at once, on a CPU, by a compiler that only counts."""
    compiled, compile_ = [], torch.compile

    def count(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda function, **given: compile_(function, backend=count, **given))
    monkeypatch.setitem(running.COMPILE_AFTER_PX, "cpu", 0)
    torch.compiler.reset()
    yield compiled
    torch.compiler.reset()


# nothing is compiled inside what forbids float64, a dispatch mode
compiling = pytest.mark.float64

SIZES = [(3, 8, 8), (2, 8, 8), (2, 9, 8), (5, 16, 12), (2, 40, 7), (4, 13, 13), (2, 64, 33)]  # images, cells


@compiling
@pytest.mark.parametrize("make", [tiny_dc, attentive_dc, tiny_kl])
def test_one_compilation_for_all_sizes(make: Callable[[], Any], graphs: list[Any]) -> None:
    torch.manual_seed(0)
    network = make()
    ours, plain = made(network).to(CPU, torch.bfloat16), made(network)
    cells, channels = plain.identity.px_per_cell, plain.identity.channels
    for number, high, wide in SIZES:
        images = torch.rand(number, 3, high * cells, wide * cells)
        assert deviation(ours.encode(images), plain.encode(images)) < 0.05
    assert len(graphs) == 1
    for number, high, wide in SIZES:
        latents = torch.randn(number, channels, high, wide)
        assert deviation(ours.decode(latents), plain.decode(latents)) < 0.05
    assert len(graphs) == 2
    for _, high, wide in SIZES:
        ours.decode(torch.randn(1, channels, high, wide))
    assert len(graphs) == 3, "one more for images that come alone"


@compiling
def test_compilations_are_bounded(graphs: list[Any]) -> None:
    ours = made(attentive_dc()).to(CPU, torch.bfloat16)
    for number in (1, 2):
        for high in (1, 2, 9):
            for wide in (1, 2, 3, 9):
                assert ours.decode(torch.randn(number, 4, high, wide)).isfinite().all()
    assert len(graphs) <= 8


@compiling
def test_compiled_once_it_has_been_used_enough(graphs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(running.COMPILE_AFTER_PX, "cpu", 3 * 32 * 32)
    ours = made(tiny_dc()).to(CPU, torch.bfloat16)
    for half, small in ((ours.encode, torch.rand(2, 3, 32, 32)), (ours.decode, torch.randn(2, 4, 8, 8))):
        graphs.clear()
        half(small)
        assert not graphs
        half(small)
        assert len(graphs) == 1
    assert not any(
        isinstance(each.encoder.forward, running.Compiled) for each in (ours.network, made(tiny_dc()).network)
    )


def test_what_cannot_be_compiled_runs_as_it_is(
    graphs: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **given: broken)
    ours, latents = made(tiny_dc()).to(CPU, torch.bfloat16), torch.randn(2, 4, 8, 8)
    first = ours.decode(latents)
    assert "runs uncompiled: no compiler here" in caplog.text
    caplog.clear()
    assert torch.equal(ours.decode(latents), first)
    assert not caplog.text


def broken(inputs: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no compiler here")


def test_memory_that_does_not_suffice_is_not_the_compilers_fault(
    graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(inputs: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch, "compile", lambda function, **given: full)
    ours = made(tiny_dc()).to(CPU, torch.bfloat16)
    with pytest.raises(torch.OutOfMemoryError):
        ours.decode(torch.randn(2, 4, 8, 8))
