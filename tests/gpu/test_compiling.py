"""Compiled training, in processes of its own: what checks shapes and types in tests cannot be compiled."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.made import dataset
from tests.train.test_run import last_state, losses

pytestmark = pytest.mark.gpu

TRAIN = """
import sys
from dataclasses import replace
from pathlib import Path

import torch._dynamo.utils

from anyres.train.loop import train
from tests.train.test_run import settings

data, out, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
train(replace(settings(data, steps=12), compile=mode), data, out, device="cuda")
print("graphs", torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


def test_a_compiled_run_is_an_eager_one_to_rounding_and_compiles_once(tmp_path: Path) -> None:
    data = dataset(tmp_path, multiple_of_cells=2)
    graphs = {}
    for mode in ("off", "on"):
        command = [sys.executable, "-c", TRAIN, str(data), str(tmp_path / mode), mode]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        graphs[mode] = done.stdout.split()[-1]
    assert graphs == {"off": "0", "on": "1"}  # all blocks, and all packs, share it
    eager, compiled = losses(tmp_path / "off"), losses(tmp_path / "on")
    assert len(eager) == 12
    assert all(abs(compiled[step] - eager[step]) < 0.01 * eager[step] for step in eager)
    assert last_state(tmp_path / "on").keys() == last_state(tmp_path / "off").keys()
