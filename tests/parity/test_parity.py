import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.parity.compare import compare, main

GOLDEN = Path(__file__).parents[1] / "golden"
SCRIPT = Path(__file__).with_name("compare.py")
OUTPUTS = ("velocity", "zs", "rope_", "loss_flow", "loss_repa", "grad.", "sample_")


@pytest.mark.parity
@pytest.mark.parametrize("attention", ["sdpa", "reference"])
@pytest.mark.parametrize("name", ["base", "lora", "patch2"])
def test_every_golden_number_is_met(name: str, attention: str) -> None:
    comparisons = list(compare(GOLDEN / name, attention))
    assert [c for c in comparisons if not c.passes] == []
    # nothing was left out
    outputs = {key for key in load_file(GOLDEN / name / "io.safetensors") if key.startswith(OUTPUTS)}
    assert {c.name for c in comparisons} == outputs


@pytest.mark.parity
def test_the_script_prints_a_line_a_quantity_and_fails_on_a_wrong_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(folder: Path) -> int:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(folder)])
        return main()

    assert status(GOLDEN / "patch2") == 0
    name, error, limit = capsys.readouterr().out.splitlines()[0].split(" ")
    assert name == "velocity"
    assert float(error) <= float(limit) == 2e-6
    shutil.copytree(GOLDEN / "patch2", tmp_path / "bad")
    golden = load_file(tmp_path / "bad" / "io.safetensors")
    golden["sample_heun"][0, 0, 0, 0] += 1e-3
    save_file(golden, tmp_path / "bad" / "io.safetensors")
    bad = subprocess.run([sys.executable, SCRIPT, tmp_path / "bad"], capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert bad.stdout.startswith("velocity ")
    golden["sample_heun"][0, 0, 0, 0] -= 1e-3
    save_file({**golden, "sample_other": torch.ones(3)}, tmp_path / "bad" / "io.safetensors")
    assert status(tmp_path / "bad") == 1
    assert "sample_other inf 2e-06" in capsys.readouterr().out
    assert status(tmp_path) == 2
