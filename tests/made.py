"""Made images, datasets and pipelines: small, quick, and different from each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from anyres.grid import Size
from anyres.latents.autoencoder import DcAutoencoder
from anyres.latents.patch_pca import PatchPCA
from anyres.model.nit import NiT
from anyres.networks.features import MapNetwork
from anyres.prepare.encode import prepare
from anyres.prepare.options import PrepareOptions
from anyres.sample.pipeline import Pipeline
from anyres.sample.request import LabelTable, SamplingSettings
from tests.model.helpers import random_model, small_config

SIZES = (Size(24, 40), Size(32, 32), Size(48, 33), Size(17, 33), Size(40, 24))
LABELS = ("land", "nebula", "planet")


def picture(size: Size, seed: int) -> Image.Image:
    """Smooth colours with some noise, so that PatchPCA has something to find; no two seeds alike, no symmetry."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : size.height, 0 : size.width] / 64
    waves = [np.sin(a * rows + b * columns + c) for a, b, c in rng.uniform(-3, 3, (3, 3))]
    values = 128 + 90 * np.stack(waves, axis=2) + rng.normal(0, 6, (size.height, size.width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def picture_folder(root: Path, labels: Sequence[str] = ("cat", "dog"), each: int = 12, first_seed: int = 0) -> Path:
    """A folder of class folders."""
    for number, label in enumerate(labels):
        (root / label).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            seed = first_seed + 1000 * number + i
            picture(SIZES[i % len(SIZES)], seed).save(root / label / f"{seed:05d}.png")
    return root


def dataset(root: Path, *, first_seed: int = 0, teacher: MapNetwork | None = None, **options) -> Path:
    """A prepared dataset of made images."""
    images = picture_folder(root / "images", first_seed=first_seed)
    prepare(PrepareOptions(images=images, out=root / "data", workers=2, device="cpu", **options), teacher)
    return root / "data"


class MeanColours:
    """A teacher that sees the mean colour of every square of 8 px, less grey: what it says of a square is known."""

    name, identity, map_px = "mean-colours", "mean-colours (0)", 8

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images.float(), self.map_px) - 128


def patch_pca(channels: int = 6) -> PatchPCA:
    """PatchPCA of 8 px, fitted to made images."""
    pixels = [np.asarray(picture(Size(64, 64), seed)) for seed in range(8)]
    tensors = [torch.from_numpy(p.copy()).permute(2, 0, 1).float() / 127.5 - 1 for p in pixels]
    return PatchPCA.fit(tensors, channels=channels)


def tiny_dc() -> Any:
    """Diffusers' AutoencoderDC with random weights: 4 channels, 4 px a cell."""
    import diffusers

    return diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        scaling_factor=0.41407,
    )


def attentive_dc(head_dim: int = 8) -> Any:
    """AutoencoderDC as the released ones are: linear attention over the whole image in its deepest stage, two heads."""
    import diffusers

    kinds, widths, scales = ("ResBlock", "ResBlock", "EfficientViTBlock"), (8, 8, 2 * head_dim), ((), (), (5,))
    return diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=head_dim,
        encoder_block_types=kinds,
        decoder_block_types=kinds,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )


def dc_pipeline() -> Pipeline:
    """A random network behind a random AutoencoderDC, as a model in the box is made: 4 px a token."""
    torch.manual_seed(0)
    autoencoder = DcAutoencoder(tiny_dc(), name=str(Path("made").resolve()))
    return Pipeline(
        random_model(small_config(channels=4, num_classes=len(LABELS))),
        autoencoder,
        LabelTable(LABELS),
        autoencoder.scaling,
        trained_side=8,
        name="tiny",
        defaults=SamplingSettings(steps=2, guidance=2.0),
    )


def pipeline(model: NiT | None = None, **settings) -> Pipeline:
    """A random network behind PatchPCA: 16 px a token."""
    model = model or random_model(small_config(patch_size=2, num_classes=3))
    autoencoder = patch_pca(model.config.channels)
    return Pipeline(
        model,
        autoencoder,
        LabelTable(LABELS),
        autoencoder.scaling,
        trained_side=4,
        name="made",
        defaults=SamplingSettings(**{"steps": 4, "guidance": 2.0, **settings}),
    )
