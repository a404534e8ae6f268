"""A run's folder: what is in it, and who may continue it.

config.json       the resolved configuration
data.json         the dataset that it trains on: its autoencoder and labels
environment.json  versions, git revision, device; a list, one entry a start
metrics.jsonl     a JSON object a line, and TensorBoard events beside it
checkpoints/      step-N/
model/            the averaged weights as a pipeline: `anyres sample RUN/model`
best/             the same, of the step with the lowest held-out loss, where the recipe keeps it
samples/          pictures made during training
"""

import platform
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..config import differences, from_dict, to_dict
from ..errors import CheckpointError, DataError
from ..files import make_folder, read_json, remove_leftovers, write_json
from ..latents.features import TeacherInfo
from ..latents.format import DatasetInfo, LatentDataset
from ..ranks import Ranks
from .config import TrainConfig

CONFIG, DATA = "config.json", "data.json"


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """Where the exported pipeline is."""
        return self.root / "model"

    @property
    def best(self) -> Path:
        """Where the pipeline of the lowest held-out loss is."""
        return self.root / "best"

    @property
    def samples(self) -> Path:
        """Where pictures made during training are."""
        return self.root / "samples"

    @property
    def metrics(self) -> Path:
        """The metrics' file."""
        return self.root / "metrics.jsonl"


def open_run(
    root: Path,
    config: TrainConfig,
    dataset: LatentDataset,
    device: torch.device,
    teacher: TeacherInfo | None,
) -> RunFolder:
    """Make a run's folder, or check that an existing one may be continued with this configuration and data.

    Args:
        root: the folder.
        config: the run's.
        dataset: that it trains on.
        device: where.
        teacher: the dataset's, or the one that sees its images.

    Raises:
        CheckpointError: the run has another architecture, or was trained on another autoencoder's latents or other
            labels; the differences are shown.
        DataError: the folder cannot be written to, or holds something else.
    """
    info = replace(dataset.info, teacher=teacher)
    known = (root / DATA).is_file()  # the first that a run writes; a pipeline has a config.json, too
    if root.is_dir() and any(root.iterdir()) and not known:
        raise DataError(
            f"{root} is not empty and is not a training run",
            wanted="a new folder, or the folder of a run to continue",
            fix="choose another --out",
        )
    make_folder(root)
    if known:
        remove_leftovers(root)
        _check_data(root, info)
    if (root / CONFIG).is_file():
        _check_architecture(root, config)
    write_json(root / DATA, {"path": str(dataset.path), "info": to_dict(info)})
    write_json(root / CONFIG, to_dict(config))
    starts = read_json(root / "environment.json") if (root / "environment.json").is_file() else []
    write_json(root / "environment.json", [*starts, environment(device)])
    return RunFolder(root)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, git revision and device, for the record."""
    return {
        "anyres": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(device),
        "processes": Ranks.from_environment().world,
        "threads": torch.get_num_threads(),
        "git": _git_revision(),
    }


def device_name(device: torch.device) -> str:
    """The device in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _check_architecture(root: Path, config: TrainConfig) -> None:
    old = from_dict(TrainConfig, read_json(root / CONFIG), where=str(root / CONFIG))
    changed = [
        *differences(old.model, config.model, "model."),
        *(() if _origin(old) == _origin(config) else (f"it began from {_origin(old)}, not {_origin(config)}",)),
    ]
    if changed:
        raise CheckpointError(
            f"the run in {root} has another architecture: {'; '.join(changed)}",
            wanted="the architecture that it was started with",
            fix="drop those options, or start a new run with another --out",
        )


def _origin(config: TrainConfig) -> str:
    how = f" with LoRA of rank {config.lora_rank}" if config.lora_rank else ""
    return f"a model of fingerprint {config.base.fingerprint}{how}" if config.base else "random weights"


def _check_data(root: Path, info: DatasetInfo) -> None:
    old = from_dict(DatasetInfo, read_json(root / DATA)["info"], where=str(root / DATA))
    if not old.autoencoder.same_as(info.autoencoder):
        raise CheckpointError(
            f"the run in {root} was trained on latents of {old.autoencoder.describe()}, "
            f"and this dataset was prepared with {info.autoencoder.describe()}",
            wanted="a dataset prepared with the same autoencoder",
            fix="prepare the images with that autoencoder, or start a new run with another --out",
        )
    if old.teacher is not None and info.teacher is not None and old.teacher.identity != info.teacher.identity:
        raise CheckpointError(
            f"the run in {root} began with features of {old.teacher.identity}, and this dataset has those of "
            f"{info.teacher.identity}",
            wanted="a dataset prepared with the same teacher",
            fix="prepare the images with that teacher, or start a new run with another --out",
        )
    if old.labels != info.labels:
        raise CheckpointError(
            f"the run in {root} has the labels {', '.join(old.labels)}, and this dataset {', '.join(info.labels)}",
            wanted="a dataset with the same labels, in the same order",
            fix="prepare it from the same class folders, or start a new run with another --out",
        )


def _git_revision() -> str | None:
    """The revision of the source tree that this package runs from, where it is a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
