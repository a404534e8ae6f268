"""DC-AE's architecture: images/s of encoding and decoding in several forms, what bfloat16 and tiles cost, preparation.

    python -m benchmarks codec [--pictures FOLDER] [--prepare IMAGES] [--tiny] [--out FILE]

The network is that of `dc-ae-f32c32-sana-1.1` (312M parameters) with random weights; speed does not depend on them. The
released code runs it in float32, one image at a time. `--tiny` runs everything in miniature, to see that it runs.
`--pictures` measures what bfloat16 costs on real pictures, with the trained autoencoder of the model in the box.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderDC
from PIL import Image
from torch import nn

from anyres.devices import pick_device
from anyres.grid import Size, native_size
from anyres.hub import MODELS
from anyres.latents import tiles
from anyres.latents.autoencoder import Autoencoder, DcAutoencoder
from anyres.latents.loading import load_autoencoder
from anyres.prepare.encode import prepare
from anyres.prepare.encoder import to_images
from anyres.prepare.images import resize
from anyres.prepare.options import PrepareOptions

from .recording import record_of_device

Half = Callable[[torch.Tensor], torch.Tensor]
KINDS = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
VARIED = [(1, 8, 8), (1, 12, 7), (2, 6, 17), (3, 16, 16), (5, 9, 9), (4, 20, 3), (8, 5, 11), (2, 2, 2)]  # in cells


@dataclass(frozen=True)
class Form:
    """A way to run the network.

    Attributes:
        name: in the tables.
        encode: images → latents, both float32.
        decode: latents → images, both float32.
        alone: one image at a time.
    """

    name: str
    encode: Half
    decode: Half
    alone: bool = False


def dc_ae(tiny: bool) -> Any:
    """`mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers` by its configuration, with random weights."""
    torch.manual_seed(0)
    widths = (8, 8, 8, 16, 16, 32) if tiny else (128, 256, 512, 512, 1024, 1024)
    return AutoencoderDC(
        latent_channels=4 if tiny else 32,
        attention_head_dim=8 if tiny else 32,
        encoder_block_types=KINDS,
        decoder_block_types=KINDS,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(1,) * 6 if tiny else (2, 2, 2, 3, 3, 3),
        decoder_layers_per_block=(1,) * 6 if tiny else (3, 3, 3, 3, 3, 3),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )


def forms(network: Any, device: torch.device) -> Iterator[Form]:
    """Each in turn, so that one network at a time is on the device."""
    for name, dtype, memory_format in (
        ("float32", torch.float32, torch.contiguous_format),
        ("bfloat16", torch.bfloat16, torch.contiguous_format),
        ("bfloat16, channels last", torch.bfloat16, torch.channels_last),
    ):
        form = plain(network, device, name, dtype, memory_format)
        if dtype == torch.float32:
            yield Form("float32, one at a time", form.encode, form.decode, alone=True)
        yield form
    ours = DcAutoencoder(network, name="random").to(device, torch.bfloat16)
    yield Form("ours: and kernels between", ours.encode, ours.decode)


def plain(
    network: Any, device: torch.device, name: str, dtype: torch.dtype, memory_format: torch.memory_format
) -> Form:
    """The network without anything of ours."""
    moved = copy.deepcopy(network).eval().requires_grad_(False)
    nn.Module.to(moved, device, dtype)
    moved.to(memory_format=memory_format)
    return Form(
        name,
        lambda images: moved.encode(images.to(dtype, memory_format=memory_format)).latent.float(),
        lambda latents: moved.decode(latents.to(dtype, memory_format=memory_format)).sample.float(),
    )


def seconds(half: Half, inputs: torch.Tensor, *, alone: bool, repeats: int) -> tuple[float, list[float]]:
    """Of the first call, and of each of the later ones."""
    times = []
    for _ in range(repeats + 3):
        begin = now(inputs.device)
        for part in inputs.split(1) if alone else (inputs,):
            half(part)
        times.append(now(inputs.device) - begin)
    return times[0], times[3:]


def now(device: torch.device) -> float:
    """Seconds, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure_speed(network: Any, device: torch.device, cases: Sequence[tuple[int, int]], repeats: int) -> Iterator[dict]:
    """Images/s of every form at each side in px and number of images, and its deviation from exact float32."""
    torch.manual_seed(1)
    images = {side: torch.rand(number, 3, side, side, device=device) * 2 - 1 for side, number in cases}
    exact = plain(network, device, "exact", torch.float32, torch.contiguous_format)
    torch.backends.cudnn.allow_tf32 = False
    latents = {side: exact.encode(batch[:4]) for side, batch in images.items()}
    decoded = {side: exact.decode(batch) for side, batch in latents.items()}
    torch.backends.cudnn.allow_tf32 = True  # as torch has it, hence the released code
    del exact
    print(f"{'form':32} {'px':>5} {'images':>6} {'half':7} {'images/s':>9} {'first, s':>8}  deviation/spread")
    for form in forms(network, device):
        for side, number in cases:
            repeated = latents[side].repeat(number, 1, 1, 1)[:number]
            for name, half, inputs, wanted in (
                ("encode", form.encode, images[side], latents[side]),
                ("decode", form.decode, repeated, decoded[side]),
            ):
                first, later = seconds(half, inputs, alone=form.alone, repeats=repeats)
                deviation = float((half(inputs[: len(wanted)]) - wanted).std() / wanted.std())
                row = {
                    "form": form.name,
                    "half": name,
                    "px": side,
                    "images": number,
                    "images_per_s": round(number / statistics.median(later), 1),
                    "first_s": round(first, 2),
                    "deviation_over_spread": round(deviation, 5),
                }
                print(
                    f"{form.name:32} {side:5} {number:6} {name:7} {row['images_per_s']:9.1f} {first:8.2f}  "
                    f"{deviation:.5f}",
                    flush=True,
                )
                yield row


def measure_new_sizes(network: Any, device: torch.device) -> dict:
    """Seconds of the first call at each of many sizes, after one of another size: is anything compiled anew?"""
    ours = DcAutoencoder(network, name="random").to(device, torch.bfloat16)
    channels, px = ours.identity.channels, ours.identity.px_per_cell
    found: dict[str, list[float]] = {"encode": [], "decode": []}
    for number, high, wide in [(2, 10, 6), *VARIED]:
        for name, half, inputs in (
            ("encode", ours.encode, torch.rand(number, 3, high * px, wide * px, device=device)),
            ("decode", ours.decode, torch.randn(number, channels, high, wide, device=device)),
        ):
            begin = now(device)
            half(inputs)
            found[name].append(round(now(device) - begin, 2))
    print(f"seconds of the first call at each size, after those of the first: {found}")
    return {"sizes": VARIED, "first_s": {name: each[1:] for name, each in found.items()}}


def measure_tiles(network: Any, device: torch.device, side: int) -> dict:
    """Seconds and memory of an image in tiles, and how far tiles are from the whole at half the side."""
    ours = DcAutoencoder(network, name="random").to(device, torch.bfloat16)
    result: dict[str, Any] = {"px": side}
    latents = torch.randn(1, ours.identity.channels, side // 32, side // 32, device=device)
    for name, half, inputs in (
        ("decode", ours.decode, latents),
        ("encode", ours.encode, torch.rand(1, 3, side, side, device=device) * 2 - 1),
    ):
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        result[f"{name}_s"] = [round(each, 3) for each in seconds(half, inputs, alone=False, repeats=1)[1]]
        if device.type == "cuda":
            result[f"{name}_peak_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    half_side = latents[..., : side // 64, : side // 64]
    result["decode_db_at_half_the_side"] = against_whole(lambda: ours.decode(half_side))
    print(f"tiles: {result}")
    return result


def against_whole(half: Callable[[], torch.Tensor]) -> float:
    """Of images in tiles, against those taken whole, in dB of the range of the whole's spread."""
    limit = tiles.WHOLE_PX
    tiles.WHOLE_PX = 0
    tiled = half()
    tiles.WHOLE_PX = 2**62
    whole = half()
    tiles.WHOLE_PX = limit
    return round(float(20 * torch.log10(whole.std() / (tiled - whole).square().mean().sqrt())), 2)


def measure_pictures(folder: Path, device: torch.device, number: int) -> dict:
    """Between real pictures and what they decode to, in float32 and in bfloat16, in dB, with the box's autoencoder."""
    where = str(MODELS / "mini" / "autoencoder")
    exact = load_autoencoder(where).to(device, torch.float32)
    half = load_autoencoder(where).to(device, torch.bfloat16)
    paths = sorted(path for path in folder.rglob("*") if path.suffix in {".png", ".jpg", ".jpeg", ".webp"})
    chosen = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))[:number]]
    forms_of = {
        "float32": (exact, exact),
        "bfloat16": (half, half),
        "encoded in bfloat16": (half, exact),
        "decoded in bfloat16": (exact, half),
    }
    psnr: dict[str, list[float]] = {name: [] for name in forms_of}
    spreads, deviations, levels = [], [], []
    for path in chosen:
        image = picture(path, exact)[None].to(device)
        made = {name: one.decode(other.encode(image)).clamp(-1, 1) for name, (other, one) in forms_of.items()}
        for name, decoded in made.items():
            psnr[name].append(float(10 * torch.log10(4 / (decoded - image).square().mean())))
        latent = exact.encode(image)
        spreads.append(float(latent.square().mean()))
        deviations.append(float((half.encode(image) - latent).square().mean()))
        levels.append(float((made["decoded in bfloat16"] - made["float32"]).square().mean().sqrt() * 127.5))
    result = {
        "pictures": len(chosen),
        "psnr_db": {name: round(statistics.mean(values), 3) for name, values in psnr.items()},
        "latent_deviation_over_spread": round((sum(deviations) / sum(spreads)) ** 0.5, 5),
        "decoded_deviation_in_levels": round(statistics.mean(levels), 3),
    }
    print(f"pictures: {result}")
    return result


def picture(path: Path, autoencoder: Autoencoder) -> torch.Tensor:
    """(3, height, width) in [−1, 1], of at most 512² px."""
    with Image.open(path) as image:
        size = native_size(Size(image.height, image.width), autoencoder.identity.px_per_cell, 512)
        return to_images(np.array(resize(image.convert("RGB"), size))[None], torch.device("cpu"))[0]


def measure_prepare(network: Any, device: str, number: int, dtypes: Sequence[str]) -> list[dict]:
    """Images/s of `anyres prepare` on JPEG files of varied sizes about 500 × 375 px."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        root, rng = Path(temporary), np.random.default_rng(0)
        network.save_pretrained(root / "autoencoder")
        (root / "images").mkdir()
        for i in range(number):
            width, height = (int(side) for side in rng.normal((500, 375), (60, 60)).clip(100, 800))
            coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
            coarse.resize((width, height), Image.Resampling.BICUBIC).save(root / "images" / f"{i}.jpg", quality=92)
        for dtype in dtypes:
            report = prepare(
                PrepareOptions(
                    images=root / "images",
                    out=root / dtype,
                    autoencoder=str(root / "autoencoder"),
                    dtype=dtype,
                    device=device,
                )
            )
            rows.append({"dtype": dtype, "images": number, "images_per_s": round(number / report.seconds, 1)})
            print(f"prepare: {rows[-1]}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder of real pictures")
    parser.add_argument("--number", type=int, default=200, help="of those pictures")
    parser.add_argument("--prepare", type=int, default=0, help="images to prepare a dataset of")
    parser.add_argument("--tiny", action="store_true", help="a tiny network and few, small images")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    network = dc_ae(options.tiny)
    cases = [(64, 4), (128, 2)] if options.tiny else [(256, 32), (512, 16), (1024, 4)]
    results: dict[str, Any] = {"parameters": sum(each.numel() for each in network.parameters()), "speed": []}

    def keep(**found: Any) -> None:  # what is done is kept, whatever comes
        results.update(found)
        record_of_device(options.out, "codec", device, results)

    with torch.no_grad():
        if options.pictures:
            keep(pictures=measure_pictures(options.pictures, device, options.number))
        for row in measure_speed(network, device, cases, options.repeats):
            keep(speed=[*results["speed"], row])
        keep(new_sizes=measure_new_sizes(network, device))
        if options.tiny:
            tiles.WHOLE_PX, tiles.TILE_PX, tiles.OVERLAP_PX = 256**2, 256, 128
        keep(tiles=measure_tiles(network, device, 1024 if options.tiny else 4096))
        if options.prepare:
            keep(prepare=measure_prepare(network, options.device, options.prepare, ("float32", "bfloat16")))
