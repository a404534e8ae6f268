"""A dataset in numbers: sizes, shapes, labels, and how it packs."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..grid import SHAPES, Size
from ..latents.fixed_packs import has_fixed_packs
from ..latents.format import LatentDataset
from ..packing.fixed import fixed_packs
from ..packing.plan import Algorithm, PackingConfig, PackingReport, report
from ..tables import aligned

ALGORITHMS: tuple[Algorithm, ...] = ("shuffled_best_fit", "lpfhp")
DEFAULT_BUDGETS = (512, 1024, 4096, 16384, 65536)


@dataclass(frozen=True, kw_only=True)
class DatasetReport:
    """What `anyres inspect DATA` says.

    Attributes:
        dataset: the dataset.
        tokens: of each row.
        patch: cells a side of a token.
        packings: at several budgets, by each algorithm; and the fixed packs, if there are any.
    """

    dataset: LatentDataset
    tokens: np.ndarray
    patch: int
    packings: tuple[PackingReport, ...]

    def __str__(self) -> str:
        return "\n\n".join([self._overview(), self._shapes(), self._labels(), self._packing()])

    def _overview(self) -> str:
        info, px = self.dataset.info, self.dataset.image_px
        area = np.sqrt(px.prod(axis=1, dtype=np.int64))
        quantiles = np.quantile(area, [0, 0.05, 0.5, 0.95, 1]).round().astype(int)
        cells = self.dataset.cells.prod(axis=1, dtype=np.int64)
        return aligned(
            [
                ("images", f"{info.images:,}", f"{info.rows:,} rows: {', '.join(info.variants)}"),
                ("labels", f"{len(info.labels):,}", ""),
                ("rejected", f"{info.rejected:,}", "listed in rejected.csv" if info.rejected else ""),
                ("autoencoder", info.autoencoder.describe(), f"{info.autoencoder.px_per_cell} px a cell"),
                ("quality", info.quality, f"mean of {info.reconstruction_images} images"),
                ("side of the square of equal area, px", " ".join(map(str, quantiles)), "least, 5%, median, 95%, most"),
                ("cells", f"{cells.sum():,}", f"{cells.mean():.0f} an image"),
                ("tokens", f"{self.tokens.sum():,}", f"{self.tokens.mean():.0f} an image, at patch {self.patch}"),
            ]
        )

    def _shapes(self) -> str:
        counts = Counter(Size(height, width).shape for height, width in self.dataset.image_px.tolist())
        rows = [("shape (width : height)", "rows", "share")]
        rows += [(name, f"{counts[name]:,}", f"{counts[name] / len(self.dataset):.1%}") for name in SHAPES]
        return aligned(rows)

    def _labels(self) -> str:
        counts = np.bincount(self.dataset.labels, minlength=len(self.dataset.info.labels))
        order = np.argsort(-counts, kind="stable")
        rows = [("label", "rows", "share")]
        rows += [(self.dataset.info.labels[i], f"{counts[i]:,}", f"{counts[i] / counts.sum():.1%}") for i in order[:30]]
        if len(order) > 30:
            rows.append((f"… and {len(order) - 30} more", f"{counts[order[30:]].sum():,}", ""))
        return aligned(rows)

    def _packing(self) -> str:
        rows = [("budget", "algorithm", "packs", "full", "one size only", "images a pack", "too long")]
        rows += [
            (
                f"{p.budget:,}",
                p.algorithm,
                f"{p.packs:,}",
                f"{p.efficiency:.2%}",
                f"{p.one_size_share:.1%}",
                f"{p.images_per_pack:.1f} ± {p.images_per_pack_std:.1f}",
                f"{p.shrunk:,}" if p.shrunk else "",
            )
            for p in self.packings
        ]
        return aligned(rows)


def dataset_report(dataset: LatentDataset, patch: int, budgets: tuple[int, ...]) -> DatasetReport:
    """Measure a dataset.

    Args:
        dataset: what to look at.
        patch: cells a side of a token.
        budgets: tokens; where empty, those of `DEFAULT_BUDGETS` that the longest image fits and that make several
            packs, or the longest image's length.

    Raises:
        DataError: the patch does not divide an image.
    """
    tokens = dataset.lengths(patch)
    several = tuple(b for b in DEFAULT_BUDGETS if tokens.max() <= b <= tokens.sum() // 4)
    chosen = budgets or several or (int(tokens.max()),)
    packings = tuple(
        report(tokens, PackingConfig(budget=budget, algorithm=algorithm))
        for budget in chosen
        for algorithm in ALGORITHMS
    )
    if has_fixed_packs(dataset.path):
        packs = fixed_packs(dataset, np.arange(len(dataset)))
        config = PackingConfig(budget=int(packs.tokens(tokens).max()), algorithm="fixed")
        packings += (report(tokens, config, fixed=packs),)
    return DatasetReport(dataset=dataset, tokens=tokens, patch=patch, packings=packings)
