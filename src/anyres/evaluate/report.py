"""`anyres evaluate`: two folders of images → how near the one is to the other, with what that was measured by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from .. import __version__
from ..config import to_dict
from ..devices import pick_device
from ..files import make_folder, write_json
from ..grid import Size
from ..progress import progress
from .features import FeatureNetwork, load_network
from .metrics import (
    InceptionScore,
    Interval,
    Moments,
    frechet_distance,
    kernel_distance,
    need,
    neighbourhoods,
)
from .options import EvaluateOptions
from .pictures import Counts, Framing, batches, find

FRECHET_IMAGES = 5000  # below, a Fréchet distance is mostly bias, and is not given
LEAST_IMAGES = 10  # below, no figure means anything
BATCH = {"cpu": 4, "mps": 16, "cuda": 64}  # on a CPU large batches leave the caches, and are slower an image


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureSet:
    """A folder's features.

    Attributes:
        features: (images, dim) float32.
        moments: their mean and covariance.
        score: the Inception Score of the images.
        counts: what became of the folder's images.
    """

    features: np.ndarray
    moments: Moments
    score: float
    counts: Counts


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How near made images are to real ones, by one network's features.

    Attributes:
        network: whose features.
        framing: how images were brought to one size.
        images: made images measured.
        reference_images: real images measured.
        kid: kernel distance.
        frechet: Fréchet distance, or None below 5,000 images in a set.
        inception_score: of the made images.
        reference_inception_score: of the real ones.
        precision: see `Neighbourhoods`, as the next ones.
        recall: of the real images.
        density: of the made images.
        coverage: of the real images.
    """

    network: str
    framing: str
    images: int
    reference_images: int
    kid: Interval
    frechet: float | None
    inception_score: float
    reference_inception_score: float
    precision: float
    recall: float
    density: float
    coverage: float

    def __str__(self) -> str:
        few = f"not given below {FRECHET_IMAGES:,} images: it would be mostly bias"
        rows = [
            ("images", f"{self.images:,} against {self.reference_images:,}"),
            ("framing", self.framing),
            (f"KID ({self.network})", f"{self.kid} (95% bootstrap interval)"),
            (f"Fréchet distance ({self.network})", few if self.frechet is None else f"{self.frechet:.4g}"),
            (
                f"Inception Score ({self.network})",
                f"{self.inception_score:.4g}; of the reference {self.reference_inception_score:.4g}",
            ),
            (f"precision, recall ({self.network})", f"{self.precision:.3f}, {self.recall:.3f}"),
            (f"density, coverage ({self.network})", f"{self.density:.3f}, {self.coverage:.3f}"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def evaluate(options: EvaluateOptions) -> Evaluation:
    """Measure a folder of made images against a folder of real ones.

    Raises:
        DataError: a folder is missing, or holds too few images that can be measured.
        ConfigError: an unknown network, or a size that is none.
        BackendError: the network's package, or the device, is missing.
    """
    framing = Framing(size=Size.parse(options.size) if options.size else None, upscale=options.upscale)
    device = pick_device(options.device)
    network, batch = load_network(options.network, device), options.batch or BATCH[device.type]
    made = feature_set(options.images, network, framing, batch=batch, workers=options.workers)
    real = feature_set(options.reference, network, framing, batch=batch, workers=options.workers)
    enough = min(made.moments.count, real.moments.count) >= FRECHET_IMAGES
    result = Evaluation(
        network=network.name,
        framing=str(framing),
        images=made.counts.used,
        reference_images=real.counts.used,
        kid=kernel_distance(made.features, real.features, seed=options.seed),
        frechet=frechet_distance(made.moments, real.moments) if enough else None,
        inception_score=made.score,
        reference_inception_score=real.score,
        **to_dict(neighbourhoods(real.features, made.features)),
    )
    if options.out is not None:
        _write(options.out, result, options, {"images": made.counts, "reference": real.counts})
    return result


def feature_set(folder: Path, network: FeatureNetwork, framing: Framing, *, batch: int, workers: int) -> FeatureSet:
    """The features of a folder's images.

    Raises:
        DataError: the folder is missing, or holds too few images that can be measured.
    """
    files = find(folder)
    moments, score, counts = Moments(network.dim), InceptionScore(network.classes), Counts()
    pooled: list[np.ndarray] = []
    with progress(f"features of {folder.name}", len(files), "image") as bar:
        for pixels in batches(folder, files, framing, counts, batch=batch, workers=workers):
            found = network(torch.from_numpy(rearrange(pixels, "n h w c -> n c h w").copy()))
            pooled.append(found.pooled.float().cpu().numpy())
            moments.add(pooled[-1])
            score.add(found.probabilities.cpu().numpy())
            bar.advance(len(pixels))
    left_out = f" ({counts.unreadable} cannot be read, {counts.small} are smaller than the size)"
    need(
        counts.used,
        LEAST_IMAGES,
        f"an evaluation of {folder}" + (left_out if counts.unreadable + counts.small else ""),
        fix="use more images" + (", a smaller --size, or --upscale" if counts.small else ""),
    )
    return FeatureSet(features=np.concatenate(pooled), moments=moments, score=score.value, counts=counts)


def _write(path: Path, result: Evaluation, options: EvaluateOptions, counts: dict[str, Counts]) -> None:
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    data: dict[str, Any] = {
        "metrics": to_dict(result),
        "counts": {name: vars(count) for name, count in counts.items()},
        "settings": settings,
        "versions": {"anyres": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }
    make_folder(path.parent)
    write_json(path, data)
