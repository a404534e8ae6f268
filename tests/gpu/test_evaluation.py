"""Evaluation on a GPU: images apart in half precision, and sampled alike whatever the budget."""

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.evaluate.samples import make_samples, requests
from anyres.evaluate.signatures import bleeding, check_bleeding
from anyres.packing.pack import PackLayout
from tests.evaluate.test_samples import DATA, plan, real
from tests.evaluate.test_signatures import GRIDS, Grid
from tests.gpu.test_sampling_and_training import pipe_on_gpu
from tests.made import pipeline
from tests.model.helpers import random_model, small_config

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("attention", "dtype"), [("varlen", torch.bfloat16), ("flex", torch.bfloat16), ("sdpa", torch.float32)]
)
def test_images_of_a_pack_do_not_see_each_other(attention: str, dtype: torch.dtype) -> None:
    model = pipe_on_gpu(attention, dtype).model
    found = check_bleeding(model, GRIDS, [0, 1, 2])
    assert found.made is not None
    assert (found.made.value, found.verdict) == (0, "not seen")
    merged = PackLayout.from_grids([Grid(1, 31), Grid(6, 2)])
    assert bleeding(model, GRIDS, [0, 1], layout=merged) > 1e-2


def test_images_do_not_depend_on_the_budget_beyond_rounding(tmp_path) -> None:
    pipe = pipeline(random_model(small_config(patch_size=2, num_classes=3, hidden_size=128, num_heads=2)), steps=4)
    pipe.model = pipe.model.to("cuda", torch.bfloat16)
    pipe.autoencoder = pipe.autoencoder.to(torch.device("cuda"))
    wanted, made = requests(pipe, 12, plan(pipe), real(DATA)), []
    for number, budget in enumerate((4096, 10)):
        make_samples(pipe, wanted, plan(pipe), tmp_path / str(number), budget=budget)
        paths = sorted((tmp_path / str(number)).glob("*.png"))
        made.append({path.name: np.asarray(Image.open(path)).astype(float) for path in paths})
    assert len(made[0]) == 12
    for name, pixels in made[0].items():
        assert np.abs(pixels - made[1][name]).mean() < 3  # levels of 255
