"""Several processes that train one model: how its weights are kept, and what the processes tell each other.

The network knows nothing of this. Alone, a process is a team of one, for which nothing here does anything.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ..errors import BackendError, ConfigError
from ..model.config import NiTConfig
from ..model.nit import NiT
from ..ranks import Ranks, meeting_store
from ..shapes import Tensor
from .config import TrainConfig
from .precision import in_bfloat16

logger = logging.getLogger(__name__)

WAIT = timedelta(minutes=30)  # of one process for the others, such as while one of them makes pictures
STATE_BYTES = 20  # of a parameter: weight, average, two moments, gradient
TOGETHER = 10**8  # parameters gathered at once: four blocks of XL
DDP_SHARE = 0.25  # of a GPU's memory that they may take before "auto" shards them


@dataclass(frozen=True, kw_only=True, eq=False)
class Team:
    """The processes that train together.

    Attributes:
        ranks: which of them this is.
        device: where this one computes.
        sharded: whether each keeps a part of every weight (FSDP2), rather than all of them (DDP).
        control: the group, on the host, in which they agree.
        saving: another one, for the thread that writes checkpoints.
    """

    ranks: Ranks
    device: torch.device
    sharded: bool = False
    control: Any = None  # torch.distributed.ProcessGroup, which has no constructor on every platform
    saving: Any = None

    @property
    def size(self) -> int:
        """How many they are."""
        return self.ranks.world

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes what only one can write."""
        return self.ranks.rank == 0

    def spread(self, model: NiT, config: TrainConfig) -> None:
        """Where weights are sharded: keep this process's part of the model's, in place."""
        if not self.sharded:
            return
        # what a block gives may be a view, and nothing writes to it
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)
        mesh = init_device_mesh(self.device.type, (self.size,))
        # rotary tables and times are float32 and stay so: inputs are not cast
        exact = MixedPrecisionPolicy(cast_forward_inputs=False)
        half = exact
        if in_bfloat16(config, self.device) and model.patch_embedding.weight.dtype == torch.float32:
            half = replace(exact, param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        # what is gathered stays until the backward pass is over; none follows a pass of the average, and without
        # one the next pass would find weights from before the update
        trained = any(weight.requires_grad for weight in model.parameters())
        for parts in _together(model):
            fully_shard(parts, mesh=mesh, mp_policy=half, reshard_after_forward=not trained)
        fully_shard(model, mesh=mesh, mp_policy=exact, reshard_after_forward=not trained)  # what is left is small

    def network(self, model: NiT) -> nn.Module:
        """What passes go through that are launched kernel by kernel."""
        if self.size == 1 or self.sharded:
            return model
        # a projector that no loss asks for has no gradient
        unused = model.projector is not None
        return DistributedDataParallel(model, find_unused_parameters=unused)

    def pass_of(self, network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Around a pack's passes: copies of the weights exchange gradients with the last pack of a step only."""
        return nullcontext() if last or not isinstance(network, DistributedDataParallel) else network.no_sync()

    def sum(self, values: Tensor) -> Tensor:
        """Values on the device, summed over the processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def norm(self, own: Tensor) -> Tensor:
        """The norm of all parts, from that of this process's."""
        return self.sum(own.square()).sqrt() if self.sharded else own

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def whole(self, model: NiT) -> NiT | None:
        """The model with all of its weights, in the leading process; all processes have to ask for it."""
        if not self.sharded:
            return model if self.leads else None
        weights = {}
        for name, part in model.state_dict().items():
            value = part.full_tensor()  # all processes make it, one weight at a time
            if self.leads:
                weights[name] = value.clone()  # without the padding that uneven parts bring along
        if not self.leads:
            return None
        with torch.device("meta"):
            gathered = NiT(model.config, attention=model.attention, kernels=model.kernels)
        gathered.load_state_dict(weights, assign=True)
        return gathered.eval().requires_grad_(False)


def _together(model: NiT) -> list[list[nn.Module]]:
    """Consecutive blocks, and the head, that FSDP2 gathers and reduces in one go, of at most `TOGETHER` parameters."""
    groups: list[list[nn.Module]] = []
    room = 0
    for part in (*model.blocks, model.head):
        size = sum(weight.numel() for weight in part.parameters())
        if size > room:
            groups.append([])
            room = TOGETHER
        groups[-1].append(part)
        room -= size
    return groups


def local(tensor: Tensor) -> Tensor:
    """This process's part of a weight, gradient or average; it shares the memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@contextmanager
def team_of(config: TrainConfig, ranks: Ranks, device: torch.device) -> Iterator[Team]:
    """The processes that torchrun started, able to talk to each other.

    Raises:
        ConfigError: the packs of a step cannot be shared equally among so many processes.
        BackendError: this kind of device cannot train in several processes; or, inside, another process has gone.
    """
    if ranks.world == 1:
        yield Team(ranks=ranks, device=device)
        return
    _check(config, ranks, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with ranks.together():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store = meeting_store(WAIT)
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world, timeout=WAIT)
        control, saving = (dist.new_group(backend="gloo", timeout=WAIT) for _ in range(2))
        sharded = shards(config, device)
        if ranks.rank == 0:
            kind = "FSDP2" if sharded else "DDP"
            logger.info("%d processes, %s", ranks.world, kind)
        yield Team(ranks=ranks, device=device, sharded=sharded, control=control, saving=saving)
    dist.destroy_process_group()  # not after an error: a process that has gone would be waited for


def _check(config: TrainConfig, ranks: Ranks, device: torch.device) -> None:
    check_shares(config, ranks.world)
    if device.type not in ("cpu", "cuda"):
        raise BackendError(
            f"several processes cannot train on {device.type}", wanted="cuda or cpu", fix="start one process"
        )


def check_shares(config: TrainConfig, processes: int) -> None:
    """See that so many processes can share the packs of a step.

    Raises:
        ConfigError: not equally.
    """
    if config.packs_per_step % processes:
        packs = -(-config.packs_per_step // processes) * processes
        budget = config.packing.budget * config.packs_per_step // packs
        raise ConfigError(
            f"packs_per_step = {config.packs_per_step} cannot be shared equally among {processes} processes",
            wanted="a multiple of the number of processes",
            fix=f"set --packs-per-step {packs}, with --packing.budget {budget} for as many tokens a step, "
            "or start as many processes as divide it",
        )


def shards(config: TrainConfig, device: torch.device) -> bool:
    """Whether several processes each keep a part of every weight, rather than all of them."""
    if config.lora_rank:
        return False
    if config.parallel != "auto":
        return config.parallel == "fsdp"
    if device.type != "cuda":
        return False
    return STATE_BYTES * _parameters(config.model) > DDP_SHARE * torch.cuda.get_device_properties(device).total_memory


def _parameters(config: NiTConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in NiT(config).parameters())
