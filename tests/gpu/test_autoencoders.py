"""Autoencoders on a GPU: bfloat16 with channels last, compiled once for all sizes, large images in little memory."""

from pathlib import Path

import numpy as np
import pytest
import torch

from anyres.latents import tiles
from anyres.latents.autoencoder import DcAutoencoder
from anyres.latents.format import LatentDataset
from anyres.latents.kernels import depthwise, linear_attention, steps
from anyres.prepare.encode import prepare
from anyres.prepare.options import PrepareOptions
from anyres.sample.decoding import decode_images
from tests.latents.test_fused import check
from tests.latents.test_running import deviation
from tests.made import attentive_dc, picture_folder

pytestmark = pytest.mark.gpu

GPU = torch.device("cuda")
SIZES = [(3, 8, 8), (2, 8, 8), (2, 9, 8), (5, 16, 12), (2, 40, 7), (4, 13, 13), (2, 64, 33)]  # images, cells


def made() -> DcAutoencoder:
    torch.manual_seed(0)
    return DcAutoencoder(attentive_dc(), name="made")


def test_bfloat16_with_channels_last_is_the_default_and_near_float32() -> None:
    exact, half = made(), made().to(GPU)
    assert half.dtype == torch.bfloat16
    assert half._running.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    for number, high, wide in SIZES:
        images = torch.rand(number, 3, 4 * high, 4 * wide) * 2 - 1
        latents = exact.encode(images)
        assert deviation(half.encode(images.cuda()).cpu(), latents) < 0.05
        assert deviation(half.decode(latents.cuda()).cpu(), exact.decode(latents)) < 0.05
    whole = made().to(GPU, torch.float32)
    assert deviation(whole.encode(images.cuda()).cpu(), latents) < 5e-3  # TF32 inside convolutions


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-3), (torch.bfloat16, 0.04)])
def test_blocks_with_kernels_are_diffusers_own(dtype: torch.dtype, tolerance: float) -> None:
    check("cuda", dtype, tolerance)  # TF32 inside convolutions


def test_a_new_size_compiles_nothing() -> None:
    ours = DcAutoencoder(attentive_dc(head_dim=16), name="made").to(GPU)

    def compiled() -> int:
        kernels = (steps._bias_silu, steps._norm_add, steps._up_add, steps._down_add)
        kernels += (depthwise._gated, depthwise._grouped, linear_attention._linear_attention)
        return sum(len(cache[0]) for kernel in kernels for cache in kernel.device_caches.values())

    found = []
    for number, high, wide in SIZES:
        ours.encode(torch.rand(number, 3, 4 * high, 4 * wide, device=GPU))
        ours.decode(torch.randn(number, 4, high, wide, device=GPU))
        found.append(compiled())
    assert found[0] > 0
    assert found == found[:1] * len(SIZES)


def test_images_are_decoded_alike_alone_and_among_others() -> None:
    ours = made().to(GPU)
    torch.manual_seed(1)
    latents = [torch.randn(4, high, wide).cuda() for high, wide in [(16, 16), (20, 8), (16, 16), (16, 16), (20, 8)]]
    together = decode_images(latents, ours, 2**20)
    for latent, image in zip(latents, together, strict=True):
        alone = decode_images([latent], ours, 1)[0]
        assert np.abs(np.asarray(alone, np.float32) - np.asarray(image, np.float32)).mean() < 0.5  # of 255


def test_memory_does_not_grow_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = made().to(GPU)

    def peak(side: int) -> tuple[int, int]:
        """Beyond the image in float32, which is given or made."""
        found = []
        for half, inputs in (
            (ours.decode, torch.randn(1, 4, side // 4, side // 4, device=GPU)),
            (ours.encode, torch.rand(1, 3, side, side, device=GPU)),
        ):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            made = half(inputs)
            found.append(torch.cuda.max_memory_allocated() - before - 4 * made.numel())
        return found[0], found[1]

    small, large = peak(1024), peak(4096)
    assert all(many < 1.5 * one for many, one in zip(large, small, strict=True)), (small, large)
    monkeypatch.setattr(tiles, "WHOLE_PX", 2**62)
    assert all(whole > 8 * one for whole, one in zip(peak(4096), small, strict=True))


@pytest.mark.parametrize("batch_px", [None, 4000])
def test_a_dataset_prepared_on_the_gpu_is_the_cpus(tmp_path: Path, batch_px: int | None) -> None:
    """Batch after batch is under way at once, and every latent finds its row."""
    torch.manual_seed(0)
    attentive_dc().save_pretrained(tmp_path / "vae")
    images = picture_folder(tmp_path / "images")
    data = {}
    for device, dtype in (("cpu", "auto"), ("cuda", "auto"), ("cuda", "float32")):
        out = tmp_path / f"{device}-{dtype}"
        options = PrepareOptions(
            images=images,
            out=out,
            autoencoder=str(tmp_path / "vae"),
            dtype=dtype,
            device=device,
            batch_px=batch_px,
            images_per_shard=10,
        )
        prepare(options)
        data[device, dtype] = LatentDataset.open(out)
    wanted = data["cpu", "auto"]
    for dtype, bound in (("auto", 0.1), ("float32", 5e-3)):
        ours = data["cuda", dtype]
        assert ours.sources == wanted.sources
        assert ours.info.reconstruction_psnr == pytest.approx(wanted.info.reconstruction_psnr, abs=0.1)
        for row in range(len(wanted)):
            for flipped in (False, True):
                latent = wanted.read_raw(row, flipped=flipped).float()
                assert deviation(ours.read_raw(row, flipped=flipped).float(), latent) < bound
