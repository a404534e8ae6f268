"""`anyres prepare`: a folder of images → a dataset of latents, finishing what an earlier call began."""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import noise
from ..config import suggestion
from ..devices import pick_device
from ..errors import ConfigError, DataError
from ..grid import native_size
from ..latents.autoencoder import Autoencoder, AutoencoderIdentity
from ..latents.format import AUTOENCODER, REJECTED, DatasetInfo
from ..latents.loading import load_autoencoder
from ..latents.patch_pca import PATCH, PatchPCA
from ..latents.writer import DatasetWriter
from ..networks.features import MapNetwork
from ..progress import progress
from ..shapes import Float, Tensor
from .encoder import Encoder, to_images
from .images import FoundImages, ImageFile, RejectedImageError, decode, find_images, resize, stamp
from .options import PrepareOptions
from .teaching import chosen_teacher, statement, teacher_info
from .variants import SQUARES, ahead

logger = logging.getLogger(__name__)

PATCH_PCA = "patch-pca"
FIT_IMAGES = 512  # images that PatchPCA is fitted to, at most


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What a preparation did.

    Attributes:
        folder: the dataset's.
        info: what it holds now.
        variant_rows: rows of each variant.
        cells: cells of all rows.
        added: images added by this call.
        ignored: files passed over, being no images by their extension.
        seconds: that it took.
    """

    folder: Path
    info: DatasetInfo
    variant_rows: dict[str, int]
    cells: int
    added: int
    ignored: int
    seconds: float

    def __str__(self) -> str:
        info = self.info
        lines = [
            f"dataset      {self.folder}: {info.images:,} images, {info.rows:,} rows, {self.cells:,} cells, "
            f"{len(info.labels):,} labels",
            "variants     " + ", ".join(self._variant(name) for name in info.variants),
            f"added        {self.added:,} images in {self.seconds:.1f} s"
            + (f", {self.added / self.seconds:.1f} images/s" if self.added else ""),
            f"autoencoder  {info.autoencoder.describe()}: {info.autoencoder.channels} channels, "
            f"{info.autoencoder.px_per_cell} px a cell",
            f"quality      {info.reconstruction_psnr:.2f} dB between images and their decoded latents "
            f"(mean of {info.reconstruction_images:,})",
        ]
        if info.teacher is not None:
            lines.append(f"teacher      {info.teacher.describe()}")
        if info.rejected:
            lines.append(f"rejected     {info.rejected:,} files, listed in {self.folder / REJECTED}")
        if self.ignored:
            lines.append(f"ignored      {self.ignored:,} files that are not images by their extension")
        return "\n".join(lines)

    def _variant(self, name: str) -> str:
        rows = self.variant_rows.get(name, 0)
        if name == "reshaped":
            return f"{name} {rows:,}"
        small = self.info.images - rows
        return f"{name} {rows:,}" + (f" ({small:,} images are too small)" if small else "")


def prepare(options: PrepareOptions, teacher: MapNetwork | None = None) -> PrepareReport:
    """Encode a folder of images into a dataset.

    A second call finishes what an earlier one began and adds what the folder has gained. It goes by the files' paths:
    an image that was changed or removed since stays as it was encoded. One that was rejected is tried again when it
    has changed.

    Args:
        options: of the preparation.
        teacher: a network of your own whose features are stored, in the place of `options.teacher`.

    Raises:
        DataError: the images' folder is missing or empty, no image can be used, the output cannot be written, or was
            begun with other settings or by a process that still runs.
        ConfigError: the squares asked for do not fit the autoencoder's cells, or there is no label to be reshaped.
        CheckpointError: the autoencoder cannot be loaded.
        BackendError: the device is missing, or its memory does not suffice; the teacher is not installed.
    """
    started = time.perf_counter()
    device = pick_device(options.device)
    with warnings.catch_warnings(), DatasetWriter(options.out) as writer:
        # Pillow warns of what is too large, which is rejected and listed, and of damaged EXIF
        warnings.filterwarnings("ignore", module=r"PIL\.")
        found = find_images(options.images)
        _check_labels(options, found)
        writer.agree(_settings(options))
        dtype = None if options.dtype == "auto" else getattr(torch, options.dtype)
        autoencoder = _autoencoder(options, found).to(device, dtype)
        identity, scaling = autoencoder.identity, autoencoder.scaling
        _check_squares(options, identity)
        # its weights, not its name: a folder may be moved, or its content replaced
        computed_in = str(autoencoder.dtype).removeprefix("torch.")
        writer.agree({"autoencoder": f"{identity.kind} {identity.fingerprint}", "dtype": computed_in})
        guide = chosen_teacher(options, device, teacher)
        writer.agree_on_teacher(guide and teacher_info(guide, options))
        finished = writer.finished_sources()
        pending = _pending(options, found, finished, writer.rejected_stamps())
        if guide is not None and pending:
            # not by `info`, which -v shows only: disks fill up
            logger.warning("%s", statement(guide, options, pending, identity.px_per_cell))
        with progress("prepare", len(found.files), "image", done=len(found.files) - len(pending)) as bar:
            Encoder(options, autoencoder, writer, guide).run(pending, bar)
        info = writer.finish(
            autoencoder=identity,
            scaling=scaling,
            multiple_of_cells=options.multiple_of_cells,
            max_side=options.max_side,
            variants=(*options.variants, "reshaped") if options.labels_reshaped else options.variants,
        )
        return PrepareReport(
            folder=options.out,
            info=info,
            variant_rows=writer.variant_rows(),
            cells=sum(part.cells for part in writer.parts),
            added=info.images - len(finished),
            ignored=found.ignored,
            seconds=time.perf_counter() - started,
        )


def _settings(options: PrepareOptions) -> dict:
    """What all parts of a dataset must agree in, beside the autoencoder."""
    return {
        "variants": list(options.variants),
        "crop": sorted(options.crop),
        "canvas": sorted(options.canvas),
        "rescale": sorted(options.rescale),
        "reshaped": options.versions,
        "max_side": options.max_side,
        "multiple_of_cells": options.multiple_of_cells,
        "upscale": options.upscale,
    }


def _pending(
    options: PrepareOptions, found: FoundImages, finished: set[str], rejected: dict[str, str]
) -> list[ImageFile]:
    return [
        file
        for file in found.files
        if file.source not in finished
        and (not rejected.get(file.source) or rejected[file.source] != stamp(options.images / file.source))
    ]


def _check_labels(options: PrepareOptions, found: FoundImages) -> None:
    known = sorted({file.label for file in found.files})
    for name in options.labels_reshaped:
        if name not in known:
            raise ConfigError(
                f"got the label {name!r} to be reshaped, and {options.images} has no such folder",
                wanted=f"one of {', '.join(known[:8])}" + (", …" if len(known) > 8 else ""),
                fix=suggestion(name, known) or "check the spelling",
            )


def _check_squares(options: PrepareOptions, identity: AutoencoderIdentity) -> None:
    multiple = identity.px_per_cell * options.multiple_of_cells
    for variant in options.variants:
        if variant in SQUARES and SQUARES[variant] % multiple:
            raise ConfigError(
                f"got the variant {variant} with an autoencoder of {identity.px_per_cell} px a cell "
                f"and sides in multiples of {options.multiple_of_cells} cells",
                wanted=f"a square whose side is a multiple of {multiple} px",
                fix="leave the variant out, or change --multiple-of-cells",
            )


def _autoencoder(options: PrepareOptions, found: FoundImages) -> Autoencoder:
    own = options.out / AUTOENCODER
    if options.autoencoder != PATCH_PCA:
        loaded = load_autoencoder(options.autoencoder, revision=options.revision)
        if isinstance(loaded, PatchPCA) and not (own / "config.json").is_file():
            loaded.save(own)  # small enough to go with the data, which then needs nothing else
        return loaded
    if not (own / "config.json").is_file():  # written last
        _fit(options, found.files).save(own)
    return load_autoencoder(str(own))


def _fit(options: PrepareOptions, files: Sequence[ImageFile]) -> PatchPCA:
    """Fit to some of the images, chosen at random, at their native size."""
    chosen = sorted(noise.generator(PATCH_PCA).permutation(len(files))[:FIT_IMAGES].tolist())

    def load(number: int) -> Float[Tensor, "3 height width"] | None:
        try:
            image = decode(options.images / files[number].source)
        except RejectedImageError:
            return None  # it is listed when its turn comes
        size = native_size(image.size, PATCH * options.multiple_of_cells, options.max_side)
        return to_images(np.array(resize(image.pixels, size))[None], torch.device("cpu"))[0]

    def images() -> Iterator[Float[Tensor, "3 height width"]]:
        used = 0
        with progress("fit patch-pca", len(chosen), "image") as bar:
            for image in ahead(load, chosen, options.workers):
                bar.advance()
                if image is not None:
                    used += 1
                    yield image
        if not used:
            raise DataError(
                f"none of {len(chosen)} images in {options.images} can be read",
                wanted="readable images to fit patch-pca to",
                fix="check the folder",
            )

    return PatchPCA.fit(images())
