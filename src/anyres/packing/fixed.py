"""The packs that a dataset brings, as the published latents do, for training in just these."""

import numpy as np

from ..errors import ConfigError
from ..latents.fixed_packs import read_fixed_packs
from ..latents.format import LatentDataset
from .algorithms import Packs


def fixed_packs(dataset: LatentDataset, rows: np.ndarray) -> Packs:
    """A dataset's fixed packs, in the numbers of the rows that are trained on.

    Args:
        dataset: the latents.
        rows: those to be packed; they may be more than the packs hold.

    Raises:
        DataError: the dataset brings no packs, or damaged ones.
        ConfigError: the packs hold other rows: they cannot be kept as they are.
    """
    stored = read_fixed_packs(dataset.path, len(dataset))
    number = np.full(len(dataset), -1, dtype=np.int64)
    number[rows] = np.arange(len(rows))
    images = number[stored.rows]
    if (images < 0).any():
        raise ConfigError(
            f"{int((images < 0).sum())} rows of the fixed packs of {dataset.path} are held out",
            wanted="all that the packs hold, to train on",
            fix="set --held-out.share 0, or leave --packing.algorithm at its default",
        )
    return Packs(images, stored.offsets)
