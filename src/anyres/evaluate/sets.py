"""Sets of images as a network sees them: gathered as a stream, kept on disk, and cut down to some of their images."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import noise
from ..errors import DataError
from ..files import replacing
from .metrics import InceptionScore
from .moments import Moments
from .pictures import Picture

FRECHET_IMAGES = 5000  # below, a Fréchet distance is mostly bias, and is not given
KEPT = 50_000  # images of a set whose features are kept: what compares each with each would take too long with more
CHUNK = 512  # features that are summed up at once


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureSet:
    """What a network sees in a set of images.

    Those of all images are kept up to `KEPT`, else those of so many chosen at random.

    Attributes:
        count: images measured.
        names: of the kept images.
        labels: of the kept images.
        sizes: (kept, 2) px (height, width) at which they were measured.
        features: (kept, dim) float32.
        spatial: (kept, places) float32; None where they are too few for a Fréchet distance.
        probabilities: (kept, classes) float32; None by a network without classes.
        moments: of all images' features, where they are more than are kept.
        spatial_moments: of all images' spatial features, likewise.
        score: of all images, likewise.
    """

    count: int
    names: tuple[str, ...]
    labels: tuple[str, ...]
    sizes: np.ndarray
    features: np.ndarray
    spatial: np.ndarray | None
    probabilities: np.ndarray | None
    moments: Moments | None = None
    spatial_moments: Moments | None = None
    score: InceptionScore | None = None

    def __len__(self) -> int:
        return len(self.names)

    def take(self, chosen: Sequence[int] | np.ndarray) -> "FeatureSet":
        """The set of some of the kept images, also several times the same."""
        rows = np.asarray(chosen, dtype=np.int64)
        return FeatureSet(
            count=len(rows),
            names=tuple(self.names[i] for i in rows.tolist()),
            labels=tuple(self.labels[i] for i in rows.tolist()),
            sizes=self.sizes[rows],
            features=self.features[rows],
            spatial=None if self.spatial is None else self.spatial[rows],
            probabilities=None if self.probabilities is None else self.probabilities[rows],
        )

    def spread(self, count: int) -> "FeatureSet":
        """So many of the kept images, evenly spread over all of them: nobody has picked them, and all labels show."""
        return self.take(np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64)))

    def save(self, path: Path) -> None:
        """Write a .safetensors file.

        Raises:
            DataError: the disk refuses.
        """
        from safetensors.numpy import save_file

        arrays = {name: value for name in _ARRAYS if (value := getattr(self, name)) is not None}
        for name in _STREAMS:
            stream = getattr(self, name)
            if stream is not None:
                arrays |= {f"{name}.{part}": value for part, value in stream.state().items()}
        words = {"count": self.count, "names": self.names, "labels": self.labels}
        with replacing(path) as staging:
            arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}
            save_file(arrays, staging, metadata={name: json.dumps(value) for name, value in words.items()})

    @classmethod
    def load(cls, path: Path) -> "FeatureSet":
        """Read what `save` wrote.

        Raises:
            DataError: it is missing or damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
                words = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            streams: dict[str, Any] = {
                name: kind.restored(parts) if (parts := _parts(arrays, name)) else None
                for name, kind in _STREAMS.items()
            }
            return cls(
                count=words["count"],
                names=tuple(words["names"]),
                labels=tuple(words["labels"]),
                **{name: arrays.get(name) for name in _ARRAYS},
                **streams,
            )
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read: {error or type(error).__name__}",
                wanted="features as anyres wrote them",
                fix="run the command that made them again",
            ) from error


_ARRAYS = ("sizes", "features", "spatial", "probabilities")
_STREAMS: dict[str, Any] = {"moments": Moments, "spatial_moments": Moments, "score": InceptionScore}


def _parts(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}


class Collector:
    """Gathers a set, batch by batch, in memory that does not grow with it.

    Args:
        seed: of the choice of those that are kept.
        expected: about how many images there will be: too few, and nothing is gathered for the Fréchet distances.
        kept: most images whose features are kept.
    """

    def __init__(self, *, seed: int, expected: int, kept: int = KEPT) -> None:
        self.count = 0
        self._seed, self._limit, self._frechet = seed, kept, expected >= FRECHET_IMAGES
        self._streaming = expected > kept
        self._rows: list[dict[str, Any]] = []  # of kept images, and some more
        self._waiting: list[dict[str, Any]] = []
        self._streams: dict[str, Any] = {}

    def add(self, batch: Sequence[Picture], found: Mapping[str, np.ndarray]) -> None:
        """Take in a batch of pictures and what was found in them, (images, …) each, by name."""
        for i, picture in enumerate(batch):
            # a priority that depends on the image's number alone: the least stay, whatever the batches
            row: dict[str, Any] = {"priority": float(noise.generator(self._seed, "kept", self.count).random())}
            row |= {"order": self.count, "name": picture.name, "label": picture.label, "size": picture.pixels.shape[:2]}
            # copied: a part of a batch would keep all of it in memory
            row |= {name: values[i].copy() for name, values in found.items() if name != "spatial" or self._frechet}
            self._rows.append(row)
            self._waiting.append(row)
            self.count += 1
        if len(self._waiting) >= CHUNK:
            self._flush()

    def finish(self) -> FeatureSet:
        """The set."""
        self._flush()
        self._shrink()
        rows = sorted(self._rows, key=lambda row: row["order"])
        every = {name: np.stack([row[name] for row in rows]) for name in _found(rows)}
        streams = self._streams if self.count > len(rows) else {}
        return FeatureSet(
            count=self.count,
            names=tuple(row["name"] for row in rows),
            labels=tuple(row["label"] for row in rows),
            sizes=np.array([row["size"] for row in rows], dtype=np.int64).reshape(-1, 2),
            features=every.get("features", np.zeros((0, 1), np.float32)),
            spatial=every.get("spatial"),
            probabilities=every.get("probabilities"),
            **streams,
        )

    def _flush(self) -> None:
        if self._streaming and self._waiting:
            for name, values in (
                (name, np.stack([row[name] for row in self._waiting])) for name in _found(self._waiting)
            ):
                stream, kind = _STREAM_OF[name]
                self._streams.setdefault(stream, kind(values.shape[1])).add(values)
        self._waiting.clear()
        if len(self._rows) > 2 * self._limit:
            self._shrink()

    def _shrink(self) -> None:
        self._rows = sorted(self._rows, key=lambda row: row["priority"])[: self._limit]


_STREAM_OF: dict[str, tuple[str, Any]] = {
    "features": ("moments", Moments),
    "spatial": ("spatial_moments", Moments),
    "probabilities": ("score", InceptionScore),
}


def _found(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in _STREAM_OF if rows and name in rows[0]]
