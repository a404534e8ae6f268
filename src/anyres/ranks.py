"""Several processes that share the work, as torchrun starts them; alone, there is one."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from .errors import BackendError

T = TypeVar("T")
WAIT = timedelta(days=7)  # a rank may be long behind the others
PATIENCE = timedelta(seconds=10)  # with torchrun's store, before an error is said


@dataclass(frozen=True)
class Ranks:
    """Which process this is.

    Attributes:
        rank: its number.
        world: of how many.
        local: its number on this machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @classmethod
    def from_environment(cls) -> "Ranks":
        """As torchrun says."""
        rank, world, local = (int(os.environ.get(name, default)) for name, default in _NAMES)
        return cls(rank, world, local)

    def device(self, name: str) -> str:
        """The device of this process: with several, "auto" and "cuda" are the GPU of its number."""
        many = self.world > 1 and name in ("auto", "cuda") and torch.cuda.is_available()
        return f"cuda:{self.local}" if many else name

    def share(self, parts: int) -> range:
        """Which of a work's parts, counted from 0, this process does; the others do the others."""
        return range(self.rank, parts, self.world)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            with self.together():
                self._meet()
                dist.barrier()

    @contextmanager
    def leading_first(self) -> Iterator[None]:
        """The leading process goes through the block before the others, who find done what it needed to do once."""
        if self.rank > 0:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()

    def add(self, name: str, amount: int) -> int:
        """Add to a number that several processes share; gives what it has come to."""
        with self.together():
            self._meet()
            return _kept[0].add(name, amount)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around what waits for other processes.

        Raises:
            BackendError: one of them has gone.
        """
        try:
            yield
        except RuntimeError as error:
            if not is_lost_connection(error):
                raise
            reason = str(error).splitlines()[0].split(". ")[0]  # its advice is for programmers
            raise BackendError(
                f"process {self.rank} of {self.world} has lost another one: {reason}",
                wanted="all processes until the end",
                fix="see what the first of them to end says, and run the same command again: what is done is kept",
            ) from error

    def _meet(self) -> None:
        if not dist.is_initialized():
            _kept.append(meeting_store(WAIT))
            dist.init_process_group("gloo", store=_kept[0], rank=self.rank, world_size=self.world, timeout=WAIT)

    def first_to_say(self, text: str) -> bool:
        """Whether none of the processes that torchrun has started together has said this yet; alone, one is the first.

        They ask torchrun's own store, so that nobody waits for a process that has ended.
        """
        if self.world == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return True
        name = f"anyres said {hashlib.sha256(text.encode()).hexdigest()}"
        try:
            return meeting_store(PATIENCE).add(name, 1) == 1
        except RuntimeError:  # it has gone: better said twice than never
            return True

    def told(self, value: T, group: Any = None) -> T:
        """The leading process's value, in all processes.

        Args:
            value: the leading process's; the others' say nothing.
            group: a torch.distributed.ProcessGroup of them all, in which they talk; by default the one of `wait`.
        """
        if self.world == 1:
            return value
        values = [value]
        with self.together():
            self._meet()
            dist.broadcast_object_list(values, src=0, group=group)
        return values[0]


def meeting_store(timeout: timedelta) -> Store:
    """Where processes that torchrun has started find each other.

    torchrun keeps one for all its attempts, where those started again would find addresses of those that have gone. On
    one machine the number of the attempt tells them apart; on several, each counts its own attempts.
    """
    store = next(rendezvous("env://", timeout=timeout))[0]
    on_one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    return PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", ""), store) if on_one_machine else store


def is_lost_connection(error: BaseException) -> bool:
    """Whether it is one of torch.distributed's; gloo's are plain RuntimeErrors that name its source."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


_kept: list[Store] = []  # this process's, once it has met the others
_NAMES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
