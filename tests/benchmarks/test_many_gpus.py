"""The benchmark of many GPUs, small: every part in one process and two; what it refuses; what fails."""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.many_gpus_plan import Job, Plan
from benchmarks.profiling import covered

from anyres.errors import ConfigError
from anyres.ranks import Ranks
from benchmarks import __main__, many_gpus
from tests.distributed.processes import together


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command, its processes started as other tests start theirs, which is quicker."""

    def launched(job: Job, plan: Plan) -> bool:
        return bool(together(job.count, many_gpus.work, job, plan))

    monkeypatch.setattr(many_gpus, "launched", launched)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "many_gpus", "--tiny", "--device", "cpu", *arguments])
    __main__.main()


def test_all_of_it_in_one_process_and_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "--out", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())["results"]
    kinds = [(1, "alone"), (2, "ddp"), (2, "fsdp")]
    for part, packs in (("weak", [1, 2, 2]), ("step", [4, 4, 4])):
        rows = found[part]
        assert [(row["gpus"], row["parallel"]) for row in rows] == kinds
        assert [row["packs_per_step"] for row in rows] == packs
        assert len({row["tokens"] for row in rows}) == 1  # the same images
        for row in rows:
            assert row["tokens_a_second"] == pytest.approx(1000 * row["tokens"] / row["steps"] / row["ms"])
        assert rows[0]["scaling"] == 1
        assert rows[1]["scaling"] == pytest.approx(rows[1]["tokens_a_second"] / rows[0]["tokens_a_second"] / 2)
        assert rows[0]["imbalance"] == 0
        assert 0 <= rows[1]["imbalance"] <= rows[1]["worst_imbalance"] < 0.2
    one, two = found["sampling"]
    assert (one["gpus"], one["compared"]) == (1, 0)
    assert (two["gpus"], two["compared"], two["different"], two["furthest"]) == (2, one["images"], 0, 0)
    for row, kind in zip(found["saving"], kinds[1:], strict=True):
        assert (row["gpus"], row["parallel"]) == kind
        assert row["gib"] > 0
        assert 0 < row["blocked_ms"] < 1000 * row["seconds"]
    last = found["resumed"][-1]
    assert (last["gpus"], last["packs_per_step"]) == ([1, 2], 4)
    assert last["losses"] == pytest.approx(last["undisturbed"], rel=1e-4)
    assert len(set(last["losses"])) == 6
    assert "failed" not in found


def test_more_images_than_one_process_made_are_not_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: with a label changed in one of two processes, some images differ."""
    monkeypatch.setattr(many_gpus, "work", spoilt)
    run(monkeypatch, "--parts", "sampling", "--out", str(tmp_path / "found.json"))
    _, two = json.loads((tmp_path / "found.json").read_text())["results"]["sampling"]
    assert 0 < two["different"] < two["compared"]
    assert two["furthest"] > 0


HONEST = many_gpus.work


def spoilt(job: Job, plan: Plan) -> None:
    """As `work`, with other images in the second process."""
    if Ranks.from_environment().rank == 1:
        honest = many_gpus.many_gpus_sampling.images

        def images(*arguments: Any) -> Any:
            return tuple(replace(request, seed=request.seed + 1000) for request in honest(*arguments))

        many_gpus.many_gpus_sampling.images = images
    HONEST(job, plan)


def test_what_fails_is_said_and_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Started as the command does it: without torchrun, in processes of its own."""
    plan = Plan(
        model=many_gpus.TINY,
        tokens=256,
        packs=8,
        warm_up=8,
        packs_per_step=8,
        sizes=("64x64", "8x8"),  # the second is no multiple of a token
        sampled=2,
        device="cpu",
        folder=tmp_path,
        out=tmp_path / "recorded.json",
        about={"network": "tiny"},
        began=time.time(),
    )
    assert not many_gpus.launched(Job(count=1, parts=("sampling",)), plan)
    assert not many_gpus.launched(Job(count=1, parts=("resumed",)), plan)  # without a checkpoint nothing is started
    assert many_gpus.launched(Job(count=1, parts=("sampling",)), replace(plan, sizes=("64x64",)))
    (failed,) = plan.found()["failed"]
    assert failed["gpus"] == 1
    assert "8x8" in failed["message"]
    assert "8x8" in capfd.readouterr().out
    written = json.loads((tmp_path / "recorded.json").read_text())["results"]
    assert written == {"network": "tiny", **plan.found()}
    assert len(written["sampling"]) == 1


def options(**changes: Any) -> argparse.Namespace:
    given = {"gpus": None, "packs": 96, "packs_per_step": 8, "parts": ["weak", "saving", "resumed"]}
    return argparse.Namespace(**given | changes)


def test_numbers_of_gpus_are_those_here_that_divide_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    for here, expected in ((1, [1]), (2, [1, 2]), (6, [1, 2, 4]), (8, [1, 2, 4, 8]), (16, [1, 2, 4, 8])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda here=here: here)
        assert many_gpus.numbers_of_gpus(options(), cuda) == expected
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert many_gpus.numbers_of_gpus(options(gpus=[2, 1, 2]), cuda) == [1, 2]


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"gpus": [1, 4]}, "4 GPUs"),
        ({"gpus": [0]}, r"--gpus 0"),
        ({"gpus": [2], "packs_per_step": 3, "packs": 9}, r"--gpus 2"),
        ({"packs": 20}, "--packs 20"),
        ({"packs": 0}, "--packs 0"),
        ({"parts": ["resumed"]}, "resumed"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], got: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=got):
        many_gpus.numbers_of_gpus(options(**changes), torch.device("cuda"))


def test_an_exchange_is_exposed_where_nothing_else_runs() -> None:
    """Kernels 0 to 4 and 3 to 6 ms and 9 to 10; the exchange 2 to 8 ms; then 12 to 13 both; of two steps."""
    spans = [(0, 4000, False), (3000, 6000, False), (2000, 8000, True), (9000, 10000, False)]
    spans += [(12000, 13000, True), (12000, 13000, False)]
    expected = {"kernels_ms": 4.0, "exchange_ms": 3.5, "exposed_ms": 1.0, "idle_ms": 1.5}
    assert covered(spans, 2) == pytest.approx(expected)
    assert set(covered([], 1).values()) == {0}


@pytest.mark.parametrize(("parts", "world"), [(0, 2), (1, 3), (7, 3), (8, 4)])
def test_each_part_of_a_work_is_one_process_s(parts: int, world: int) -> None:
    shares = [Ranks(rank, world).share(parts) for rank in range(world)]
    assert sorted(part for share in shares for part in share) == list(range(parts))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
