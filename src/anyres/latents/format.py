"""A dataset of latents on disk: what is in it, and reading it.

    dataset.json             DatasetInfo
    manifest.parquet         a row an image and variant; columns of `MANIFEST`
    shard-NNNNN.safetensors  latents and latents_flipped, (cells, channels), float16, as the autoencoder gives them
    teacher-NNNNN.safetensors  where a teacher was named, its features of the same images; see features.py
    autoencoder/             the autoencoder, where it was fitted to these images
    rejected.csv             inputs that could not be read, with the reason
    fixed_packs.parquet      packs that were imported with the latents; see `fixed_packs.py`

An image is one contiguous slice of a shard, its cells in row-major order.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..config import from_dict, require
from ..errors import AnyResError, CheckpointError, DataError
from ..files import read_json
from ..shapes import Bool, Float, Int, Tensor
from .autoencoder import AUTOENCODER, Autoencoder, AutoencoderIdentity, LatentScaling
from .features import TeacherFeatures, TeacherInfo
from .loading import load_autoencoder
from .shards import MappedRows

FORMAT_VERSION = 1
INFO, MANIFEST_FILE, REJECTED = "dataset.json", "manifest.parquet", "rejected.csv"
SHARD = "shard-{:05d}.safetensors"

Variant = Literal["native", "square-256", "square-512", "reshaped"]

# column → Arrow type
MANIFEST: dict[str, str] = {
    "id": "string",
    "source": "string",
    "label": "int32",
    "original_height": "int32",
    "original_width": "int32",
    "image_height": "int32",
    "image_width": "int32",
    "cells_height": "int32",
    "cells_width": "int32",
    "shard": "int32",
    "cell_offset": "int64",
    "variant": "string",
    "content_hash": "string",
}


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """dataset.json.

    Attributes:
        autoencoder: what made the latents.
        scaling: how they are scaled for the network, on reading.
        labels: names; the index is the class number.
        images: source images.
        rows: images times variants.
        rejected: inputs that could not be read.
        channel_mean: mean of each channel over all cells, unscaled.
        channel_std: standard deviation likewise.
        reconstruction_psnr: dB between images and what their latents decode to, the mean over a sample of images;
            None where latents were imported without the images.
        reconstruction_images: images of that sample.
        multiple_of_cells: cells that sides are multiples of.
        max_side: px; images of this side squared or more were reduced to that area.
        variants: which were made.
        teacher: whose features are beside the latents, if any's.
        format_version: of these files.
    """

    autoencoder: AutoencoderIdentity
    scaling: LatentScaling
    labels: tuple[str, ...]
    images: int
    rows: int
    rejected: int
    channel_mean: tuple[float, ...]
    channel_std: tuple[float, ...]
    reconstruction_psnr: float | None
    reconstruction_images: int
    multiple_of_cells: int
    max_side: int
    variants: tuple[Variant, ...]
    teacher: TeacherInfo | None = None
    format_version: int = field(default=FORMAT_VERSION)

    @property
    def quality(self) -> str:
        """The dB between images and their decoded latents, in words."""
        return "not measured" if self.reconstruction_psnr is None else f"{self.reconstruction_psnr:.2f} dB"


class LatentDataset:
    """A prepared dataset, memory-mapped; safe to read from several threads.

    Args:
        path: its folder.
        info: its dataset.json.
        table: its manifest, a pyarrow Table.
    """

    def __init__(self, path: Path, info: DatasetInfo, table: Any) -> None:
        self.path, self.info, self._table = path, info, table
        self.labels = self._numbers("label").astype(np.int64)
        self.cells = np.stack([self._numbers("cells_height"), self._numbers("cells_width")], axis=1)
        self.image_px = np.stack([self._numbers("image_height"), self._numbers("image_width")], axis=1)
        self.original_px = np.stack([self._numbers("original_height"), self._numbers("original_width")], axis=1)
        self._shards, self._offsets = self._numbers("shard"), self._numbers("cell_offset")
        self._text: dict[str, tuple[str, ...]] = {}
        self._rows = MappedRows(
            path,
            SHARD,
            self._shards,
            self._offsets,
            self.cells.prod(axis=1, dtype=np.int64),
            channels=info.autoencoder.channels,
        )
        self._features: TeacherFeatures | None = None

    @classmethod
    def open(cls, path: str | Path) -> "LatentDataset":
        """Open a folder that `anyres prepare` wrote.

        Raises:
            DataError: it is missing, unfinished, damaged, or of a newer format.
        """
        path = Path(path)
        info = read_info(path)
        table = read_table(
            path / MANIFEST_FILE, "manifest", fix="run anyres prepare again on the same folder: it keeps what is there"
        )
        missing = [name for name in MANIFEST if name not in table.column_names]
        if missing or table.num_rows != info.rows:
            raise DataError(
                f"{path}: the manifest has {table.num_rows} rows"
                + (f" and lacks {', '.join(missing)}" if missing else f", and {INFO} says {info.rows}"),
                wanted="files of one preparation",
                fix="run anyres prepare again on the same folder",
            )
        dataset = cls(path, info, table)
        ends = dataset._offsets + dataset.cells.prod(axis=1, dtype=np.int64)
        dataset._rows.check(np.maximum, ends, "cells")
        return dataset

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def ids(self) -> tuple[str, ...]:
        """Each row's name: source#variant."""
        return self._strings("id")

    @property
    def sources(self) -> tuple[str, ...]:
        """Each row's image, as a path relative to the folder that was prepared."""
        return self._strings("source")

    @property
    def variants(self) -> tuple[str, ...]:
        """Each row's variant; "reshaped" ones, of which an image has several, are numbered: reshaped-1, …."""
        return self._strings("variant")

    @property
    def reshaped(self) -> np.ndarray:
        """True for the rows of further versions: crops, canvases, reductions."""
        return np.array([variant.startswith("reshaped") for variant in self.variants], dtype=bool)

    @property
    def content_hashes(self) -> tuple[str, ...]:
        """Each row's hash of the image file."""
        return self._strings("content_hash")

    def read(self, index: int, *, flipped: bool = False) -> Float[Tensor, "cells channels"]:
        """A row's latent in row-major cell order, float32, scaled as the network sees it."""
        return self.scaling.to_model(self.read_raw(index, flipped=flipped).float())

    def read_raw(self, index: int, *, flipped: bool = False) -> Float[Tensor, "cells channels"]:
        """A row's latent as it is stored, float16, as the autoencoder gave it."""
        return self._rows.read(index, flipped=flipped)

    def views(
        self, indices: Int[np.ndarray, "some"], flipped: Bool[np.ndarray, "some"]
    ) -> list[Float[Tensor, "_ channels"]]:
        """Rows' latents, float16, as they are stored, in the map itself: nothing may write to them."""
        return self._rows.views(indices, flipped)

    @property
    def scaling(self) -> LatentScaling:
        """From stored latents to those that the network sees."""
        return self.info.scaling

    def features(self) -> TeacherFeatures:
        """The teacher's features of each row.

        Raises:
            DataError: there are none, or their files are missing, damaged or of another size.
        """
        if self.info.teacher is None:
            raise DataError(
                f"{self.path} holds no teacher's features",
                wanted="features to align with",
                fix="prepare the images with --teacher into a new folder, or train with --no-repa",
            )
        if self._features is None:
            self._features = TeacherFeatures(self.path, self.info.teacher, self.cells, self._shards, self._offsets)
        return self._features

    def lengths(self, patch: int) -> np.ndarray:
        """Tokens of each row, int64.

        Raises:
            DataError: the patch does not divide an image, which is named.
        """
        wrong = np.flatnonzero((self.cells % patch).any(axis=1))
        if len(wrong):
            height, width = self.cells[wrong[0]].tolist()
            raise DataError(
                f"{len(wrong)} of {len(self)} latents have sides that patch size {patch} does not divide; "
                f"{self.sources[wrong[0]]} has {width}x{height} cells",
                wanted=f"sides that are multiples of {patch} cells",
                fix=f"prepare the images with --multiple-of-cells {patch}",
            )
        return (self.cells // patch).prod(axis=1, dtype=np.int64)

    def held_out(self, share: float) -> np.ndarray:
        """True for the rows of about this share of the images, chosen by their content alone.

        All variants of an image fall on one side, and so do copies of it; other images do not change the choice.

        Raises:
            ConfigError: the share is not in [0, 1].
        """
        require(0 <= share <= 1, f"a held-out share of {share}", "a share between 0 and 1")
        chosen = {name: fraction(name) < share for name in set(self.content_hashes)}
        return np.array([chosen[name] for name in self.content_hashes], dtype=bool)

    def autoencoder(self) -> Autoencoder:
        """The autoencoder that made the latents.

        Raises:
            CheckpointError: it cannot be loaded, or what has its name now is another one.
            ConfigError, DataError: nothing has its name any more; see `hub.resolve`.
        """
        own = self.path / AUTOENCODER
        identity = self.info.autoencoder
        loaded = load_autoencoder(str(own) if own.is_dir() else identity.name, revision=identity.revision)
        if not loaded.identity.same_as(identity):
            raise CheckpointError(
                f"{self.path} was prepared with {identity.describe()}, but there is now {loaded.identity.describe()}",
                wanted="the autoencoder that made the latents",
                fix="restore it, or prepare the images again into another folder",
            )
        return loaded

    def _numbers(self, column: str) -> np.ndarray:
        return self._table.column(column).to_numpy()

    def _strings(self, column: str) -> tuple[str, ...]:
        # made when asked for: a million Python strings are slow to make
        if column not in self._text:
            self._text[column] = tuple(self._table.column(column).to_pylist())
        return self._text[column]


def read_table(path: Path, what: str, *, fix: str) -> Any:
    """Read one of the dataset's Parquet files, as a pyarrow Table.

    Args:
        path: the file.
        what: it is, for the message.
        fix: what to do where it is damaged.

    Raises:
        DataError: it is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"the {what} {path} cannot be read: {error}", wanted="the file as anyres prepare wrote it", fix=fix
        ) from error


def read_info(path: Path) -> DatasetInfo:
    """Read a dataset's dataset.json.

    Raises:
        DataError: the folder or the file is missing, the file is damaged, or of a newer format.
    """
    if not path.is_dir():
        raise DataError(
            f"there is no folder {path}", wanted="a dataset, as anyres prepare writes it", fix="check the path"
        )
    if not (path / INFO).is_file():
        unfinished = (path / ".parts").is_dir()
        raise DataError(
            f"{path} holds {'an unfinished preparation' if unfinished else 'no dataset'}: it has no {INFO}",
            wanted="a dataset, as anyres prepare writes it",
            fix="run the same anyres prepare command again to finish it"
            if unfinished
            else "run: anyres prepare IMAGES --out DATA",
        )
    data = read_json(path / INFO)
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path / INFO} has format version {version}",
            wanted=f"version {FORMAT_VERSION}",
            fix="use the version of anyres that wrote it, or prepare the images again",
        )
    try:
        return from_dict(DatasetInfo, data, where=str(path / INFO))
    except AnyResError as error:
        raise DataError(error.got, wanted=error.wanted, fix=error.fix) from error


def fraction(name: str) -> float:
    """A number in [0, 1) that follows from a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
