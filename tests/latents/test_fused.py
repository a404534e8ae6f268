"""DC-AE's blocks with Triton's kernels are diffusers' own, to rounding.

Without a GPU the kernels run in Triton's interpreter; `tests/gpu/test_autoencoders.py` runs them on a real one.
"""

from typing import Any

import pytest
import torch

from tests.made import attentive_dc

pytest.importorskip("triton")

from anyres.latents.fused import fuse

# images, cells; also a single cell, a single row, and maps of so few cells that diffusers takes another form
SIZES = [(2, 9, 7), (1, 1, 1), (3, 1, 5), (2, 4, 4), (1, 8, 13)]


def pair(device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Diffusers' network and ours with its weights, none of them as they begin."""
    torch.manual_seed(0)
    plain = attentive_dc(head_dim=16).eval().requires_grad_(False)
    for name, weight in plain.named_parameters():
        if "norm" in name:  # new ones are 1, and their biases 0
            weight.normal_()
    ours = attentive_dc(head_dim=16).eval().requires_grad_(False)
    ours.load_state_dict(plain.state_dict())
    ours.to(device, dtype)
    ours.to(memory_format=torch.channels_last)
    fuse(ours)
    return plain, ours


def check(device: str, dtype: torch.dtype, tolerance: float) -> None:
    plain, ours = pair(device, dtype)
    plain.double()
    for number, high, wide in SIZES:
        images, latents = torch.rand(number, 3, 4 * high, 4 * wide), torch.randn(number, 4, high, wide)
        for half, inputs in (("encode", images), ("decode", latents)):
            (wanted,) = getattr(plain, half)(inputs.double(), return_dict=False)
            found = inputs.to(device, dtype, memory_format=torch.channels_last)
            (made,) = getattr(ours, half)(found, return_dict=False)
            assert made.is_contiguous(memory_format=torch.channels_last)
            error = float((made.cpu().double() - wanted).norm() / wanted.norm())
            assert error < tolerance, f"{half} {number} × {high} × {wide}: {error:.1e}"


@pytest.mark.float64
def test_equals_diffusers_in_float64() -> None:
    check("cpu", torch.float32, 3e-6)


def test_every_block_is_taken() -> None:
    _, ours = pair()
    kinds = {type(each).__name__: "forward" in vars(each) for each in ours.modules()}
    for kind in ("ResBlock", "DCUpBlock2d", "DCDownBlock2d", "SanaMultiscaleLinearAttention", "GLUMBConv"):
        assert kinds[kind]


def test_what_is_set_up_otherwise_stays() -> None:
    network = attentive_dc(head_dim=8)  # heads that are too small for a product of tiles
    fuse(network)
    kinds = {type(each).__name__: "forward" in vars(each) for each in network.modules()}
    assert not kinds["SanaMultiscaleLinearAttention"]
    assert kinds["GLUMBConv"]
