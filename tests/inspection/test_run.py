"""What `anyres inspect RUN` says of a run, and its plot."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyres.cli import main
from anyres.errors import DataError
from anyres.inspection.run import RunCurves, group_in_words, run_report
from anyres.train.groups import group_names


def write_run(folder: Path, *, steps: int = 10, shift: float = 0.0, taught: bool = False) -> Path:
    folder.mkdir()
    lines = []
    for step in range(1, steps + 1):
        line = {"kind": "train", "step": step, "loss": 3 / step + shift, "loss_flow": 2 / step + shift}
        line |= {"gradient_norm": 1.0, "images": 10 * step, "tokens": 100 * step, "tokens_per_second": 50.0 * step}
        line |= {f"loss_flow_{name}": 2 * step + n for n, name in enumerate(group_names()) if n != 2}
        lines.append(line | ({"loss_alignment": 1 / step} if taught else {}))
        if step % 5 == 0:
            groups = {f"loss_flow_{name}": step + n for n, name in enumerate(group_names()) if n != 3}
            lines.append({"kind": "held_out", "step": step, "loss": 4 / step, "loss_flow": 3 / step, **groups})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def cells(text: str) -> dict[str, list[str]]:
    """What stands beside each first cell; of one that comes for training and held out, both rows' cells."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines()[1:]:
        first, *rest = [cell.strip() for cell in line.strip().split("  ") if cell.strip()] or [""]
        found.setdefault(first, []).extend(rest)
    return found


def test_the_table_says_the_last_values_and_the_median_speed(tmp_path: Path) -> None:
    run = RunCurves.read(write_run(tmp_path / "run", taught=True))
    found = cells(run_report(run))
    assert found["steps"] == ["10"]
    assert found["tokens seen"] == ["1,000"]
    assert found["loss"] == ["0.3000"]
    assert found["alignment"] == ["0.1000"]
    assert found["held-out loss"] == ["0.4000"]
    assert found["tokens/s, median"] == ["275"]
    assert "MFU, median" not in found  # not known on a CPU
    assert found["over 4,096 tokens"] == ["29.0000", "19.0000"]
    assert (found["t 0.4–0.6"], found["t 0.6–0.8"]) == (["12.0000"], ["23.0000"])  # held out, trained on


def test_groups_come_in_their_order(tmp_path: Path) -> None:
    run = RunCurves.read(write_run(tmp_path / "run"))
    said = [group_in_words(name) for name in run.groups("held_out")]
    assert said == [
        *(f"t {time}" for time in ("0.0–0.2", "0.2–0.4", "0.4–0.6", "0.8–1.0")),
        "1–64 tokens",
        "65–256 tokens",
        "257–1,024 tokens",
        "1,025–4,096 tokens",
        "over 4,096 tokens",
    ]


def test_series_are_of_one_kind_and_whole(tmp_path: Path) -> None:
    run = RunCurves.read(write_run(tmp_path / "run"))
    steps, values = run.series("train", "loss")
    assert steps.tolist() == list(range(1, 11))
    np.testing.assert_allclose(values, 3 / steps)
    assert run.series("held_out", "loss")[0].tolist() == [5, 10]
    assert run.series("train", "mfu")[0].size == 0


def test_the_command_draws_runs_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "with", steps=200, taught=True)
    write_run(tmp_path / "without", steps=150, shift=0.5)
    alone = ["inspect", str(tmp_path / "with")]
    assert main([*alone, "--out", str(tmp_path / "one")]) == 0
    assert main([*alone, "--beside", str(tmp_path / "without")]) == 0
    found = cells(capsys.readouterr().out.split("plots:")[1].split("\n", 1)[1])
    assert found["steps"] == ["200", "150"]
    one, both = (
        np.asarray(Image.open(path / "curves.png").convert("RGB"))
        for path in (tmp_path / "one", tmp_path / "with" / "inspect")
    )
    assert one.shape == both.shape
    assert one.std() > 10
    assert (one != both).any(axis=2).mean() > 0.002  # more curves


def test_a_cut_last_line_is_left_out_and_other_damage_is_named(tmp_path: Path) -> None:
    metrics = write_run(tmp_path / "run") / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + '{"kind": "tra')
    assert len(RunCurves.read(tmp_path / "run").records) == 12
    metrics.write_text('{"kind": \n' + whole)
    with pytest.raises(DataError, match="damaged in line 1"):
        RunCurves.read(tmp_path / "run")
    metrics.write_text("")
    with pytest.raises(DataError, match="holds no step yet"):
        RunCurves.read(tmp_path / "run")


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run")
    assert main(["inspect", str(tmp_path / "run"), "--beside", str(tmp_path)]) == 2
    assert "metrics.jsonl cannot be read" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    assert main(["inspect", str(tmp_path)]) == 2
    assert "is a model, not a dataset or a training run" in capsys.readouterr().err
