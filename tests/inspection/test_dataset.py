"""What `anyres inspect DATA` says, against a direct computation, and its plots."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyres.errors import BackendError, DataError
from anyres.inspection.command import inspect
from anyres.inspection.dataset import DatasetReport, dataset_report
from anyres.inspection.options import InspectOptions
from anyres.inspection.plots import plot_dataset
from anyres.latents.format import LatentDataset
from tests.made import dataset

PATCH = 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    root = tmp_path_factory.mktemp("made")
    (root / "images" / "cat").mkdir(parents=True)
    (root / "images" / "cat" / "broken.png").write_bytes(b"no picture")
    return LatentDataset.open(dataset(root, multiple_of_cells=PATCH))


@pytest.fixture(scope="module")
def report(data: LatentDataset) -> DatasetReport:
    return dataset_report(data, PATCH, (12, 24))


def rows(report: DatasetReport) -> dict[str, list[str]]:
    """First word of each line → the others."""
    lines = [line.split() for line in str(report).splitlines() if line]
    return {line[0]: line[1:] for line in lines}


def test_counts_are_those_of_the_files(data: LatentDataset, report: DatasetReport) -> None:
    said = rows(report)
    rejected = list(csv.DictReader((data.path / "rejected.csv").open()))
    assert said["images"][:3] == ["24", "24", "rows:"]
    assert said["rejected"][0] == str(len(rejected)) == "1"
    assert said["labels"] == ["2"]
    assert said["cat"] == ["12", "50.0%"]
    assert said["dog"] == ["12", "50.0%"]
    assert said["cells"][0] == str(sum(len(data.read(row)) for row in range(len(data))))
    assert said["tokens"][0] == str(sum(len(data.read(row)) // PATCH**2 for row in range(len(data))))


def test_shapes_are_counted_once_each(data: LatentDataset, report: DatasetReport) -> None:
    """By the size that the images are encoded at, such as 16x32 px of a made picture of 24x40."""
    table = str(report).split("\n\n")[1].splitlines()[1:]
    counts = {line.rsplit(maxsplit=2)[0].strip(): int(line.split()[-2]) for line in table}
    assert sum(counts.values()) == len(data)
    ratios = [width / height for height, width in data.image_px.tolist()]
    assert counts == {
        "tall, 1:2 or more": sum(r <= 0.5 for r in ratios),
        "tall": sum(0.5 < r <= 0.8 for r in ratios),
        "near-square": sum(0.8 < r < 1.25 for r in ratios),
        "wide": sum(1.25 <= r < 2 for r in ratios),
        "wide, 2:1 or more": sum(r >= 2 for r in ratios),
    }
    assert counts["tall, 1:2 or more"] > 0
    assert counts["near-square"] > 0


def test_turning_all_pictures_turns_the_table_of_shapes(data: LatentDataset) -> None:
    turned = LatentDataset.open(data.path)
    turned.image_px = data.image_px[:, ::-1]
    classes = [str(dataset_report(d, PATCH, (24,))).split("\n\n")[1].splitlines()[1:] for d in (data, turned)]
    counts = [[int(line.split()[-2]) for line in table] for table in classes]
    assert counts[0] == counts[1][::-1]


def test_packings_are_measured_at_each_budget_by_each_algorithm(report: DatasetReport) -> None:
    assert [(p.budget, p.algorithm) for p in report.packings] == [
        (12, "shuffled_best_fit"),
        (12, "lpfhp"),
        (24, "shuffled_best_fit"),
        (24, "lpfhp"),
    ]
    for packing in report.packings:
        assert packing.efficiency == pytest.approx(report.tokens.sum() / (packing.packs * packing.budget))
        assert packing.images_per_pack == pytest.approx(24 / packing.packs)
        assert packing.shrunk == 0
        line = [packing.algorithm, str(packing.packs), f"{packing.efficiency:.2%}", f"{packing.one_size_share:.1%}"]
        assert any(line == words.split()[1:5] for words in str(report).splitlines() if packing.algorithm in words)


def test_images_longer_than_a_budget_are_counted(data: LatentDataset) -> None:
    budget = int(data.lengths(PATCH).max()) - 1
    found = dataset_report(data, PATCH, (budget,))
    assert {p.shrunk for p in found.packings} == {int((data.lengths(PATCH) > budget).sum())}


def test_default_budgets_fit_the_longest_image_and_make_several_packs(
    data: LatentDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = data.lengths(PATCH)
    longest, all_of_them = int(tokens.max()), int(tokens.sum())

    def chosen(*budgets: int) -> list[int]:
        monkeypatch.setattr("anyres.inspection.dataset.DEFAULT_BUDGETS", budgets)
        return sorted({packing.budget for packing in dataset_report(data, PATCH, ()).packings})

    assert chosen(longest - 1, longest, longest + 1, all_of_them // 4, all_of_them) == sorted(
        {longest, longest + 1, all_of_them // 4}
    )
    assert chosen(longest - 1, all_of_them) == [longest]  # none of them: its own length


def test_a_patch_that_does_not_divide_is_refused(data: LatentDataset) -> None:
    with pytest.raises(DataError, match="--multiple-of-cells 4"):
        dataset_report(data, 4, ())


def test_plots_are_pictures_of_this_dataset(data: LatentDataset, report: DatasetReport, tmp_path: Path) -> None:
    plots = plot_dataset(report, tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(path.name for path in plots)
    again = plot_dataset(report, tmp_path / "two")
    other = plot_dataset(dataset_report(data, 1, (64,)), tmp_path / "three")
    for one, two in zip(plots, again, strict=True):
        picture = np.asarray(Image.open(one).convert("RGB"))
        blue = (picture[..., 2].astype(int) > picture[..., 0] + 60).sum()  # matplotlib's first colour
        assert blue > 20
        assert np.array_equal(picture, np.asarray(Image.open(two).convert("RGB")))
    packing = [np.asarray(Image.open(found[2]).convert("RGB")) for found in (plots, other)]
    assert not np.array_equal(*packing)


def test_without_matplotlib_it_says_what_to_install(
    report: DatasetReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    with pytest.raises(BackendError, match=r"pip install 'anyres\[plot\]'"):
        plot_dataset(report, tmp_path / "plots")
    told = inspect(InspectOptions(path=str(report.dataset.path), patch=report.patch, out=tmp_path / "plots"))
    assert told.startswith(str(report).split("budget")[0])
    assert "pip install 'anyres[plot]'" in told
