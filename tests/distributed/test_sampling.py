"""Images sampled in several processes are those of one, bit for bit, under the same names."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyres.cli import main
from anyres.sample.writer import read_recipe
from tests.distributed.processes import together
from tests.made import pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "model"
    pipeline().save_pretrained(folder)
    return folder


def sampled(command: list[str]) -> tuple[int, int]:
    """The exit status, and which process it is."""
    return main(command), int(os.environ["RANK"])


@pytest.mark.parametrize("count", [2, 3])
def test_files_and_names_are_those_of_one_process(model: Path, tmp_path: Path, count: int) -> None:
    """Packs of two images or one, one name asked for twice; then the same again beside what is there."""
    command = ["sample", str(model), "--label", *("land", "planet", "land", "land", "nebula"), "--device", "cpu"]
    command += ["--size", *("32x64", "48x32", "32x64", "64x64", "16x80"), "--seed", *"11011", "--budget", "14"]
    for processes, out in ((1, tmp_path / "one"), (count, tmp_path / "several")):
        for _ in range(2):
            assert sorted(together(processes, sampled, [*command, "--out", str(out)])) == [
                (0, rank) for rank in range(processes)
            ]
    one, several = (sorted((tmp_path / name).iterdir()) for name in ("one", "several"))
    assert [path.name for path in several] == [path.name for path in one]
    assert len(one) == 12  # with two sheets
    assert sum("-2.png" in path.name for path in one) >= 2
    for ours, theirs in zip(several, one, strict=True):
        assert np.array_equal(np.asarray(Image.open(ours)), np.asarray(Image.open(theirs))), ours.name
        if "sheet" not in ours.name:
            assert read_recipe(ours) == read_recipe(theirs)


def test_a_process_without_a_pack_waits_for_the_others(model: Path, tmp_path: Path) -> None:
    command = ["sample", str(model), "--label", "land", "--size", "32x32", "--device", "cpu", "--out", str(tmp_path)]
    assert together(2, sampled, command) == [(0, 0), (0, 1)]
    assert [path.name for path in tmp_path.iterdir()] == ["land-32x32-seed0.png"]
