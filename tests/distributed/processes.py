"""A function run in several processes at once, as torchrun would start them."""

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

from tests.forking import SERVER
from tests.prepare.killing import no_fsync

GRACE = 60  # seconds, for a process that should have ended


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """`function(*arguments)` in `count` processes.

    Attributes:
        each: the processes, by rank.
    """

    def __init__(self, count: int, function: Callable[..., Any], *arguments: Any) -> None:
        self._results = [SERVER.SimpleQueue() for _ in range(count)]
        port = free_port()
        self.each = [
            SERVER.Process(target=_run, args=(rank, count, port, self._results[rank], function, arguments))
            for rank in range(count)
        ]
        for process in self.each:
            process.start()

    def results(self) -> list[Any]:
        """What each returned, or the exception that it raised."""
        found = [queue.get() for queue in self._results]
        for process in self.each:
            process.join(GRACE)
        return found

    def end(self) -> list[int | None]:
        """The exit codes of processes that may have been killed."""
        for process in self.each:
            process.join(GRACE)
            if process.is_alive():
                process.kill()
        return [process.exitcode for process in self.each]


def together(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of several processes.

    Raises:
        AssertionError: it raised in one.
    """
    found = Processes(count, function, *arguments).results()
    for result in found:
        assert not isinstance(result, _Failure), result.text
    return found


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.kind, self.text = type(error).__name__, "".join(traceback.format_exception(error))


def _run(rank: int, count: int, port: int, results: Any, function: Callable[..., Any], arguments: tuple) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    os.fsync = no_fsync
    try:
        results.put(function(*arguments))
    except BaseException as error:
        results.put(_Failure(error))
