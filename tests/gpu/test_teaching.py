"""A teacher's features on a GPU are those of a CPU, to rounding."""

from pathlib import Path

import pytest
import torch

from anyres.latents.format import LatentDataset
from anyres.prepare.encode import prepare
from anyres.prepare.options import PrepareOptions
from tests.made import patch_pca, picture_folder

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("multiple", [2, 4])
def test_features_are_those_of_a_cpu(tmp_path: Path, multiple: int) -> None:
    """At the network's stride, and reduced to half."""
    images = picture_folder(tmp_path / "images")
    patch_pca().save(tmp_path / "autoencoder")
    options = {"images": images, "autoencoder": str(tmp_path / "autoencoder"), "multiple_of_cells": multiple}
    options |= {"teacher": "efficientnet-lite2"}
    prepare(PrepareOptions(out=tmp_path / "cpu", device="cpu", **options))
    prepare(PrepareOptions(out=tmp_path / "gpu", device="cuda", **options))
    exact, found = (LatentDataset.open(tmp_path / name) for name in ("cpu", "gpu"))
    for row in range(len(exact)):
        for flipped in (False, True):
            pair = [data.features().read(row, flipped=flipped).float() for data in (exact, found)]
            assert torch.nn.functional.cosine_similarity(*pair, dim=1).min() > 0.999
