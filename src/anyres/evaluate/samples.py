"""Images sampled to be measured: which ones follows from the seed alone; those that are there are not made again."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from .. import noise
from ..config import differences, from_dict, to_dict
from ..errors import ConfigError, DataError
from ..files import make_folder, read_json, write_json
from ..grid import Size
from ..networks.features import weights_hash
from ..prepare.images import ImageFile
from ..progress import progress
from ..ranks import Ranks
from ..sample.pipeline import Pipeline
from ..sample.request import ImageRequest, SamplingSettings
from ..sample.writer import file_name, recipe_of, save_images
from .sets import FeatureSet
from .sources import FolderSource

Labels = Literal["data", "balanced", "random"]
RECORD = "sampling.json"


@dataclass(frozen=True, kw_only=True)
class SamplingRecord:
    """sampling.json: what the images of a folder were made with; the number of images may grow.

    Attributes:
        model: as it was named.
        weights: a hash of them.
        settings: of the sampler.
        labels: "data", as often as in the reference; "balanced", each as often; or "random", drawn evenly.
        size: px, or "data": as in the reference.
        seed: the first image's; the others follow.
        reference: a hash of the reference's images, where labels or sizes are theirs.
        dtype: of the network's products.
    """

    model: str
    weights: str
    settings: SamplingSettings
    labels: Labels
    size: str
    seed: int
    reference: str
    dtype: str

    def words(self) -> dict[str, str]:
        """For the report."""
        labels = {
            "data": "as often as in the reference",
            "balanced": "each as often as the others",
            "random": "drawn at random, each as likely as the others",
        }
        sizes = "those of the reference, each with its label" if self.size == "data" else self.size
        settings = {name: str(value) for name, value in to_dict(self.settings).items()}
        return {
            "labels": labels[self.labels],
            "sizes": sizes,
            "seeds": f"from {self.seed} on, one an image",
            **settings,
            "weights": self.weights,
            "dtype": self.dtype,
        }


def record(
    pipe: Pipeline, model: str, settings: SamplingSettings, *, labels: Labels, size: Size | None, seed: int, inputs: str
) -> SamplingRecord:
    """What images will be made with.

    Args:
        pipe: what makes them.
        model: how it was named.
        settings: of the sampler.
        labels: which labels.
        size: of all, or None: those of the reference.
        seed: of the first image.
        inputs: the reference's hash of its images.
    """
    return SamplingRecord(
        model=model,
        weights=weights_hash(pipe.model.state_dict())[:16],
        settings=settings,
        labels=labels,
        size=str(size) if size else "data",
        seed=seed,
        reference=inputs if labels == "data" or size is None else "",
        dtype=pipe.model.precision,
    )


def requests(pipe: Pipeline, count: int, plan: SamplingRecord, real: FeatureSet) -> tuple[ImageRequest, ...]:
    """Which images to make: the first ones are the same whatever their number.

    Args:
        pipe: its labels and its px a token.
        count: number of images.
        plan: how to choose them.
        real: images whose labels and sizes are taken.

    Raises:
        ConfigError: the reference's labels are not the model's, or a size is not a multiple of a token.
    """
    fixed = None if plan.size == "data" else Size.parse(plan.size)
    sizes: dict[str, Iterator[Size]] = {}

    def chosen() -> Iterator[tuple[str, Size]]:
        if plan.labels == "data":
            yield from ((real.labels[row], Size(*real.sizes[row].tolist())) for row in _rows(real, plan, pipe))
        for number in _labels(plan, len(pipe.labels.names)):
            label = pipe.labels.name(number)
            yield label, fixed or next(sizes.setdefault(label, _sizes(real, plan.seed, label)))

    return tuple(
        ImageRequest(
            label=pipe.labels.names.index(label),
            size=fixed or size,
            grid=(fixed or size).grid(pipe.px_per_token),
            seed=plan.seed + i,
        )
        for i, (label, size) in enumerate(itertools.islice(chosen(), count))
    )


def make_samples(
    pipe: Pipeline, wanted: tuple[ImageRequest, ...], plan: SamplingRecord, folder: Path, *, budget: int | None
) -> FolderSource:
    """Make the images that are not there yet, each process its part; every image depends on its own request only.

    Args:
        pipe: what makes them.
        wanted: the images.
        plan: what they are made with.
        folder: where they are kept.
        budget: tokens sampled together.

    Raises:
        DataError: the folder holds images that were made with something else, or cannot be written to.
    """
    ranks = Ranks.from_environment()
    if ranks.rank == 0:
        _keep_record(folder, plan)
    ranks.wait()
    recipes = {request: recipe_of(pipe, plan.settings, request, model=plan.model) for request in wanted}
    missing = [request for request in wanted if not (folder / file_name(recipes[request])).is_file()]
    packs = pipe.packs(missing[ranks.rank :: ranks.world], budget)
    with progress("sample", len(wanted), "image", done=len(wanted) - len(missing)) as bar:
        for pack in packs:
            images = pipe.decode(pipe.latents(pack, plan.settings, budget=budget))
            save_images(images, [recipes[r] for r in pack], folder, contact_sheet=False, overwrite=True)
            bar.advance(len(pack) * ranks.world)
    ranks.wait()
    files = (ImageFile(file_name(recipes[request]), pipe.labels.name(request.label)) for request in wanted)
    return FolderSource(folder, tuple(files))


def _keep_record(folder: Path, plan: SamplingRecord) -> None:
    make_folder(folder)
    path = folder / RECORD
    if path.is_file():
        changed = list(differences(from_dict(SamplingRecord, read_json(path), where=str(path)), plan))
        if changed:
            raise DataError(
                f"{folder} holds images that were made with something else: {'; '.join(changed)}",
                wanted="the model and the settings that they were made with",
                fix="choose another --out, or remove that folder",
            )
    elif any(folder.glob("*.png")):
        raise DataError(f"{folder} holds images without a {RECORD}", wanted="a new folder", fix="choose another --out")
    write_json(path, to_dict(plan))


def _rows(real: FeatureSet, plan: SamplingRecord, pipe: Pipeline) -> Iterator[int]:
    """Rows of the reference, all once before any again."""
    unknown = sorted(set(real.labels) - set(pipe.labels.names))
    if unknown:
        raise ConfigError(
            f"the reference has labels that the model does not know: {', '.join(unknown[:4])}",
            wanted=f"labels of the model: {', '.join(pipe.labels.names[:8])}",
            fix="use --labels balanced, or a reference in folders named by the model's labels",
        )
    turn = 0
    while True:
        yield from noise.generator(plan.seed, "rows", turn).permutation(len(real)).tolist()
        turn += 1


def _labels(plan: SamplingRecord, classes: int) -> Iterator[int]:
    turn = 0
    while True:
        rng = noise.generator(plan.seed, "labels", turn)
        yield from (rng.permutation(classes) if plan.labels == "balanced" else rng.integers(classes, size=1)).tolist()
        turn += 1


def _sizes(real: FeatureSet, seed: int, label: str) -> Iterator[Size]:
    """Sizes of the reference's images of a label, all once before any again; of any label where it has none."""
    rows = np.flatnonzero([name == label for name in real.labels])
    rows = rows if len(rows) else np.arange(len(real))
    turn = 0
    while True:
        for row in rows[noise.generator(seed, "sizes", label, turn).permutation(len(rows))].tolist():
            yield Size(*real.sizes[row].tolist())
        turn += 1
