"""Figures without a display."""

import importlib.util
from typing import Any

import numpy as np

from .errors import BackendError


def new_figure(rows: int, columns: int, *, width: float, height: float) -> tuple[Any, list[Any]]:
    """A matplotlib figure and its axes in order; inches an axis.

    Raises:
        BackendError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise BackendError(
            "plots need matplotlib, which is not installed",
            wanted="the extra [plot]",
            fix="pip install 'anyres[plot]'",
        )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained", dpi=110)
    return figure, list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
