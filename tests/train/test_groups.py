"""The training loss by noise level and by size, as the metrics have it."""

from dataclasses import replace
from pathlib import Path

import pytest

from anyres.train.groups import group_names
from anyres.train.loop import train
from tests.distributed.test_many_processes import plan, records
from tests.made import dataset


def test_a_line_has_the_means_of_all_steps_since_the_last(tmp_path: Path) -> None:
    """By the tokens of each step; and groups of t make up the whole, as groups of size do."""
    data = dataset(tmp_path, multiple_of_cells=2)
    config = replace(plan(data, steps=7), label_dropout=0.0)
    for every in (1, 3):
        train(replace(config, log_every=every), data, tmp_path / str(every), device="cpu")
    each, some = (records(tmp_path / str(every), "train") for every in (1, 3))
    assert [line["step"] for line in some] == [1, 3, 6, 7]
    tokens = [
        line["tokens"] - before for line, before in zip(each, [0, *(line["tokens"] for line in each)], strict=False)
    ]
    for line, steps in zip(some, ((0,), (1, 2), (3, 4, 5), (6,)), strict=True):
        expected = sum(each[step]["loss_flow"] * tokens[step] for step in steps) / sum(tokens[step] for step in steps)
        assert line["loss_flow_tokens_1_64"] == pytest.approx(expected, rel=1e-5)  # all images are so small
        times = [
            line[name] for name in (f"loss_flow_{name}" for name in group_names()) if name in line and "_t_" in name
        ]
        assert len(times) > 1
        assert min(times) < expected < max(times)
    assert not any(name.endswith("over_4096") for line in each for name in line)
