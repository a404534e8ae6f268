"""Encoding pictures into the parts of a dataset, in bounded memory."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from einops import rearrange

from ..devices import pick_device
from ..errors import BackendError
from ..grid import Cells, Grid
from ..latents.autoencoder import Autoencoder
from ..latents.writer import DatasetWriter, Rejected, Row
from ..networks.teacher import Teacher
from ..progress import Bar
from ..shapes import Float, Tensor, UInt8
from .found import SourceImage
from .options import PrepareOptions
from .variants import Picture, ahead, make_pictures

MEASURED_PER_PART = 16  # images whose reconstruction is measured, of each part
# px decoded before they are grouped by size and encoded, about; two such windows are held. On a GPU a whole part, since
# it wants many of equal size
WINDOW_PX = {"cpu": 2**25, "cuda": 2**27, "mps": 2**25}
PART_BYTES = 2**28  # of a shard, about
BATCH_PX = {"cpu": 2**20, "cuda": 2**22, "mps": 2**21}  # px encoded together, both flips, unless the options say


@dataclass(frozen=True, eq=False, kw_only=True)
class _Encoded:
    """A picture's latents.

    Attributes:
        row: what the dataset will say of it.
        latent: (cells, channels) float16.
        flipped: of the mirrored picture.
        features: the teacher's, (features, dim), and those of the mirrored picture; none without a teacher.
    """

    row: Row
    latent: np.ndarray
    flipped: np.ndarray
    features: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Batch:
    """Pictures of one size, whose latents may still be on their way from the device.

    Attributes:
        numbers: of the pictures in their window.
        latents: (2·pictures, cells, channels) float16, the mirrored ones after the others.
        psnr: of as many of the first as were measured, in dB.
        features: the teacher's, (pictures, features, dim), and those of the mirrored pictures; none without a teacher.
        arrived: on a GPU, when both are on the host.
    """

    numbers: list[int]
    latents: Tensor
    psnr: Tensor
    features: tuple[np.ndarray, ...]
    arrived: torch.cuda.Event | None


@dataclass(eq=False)
class _Part:
    """A part being built: the images so far, those not yet encoded, and stamps of those with a latent not finite."""

    images: int = 0
    bytes: int = 0
    window_px: int = 0
    window: list[Picture] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    encoded: list[_Encoded] = field(default_factory=list)
    spoilt: dict[str, str] = field(default_factory=dict)
    measured: int = 0


class Encoder:
    """Encodes images and writes them, part after part.

    Decoding, encoding and writing overlap: threads decode a few images ahead, and while one window of pictures is
    encoded and written behind, the next is gathered. A GPU encodes a batch while the one before it is fetched and the
    next is put together.

    Args:
        options: of the preparation.
        autoencoder: on its device.
        writer: of the dataset.
        teacher: whose features are stored, too, if any's.
    """

    def __init__(
        self, options: PrepareOptions, autoencoder: Autoencoder, writer: DatasetWriter, teacher: Teacher | None = None
    ) -> None:
        self._options, self._autoencoder, self._writer = options, autoencoder, writer
        self._teacher = teacher
        self._device = pick_device(options.device)
        self._batch_px = options.batch_px or BATCH_PX[self._device.type]
        self._window_px = WINDOW_PX[self._device.type]

    def run(self, images: Iterable[SourceImage], bar: Bar) -> None:
        """Encode these images.

        Where a part ends follows from the images alone, so equal inputs give equal files, however many threads decode.

        Raises:
            DataError: the disk is full or refuses.
            BackendError: the device's memory does not suffice.
        """
        px_per_cell = self._autoencoder.identity.px_per_cell
        part, task = _Part(), None
        made = ahead(lambda image: make_pictures(self._options, image, px_per_cell), images, self._options.workers)
        with ThreadPoolExecutor(1) as behind:
            for pictures in made:
                self._add(part, pictures)
                full = part.images >= self._options.images_per_shard or part.bytes >= PART_BYTES
                if full or part.window_px >= self._window_px:
                    task = self._hand_over(behind, task, part, bar, last=full)
                    part = _Part() if full else part
            if part.images:
                task = self._hand_over(behind, task, part, bar, last=True)
            if task is not None:
                task.result()

    def _add(self, part: _Part, pictures: tuple[Picture, ...] | Rejected) -> None:
        part.images += 1
        if isinstance(pictures, Rejected):
            part.rejected.append(pictures)
            return
        channels = self._autoencoder.identity.channels
        for picture in pictures:
            part.window.append(picture)
            part.window_px += picture.row.image[0] * picture.row.image[1]
            part.bytes += 2 * 2 * channels * picture.row.cells[0] * picture.row.cells[1]
            if self._teacher is not None:
                part.bytes += 2 * self._teacher.bytes * self._grid(picture.row).tokens

    def _hand_over(
        self, behind: ThreadPoolExecutor, task: Future[None] | None, part: _Part, bar: Bar, *, last: bool
    ) -> Future[None]:
        """Let the window be encoded behind, once the one before it is done."""
        if task is not None:
            task.result()
        window, part.window, part.window_px = part.window, [], 0
        return behind.submit(self._work, part, window, bar, last)

    def _work(self, part: _Part, window: list[Picture], bar: Bar, last: bool) -> None:
        self._encode(part, window)
        bar.advance(len({picture.row.source for picture in window}))
        if last:
            self._write(part)
            bar.advance(len(part.rejected))

    def _encode(self, part: _Part, window: list[Picture]) -> None:
        """Pictures of equal size together, both flips."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, picture in enumerate(window):
            groups[picture.pixels.shape].append(number)
        encoded: dict[int, _Encoded] = {}
        waiting: _Batch | None = None
        for (height, width, _), members in groups.items():
            together = max(1, self._batch_px // (2 * height * width))
            for first in range(0, len(members), together):
                numbers = members[first : first + together]
                batch = self._begin(part, numbers, window)
                if waiting is not None:
                    encoded |= _finish(waiting, window)
                waiting = batch
        if waiting is not None:
            encoded |= _finish(waiting, window)
        for number, picture in enumerate(window):
            item = encoded[number]
            if not (np.isfinite(item.latent).all() and np.isfinite(item.flipped).all()):
                part.spoilt[item.row.source] = picture.image.stamp()
        part.encoded += [encoded[number] for number in range(len(window))]

    def _begin(self, part: _Part, numbers: list[int], window: list[Picture]) -> _Batch:
        """Have pictures of a window encoded; a GPU is not waited for, unless a teacher looks at them too."""
        pixels = np.stack([window[number].pixels for number in numbers])
        try:
            images = to_images(pixels, self._device)
            # the mirrored picture is encoded, not the latent mirrored: autoencoders do not commute with it
            latents = self._autoencoder.encode(torch.cat([images, images.flip(-1)])).half()
            measured = min(len(numbers), MEASURED_PER_PART - part.measured)
            psnr = self._psnr(images[:measured], latents[:measured])
            features = self._features(pixels, self._grid(window[numbers[0]].row))
        except torch.OutOfMemoryError as error:
            raise BackendError(
                f"{self._device} has too little memory to encode {len(numbers)} images of "
                f"{pixels.shape[2]}x{pixels.shape[1]} px at once, with their mirror images",
                wanted="memory for them",
                fix="lower --batch-px, or --max-side; what was finished is kept",
            ) from error
        part.measured += measured
        on_gpu = self._device.type == "cuda"
        rows = rearrange(latents, "b c h w -> b (h w) c").contiguous()  # cells in row-major order
        kept, psnr = (tensor.to("cpu", non_blocking=on_gpu) for tensor in (rows, psnr))
        arrived = torch.cuda.Event() if on_gpu else None
        if arrived is not None:
            arrived.record(torch.cuda.current_stream(self._device))
        return _Batch(numbers=numbers, latents=kept, psnr=psnr, features=features, arrived=arrived)

    def _features(self, pixels: UInt8[np.ndarray, "batch height width 3"], grid: Grid) -> tuple[np.ndarray, ...]:
        """The teacher's features of images, and of the mirrored ones; nothing where there is no teacher."""
        if self._teacher is None:
            return ()
        dtype = self._autoencoder.dtype
        with torch.autocast(self._device.type, dtype=dtype, enabled=dtype != torch.float32):
            # networks do not commute with mirroring either
            return tuple(self._teacher.features(seen, grid) for seen in (pixels, pixels[:, :, ::-1].copy()))

    def _grid(self, row: Row) -> Grid:
        """A feature's squares in a picture."""
        return Cells(*row.cells).grid(self._options.multiple_of_cells)

    def _psnr(
        self, images: Float[Tensor, "batch 3 height width"], latents: Float[Tensor, "batch channels high wide"]
    ) -> Float[Tensor, "batch"]:
        """Between images and what is kept of them, in dB."""
        if not len(images):
            return images.new_empty(0)
        decoded = self._autoencoder.decode(latents.float()).clamp(-1, 1)
        # range 2, since images are in [−1, 1]
        return 10 * torch.log10(4 / (decoded - images).square().mean((1, 2, 3)).clamp(min=1e-12))

    def _write(self, part: _Part) -> None:
        """Write a part; an image of which any latent is not finite is rejected whole."""
        kept = [item for item in part.encoded if item.row.source not in part.spoilt]
        reason = "its latent is not finite in float16"
        part.rejected += [Rejected(source=name, reason=reason, stamp=at) for name, at in sorted(part.spoilt.items())]
        self._writer.write_part(
            [item.row for item in kept],
            [item.latent for item in kept],
            [item.flipped for item in kept],
            part.rejected,
            [item.features for item in kept],
        )


def to_images(pixels: np.ndarray, device: torch.device) -> Float[Tensor, "batch 3 height width"]:
    """Uint8 (batch, height, width, 3) → float32 in [−1, 1] on a device; a GPU is not waited for."""
    host = torch.from_numpy(pixels)
    if device.type == "cuda":
        host = host.pin_memory()
    return rearrange(host.to(device, non_blocking=device.type == "cuda").float() / 127.5 - 1, "b h w c -> b c h w")


def _finish(batch: _Batch, window: list[Picture]) -> dict[int, _Encoded]:
    """Take a batch's latents, once they are there."""
    if batch.arrived is not None:
        batch.arrived.synchronize()
    plain, mirrored = batch.latents.numpy().reshape(2, len(batch.numbers), *batch.latents.shape[1:])
    psnr = batch.psnr.tolist()
    found = {}
    for i, number in enumerate(batch.numbers):
        row = window[number].row
        if i < len(psnr) and math.isfinite(psnr[i]):
            row = dataclasses.replace(row, psnr=psnr[i])
        features = tuple(array[i] for array in batch.features)
        found[number] = _Encoded(row=row, latent=plain[i], flipped=mirrored[i], features=features)
    return found
