"""Guidance: a velocity made of two, within an interval of t. Solvers do not see it.

The two are the network with the label and with the null label (classifier-free guidance, arXiv 2207.12598), or a
network and a weaker one (autoguidance, arXiv 2406.02507); the interval is that of arXiv 2404.07724.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..config import require
from ..shapes import Tensor

Branch = Callable[[Tensor, float], Tensor]
Branches = Callable[[Tensor, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """How strongly, and when, samples are pushed towards their label.

    Attributes:
        scale: s in v = v_null + s·(v_cond − v_null); 1 is no guidance.
        low: least t of the interval in which guidance acts, included.
        high: greatest t of the interval, included.
    """

    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        require(self.scale >= 0, f"guidance scale {self.scale}", "0 or more; 1 is no guidance")
        require(
            0 <= self.low <= self.high <= 1,
            f"guidance interval [{self.low}, {self.high}]",
            "0 ≤ low ≤ high ≤ 1",
        )

    def acts_at(self, t: float) -> bool:
        """Whether both branches are needed at t (compared in float64)."""
        return self.scale != 1.0 and self.low <= t <= self.high


@dataclass(frozen=True, kw_only=True)
class GuidedVelocity:
    """A `Velocity` with guidance.

    The interval is tested at the start of a step, so that both evaluations of a Heun step are of one field.

    Attributes:
        conditional: (x, t) → velocity of the network with its labels.
        both: (x, t) → (conditional, weaker) velocities; called inside the interval only.
        guidance: the scale and the interval.
    """

    conditional: Branch
    both: Branches
    guidance: GuidanceConfig

    def __call__(self, x: Tensor, t: float, step_start: float) -> Tensor:
        """The guided velocity of state x at time t."""
        if not self.guidance.acts_at(step_start):
            return self.conditional(x, t)
        strong, weak = self.both(x, t)
        return weak + self.guidance.scale * (strong - weak)
