"""What a run carries from step to step."""

import copy
from dataclasses import dataclass, field

import torch

from .. import noise
from ..model.nit import NiT
from ..packing.loader import Position
from .config import TrainConfig
from .graphs import GraphedGradient, records
from .update import Update, update_for


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: optimizer steps done.
        images: images seen.
        tokens: tokens seen.
        position: the next pack.
    """

    step: int = 0
    images: int = 0
    tokens: int = 0
    position: Position = field(default_factory=lambda: Position(epoch=0, pack=0))


@dataclass(kw_only=True)
class TrainState:
    """Everything that a checkpoint holds, what updates it, and the recorded step where there is one."""

    model: NiT
    average: NiT
    optimizer: torch.optim.Optimizer
    update: Update
    progress: Progress
    graphed: GraphedGradient | None = None

    @classmethod
    def create(cls, config: TrainConfig, device: torch.device) -> "TrainState":
        """A fresh state; the initial weights follow from the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(noise.generator(config.seed, "weights").integers(2**63)))
            model = NiT(config.model, attention=config.attention)
        average = copy.deepcopy(model)
        model, average = model.to(device).train(), average.to(device).eval().requires_grad_(False)
        settings = config.optimizer
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        update = update_for(model, average, optimizer, config)
        graphed = GraphedGradient(update.network, config) if records(config, device) else None
        return cls(
            model=model, average=average, optimizer=optimizer, update=update, progress=Progress(), graphed=graphed
        )
