"""When a run ends early: the limit of its time, and what it leaves with; signals are in `test_run.py`."""

from pathlib import Path

import pytest

from anyres.cli import main
from anyres.errors import ConfigError
from anyres.train import checkpoint
from anyres.train.loop import train
from anyres.train.stopping import TIME_IS_UP, seconds_of
from tests.made import dataset
from tests.train.test_run import last_state, settings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("made"), multiple_of_cells=2)


@pytest.mark.parametrize(
    ("text", "seconds"), [("23h30m", 84_600), ("45m", 2_700), ("90", 5_400), ("1h", 3_600), ("2m5s", 125), ("30s", 30)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "soon", "1d", "-5", "30m1h", "1.5h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="23h30m"):
        seconds_of(text)


def test_a_run_whose_time_is_up_saves_and_goes_on_when_it_is_run_again(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for steps in (1, 2):
        report = train(settings(data, steps=steps), data, run, device="cpu", time_limit=1e-9)  # over at once
        assert (report.progress.step, report.stopped) == (steps - 1, TIME_IS_UP)
        train(settings(data, steps=steps), data, run, device="cpu", time_limit=3600)
        assert checkpoint.saved(run / "checkpoints")[-1].name == f"step-{steps}"
    train(settings(data, steps=2), data, tmp_path / "whole", device="cpu")
    ours, theirs = last_state(run), last_state(tmp_path / "whole")
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_the_command_says_so_and_leaves_with_75(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", "tutorial", "--data", data, "--out", tmp_path / "run", "--device", "cpu"]
    command += ["--time-limit", "1s", "--steps", "100000", "--pictures.every", "0", "--held-out.share", "0"]
    assert main([*map(str, command)]) == 75
    assert "the time limit was reached\nto continue, run the same command again" in capsys.readouterr().out
    assert checkpoint.saved(tmp_path / "run" / "checkpoints")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "made")  # torchrun would take anything but 0 for a failure
    assert main([*map(str, command)]) == 0


def test_a_time_limit_that_is_none_leaves_with_2(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "tutorial", "--data", data, "--out", tmp_path / "run", "--time-limit", "soon"]
    assert main([*map(str, command)]) == 2
    assert "got a time limit of 'soon'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
