"""metrics.jsonl, TensorBoard events, and the throughput in them."""

import importlib.util
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..files import replacing, writing
from .tracking import Tracker

logger = logging.getLogger(__name__)

# dense bfloat16 matrix products, in FLOP/s, from the makers' data sheets; the first name that the device's contains
PEAK_FLOPS: dict[str, float] = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def peak_flops(device_name: str) -> float | None:
    """The device's peak in bfloat16, or None where it is not known."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)


class Metrics:
    """Writes each record to `metrics.jsonl`, where TensorBoard is installed to its events, and to a tracker if any.

    Args:
        path: the file.
        step: the step that the run starts or resumes at; later records of an interrupted run are dropped, since they
            will come again.
        tracker: where they are sent as well; closed with this.
    """

    def __init__(self, path: Path, step: int, tracker: Tracker | None = None) -> None:
        self._path, self._tracker = path, tracker
        self._keep_until(step)
        with writing(path):
            self._file = path.open("a", encoding="utf-8")
        self._board = _tensorboard(path.parent, step)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append a record, such as kind "train" or "held_out"."""
        with writing(self._path):
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)
        if self._tracker is not None:
            self._tracker.write(kind, step, values)

    def close(self) -> None:
        """Finish both."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._tracker is not None:
            self._tracker.close()

    def _keep_until(self, step: int) -> None:
        if not self._path.is_file():
            return
        kept = [line for line, _ in recorded(self._path, step)]
        with replacing(self._path) as staging:
            staging.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def recorded(path: Path, until: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a run's metrics up to a step, as they are and read; later ones will come again when it goes on."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the last line of a killed run may be cut
            continue
        if record["step"] <= until:
            yield line, record


class Throughput:
    """Rates since the last reading.

    Args:
        peak: the device's FLOP/s in the run's precision, or None where it is not known (only bfloat16's are).
    """

    def __init__(self, peak: float | None) -> None:
        self._peak = peak
        self._start()

    def add(self, *, images: int, tokens: int, flops: int) -> None:
        """Count a step's work."""
        self._images += images
        self._tokens += tokens
        self._flops += flops
        self._steps += 1

    def read(self, device: torch.device) -> Mapping[str, float]:
        """Rates since the last call: seconds a step, tokens/s, images/s, MFU and peak memory where known."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        rates = {
            "seconds_per_step": seconds / max(self._steps, 1),
            "tokens_per_second": self._tokens / seconds,
            "images_per_second": self._images / seconds,
        }
        if self._peak is not None:
            rates["mfu"] = self._flops / seconds / self._peak
        if device.type == "cuda":
            rates["peak_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        self._start()
        return rates

    def pause(self) -> None:
        """Forget the time and work since the last reading: what follows was not training."""
        self._start()

    def _start(self) -> None:
        self._since = time.perf_counter()
        self._images = self._tokens = self._flops = self._steps = 0


def _tensorboard(folder: Path, step: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        logger.info("no TensorBoard events: pip install 'anyres[train]' adds them; metrics.jsonl has the same numbers")
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder / "tensorboard", purge_step=step + 1)
