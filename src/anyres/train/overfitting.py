"""When a run learns its pictures by heart: the held-out loss rises while the training loss falls.

The held-out loss is always of the same images, times and noise, by averaged weights, so what is left of noise between
two measurements is small, and can be read off the curve itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .metrics import recorded

LEAST = 6  # measurements before anything is said
RISE = 0.01  # of the lowest loss: less does not matter
SPREADS = 5  # standard deviations of a measurement: less may be chance
WIDTH = 3  # measurements whose median is taken, so that one by itself is neither the lowest nor a rise


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measurement.

    Attributes:
        step: when.
        held_out: the held-out loss.
        training: mean loss of the training steps since the measurement before.
    """

    step: int
    held_out: float
    training: float


def lowest(history: Sequence[Measured]) -> Measured:
    """The measurement with the lowest held-out loss."""
    return min(history, key=lambda measured: measured.held_out)


def overfits(history: Sequence[Measured]) -> bool:
    """Whether the held-out loss has risen since its lowest by more than chance, and the training loss has not.

    Medians of three are compared. A measurement's spread is estimated from second differences of the curve, which a
    smooth one has none of: their standard deviation is √6 times that of independent noise.
    """
    if len(history) < LEAST:
        return False
    losses = np.array([measured.held_out for measured in history])
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(losses, WIDTH), axis=1)
    low = int(smooth.argmin())
    spread = 1.4826 * float(np.median(np.abs(np.diff(losses, n=2)))) / 6**0.5  # by the median deviation
    if smooth[-1] - smooth[low] <= max(RISE * smooth[low], SPREADS * spread):
        return False
    training = [measured.training for measured in history]
    return float(np.mean(training[low + WIDTH :])) < float(np.mean(training[low : low + WIDTH]))


def warning(best: Measured, now: float) -> str:
    """What is said of it."""
    return (
        f"overfitting: the held-out loss was lowest at step {best.step:,}, {best.held_out:.4f}, and is {now:.4f} now, "
        "while the training loss falls"
    )


def read_history(metrics: Path, until: int) -> list[Measured]:
    """The measurements that a run has recorded up to a step."""
    return [
        Measured(step=record["step"], held_out=record["loss"], training=record["loss_training"])
        for _, record in recorded(metrics, until)
        if record["kind"] == "held_out" and "loss_training" in record
    ]
