"""Several processes that share the work, as torchrun starts them; alone, there is one."""

import hashlib
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

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

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world == 1:
            return
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=WAIT)
        dist.barrier()

    def first_to_say(self, text: str) -> bool:
        """Whether none of the processes that torchrun has started together has said this yet; alone, one is the first.

        They ask torchrun's own store, so that nobody waits for a process that has ended.
        """
        if self.world == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return True
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
        name = f"anyres/said/{attempt}/{hashlib.sha256(text.encode()).hexdigest()}"
        try:
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            return dist.TCPStore(address, port, is_master=False, timeout=PATIENCE).add(name, 1) == 1
        except RuntimeError:  # it has gone: better said twice than never
            return True


_NAMES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
