"""What every recorded result holds: the device, the versions, the revision and the date."""

import functools
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anyres

RESULTS = Path(__file__).parent / "results"


def record(path: Path, results: Any) -> None:
    """Write results as JSON, with what they were measured with."""
    about = {
        "device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "anyres": anyres.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "revision": revision(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": about, "results": results}, indent=2) + "\n")


def record_of_device(out: Path | None, name: str, device: torch.device, results: Any) -> None:
    """Record under `results/`, or in `out`; what a CPU gives is a dry run, recorded only where `out` says so."""
    if out is None and device.type == "cpu":
        _say_once("CPU, dry run: nothing recorded")
        return
    record(out or RESULTS / f"{name}.json", results)


@functools.cache
def _say_once(text: str) -> None:
    print(text)


def device_name(device: torch.device) -> str:
    """The processor's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU: {_cpu_name()}"


def revision() -> str | None:
    """The clone's commit, with "+changes" where tracked files differ from it; None where nothing says it.

    A copy of a clone, whose git would not know, is told by the environment's ANYRES_REVISION.
    """
    if told := os.environ.get("ANYRES_REVISION"):
        return told

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
