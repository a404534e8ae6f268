"""A training run in numbers, from its metrics.jsonl."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..tables import aligned
from ..train.folder import RunFolder

TRAIN, HELD_OUT = "train", "held_out"
GROUP = "loss_flow_"  # begins the names of a loss's groups


@dataclass(frozen=True, eq=False, kw_only=True)
class RunCurves:
    """What a run recorded.

    Attributes:
        folder: the run's.
        records: a line each, in order.
    """

    folder: Path
    records: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, folder: Path) -> "RunCurves":
        """Read a run's metrics; a last line that a kill has cut is left out.

        Raises:
            DataError: it is no run, has recorded nothing yet, or its metrics are damaged.
        """
        path = RunFolder(folder).metrics
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path} cannot be read: {error}", wanted="the folder of a training run", fix="check the path"
            ) from error
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number < len(lines):
                    raise DataError(
                        f"{path} is damaged in line {number}: {error}",
                        wanted="a JSON object a line",
                        fix="remove that line",
                    ) from error
        if not any(record["kind"] == TRAIN for record in records):
            raise DataError(f"{path} holds no step yet", wanted="a run that has begun", fix="wait for its first line")
        return cls(folder=folder, records=tuple(records))

    def series(self, kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one quantity; empty where it was not recorded."""
        found = [(record["step"], record[name]) for record in self.records if record["kind"] == kind and name in record]
        steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
        return steps, values

    def groups(self, *kinds: str) -> list[str]:
        """Names of the groups of training's loss, of the held-out one, or of both."""
        names = {name for record in self.records for name in record if record["kind"] in kinds}
        # by their first number, as names do not sort: tokens_65_256 comes before tokens_257_1024
        return sorted((name for name in names if name.startswith(GROUP)), key=_order)


def _order(name: str) -> tuple[str, float]:
    kind, low, _ = name.removeprefix(GROUP).split("_")
    return kind, math.inf if low == "over" else float(low)


def group_in_words(name: str) -> str:
    """Such as "t 0.4–0.6" and "65–256 tokens"."""
    kind, low, high = name.removeprefix(GROUP).split("_")
    if kind == "t":
        return f"t {low}–{high}"
    return f"over {int(high):,} tokens" if low == "over" else f"{int(low):,}–{int(high):,} tokens"


def run_report(run: RunCurves, beside: Sequence[RunCurves] = ()) -> str:
    """What a run and others beside it have come to, as tables."""
    runs = [run, *beside]
    rows = [("", *(one.folder.name for one in runs))]
    for lines, kind in ((_LINES, TRAIN), (_HELD_OUT, HELD_OUT)):
        rows += [(said, *(_last(one, kind, name, form) for one in runs)) for said, name, form in lines]
        rows += [
            (f"    {group_in_words(name)}", *(_last(one, kind, name, "{:.4f}") for one in runs))
            for name in run.groups(kind)
        ]
    rows += [(said, *(_median(one, name, form) for one in runs)) for said, name, form in _RATES]
    return aligned([row for row in rows if any(row[1:])])


_LINES = (
    ("steps", "step", "{:,.0f}"),
    ("images seen", "images", "{:,.0f}"),
    ("tokens seen", "tokens", "{:,.0f}"),
    ("gradient norm", "gradient_norm", "{:.3f}"),
    ("loss", "loss", "{:.4f}"),
    ("  direction", "loss_direction", "{:.4f}"),
    ("  alignment", "loss_alignment", "{:.4f}"),
    ("  mean square", "loss_flow", "{:.4f}"),
)
_HELD_OUT = (
    ("held-out loss", "loss", "{:.4f}"),
    ("  mean square", "loss_flow", "{:.4f}"),
)
_RATES = (
    ("seconds a step, median", "seconds_per_step", "{:.3f}"),
    ("tokens/s, median", "tokens_per_second", "{:,.0f}"),
    ("images/s, median", "images_per_second", "{:,.1f}"),
    ("MFU, median", "mfu", "{:.1%}"),
    ("memory at most, GiB", "peak_memory_gib", "{:.1f}"),
)


def _last(run: RunCurves, kind: str, name: str, form: str) -> str:
    _, values = run.series(kind, name)
    return form.format(values[-1]) if len(values) else ""


def _median(run: RunCurves, name: str, form: str) -> str:
    _, values = run.series(TRAIN, name)
    return form.format(np.median(values)) if len(values) else ""
