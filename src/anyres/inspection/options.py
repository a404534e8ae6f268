"""The options of `anyres inspect`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..config import require


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Options of `anyres inspect`."""

    path: Annotated[str, tyro.conf.Positional]
    """A dataset, or a training run; with --attention a model: a pipeline's folder, a training run, a built-in name or a
    hub id."""
    beside: tuple[Path, ...] = ()
    """Other training runs, to be drawn and listed beside the one."""
    attention: bool = False
    """Draw the attention of a pack of three distinct images."""
    patch: int = 1
    """Cells a side of a token, for the packing table."""
    budgets: tuple[int, ...] = ()
    """Tokens a pack may hold; by default a few that the images fit."""
    sizes: tuple[str, ...] = ()
    """With --attention: sizes of the three images in px, WIDTHxHEIGHT; by default a square, a wide and a tall one."""
    out: Path | None = None
    """Where plots go; by default inspect/ beside the dataset's or run's files, or here."""

    def __post_init__(self) -> None:
        require(self.patch >= 1, f"patch = {self.patch}", "at least 1")
        require(all(budget >= 1 for budget in self.budgets), f"budgets {self.budgets}", "at least 1 token each")
