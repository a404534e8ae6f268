"""`anyres prepare`: images → a dataset of latents, finishing what an earlier call began."""

import logging
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch

from .. import noise
from ..config import suggestion
from ..devices import pick_device
from ..errors import ConfigError, DataError
from ..grid import native_size
from ..latents.autoencoder import AUTOENCODER, Autoencoder, AutoencoderIdentity
from ..latents.format import REJECTED, DatasetInfo, read_info
from ..latents.loading import load_autoencoder
from ..latents.patch_pca import PATCH, PatchPCA
from ..latents.writer import DatasetWriter
from ..networks.features import MapNetwork
from ..progress import Bar, progress
from ..ranks import Ranks
from ..shapes import Float, Tensor
from .encoder import Encoder, to_images
from .found import Source, SourceImage
from .images import RejectedImageError, decode_bytes, resize
from .options import PrepareOptions
from .sources import find_source
from .teaching import chosen_teacher, statement, teacher_info
from .variants import SQUARES, ahead

logger = logging.getLogger(__name__)

PATCH_PCA = "patch-pca"
FIT_IMAGES = 512  # images that PatchPCA is fitted to, at most
LOOK = 0.5  # seconds between two looks at what other processes have done
_BARS = count()  # alike in all processes, which prepare the same, one thing after another


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
        leads: whether this process speaks for those that prepare together.
    """

    folder: Path
    info: DatasetInfo
    variant_rows: dict[str, int]
    cells: int
    added: int
    ignored: int
    seconds: float
    leads: bool = True

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
            f"quality      {info.quality} between images and their decoded latents "
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
    """Encode the images of a source into a dataset, as one of several processes where torchrun says so.

    A second call finishes what an earlier one began and adds what the source has gained. It goes by the images' names:
    one that was changed or removed since stays as it was encoded. One that was rejected is tried again when it has
    changed.

    Args:
        options: of the preparation.
        teacher: a network of your own whose features are stored, in the place of `options.teacher`.

    Raises:
        DataError: the source is missing, damaged or empty, no image can be used, the output cannot be written, or was
            begun with other settings or by a process that still runs.
        ConfigError: the source has no such column or option, the squares asked for do not fit the autoencoder's cells,
            or there is no label to be reshaped.
        CheckpointError: the autoencoder cannot be loaded.
        BackendError: the device or a package for this source or the teacher is missing, or the device's memory does
            not suffice.
    """
    started, ranks = time.perf_counter(), Ranks.from_environment()
    options = replace(options, device=ranks.device(options.device))
    device = pick_device(options.device)
    with warnings.catch_warnings(), DatasetWriter(options.out, ranks) as writer:
        # Pillow warns of what is too large, which is rejected and listed, and of damaged EXIF
        warnings.filterwarnings("ignore", module=r"PIL\.")
        with ranks.leading_first():
            source = find_source(options)
        _check_labels(options, source)
        writer.agree(_settings(options, source))
        dtype = None if options.dtype == "auto" else getattr(torch, options.dtype)
        with ranks.leading_first():
            autoencoder = _autoencoder(options, source).to(device, dtype)
        identity, scaling = autoencoder.identity, autoencoder.scaling
        _check_squares(options, identity)
        # its weights, not its name: a folder may be moved, or its content replaced
        computed_in = str(autoencoder.dtype).removeprefix("torch.")
        writer.agree({"autoencoder": f"{identity.kind} {identity.fingerprint}", "dtype": computed_in})
        with ranks.leading_first():
            guide = chosen_teacher(options, device, teacher)
        writer.agree_on_teacher(guide and teacher_info(guide, options))
        finished = writer.finished_sources()
        pending = _pending(source, finished, writer.rejected_stamps())
        if guide is not None and pending and ranks.rank == 0:
            # not by `info`, which -v shows only: disks fill up
            logger.warning("%s", statement(guide, options, pending, identity.px_per_cell))
        done = (source.count or 0) - len(pending) if isinstance(pending, Sequence) else 0
        with progress("prepare", source.count, "image", done=done, shown=ranks.rank == 0) as bar:
            common = CommonBar(bar, ranks)
            Encoder(options, autoencoder, writer, guide).run(_own(pending, ranks), common)
            common.wait()
        writer.read()
        with ranks.leading_first():
            if ranks.rank == 0:
                writer.finish(
                    autoencoder=identity,
                    scaling=scaling,
                    multiple_of_cells=options.multiple_of_cells,
                    max_side=options.max_side,
                    variants=(*options.variants, "reshaped") if options.labels_reshaped else options.variants,
                )
            info = read_info(options.out)
        return PrepareReport(
            folder=options.out,
            info=info,
            variant_rows=writer.variant_rows(),
            cells=sum(part.cells for part in writer.parts),
            added=info.images - len(finished),
            ignored=source.ignored,
            seconds=time.perf_counter() - started,
            leads=ranks.rank == 0,
        )


class CommonBar:
    """A bar that moves with the work of all processes that share it, whenever this one's moves on."""

    def __init__(self, bar: Bar, ranks: Ranks) -> None:
        self._bar, self._ranks, self._shown = bar, ranks, 0
        self._name = f"prepared {next(_BARS)}"

    def advance(self, amount: int = 1, **figures: Any) -> None:
        """See `Bar.advance`."""
        done = self._ranks.add(self._name, amount) if self._ranks.world > 1 else self._shown + amount
        self._bar.advance(done - self._shown, **figures)
        self._shown = done

    def wait(self) -> None:
        """Until all processes have done their work, in which the bar moves on."""
        if self._ranks.world > 1:
            here = f"{self._name}, done"
            self._ranks.add(here, 1)
            while self._ranks.add(here, 0) < self._ranks.world:
                time.sleep(LOOK)
                self.advance(0)
            self.advance(0)
        self._ranks.wait()


def _own(images: Iterable[SourceImage], ranks: Ranks) -> Iterator[SourceImage]:
    """Those that this process encodes: by their names, so that none is left out or done twice as the source changes."""
    return (image for image in images if crc32(image.source.encode()) % ranks.world == ranks.rank)


def _settings(options: PrepareOptions, source: Source) -> dict:
    """What all parts of a dataset must agree in, beside the autoencoder."""
    return {
        "from": "images",
        "variants": list(options.variants),
        "crop": sorted(options.crop),
        "canvas": sorted(options.canvas),
        "rescale": sorted(options.rescale),
        "reshaped": options.versions,
        "max_side": options.max_side,
        "multiple_of_cells": options.multiple_of_cells,
        "upscale": options.upscale,
    } | ({} if source.identity is None else {"images": source.identity})


def _pending(source: Source, finished: set[str], rejected: dict[str, str]) -> Iterable[SourceImage]:
    """The images to be done: a list where they can be counted."""
    left = (
        image
        for image in source.images
        if image.source not in finished and (not rejected.get(image.source) or rejected[image.source] != image.stamp())
    )
    return left if source.count is None else list(left)


def _check_labels(options: PrepareOptions, source: Source) -> None:
    if options.labels_reshaped and source.labels is None:
        raise ConfigError(
            f"got labels to be reshaped, and those of the stream {source.name} are not known before its end",
            wanted="class labels with names, or a data set that is not streamed",
            fix="leave --streaming out",
        )
    known = sorted(source.labels or ())
    for name in options.labels_reshaped:
        if name not in known:
            raise ConfigError(
                f"got the label {name!r} to be reshaped, and {source.name} has no such label",
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


def _autoencoder(options: PrepareOptions, source: Source) -> Autoencoder:
    own = options.out / AUTOENCODER
    if options.autoencoder != PATCH_PCA:
        loaded = load_autoencoder(options.autoencoder, revision=options.revision)
        if isinstance(loaded, PatchPCA) and not (own / "config.json").is_file():
            loaded.save(own)  # small enough to go with the data, which then needs nothing else
        return loaded
    if not (own / "config.json").is_file():  # written last
        _fit(options, source).save(own)
    return load_autoencoder(str(own))


def _fit(options: PrepareOptions, source: Source) -> PatchPCA:
    """Fit to some of the images, at their native size: chosen at random, or the first ones of a stream."""

    def load(image: SourceImage) -> Float[Tensor, "3 height width"] | None:
        try:
            decoded = decode_bytes(image.read())
        except RejectedImageError:
            return None  # it is listed when its turn comes
        size = native_size(decoded.size, PATCH * options.multiple_of_cells, options.max_side)
        return to_images(np.array(resize(decoded.pixels, size))[None], torch.device("cpu"))[0]

    def images() -> Iterator[Float[Tensor, "3 height width"]]:
        chosen, read, used = _some(source), 0, 0
        with progress("fit patch-pca", len(chosen) if isinstance(chosen, Sequence) else None, "image") as bar:
            for image in ahead(load, chosen, options.workers):
                bar.advance()
                read += 1
                if image is not None:
                    used += 1
                    yield image
        if not used:
            raise DataError(
                f"none of {read} images in {source.name} can be read",
                wanted="readable images to fit patch-pca to",
                fix="check the images",
            )

    return PatchPCA.fit(images())


def _some(source: Source) -> Iterable[SourceImage]:
    """At most `FIT_IMAGES` of the images."""
    if not isinstance(source.images, Sequence):
        return islice(source.images, FIT_IMAGES)
    chosen = sorted(noise.generator(PATCH_PCA).permutation(len(source.images))[:FIT_IMAGES].tolist())
    return [source.images[number] for number in chosen]
