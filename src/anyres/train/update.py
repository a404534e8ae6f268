"""What follows the gradient: clip, AdamW, the average of the weights; applied only where all is finite.

`Update` is the definition; `FusedUpdate` does the same in two passes over the parameters on a CUDA device.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import BackendError
from ..model.elementwise import pick_kernels
from ..model.nit import NiT
from ..ranks import Ranks
from ..shapes import Float, Tensor
from . import ema
from .config import OptimizerConfig, TrainConfig
from .distributed import Team, local
from .precision import in_bfloat16


@dataclass(frozen=True, eq=False, kw_only=True)
class Applied:
    """Of an update, on the device.

    Attributes:
        gradient_norm: before clipping.
        finite: 1 where the update was applied, 0 where loss or gradient was not finite.
    """

    gradient_norm: Float[Tensor, ""]
    finite: Float[Tensor, ""]


class Update:
    """The plain update.

    Args:
        model: the trained network.
        average: the average of its weights.
        optimizer: AdamW over the model's parameters.
        config: the optimizer's.
        team: the processes that train together; by default this one alone.

    Attributes:
        network: what computes the loss, and gets the gradient: the model, or a copy of it.
    """

    def __init__(
        self,
        model: NiT,
        average: NiT,
        optimizer: torch.optim.Optimizer,
        config: OptimizerConfig,
        team: Team | None = None,
    ) -> None:
        self._team = team or Team(ranks=Ranks(), device=model.device)
        self.network = model
        self._model, self._average, self._optimizer, self._config = model, average, optimizer, config

    @torch.no_grad()  # or asking sharded weights for this process's parts would be recorded by autograd, each by itself
    def __call__(self, loss: Float[Tensor, ""], step: int, decay: float) -> Applied:
        """Update weights, moments and average from the network's gradient; never waits for the device.

        Args:
            loss: the step's, which must be finite.
            step: its number, counted from 1.
            decay: of the average.
        """
        warm = min(1.0, step / self._config.warmup_steps) if self._config.warmup_steps else 1.0
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate * warm
        applied = self._apply(loss, decay)
        self._refresh_float8()
        return applied

    def refresh(self) -> None:
        """Take over the model's weights, which something else has changed."""
        self._refresh_float8()

    def _refresh_float8(self) -> None:
        if isinstance(self.network, NiT) and self.network.float8 is not None:
            self.network.float8.refresh()

    def _apply(self, loss: Float[Tensor, ""], decay: float) -> Applied:
        # of sharded weights, each process has its part
        gradients = [local(weight.grad) for weight in self._model.parameters() if weight.grad is not None]
        norm = self._team.norm(nn.utils.get_total_norm(gradients))
        scale = (self._config.clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]
        finite = (norm.isfinite() & loss.isfinite()).to(torch.float32)
        # the fused optimizer skips its update where found_inf is 1: the interface that GradScaler uses
        self._optimizer.grad_scale = None  # pyright: ignore[reportAttributeAccessIssue]
        self._optimizer.found_inf = 1 - finite  # pyright: ignore[reportAttributeAccessIssue]
        self._optimizer.step()
        ema.update(self._average, self._model, decay, finite)
        return Applied(gradient_norm=norm, finite=finite)


class FusedUpdate(Update):
    """The same by Triton's kernels, on the optimizer's own state, so that checkpoints do not know the difference.

    Args:
        model: the trained network, in float32.
        average: the average of its weights, in float32.
        optimizer: AdamW over the model's parameters.
        config: the optimizer's.
        network: what computes the loss, by default the model. A copy in another dtype is written by the update beside
            the weights themselves: no pass needs to convert weights or gradients then.
        team: the processes that train together; by default this one alone.
    """

    def __init__(
        self,
        model: NiT,
        average: NiT,
        optimizer: torch.optim.Optimizer,
        config: OptimizerConfig,
        network: NiT | None = None,
        team: Team | None = None,
    ) -> None:
        super().__init__(model, average, optimizer, config, team)
        self.network = network or model
        self._rows: list[list[int]] = []
        self._table: Any = None  # kernels.adamw.Table; Triton is imported only where it is used

    @torch.no_grad()
    def refresh(self) -> None:
        """See `Update.refresh`."""
        if self.network is not self._model:
            self.network.load_state_dict(self._model.state_dict())
        super().refresh()

    def _apply(self, loss: Float[Tensor, ""], decay: float) -> Applied:
        from .kernels import adamw

        parameters = [adamw.Parameter(**tensors) for tensors in self._tensors()]
        rows = adamw.addresses(parameters)
        if rows != self._rows:  # a recorded step keeps its gradients where they are
            self._rows, self._table = rows, adamw.tabulate(parameters, loss.device, before=self._table)
        group = self._optimizer.param_groups[0]
        first_decay, second_decay = group["betas"]
        rates = adamw.Rates(group["lr"], first_decay, second_decay, group["eps"], group["weight_decay"], decay)
        squares = adamw.squares(self._table)
        if self._team.sharded:  # each process has seen its parts alone
            squares = self._team.sum(squares.sum()[None])
        verdict = adamw.judge(self._table, squares, loss, self._config.clip)
        adamw.update(self._table, verdict, rates)
        return Applied(gradient_norm=verdict.norm, finite=verdict.finite)

    def _tensors(self) -> Iterator[dict[str, Tensor]]:
        """Of each parameter that has a gradient, by the names of `kernels.adamw.Parameter`."""
        networks = (self._model, self._average, self.network)
        for weight, average, used in zip(*(network.parameters() for network in networks), strict=True):
            if used.grad is None:
                continue
            state = self._optimizer.state[weight]
            if not state:  # as AdamW begins
                state["step"] = torch.zeros((), device=weight.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
            tensors = {
                "weight": weight,
                "first": state["exp_avg"],
                "second": state["exp_avg_sq"],
                "average": average,
                "step": state["step"],
                "used": used,
                "gradient": used.grad,
            }
            yield {name: local(tensor) for name, tensor in tensors.items()}


def network_for(model: NiT, config: TrainConfig, team: Team) -> NiT:
    """What computes the loss: a copy in bfloat16 where the update keeps one, else the model itself."""
    fused = pick_kernels(model.kernels, model.device) == "triton"
    # gradients of several packs are added up in the network's dtype
    half = in_bfloat16(config, model.device) and config.packs_per_step == team.size
    return copy.deepcopy(model).to(torch.bfloat16) if fused and half else model


def update_for(
    model: NiT, network: NiT, average: NiT, optimizer: torch.optim.Optimizer, config: TrainConfig, team: Team
) -> Update:
    """The update that runs best where the model is.

    Raises:
        BackendError: the configuration asks for float8, which this device or several processes do not have.
        ConfigError: likewise, of an architecture whose widths do not fit.
    """
    eight = config.precision == "float8"
    if eight and team.size > 1:
        raise BackendError(
            f"precision = 'float8' in {team.size} processes", wanted="one process", fix="use --precision bfloat16"
        )
    if pick_kernels(model.kernels, model.device) == "triton":
        update: Update = FusedUpdate(model, average, optimizer, config.optimizer, network, team)
    else:
        update = Update(model, average, optimizer, config.optimizer, team)
    if eight:
        network.use_float8(training=True)
    return update
