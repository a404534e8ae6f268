"""Encoding images into a dataset, restartably."""

import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from .. import noise
from ..devices import pick_device
from ..errors import DataError
from ..grid import Size, native_size
from ..latents.autoencoder import Autoencoder
from ..latents.format import AUTOENCODER, REJECTED, DatasetInfo, Variant
from ..latents.loading import load_autoencoder
from ..latents.patch_pca import PATCH, PatchPCA
from ..latents.writer import DatasetWriter, Rejected, Row
from ..progress import Bar, progress
from ..shapes import Float, Tensor
from .images import DecodedImage, ImageFile, RejectedImageError, centre_crop, decode, find_images, resize, stamp
from .options import PrepareOptions

PATCH_PCA = "patch-pca"
FIT_IMAGES = 512  # images that PatchPCA is fitted to, at most
MEASURED_PER_SHARD = 16  # images whose reconstruction is measured, of each shard
PENDING_PX = 64 * 2**20  # px decoded and not yet encoded, at most about
BATCH_PX = {"cpu": 2**20, "cuda": 2**24, "mps": 2**22}  # px encoded together
SQUARES: dict[Variant, int] = {"square-256": 256, "square-512": 512}


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What a preparation did.

    Attributes:
        folder: the dataset's.
        info: what it holds now.
        added: images added by this call.
        seconds: that it took.
    """

    folder: Path
    info: DatasetInfo
    added: int
    seconds: float

    def __str__(self) -> str:
        info = self.info
        lines = [
            f"dataset      {self.folder}: {info.images:,} images, {info.rows:,} rows ({', '.join(info.variants)}), "
            f"{len(info.labels):,} labels",
            f"added        {self.added:,} images in {self.seconds:.1f} s"
            + (f", {self.added / self.seconds:.1f} images/s" if self.added else ""),
            f"autoencoder  {info.autoencoder.describe()}: {info.autoencoder.channels} channels, "
            f"{info.autoencoder.px_per_cell} px a cell",
            f"quality      {info.reconstruction_psnr:.2f} dB between images and their decoded latents "
            f"(mean of {info.reconstruction_images:,} images)",
        ]
        if info.rejected:
            lines.append(f"rejected     {info.rejected:,} files, listed in {self.folder / REJECTED}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Item:
    """A variant of an image, waiting to be encoded."""

    row: Row
    pixels: np.ndarray  # (height, width, 3) uint8
    measured: bool


def prepare(options: PrepareOptions) -> PrepareReport:
    """Encode a folder of images into a dataset; finishes what an earlier call began, and adds new images.

    Raises:
        DataError: the images' folder is missing or empty, no image can be used, or the output cannot be written.
        CheckpointError: the autoencoder cannot be loaded.
    """
    started = time.perf_counter()
    files = find_images(options.images)
    writer = DatasetWriter(options.out, _settings(options))
    autoencoder = _autoencoder(options, files).to(pick_device(options.device))
    finished, rejected = writer.finished_sources(), writer.rejected_stamps()
    pending = [
        file
        for file in files
        if file.source not in finished and rejected.get(file.source) != stamp(options.images / file.source)
    ]
    encoder = _Encoder(options, autoencoder)
    with progress("prepare", len(files), "image", done=len(files) - len(pending)) as bar:
        for start in range(0, len(pending), options.images_per_shard):
            encoder.write_part(pending[start : start + options.images_per_shard], writer, bar)
    info = writer.finish(
        autoencoder=autoencoder.identity,
        scaling=autoencoder.scaling,
        multiple_of_cells=options.multiple_of_cells,
        max_side=options.max_side,
        variants=options.variants,
    )
    added = len(writer.finished_sources()) - len(finished)
    return PrepareReport(folder=options.out, info=info, added=added, seconds=time.perf_counter() - started)


class _Encoder:
    def __init__(self, options: PrepareOptions, autoencoder: Autoencoder) -> None:
        self._options, self._autoencoder = options, autoencoder
        self._device = pick_device(options.device)
        self._multiple = autoencoder.identity.px_per_cell * options.multiple_of_cells

    def write_part(self, files: Sequence[ImageFile], writer: DatasetWriter, bar: Bar) -> None:
        """Decode, encode and write one shard's images, holding only some of them at a time."""
        rows: list[Row] = []
        latents: dict[int, np.ndarray] = {}
        flipped: dict[int, np.ndarray] = {}
        rejected: list[Rejected] = []
        waiting: list[tuple[int, _Item]] = []
        measured = 0

        def encode_waiting() -> None:
            for number, row, plain, mirrored in self._encode(waiting):
                rows[number], latents[number], flipped[number] = row, plain, mirrored
            waiting.clear()

        for file, found in self._decoded(files):
            bar.advance(1)
            if isinstance(found, Rejected):
                rejected.append(found)
                continue
            for item in self._variants(file, found, measured=measured < MEASURED_PER_SHARD):
                waiting.append((len(rows), item))
                rows.append(item.row)
            measured += 1
            if sum(item.pixels.shape[0] * item.pixels.shape[1] for _, item in waiting) > PENDING_PX:
                encode_waiting()
        encode_waiting()
        finite = [i for i in range(len(rows)) if np.isfinite(latents[i]).all() and np.isfinite(flipped[i]).all()]
        spoilt = {rows[i].source for i in range(len(rows))} - {rows[i].source for i in finite}
        kept = [i for i in finite if rows[i].source not in spoilt]
        rejected += [self._rejected(source, "its latent is not finite in float16") for source in sorted(spoilt)]
        writer.write_part([rows[i] for i in kept], [latents[i] for i in kept], [flipped[i] for i in kept], rejected)

    def _decoded(self, files: Sequence[ImageFile]) -> Iterator[tuple[ImageFile, DecodedImage | Rejected]]:
        """Decode in threads, a few images ahead, in order."""

        def work(file: ImageFile) -> DecodedImage | Rejected:
            try:
                return decode(self._options.images / file.source)
            except RejectedImageError as error:
                return self._rejected(file.source, str(error))

        ahead = 2 * self._options.workers
        with ThreadPoolExecutor(self._options.workers) as pool:
            futures = [pool.submit(work, file) for file in files[:ahead]]
            for i, file in enumerate(files):
                yield file, futures[i].result()
                futures[i] = None  # pyright: ignore[reportArgumentType, reportCallIssue] - frees the pixels
                if i + ahead < len(files):
                    futures.append(pool.submit(work, files[i + ahead]))

    def _rejected(self, source: str, reason: str) -> Rejected:
        return Rejected(source=source, reason=reason, stamp=stamp(self._options.images / source))

    def _variants(self, file: ImageFile, image: DecodedImage, *, measured: bool) -> Iterator[_Item]:
        for number, variant in enumerate(self._options.variants):
            pixels = self._resized(image, variant)
            if pixels is None:
                continue
            size = Size(pixels.height, pixels.width)
            cells = size.cells(self._autoencoder.identity.px_per_cell)
            row = Row(
                source=file.source,
                label=file.label,
                original=(image.size.height, image.size.width),
                image=(size.height, size.width),
                cells=(cells.height, cells.width),
                variant=variant,
                content_hash=image.content_hash,
            )
            yield _Item(row=row, pixels=np.asarray(pixels), measured=measured and number == 0)

    def _resized(self, image: DecodedImage, variant: Variant) -> Image.Image | None:
        if variant == "native":
            return resize(image.pixels, native_size(image.size, self._multiple, self._options.max_side))
        side = SQUARES[variant]
        if min(image.size.height, image.size.width) < side and not self._options.upscale:
            return None
        return centre_crop(image.pixels, side)

    def _encode(self, waiting: Sequence[tuple[int, _Item]]) -> Iterator[tuple[int, Row, np.ndarray, np.ndarray]]:
        """Images of equal size together, both flips."""
        groups: dict[tuple[int, ...], list[tuple[int, _Item]]] = defaultdict(list)
        for entry in waiting:
            groups[entry[1].pixels.shape].append(entry)
        for (height, width, _), members in groups.items():
            batch = max(1, BATCH_PX[self._device.type] // (height * width))
            for start in range(0, len(members), batch):
                part = members[start : start + batch]
                images = _to_tensor(np.stack([item.pixels for _, item in part])).to(self._device)
                plain, mirrored = self._autoencoder.encode(images), self._autoencoder.encode(images.flip(-1))
                for i, (number, item) in enumerate(part):
                    row = self._measure(item, images[i], plain[i])
                    yield number, row, _stored(plain[i]), _stored(mirrored[i])

    def _measure(self, item: _Item, image: Tensor, latent: Tensor) -> Row:
        if not item.measured:
            return item.row
        decoded = self._autoencoder.decode(latent[None].half().float())[0].clamp(-1, 1)
        # range 2, since images are in [−1, 1]
        psnr = 10 * torch.log10(4 / (decoded - image).square().mean().clamp(min=1e-12))
        return dataclasses.replace(item.row, psnr=float(psnr))


def _settings(options: PrepareOptions) -> dict:
    """What all parts of a dataset must agree in."""
    return {
        "autoencoder": options.autoencoder,
        "revision": options.revision,
        "variants": list(options.variants),
        "max_side": options.max_side,
        "multiple_of_cells": options.multiple_of_cells,
        "upscale": options.upscale,
    }


def _autoencoder(options: PrepareOptions, files: Sequence[ImageFile]) -> Autoencoder:
    if options.autoencoder != PATCH_PCA:
        return load_autoencoder(options.autoencoder, revision=options.revision)
    folder = options.out / AUTOENCODER
    if not (folder / "config.json").is_file():  # written last
        PatchPCA.fit(_fitting_images(options, files)).save(folder)
    return load_autoencoder(str(folder))


def _fitting_images(options: PrepareOptions, files: Sequence[ImageFile]) -> Iterator[Float[Tensor, "3 height width"]]:
    """Some of the images, chosen evenly at random, at their native size."""
    order = noise.generator(PATCH_PCA).permutation(len(files))[:FIT_IMAGES].tolist()
    used = 0
    for number in sorted(order):
        try:
            image = decode(options.images / files[number].source)
        except RejectedImageError:
            continue
        size = native_size(image.size, PATCH * options.multiple_of_cells, options.max_side)
        yield _to_tensor(np.asarray(resize(image.pixels, size))[None])[0]
        used += 1
    if not used:
        raise DataError(
            f"none of {len(order)} images in {options.images} can be read",
            wanted="readable images to fit patch-pca to",
            fix="check the folder",
        )


def _to_tensor(images: np.ndarray) -> Float[Tensor, "batch 3 height width"]:
    """Uint8 (batch, height, width, 3) → float32 in [−1, 1]."""
    return rearrange(torch.from_numpy(images.copy()).float() / 127.5 - 1, "b h w c -> b c h w")


def _stored(latent: Float[Tensor, "channels high wide"]) -> np.ndarray:
    """(cells, channels) float16 in row-major cell order."""
    return rearrange(latent, "c h w -> (h w) c").half().cpu().numpy()
