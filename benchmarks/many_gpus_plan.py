"""What the processes of `many_gpus` are told, and where they write what they find."""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyres.files import read_json
from anyres.model.config import NiTConfig
from anyres.train.config import TrainConfig

from .recording import record
from .training import train_config

PARTS = ("weak", "sampling", "step", "saving", "resumed")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all jobs share.

    Attributes:
        model: the network.
        tokens: room of a pack.
        packs: timed ones, the same for every number of GPUs.
        warm_up: packs before them: kernels are compiled, the step is recorded, connections are made.
        packs_per_step: of the published step.
        sizes: of the images that are sampled, in px.
        sampled: packs of them.
        device: "auto", "cpu" or "cuda".
        folder: for checkpoints, samples and what is found.
        out: where results are recorded, if anywhere.
        about: what is recorded beside them.
        began: when, in seconds since the epoch.
    """

    model: NiTConfig
    tokens: int
    packs: int
    warm_up: int
    packs_per_step: int
    sizes: tuple[str, ...]
    sampled: int
    device: str
    folder: Path
    out: Path | None
    about: dict[str, Any]
    began: float

    def config(self, parallel: str, packs_per_step: int) -> TrainConfig:
        """A run; `parallel` is "ddp", "fsdp" or, of one process, "alone"."""
        kind: Any = "ddp" if parallel == "alone" else parallel
        changed = {"model": self.model, "parallel": kind, "packs_per_step": packs_per_step}
        return dataclasses.replace(train_config("xl", self.tokens), **changed)

    def found(self) -> dict[str, list[dict[str, Any]]]:
        """What there is until now, by part."""
        return read_json(self._path) if self._path.is_file() else {}

    def add(self, part: str, row: dict[str, Any], said: str) -> None:
        """Keep what was found, and say it; by one process at a time."""
        rows = self.found()
        row = {**row, "after_seconds": round(time.time() - self.began, 1)}
        rows.setdefault(part, []).append(row)
        self._path.write_text(json.dumps(rows))
        if self.out is not None:
            record(self.out, self.about | rows)
        print(f"[{row['after_seconds']:5.0f} s] {part:8} {said}", flush=True)

    @property
    def _path(self) -> Path:
        return self.folder / "found.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a number of processes does together.

    Attributes:
        count: how many.
        parts: of `PARTS`, in this order; of "resumed", what one number of processes does of it.
    """

    count: int
    parts: tuple[str, ...]
