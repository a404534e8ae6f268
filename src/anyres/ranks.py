"""Several processes that share the work, as torchrun starts them; alone, there is one."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
WAIT = timedelta(days=7)  # a rank may be long behind the others


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
        if self.world == 1:
            return
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=WAIT)
        dist.barrier()

    def told(self, value: T) -> T:
        """The leading process's value, in all processes."""
        if self.world == 1:
            return value
        self.wait()
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


_NAMES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
