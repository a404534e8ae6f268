"""Images encoded by two processes are the images encoded by one, also when a process is killed in between."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyres.errors import DataError
from anyres.latents.format import LatentDataset
from anyres.prepare import encode
from anyres.prepare.encode import PrepareReport, prepare
from anyres.prepare.options import PrepareOptions
from anyres.ranks import Ranks
from tests.distributed.processes import GRACE, Processes, together
from tests.made import MeanColours, picture_folder

IMAGES = 24


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = picture_folder(tmp_path_factory.mktemp("shared") / "images", each=IMAGES // 2)
    (root / "dog" / "zz.png").write_bytes(b"no image")
    return root


def prepared(images: Path, out: Path) -> PrepareReport:
    options = PrepareOptions(images=images, out=out, workers=1, device="cpu", images_per_shard=3, multiple_of_cells=2)
    return prepare(options, MeanColours())


def rows(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Of each source: its label, and bytes of its latents and features, both flips."""
    data = LatentDataset.open(folder)
    features = data.features()
    found = {}
    for row, source in enumerate(data.sources):
        arrays = [read(row, flipped=flipped) for read in (data.read_raw, features.read) for flipped in (False, True)]
        found[source] = (data.info.labels[data.labels[row]], *(array.numpy().tobytes() for array in arrays))
    assert len(found) == len(data)
    return found


@pytest.fixture(scope="module")
def alone(images: Path) -> Path:
    together(1, prepared, images, images.parent / "alone")
    return images.parent / "alone"


def test_two_processes_encode_what_one_does(images: Path, alone: Path, tmp_path: Path) -> None:
    first, second = together(2, prepared, images, tmp_path / "data")
    assert rows(tmp_path / "data") == rows(alone)
    assert first.info == second.info
    assert (first.leads, second.leads) == (True, False)
    assert (first.info.images, first.info.rejected, first.added) == (IMAGES, 1, IMAGES)
    one = LatentDataset.open(alone).info
    np.testing.assert_allclose(first.info.channel_std, one.channel_std, rtol=1e-6)
    journal = sorted((tmp_path / "data" / ".parts").glob("part-*"))
    numbers = [int(path.stem.removeprefix("part-")) for path in journal]
    assert {number % 2 for number in numbers} == {0, 1}  # both wrote
    assert prepare_alone(images, tmp_path / "data").added == 0


def prepare_alone(images: Path, out: Path) -> PrepareReport:
    return together(1, prepared, images, out)[0]


def killed(images: Path, out: Path, parts: int) -> None:
    """The second process is killed after so many parts of its own, before their next journal entry."""
    write, left = encode.DatasetWriter.write_part, parts

    def write_part(self: Any, *arguments: Any) -> None:
        nonlocal left
        if os.environ["RANK"] == "1":
            left -= 1
            if left < 0:
                (out / f"shard-{self._number:05d}.safetensors").write_bytes(b"half of it")
                os.kill(os.getpid(), signal.SIGKILL)
        write(self, *arguments)

    encode.DatasetWriter.write_part = write_part
    prepared(images, out)


@pytest.mark.parametrize("then", [1, 2, 3])
def test_killed_it_goes_on_with_any_number_of_processes(images: Path, alone: Path, tmp_path: Path, then: int) -> None:
    out = tmp_path / "data"
    job = Processes(2, killed, images, out, 1)
    job.each[1].join(GRACE)
    assert job.each[1].exitcode == -signal.SIGKILL
    job.each[0].kill()  # as torchrun does
    job.each[0].join(GRACE)
    assert not (out / "dataset.json").exists()
    done = {path.name: path.stat().st_mtime_ns for path in (out / ".parts").glob("part-*")}
    assert done
    report = together(then, prepared, images, out)[0]
    assert rows(out) == rows(alone)
    assert 0 < report.added < IMAGES
    assert all((out / ".parts" / name).stat().st_mtime_ns == when for name, when in done.items())
    # a lost entry is not taken for one that was never made
    path = out / ".parts" / min(done)
    path.rename(tmp_path / "away")
    with pytest.raises(DataError, match="lacks entries"):
        encode.DatasetWriter(out)


class Told:
    """In the place of a bar."""

    def __init__(self) -> None:
        self.amounts: list[int] = []

    def advance(self, amount: int = 1, **_figures: Any) -> None:
        self.amounts.append(amount)


def test_the_bar_moves_with_the_work_of_all() -> None:
    done = 0

    class Many(Ranks):
        """Another process does 10 for each of ours."""

        def add(self, name: str, amount: int) -> int:
            nonlocal done
            done += 11 * amount
            return done

    bar = Told()
    shared = encode.CommonBar(bar, Many(0, 2))
    shared.advance(2)
    shared.advance(1)
    assert bar.amounts == [22, 11]


def both_bars(amounts: tuple[int, int]) -> list[list[int]]:
    """Two bars one after the other, and what each process's shows in the end."""
    ranks, shown = Ranks.from_environment(), []
    for amount in amounts:
        bar = Told()
        common = encode.CommonBar(bar, ranks)
        common.advance(amount * (ranks.rank + 1))
        common.wait()
        shown.append(sum(bar.amounts))
    return shown


def test_every_bar_shows_all_of_its_own_work_in_the_end() -> None:
    assert together(2, both_bars, (5, 7)) == [[15, 21]] * 2
