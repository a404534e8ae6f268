"""When a run ends before its last step: signals, a limit of time, a checkpoint that could not be written."""

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from ..errors import ConfigError
from .distributed import Team

GO_ON = 0
TIME_IS_UP = 1000  # beyond the numbers of signals, which are reasons too
NOT_SAVED = 1001


class Stopper:
    """What makes all processes of a team stop after the same step.

    Args:
        team: the processes.
        received: numbers of the signals that this one has got, filled by `stop_signals`.
        deadline: when to stop, by `time.monotonic`, or None.
        not_saved: whether a checkpoint could not be written.
    """

    def __init__(self, team: Team, received: list[int], deadline: float | None, not_saved: Callable[[], bool]) -> None:
        self._team, self._received, self._deadline, self._not_saved = team, received, deadline, not_saved
        self._vote: tuple[Any, torch.Tensor] | None = None

    def reason(self) -> int:
        """Why to stop now, or `GO_ON`; the same in all processes. Call it once a step.

        The processes agree on the host, while the step runs that was begun in the meantime: what one of them learns
        stops all of them a step later.
        """
        if self._team.size == 1:
            return self._own()
        agreed = self.settle()
        own = torch.tensor(self._own())
        work = dist.all_reduce(own, dist.ReduceOp.MAX, group=self._team.control, async_op=True)
        self._vote = work, own
        return agreed

    def settle(self) -> int:
        """What the processes agreed on last; nothing is under way any more."""
        vote, self._vote = self._vote, None
        if vote is None:
            return GO_ON
        vote[0].wait()
        return int(vote[1])

    def _own(self) -> int:
        if self._not_saved():
            return NOT_SAVED
        if self._received:
            return self._received[0]
        return TIME_IS_UP if self._deadline is not None and time.monotonic() >= self._deadline else GO_ON


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that the run can stop after a whole step; a second SIGINT stops at once."""
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def seconds_of(text: str) -> float:
    """The seconds of a duration such as "23h30m", "45m", "90s", or "90", in minutes.

    Raises:
        ConfigError: it is none, or nothing.
    """
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text) or re.fullmatch(r"()(\d+)()", text)
    parts = [int(part or 0) for part in match.groups()] if match else [0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not seconds:
        raise ConfigError(
            f"got a time limit of {text!r}", wanted="a time such as 23h30m, 45m or 90 (minutes)", fix="write it so"
        )
    return float(seconds)
