"""The gradients of a recorded step, summed over the processes while the rest of them is computed.

`DistributedDataParallel` does this for passes that are launched kernel by kernel. To be recorded it wants eleven passes
before, copies every gradient into memory of its own, and waits for the host to know which weights were not used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import nn

from ..shapes import Tensor

BUCKET = 2**26  # bytes sent together: enough for the links' full rate, and the last ones are not waited for long


class Exchange:
    """Sums the gradients of a network, a bucket of them as soon as it is there.

    Sums are made in the gradients' dtype. All processes have to make the same passes.

    Args:
        network: whose gradients; the same in all processes.
    """

    def __init__(self, network: nn.Module) -> None:
        self._open = False
        self._ready: list[Tensor] = []
        self._sent: list[Any] = []  # torch.distributed.Work
        for weight in network.parameters():
            weight.register_post_accumulate_grad_hook(self._collect)

    @contextmanager
    def during(self) -> Iterator[None]:
        """Around the backward pass of a step's last pack: what it leaves in the weights is the sum."""
        self._open = True
        try:
            yield
        finally:
            self._open = False
        self._send()
        for work in self._sent:
            work.wait()  # of a GPU: makes its stream wait, not the host
        self._sent.clear()

    def _collect(self, weight: Tensor) -> None:
        if not self._open:
            return
        assert weight.grad is not None  # noqa: S101 - it was just added to
        self._ready.append(weight.grad)
        if sum(gradient.nbytes for gradient in self._ready) >= BUCKET:
            self._send()

    def _send(self) -> None:
        if self._ready:
            group = dist.group.WORLD
            assert group is not None  # noqa: S101 - there are several processes
            self._sent.append(group.allreduce_coalesced(self._ready))
            self._ready = []
