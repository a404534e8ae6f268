"""Train a small `AutoencoderDC` (arXiv 2410.10733): 16 px to a cell of 32 channels.

    python examples/open-images/train_autoencoder.py --images IMAGES --out FIRST --minutes 8
    python examples/open-images/train_autoencoder.py --images IMAGES --out FINAL --start FIRST \
        --minutes 4 --learning-rate 2e-4 --perceptual 0.1

The first learns to reconstruct alone; the second goes on with a perceptual term. Both leave out the images that
`anyres train` leaves out at an equal `--held-out.share`.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from crops import CropSampler
from measure_autoencoders import mean_psnr
from perceptual import PerceptualDistance
from split import Split, split, to_tensor

from anyres.cli import reporting_errors
from anyres.config import require
from anyres.devices import pick_device
from anyres.files import make_folder, write_json
from anyres.latents.autoencoder import DcAutoencoder
from anyres.latents.loading import load_autoencoder
from anyres.shapes import Float, Tensor

CHANNELS = 32  # of a cell
WARMUP = 0.02  # of the time, in which the rate rises
EMA = 0.998
REPORTS = 10  # of the losses and the held-out PSNR
SIZE_WEIGHT = 0.01  # of what keeps latents near unit variance


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a small AutoencoderDC on a folder of images."""

    images: Path
    """A folder of images, one folder a class."""
    out: Path
    """Where the autoencoder goes, in diffusers' format."""
    minutes: float
    """How long to train; the rate falls to zero at the end."""
    start: Path | None = None
    """An autoencoder to go on from, instead of a new one."""
    learning_rate: float = 1e-3
    """Highest rate of AdamW."""
    crop: int = 128
    """px a side of the crops, a multiple of 32."""
    batch: int = 128
    """Crops a step."""
    channels: tuple[int, ...] = (32, 48, 96, 192, 192)
    """Channels at 1, 2, 4, 8 and 16 px; the first is not used, as the first layer halves the image."""
    encoder_layers: tuple[int, ...] = (0, 1, 2, 1, 1)
    """Residual blocks of the encoder at each."""
    decoder_layers: tuple[int, ...] = (0, 2, 3, 1, 1)
    """Residual blocks of the decoder at each."""
    latent_noise: float = 0.1
    """Greatest deviation of the noise that the decoder must bear, where latents have unit variance."""
    equivariance: float = 0.25
    """Share of the steps on which latents averaged over 2 x 2 cells must decode to the image at half its size
    (arXiv 2502.14831)."""
    perceptual: float = 0.0
    """Weight of the distance between features of EfficientNet-Lite2."""
    held_out: float = 0.1
    """Share of the images that is never trained on."""
    seed: int = 0
    """Of the weights and the crops."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    compile: bool = False
    """Compile the network: faster on a GPU, after a minute."""

    def __post_init__(self) -> None:
        require(self.minutes > 0, f"{self.minutes} minutes", "more than 0")
        require(self.crop >= 32 and self.crop % 32 == 0, f"crops of {self.crop} px", "a multiple of 32")
        require(0 < self.held_out < 1, f"a held-out share of {self.held_out}", "between 0 and 1")


def main(options: Options) -> int:
    """Train, reporting on the way, and save the averaged weights."""
    device = pick_device(options.device)
    torch.manual_seed(options.seed)
    images = split(options.images, options.held_out)
    network = new_network(options) if options.start is None else load_autoencoder(str(options.start)).network
    network = network.to(device, memory_format=torch.channels_last).train().requires_grad_(True)
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA))
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=1e-3)
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"{count:,} parameters; {len(images.training)} images, {len(images.held_out)} more held out", flush=True)
    sampler = CropSampler(images.training, options.crop, device, options.seed)
    losses = Losses(network, options, device)
    for averaged in (False, True):  # both shapes are compiled before the clock starts
        losses(sampler.draw(options.batch), averaged=averaged)
    choices, record = random.Random(options.seed), []
    for step, done in steps(options.minutes, device):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * min(done / WARMUP, 1 - done)
        optimizer.zero_grad(set_to_none=True)
        parts = losses(sampler.draw(options.batch), averaged=choices.random() < options.equivariance)
        sum(parts.values(), start=torch.zeros((), device=device)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
        if done * REPORTS >= len(record) + 1:
            psnr = mean_psnr(DcAutoencoder(average.module, name="averaged"), images.held_out[:64], device)
            record.append(
                {"step": step, "done": done, "psnr": psnr}
                | {name: float(part.detach()) for name, part in parts.items()}
            )
            print("  ".join(f"{name} {value:.4g}" for name, value in record[-1].items()), flush=True)
    finish(average.module, images, options, record, device)
    return 0


def new_network(options: Options) -> Any:
    """An untrained network."""
    from diffusers import AutoencoderDC

    nowhere = ((),) * len(options.channels)  # no attention: the same at every size
    return AutoencoderDC(
        latent_channels=CHANNELS,
        encoder_block_out_channels=options.channels,
        decoder_block_out_channels=options.channels,
        encoder_layers_per_block=options.encoder_layers,
        decoder_layers_per_block=options.decoder_layers,
        encoder_qkv_multiscales=nowhere,
        decoder_qkv_multiscales=nowhere,
        upsample_block_type="interpolate",  # a quarter of pixel_shuffle's weights
    )


class Losses:
    """What is minimised, for crops.

    Args:
        network: the AutoencoderDC.
        options: weights of the terms.
        device: where it runs.
    """

    def __init__(self, network: Any, options: Options, device: torch.device) -> None:
        wrap: Callable[[Any], Any] = (
            (lambda part: torch.compile(part, dynamic=False)) if options.compile else (lambda part: part)
        )
        self._encode, self._decode = wrap(network.encoder), wrap(network.decoder)
        self._options, self._device = options, device
        self._perceptual = PerceptualDistance(device) if options.perceptual else None

    def __call__(self, images: Float[Tensor, "batch 3 height width"], *, averaged: bool) -> dict[str, Tensor]:
        """The terms, weighted; of latents averaged over 2 x 2 cells, or as they are."""
        options = self._options
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            latents = self._encode(images).float()
            parts = {"size": SIZE_WEIGHT * (latents.square().mean() - 1).square()}
            if options.latent_noise:
                deviation = options.latent_noise * torch.rand(len(latents), 1, 1, 1, device=self._device)
                latents = latents + deviation * torch.randn_like(latents)
            if averaged:
                latents, images = F.avg_pool2d(latents, 2), F.avg_pool2d(images, 2)
            decoded = self._decode(latents.contiguous(memory_format=torch.channels_last)).float()
            parts["l1"] = (decoded - images).abs().mean()
            if self._perceptual is not None:
                parts["perceptual"] = options.perceptual * self._perceptual(decoded, images)
        return parts


def steps(minutes: float, device: torch.device) -> Iterator[tuple[int, float]]:
    """Steps from 1, with the share of the time that has passed."""
    begun, step = time.monotonic(), 0
    while (done := (time.monotonic() - begun) / (60 * minutes)) < 1:
        step += 1
        yield step, done
        if device.type == "cuda" and step % 20 == 0:
            torch.cuda.synchronize()  # else the clock sees what is queued, not what is done


def finish(network: Any, images: Split, options: Options, record: list[dict[str, float]], device: torch.device) -> None:
    """Set the scaling to unit variance, save, and measure what was saved."""
    averaged = DcAutoencoder(network, name="averaged")
    some = images.training[:: max(1, len(images.training) // 200)]
    cells = torch.cat([averaged.encode(to_tensor(image, 16, device)).flatten(2)[0].T for image in some])
    network.register_to_config(scaling_factor=float(cells.std()) ** -1)
    make_folder(options.out)
    network.save_pretrained(options.out)
    psnr = mean_psnr(load_autoencoder(str(options.out)), images.held_out, device)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    write_json(options.out / "training.json", {"options": settings, "record": record, "held_out_psnr": psnr})
    print(f"{options.out}: {psnr:.2f} dB, the mean of {len(images.held_out)} held-out images", flush=True)


if __name__ == "__main__":
    raise SystemExit(reporting_errors("train_autoencoder", lambda: main(tyro.cli(Options))))
