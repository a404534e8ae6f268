"""Trackers: what they are sent, and what is said where they cannot be used."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from anyres.errors import BackendError
from anyres.train.loop import train
from anyres.train.tracking import Tracker
from tests.made import dataset
from tests.train.test_run import losses, settings


class Library:
    """Takes the place of wandb and trackio, and remembers what it was given."""

    def __init__(self) -> None:
        self.opened: list[dict] = []
        self.logged: list[tuple[int, dict]] = []
        self.finished = 0

    def init(self, **given) -> SimpleNamespace:
        self.opened.append(given)
        return SimpleNamespace(log=lambda values, step: self.logged.append((step, values)), finish=self._finish)

    def _finish(self) -> None:
        self.finished += 1


@pytest.fixture(params=["wandb", "trackio"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Library]:
    made = Library()
    monkeypatch.setitem(sys.modules, request.param, made)
    return request.param, made


def test_a_run_sends_what_it_records_and_goes_on_where_it_was(library: tuple[str, Library], tmp_path: Path) -> None:
    name, made = library
    data, out = dataset(tmp_path, multiple_of_cells=2), tmp_path / "mine"
    for steps in (3, 6):
        train(settings(data, steps=steps, tracker=name), data, out, device="cpu")
    assert made.finished == 2
    first, second = made.opened
    assert (first["project"], first["name"], first["resume"]) == ("anyres", "mine", "allow")
    assert first | {"config": None} == second | {"config": None}
    assert ("id" in first) == (name == "wandb")
    assert first["config"]["steps"] == 3
    sent = {step: values["train/loss"] for step, values in made.logged if "train/loss" in values}
    assert sent == losses(out)
    assert [step for step, values in made.logged if "held_out/loss" in values] == [3, 6]


def test_it_is_closed_where_training_fails(
    library: tuple[str, Library], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, made = library
    data = dataset(tmp_path, multiple_of_cells=2)
    monkeypatch.setattr("anyres.train.loop.backward", lambda *_, **_options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(settings(data, tracker=name), data, tmp_path / "run", device="cpu")
    assert made.finished == 1


def test_what_is_not_installed_or_refuses_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(BackendError, match="the tracker trackio is not installed") as missing:
        Tracker("trackio", tmp_path, SimpleNamespace())
    assert missing.value.fix.startswith("pip install trackio")

    def refuse(**_given) -> None:
        raise ValueError("no API key configured\nmore")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    with pytest.raises(BackendError, match="the tracker wandb cannot be used: no API key configured"):
        Tracker("wandb", tmp_path, settings(dataset(tmp_path, multiple_of_cells=2)))


def test_wandb_itself_takes_what_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = Tracker("wandb", tmp_path, settings(dataset(tmp_path, multiple_of_cells=2)))
    tracker.write("train", 1, {"loss": 2.0})
    tracker.write("held_out", 1, {"loss": 1.0, "images": 3})
    tracker.close()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
