"""`anyres import-released`: the published latents → a dataset, without encoding anything.

The published latents are multiplied by the autoencoder's scaling factor; a dataset's are not. So they are divided by it
and stored as float16, as if they had been encoded here.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from ..errors import ConfigError, DataError
from ..grid import NATIVE_MAX_SIDE
from ..latents.autoencoder import AutoencoderIdentity, LatentScaling
from ..latents.fixed_packs import write_fixed_packs
from ..latents.format import REJECTED, DatasetInfo, LatentDataset, Variant
from ..latents.loading import load_autoencoder
from ..latents.writer import DatasetWriter, Rejected, Row
from ..progress import Bar, progress
from ..shapes import Float, Tensor
from .images import RejectedImageError, UnreadableImageError, stamp
from .options import ImportOptions
from .released_files import TYPES, ReleasedLine, read_latent, read_manifest, read_packs
from .variants import ahead


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import did.

    Attributes:
        folder: the dataset's.
        info: what it holds now.
        variant_rows: rows of each variant.
        added: rows added by this call.
        packs: fixed packs written, if any.
        seconds: that it took.
    """

    folder: Path
    info: DatasetInfo
    variant_rows: dict[str, int]
    added: int
    packs: int
    seconds: float

    def __str__(self) -> str:
        info = self.info
        lines = [
            f"dataset      {self.folder}: {info.images:,} images, {info.rows:,} rows, {len(info.labels):,} labels",
            "variants     " + ", ".join(f"{name} {self.variant_rows.get(name, 0):,}" for name in info.variants),
            f"added        {self.added:,} rows in {self.seconds:.1f} s",
            f"autoencoder  {info.autoencoder.describe()}",
        ]
        if self.packs:
            lines.append(f"packs        {self.packs:,}; to train in them: --packing.algorithm fixed")
        if info.rejected:
            lines.append(f"rejected     {info.rejected:,} latents, listed in {self.folder / REJECTED}")
        return "\n".join(lines)


def import_released(options: ImportOptions) -> ImportReport:
    """Import the published latents, finishing what an earlier call began.

    Raises:
        DataError: the manifest, the packs or the output cannot be used, no latent can be, or the packs name some that
            cannot.
        ConfigError: the manifest has a type for which no folder was given.
        CheckpointError: the autoencoder cannot be loaded.
    """
    started = time.perf_counter()
    lines = read_manifest(options.manifest)
    folders = _folders(options, lines)
    packs = read_packs(options.packs, len(lines)) if options.packs else []
    with DatasetWriter(options.out) as writer:
        writer.agree({"from": "released latents", "num_classes": options.num_classes})
        autoencoder = load_autoencoder(options.autoencoder, revision=options.revision)
        identity, scaling = autoencoder.identity, autoencoder.scaling
        writer.agree({"autoencoder": f"{identity.kind} {identity.fingerprint}"})
        finished, rejected = writer.finished_ids(), writer.rejected_stamps()
        pending = [
            line
            for line in lines
            if line.id not in finished
            and (not rejected.get(line.id) or rejected[line.id] != stamp(folders[line.variant] / line.latent_file))
        ]
        reader = _Reader(folders, identity, scaling, options.num_classes)
        with progress("import", len(lines), "latent", done=len(lines) - len(pending)) as bar:
            _write(options, writer, reader, pending, bar)
        variant_rows = writer.variant_rows()
        info = writer.finish(
            labels=[str(number) for number in range(options.num_classes)],
            autoencoder=identity,
            scaling=scaling,
            multiple_of_cells=1,
            max_side=NATIVE_MAX_SIDE,
            variants=tuple(variant for variant in TYPES.values() if variant in variant_rows),
        )
        if packs:
            write_fixed_packs(options.out, _as_rows(options, lines, packs))
        return ImportReport(
            folder=options.out,
            info=info,
            variant_rows=variant_rows,
            added=info.rows - len(finished),
            packs=len(packs),
            seconds=time.perf_counter() - started,
        )


@dataclass(frozen=True)
class _Reader:
    """From a line of the manifest to what is stored."""

    folders: dict[Variant, Path]
    identity: AutoencoderIdentity
    scaling: LatentScaling
    num_classes: int

    def __call__(self, line: ReleasedLine) -> "_Stored | Rejected":
        path = self.folders[line.variant] / line.latent_file
        try:
            return self._stored(line, path)
        except UnreadableImageError as error:
            return Rejected(source=line.id, reason=str(error), stamp="")
        except RejectedImageError as error:
            return Rejected(source=line.id, reason=str(error), stamp=stamp(path))

    def _stored(self, line: ReleasedLine, path: Path) -> "_Stored":
        released = read_latent(path)
        height, width = line.cells
        wanted = (self.identity.channels, height, width)
        px = self.identity.px_per_cell
        if tuple(released.plain.shape) != wanted or line.image != (height * px, width * px):
            raise RejectedImageError(
                f"its latent is {tuple(released.plain.shape)} of an image of {line.image[1]}x{line.image[0]} px, "
                f"and the manifest and the autoencoder say {wanted} and {px} px a cell"
            )
        if not 0 <= released.label < self.num_classes:
            raise RejectedImageError(f"its label is {released.label}, and there are {self.num_classes} classes")
        row = Row(
            source=line.image_file,
            label=str(released.label),
            original=line.original,
            image=line.image,
            cells=line.cells,
            variant=line.variant,
            # the image is not here; its name keeps its variants together, and chooses what is held out
            content_hash=hashlib.sha256(line.image_file.encode()).hexdigest(),
        )
        stored = _Stored(row, self._raw(released.plain), self._raw(released.flipped))
        if not (np.isfinite(stored.latent).all() and np.isfinite(stored.flipped).all()):
            raise RejectedImageError("its latent is not finite in float16")
        return stored

    def _raw(self, latent: Float[Tensor, "channels high wide"]) -> np.ndarray:
        """As the autoencoder gave it: (cells, channels) in row-major cell order, float16."""
        cells = rearrange(latent.float(), "c h w -> (h w) c")
        return self.scaling.from_model(cells).to(torch.float16).numpy()


@dataclass(frozen=True, eq=False)
class _Stored:
    row: Row
    latent: np.ndarray
    flipped: np.ndarray


def _write(
    options: ImportOptions, writer: DatasetWriter, reader: _Reader, pending: Sequence[ReleasedLine], bar: Bar
) -> None:
    """Part after part, in the manifest's order."""
    results = ahead(reader, pending, options.workers)
    while part := list(islice(results, options.latents_per_shard)):
        kept = [item for item in part if isinstance(item, _Stored)]
        writer.write_part(
            [item.row for item in kept],
            [item.latent for item in kept],
            [item.flipped for item in kept],
            [item for item in part if isinstance(item, Rejected)],
        )
        bar.advance(len(part))


def _folders(options: ImportOptions, lines: Sequence[ReleasedLine]) -> dict[Variant, Path]:
    """The folder of each type that the manifest has."""
    given = {"native": options.native, "square-256": options.square_256, "square-512": options.square_512}
    folders: dict[Variant, Path] = {}
    for kind, variant in TYPES.items():
        folder, lines_of = given[variant], sum(line.variant == variant for line in lines)
        if not lines_of:
            continue
        if folder is None:
            raise ConfigError(
                f"{options.manifest} has {lines_of:,} latents of type {kind}, and their folder was not given",
                wanted=f"--{variant} FOLDER",
                fix="give it, or pass the manifest of one type",
            )
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}", wanted=f"latents of type {kind}", fix="check the path")
        folders[variant] = folder
    return folders


def _as_rows(options: ImportOptions, lines: Sequence[ReleasedLine], packs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Packs of the manifest's lines → of the dataset's rows, which may lie in another order."""
    row_of = {name: row for row, name in enumerate(LatentDataset.open(options.out).ids)}
    rows = np.array([row_of.get(line.id, -1) for line in lines], dtype=np.int64)
    missing = sum(int((rows[pack] < 0).sum()) for pack in packs)
    if missing:
        raise DataError(
            f"{options.packs} names {missing:,} latents that were rejected",
            wanted="all latents that the packs name",
            fix=f"{options.out / REJECTED} says what is wrong with them: mend them and run the same command again",
        )
    return [rows[pack] for pack in packs]
