"""What a run carries from step to step."""

import copy
from dataclasses import dataclass, field

import torch
from torch import nn

from .. import noise
from ..model import lora
from ..model.nit import NiT
from ..packing.loader import Position
from ..ranks import Ranks
from .base import begin_from
from .config import TrainConfig
from .distributed import Team
from .graphs import GraphedGradient, records
from .update import Update, network_for, update_for


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
    """Everything that a checkpoint holds, what updates it, and the recorded step where there is one.

    Attributes:
        model: the weights.
        average: the average of the weights.
        optimizer: with its moments.
        update: what follows the gradient.
        network: what training's passes go through: the one that computes, or what exchanges its gradients.
        progress: how far the run has come.
        team: the processes that train together.
        graphed: the recorded step.
    """

    model: NiT
    average: NiT
    optimizer: torch.optim.Optimizer
    update: Update
    network: nn.Module
    progress: Progress
    team: Team
    graphed: GraphedGradient | None = None

    @classmethod
    def create(cls, config: TrainConfig, device: torch.device, team: Team | None = None) -> "TrainState":
        """A fresh state; the initial weights follow from the seed alone, or from the base.

        Args:
            config: the run's.
            device: where this process computes.
            team: the processes that train together; by default this one alone.

        Raises:
            CheckpointError: the base is not what it was, or does not fit.
        """
        team = team or Team(ranks=Ranks(), device=device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(noise.generator(config.seed, "weights").integers(2**63)))
            model = NiT(config.model, attention=config.attention)
            if config.base is not None:
                begin_from(config.base, model)
            if config.lora_rank:
                lora.attach(model, config.lora_rank)
        average = copy.deepcopy(model)
        model.recompute(config.recomputed_blocks)
        model, average = model.to(device).train(), average.to(device).eval().requires_grad_(False)
        network = network_for(model, config, team)
        for one in dict.fromkeys((model, network, average)):
            team.spread(one, config)
        settings = config.optimizer
        optimizer = torch.optim.AdamW(
            [weight for weight in model.parameters() if weight.requires_grad],
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        update = update_for(model, network, average, optimizer, config, team)
        recorded = records(config, device)  # the exchange of gradients too
        return cls(
            model=model,
            average=average,
            optimizer=optimizer,
            update=update,
            network=network if recorded else team.network(network),
            progress=Progress(),
            team=team,
            graphed=GraphedGradient(network, config, team) if recorded else None,
        )

    def release(self) -> None:
        """Let go of what holds the connection of several processes; the state cannot be trained any more."""
        if self.graphed is not None:
            self.graphed.release()
