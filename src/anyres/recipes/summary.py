"""What a recipe knows of the data."""

import math
from dataclasses import dataclass

import numpy as np

from ..flow.time import TimeConfig
from ..grid import Size
from ..latents.features import TeacherInfo
from ..latents.format import LatentDataset
from ..model.config import PUBLISHED_PROJECTIONS, ProjectionConfig


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """What a recipe knows of a dataset.

    Attributes:
        num_classes: number of labels.
        channels: channels of a latent cell.
        px_per_cell: px a side of a cell.
        median_side: px; side of the square of the median image's area.
        largest: cells of the largest image.
        rows: images times variants; 0 where there is no dataset.
        cells: of all rows.
        variants: of the images.
        images: how many; 0 where there is no dataset.
        labels: their names, likewise.
        teacher: whose features are to be aligned with, if any's.
    """

    num_classes: int
    channels: int
    px_per_cell: int
    median_side: float
    largest: int
    rows: int = 0
    cells: int = 0
    variants: tuple[str, ...] = ()
    images: int = 0
    labels: tuple[str, ...] = ()
    teacher: TeacherInfo | None = None

    @classmethod
    def of(cls, dataset: LatentDataset) -> "DataSummary":
        """Summarise a dataset."""
        autoencoder = dataset.info.autoencoder
        areas = dataset.cells.prod(axis=1, dtype=np.int64)
        return cls(
            num_classes=len(dataset.info.labels),
            channels=autoencoder.channels,
            px_per_cell=autoencoder.px_per_cell,
            median_side=math.sqrt(float(np.median(areas))) * autoencoder.px_per_cell,
            largest=int(areas.max()),
            rows=len(dataset),
            cells=int(areas.sum()),
            variants=dataset.info.variants,
            images=dataset.info.images,
            labels=dataset.info.labels,
            teacher=dataset.info.teacher,
        )

    def projection(self, *, after_block: int, hidden: int) -> ProjectionConfig | None:
        """The projector to the teacher's features; none without a teacher."""
        if self.teacher is None:
            return None
        return ProjectionConfig(after_block=after_block, hidden=hidden, dim=self.teacher.dim)

    def three_shapes(self, patch: int) -> tuple[str, ...]:
        """A square, a wide and a tall size of about the median image's area, on whole tokens; WIDTHxHEIGHT."""
        multiple, side = self.px_per_cell * patch, self.median_side
        shapes = ((1.0, 1.0), (1.5, 1 / 1.5), (1 / 1.5, 1.5))
        return tuple(str(Size(round(side * h), round(side * w)).rounded(multiple)) for w, h in shapes)

    def patch_of(self, px: int) -> int:
        """The patch size at which a token is about this many px."""
        return max(1, px // self.px_per_cell)

    def noisy_times(self) -> TimeConfig:
        """Times that favour noise where cells are small.

        Neighbouring cells of few px say much the same, so that an image's outlines show through noise that would hide
        a cell by itself: what decides them are times near 1 (arXiv 2301.11093 shifts the schedule for the same reason).
        The published times were chosen for cells of 32 px.
        """
        return TimeConfig(mean=1.0) if self.px_per_cell < 16 else TimeConfig()

    def fitting_budget(self, wanted: int, patch: int) -> int:
        """`wanted` tokens, or as many as the largest image has, in whole multiples of 128."""
        return max(wanted, -(-self.largest // patch**2 // 128) * 128)


# what is assumed where no dataset is given, as by --help, which then shows all fields
EXAMPLE_SUMMARY = DataSummary(
    num_classes=10,
    channels=32,
    px_per_cell=8,
    median_side=256.0,
    largest=1024,
    teacher=TeacherInfo(identity="efficientnet-lite0", dim=112, cells=2, px=16, dtype="float16"),
)


def assumed_summary(recipe: str) -> DataSummary:
    """What is assumed of the data of a recipe, where none are given."""
    if not recipe.startswith("imagenet_"):
        return EXAMPLE_SUMMARY
    # ImageNet-1k as the published runs had it: DC-AE's latents of images of at most 2048² px, and RADIO's features
    dim = PUBLISHED_PROJECTIONS[recipe.removeprefix("imagenet_")].dim
    return DataSummary(
        num_classes=1000,
        channels=32,
        px_per_cell=32,
        median_side=256.0,
        largest=64 * 64,
        teacher=TeacherInfo(identity="radio", dim=dim, cells=1, px=16, dtype="float16"),
    )
