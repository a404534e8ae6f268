"""Which passes are recorded; `tests/gpu/test_sampling_and_training.py` samples with recordings."""

from typing import Any

import pytest
import torch

from anyres.grid import Grid
from anyres.packing.pack import PackLayout, PackShape
from anyres.sample import recording
from anyres.sample.recording import KEPT, Recordings, records
from tests.model.helpers import random_model, small_config

LABELS = torch.tensor([0, 1])


class Made(recording.Recording):
    """In a recording's place, which needs a GPU."""

    def __init__(self, model: Any, layout: PackLayout, labels: torch.Tensor, scaling: Any) -> None:
        self.shape = layout.shape


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "records", lambda model: True)
    monkeypatch.setattr(recording, "Recording", Made)


def layout(tokens: int = 12) -> PackLayout:
    return PackLayout.from_grids([Grid(2, 3), Grid(1, 4)], PackShape(tokens, 4, 6))


def test_a_cpu_records_nothing() -> None:
    model = random_model(small_config())
    assert not records(model)
    assert [Recordings().find(model, layout(), LABELS, None) for _ in range(3)] == [None] * 3


@pytest.mark.usefixtures("able")
def test_the_second_pack_of_a_shape_is_recorded_and_then_kept() -> None:
    model, recordings, first = random_model(small_config()), Recordings(), layout()
    assert [recordings.find(model, first, LABELS, None) for _ in range(3)] == [None] * 3
    second, third = (recordings.find(model, layout(), LABELS, None) for _ in range(2))
    assert second is not None
    assert third is second
    assert recordings.find(model, first, LABELS, None) is second


@pytest.mark.usefixtures("able")
def test_shapes_and_networks_and_replaced_weights_are_recorded_apart() -> None:
    model, other, recordings = random_model(small_config()), random_model(small_config()), Recordings()
    for _ in range(2):
        kept = recordings.find(model, layout(), LABELS, None)
    assert recordings.find(other, layout(), LABELS, None) is None
    assert recordings.find(model, layout(20), LABELS, None) is None
    assert recordings.find(model, layout(), LABELS, None) is kept
    model.to(torch.float16)
    assert recordings.find(model, layout(), LABELS, None) is None


@pytest.mark.usefixtures("able")
def test_the_last_used_ones_are_kept() -> None:
    model, recordings = random_model(small_config()), Recordings()
    for _ in range(2):
        kept = recordings.find(model, layout(), LABELS, None)
    for tokens in range(13, 13 + KEPT):
        recordings.find(model, layout(tokens), LABELS, None)
        assert recordings.find(model, layout(), LABELS, None) is kept
    assert recordings.find(model, layout(13), LABELS, None) is None  # was dropped; the next one would be recorded
