"""What every recorded result holds: the device and the versions."""

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anyres


def record(path: Path, results: Any) -> None:
    """Write results as JSON, with the device and the versions that they were measured with."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU: {_cpu_name()}"
    about = {
        "device": device,
        "anyres": anyres.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": about, "results": results}, indent=2) + "\n")


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
