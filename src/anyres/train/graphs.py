"""A pack's loss and gradient recorded once as a CUDA graph and replayed: the same kernels, without their launch costs.

Every pack is padded to the run's `PackShape`, so that one recording fits all.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from ..errors import BackendError
from ..model.attention import STATIC_BACKENDS, pick_backend
from ..model.kernels import cublas
from ..model.nit import NiT
from ..ranks import Ranks
from ..shapes import Float, Tensor
from .config import TrainConfig
from .distributed import Team, shards
from .exchange import Exchange
from .losses import DrawnPack, LossSums, pack_loss
from .precision import in_bfloat16


def records(config: TrainConfig, device: torch.device) -> bool:
    """Whether the run records its step; "auto" does where it can.

    Raises:
        BackendError: it is asked for where it cannot be.
    """
    if config.cuda_graph == "off":
        return False
    missing = _missing(config, device)
    if missing and config.cuda_graph == "on":
        raise BackendError(
            f"cuda_graph = 'on' needs {missing}",
            wanted="a CUDA device, attention by varlen or triton, and in several processes --parallel ddp",
            fix="use --cuda-graph auto or off",
        )
    return missing is None


def _missing(config: TrainConfig, device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"a CUDA device, and this run is on {device.type}"
    processes = Ranks.from_environment().world
    if processes > 1 and shards(config, device):
        return f"whole weights in each process, and this run shards them among {processes}"
    dtype = torch.bfloat16 if in_bfloat16(config, device) else torch.float32
    backend = pick_backend(config.attention, device, dtype)
    return None if backend in STATIC_BACKENDS else f"attention by varlen or triton, and this run has {backend}"


class GraphedGradient:
    """The gradient of consecutive packs, left in the weights; each pack is one launch.

    Of several processes, the last pack's recording sums the gradients of all.

    Args:
        model: the network, on a CUDA device.
        config: the run's.
        team: the processes that train together, each with all weights.
    """

    def __init__(self, model: NiT, config: TrainConfig, team: Team) -> None:
        self._model, self._config = model, config
        self._exchange = Exchange(model) if team.size > 1 else None
        # whether a replay adds to the gradient; with one pack a process it overwrites it, a pass less
        self._accumulates = config.packs_per_step > team.size
        self._recordings: dict[bool, tuple[torch.cuda.CUDAGraph, LossSums]] = {}  # by whether gradients are exchanged
        self._pack: DrawnPack | None = None
        self._share: Float[Tensor, ""] = torch.zeros((), device=model.device)

    def __call__(self, packs: Sequence[DrawnPack], weight: float) -> list[LossSums]:
        """The losses of each pack, summed over its real tokens.

        Args:
            packs: this process's of one step; all of one shape.
            weight: of the step's images in the loss, by which its sum is divided.
        """
        if self._pack is None or (self._pack.teacher is None) != (packs[0].teacher is None):
            self._record(packs[0])  # once more where the alignment with a teacher ends
        self._share.fill_(1 / weight)
        if self._accumulates:
            self._model.zero_grad(set_to_none=False)
        return [self._replay(pack, last=pack is packs[-1]) for pack in packs]

    def release(self) -> None:
        """Give up what is recorded: NCCL does not let go of a connection that a recording uses."""
        self._recordings.clear()
        self._pack = None

    def _replay(self, pack: DrawnPack, *, last: bool) -> LossSums:
        graph, sums = self._recordings[last and self._exchange is not None]
        assert self._pack is not None  # noqa: S101 - recorded before
        assert pack.layout.shape == self._pack.layout.shape, "the loader pads to one shape"  # noqa: S101
        self._pack.copy_(pack)
        graph.replay()
        return sums.each(torch.clone)

    def _record(self, pack: DrawnPack) -> None:
        self.release()  # an earlier recording's memory is free for this one
        self._pack = pack.to(self._model.device).clone()
        exchanged = self._exchange is not None
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # kernels are compiled, libraries initialised and algorithms chosen outside the recording
        with torch.cuda.stream(stream), cublas.choosing():
            for _ in range(2):
                self._model.zero_grad(set_to_none=True)
                self._once(self._pack, exchanged=exchanged)
        torch.cuda.current_stream().wait_stream(stream)
        if not self._accumulates:
            self._model.zero_grad(set_to_none=True)
        pool = torch.cuda.graph_pool_handle()  # they run one after another, and share their memory
        for kind in {exchanged, exchanged and not self._accumulates}:
            graph = torch.cuda.CUDAGraph()
            # the threads that draw packs use the device meanwhile, for page-locked memory
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                sums = self._once(self._pack, exchanged=kind)
            self._recordings[kind] = graph, sums

    def _once(self, pack: DrawnPack, *, exchanged: bool) -> LossSums:
        sums = pack_loss(self._model, pack, self._config)
        with self._exchange.during() if exchanged and self._exchange is not None else nullcontext():
            (sums.total * self._share).backward()
        return sums.each(torch.detach)
