"""A pack's loss and gradient recorded once as a CUDA graph and replayed: the same kernels, without their launch costs.

Every pack is padded to the run's `PackShape`, so that one recording fits all.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..errors import BackendError
from ..model.attention import STATIC_BACKENDS, pick_backend
from ..model.nit import NiT
from ..ranks import Ranks
from ..shapes import Float, Tensor
from .config import TrainConfig
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
            wanted="one process, a CUDA device, and attention by varlen or triton",
            fix="use --cuda-graph auto or off",
        )
    return missing is None


def _missing(config: TrainConfig, device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"a CUDA device, and this run is on {device.type}"
    processes = Ranks.from_environment().world
    if processes > 1:
        return f"one process, and this run has {processes}"
    dtype = torch.bfloat16 if in_bfloat16(config, device) else torch.float32
    backend = pick_backend(config.attention, device, dtype)
    return None if backend in STATIC_BACKENDS else f"attention by varlen or triton, and this run has {backend}"


class GraphedGradient:
    """The gradient of consecutive packs, left in the weights; each pack is one launch.

    Args:
        model: the network, on a CUDA device.
        config: the run's.
    """

    def __init__(self, model: NiT, config: TrainConfig) -> None:
        self._model, self._config = model, config
        self._graph: torch.cuda.CUDAGraph | None = None
        self._pack: DrawnPack | None = None
        self._share: Float[Tensor, ""] = torch.zeros((), device=model.device)
        self._sums: LossSums | None = None

    def __call__(self, packs: Sequence[DrawnPack], tokens: int) -> list[LossSums]:
        """The losses of each pack, summed over its real tokens.

        Args:
            packs: of one step; all of one shape.
            tokens: real tokens of the step.
        """
        if self._pack is None or (self._pack.teacher is None) != (packs[0].teacher is None):
            self._record(packs[0])  # once more where the alignment with a teacher ends
        self._share.fill_(1 / tokens)
        if self._accumulates:
            self._model.zero_grad(set_to_none=False)
        return [self._replay(pack) for pack in packs]

    @property
    def _accumulates(self) -> bool:
        """Whether a replay adds to the gradient; with one pack a step it overwrites it, a pass less."""
        return self._config.packs_per_step > 1

    def _replay(self, pack: DrawnPack) -> LossSums:
        assert self._graph is not None  # noqa: S101 - recorded before
        assert self._pack is not None  # noqa: S101
        assert self._sums is not None  # noqa: S101
        assert pack.layout.shape == self._pack.layout.shape, "the loader pads to one shape"  # noqa: S101
        self._pack.copy_(pack)
        self._graph.replay()
        return LossSums(
            total=self._sums.total.clone(),
            flow=self._sums.flow.clone(),
            direction=self._sums.direction.clone(),
            alignment=self._sums.alignment.clone(),
            groups=self._sums.groups.clone(),
        )

    def _record(self, pack: DrawnPack) -> None:
        self._graph = self._sums = None  # an earlier recording's memory is free for this one
        self._pack = pack.to(self._model.device).clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels are compiled and libraries initialised outside the recording
            for _ in range(2):
                self._model.zero_grad(set_to_none=True)
                self._once(self._pack)
        torch.cuda.current_stream().wait_stream(stream)
        if not self._accumulates:
            self._model.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        # the threads that draw packs use the device meanwhile, for page-locked memory
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._sums = self._once(self._pack)

    def _once(self, pack: DrawnPack) -> LossSums:
        sums = pack_loss(self._model, pack, self._config)
        (sums.total * self._share).backward()
        return replace(sums, total=sums.total.detach())
