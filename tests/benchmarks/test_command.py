"""`python -m benchmarks`: its list, its refusals, what a result says of where it is from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.__main__ import NAMES

from benchmarks import recording

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_help_lists_every_benchmark_with_a_line() -> None:
    done = command("--help")
    assert (done.returncode, done.stderr) == (0, "")
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[2:])
    with_main = {file.stem for file in (ROOT / "benchmarks").glob("*.py") if "\ndef main(" in file.read_text()}
    assert set(listed) == with_main - {"__main__"} == set(NAMES)
    assert all(line.endswith(".") for line in listed.values())


@pytest.mark.parametrize("name", ["training", "position_order_plots"])
def test_each_says_its_options(name: str) -> None:
    done = command(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: python -m benchmarks {name} ")
    assert "--out" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["trainings"], "there is no benchmark 'trainings'"),
        (["training", "--released", "/no/such", "--preset", "mini", "--device", "cpu"], "no /no/such/nit/models"),
        (["sampling", "--cases", "64x64", "--preset", "mini", "--device", "cpu"], "case '64x64'"),
    ],
)
def test_bad_input_is_refused_without_a_traceback(arguments: list[str], found: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert found in done.stderr
    assert "Traceback" not in done.stderr


def test_a_result_says_where_it_is_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "revision", lambda: "abc+changes")
    recording.record(tmp_path / "new" / "result.json", {"ms": 1.5})
    written = json.loads((tmp_path / "new" / "result.json").read_text())
    assert written["results"] == {"ms": 1.5}
    assert written["environment"]["revision"] == "abc+changes"
    assert written["environment"]["date"].endswith("+00:00")
    assert {"device", "torch", "python"} < written["environment"].keys()


def test_the_revision_is_the_commit_and_whether_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=made", "-c", "user.email=made@example.org")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(recording, "__file__", str(tmp_path / "recording.py"))
    monkeypatch.setenv("ANYRES_REVISION", "told")
    assert recording.revision() == "told"
    git("init", "--quiet")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    assert recording.revision() == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("two")
    assert recording.revision() == git("rev-parse", "HEAD") + "+changes"


def test_a_dry_run_is_recorded_only_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RESULTS", tmp_path / "results")
    cpu = torch.device("cpu")
    recording.record_of_device(None, "training", cpu, {})
    assert not (tmp_path / "results").exists()
    recording.record_of_device(tmp_path / "dry.json", "training", cpu, {})
    assert (tmp_path / "dry.json").is_file()
    recording.record_of_device(None, "training", torch.device("cuda"), {})
    assert (tmp_path / "results" / "training.json").is_file()
