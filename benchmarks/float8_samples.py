"""What products in 8 bits do to samples: the same seeds in float32, in bfloat16 and in float8.

    python -m benchmarks float8_samples [--model mini] [--size 256x256] [--count 20] [--arms ARM ...] [--images FOLDER]
        [--device auto] [--out FILE]

`count` images of each label, by the model's own defaults, written to a folder each where `--images` says so. For each
pair of ways to compute: the peak signal-to-noise ratio of the latents, whose peak is the span of those in float32, and
of the images, in dB; the mean over images and the least. Sampling is a chain of steps that each go on from the last
one's rounding, so two ways that are equally exact differ, too: "other attention" says by how much. "float8 by rounding"
runs anywhere: products of float32 numbers that have been rounded to what 8 bits hold, by the same rules.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from anyres.model.elementwise import Branch, Elementwise, QkvProjection
from anyres.model.float8 import linears_of
from anyres.model.nit import NiT
from anyres.model.rope import rotate
from anyres.sample.pipeline import Pipeline
from anyres.sample.request import make_requests
from anyres.tables import aligned

from .recording import device_name, record_of_device


class Arm(NamedTuple):
    """How samples are computed.

    Attributes:
        dtype: of the network.
        attention: the backend on a CUDA device.
        rounds: whether products read what has been rounded to 8 bits.
    """

    dtype: str
    attention: str = "auto"
    rounds: bool = False


ARMS = {
    "float32": Arm("float32"),
    "bfloat16": Arm("bfloat16"),
    "bfloat16, other attention": Arm("bfloat16", attention="varlen"),
    "float8": Arm("float8"),
    "float8 by rounding": Arm("float32", rounds=True),
}
GREATEST = 448.0  # that e4m3 holds


class Rounded(Elementwise):
    """The plain functions, with what the blocks' four linear maps read rounded to 8 bits, a scale a row."""

    def branch(self, inner: Tensor, linear: nn.Linear, gate: Tensor) -> Branch:
        """See `Elementwise.branch`."""
        return Branch(linear(rounded(inner)), None, gate)

    def mlp(self, x: Tensor, up: nn.Linear, down: nn.Linear, gate: Tensor) -> Branch:
        """See `Elementwise.mlp`."""
        return self.branch(F.gelu(up(rounded(x)), approximate="tanh"), down, gate)

    def heads(self, x: Tensor, projection: QkvProjection) -> tuple[Tensor, Tensor, Tensor]:
        """See `Elementwise.heads`."""
        linear, q_norm, k_norm, rotary = projection
        q, k, v = linear(rounded(x)).unflatten(1, (3, -1, 2 * rotary.cos.shape[1])).unbind(1)
        return rotate(q_norm(q), rotary), rotate(k_norm(k), rotary), v


def rounded(rows: Tensor) -> Tensor:
    """Each row in 8 bits, at the least power of two with which its greatest value fits."""
    greatest = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    scale = torch.exp2(torch.ceil(torch.log2(greatest / GREATEST)))
    return (rows / scale).to(torch.float8_e4m3fn).to(rows.dtype) * scale


@torch.no_grad()
def round_products(model: NiT) -> None:
    """Let a network compute by `Rounded` from now on, with rounded weights, each of one scale."""
    for linear in linears_of(cast(nn.ModuleList, model.blocks)):
        linear.weight.copy_(rounded(linear.weight.flatten()[None]).view_as(linear.weight))
    prepare = model.prepare

    def rounding(*arguments: object) -> object:
        pack = prepare(*arguments)
        return replace(pack, elementwise=Rounded(pack.elementwise.image_index))

    model.prepare = rounding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--images", type=Path, help="where the images are written, a folder a way to compute")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    latents: dict[str, list[torch.Tensor]] = {}
    images: dict[str, list[np.ndarray]] = {}
    device = torch.device("cpu")
    for name in options.arms:
        arm = ARMS[name]
        pipe = Pipeline.from_pretrained(options.model, device=options.device, dtype=arm.dtype)
        device = pipe.model.device
        if device.type == "cuda":
            pipe.model.attention = arm.attention
        if arm.rounds:
            round_products(pipe.model)
        labels = [label for label in pipe.labels.names for _ in range(options.count)]
        requests = make_requests(labels, options.size, None, table=pipe.labels, px_per_token=pipe.px_per_token)
        made = pipe.latents(requests, pipe.defaults)
        latents[name] = [latent.float().cpu() for latent in made]
        decoded = pipe.decode(made)
        images[name] = [pixels(image) for image in decoded]
        if options.images:
            folder = options.images / name.replace(" ", "-")
            folder.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(decoded):
                image.save(folder / f"{number:05}.png")
    print(f"{device_name(device)}, torch {torch.__version__}: {options.model}, {len(labels)} images of {options.size}")
    first = torch.stack(latents[options.arms[0]])
    span = float(first.max() - first.min())
    pairs = [(one, other) for i, one in enumerate(options.arms) for other in options.arms[i + 1 :]]
    results, rows = [], [("", "", "latents, dB", "images, dB (least)")]
    for one, other in pairs:
        of_latents = [
            psnr(float((a - b).square().mean()), span) for a, b in zip(latents[one], latents[other], strict=True)
        ]
        of_images = [psnr(float(np.square(a - b).mean()), 255) for a, b in zip(images[one], images[other], strict=True)]
        results.append({"of": [one, other], "latents": summary(of_latents), "images": summary(of_images)})
        rows.append((one, other, f"{np.mean(of_latents):.1f}", f"{np.mean(of_images):.1f} ({min(of_images):.1f})"))
    print(aligned(rows))
    about = {"model": options.model, "size": options.size, "images": len(first), "span": span}
    record_of_device(options.out, "float8_samples", device, {**about, "pairs": results})


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


def psnr(square: float, peak: float) -> float:
    """In dB, from a mean square; equal ones are as far apart as float32 tells numbers apart."""
    return float(10 * np.log10(peak**2 / max(square, peak**2 * 1e-14)))


def summary(each: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(each)), "least": min(each)}


if __name__ == "__main__":
    main()
