"""PSNR of autoencoders on whole held-out images, beside PatchPCA fitted to the others.

python examples/open-images/measure_autoencoders.py --images IMAGES --autoencoders FIRST FINAL
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from PIL import Image
from split import split, to_tensor

from anyres.cli import reporting_errors
from anyres.devices import pick_device
from anyres.latents.autoencoder import Autoencoder
from anyres.latents.loading import load_autoencoder
from anyres.latents.patch_pca import PatchPCA
from anyres.tables import aligned

BASELINES = ((8, 32), (16, 32), (16, 128))  # px a cell, channels
MULTIPLE = 16  # px; all autoencoders see the same px


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare autoencoders on images that none was trained on."""

    images: Path
    """A folder of images, one folder a class."""
    autoencoders: tuple[Path, ...] = ()
    """Folders of autoencoders."""
    held_out: float = 0.1
    """The share that they were trained with."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def main(options: Options) -> int:
    """Print the table."""
    images, device = split(options.images, options.held_out), pick_device(options.device)
    rows = [("autoencoder", "px a cell", "channels", "parameters", f"PSNR of {len(images.held_out)} images")]
    for patch, channels in BASELINES:
        fitted = PatchPCA.fit(
            (to_tensor(image, patch, torch.device("cpu"))[0] for image in images.training),
            patch=patch,
            channels=channels,
        )
        rows.append(_row("PatchPCA", fitted, fitted.basis.numel() + fitted.mean.numel(), images.held_out, device))
    for folder in options.autoencoders:
        loaded = load_autoencoder(str(folder))
        count = sum(value.numel() for value in loaded.network.parameters())
        rows.append(_row(folder.name, loaded, count, images.held_out, device))
    print(aligned(rows))
    return 0


@torch.no_grad()
def mean_psnr(autoencoder: Autoencoder, images: Sequence[Image.Image], device: torch.device) -> float:
    """The mean over images of each one's PSNR in dB, whole, in float32, decoded px rounded to 8 bits."""
    autoencoder, values = autoencoder.to(device), []
    for image in images:
        pixels = to_tensor(image, MULTIPLE, device)
        decoded = (127.5 * (autoencoder.decode(autoencoder.encode(pixels)) + 1)).clamp(0, 255).round()
        error = (decoded - 127.5 * (pixels + 1)).square().mean().clamp(min=1e-3)
        values.append(float(10 * torch.log10(255**2 / error)))
    return sum(values) / len(values)


def _row(
    name: str, autoencoder: Autoencoder, parameters: int, images: Sequence[Image.Image], device: torch.device
) -> tuple[str, ...]:
    identity = autoencoder.identity
    psnr = mean_psnr(autoencoder, images, device)
    return name, str(identity.px_per_cell), str(identity.channels), f"{parameters:,}", f"{psnr:.2f} dB"


if __name__ == "__main__":
    raise SystemExit(reporting_errors("measure_autoencoders", lambda: main(tyro.cli(Options))))
