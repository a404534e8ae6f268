"""Progress bars on stderr, silent when it is not a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Bar(Protocol):
    """A running progress bar."""

    def advance(self, amount: int = 1, **figures: Any) -> None:
        """Move on, and show the figures beside the bar."""
        ...


class _Silent:
    def advance(self, amount: int = 1, **figures: Any) -> None:
        """Nothing to show."""


class _Rich:
    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def advance(self, amount: int = 1, **figures: Any) -> None:
        """Move on, and show the figures beside the bar."""
        text = "  ".join(f"{name} {value}" for name, value in figures.items())
        self._bar.update(self._task, advance=amount, **({"figures": text} if figures else {}))


@contextmanager
def progress(description: str, total: int | None, unit: str, *, done: int = 0, shown: bool = True) -> Iterator[Bar]:
    """A bar with rate and time left, removed when it is done.

    Args:
        description: what is going on, in a word or two.
        total: when it is done, in units; None where that is not known.
        unit: what is counted, such as "image".
        done: units done before, which do not count in the rate.
        shown: False for all but one of several processes that do the same.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield _Silent()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Units a second, or seconds a unit where that is slower."""

        def render(self, task: Any) -> Text:
            speed = task.speed
            if not speed:
                return Text("")
            return Text(f"{speed:,.1f} {unit}/s" if speed >= 1 else f"{1 / speed:,.1f} s/{unit}")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Rich(bar, bar.add_task(description, total=total, completed=done, figures=""))
