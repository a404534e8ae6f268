"""A model whose training times moved with the size is sampled at times that move likewise, and does not forget it."""

import json
from dataclasses import replace

import pytest
import torch

from anyres.errors import ConfigError
from anyres.flow.time import TimeConfig, TimeShift
from anyres.packing.pack import PackShape
from anyres.sample.pipeline import Pipeline
from anyres.sample.request import make_requests
from anyres.sample.start import Start
from anyres.train.loop import train
from tests.made import dataset, picture
from tests.sample.helpers import small_pipeline, watched
from tests.train.test_run import settings

SHIFT = TimeShift(power=0.5, base=9)
SIZES = ("24x24", "24x24", "48x48", "8x16", "72x8")  # 9, 9, 36, 2 and 9 tokens
FACTORS = (1.0, 1.0, 2.0, (2 / 9) ** 0.5, 1.0)


@pytest.fixture
def pipe():
    moved = small_pipeline()
    moved.time_shift = SHIFT
    return moved


def requests_for(pipe, sizes=SIZES, **options):
    return make_requests("cloud", sizes, None, table=pipe.labels, px_per_token=pipe.px_per_token, **options)


@pytest.mark.parametrize("solver", ["euler", "heun", "sde"])
def test_each_size_is_sampled_at_its_own_times(pipe, solver, monkeypatch):
    chosen = replace(pipe.defaults, solver=solver, guidance=1.0)
    seen = []
    for size in ("24x24", "48x48", "8x16"):
        with watched(pipe.model, monkeypatch) as calls:
            pipe.latents(requests_for(pipe, [size]), chosen)
        seen.append(sorted(set(calls.times), reverse=True))
    base, more, fewer = seen
    assert base == [round(t, 6) for t in chosen.times()[:-1]]
    for times, factor in ((more, 2.0), (fewer, (2 / 9) ** 0.5)):
        assert times == pytest.approx([factor * t / (1 + (factor - 1) * t) for t in base], abs=1e-5)
    assert len(base) == 4


def test_images_of_all_sizes_are_what_they_are_alone(pipe):
    requests = requests_for(pipe)
    assert [[r.grid.tokens for r in pack] for pack in pipe.packs(requests)] == [[9, 9], [36], [2], [9]]
    together = pipe.latents(requests, pipe.defaults, shape=PackShape.fitting(72, 4, 36))
    for made, request in zip(together, requests, strict=True):
        alone = pipe.latents([request], pipe.defaults, shape=PackShape.fitting(72, 4, 36))[0]
        assert torch.equal(made, alone)
    plain = small_pipeline()
    assert len(plain.packs(requests)) == 1
    unmoved = plain.latents(requests, plain.defaults)
    for made, as_before, factor in zip(together, unmoved, FACTORS, strict=True):
        assert torch.allclose(made, as_before, rtol=1e-3, atol=1e-4) == (factor == 1)


def test_guidance_acts_by_the_time_that_an_image_is_at(pipe, monkeypatch):
    """At most 0.6; uniform steps are at 1, 0.75, 0.5, 0.25, which are 1, 0.86, 0.67, 0.4 at twice the shift."""
    for size, guided in (("24x24", 2), ("48x48", 1)):
        with watched(pipe.model, monkeypatch) as calls:
            pipe.latents(requests_for(pipe, [size]), pipe.defaults)
        assert sum(len(set(labels)) > 1 for labels in calls.labels) == guided


def test_a_strength_is_measured_by_the_moved_times(pipe):
    """The last of ten steps starts at 0.1, of an image of four times the tokens at 0.18."""
    chosen = replace(pipe.defaults, steps=10)
    for size, least in (((24, 24), 0.1), ((48, 48), 0.181818)):
        start = Start(picture_of(*size), strength=0.15)
        if least < 0.15:
            pipe.latents(requests_for(pipe, None, start=start), chosen)
            continue
        with pytest.raises(ConfigError, match=f"starts at t = {least}"):
            pipe.latents(requests_for(pipe, None, start=start), chosen)


def picture_of(height, width):
    from anyres.grid import Size

    return picture(Size(height, width), 3)


def test_a_folder_keeps_it_and_an_older_one_has_none(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    assert Pipeline.from_pretrained(tmp_path / "model", device="cpu").time_shift == SHIFT
    description = json.loads((tmp_path / "model" / "pipeline.json").read_text())
    assert description.pop("time_shift") == {"power": 0.5, "base": 9}
    (tmp_path / "model" / "pipeline.json").write_text(json.dumps(description))
    assert Pipeline.from_pretrained(tmp_path / "model", device="cpu").time_shift == TimeShift()


def test_a_run_exports_what_it_was_trained_with(tmp_path):
    data = dataset(tmp_path, multiple_of_cells=2)
    config = settings(data, steps=2, time=TimeConfig(shift=SHIFT))
    train(config, data, tmp_path / "run", device="cpu")
    assert Pipeline.from_pretrained(tmp_path / "run", device="cpu").time_shift == SHIFT
